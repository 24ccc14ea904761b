"""`bulkmail check` and a DNS server of others: what it tells of a job's domains, keys and addresses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_record import record_text
from integration.cli_program import bulkmail
from integration.servers.nsd import nsd

URL = "https://brand.shop/u/{{ id }}"
MANIFEST = {
    "job": "news",
    "message": {
        "from": "News <news@brand.shop>",
        "envelope_from": "b@bounce.brand.shop",
        "subject": "Hello",
        "text": f"Hello. To unsubscribe: {URL}",
        "list_unsubscribe": {"url": URL, "one_click": True},
        "dkim": {"domain": "brand.shop", "selector": "s1", "key_file": "key.pem"},
    },
    "recipients": [{"email": "ann@example.net", "id": "k1"}, {"email": "bob@example.net", "id": "k2"}],
    "relays": [{"name": "a", "url": "smtp://mx.example.net?name=mta.brand.shop", "local_address": "9.9.9.10"}],
}
# The included record is larger than a UDP answer may be: the resolver has to come again by TCP.
RECORDS = """
brand.shop. 60 IN MX 10 mx.brand.shop.
bounce.brand.shop. 60 IN MX 10 mx.brand.shop.
bounce.brand.shop. 60 IN TXT "v=spf1 include:_spf.brand.shop -all"
_spf.brand.shop. 60 IN TXT "v=spf1 {many}" "ip4:9.9.9.0/24 -all"
_dmarc.brand.shop. 60 IN TXT "v=DMARC1; p=reject; " "rua=mailto:dmarc@brand.shop"
10.9.9.9.in-addr.arpa. 60 IN PTR mta.brand.shop.
mta.brand.shop. 60 IN CNAME mta1.brand.shop.
mta1.brand.shop. 60 IN A 9.9.9.10
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    made = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_text(made)
    (tmp_path / "news.json").write_text(json.dumps(MANIFEST))
    return tmp_path


def records(job: Path) -> str:
    text = record_text(Dkim("brand.shop", "s1", key_file=job / "key.pem"))
    strings = " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))
    many = '" "'.join(f"ip4:9.9.{n}.0/24 " for n in range(10, 110))
    return RECORDS.format(many=many) + f"s1._domainkey.brand.shop. 60 IN TXT {strings}\n"


def check(job: Path, server: str) -> tuple[int, list[tuple[str, str]]]:
    done = bulkmail("check", "news.json", "--json", "--strict", "--dns-server", server, cwd=job)
    return done.returncode, [(one["id"], one["path"]) for one in json.loads(done.stdout)["findings"]]


def test_a_job_whose_records_are_right_is_clean(job):
    with nsd(job / "dns", records(job)) as server:
        assert check(job, server) == (0, [])


def test_what_is_missing_is_told(job):
    wrong = records(job).replace("s1._domainkey", "s2._domainkey").replace("10.9.9.9.in", "11.9.9.9.in")
    wrong = wrong.replace("p=reject; ", "p=all; ").replace(
        "brand.shop. 60 IN MX 10 mx.brand.shop.", "brand.shop. 60 IN MX 0 .", 1
    )
    with nsd(job / "dns", wrong) as server:
        status, found = check(job, server)
    assert status == 2
    assert sorted(found) == [
        ("dkim-record", "$.message.dkim"),
        ("dmarc-syntax", "$.message.from"),
        ("mx-null", "$.message.from"),
        ("ptr-missing", "$.relays"),
    ]


def test_a_server_that_is_gone_is_a_note(job):
    with nsd(job / "dns", "") as server:
        pass
    assert check(job, server) == (0, [("dns-unknown", "$.message")])
