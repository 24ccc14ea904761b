"""`check` lints the message as the first recipients get it, with JSON paths, and asks the DNS when told to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bulkmail.cli import main
from bulkmail.job import lint as job_lint
from bulkmail.job.job import Job
from bulkmail.message.lint.dns import Source
from unit.message.dkim_corpus import ed25519_key, rsa_key
from unit.message.dns_server import serving

URL = "https://example.com/u/{{ id }}"
MESSAGE = {
    "from": "News <news@example.com>",
    "to": "{{ name }} <{{ email }}>",
    "subject": "News for {{ name }}",
    "text": f"Hello {{{{ name }}}}, to unsubscribe: {URL}",
    "html": f'<p>Hello {{{{ name }}}}, <a href="{URL}">unsubscribe</a></p>',
    "list_unsubscribe": {"url": URL, "one_click": True},
}
ROWS = [{"email": f"r{n}@example.com", "name": name, "id": n} for n, name in enumerate(("Ann", "Bob", "Zoë"), 1)]


def load(folder, message=MESSAGE, rows=ROWS, **keys):
    manifest = {"job": "news", "message": message, "recipients": rows, "relays": "smtp://relay.example.com", **keys}
    path = folder / "news.json"
    path.write_text(json.dumps(manifest))
    return Job.load(path)


def check(folder, *given, **keys):
    return [(one.id, one.path) for one in load(folder, *given, **keys).check() if one.id != "dkim-missing"]


def test_a_good_message_has_no_findings_and_one_without_a_key_is_told_so(tmp_path):
    assert check(tmp_path) == []
    (found,) = load(tmp_path).check()
    assert (found.id, found.severity, found.path) == ("dkim-missing", "warning", "$.message.dkim")
    assert "Google" in found.source


@pytest.mark.parametrize(
    ("keys", "finding"),
    [
        ({"subject": "FREE NEWS FOR {{ name | upper }}"}, ("subject-caps", "$.message.subject")),
        ({"from": "me@gmail.com"}, ("from-freemail", "$.message.from")),
        ({"html": MESSAGE["html"] + '<a href="http://example.com">x</a>'}, ("link-http", "$.message.html")),
        ({"text": MESSAGE["text"] + " http://example.com/"}, ("link-http", "$.message.text")),
        ({"envelope_from": "b@mailer.net"}, ("from-unaligned", "$.message.envelope_from")),
        ({"headers": {"X-Priority": "1"}}, ("priority", "$.message.priority")),
        ({"headers": {"Precedence": "first-class"}}, ("precedence", "$.message.headers.Precedence")),
        ({"list_unsubscribe": {"url": "https://example.com/u", "one_click": True}},
         ("unsubscribe-constant", "$.message.list_unsubscribe")),
        ({"attachments": [{"content": "x", "name": "a.txt"}, {"content": "x", "name": "b.exe"}]},
         ("attachment-type", "$.message.attachments[1]")),
    ],
)  # fmt: skip
def test_a_finding_has_the_path_of_what_is_to_be_changed(tmp_path, keys, finding):
    assert finding in check(tmp_path, {**MESSAGE, **keys})


def test_a_mail_provider_may_send_its_own_mail(tmp_path):
    message = {**MESSAGE, "from": "me@gmail.com"}
    assert check(tmp_path, message, relays="smtps://me:x@smtp.gmail.com") == []
    assert ("from-freemail", "$.message.from") in check(tmp_path, message, relays="lmtp+unix:///run/lmtp")


def signed(folder, *bits):
    """Keys in files that only their owner reads, one for each number of bits; 0: Ed25519."""
    keys = []
    for place, size in enumerate(bits):
        path = folder / f"{place}.pem"
        path.touch(mode=0o600)
        path.write_text(rsa_key(size) if size else ed25519_key())
        keys.append({"domain": "example.com", "selector": f"s{place}", "key_file": path.name})
    return keys


@pytest.mark.parametrize(
    ("bits", "findings"),
    [
        ((2048,), []),
        ((2048, 0), []),
        ((1024,), [("dkim-weak", "$.message.dkim")]),
        ((2048, 1024), [("dkim-weak", "$.message.dkim[1]")]),
        ((0,), [("dkim-ed25519", "$.message.dkim")]),
    ],
)
def test_the_keys_that_sign(tmp_path, bits, findings):
    assert check(tmp_path, {**MESSAGE, "dkim": signed(tmp_path, *bits)}) == findings


def test_a_key_that_everybody_may_read(tmp_path):
    keys = signed(tmp_path, 2048)
    (tmp_path / "0.pem").chmod(0o644)
    assert check(tmp_path, {**MESSAGE, "dkim": keys[0]}) == [("dkim-key-open", "$.message.dkim")]


def test_a_signature_without_the_unsubscribe_headers(tmp_path):
    keys = [{**signed(tmp_path, 2048)[0], "headers": ["From", "Subject"]}]
    assert check(tmp_path, {**MESSAGE, "dkim": keys}) == [("one-click-signed", "$.message.list_unsubscribe")]


def test_what_only_one_recipient_shows_is_found_and_says_whose_copy_it_is(tmp_path):
    rows = [*ROWS[:2], {**ROWS[2], "name": "[[NAME]]"}]
    found = [one for one in load(tmp_path, rows=rows).check() if one.id == "template-marks"]
    assert {one.path for one in found} == {"$.message.subject", "$.message.html", "$.message.text"}
    assert all(one.text.endswith("(recipient 3)") for one in found)


def test_no_more_than_the_first_recipients_are_looked_at(tmp_path):
    rows = [{**ROWS[0], "email": f"r{n}@example.com"} for n in range(job_lint.SAMPLES)]
    rows.append({**ROWS[0], "name": "[[NAME]]"})
    assert "template-marks" not in {one for one, _ in check(tmp_path, rows=rows)}


def test_a_recipient_whose_message_cannot_be_composed_does_not_end_the_lint(tmp_path):
    message = {**MESSAGE, "subject": "{{ 1 // (id - 1) }} THE NEWS OF NOVEMBER"}
    found = check(tmp_path, message)
    assert ("message", "$.recipients") in found
    assert ("subject-caps", "$.message.subject") in found


def test_a_list_from_standard_input_is_stood_in_for(tmp_path):
    message = {**MESSAGE, "subject": "THE NEWS OF NOVEMBER"}
    assert ("subject-caps", "$.message.subject") in check(tmp_path, message, rows="-")


def test_a_ready_message_is_linted_too(tmp_path):
    (tmp_path / "news.eml").write_bytes(b"From: News <news@example.com>\r\nSubject: Re: hello\r\n\r\nhello\r\n")
    found = check(tmp_path, {"raw": "news.eml", "envelope_from": "b@mailer.net"})
    assert {("subject-reply", "$.message.raw"), ("date-missing", "$.message.raw")} <= set(found)
    assert ("from-unaligned", "$.message.envelope_from") in found


def test_a_shared_message_has_one_copy_and_one_message_id(tmp_path):
    message = {"from": "news@example.com", "subject": "News", "text": "unsubscribe: https://example.com/u"}
    found = check(tmp_path, {**message, "list_unsubscribe": {"url": "https://example.com/u", "one_click": True}})
    assert found == [("unsubscribe-constant", "$.message.list_unsubscribe"), ("message-id-shared", "$.message")]


# ---- DNS


def test_the_dns_is_asked_only_when_told_to(tmp_path):
    message = {**MESSAGE, "from": "news@brand.shop"}
    with serving({"brand.shop": {"MX": ["0 ."]}}) as server:
        job = load(tmp_path, message)
        assert "mx-null" not in {one.id for one in job.check()}
        assert server.asked == []
        found = {(one.id, one.path) for one in job.check(dns=True, dns_server=server.address)}
        assert {("mx-null", "$.message.from"), ("spf-missing", "$.message.envelope_from")} <= found


def test_the_options_of_the_command(tmp_path):
    load(tmp_path, {**MESSAGE, "from": "news@brand.shop"})
    path = str(tmp_path / "news.json")
    with serving({"brand.shop": {"MX": ["0 ."]}}) as server:
        asked = CliRunner().invoke(main, ["check", path, "--dns-server", server.address])
        assert (asked.exit_code, "[mx-null]" in asked.stdout) == (0, True)
        count = len(server.asked)
        assert "dns" not in CliRunner().invoke(main, ["check", path, "--no-dns", "--dns-server", server.address]).stdout
        assert len(server.asked) == count
    refused = CliRunner().invoke(main, ["check", path, "--dns-server", "somewhere"])
    assert (refused.exit_code, "expected an address" in refused.stderr) == (2, True)


def test_the_addresses_that_the_manifest_states_are_asked_about(tmp_path):
    relays = [
        {"name": "a", "url": "smtp://a.example.com?name=mta.brand.shop", "local_address": "9.9.9.10"},
        {"name": "b", "url": "smtp://b.example.com", "egress": ["x", "y", "z"]},
        {"name": "c", "url": "smtp://c.example.com"},
    ]
    egress = {"x": {"local_address": "9.9.9.11"}, "y": "socks5://p.example.com", "z": "direct"}
    job = load(tmp_path, relays=relays, egress=egress)
    assert job_lint._sources(job.manifest) == [
        Source("9.9.9.10", "mta.brand.shop", "$.relays[0]"),
        Source("9.9.9.11", None, "$.egress.x"),
    ]


def test_a_run_does_not_load_the_rules(tmp_path):
    load(tmp_path)
    code = (
        "import sys\n"
        "from bulkmail.job.job import Job\n"
        "assert Job.load('news.json').run(dry_run=True).exit_code == 0\n"
        "assert not [name for name in sys.modules if name.startswith(('bulkmail.message.lint', 'dns.'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
