"""DNS records: what is to be published, and which published ones receivers would not verify by."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from bulkmail.errors import MessageError
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_record import dkim_record_matches, record_name, record_text
from unit.message.dkim_corpus import ed25519_key, pem, rsa_key

RSA = Dkim("example.com", "s1", key=rsa_key())
ED = Dkim("example.com", "s2", key=ed25519_key())
P = record_text(RSA).partition("p=")[2]
P_ED = record_text(ED).partition("p=")[2]
OTHER = record_text(Dkim("example.com", "s1", key=pem(rsa.generate_private_key(65537, 2048)))).partition("p=")[2]
PKCS1 = base64.b64encode(
    load_pem_private_key(rsa_key().encode(), None).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
).decode()


def test_what_is_published_fits():
    assert record_name(RSA) == "s1._domainkey.example.com"
    assert record_text(RSA).startswith("v=DKIM1; k=rsa; p=MII") and record_text(ED).startswith("v=DKIM1; k=ed25519; p=")
    for spec in (RSA, ED):
        assert dkim_record_matches(spec, [record_text(spec)]) is None
        assert dkim_record_matches(spec, [record_text(spec).encode()]) is None


@pytest.mark.parametrize(
    "record",
    [
        f"p={P}",
        f"k=rsa; p={P}",
        f"v=DKIM1;p={P[:50]} {P[50:120]}\t{P[120:]};",
        f" v = DKIM1 ; n=a note ; t=s; s=email; h=sha1:sha256; p = {P} ; x_unknown=1",
        f"v=DKIM1; s=*; p={PKCS1}",
    ],
)
def test_records_that_fit(record):
    assert dkim_record_matches(RSA, [record]) is None
    assert dkim_record_matches(RSA, ["v=spf1 -all", record]) is None


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; k=rsa", "has no key"),
        (f"p={P}; v=DKIM1", "v= behind another tag"),
        (f"v=DKIM1; p={OTHER}", "another private key"),
        (f"v=DKIM1; k=ed25519; p={P_ED}", "kind 'ed25519'.*signing key is rsa"),
        (f"v=DKIM1; h=sha1; p={P}", "hashes 'sha1'"),
        (f"v=DKIM1; s=tlsrpt; p={P}", "services 'tlsrpt'"),
        (f"v=DKIM1; t=y; p={P}", "testing"),
        ("v=DKIM1; p=not base64!", "not base64"),
        ("v=DKIM1; p=" + P[:-40], "not an RSA public key|not base64"),
        (f"v=DKIM1; p={P_ED}", "not an RSA public key"),
        ("v=DKIM1 p=abc; p=a;p=b", "not a list of tags"),
    ],
)
def test_records_that_do_not_fit(record, text):

    found = dkim_record_matches(RSA, [record])
    assert found is not None and re.search(text, found) and "s1._domainkey.example.com" in found


def test_records_that_are_missing_or_too_many():
    assert dkim_record_matches(RSA, []) == "there is no DKIM record at s1._domainkey.example.com"
    assert "'v=spf1 -all'" in (dkim_record_matches(RSA, ["v=spf1 -all"]) or "")
    assert "2 DKIM records" in (dkim_record_matches(RSA, [f"p={P}", f"v=DKIM1; p={P}"]) or "")


def test_an_identity_of_a_subdomain_needs_leave():
    spec = Dkim("example.com", "s1", key=rsa_key(), identity="@news.example.com")
    assert dkim_record_matches(spec, [f"p={P}"]) is None
    assert "t=s" in (dkim_record_matches(spec, [f"t=s; p={P}"]) or "")
    assert (
        dkim_record_matches(Dkim("example.com", "s1", key=rsa_key(), identity="a@example.com"), [f"t=s; p={P}"]) is None
    )


def test_an_ed25519_key_of_the_wrong_size():
    assert "Ed25519 key of 31 bytes" in (
        dkim_record_matches(ED, ["k=ed25519; p=" + base64.b64encode(b"x" * 31).decode()]) or ""
    )
    assert "another private key" in (
        dkim_record_matches(ED, ["k=ed25519; p=" + base64.b64encode(b"x" * 32).decode()]) or ""
    )


def test_of_a_function_only_the_kind_is_known():
    spec = Dkim("example.com", "s1", sign=lambda data: data)
    assert dkim_record_matches(spec, [f"p={P}"]) is None
    assert "kind 'ed25519'" in (dkim_record_matches(spec, [f"k=ed25519; p={P_ED}"]) or "")
    with pytest.raises(MessageError, match="not known"):
        record_text(spec)


@pytest.mark.parametrize("algorithm", ["RSA", "ed25519"])
def test_the_commands_of_the_page_make_the_key_and_its_record(algorithm, tmp_path, require):
    page = (Path(__file__).parents[3] / "docs" / "dkim.md").read_text()
    name = f"dkim-{algorithm.lower()}.pem"
    generate, publish = re.findall(rf"^openssl [^#\n]*{re.escape(name)}[^#\n]*", page, re.M)
    require("openssl")
    subprocess.run(generate, shell=True, check=True, cwd=tmp_path, capture_output=True)
    public = subprocess.run(publish, shell=True, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    spec = Dkim("example.com", "s1", key_file=tmp_path / name)
    assert record_text(spec).endswith(f"p={public}")
    assert dkim_record_matches(spec, [f"v=DKIM1; k={algorithm.lower()}; p={public}"]) is None
