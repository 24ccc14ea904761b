"""Signing: canonicalization alone, a body's hash with and without what is known of the one before, a whole signature.

    python -m pytest benchmarks/micro/test_dkim.py

`gb_per_s` and `us_per_message` are in the extra info. Bodies are 20,000 bytes in wire form. What the pool of processes
makes beside `openssl speed` is benchmarks/peers/signing.py.
"""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.message.canon import BodyHash, canonical_bytes, use_avx2
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_sign import Signer

SIZE = 20_000
ROUND = 100
BODIES = {
    "text": b"<p>The quick brown fox jumps over the lazy dog, and a newsletter goes on for=\r\n quite a while.</p>\r\n",
    "indented html": b'    <tr>\r\n        <td class=3D"x">\r\n            The quick brown fox jumps over the lazy\r\n',
    "base64": b"R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7R0lGODlhAQABAIAAAAAA\r\n",
    "blanks": b"a  b \t c  d  e \r\n",
}
HEADER = (
    b"From: Example News <news@example.com>\r\nReply-To: help@example.com\r\nTo: Ann <ann%d@example.net>\r\n"
    b"Subject: Hello Ann\r\nDate: Sun, 01 Nov 2026 08:00:00 +0000\r\nMessage-ID: <%d@example.com>\r\n"
    b"List-Unsubscribe: <https://example.com/u/%d>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
)


def body(kind: str, size: int = SIZE) -> bytes:
    return (BODIES[kind] * (size // len(BODIES[kind]) + 1))[:size]


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("row", ["avx2", "scalar"])
@pytest.mark.parametrize("kind", BODIES)
def test_relaxed_body(benchmark: BenchmarkFixture, kind: str, row: str) -> None:
    if use_avx2(row == "avx2") != (row == "avx2"):
        pytest.skip("no AVX2 here")
    text = body(kind) * 10  # so that the call does not count
    benchmark.group = f"relaxed, {kind}"
    try:
        made = benchmark(canonical_bytes, text, relaxed=True, dotted=True)
    finally:
        use_avx2(True)
    assert len(made) <= len(text)
    benchmark.extra_info["gb_per_s"] = round(len(text) / benchmark.stats.stats.min / 1e9, 2)


@pytest.mark.parametrize("known", ["nothing", "the first 15 KB", "all"])
def test_body_hash(benchmark: BenchmarkFixture, known: str) -> None:
    """Of bodies in turns that differ early, late, or not at all."""
    text = body("text")
    place = {"nothing": 100, "the first 15 KB": 15_000, "all": SIZE}[known]
    other = text[:place] + b"X" * (place < SIZE) + text[place + 1 :]
    hasher = BodyHash(relaxed=True, dotted=True)
    benchmark.group = "hash of a body of 20 KB"

    def turns() -> bytes:
        for _ in range(ROUND // 2):
            hasher.digest([text])
            last = hasher.digest([other])
        return last

    assert benchmark(turns) == BodyHash(relaxed=True, dotted=True).digest([other])
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.min / ROUND * 1e6, 2)


def test_sha256_alone(benchmark: BenchmarkFixture) -> None:
    text = body("text")
    benchmark.group = "hash of a body of 20 KB"
    benchmark(lambda: [hashlib.sha256(text).digest() for _ in range(ROUND)])
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.min / ROUND * 1e6, 2)


@pytest.mark.parametrize("size", [2_000, 20_000])
def test_all_but_the_signature(benchmark: BenchmarkFixture, size: int) -> None:
    """What the event loop does for each message."""
    signer = Signer([Dkim("example.com", "s1", key=pem(ed25519.Ed25519PrivateKey.generate()))])
    text = body("text", size)
    bodies = [HEADER % (n, n, n) + b"Hello %d\r\n" % n + text + b"\r\n.\r\n" for n in range(ROUND)]
    benchmark.group = f"prepared, {size} bytes"
    made = benchmark(lambda: [signer.prepare(one, 1.0) for one in bodies])
    assert len({unsigned.data for (unsigned,) in made}) == ROUND
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.min / ROUND * 1e6, 2)


@pytest.mark.parametrize("kind", ["RSA-2048", "Ed25519"])
def test_a_whole_signature(benchmark: BenchmarkFixture, kind: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA-2048" else ed25519.Ed25519PrivateKey.generate()
    signer = Signer([Dkim("example.com", "s1", key=pem(key))])
    bodies = [HEADER % (n, n, n) + b"Hello %d\r\n" % n + body("text", 2000) + b"\r\n.\r\n" for n in range(ROUND)]
    benchmark.group = "signed, 2,000 bytes"
    assert all(field.startswith(b"DKIM-Signature: ") for field in benchmark(signer.sign, bodies, 1.0))
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.min / ROUND * 1e6, 1)
