"""The steps of a connection as `probe` tells them: what was found, which one failed, and what would help."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta

import pytest

from bulkmail.errors import ConfigError, ConnectionLost, EnvelopeRefused
from bulkmail.net.certificate import Certificate
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.verify import certificate_warnings, probe
from faults.scripted import (
    GREETING,
    always,
    close,
    expect,
    hang,
    hello,
    offer,
    scripted,
    send,
    serve,
    silence,
    start_tls,
)

SOON = 0.15
READY = b"220 2.0.0 go ahead\r\n"
ASK = [*hello("STARTTLS"), expect(rb"STARTTLS")]
LOGIN = [expect(rb"AUTH PLAIN \S+"), send(b"235 2.7.0 welcome\r\n")]


@pytest.fixture(scope="module")
def trust(certificates):
    return {"ca_file": str(certificates.ca_file)}


async def ask(*scripts, implicit_tls=None, url=lambda url: url, **options):
    """The report of one attempt at a scripted server."""
    async with scripted(*scripts, implicit_tls=implicit_tls) as server:
        report = await probe(url(server.url), **{"name": "me.example.test", **options})
        await server.until(lambda s: not any(peer.alive() for peer in s.peers))
        json.dumps([step.as_dict() for step in report.steps])
        return report


def states(report):
    return {step.name: step.state for step in report.steps}


def login(url):
    return url.replace("//", "//ann:s3cret@")


def upgraded(context, *extensions):
    return [*ASK, send(READY), start_tls(context), expect(rb"EHLO \S+"), send(offer(*extensions))]


# ---- what works


def test_every_step_says_what_it_found(run, certificates, trust):
    script = [*upgraded(certificates.server_context(), "SIZE 1000", "AUTH PLAIN"), *LOGIN, serve()]
    report = run(ask(script, url=login, sender="news@example.test", **trust))
    names = ["dns", "connect", "greeting", "ehlo", "tls", "ehlo_again", "login", "sender"]
    assert [step.name for step in report.steps] == names
    assert report.ok and report.failed is None and {step.state for step in report.steps} == {"ok"}
    found = {step.name: step.detail for step in report.steps}
    assert found["dns"] == {"names": {"127.0.0.1": ["127.0.0.1"]}}
    assert found["connect"]["address"].startswith("127.0.0.1:")
    assert found["greeting"] == {"code": 220, "text": "mx.example.test ESMTP"}
    assert found["ehlo"] == {"name": "me.example.test", "extensions": {"STARTTLS": ""}}
    assert found["ehlo_again"]["extensions"] == {"SIZE": "1000", "AUTH": "PLAIN"}
    assert found["login"] == {"mechanism": "plain", "user": "ann"}
    assert found["sender"]["reply"].startswith("250")
    assert report.info.auth == "plain" and report.info.extensions == found["ehlo_again"]["extensions"]
    assert "s3cret" not in str(report) and not report.step("tls").warnings


def test_the_certificate_is_told_by_steps_and_by_server_info(run, certificates, trust):
    report = run(ask([*hello(), serve()], implicit_tls=certificates.server_context(), **trust))
    assert [step.name for step in report.steps] == ["dns", "connect", "tls", "greeting", "ehlo", "login"]
    detail, info = report.step("tls").detail, report.info
    assert detail["version"] == info.tls == "TLSv1.3" and detail["cipher"] == info.cipher
    assert detail["names"] == list(info.certificate.names) == ["localhost", "127.0.0.1", "mx.example.test"]
    assert detail["verified"] and info.certificate.verified and len(detail["sha256"]) == 64
    assert detail["expires"] == info.certificate.expires and detail["expires"].endswith("Z")


def test_without_verification_the_certificate_is_read_and_warned_of(run, certificates):
    verified = run(ask([*hello(), serve()], implicit_tls=certificates.server_context(), ca_file=certificates.ca_file))
    report = run(ask([*hello(), serve()], implicit_tls=certificates.server_context(), verify=False))
    same = {"verified": False, **{key: value for key, value in report.step("tls").detail.items() if key != "verified"}}
    assert same == {**verified.step("tls").detail, "verified": False}  # both ways to read it agree
    assert "not verified" in report.step("tls").warnings[0] and report.ok


def test_without_cryptography_an_unverified_certificate_has_a_fingerprint_only(run, certificates, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    report = run(ask([*hello(), serve()], implicit_tls=certificates.server_context(), verify=False))
    detail = report.step("tls").detail
    assert (detail["names"], detail["issuer"], detail["expires"]) == ([], None, None)
    assert detail["sha256"] in report.step("tls").summary


@pytest.mark.parametrize(
    ("options", "why"), [({}, "does not offer STARTTLS"), ({"tls": "never"}, "tls=never")], ids=["not offered", "never"]
)
def test_clear_text_says_why(run, options, why):
    report = run(ask([*hello(), serve()], **options))
    assert states(report)["tls"] == "skipped" and why in report.step("tls").summary and report.info.tls is None
    assert states(report)["login"] == "skipped" and "no user" in report.step("login").summary


def test_opportunistic_tells_of_the_handshake_that_broke(run):
    script = [*ASK, send(READY), close()]
    report = run(ask(script, [*hello("AUTH PLAIN"), serve()], tls="opportunistic", url=login))
    assert report.ok and states(report)["tls"] == states(report)["login"] == "skipped"
    assert "closed the connection" in report.step("tls").warnings[0]
    assert "no credentials" in report.step("login").summary
    assert "ehlo_again" not in states(report)


def test_opportunistic_with_a_server_that_hangs_up_after_the_handshake(run, certificates):
    script = [*ASK, send(READY), start_tls(certificates.server_context()), expect(rb"EHLO \S+"), close()]
    report = run(ask(script, [*hello(), serve()], tls="opportunistic"))
    assert report.ok and report.step("tls").warnings and "ehlo_again" not in states(report)
    assert report.info.tls is None and report.step("tls").detail == {}


def test_what_other_addresses_said(run, monkeypatch):
    import bulkmail.net.direct as direct
    from bulkmail.net.resolve import Address

    async def main():
        async with scripted([*hello(), serve()]) as server:

            async def resolve(host, port, *, timeout):
                return [Address(socket.AF_INET, ("127.0.0.2", port)), Address(socket.AF_INET, ("127.0.0.1", port))]

            monkeypatch.setattr(direct, "resolve", resolve)
            return await probe(server.url.replace("127.0.0.1", "mx.example.test"))

    report = run(main())
    assert report.step("dns").detail == {"names": {"mx.example.test": ["127.0.0.2", "127.0.0.1"]}}
    assert report.step("connect").detail["failures"] == ["127.0.0.2: Connection refused"]
    assert "127.0.0.2: Connection refused" in report.step("connect").summary


# ---- what fails: (script, options, step, error code, words of the remedy)

REFUSALS = {
    "blocked": ([send(b"554 5.7.1 blocked using zen.spamhaus.org\r\n")], {}, "greeting", "ECONNECTION", "address"),
    "a refusal without a reason": ([send(b"554 no\r\n")], {}, "greeting", "ECONNECTION", "address"),
    "busy": ([send(b"421 4.3.2 too busy\r\n")], {}, "greeting", "ECONNECTION", "later"),
    "no greeting": ([hang()], {"greeting_timeout": SOON}, "greeting", "ETIMEDOUT", "greeting_timeout"),
    "hung up on": ([close()], {}, "greeting", "ELOST", "smtps://"),
    "not SMTP": ([send(b"SSH-2.0-OpenSSH_9.2\r\n"), hang()], {}, "greeting", "EPROTOCOL", "does not speak SMTP"),
    "EHLO refused": ([send(GREETING), expect(rb"EHLO .*"), send(b"550 who?\r\n"), expect(rb"HELO .*"),
                      send(b"550 who?\r\n")], {}, "ehlo", "ECONNECTION", "option name"),
    "EHLO hung up on": ([send(GREETING), expect(rb"EHLO .*"), close()], {}, "ehlo", "ELOST", "option name"),
    "EHLO unanswered": ([send(GREETING), hang()], {"command_timeout": SOON}, "ehlo", "ETIMEDOUT", "command_timeout"),
    "STARTTLS refused": ([*ASK, send(b"454 4.7.0 no\r\n")], {}, "tls", "ETLS", "opportunistic"),
    "STARTTLS missing": ([*hello(), expect(rb"STARTTLS"), send(b"502 what?\r\n")], {"tls": "require"}, "tls", "ETLS",
                         "smtps://"),
    "STARTTLS injected": ([*ASK, send(READY + b"250 evil\r\n"), hang()], {}, "tls", "EPROTOCOL", "do not trust"),
    "handshake hangs": ([*ASK, send(READY), hang()], {"connect_timeout": SOON}, "tls", "ETIMEDOUT", "handshake"),
    "handshake closed": ([*ASK, send(READY), close()], {}, "tls", "ETLS", "let TLS through"),
    "login refused": ([*hello("AUTH PLAIN LOGIN"), expect(rb"AUTH PLAIN .*"), send(b"535 5.7.8 no\r\n"), serve()],
                      {"url": login, "auth": "plain"}, "login", "EAUTH", "app password"),
    "login later": ([*hello("AUTH PLAIN"), expect(rb"AUTH PLAIN .*"), send(b"454 4.7.0 later\r\n"), serve()],
                    {"url": login}, "login", "EAUTH", "try again later"),
    "no login offered": ([*hello(), serve()], {"url": login}, "login", "ENOAUTH", "offers no login"),
    "no login in common": ([*hello("AUTH GSSAPI"), serve()], {"url": login}, "login", "ENOAUTH", "offers gssapi"),
    "sender refused": ([*hello(), serve(always("MAIL", b"550 5.1.8 domain not found\r\n"))], {"sender": "a@b.test"},
                       "sender", "EENVELOPE", "in DNS"),
    "sender without login": ([*hello(), serve(always("MAIL", b"530 5.7.0 Authentication required\r\n"))],
                             {"sender": "a@b.test"}, "sender", "EENVELOPE", "user and password"),
    "421 to MAIL": ([*hello(), expect(rb"MAIL .*"), send(b"421 4.3.2 bye\r\n"), close()], {"sender": "a@b.test"},
                    "sender", "ELOST", "later"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_the_step_that_fails_and_what_would_help(run, case):
    script, options, name, code, words = REFUSALS[case]
    report = run(ask(script, **options))
    failed = report.failed
    assert (failed.name, failed.error.code) == (name, code) and words in failed.remedy
    place = report.steps.index(failed)
    assert all(step.ok is not False for step in report.steps[:place])
    assert all(step.ok is None for step in report.steps[place + 1 :])
    assert "s3cret" not in str(report) and f"remedy: {failed.remedy}" in str(report)


def test_hung_up_on_behind_the_handshake(run, certificates, trust):
    context = certificates.server_context()
    report = run(ask([*upgraded(context)[:-1], close()], **trust))
    assert (report.failed.name, report.failed.error.code) == ("ehlo_again", "ELOST")
    assert "cert_file" in report.failed.remedy and states(report)["tls"] == "ok"


CERTIFICATES = {
    "unknown authority": ({}, False, "ca_file="),
    "another name": ({"ca_file": True}, True, "server_name="),
}


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_that_fails(run, certificates, implicit, case):
    options, wrong, words = CERTIFICATES[case]
    context = certificates.server_context(wrong_name=wrong)
    script = [hang()] if implicit else upgraded(context)
    options = {"ca_file": str(certificates.ca_file)} if options else {}
    report = run(ask(script, implicit_tls=context if implicit else None, **options))
    assert report.failed.name == "tls" and words in report.failed.remedy
    shown = "other.test" if wrong else "mx.example.test"
    assert shown in report.failed.detail["names"] and report.failed.detail["verified"] is False
    assert f"found: certificate for {'other.test' if wrong else 'localhost'}" in str(report)
    after = [step.name for step in report.steps[report.steps.index(report.failed) + 1 :]]
    assert after == (["greeting", "ehlo", "login"] if implicit else ["login"])


def test_no_password_is_shown_to_a_server_whose_certificate_is_refused(run, certificates):
    context = certificates.server_context(wrong_name=True)
    script = [*upgraded(context, "AUTH PLAIN"), serve()]

    async def main():
        async with scripted(script) as server:
            report = await probe(login(server.url), ca_file=certificates.ca_file, auth="plain")
            return report, [bytes(peer.said) for peer in server.peers]

    report, said = run(main())
    assert report.failed.name == "tls" and len(said) == 2 and not any(b"AUTH" in words for words in said)
    assert said[1].endswith(b"STARTTLS\r\n")  # it looked, and left


def test_a_server_that_refuses_our_certificate_when_the_handshake_is_done(run, certificates, trust):
    from faults.test_client_tls import blocking_server

    context = certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca_file)
    with blocking_server(context) as port:
        report = run(probe(f"smtps://127.0.0.1:{port}", **trust))
    assert report.failed.name == "tls" and "cert_file=" in report.failed.remedy
    assert states(report)["greeting"] == "not reached"


def test_clear_text_on_a_port_of_tls_and_the_reverse(run, certificates):
    def smtps(url):
        return url.replace("smtp:", "smtps:")

    report = run(ask([send(GREETING), hang()], url=smtps))
    assert report.failed.name == "tls" and "STARTTLS" in report.failed.remedy
    options = {"url": lambda url: url.replace("smtps:", "smtp:"), "greeting_timeout": SOON}
    report = run(ask([hang()], implicit_tls=certificates.server_context(), **options))
    assert report.failed.name == "greeting" and "greeting_timeout" in report.failed.remedy


def test_no_name_no_server_no_socket(run, free_port, tmp_path):
    report = run(probe("smtp://nobody.invalid"))
    assert report.failed.name == "dns" and "spelled" in report.failed.remedy
    assert {step.state for step in report.steps[1:-1]} == {"not reached"}
    report = run(probe(f"smtp://127.0.0.1:{free_port()}"))
    assert report.failed.name == "connect" and "Nothing listens" in report.failed.remedy
    report = run(probe(f"lmtp+unix://{tmp_path}/missing"))
    assert [step.name for step in report.steps] == ["connect", "greeting", "ehlo", "tls", "login"]
    assert report.failed.name == "connect" and "path" in report.failed.remedy


def test_what_is_not_the_relays_fault_is_raised(run):
    with pytest.raises(ConfigError, match="tsl"):
        run(probe("smtp://127.0.0.1", tsl="require"))
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        run(ask([*ASK, send(READY), hang()], ca_file="missing.pem"))


def test_cancelled_it_leaves_nothing_open(run):
    async def main():
        async with scripted([send(GREETING), hang()]) as server:
            task = asyncio.ensure_future(probe(server.url))
            await server.until(lambda s: s.peers and not task.done())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda s: not s.peers[0].alive())

    run(main())


# ---- proxies


def tunnel(answer):
    """An HTTP proxy's part."""

    async def step(peer):
        await peer.until(b"\r\n\r\n")
        await peer.send(answer)

    return step


CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def through(*script):
    async with scripted(list(script)) as proxy:
        url = f"http://user:s3cret@127.0.0.1:{proxy.port}"
        return await probe("smtp://mx.example.test:25", proxy=url, name="me.example.test")


def test_a_proxy_is_a_step_of_its_own(run):
    report = run(through(tunnel(CONNECTED), *hello(), serve()))
    assert report.ok and [step.name for step in report.steps][:4] == ["dns", "connect", "proxy", "greeting"]
    assert report.step("proxy").detail["target"] == "mx.example.test:25"
    assert "the proxy finds mx.example.test" in report.step("dns").summary and "s3cret" not in str(report)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic\r\n\r\n", "http://user:password@"),
        (b"HTTP/1.1 403 No\r\n\r\n", "rules"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "as seen from the proxy"),
    ],
)
def test_a_proxy_that_refuses(run, answer, words):
    report = run(through(tunnel(answer), hang()))
    assert (report.failed.name, report.failed.error.code) == ("proxy", "EPROXY") and words in report.failed.remedy
    assert states(report)["connect"] == "ok" and states(report)["greeting"] == "not reached"


def test_a_proxy_that_is_not_there_or_silent(run, free_port):
    report = run(probe("smtp://mx.example.test", proxy=f"socks5h://127.0.0.1:{free_port()}"))
    assert (report.failed.name, report.failed.error.code) == ("connect", "EPROXY")
    assert states(report)["proxy"] == "not reached" and "does it run" in report.failed.remedy

    async def mute():
        async with silence() as port:
            proxy = f"socks5h://127.0.0.1:{port}"
            return await probe("smtp://mx.example.test", proxy=proxy, connect_timeout=SOON)

    report = run(mute())
    assert (report.failed.name, report.failed.error.phase) == ("proxy", "proxy") and "socks5h" in report.failed.remedy


# ---- text


def test_a_server_cannot_write_lines_of_its_own(run):
    evil = b"220-mx\x1b[2J\r\n220 login       ok\xe2\x80\xa8EHLO        ok\r\n"
    report = run(ask([send(evil), *hello()[1:], serve()]))
    lines = str(report).splitlines()
    assert len(lines) == len(report.steps) and all(line.isprintable() for line in lines)


def test_each_step_has_a_line_with_its_state(run):
    lines = str(run(ask([send(b"554 no\r\n")]))).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["DNS", "ok"],
        ["connect", "ok"],
        ["greeting", "FAILED"],
        ["remedy:", "The"],
        ["EHLO", "not"],
        ["TLS", "not"],
        ["login", "skipped"],
    ]


@pytest.mark.parametrize(
    ("days", "words"), [(15, None), (13.4, "expires in 13 days"), (0.4, "expires in 0 days"), (-2, "expired on")]
)
def test_a_certificate_that_ends_soon_is_warned_of(days, words):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    expires = (now + timedelta(days=days)).isoformat()
    warnings = certificate_warnings(Certificate(("mx.test",), "CN=mx.test", "CN=ca", expires, "00", True), now)
    assert (words is None and warnings == []) or (len(warnings) == 1 and words in warnings[0])


# ---- Mailer and Connection


def test_mailer_verify_tells_of_the_certificate_and_raises_what_is_wrong(run, certificates, trust):
    async def main(*script, **options):
        context = certificates.server_context()
        async with scripted(list(script), implicit_tls=context) as server, Mailer(server.url, **options) as mailer:
            return await mailer.verify()

    info = run(main(*hello("SIZE 7"), serve(), **trust))
    assert info.extensions == {"SIZE": "7"} and "127.0.0.1" in info.certificate.names and info.cipher
    with pytest.raises(OSError, match="ca_file"):
        run(main(hang()))


def test_connection_verify_asks_the_server_whether_it_is_still_there(run):
    async def main(*faults):
        async with scripted([*hello("SIZE 7"), serve(*faults)]) as server, Connection(server.url) as connection:
            info = await connection.verify()
            return info, server.peers[0].times["NOOP"]

    info, asked = run(main())
    assert info.extensions == {"SIZE": "7"} and asked == 1 and info.certificate is None
    with pytest.raises(ConnectionLost):
        run(main(always("NOOP", close())))


def test_a_sender_beyond_ascii_is_asked_about_with_smtputf8(run):
    async def main(*extensions):
        async with scripted([*hello(*extensions), serve()]) as server, Connection(server.url) as connection:
            await connection.mail("jürgen@example.test")
            return bytes(server.peers[0].said)

    assert "MAIL FROM:<jürgen@example.test> SMTPUTF8\r\n".encode() in run(main("SMTPUTF8"))
    with pytest.raises(EnvelopeRefused, match="SMTPUTF8"):
        run(main())
