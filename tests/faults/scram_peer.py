"""The server's side of AUTH SCRAM-SHA-256 (RFC 5802) as a step of a script, with faults."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode

from faults.scripted import Peer, Step

SALT = b"0123456789abcdef"
OK = b"235 2.7.0 welcome\r\n"
REFUSED = b"535 5.7.8 authentication failed\r\n"


class ScramPeer:
    """It knows `password`.

    first, final  functions that make another challenge of the right one
    skip_proof    accept at once, without the final challenge
    proofs        how many clients have proved that they know the password
    """

    def __init__(self, password, *, first=lambda right: right, final=lambda right: right, skip_proof=False):
        self.password, self.first, self.final, self.skip_proof = password, first, final, skip_proof
        self.proofs = 0

    def step(self) -> Step:
        return self._run

    async def _run(self, peer: Peer) -> None:
        line = await peer.line()
        command, mechanism, initial = line.split(b" ")
        assert (command, mechanism) == (b"AUTH", b"SCRAM-SHA-256")
        header, _, client_first = b64decode(initial).partition(b",,")
        nonce = dict(part.split(b"=", 1) for part in client_first.split(b","))[b"r"]
        server_first = self.first(b"r=%sXYZ,s=%s,i=4096" % (nonce, b64encode(SALT)))
        await challenge(peer, server_first)
        answer = await peer.line()
        if answer == b"*":
            await peer.send(b"501 5.7.0 cancelled\r\n")
            return
        client_final, _, proof = b64decode(answer).rpartition(b",p=")
        assert client_final.startswith(b"c=" + b64encode(header + b",,"))
        expected, signature = self._proofs(b",".join((client_first, server_first, client_final)))
        if b64decode(proof) != expected:
            await peer.send(REFUSED)
            return
        self.proofs += 1
        if not self.skip_proof:
            await challenge(peer, self.final(b"v=" + b64encode(signature)))
            assert await peer.line() == b""
        await peer.send(OK)

    def _proofs(self, message: bytes) -> tuple[bytes, bytes]:
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), SALT, 4096)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signed = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        proof = (int.from_bytes(client_key) ^ int.from_bytes(signed)).to_bytes(32)
        return proof, hmac.digest(server_key, message, "sha256")


async def challenge(peer: Peer, text: bytes) -> None:
    await peer.send(b"334 " + b64encode(text) + b"\r\n")
