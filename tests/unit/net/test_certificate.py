"""What is read from a certificate, verified or not, well-formed or not."""

from __future__ import annotations

import datetime

import pytest

from bulkmail.net.certificate import peer_certificate

x509 = pytest.importorskip("cryptography.x509")

EXPIRES = datetime.datetime(2040, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)


class Tls:
    """A connection whose other end has shown `der`; said: what the ssl module read of it."""

    def __init__(self, der, said=None):
        self.der, self.said = der, said or {}

    def getpeercert(self, binary_form=False):
        return self.der if binary_form else self.said


def make(names, common_name="mx.example"):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    parts = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example, Inc.")]
    parts.append(x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateBuilder(x509.Name(parts), x509.Name(parts), key.public_key(), 7)
    builder = builder.not_valid_before(EXPIRES - datetime.timedelta(days=9)).not_valid_after(EXPIRES)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_unverified_it_is_read_from_its_bytes():
    names = [x509.DNSName("a.example"), x509.DNSName("a.example"), x509.RFC822Name("postmaster@a.example")]
    found = peer_certificate(Tls(make(names)))
    assert found.names == ("a.example",) and not found.verified
    assert found.subject == found.issuer == "CN=mx.example, O=Example, Inc."
    assert found.expires == "2040-05-06T07:08:09Z" and len(found.sha256) == 64


def test_without_other_names_it_is_for_its_common_name():
    assert peer_certificate(Tls(make([]))).names == ("mx.example",)


def test_verified_it_is_what_the_ssl_module_says():
    said = {
        "subject": ((("organizationName", "Example"),), (("commonName", "mx.example"),)),
        "issuer": ((("countryName", "DE"),), (("commonName", "Ca"),)),
        "subjectAltName": (("DNS", "a.example"), ("IP Address", "192.0.2.1"), ("email", "x@a.example")),
        "notAfter": "May  6 07:08:09 2040 GMT",
    }
    found = peer_certificate(Tls(b"der", said))
    assert (found.names, found.verified) == (("a.example", "192.0.2.1"), True)
    assert (found.subject, found.issuer) == ("CN=mx.example, O=Example", "CN=Ca, C=DE")
    assert found.expires == "2040-05-06T07:08:09Z"


def test_bytes_that_are_no_certificate_have_a_fingerprint():
    found = peer_certificate(Tls(b"\x30\x03\x02\x01\x01"))
    assert (found.names, found.subject, found.expires) == ((), None, None) and len(found.sha256) == 64


def test_one_that_its_sender_has_made_unreadable_is_no_failure(monkeypatch):
    def hostile(der):
        raise x509.DuplicateExtension("twice", None)

    monkeypatch.setattr(x509, "load_der_x509_certificate", hostile)
    assert peer_certificate(Tls(b"der")).names == ()


def test_no_certificate_is_none():
    assert peer_certificate(Tls(None)) is None


def test_days_left():
    found = peer_certificate(Tls(make([])))
    assert found.days_left(EXPIRES - datetime.timedelta(days=2)) == 2
    assert found.days_left(EXPIRES + datetime.timedelta(days=1)) == -1
    assert peer_certificate(Tls(b"?")).days_left(EXPIRES) is None
