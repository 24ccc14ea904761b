"""The DNS record of a DKIM key: what to publish, and whether what is published fits. No DNS is asked here.

RFC 6376 sections 3.6.1 and 3.6.2; RFC 8463 section 4.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bulkmail.errors import MessageError
from bulkmail.message.dkim_keys import ED25519, MIN_BITS, RSA, Key

if TYPE_CHECKING:
    from bulkmail.message.dkim import Dkim

_KINDS = {RSA: "rsa", ED25519: "ed25519"}
_tag = re.compile(r"[A-Za-z][A-Za-z0-9_]*").fullmatch


def record_name(spec: Dkim) -> str:
    """Where the record stands: "s1._domainkey.example.com"."""
    return f"{spec.selector}._domainkey.{spec.domain}"


def record_text(spec: Dkim) -> str:
    """The TXT record to publish for the key of `spec`: "v=DKIM1; k=rsa; p=...".

    raises  MessageError  for a key that cannot be read, and for a callable, whose public key is not known
    """
    key = spec.load()
    if key.public is None:
        raise MessageError("dkim: the public key of a callable is not known here, so its record cannot be written")
    return f"v=DKIM1; k={_KINDS[key.algorithm]}; p={base64.b64encode(key.public).decode()}"


def dkim_record_matches(spec: Dkim, txt_records: Iterable[str | bytes]) -> str | None:
    """None if receivers verify signatures of `spec` by these records; else a sentence that says why they do not.

    spec         a `Dkim`; its key is read (of a callable only the kind of key is compared)
    txt_records  all TXT records of `record_name(spec)`, the strings of each joined; none: the name has no such record
    raises       MessageError  if the key cannot be read
    """
    key = spec.load()
    name = record_name(spec)
    texts = [text.decode("latin-1") if isinstance(text, bytes) else text for text in txt_records]
    records = [(text, tags) for text in texts if (tags := _tags(text)) is None or "p" in tags or "v" in tags]
    # What a wildcard such as "*.example.com TXT v=spf1 ..." brings is no key.
    records = [(text, tags) for text, tags in records if tags is None or tags.get("v", "DKIM1") == "DKIM1"]
    if not records:
        other = f"; its TXT record is {texts[0][:60]!r}" if texts else ""
        return f"there is no DKIM record at {name}{other}"
    if len(records) > 1:
        return f"{name} has {len(records)} DKIM records, and receivers may take any of them (RFC 6376 section 3.6.2.2)"
    text, tags = records[0]
    if tags is None:
        return f"the record of {name} is not a list of tags such as v=DKIM1; k=rsa; p=...: {text[:60]!r}"
    problem = _problem(spec, key, tags)
    return f"the record of {name} {problem}" if problem else None


def _tags(text: str) -> dict[str, str] | None:
    """The tag list (RFC 6376 section 3.2), white space within values removed; None if it is none."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not part.strip():
            continue
        if not equals or not _tag(name) or name in tags:
            return None
        tags[name] = "".join(value.split())
    return tags


def _problem(spec: Dkim, key: Key, tags: Mapping[str, str]) -> str | None:
    if "v" in tags and next(iter(tags)) != "v":
        return "has v= behind another tag, where it must come first"
    if not tags.get("p"):
        return "says that the key is revoked (p= is empty)" if "p" in tags else "has no key (p=)"
    kind, expected = tags.get("k", "rsa"), _KINDS[key.algorithm]
    if kind != expected:
        return f"is for a key of the kind {kind[:20]!r} (k=), the signing key is {expected}"
    if "sha256" not in tags.get("h", "sha256").split(":"):
        return f"allows the hashes {tags['h'][:40]!r} (h=), and sha256 is used"
    if not {"*", "email"} & set(tags.get("s", "*").split(":")):
        return f"is for the services {tags['s'][:40]!r} (s=), email is not among them"
    flags = tags.get("t", "").split(":")
    if "s" in flags and spec.identity is not None and spec.identity.rpartition("@")[2] != spec.domain:
        return f"forbids identities of subdomains (t=s), and 'identity' is {spec.identity}"
    if (problem := _public_problem(key, tags["p"])) is not None:
        return problem
    return "says that the domain is testing DKIM (t=y): receivers treat its mail as unsigned" if "y" in flags else None


def _public_problem(key: Key, encoded: str) -> str | None:
    try:
        published = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "has a p= that is not base64"
    if key.algorithm == ED25519:
        if len(published) != 32:
            return f"has an Ed25519 key of {len(published)} bytes, expected 32 (RFC 8463 section 4)"
        same = key.public is None or key.public == published
    else:
        numbers = _rsa_numbers(published)
        if numbers is None:
            return "has a p= that is not an RSA public key"
        if numbers.n.bit_length() < MIN_BITS:
            return f"has a key of {numbers.n.bit_length()} bits, which receivers refuse (RFC 8301)"
        same = key.public is None or _rsa_numbers(key.public) == numbers
    return None if same else "has the public key of another private key than the one that signs"


def _rsa_numbers(der: bytes) -> Any:
    """Of a SubjectPublicKeyInfo, or of the bare RSAPublicKey that RFC 6376 section 3.6.1 names; None: neither."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        public = load_der_public_key(der)  # takes both
    except (ValueError, UnsupportedAlgorithm):
        return None
    return public.public_numbers() if isinstance(public, RSAPublicKey) else None
