"""Private keys for DKIM: PEM (PKCS#8, PKCS#1, OpenSSH) or bare base64, from a file or a text, checked before use.

No error, repr or log text holds any of a key. `cryptography` is imported here only, when a key is read.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bulkmail.errors import MessageError
from bulkmail.records import Record

RSA, ED25519 = "rsa-sha256", "ed25519-sha256"  # RFC 6376 section 3.3.1, RFC 8463 section 3
# RFC 8301 section 3.2: signers use at least 1024 bits and SHOULD use 2048; receivers refuse what is shorter.
MIN_BITS, ADVISED_BITS = 1024, 2048
# Receivers must verify up to 4096 and need not beyond (RFC 8301 section 3.2); twice the bits cost seven times.
MAX_BITS = 4096
MAX_FILE = 1 << 16  # bytes; an RSA-4096 key has 3 KB
ED25519_SEED = 32  # bytes, RFC 8032 section 5.1.5: dkimpy's tools keep such a key as the base64 of just these
ENCRYPTED = (
    "the key is encrypted, and nobody is asked for its passphrase here; take it off: openssl pkey -in KEY -out NEW, or "
    "ssh-keygen -p"
)
DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True, eq=False, repr=False)
class Key(Record):
    """A key that is ready to sign.

    algorithm  "rsa-sha256" or "ed25519-sha256"; bits: of an RSA modulus, 256 for Ed25519
    sign       data -> signature; takes_digest: the data is the SHA-256 digest of what is covered, else that itself
    der        the private key (PKCS#8) for a process that signs; None: it exists in `sign` only
    public     what a DNS record's p= holds, decoded; None: not known
    """

    algorithm: str
    bits: int
    sign: Callable[[bytes], bytes] = field(repr=False)
    takes_digest: bool = True
    der: bytes | None = field(default=None, repr=False)
    public: bytes | None = field(default=None, repr=False)


def read_key_file(path: str | os.PathLike[str], what: str = "key_file") -> str:
    """The text of a key's file. raises  MessageError  naming `what` and the file"""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MessageError(f"{what}: {os.fspath(path)} cannot be read: {reason}") from None
    if len(data) > MAX_FILE:
        raise MessageError(f"{what}: {os.fspath(path)} has more than {MAX_FILE} bytes, expected a private key")
    # Latin-1 takes any byte: what is no key is refused as such below.
    return data.decode("latin-1")


def open_to_others(path: str | os.PathLike[str]) -> bool:
    """Whether everybody on this machine may read a key's file. False where that cannot be told."""
    try:
        return os.name == "posix" and bool(Path(path).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def load_key(text: str, what: str = "key") -> Key:
    """A private key from its text.

    text    PEM; a PEM whose line breaks are written "\\n", as one-line variables have them; the base64 between a PEM's
            first and last line; or the base64 of an Ed25519 seed
    raises  MessageError  naming `what`: no key, an encrypted one, another kind, or too short; never the text
    """
    try:
        return _loaded(text)
    except _Refused as error:
        raise MessageError(f"{what}: {error}") from None


class _Refused(Exception):
    """Why a text is no key to sign with."""


@lru_cache(maxsize=64)  # the check of an RSA key takes 70 ms
def _loaded(text: str) -> Key:
    return _checked(_parsed(text))


def load_der(der: bytes) -> Key:
    """What `Key.der` holds, in another process; it was checked when it was loaded first."""
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    # The check of an RSA key takes 70 ms.
    return _ready(load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True))


def _parsed(text: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    text = text.strip()
    if "\\n" in text and "\n" not in text:
        text = text.replace("\\r", "").replace("\\n", "\n")
    if not text:
        raise _Refused("it is empty, expected a private key as PEM")
    _refuse_by_name(text)
    try:
        return _pem(text) if "-----BEGIN" in text else _bare(text)
    except TypeError:  # a passphrase was expected
        raise _Refused(ENCRYPTED) from None
    except (ValueError, UnsupportedAlgorithm):
        # The library's words may quote what it was given.
        raise _Refused("it does not parse as a private key, expected PEM (PKCS#8 or PKCS#1)") from None


def _refuse_by_name(text: str) -> None:
    """What a PEM's first line says already."""
    if "ENCRYPTED" in text:  # "BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"
        raise _Refused(ENCRYPTED)
    for mark, kind in (("PUBLIC KEY", "a public key"), ("CERTIFICATE", "a certificate")):
        if f"-----BEGIN {mark}" in text and "PRIVATE KEY-----" not in text:
            raise _Refused(f"it is {kind}, expected the private key")


def _pem(text: str) -> Any:
    from cryptography.hazmat.primitives import serialization

    data = text.encode()
    if "BEGIN OPENSSH" in text:
        return serialization.load_ssh_private_key(data, None)
    return serialization.load_pem_private_key(data, None)


def _bare(text: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("it is neither PEM nor base64, expected a private key") from None
    if len(data) == ED25519_SEED:
        return Ed25519PrivateKey.from_private_bytes(data)
    return load_der_private_key(data, None)


def _checked(private: Any) -> Key:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if isinstance(private, RSAPrivateKey):
        problem = bits_problem(private.key_size)
        if problem is not None:
            raise _Refused(problem)
    elif not isinstance(private, Ed25519PrivateKey):
        kind = type(private).__name__.lstrip("_").removesuffix("PrivateKey")
        raise _Refused(f"it is a key of the kind {kind}, expected RSA or Ed25519")
    return _ready(private)


def bits_problem(bits: int) -> str | None:
    """Why receivers do not verify signatures of an RSA key of this size; None: they do."""
    if MIN_BITS <= bits <= MAX_BITS:
        return None
    return (
        f"an RSA key of {bits} bits, expected {MIN_BITS} to {MAX_BITS} ({ADVISED_BITS} is advised): RFC 8301 section "
        "3.2 has receivers refuse what is shorter and not bound to verify what is longer"
    )


def _ready(private: Any) -> Key:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key()  # private: an RSAPrivateKey or Ed25519PrivateKey
    if isinstance(private, RSAPrivateKey):
        padding, hashed, sign_rsa = PKCS1v15(), Prehashed(hashes.SHA256()), private.sign
        published = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Key(RSA, private.key_size, lambda digest: sign_rsa(digest, padding, hashed), der=der, public=published)
    # RFC 8463 section 3: PureEdDSA over the SHA-256 digest; section 4: p= is the 32 bytes themselves.
    return Key(ED25519, 256, private.sign, der=der, public=public.public_bytes(Encoding.Raw, PublicFormat.Raw))
