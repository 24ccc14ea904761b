"""`bulkmail send`: run a job."""

from __future__ import annotations

import contextlib
import gc
import shlex
from typing import TYPE_CHECKING, Any

import click

from . import output, progress, trouble
from .commands import hush_stdout
from .logs import log_level, log_to_stderr
from .signals import STOPPED, StopOnSignal

if TYPE_CHECKING:
    from bulkmail.job.job import Job
    from bulkmail.job.results import Report

EXCLUSIVE = ("resume", "fresh", "auto")
GC_THRESHOLD = 20_000  # objects more than before: two commits' worth of messages and their rows


@click.command(
    short_help="Run a job.",
    epilog="""\b
Example: bulkmail send news.json --set issue=47 --rate 200/s
\b
Exit status:
  0  everybody is delivered or suppressed
  1  finished; some failed or are in doubt
  2  bad usage, manifest or input; nothing was sent
  3  stopped before the end; --resume goes on

The first SIGINT or SIGTERM lets what is in flight finish, the second leaves at once. SIGHUP reads the limits of the
manifest again (and stops as SIGTERM does where the terminal was closed). See also: pause, set, stop.""",
)
@click.argument("manifest", type=click.Path())
@click.option("--resume", is_flag=True, help="Continue the job of an existing journal.")
@click.option("--fresh", is_flag=True, help="Keep an existing journal under a dated name and start anew.")
@click.option("--auto", is_flag=True, help="Resume if there is a journal, else start (for supervisors).")
@click.option("--in-doubt", type=click.Choice(["skip", "resend"]), default="skip", show_default=True,
              help="What resuming does with recipients that were being sent when the last run died.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Do everything but the network.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N recipients.")
@click.option("--test-to", metavar="ADDRESS",
              help="Render the first recipients (--limit, 1 by default), deliver to ADDRESS; no journal.")  # fmt: skip
@click.option("--events", metavar="FILE", help="Append an event a line, as JSON, to FILE (-: standard output).")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="A template variable; may be repeated.")
@click.option("--rate", metavar="RATE", help="Instead of the manifest's limit: 300/s, 5000/m, 100000/h.")
@click.option("--connections", type=click.IntRange(min=1), metavar="N", help="Instead of the manifest's limit.")
@click.option("--durability", type=click.Choice(["process", "power"]),
              help="Instead of the manifest's: what the journal survives, a crash or a loss of power too.")  # fmt: skip
@click.option(
    "--workers", metavar="N", help="Instead of the manifest's: processes that send; auto: as many as there is use for."
)
@log_level
@click.option("--wire-log", metavar="FILE", help="Write the SMTP dialogue to FILE, secrets and message bodies masked.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
def send(manifest: str, **options: Any) -> int:
    """Run the job of MANIFEST: deliver its message to each of its recipients and record what happened to each."""
    gc.disable()  # until there is a job: what is loaded stays, and passes over it cost a twentieth of the start
    check_options(options)
    variables = parse_variables(options["variables"])
    log_to_stderr(options["log_level"])
    with StopOnSignal() as stopper:
        try:
            job = load(manifest, variables, options)
            report = run(job, options, stopper)
        except KeyboardInterrupt:
            trouble.say("stopped before anything was sent")
            return STOPPED
    if report is None:  # there may be a journal or not
        trouble.say(f"stopped before the end; to go on: bulkmail send {shlex.quote(manifest)} --auto")
        return STOPPED
    tell_end(report, manifest, options)
    return report.exit_code


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that contradict each other (click.UsageError)."""
    chosen = [f"--{name}" for name in EXCLUSIVE if options[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if chosen and options["test_to"]:
        raise click.UsageError(f"--test-to leaves the journal untouched, so {chosen[0]} has nothing to do there")


def parse_variables(pairs: tuple[str, ...]) -> dict[str, str]:
    """("a=1", "b=x=y") -> {"a": "1", "b": "x=y"}; the last of a name wins."""
    variables = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name.isidentifier():
            raise click.UsageError(f"--set {pair!r}: expected NAME=VALUE, the name a template variable such as issue")
        variables[name] = value
    return variables


def load(manifest: str, variables: dict[str, str], options: dict[str, Any]) -> Job:
    from bulkmail.job.job import Job
    from bulkmail.job.outputs import check_outputs

    overrides = {
        name: options[name]
        for name in ("rate", "connections", "wire_log", "durability", "workers")
        if options[name] is not None
    }
    job = Job.load(manifest, variables=variables, **overrides)
    if options["events"] is not None:
        check_outputs(job.manifest, events=options["events"])
    return job


def keep_garbage_cheap() -> None:
    """Spare the collector what stays for the whole run, and let a batch of messages come and go between two passes.

    Messages and rows hold no cycles, so reference counts free them; the collector is for what asyncio leaves behind.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def run(job: Job, options: dict[str, Any], stopper: StopOnSignal) -> Report | None:
    """Run `job` under signals, with its events and progress. None: it broke after it had started; that was said.

    What `Job.run` raises it raises before anything is sent; a job that stops later has a report. A disk that fills is
    no bad input, whenever it happens.
    """
    named = {name: options[name] for name in (*EXCLUSIVE, "in_doubt", "limit", "dry_run", "test_to")}
    with event_writer(options["events"]) as events:
        if events is not None:
            stopper.on_leave.append(events.leave)
            named["on_event"] = events.put
        stopper.on_leave.append(progress.show_cursor)
        stopper.job = job
        keep_garbage_cheap()
        try:
            with progress.shown(job, not options["no_progress"]):
                return job.run(**named)
        except Exception as error:
            if not job.progress().get("attempts") and not disk_failed(error):
                raise
            trouble.tell(error)
            return None


def disk_failed(error: Exception) -> bool:
    """Whether the job can go on once there is room again, although nothing was sent yet."""
    from bulkmail.job.ledger import JournalFault

    return isinstance(error, JournalFault)


@contextlib.contextmanager
def event_writer(target: str | None) -> Any:
    """The EventWriter for --events, or None; says at the end if events could not be written."""
    if target is None:
        yield None
        return
    from bulkmail.job.event_file import EventWriter

    writer = EventWriter(target)
    try:
        yield writer
    finally:
        writer.close()
        if writer.error is not None:
            trouble.say(f"{target}: events are missing: {writer.error.strerror}; the journal has every outcome")


def tell_end(report: Report, manifest: str, options: dict[str, Any]) -> None:
    """The summary on standard output, why the job stopped on standard error."""
    try:
        if options["as_json"]:
            output.emit_json(report.summary)
        elif options["events"] != "-":
            click.echo(output.summary_text(report.summary))
            if options["dry_run"]:
                click.echo("dry run: nothing was sent")
    except OSError:  # the exit status tells of the job, not of who reads the summary: a pipe or a terminal that is gone
        hush_stdout()
    if report.error is not None:
        trouble.tell(report.error)
    if report.exit_code == STOPPED and not options["test_to"]:
        trouble.say(f"stopped before the end; to go on: bulkmail send {shlex.quote(manifest)} --resume")
