"""Errors as plain sentences on standard error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback

import click

from bulkmail.errors import BulkmailError, ManifestError

# Server replies, file names and list rows end up in sentences. C0, DEL and C1 controls could drive the terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def plain(text: object) -> str:
    """`text` on one line and harmless to a terminal: line breaks become spaces, other controls \\xNN."""
    joined = " ".join(str(text).splitlines())
    shown = _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", joined)
    return shown.encode(errors="backslashreplace").decode()  # lone surrogates cannot be printed


def say(sentence: str) -> None:
    """Print one error to standard error; to nobody if that is gone (a terminal that was closed)."""
    with contextlib.suppress(OSError):
        click.echo(f"bulkmail: {sentence}", err=True)


def tell(error: BaseException) -> None:
    """Print `error`, a line for each of its problems; with BULKMAIL_DEBUG=1 the traceback first."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    for sentence in sentences(error):
        say(sentence)


def debugging() -> bool:
    return os.environ.get("BULKMAIL_DEBUG", "") not in ("", "0")


def sentences(error: BaseException) -> list[str]:
    """What to tell a user of `error`: one sentence, or one for each line of its text or each problem of a manifest."""
    if isinstance(error, BulkmailError):
        lines = [plain(line.strip()) for line in str(error).splitlines() if line.strip()] or [error.code]
        if not isinstance(error, ManifestError) or len(lines) > len(error.problems):
            return lines  # its own list, with a heading
        if len(lines) == 1 == len(error.problems):
            return [problem_sentence(error.path, lines[0])]
        return [plain(problem_sentence(path, text)) for path, text in error.problems]
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: " if error.filename is not None else ""
        return [plain(f"{what}{error.strerror}")]
    where = "" if debugging() else "; BULKMAIL_DEBUG=1 shows where"
    return [f"an error of bulkmail itself: {type(error).__name__}: {plain(error)}{where}"]


def problem_sentence(path: str, text: str) -> str:
    """`text` with its JSON path before it, unless it names the path already or the path says nothing ("$", "")."""
    return text if path in ("", "$") or path in text else f"{path}: {text}"
