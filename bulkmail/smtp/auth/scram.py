"""AUTH SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), with and without channel binding (-PLUS).

Both sides prove that they know the password, and neither shows it. What a server says is not trusted before its proof.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import lru_cache, partial

from bulkmail.errors import AuthError, AuthUnavailable
from bulkmail.smtp.auth.mechanism import Credentials, Mechanism, Steps, explained, readable
from bulkmail.smtp.auth.saslprep import saslprep

MIN_ITERATIONS = 4096  # RFC 7677 section 4; fewer would let a false server try out passwords cheaply
MAX_ITERATIONS = 4_000_000  # a second or so of one core: six times what is recommended now, and no way to stall us
KEPT = 64  # salted passwords: the connections of a pool compute theirs once

# RFC 5802 section 7. An "m=" in front would be an extension that one must understand; others may follow.
_server_first = re.compile(rb"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9/+]+=*),i=([1-9][0-9]{0,9})(?:,.*)?", re.S)
_server_final = re.compile(rb"v=([A-Za-z0-9/+]+=*)(?:,.*)?", re.S)
_NOT_BOUND = " (auth=scram-sha-256 logs in without channel binding)"


def _nonce() -> str:
    return secrets.token_urlsafe(24)


def mechanism(hash_name: str, *, plus: bool, nonce: Callable[[], str] = _nonce) -> Mechanism:
    """The mechanism for a hash; plus: with channel binding."""

    def respond(credentials: Credentials) -> Steps:
        header, bound = _gs2(credentials, plus)
        user = saslprep(credentials.user, "user").replace("=", "=3D").replace(",", "=2C")
        password = saslprep(credentials.password, "password").encode()
        ours = nonce()
        client_first = f"n={user},r={ours}".encode()
        server_first = yield header + client_first
        theirs, salt, iterations = _parsed(server_first, ours.encode())
        salted = yield partial(_salted, hash_name, password, salt, iterations)
        final = b"c=" + b64encode(header + bound) + b",r=" + theirs
        proof, signature = _proofs(hash_name, salted, b",".join((client_first, server_first, final)))
        try:
            server_final = yield final + b",p=" + b64encode(proof)
            if server_final.startswith(b"e="):
                hint = _NOT_BOUND if plus and b"channel-binding" in server_final else ""
                yield explained(b"", readable(server_final[2:]) + hint)
                raise _unproved("it named an error and asked on")
        except GeneratorExit:
            raise _unproved("it accepted the login without its proof") from None
        _check_signature(server_final, signature)
        yield b""

    return respond


def _gs2(credentials: Credentials, plus: bool) -> tuple[bytes, bytes]:
    """The GS2 header (RFC 5802 section 6) and the bytes that are bound."""
    binding = credentials.binding
    if plus:
        if binding is None:
            raise AuthUnavailable("SCRAM with channel binding (-PLUS) needs TLS, and a certificate with a known hash")
        return f"p={binding.kind},,".encode(), binding.data
    # "y": we could, and the server seems not to. Had somebody taken -PLUS out of its offer, the server would notice.
    offered = any(name.endswith("-PLUS") for name in credentials.offered)
    return (b"y,," if binding is not None and not offered else b"n,,"), b""


def _parsed(message: bytes, ours: bytes) -> tuple[bytes, bytes, int]:
    """Nonce, salt and iterations of a server-first-message."""
    found = _server_first.fullmatch(message)
    try:
        salt = b64decode(found[2], validate=True) if found else b""
    except ValueError:
        salt = b""
    if not found or not salt:
        raise AuthError(f"the server's SCRAM challenge is malformed: {readable(message)!r}", permanent=True)
    nonce, iterations = found[1], int(found[3])
    if not nonce.startswith(ours) or nonce == ours:
        raise AuthError("the server's SCRAM challenge is not an answer to ours: another nonce", permanent=True)
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise AuthError(
            f"the server's SCRAM challenge asks for {iterations} iterations, "
            f"expected {MIN_ITERATIONS} to {MAX_ITERATIONS}",
            permanent=True,
        )
    return nonce, salt, iterations


@lru_cache(maxsize=KEPT)
def _salted(hash_name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac(hash_name, password, salt, iterations)


def _proofs(hash_name: str, salted: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Our proof, and the signature by which the server proves itself (RFC 5802 section 3)."""
    client_key = hmac.digest(salted, b"Client Key", hash_name)
    stored_key = hashlib.new(hash_name, client_key).digest()
    signed = hmac.digest(stored_key, message, hash_name)
    proof = bytes(a ^ b for a, b in zip(client_key, signed, strict=True))
    return proof, hmac.digest(hmac.digest(salted, b"Server Key", hash_name), message, hash_name)


def _check_signature(message: bytes, expected: bytes) -> None:
    found = _server_final.fullmatch(message)
    if not found or not hmac.compare_digest(found[1], b64encode(expected)):
        raise _unproved("its signature is wrong")


def _unproved(how: str) -> AuthError:
    return AuthError(f"the server did not prove that it knows the password: {how}; it may be another", permanent=True)
