"""Keys: every form that tools write is read; what cannot sign is refused by a sentence that holds nothing of it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from bulkmail.errors import ConfigError, MessageError
from bulkmail.message.dkim import Dkim, dkim_specs
from bulkmail.message.dkim_keys import load_key, open_to_others
from bulkmail.message.dkim_sign import signer_of
from unit.message.dkim_corpus import ed25519_key, pem, rsa_key


def other_forms(text: str, encoding: Encoding, kind: PrivateFormat) -> bytes:
    return load_pem_private_key(text.encode(), None).private_bytes(encoding, kind, NoEncryption())


def bare(text: str) -> str:
    return "".join(line for line in text.splitlines() if "-----" not in line)


RSA = rsa_key(2048)
FORMS = {
    "PKCS#8": RSA,
    "PKCS#1": other_forms(RSA, Encoding.PEM, PrivateFormat.TraditionalOpenSSL).decode(),
    "OpenSSH": other_forms(RSA, Encoding.PEM, PrivateFormat.OpenSSH).decode(),
    "CRLF and blanks around": "\r\n  " + RSA.replace("\n", "\r\n") + "  \n",
    "line breaks written out": RSA.replace("\n", "\\n"),
    "base64 of PKCS#8": bare(RSA),
    "base64 of PKCS#1, in lines": bare(
        other_forms(RSA, Encoding.PEM, PrivateFormat.TraditionalOpenSSL).decode()
    ).replace("A", "A\n", 3),
    "text before it": "Bag Attributes\n  friendlyName: dkim\n" + RSA,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_key(form):
    key = load_key(FORMS[form])
    assert (key.algorithm, key.bits, key.public) == ("rsa-sha256", 2048, load_key(RSA).public)


def test_an_ed25519_key_in_every_form():
    text = ed25519_key()
    key = load_key(text)
    seed = other_forms(text, Encoding.Raw, PrivateFormat.Raw)
    forms = [
        base64.b64encode(seed).decode(),
        bare(text),
        other_forms(text, Encoding.PEM, PrivateFormat.OpenSSH).decode(),
    ]
    assert [load_key(form).public for form in forms] == [key.public] * 3
    assert (key.algorithm, key.bits, len(key.public or b"")) == ("ed25519-sha256", 256, 32)


def test_a_key_as_bytes_and_in_a_file_is_read(tmp_path):
    file = tmp_path / "dkim.pem"
    file.write_text(RSA)
    for given in ({"key": RSA.encode()}, {"key_file": str(file)}, {"key_file": file}):
        assert Dkim("example.com", "s", **given).load().public == load_key(RSA).public


def test_a_file_that_has_changed_is_read_again(tmp_path):
    file = tmp_path / "dkim.pem"
    file.write_text(RSA)
    spec = Dkim("example.com", "s", key_file=file)
    first = signer_of((spec,))
    assert first.keys[0].algorithm == "rsa-sha256" and signer_of((spec,)) is first
    file.write_text(ed25519_key())
    assert signer_of((spec,)).keys[0].algorithm == "ed25519-sha256"


SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"
BROKEN = {
    "empty": ("", "is empty"),
    "blank": (" \n", "is empty"),
    "a word": (SECRET + "!", "neither PEM nor base64"),
    "base64 of something": (base64.b64encode(SECRET.encode()).decode(), "does not parse"),
    "cut off": (RSA[:300], "does not parse"),
    "damaged": (RSA.replace("M", "N"), "does not parse"),
    "PEM of nothing": ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "does not parse"),
    "an encrypted key": (
        load_pem_private_key(RSA.encode(), None)
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        .decode(),
        "encrypted.*openssl pkey",
    ),
    "an old encrypted key": (
        load_pem_private_key(RSA.encode(), None)
        .private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x"))
        .decode(),
        "encrypted.*openssl pkey",
    ),
    "a public key": (
        load_pem_private_key(RSA.encode(), None)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        "public key, expected the private key",
    ),
    "an elliptic curve": (pem(ec.generate_private_key(ec.SECP256R1())), "expected RSA or Ed25519"),
    "another curve": (pem(ed448.Ed448PrivateKey.generate()), "expected RSA or Ed25519"),
    "an RSA key that is too long": (pem(rsa.generate_private_key(65537, 4352)), "4352 bits, expected 1024 to 4096"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_sign_is_refused_and_not_shown(name, tmp_path):
    text, expected = BROKEN[name]
    file = tmp_path / "dkim.pem"
    file.write_text(text)
    for spec in (Dkim("example.com", "s", key=text), Dkim("example.com", "s", key_file=file)):
        with pytest.raises(MessageError, match=expected) as caught:
            spec.load("dkim[1]")
        shown = f"{caught.value} {caught.value!r} {spec!r}"
        assert "dkim[1], key" in shown and (spec.key_file is None or str(file) in shown)
        assert not any(line in shown for line in text.splitlines() if len(line) > 20 and "-----" not in line)


def test_an_encrypted_openssh_key_is_refused(tmp_path, require):
    file = tmp_path / "key"
    subprocess.run([require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "secret", "-f", file], check=True)
    with pytest.raises(MessageError, match=r"encrypted.*ssh-keygen -p"):
        Dkim("example.com", "s", key_file=file).load()


@pytest.mark.parametrize("bits", [512, 768, 1016])
def test_a_short_rsa_key_is_refused(bits, require):
    """OpenSSL's program makes such keys; the library does not."""
    text = subprocess.run(
        [require("openssl"), "genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    with pytest.raises(MessageError, match=f"an RSA key of {bits} bits, expected 1024"):
        load_key(text)


def test_a_short_rsa_key_is_used_and_warned_of():
    assert Dkim("example.com", "s", key=rsa_key(1024)).warnings() == [
        ("key", "an RSA key of 1024 bits; 2048 are advised (RFC 8301 section 3.2)")
    ]
    assert Dkim("example.com", "s", key=RSA).warnings() == Dkim("example.com", "s", key=ed25519_key()).warnings() == []


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_file_that_everybody_may_read_is_warned_of(mode, warned, tmp_path):
    file = tmp_path / "dkim.pem"
    file.write_text(RSA)
    file.chmod(mode)
    found = Dkim("example.com", "s", key_file=file).warnings()
    assert [key for key, _ in found] == ["key_file"] * warned
    assert not warned or ("chmod 600" in found[0][1] and str(file) in found[0][1])
    assert open_to_others(tmp_path / "missing") is False


@pytest.mark.parametrize("name", ["missing.pem", "", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    file = f"{tmp_path}/{name}"
    with pytest.raises(MessageError, match=r"dkim\[0\], key_file: .*cannot be read"):
        Dkim("example.com", "s", key_file=file).load("dkim[0]")


def test_a_large_file_is_no_key(tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"\0" * 100_000)
    with pytest.raises(MessageError, match="more than 65536 bytes"):
        Dkim("example.com", "s", key_file=file).load()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"domain": "localhost"}, "domain: 'localhost' is not a domain name"),
        ({"domain": "a_b.example.com"}, "not a domain name"),
        ({"domain": "example.com."}, "not a domain name"),
        ({"domain": "a@example.com"}, "not a domain name"),
        ({"domain": "x" * 64 + ".example"}, "not a domain name"),
        ({"domain": "exa mple.com; d=x.com"}, "not a domain name"),
        ({"domain": None}, "domain"),
        ({"selector": "s 1"}, "selector: 's 1' is not a selector"),
        ({"selector": ""}, "not a selector"),
        ({"selector": "a..b"}, "not a selector"),
        ({"selector": "s1;t=0"}, "not a selector"),
        ({"canonicalization": "relaxed"}, "relaxed/simple"),
        ({"headers": ["Received"]}, "'Received' cannot be signed"),
        ({"oversign": ["return-path"]}, "cannot be signed"),
        ({"headers": ["a b"]}, "not the name of a header field"),
        ({"headers": ["a:b"]}, "not the name of a header field"),
        ({"headers": ["a;b"]}, "not the name of a header field"),
        ({"headers": [f"X-{n}" for n in range(101)]}, "at most 100"),
        ({"headers": 5}, "headers"),
        ({"identity": "ann"}, "not an identity"),
        ({"identity": "@example.net"}, "not of example.com or one of its subdomains"),
        ({"identity": "@badexample.com"}, "not of example.com"),
        ({"identity": "a b@example.com"}, "not an identity"),
        ({"expires": 0}, "at least 1"),
        ({"expires": "1d"}, "at least 1"),
        ({"key": 5}, "key: int"),
        ({"key": None}, "one of 'key', 'key_file' and 'sign' is expected, found none"),
        ({"key_file": "k"}, "found 'key' and 'key_file'"),
        ({"bits": 2048}, "belong to 'sign'"),
    ],
)
def test_what_a_signature_cannot_be_made_with_is_refused(given, text):
    with pytest.raises(MessageError, match=text) as caught:
        Dkim(**{"domain": "example.com", "selector": "s1", "key": RSA, **given})
    assert RSA[40:80] not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"algorithm": "rsa-sha1"}, "expected rsa-sha256 or ed25519-sha256"), ({"bits": 512}, "an RSA key of 512 bits")],
)
def test_what_a_function_cannot_sign_with_is_refused(given, text):
    with pytest.raises(MessageError, match=text):
        Dkim("example.com", "s1", sign=lambda data: data, **given).load()


def test_names_are_made_ascii():
    spec = Dkim("BÜCHER.example", "März.news_1", key=RSA)
    assert (spec.domain, spec.selector) == ("xn--bcher-kva.example", "xn--mrz-qla.news_1")


def test_specs_as_callers_write_them():
    one = Dkim("example.com", "s1", key=RSA)
    assert dkim_specs(None) == () and dkim_specs(one) == dkim_specs([one]) == (one,)
    assert dkim_specs({"domain": "example.com", "selector": "s1", "key": RSA}) == (one,)
    for given, text in ((5, "int, expected"), ("x", "str, expected"), ([5], "int, expected"),
                        ({"domain": "example.com"}, "selector"), ([{"selectr": 1}], "selectr")):  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            dkim_specs(given)


def test_a_key_is_shown_nowhere():
    spec = Dkim("example.com", "s1", key=RSA)
    shown = f"{spec!r} {spec.load()!r} {vars(spec.load()).keys()}"
    assert RSA[40:80] not in shown and "PRIVATE" not in shown


def test_without_a_key_the_library_is_not_loaded():
    program = (
        "import sys, bulkmail, bulkmail.message.dkim, bulkmail.message.dkim_sign\n"
        "bulkmail.message.dkim.Dkim('example.com', 's', key_file='none')\n"
        "print([name for name in sys.modules if name.startswith('cryptography')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
