"""What a server's certificate says: whom it is for, until when, who issued it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from bulkmail.records import Record

_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Record):
    """A server's certificate. Names beyond ASCII are A-labels ("xn--...").

    names     what it is for: DNS names and addresses of its subjectAltName, or its common name where it has none
    subject   "CN=mx.example.com, O=Example"
    issuer    the same of whoever signed it
    expires   ISO 8601, UTC
    sha256    its fingerprint, in hex digits
    verified  whether an authority and the name were checked; where not, anybody can have made it

    Where it was not verified, and the library `cryptography` is missing to read it, only the fingerprint is known.
    """

    names: tuple[str, ...]
    subject: str | None
    issuer: str | None
    expires: str | None
    sha256: str
    verified: bool

    def days_left(self, now: datetime) -> float | None:
        """Until it expires; negative afterwards; None where that is not known."""
        return (datetime.fromisoformat(self.expires) - now).total_seconds() / 86400 if self.expires else None


def peer_certificate(tls: Any) -> Certificate | None:
    """The certificate of a connection's other end. tls: a `ssl.SSLObject` or `ssl.SSLSocket` after its handshake."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        return None
    fingerprint = sha256(der).hexdigest()
    said = tls.getpeercert()  # empty where the certificate was not verified
    if said:
        return _from_dict(said, fingerprint)
    return _from_der(der, fingerprint) or Certificate((), None, None, None, fingerprint, False)


def _from_dict(said: dict[str, Any], fingerprint: str) -> Certificate:
    subject = [pair for part in said.get("subject", ()) for pair in part]
    issuer = [pair for part in said.get("issuer", ()) for pair in part]
    names = [str(name) for kind, name in said.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(said["notAfter"]), UTC)
    return Certificate(
        _unique(names or _common_names(subject)), _told(subject), _told(issuer), _iso(expires), fingerprint, True
    )


def _from_der(der: bytes, fingerprint: str) -> Certificate | None:
    """None: the library to read it is missing, or it cannot be read."""
    try:
        from cryptography import x509
    except ImportError:
        return None
    try:
        found = x509.load_der_x509_certificate(der)
        subject = [(_long(part), str(part.value)) for part in found.subject]
        issuer = [(_long(part), str(part.value)) for part in found.issuer]
        expires = found.not_valid_after_utc
        names = _alternative_names(found)
    except Exception:  # whoever answers has written it; the library has many words for what is wrong with one
        return None
    return Certificate(
        _unique(names or _common_names(subject)), _told(subject), _told(issuer), _iso(expires), fingerprint, False
    )


def _alternative_names(found: Any) -> list[str]:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _long(part: Any) -> str:
    """The name of a part of a distinguished name, as OpenSSL has it; its number where it has none."""
    name = str(part.oid._name)
    return part.oid.dotted_string if name == "Unknown OID" else name


def _common_names(parts: Iterable[tuple[str, str]]) -> list[str]:
    return [value for name, value in parts if name == "commonName"]


def _told(parts: Sequence[tuple[str, str]]) -> str:
    """ "CN=mx.example, O=Example": the most particular first, as RFC 4514 has it."""
    return ", ".join(f"{_SHORT.get(name, name)}={value}" for name, value in reversed(parts))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
