"""--log-level: the log of bulkmail, on standard error."""

from __future__ import annotations

from typing import Any

import click

LEVELS = click.Choice(["debug", "info", "warning", "error"], case_sensitive=False)
HELP = "Log to standard error from this level on."
PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# With the id of the connection that a record is about.
CONNECTIONS = "%(asctime)s %(levelname)s %(name)s %(cid)s: %(message)s"


def log_level(command: Any) -> Any:
    return click.option("--log-level", type=LEVELS, help=HELP)(command)


def log_to_stderr(level: str | None, line: str = PLAIN) -> None:
    """Without --log-level only warnings show, as errors do."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(self.format(record), err=True)  # finds sys.stderr anew, which the progress bar redirects

    if level is None:
        logging.lastResort = Lines("WARNING")
        logging.lastResort.setFormatter(logging.Formatter("bulkmail: %(message)s"))
        return
    handler = Lines()
    handler.setFormatter(logging.Formatter(line, defaults={"cid": "-"}))
    logger = logging.getLogger("bulkmail")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
