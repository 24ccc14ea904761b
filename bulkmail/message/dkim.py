"""What a DKIM signature is made with (RFC 6376, RFC 8463): domain, selector, key, and which header fields it covers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkmail.address import MAX_DOMAIN, MAX_LABEL, ascii_domain
from bulkmail.errors import ConfigError, MessageError
from bulkmail.message.dkim_keys import (
    ADVISED_BITS,
    ED25519,
    RSA,
    Key,
    bits_problem,
    load_key,
    open_to_others,
    read_key_file,
)
from bulkmail.records import Record

# What is signed where it is present: RFC 6376 section 5.4.1, RFC 8058 section 4 (List-Unsubscribe and its Post), what
# decides how the content is shown, and Feedback-ID, which Gmail reads only if it is signed.
SIGNED = (
    "From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
    "MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID",
    "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Help", "List-Subscribe", "List-Post", "List-Owner",
    "List-Archive", "Feedback-ID", "Auto-Submitted",
    "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Date", "Resent-Message-ID",
)  # fmt: skip
# Who replays a signed message adds a second one of these, or the one that it lacked: listed once more than there are,
# it cannot be added (RFC 6376 section 8.15). rspamd's choice of names.
OVERSIGNED = ("From", "Reply-To", "To", "Cc", "Subject")
# Likewise, but only where the message has them: relays add those that are missing, and that must not break it.
OVERSIGNED_IF_PRESENT = (
    "Sender", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID",
)  # fmt: skip
# RFC 6376 section 5.4: what relays add, change or take out, so that a signature over it would not survive.
UNSIGNABLE = frozenset({"return-path", "received", "dkim-signature", "bcc", "resent-bcc", "authentication-results"})
CANONICALIZATIONS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")
MAX_NAMES = 100  # header names of one signature; the default has 31, and each costs its length in every message

_field_name = re.compile(r"[!-9<-~]{1,60}").fullmatch  # RFC 6376 section 3.5: hdr-name has no ";" and no ":"
_label = re.compile(rf"(?!-)[A-Za-z0-9-]{{1,{MAX_LABEL}}}(?<!-)").fullmatch
# A selector's labels are those of RFC 5321 by the letter; "_" is used, and DNS has no objection.
_selector_label = re.compile(rf"(?!-)[A-Za-z0-9_-]{{1,{MAX_LABEL}}}(?<!-)").fullmatch
_local = re.compile(r"[!-~]*").fullmatch


# Each of these gives what goes into the signature; ValueError: a sentence without the key's name.


def checked_domain(text: str) -> str:
    """d=: a domain name, as A-labels in lower case."""
    domain = ascii_domain(text.strip()).lower()
    if not all(map(_label, domain.split("."))) or len(domain) > MAX_DOMAIN or "." not in domain:
        raise ValueError(f"{text[:80]!r} is not a domain name, expected one such as example.com")
    return domain


def checked_selector(text: str) -> str:
    """s=: one label or several, as A-labels."""
    selector = ".".join(map(ascii_domain, text.strip().split(".")))
    if not all(map(_selector_label, selector.split("."))) or len(selector) > MAX_LABEL * 3:
        raise ValueError(f"{text[:80]!r} is not a selector: letters, digits, '-' and '_', such as s1 or 2026.news")
    return selector


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of header fields, each once."""
    found: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _field_name(name):
            raise ValueError(f"{name!r:.80} is not the name of a header field")
        if name.lower() in UNSIGNABLE:
            raise ValueError(f"{name!r} cannot be signed: it changes on the way (RFC 6376 section 5.4)")
        found.setdefault(name.lower(), name)
    if len(found) > MAX_NAMES:
        raise ValueError(f"{len(found)} names of header fields, expected at most {MAX_NAMES}")
    return tuple(found.values())


def checked_canonicalization(text: str) -> str:
    if text not in CANONICALIZATIONS:
        raise ValueError(f"{text[:40]!r}, expected one of {', '.join(CANONICALIZATIONS)} (header/body)")
    return text


def checked_identity(text: str, domain: str) -> str:
    """i=: an address of the domain or of a subdomain; its local part may be empty."""
    local, at, host = text.strip().rpartition("@")
    host = ascii_domain(host).lower()
    if not at or not _local(local) or not all(map(_label, host.split("."))):
        raise ValueError(f"{text[:80]!r} is not an identity, expected something like @news.{domain} or ann@{domain}")
    if host != domain and not host.endswith("." + domain):
        raise ValueError(f"{text[:80]!r} is not of {domain} or one of its subdomains (RFC 6376 section 3.5)")
    return f"{local}@{host}"


def checked_expires(seconds: float) -> float:
    if not isinstance(seconds, (int, float)) or not 1 <= seconds < 1e9:
        raise ValueError(f"{seconds!r:.40}, expected seconds from the signing on, at least 1")
    return seconds


@dataclass(frozen=True, eq=False, repr=False)
class Dkim(Record):
    """One DKIM signature for every message: exactly one of `key`, `key_file` and `sign`.

    domain, selector  the public key stands in DNS at SELECTOR._domainkey.DOMAIN
    key               the private key: PEM, or the base64 of its DER without the PEM's lines (docs/dkim.md)
    key_file          the file of one
    sign              signs elsewhere (an HSM): bytes -> signature. For rsa-sha256 it gets the data to be signed and
                      returns its PKCS#1 v1.5 signature with SHA-256; for ed25519-sha256 it gets the SHA-256 digest, for
                      that is what is signed. Called in several threads at once
    algorithm, bits   of `sign`: "rsa-sha256" (default, with 2048 bits) or "ed25519-sha256"; of a key they are its own
    canonicalization  header/body, "relaxed" or "simple" each
    headers           names of the fields that are signed where present; default: SIGNED. From always is
    oversign          names that are listed once more than the message has them; default: OVERSIGNED, and
                      OVERSIGNED_IF_PRESENT where present, those of them that `headers` has
    identity          i=: an address in the domain or below it
    expires           seconds after which receivers treat the signature as absent; None: never

    raises  MessageError  "dkim, KEY: ..." for what cannot be used; the key itself is read by load()
    """

    domain: str
    selector: str
    key: str | bytes | None = field(default=None, repr=False)
    key_file: str | os.PathLike[str] | None = None
    sign: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    algorithm: str | None = None
    bits: int | None = None
    canonicalization: str = "relaxed/relaxed"
    headers: tuple[str, ...] | None = None
    oversign: tuple[str, ...] | None = None
    identity: str | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        self._set("domain", checked_domain)
        self._set("selector", checked_selector)
        self._set("canonicalization", checked_canonicalization)
        for name in ("headers", "oversign"):
            self._set(name, checked_names)
        self._set("identity", lambda text: checked_identity(text, self.domain))
        self._set("expires", checked_expires)
        self._set("key", _key_text)
        given = [name for name in ("key", "key_file", "sign") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(map(repr, given)) or "none"
            raise MessageError(f"dkim: one of 'key', 'key_file' and 'sign' is expected, found {found}")
        if self.sign is None and (self.algorithm, self.bits) != (None, None):
            raise MessageError("dkim: 'algorithm' and 'bits' belong to 'sign'; a key has its own")

    def _set(self, name: str, check: Callable[[Any], Any]) -> None:
        value = getattr(self, name)
        if value is None and name not in ("domain", "selector", "canonicalization"):
            return
        try:
            object.__setattr__(self, name, check(value))
        except (ValueError, AttributeError, TypeError) as error:
            text = str(error) if type(error) is ValueError else f"{type(value).__name__} cannot be used here"
            raise MessageError(f"dkim, {name}: {text}") from None

    def load(self, what: str = "dkim") -> Key:
        """The key, ready to sign.

        raises  MessageError  naming `what`, the manifest's place of this signature
        """
        if self.sign is not None:
            return _foreign(self, what)
        if self.key_file is not None:
            text = read_key_file(self.key_file, f"{what}, key_file")
            return load_key(text, f"{what}, key_file {os.fspath(self.key_file)}")
        text = self.key.decode("latin-1") if isinstance(self.key, bytes) else self.key or ""
        return load_key(text, f"{what}, key")

    def stamp(self) -> tuple[int, ...]:
        """What changes when another key is put into `key_file`."""
        try:
            found = os.stat(self.key_file) if self.key_file is not None else None
        except (OSError, ValueError):
            return ()  # reading it will say why
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else ()

    def warnings(self, what: str = "dkim") -> list[tuple[str, str]]:
        """(key, sentence) of what can be used and should not. raises  MessageError  as load() does"""
        key, found = self.load(what), []
        name = "key_file" if self.key_file is not None else "key" if self.key is not None else "bits"
        if self.key_file is not None and open_to_others(self.key_file):
            found.append((name, f"{os.fspath(self.key_file)} can be read by everybody on this machine: chmod 600"))
        if key.algorithm == RSA and key.bits < ADVISED_BITS:
            found.append((name, f"an RSA key of {key.bits} bits; {ADVISED_BITS} are advised (RFC 8301 section 3.2)"))
        return found

    def wanted(self) -> list[tuple[str, int]]:
        """(name, how often it is listed beyond what is there) of each field, in the order of h=: 0, 1, or -1: once more
        where there is any."""
        names = self.headers if self.headers is not None else SIGNED
        if self.oversign is None:
            always, present = ({name.lower() for name in group} for group in (OVERSIGNED, OVERSIGNED_IF_PRESENT))
        else:
            always, present = {name.lower() for name in self.oversign}, set[str]()
        every: dict[str, str] = {}
        for name in ("From", *names, *(self.oversign or ())):
            every.setdefault(name.lower(), name)
        return [(name, 1 if low in always else -1 if low in present else 0) for low, name in every.items()]


def _key_text(key: str | bytes) -> str | bytes:
    if not isinstance(key, (str, bytes)):
        raise TypeError
    return key


def dkim_specs(given: Any) -> tuple[Dkim, ...]:
    """What callers write: a Dkim, an object of its arguments, or several of these.

    raises  MessageError  (from Dkim); ConfigError for anything else
    """
    if given is None:
        return ()
    if isinstance(given, (Dkim, Mapping)):
        given = [given]
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"dkim: {type(given).__name__}, expected bulkmail.Dkim(domain, selector, ...) or a list of them"
        )
    return tuple(_spec(item) for item in given)


def _spec(item: Any) -> Dkim:
    if isinstance(item, Dkim):
        return item
    if not isinstance(item, Mapping):
        raise ConfigError(f"dkim: {type(item).__name__}, expected bulkmail.Dkim(domain, selector, ...)")
    try:
        return Dkim(**item)
    except TypeError as error:  # of the argument list; it names arguments, no values
        raise ConfigError(f"dkim: {str(error).replace('Dkim.__init__() ', '')}") from None


def _foreign(spec: Dkim, what: str) -> Key:
    algorithm, bits = spec.algorithm or RSA, spec.bits
    if algorithm not in (RSA, ED25519):
        raise MessageError(f"{what}, algorithm: {algorithm!r:.40}, expected {RSA} or {ED25519}")
    if algorithm == RSA:
        problem = bits_problem(bits or ADVISED_BITS)
        if problem is not None:
            raise MessageError(f"{what}, bits: {problem}")
    assert spec.sign is not None
    ed25519 = algorithm == ED25519
    return Key(algorithm, 256 if ed25519 else bits or ADVISED_BITS, spec.sign, takes_digest=ed25519)
