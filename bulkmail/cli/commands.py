"""A click group that imports a command when it is called, and the one place where errors become exit statuses."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from . import trouble

USAGE = 2  # bad usage or input, and anything that failed before a result existed
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader of our output left (`bulkmail report ... | head`)


class Commands(click.Group):
    """The top command.

    table    command name -> one line for the list in --help; order is kept. The command `name` is the object `name` of
             the module bulkmail.cli.<name>, imported when it is called or explained; `name_` where Python has that name
    homes    command name -> module, where that is another

    A command returns its exit status (None: 0) and lets errors escape: `main` prints them as one plain sentence each
    and exits with 2. What exits otherwise (send, verify) catches its own.
    """

    def __init__(
        self, *args: Any, table: Mapping[str, str], homes: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table, self.homes = dict(table), dict(homes or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module = importlib.import_module(f"bulkmail.cli.{self.homes.get(name, name)}")
        command: click.Command = getattr(module, f"{name}_", None) or getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}{nearest(name, self.table)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            hush_stdout()
            raise click.exceptions.Exit(PIPE_CLOSED) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        open_closed_streams()
        sys.exit(self._run(args, prog_name or self.name, complete_var=complete_var, **extra))

    def _run(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
        """Run a command line to its end; the exit status. Prints every error; only SystemExit escapes."""
        try:
            status = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.Abort:
            trouble.say("interrupted")
            return INTERRUPTED
        except click.UsageError as error:
            trouble.say(usage_sentence(error))
            return USAGE
        except click.ClickException as error:
            trouble.say(error.format_message())
            return USAGE
        except Exception as error:
            trouble.tell(error)
            return USAGE
        return status if isinstance(status, int) else 0


def usage_sentence(error: click.UsageError) -> str:
    """One line for a usage error, with the command that explains the usage.

    `bulkmail` alone is a usage error too; its text is the whole help and is kept as it is.
    """
    text = error.format_message().strip()
    if error.ctx is None or "\n" in text:
        return text
    return f"{text.rstrip('.')} (see {error.ctx.command_path} --help)"


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """ "; did you mean 'send'?", or "" when nothing known is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def open_closed_streams() -> None:
    """Point what the caller has closed (`>&-`, some supervisors) at nothing, as `> /dev/null` does.

    Else the next file that is opened, the journal perhaps, has that number, and what is printed goes into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def hush_stdout() -> None:
    """Point standard output at nothing, so that the interpreter's last flush meets no closed pipe."""
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is not a file (a test's buffer)
        pass
    finally:
        os.close(sink)
