"""The channel binding of a TLS connection (RFC 5929), as far as Python's ssl can tell it."""

from __future__ import annotations

import hashlib
from typing import Any

from bulkmail.smtp.auth.mechanism import ChannelBinding

# The certificate's signature algorithm says the hash (RFC 5929 section 4.1: MD5 and SHA-1 count as SHA-256). By the
# content of their OIDs; of RSASSA-PSS the parameters say it, and Ed25519 has none: those are left out.
_HASHES = {
    "2a864886f70d010104": "sha256",  # md5WithRSAEncryption
    "2a864886f70d010105": "sha256",  # sha1WithRSAEncryption
    "2a864886f70d01010b": "sha256",
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a864886f70d01010e": "sha224",
    "2a8648ce3d0401": "sha256",  # ecdsa-with-SHA1
    "2a8648ce3d040301": "sha224",
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
}


def channel_binding(tls: Any) -> ChannelBinding | None:
    """tls: an ssl.SSLObject, or None. None where there is no binding that both sides may know.

    tls-unique is what every SCRAM server has, and TLS 1.3 has none; its successor, tls-exporter (RFC 9266), is not to
    be had from Python.
    """
    if tls is None:
        return None
    if tls.version() == "TLSv1.2" and (unique := tls.get_channel_binding("tls-unique")):
        return ChannelBinding("tls-unique", unique)
    certificate = tls.getpeercert(True)
    name = _hash_name(certificate) if certificate else None
    return ChannelBinding("tls-server-end-point", hashlib.new(name, certificate).digest()) if name else None


def _hash_name(certificate: bytes) -> str | None:
    """Certificate ::= SEQUENCE { tbsCertificate, SEQUENCE { OBJECT IDENTIFIER, ... }, ... } (RFC 5280 section 4.1)."""
    try:
        start, _ = _inside(certificate, 0)
        _, algorithm = _inside(certificate, start)
        oid, _ = _inside(certificate, algorithm)
        start, end = _inside(certificate, oid)
    except IndexError:
        return None
    return _HASHES.get(certificate[start:end].hex())


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the DER value at `at` begins and ends."""
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[at + 2 : start])
    return start, start + length
