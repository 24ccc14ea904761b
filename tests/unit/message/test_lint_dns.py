"""What the DNS says of a message's domains, by a server that answers, refuses, keeps silent or lies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConfigError
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_record import record_text
from bulkmail.message.lint import Sample, Signing, dns, spf
from bulkmail.message.lint.dns import Source, Subject, lint_dns
from unit.message.dns_server import GARBAGE, LARGE, REFUSED, SERVFAIL, SILENT, serving
from unit.message.lint_examples import HEADERS, NOW, SIGNATURE, Example

FROM, SENDER, ADDRESS = "brand.shop", "bounce.brand.shop", "9.9.9.10"
SOURCES = (Source(ADDRESS, "mta.brand.shop", "$.relays"),)


@pytest.fixture(scope="module")
def key():
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = generate_private_key(65537, 2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def quoted(text):
    """A TXT record in the strings of at most 255 bytes that DNS has."""
    return " ".join('"' + text[at : at + 255].replace('"', '\\"') + '"' for at in range(0, len(text), 255))


def zone(**changes):
    """Records that nothing can be said against; `changes`: "name|type" -> records, None to leave the name out."""
    made = {
        FROM: {"MX": ["10 mx.brand.shop."]},
        SENDER: {"MX": ["10 mx.brand.shop."], "TXT": [quoted(f"v=spf1 ip4:{ADDRESS} include:_spf.brand.shop -all")]},
        "_spf.brand.shop": {"TXT": [quoted("v=spf1 ip4:9.9.9.0/28 ~all")]},
        f"_dmarc.{FROM}": {"TXT": [quoted("v=DMARC1; p=reject; rua=mailto:dmarc@brand.shop")]},
        f"s1._domainkey.{FROM}": {"TXT": [quoted("v=DKIM1; k=rsa; p=MIIB")]},
        "10.9.9.9.in-addr.arpa": {"PTR": ["mta.brand.shop."]},
        "mta.brand.shop": {"A": [ADDRESS]},
    }
    for place, records in changes.items():
        name, _, kind = place.partition("|")
        if records is None:
            made.pop(name, None)
        else:
            made[name] = {**made.get(name, {}), kind: records}
    return made


def subject(*, keys=(), sources=SOURCES, signature=None, **sample):
    headers = {"From": f"News <news@{FROM}>", "DKIM-Signature": signature or SIGNATURE.replace("example.com", FROM)}
    given = {"sender": f"b@{SENDER}", **sample}
    return Subject(Sample(Example("", headers).eml(), str, NOW, **given), keys, sources)


def ask(records, asked=None, **options):
    with serving(records) as server:
        found = lint_dns(asked or subject(), server=server.address, **options)
    return found


def ids(findings):
    return sorted(finding.id for finding in findings)


def test_good_records_have_no_findings():
    assert ask(zone()) == []


EXAMPLES = {
    "spf-missing": {f"{SENDER}|TXT": [quoted("some other text")]},
    "spf-several": {f"{SENDER}|TXT": [quoted("v=spf1 -all"), quoted("v=spf1 mx -all")]},
    "spf-syntax": {f"{SENDER}|TXT": [quoted("v=spf1 ip4:9.9.9.300 -all")]},
    "spf-lookups": {f"{SENDER}|TXT": [quoted("v=spf1 " + "mx:brand.shop " * 11 + "-all")]},
    "spf-open": {f"{SENDER}|TXT": [quoted("v=spf1 +all")]},
    "spf-end": {f"{SENDER}|TXT": [quoted(f"v=spf1 ip4:{ADDRESS}")]},
    "spf-address": {f"{SENDER}|TXT": [quoted("v=spf1 ip4:9.9.9.11 -all")]},
    "dkim-record": {f"s1._domainkey.{FROM}|TXT": None},
    "dmarc-missing": {f"_dmarc.{FROM}|TXT": None},
    "dmarc-several": {f"_dmarc.{FROM}|TXT": [quoted("v=DMARC1; p=none"), quoted("v=DMARC1; p=reject")]},
    "dmarc-syntax": {f"_dmarc.{FROM}|TXT": [quoted("v=DMARC1; rua=mailto:d@brand.shop")]},
    "dmarc-rua": {f"_dmarc.{FROM}|TXT": [quoted("v=DMARC1; p=none")]},
    "domain-missing": {f"{FROM}|MX": None},
    "mx-missing": {f"{FROM}|MX": []},
    "mx-null": {f"{FROM}|MX": ["0 ."]},
    "ptr-missing": {"10.9.9.9.in-addr.arpa|PTR": None},
    "ptr-forward": {"10.9.9.9.in-addr.arpa|PTR": ["other.brand.shop."], "other.brand.shop|A": ["9.9.9.99"]},
    "ptr-generic": {
        "10.9.9.9.in-addr.arpa|PTR": ["static-9-9-9-10.isp.net."],
        "static-9-9-9-10.isp.net|A": [ADDRESS],
    },
    "dns-unknown": {f"{SENDER}|TXT": SERVFAIL},
}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_an_example_breaks_its_rule_and_no_other(rule):
    (found,) = ask(zone(**EXAMPLES[rule]))
    assert (found.id, found.severity) == (rule, next(one.severity for one in dns.RULES if one.id == rule))
    assert found.remedy
    assert found.source


def test_the_other_rules():
    other = {
        "ehlo-name": ids(ask(zone(), subject(sources=[Source(ADDRESS, "elsewhere.brand.shop", "$.relays")]))),
        "dmarc-policy": ids(
            ask(
                zone(**{"mailer.net|MX": ["10 mx.mailer.net."], "mailer.net|TXT": [quoted("v=spf1 ip4:9.9.9.10 -all")],
                        "s1._domainkey.mailer.net|TXT": [quoted("p=MIIB")]}),
                subject(signature=SIGNATURE.replace("example.com", "mailer.net"), sender="b@mailer.net"),
            )
        ),
    }  # fmt: skip
    assert other == {"ehlo-name": ["ehlo-name"], "dmarc-policy": ["dmarc-policy"]}
    assert {rule.id for rule in dns.RULES} == {*EXAMPLES, *other, "dkim-testing"}


# ---- keys that sign


def test_a_key_is_compared_with_its_record(key):
    ours = Dkim(FROM, "s1", key=key)
    asked = subject(keys=[("dkim[0]", ours)], given=[Signing(FROM, "s1")])
    name = f"s1._domainkey.{FROM}|TXT"
    assert ask(zone(**{name: [quoted(record_text(ours))]}), asked) == []
    (found,) = ask(zone(**{name: None}), asked)
    assert (found.id, found.severity, found.path) == ("dkim-record", "error", "dkim[0]")
    (found,) = ask(zone(**{name: [quoted("v=DKIM1; k=rsa; p=")]}), asked)
    assert (found.id, "revoked" in found.text) == ("dkim-record", True)
    (found,) = ask(zone(**{name: [quoted(record_text(ours).replace("; p=", "; t=y; p="))]}), asked)
    assert (found.id, found.severity) == ("dkim-testing", "warning")
    assert "PRIVATE" not in found.text


# ---- SPF


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 a:mta.brand.shop -all",
        "v=spf1 mx:mx.records.shop -all",
        "v=spf1 a:net.brand.shop/24 -all",
        "v=spf1 redirect=_spf.brand.shop",
        "v=spf1 include:%{i}._spf.brand.shop -all",
        "v=spf1 ?include:none.brand.shop exists:%{i}.x.brand.shop ip4:9.9.9.0/24 -all",
        "V=SPF1 IP4:9.9.9.10 -ALL",
    ],
)
def test_records_that_let_the_address_send_or_may(record):
    records = zone(**{
        f"{SENDER}|TXT": [quoted(record)],
        "mx.records.shop|MX": ["10 mta.brand.shop."],
        "net.brand.shop|A": ["9.9.9.1"],
        "none.brand.shop|TXT": [quoted("v=spf1 -all")],
    })  # fmt: skip
    assert ask(records) == []


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("v=spf1 ipv4:9.9.9.9 -all", "no mechanism"),
        ("v=spf1 include: -all", "no domain"),
        ("v=spf1 include:brand -all", "no domain"),
        ("v=spf1 a/33 -all", "prefix"),
        ("v=spf1 -all:x", "takes nothing"),
        ("v=spf1 include:nowhere.shop -all", "nowhere.shop has no SPF record"),
        ("v=spf1 redirect=nowhere.shop", "nowhere.shop has no SPF record"),
        ("v=spf1 redirect=a.shop redirect=b.shop", "twice"),
        (f"v=spf1 include:{SENDER} -all", "includes itself"),
        ("v=spf1 include:loop.shop -all", "includes itself"),
        ("v=spf1 include:broken.shop -all", "broken.shop has a broken"),
        ("v=spf1 " + "ip4:9.9.9.9 " * 300, "more than 200 terms"),
    ],
)
def test_records_that_do_not_count(record, words):
    more = {
        "loop.shop|TXT": [quoted("v=spf1 include:loop.shop -all")],
        "broken.shop|TXT": [quoted("v=spf1 nonsense")],
    }
    (found,) = ask(zone(**{f"{SENDER}|TXT": [quoted(record)], **more}))
    assert found.id == "spf-syntax"
    assert words in found.text


def test_lookups_of_included_records_count_and_no_more_are_followed():
    chain = {f"i{number}.shop|TXT": [quoted(f"v=spf1 include:i{number + 1}.shop a -all")] for number in range(40)}
    records = zone(**{f"{SENDER}|TXT": [quoted("v=spf1 include:i0.shop -all")], **chain})
    with serving(records) as server:
        assert ids(lint_dns(subject(sources=()), server=server.address)) == ["spf-lookups"]
        assert len([name for name, _, _ in server.asked if name.startswith("i")]) <= 10


# ---- DMARC


def test_the_policy_of_the_organization_counts_for_what_is_below(monkeypatch):
    asked = replace(subject(sources=()), sample=replace(subject().sample, eml=Example("", {
        "From": f"n@a.b.{FROM}", "DKIM-Signature": SIGNATURE.replace("example.com", FROM)}).eml()))  # fmt: skip
    records = zone(**{f"a.b.{FROM}|MX": ["10 mx.brand.shop."]})
    assert ask(records, asked) == []
    monkeypatch.setattr(dns.domains, "_suffixes", lambda: None)
    assert ask(records, asked) == []
    assert ids(ask(zone(**{f"a.b.{FROM}|MX": ["10 mx.brand.shop."], f"_dmarc.{FROM}|TXT": None}), asked)) == [
        "dmarc-missing"
    ]


# ---- what is not known


@pytest.mark.parametrize("trouble", [SERVFAIL, REFUSED, GARBAGE])
def test_what_fails_is_a_note(trouble):
    records = {name: dict.fromkeys(kinds, trouble) for name, kinds in zone().items()}
    found = ask(records)
    assert {(one.id, one.severity) for one in found} == {("dns-unknown", "note")}
    assert len(found) == 6


def test_a_server_that_keeps_silent_costs_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr("bulkmail.message.lint.resolver.QUESTION_SECONDS", 30.0)
    found = ask(zone(**{f"{SENDER}|TXT": SILENT, f"_dmarc.{FROM}|TXT": SILENT}), seconds=0.5)
    assert ids(found) == ["dns-unknown", "dns-unknown"]
    assert all("no answer within 0.5 s" in one.text for one in found)


def test_truncated_answers_are_asked_for_again_by_tcp():
    records = zone(**{f"{SENDER}|TXT": [LARGE, quoted(f"v=spf1 ip4:{ADDRESS} -all")]})
    with serving(records) as server:
        assert lint_dns(subject(), server=server.address) == []
        assert (SENDER, "TXT", "tcp") in server.asked


def test_a_server_that_does_not_know_the_root_is_not_believed():
    """It would say of every domain that it does not exist."""
    (found,) = ask({"": {"NS": []}})
    assert (found.id, found.severity) == ("dns-unknown", "note")
    (found,) = ask({"": {"NS": REFUSED}})
    assert "REFUSED" in found.text


def test_no_server_at_all():
    (found,) = lint_dns(subject(), server="127.0.0.1:1")
    assert (found.id, found.severity) == ("dns-unknown", "note")


@pytest.mark.parametrize("server", ["", "dns.example.com", "127.0.0.1:0", "127.0.0.1:x", "[::1", "1.2.3.4:99999"])
def test_a_server_that_is_no_address_is_refused(server):
    with pytest.raises(ConfigError, match="expected an address"):
        lint_dns(subject(), server=server)


def test_each_question_is_asked_once():
    with serving(zone()) as server:
        lint_dns(subject(sources=[Source(ADDRESS, "mta.brand.shop", str(n)) for n in range(5)]), server=server.address)
        assert len(server.asked) == len(set(server.asked))


def test_names_for_examples_and_private_addresses_are_not_asked_about():
    headers = {"From": HEADERS["From"]}
    asked = Subject(Sample(Example("", headers).eml(), str, NOW, sender="b@example.com"), (),
                    [Source("10.0.0.1", "x.example.com", "p"), Source("eth0", None, "p")])  # fmt: skip
    with serving({}) as server:
        assert lint_dns(asked, server=server.address) == []
        assert server.asked == [("", "NS", "udp")]


def test_hostile_records_are_data():
    evil = "v=spf1 " + "include:" * 500
    records = zone(**{
        f"{SENDER}|TXT": [quoted(evil)],
        f"_dmarc.{FROM}|TXT": [quoted("v=DMARC1; p=" + "x\\\\n" * 500)],
        f"s1._domainkey.{FROM}|TXT": [quoted("p=;" * 500)],
    })  # fmt: skip
    found = ask(records)
    assert ids(found) == ["dkim-record", "dmarc-syntax", "spf-syntax"]
    assert all(one.text.isprintable() and len(one.text) < 400 for one in found)


def test_it_may_be_called_where_a_loop_runs():
    async def inside():
        with serving(zone()) as server:
            return await asyncio.to_thread(lambda: None) or lint_dns(subject(), server=server.address)

    assert asyncio.run(inside()) == []


def test_without_the_library_that_is_told(monkeypatch):
    monkeypatch.setattr(dns, "is_installed", lambda: False)
    (found,) = lint_dns(subject())
    assert (found.id, found.severity) == ("dns-unknown", "note")
    assert "bulkmail[dns]" in found.text


def test_a_lint_without_dns_does_not_load_the_library():
    code = (
        "import sys, bulkmail\n"
        "bulkmail.Message('a@example.com', 'b@example.com', 's', 't').lint()\n"
        "assert 'dns' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.text(st.sampled_from('v=spf1 :/%{}i+-~?.abcdemxpntrlu0123456789_\\"é'), max_size=120))
def test_any_record_is_read_or_refused_by_its_problem(text):
    try:
        record = spf.parse("v=spf1 " + text)
    except spf.SyntaxProblem as problem:
        assert str(problem)
    else:
        assert all(term.sign in "+-~?" for term in record.terms)
