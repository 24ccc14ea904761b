"""The command line: `main` is the click group behind `bulkmail` and `python -m bulkmail`.

Importing this costs click and nothing else: a command's module, and what that imports, is loaded when it is called.
"""

from __future__ import annotations

import click

from .commands import Commands

# name -> what `bulkmail --help` says of it. The command is the object of that name in bulkmail/cli/<name>.py, or in the
# module that HOMES names.
TABLE = {
    "send": "Run a job: deliver a manifest's message to its recipients.",
    "check": "Validate a manifest and everything it names, without connecting.",
    "preview": "Write rendered messages to files.",
    "status": "Counts by state of a journal, live while a job runs.",
    "pause": "Hold a running job.",
    "resume": "Let a paused job go on.",
    "stop": "Stop a running job in good order.",
    "set": "Change a running job's limits.",
    "report": "Every recipient's outcome.",
    "bounces": "Read bounces and complaints, and match them to jobs.",
    "verify": "Connect to a relay and print what it offers.",
    "sink": "Run an SMTP server that receives, for tests.",
    "bench": "Measure how fast a server takes mail.",
    "schema": "Print the manifest's JSON Schema.",
    "init": "Write a starter manifest, templates and recipients.",
}


HOMES = dict.fromkeys(("pause", "resume", "stop", "set"), "control")


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import bulkmail

    click.echo(f"bulkmail {bulkmail.__version__}")
    ctx.exit()


@click.group(
    "bulkmail",
    cls=Commands,
    table=TABLE,
    homes=HOMES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nA first run:\n  bulkmail init news\n  bulkmail sink --listen 127.0.0.1:2525 --discard &\n"
    "  bulkmail send news/newsletter.json\n\nBULKMAIL_DEBUG=1 shows where an error came from.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version."
)
def main() -> None:
    """Deliver one JSON manifest to everyone on its list, with an exact record of what happened to each recipient."""
