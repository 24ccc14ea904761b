"""DKIM signatures: what is to be signed of a message, and the fields that result (RFC 6376 sections 3.5 and 3.7)."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from bulkmail.errors import JOB, MessageError
from bulkmail.message.canon import BodyHash, HeaderPicker, header_size, relaxed_field
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_keys import ED25519, Key

Body: TypeAlias = bytes | Sequence[bytes]

LINE = 78  # RFC 5322 section 2.1.1, without CRLF
FINAL_DOT = b".\r\n"
# Field names and times repeat from message to message; a list of differing messages does not fill the memory with them.
MAX_HEADS = 256


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A signature that lacks its last part.

    head  the field up to "b="
    data  what is signed: the SHA-256 digest for a key that takes it, else all that is covered
    """

    head: bytes
    data: bytes

    def field(self, signature: bytes) -> bytes:
        """The whole field, CRLF included."""
        text = base64.b64encode(signature)
        room = LINE - 3  # behind " b="
        lines = [text[:room], *(text[at : at + LINE - 1] for at in range(room, len(text), LINE - 1))]
        return self.head + b"\r\n ".join(lines) + b"\r\n"


class Signer:
    """Signs messages by each of the specs. Can be used from several threads, one at a time.

    specs   as a MessageSpec or Message has them; keys are read now
    raises  MessageError  naming `what`[number] for a key that cannot be used
    """

    def __init__(self, specs: Iterable[Dkim], what: str = "dkim") -> None:
        specs = tuple(specs)
        self.keys: list[Key] = [spec.load(f"{what}[{n}]") for n, spec in enumerate(specs)]
        self._lines = [_Line(spec, key) for spec, key in zip(specs, self.keys, strict=True)]
        pickers: dict[object, HeaderPicker] = {}
        for line in self._lines:  # what several specs take of the header alike is taken once
            line.picker = pickers.setdefault(line.picks, line.picker)
        self._hashes: dict[tuple[bool, bool], BodyHash] = {}
        self._lock = threading.Lock()  # of what is kept of the last body

    def sign(self, bodies: Iterable[Body], now: float | None = None) -> list[bytes]:
        """For each message the signature fields that go before it; in this thread.

        bodies  in wire form: CRLF, dots doubled, the final dot at the end; bytes, or pieces whose first has the header
        now     seconds since 1970, which the signatures state; None: the clock's
        raises  MessageError  for a message that cannot be signed, or a `sign` that fails
        """
        return [self.signed(self.prepare(body, now)) for body in bodies]

    def prepare(self, body: Body, now: float | None = None, *, dotted: bool = True) -> list[Unsigned]:
        """All but the last step, one for each spec. dotted: False for a message that is not in wire form."""
        header, size, pieces = _parts(body, dotted)
        hashes: dict[bool, bytes] = {}
        fields: dict[HeaderPicker, tuple[bytes, bytes]] = {}
        out = []
        with self._lock:
            for line in self._lines:
                relaxed, picker = line.relaxed_body, line.picker
                if relaxed not in hashes:
                    hashes[relaxed] = base64.b64encode(self._hash(relaxed, dotted).digest(pieces))
                if picker not in fields:
                    fields[picker] = _picked(picker, header, size, dotted)
                out.append(line.unsigned(hashes[relaxed], fields[picker], now))
        return out

    def signed(self, unsigned: Sequence[Unsigned]) -> bytes:
        """The last step: the fields, by `Key.sign`."""
        return b"".join(one.field(signed(key, one.data)) for key, one in zip(self.keys, unsigned, strict=True))

    def _hash(self, relaxed: bool, dotted: bool) -> BodyHash:
        found = self._hashes.get((relaxed, dotted))
        if found is None:
            found = self._hashes[relaxed, dotted] = BodyHash(relaxed=relaxed, dotted=dotted)
        return found


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


class _Line:
    """One spec, ready for use."""

    def __init__(self, spec: Dkim, key: Key) -> None:
        self._spec, self._key = spec, key
        self._relaxed, self.relaxed_body = (part == "relaxed" for part in spec.canonicalization.split("/"))
        wanted = spec.wanted()
        self._names = [name for name, _ in wanted]
        self.picks = (self._relaxed, tuple(wanted))
        self.picker = HeaderPicker([(name.lower().encode(), more) for name, more in wanted], relaxed=self._relaxed)
        self._heads: dict[tuple[int, bytes], tuple[bytes, bytes]] = {}

    def unsigned(self, body_hash: bytes, picked: tuple[bytes, bytes], now: float | None) -> Unsigned:
        counts, fields = picked
        head, canonical = self._head(int(time.time() if now is None else now), counts)
        head += body_hash + b";\r\n b="
        data = fields + (canonical + body_hash + b"; b=" if self._relaxed else head)
        if self._key.takes_digest:
            data = hashlib.sha256(data).digest()
        return Unsigned(head, data)

    def _head(self, now: int, counts: bytes) -> tuple[bytes, bytes]:
        """The field up to "bh=", and the same canonicalized."""
        found = self._heads.get((now, counts))
        if found is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            head = self._folded(now, counts)
            found = self._heads[now, counts] = head, relaxed_field(head)
        return found

    def _folded(self, now: int, counts: bytes) -> bytes:
        spec = self._spec
        tags = ["v=1", f"a={self._key.algorithm}", f"c={spec.canonicalization}", f"d={spec.domain}"]
        tags += [f"s={spec.selector}", *([f"i={_quoted(spec.identity)}"] if spec.identity else []), f"t={now}"]
        if spec.expires is not None:
            tags.append(f"x={now + int(spec.expires)}")
        times = [counts[2 * n] | counts[2 * n + 1] << 8 for n in range(len(self._names))]
        listed = [name for name, count in zip(self._names, times, strict=True) for _ in range(count)]
        # What may stand on one line or two: tags apart by a space, names by nothing.
        words = [f" {tag};" for tag in tags]
        words += [
            f"{' h=' if not n else ''}{name}{':' if n + 1 < len(listed) else ';'}" for n, name in enumerate(listed)
        ]
        lines = ["DKIM-Signature:"]
        for word in words:
            if len(lines[-1]) + len(word) <= LINE:
                lines[-1] += word
            else:
                lines.append(" " + word.lstrip())
        return "\r\n".join([*lines, " bh="]).encode()


def _quoted(identity: str) -> str:
    """dkim-quoted-printable (RFC 6376 section 2.11)."""
    return "".join(c if c not in ";=" else f"={ord(c):02X}" for c in identity)


def _parts(body: Body, dotted: bool) -> tuple[bytes, int, list[bytes | memoryview]]:
    """The bytes that begin with the header section, its size, and the pieces of the body."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    if not pieces or (
        len(pieces) > 1 and (b"\r\n\r\n" not in pieces[0] or (dotted and not pieces[-1].endswith(FINAL_DOT)))
    ):
        pieces = [b"".join(pieces)]
    header = pieces[0]
    size = header_size(header)
    views: list[bytes | memoryview] = [memoryview(header)[size + 2 :], *pieces[1:]]
    if dotted:
        if not pieces[-1].endswith(FINAL_DOT):
            raise MessageError("dkim: the message does not end with the final dot, so it is not in wire form")
        views[-1] = memoryview(views[-1])[: -len(FINAL_DOT)]
        if size == len(header):  # no body, not even an empty line
            size, views = size - len(FINAL_DOT), []
    return header, size, views


def _picked(picker: HeaderPicker, header: bytes, size: int, dotted: bool) -> tuple[bytes, bytes]:
    try:
        return picker.pick(header, size, dotted)
    except ValueError as error:
        raise MessageError(f"dkim: {error}") from None
