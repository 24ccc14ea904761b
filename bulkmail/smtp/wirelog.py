"""The SMTP dialogue as text, with secrets and message bodies left out."""

from __future__ import annotations

import atexit
import base64
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from bulkmail.errors import ConfigError
from bulkmail.url import Endpoint

LOGGER = logging.getLogger("bulkmail.smtp")
MAX_SHOWN = 500  # of one line; longer ones (policy texts, lists of recipients) are cut
# A server's line must not command the terminal that shows the log, nor look like two lines.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MIN_SECRET = 4  # a shorter piece of a response would blot out half of every reply, and hides nothing
_files: dict[str, TextIO] = {}
_numbers = itertools.count(1)


def make_trace(target: Any) -> tuple[str, Callable[[str, bytes], None] | None]:
    """(connection id, function for wire.Client.trace). target: None or False, True for the logger, or a file's path.

    raises  ConfigError  a file that cannot be written
    """
    cid = f"c{next(_numbers)}"
    if not target:
        return cid, None
    if target is True:
        return cid, _Trace(lambda text: LOGGER.debug("%s", text, extra={"cid": cid}), cid)
    path = str(target)
    try:
        if path not in _files:
            _files[path] = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  kept open for all connections
            atexit.register(_files[path].close)
    except OSError as error:
        raise ConfigError(f"option 'wire_log': {path} cannot be written: {error.strerror}") from error
    file = _files[path]
    return cid, _Trace(lambda text: file.write(f"{time.time():.3f} {cid} {text}\n"), cid)


def spoken(line: str) -> set[str]:
    """What a server could repeat of a line with a response: its base64, and the pieces of what that stands for."""
    words = line.split(" ")
    if words[0].upper() == "AUTH" and len(words) < 3:
        return set()
    response = words[-1]
    try:
        pieces = re.split("[\\x00-\\x20]", base64.b64decode(response, validate=True).decode())
    except ValueError:
        pieces = []
    return {piece for piece in [response, *pieces] if len(piece) >= MIN_SECRET}


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with all secrets in it masked."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, "***")
    return text


def log(level: int, endpoint: Endpoint, cid: str, phase: str, text: str, *values: Any, reply: Any = None) -> None:
    """A record of the logger `bulkmail.smtp` with `cid`, `phase` and `reply`, unless option `log` is off."""
    if LOGGER.isEnabledFor(level) and endpoint.options.log is not False:
        LOGGER.log(level, text, *values, extra={"cid": cid, "phase": phase, "reply": reply})


class _Trace:
    """Writes each line of the dialogue. After AUTH, what the client says is a secret until a reply other than 334.

    Servers have been seen to repeat it in that reply, so it is masked there too.
    """

    def __init__(self, write: Callable[[str], Any], cid: str) -> None:
        self._write = write
        self._secret = False
        self._said: set[str] = set()
        self._cid = cid

    def __call__(self, who: str, data: bytes) -> None:
        try:
            for line in data.decode("utf-8", "replace").removesuffix("\n").split("\n"):
                self._write(f"{who}: {CONTROL.sub('?', self._shown(who, line.removesuffix(chr(13))))}")
        except OSError as error:
            # a full disk costs the log, not the mail
            LOGGER.warning("the wire log of %s cannot be written: %s", self._cid, error)
            self._write = lambda text: None

    def _shown(self, who: str, line: str) -> str:
        if who == "S":
            line = redacted(line, self._said)
            if not line.startswith("334") and line[3:4] != "-":
                self._secret = False
                self._said.clear()
        elif line[:5].upper() == "AUTH ":
            self._secret = True
            self._said |= spoken(line)
            return " ".join([*line.split()[:2], "***"])
        elif self._secret:
            self._said |= spoken(line)
            return "***"
        return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}… ({len(line)} characters)"
