"""`bulkmail pause`, `resume`, `stop` and `set`: orders to the run that holds a journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from . import output

LOOK_SECONDS = 0.2  # how often --wait looks whether the run has ended


def journal_command(name: str, short: str, epilog: str) -> Callable[[Callable[..., Any]], click.Command]:
    """What the four have in common."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        function = click.option("--json", "as_json", is_flag=True, help="Print the run's answer as one JSON object.")(
            function
        )
        function = click.argument("journal", type=click.Path())(function)
        return click.command(name, short_help=short, epilog=f"\b\n{epilog}")(function)

    return wrap


@journal_command("pause", "Hold a running job.", "Example: bulkmail pause news.journal")
def pause(journal: str, as_json: bool) -> None:
    """Hold the job that runs with JOURNAL: nothing new is begun until `bulkmail resume`, what is in flight is finished.

    A paused job that ends in another way (a signal, kill) starts unpaused when it is sent again.
    """
    order(journal, {"do": "pause"}, as_json)


@journal_command("resume", "Let a paused job go on.", "Example: bulkmail resume news.journal")
def resume(journal: str, as_json: bool) -> None:
    """Let the paused job that runs with JOURNAL go on. (For a job that has stopped: bulkmail send --resume.)"""
    order(journal, {"do": "resume"}, as_json)


@journal_command("stop", "Stop a running job.", "Example: bulkmail stop news.journal --wait")
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
def stop(journal: str, as_json: bool, wait: bool) -> None:
    """Stop the job that runs with JOURNAL, as SIGTERM does: what is in flight is finished, `send --resume` goes on."""
    order(journal, {"do": "stop"}, as_json and not wait)
    if wait:
        from bulkmail.job.journal_file import is_held

        while is_held(journal):
            time.sleep(LOOK_SECONDS)
        tell_end(journal, as_json)


@journal_command(
    "set", "Change a running job's limits.", "Example: bulkmail set news.journal rate=100/s relay.main.connections=20"
)
@click.argument("limits", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_(journal: str, limits: tuple[str, ...], as_json: bool) -> None:
    """Change limits of the job that runs with JOURNAL; the manifest stays as it is.

    NAME is rate or connections for the whole job, or those of a part: relay.NAME.rate, egress.NAME.connections,
    domain.gmail.com.rate. VALUE is as in the manifest, or none.
    """
    order(journal, {"do": "set", "limits": parse(limits)}, as_json)


def parse(pairs: tuple[str, ...]) -> dict[str, str]:
    """("rate=100/s",) -> {"rate": "100/s"}; the last of a name wins."""
    found = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise click.UsageError(f"{pair!r}: expected NAME=VALUE, such as rate=100/s")
        found[name.strip()] = value.strip()
    return found


def order(journal: str, request: dict[str, Any], as_json: bool) -> None:
    """Send it, print the answer. Errors escape: no run, or an order that it refuses."""
    from bulkmail.job.control_socket import ask

    answer = ask(journal, request)
    if as_json:
        output.emit_json(answer)
    else:
        click.echo("\n".join(answer_lines(answer["before"], answer["after"])))


def answer_lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """ "running -> paused", and "rate: 300/s -> 100/s" for each limit that is another now."""
    lines = [arrow(before["state"], after["state"])]
    old, new = before.get("limits", {}), after.get("limits", {})
    return lines + [f"  {name}: {arrow(old.get(name), new[name])}" for name in new if new[name] != old.get(name)]


def arrow(before: Any, after: Any) -> str:
    words = ["none" if one is None else str(one) for one in (before, after)]
    return words[1] if words[0] == words[1] else " -> ".join(words)


def tell_end(journal: str, as_json: bool) -> None:
    from bulkmail.job.report import status

    summary = status(journal)
    if as_json:
        output.emit_json(summary)
    else:
        click.echo(output.summary_text(summary))
