"""DKIM signatures of messages: keys, what is kept between messages, and the last step (RFC 6376)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from bulkmail.errors import JOB, MessageError
from bulkmail.message.canon import BodyHash, HeaderPicker
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_field import Line, Unsigned, unsigned
from bulkmail.message.dkim_keys import ED25519, Key

Body: TypeAlias = bytes | Sequence[bytes]


class Signer:
    """Signs messages by each of the specs. Can be used from several threads, one at a time.

    specs   as a MessageSpec or Message has them; keys are read now
    raises  MessageError  naming `what`[number] for a key that cannot be used
    """

    def __init__(self, specs: Iterable[Dkim], what: str = "dkim") -> None:
        specs = tuple(specs)
        self.keys: list[Key] = [spec.load(f"{what}[{n}]") for n, spec in enumerate(specs)]
        pickers: dict[object, HeaderPicker] = {}
        self._lines = [_line(spec, key, pickers) for spec, key in zip(specs, self.keys, strict=True)]
        self._desks = (_Desk(), _Desk())

    def sign(self, bodies: Iterable[Body], now: float | None = None) -> list[bytes]:
        """For each message the signature fields that go before it; in this thread.

        bodies  in wire form: CRLF, dots doubled, the final dot at the end; bytes, or pieces whose first has the header
        now     seconds since 1970, which the signatures state; None: the clock's
        raises  MessageError  for a message that cannot be signed, or a `sign` that fails
        """
        return [self.signed(self.prepare(body, now)) for body in bodies]

    def prepare(
        self, body: Body, now: float | None = None, *, dotted: bool = True, large: bool = False
    ) -> list[Unsigned]:
        """All but the last step, one for each spec.

        dotted  False for a message that is not in wire form
        large   waits for other large ones only, and they for it
        """
        desk = self._desks[large]
        with desk.lock:
            return unsigned(self._lines, desk.hasher, body, now, dotted)

    def signed(self, unsigned: Sequence[Unsigned]) -> bytes:
        """The last step: the fields, by `Key.sign`."""
        return b"".join(one.field(signed(key, one.data)) for key, one in zip(self.keys, unsigned, strict=True))


def signed(key: Key, data: bytes) -> bytes:
    """raises  MessageError  of the whole job, and worth another attempt, for a callable that fails"""
    if key.der is not None:
        return key.sign(data)
    try:
        signature = key.sign(data)
    except Exception as error:
        text = f"dkim: the function that signs failed: {type(error).__name__}: {error}"
        raise MessageError(text, permanent=False, scope=JOB) from error
    expected = 64 if key.algorithm == ED25519 else (key.bits + 7) // 8
    if not isinstance(signature, bytes) or len(signature) != expected:
        found = f"{len(signature)} bytes" if isinstance(signature, bytes) else type(signature).__name__
        text = (
            f"dkim: the function that signs gave {found}, expected {expected} bytes, which signatures of its key have"
        )
        raise MessageError(text, scope=JOB)
    return signature


def sign_message(content: bytes, signer: Signer, now: float | None = None) -> bytes:
    """A message (CRLF, not in wire form) with its signatures before it. raises  MessageError"""
    return signer.signed(signer.prepare(content, now, dotted=False)) + content


def signer_of(specs: tuple[Dkim, ...]) -> Signer:
    """The one Signer of these specs, for single messages: keys are read once, and again when their file has changed."""
    return _signer_of(specs, tuple(spec.stamp() for spec in specs))


@lru_cache(maxsize=16)
def _signer_of(specs: tuple[Dkim, ...], stamps: tuple[tuple[int, ...], ...]) -> Signer:
    return Signer(specs)


class _Desk:
    """What is kept of the last body, for one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._hashers: dict[tuple[bool, bool], BodyHash] = {}

    def hasher(self, relaxed: bool, dotted: bool) -> BodyHash:
        found = self._hashers.get((relaxed, dotted))
        if found is None:
            found = self._hashers[relaxed, dotted] = BodyHash(relaxed=relaxed, dotted=dotted)
        return found


def _line(spec: Dkim, key: Key, pickers: dict[object, HeaderPicker]) -> Line:
    """pickers: those so far, by what they take; what several specs take of the header alike is taken once."""
    relaxed, relaxed_body = (part == "relaxed" for part in spec.canonicalization.split("/"))
    wanted = spec.wanted()
    tags = ["v=1", f"a={key.algorithm}", f"c={spec.canonicalization}", f"d={spec.domain}", f"s={spec.selector}"]
    tags += [f"i={_quoted(spec.identity)}"] if spec.identity else []
    picks = (relaxed, tuple(wanted))
    if picks not in pickers:
        pickers[picks] = HeaderPicker([(name.lower().encode(), more) for name, more in wanted], relaxed=relaxed)
    return Line(
        tags,
        spec.expires,
        [name for name, _ in wanted],
        pickers[picks],
        relaxed=relaxed,
        relaxed_body=relaxed_body,
        takes_digest=key.takes_digest,
    )


def _quoted(identity: str) -> str:
    """dkim-quoted-printable (RFC 6376 section 2.11)."""
    return "".join(c if c not in ";=" else f"={ord(c):02X}" for c in identity)
