"""The servers that the other tests rely on, each proved with the standard library's client."""

from __future__ import annotations

import os
import smtplib
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from integration.servers.aiosmtpd_server import PASSWORD, USER
from integration.servers.common import greets, wait_until
from integration.servers.dovecot import FULL, MECHANISMS, QUOTA
from integration.servers.exim import exim
from integration.servers.postfix import HOLD, postfix
from integration.servers.proxies import Proxies
from integration.servers.proxy import accepts
from integration.servers.smtp_sink import smtp_sink

MESSAGE = b"From: news@example.test\r\nTo: ann@example.test\r\nSubject: hello\r\n\r\nline\r\n.dot\r\n"
SENDER, ANN, BOB = "news@example.test", "ann@example.test", "bob@example.test"


def send(server, recipients=(ANN,), context=None, login=None):
    """Send MESSAGE as the server's TLS mode wants it; the recipients that were refused."""
    client_class = smtplib.SMTP_SSL if server.tls == "implicit" else smtplib.SMTP
    extra = {"context": context} if server.tls == "implicit" else {}
    with client_class(server.host, server.port, timeout=20, **extra) as client:
        if server.tls == "starttls":
            client.starttls(context=context)
        if login:
            client.login(*login)
        return client.sendmail(SENDER, list(recipients), MESSAGE)


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_postfix_delivers_into_the_maildir(start_postfix, certificates, tls):
    server = start_postfix(tls=tls)
    assert send(server, [ANN, BOB], certificates.client_context()) == {}
    delivered = server.wait_for(2)
    assert all(content.endswith(b"\n\nline\n.dot\n") for content in delivered)
    assert sorted(message["Delivered-To"] for message in server.inbox) == [ANN, BOB]


def test_postfix_refuses_what_its_settings_refuse(start_postfix):
    refuse_bob = f"check_recipient_access inline:{{ {{ {BOB} = 550 5.1.1 no such user }} }}, permit"
    server = start_postfix(settings={"smtpd_recipient_restrictions": refuse_bob})
    assert send(server, [ANN, BOB])[BOB][0] == 550
    assert len(server.wait_for(1)) == 1


def test_postfix_takes_no_mail_for_strangers(start_postfix):
    server = start_postfix(settings={"mynetworks": "192.0.2.1"})
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(server, ["somebody@elsewhere.test"])


def living(group):
    """The processes of a process group, without the zombies that wait for init."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(stat.parent.name)
    return found


def test_postfix_asks_dovecot_who_may_log_in(start_postfix, start_dovecot):
    server = start_postfix(sasl=start_dovecot().sasl)
    for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):  # what smtplib knows of them
        with smtplib.SMTP(server.host, server.port) as client:
            client.ehlo()
            assert set(client.esmtp_features["auth"].split()) == set(MECHANISMS)
            client.esmtp_features["auth"] = mechanism
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login(USER, "wrong")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail(SENDER, [ANN], MESSAGE)
            client.login(USER, PASSWORD)
            assert client.sendmail(SENDER, [ANN], MESSAGE) == {}
        assert f"sasl_method={mechanism}, sasl_username={USER}" in server.log()
    assert len(server.wait_for(3)) == 3


def test_postfix_keeps_what_dsn_asks_for(start_postfix):
    server = start_postfix(settings=HOLD)
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail(
            SENDER, [ANN], MESSAGE, ["RET=HDRS", "ENVID=x+2By"], ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;a@b"]
        )
    (records,) = server.queued()
    asked = "ret_flags=2", "envelope_id=x+y", "notify_flags=12", "dsn_orig_rcpt=rfc822;a@b"
    assert [f"named_attribute: {what}\n" in records for what in asked] == [True] * 4


def test_postfix_leaves_nothing_behind():
    with postfix() as server:
        send(server)
        server.wait_for(1)
        assert len(living(server.pid)) > 3
    wait_until(lambda: not living(server.pid), "the end of Postfix's daemons")
    assert not server.folder.exists()


@pytest.mark.parametrize("by_socket", [False, True], ids=["TCP", "Unix socket"])
def test_dovecot_refuses_strangers_at_once_and_the_full_after_the_data(start_dovecot, by_socket):
    server = start_dovecot()
    where = (str(server.lmtp), 0) if by_socket else (server.host, server.port)
    with smtplib.LMTP(*where) as client:
        client.ehlo()  # LHLO
        client.mail(SENDER)
        assert [client.rcpt(to)[0] for to in (ANN, "stranger@example.test", FULL)] == [250, 550, 250]
        code, text = client.data(MESSAGE + b"x" * 70 * (QUOTA // 70) + b"\r\n")
        assert (code, client.getreply()[0]) == (250, 552) and ANN.encode() in text
    assert len(server.contents(ANN)) == 1 and server.contents(FULL) == []


def test_dovecot_with_starttls(start_dovecot, certificates):
    server = start_dovecot(tls="starttls")
    with smtplib.LMTP(server.host, server.port) as client:
        client.starttls(context=certificates.client_context())
        client.ehlo()  # LHLO
        assert client.sendmail(SENDER, [ANN], MESSAGE) == {}
    assert server.contents(ANN)[0].endswith(b"\n\nline\n.dot\n")


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_exim_delivers_into_the_maildir_and_refuses_strangers(start_exim, certificates, tls):
    server = start_exim(tls=tls, login=True)
    login = (USER, PASSWORD)
    assert send(server, [ANN, "unknown@example.test"], certificates.client_context(), login) == {
        "unknown@example.test": (550, b"5.1.1 no such user")
    }
    (content,) = server.wait_for(1)
    assert content.endswith(b"\n\nline\n.dot\n") and f"A=cram:{USER}" in server.log()


def test_opensmtpd_delivers_into_the_maildir_and_refuses_strangers(start_opensmtpd):
    server = start_opensmtpd()
    assert send(server, [ANN, "unknown@example.test"])["unknown@example.test"][0] == 550
    (content,) = server.wait_for(1)
    assert content.endswith(b"\n\nline\n.dot\n")


def test_exim_leaves_nothing_behind():
    with exim() as server:
        left_open = smtplib.SMTP(server.host, server.port)
        send(server)
        server.wait_for(1)
        assert len(living(server.pid)) > 1
    left_open.close()
    wait_until(lambda: not living(server.pid), "the end of Exim's processes")
    assert not server.folder.exists()


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_haraka_delivers_into_the_maildir_and_refuses_strangers(start_haraka, certificates, tls):
    server = start_haraka(tls=tls, login=True)
    context, login = certificates.client_context(), (USER, PASSWORD)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        send(server, context=context, login=(USER, "wrong"))
    with pytest.raises(smtplib.SMTPSenderRefused):
        send(server, context=context)
    refused = send(server, [ANN, "unknown@example.test", "later@example.test"], context, login)
    assert {address: code for address, (code, _) in refused.items()} == {
        "unknown@example.test": 550,
        "later@example.test": 450,
    }
    (content,) = server.wait_for(1)
    assert content.endswith(b"\n\nline\n.dot\n") and f"Delivered-To: {ANN}".encode() in content


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_smtp_server_records_what_it_took_and_refuses_strangers(start_smtp_server, certificates, tls):
    server = start_smtp_server(tls=tls, login=True)
    refused = send(server, [ANN, "unknown@example.test"], certificates.client_context(), (USER, PASSWORD))
    assert refused["unknown@example.test"][0] == 550
    (mail,) = server.mails
    assert (mail.sender, mail.recipients, mail.content) == (SENDER, [ANN], MESSAGE)
    assert (mail.tls, mail.user) == (tls is not None, USER)


def test_smtp_server_speaks_lmtp(start_smtp_server):
    server = start_smtp_server(lmtp=True)
    with smtplib.LMTP(server.host, server.port) as client:
        client.ehlo()  # LHLO
        client.mail(SENDER)
        assert [client.rcpt(to)[0] for to in (ANN, "full@example.test")] == [250, 250]
        assert (client.data(MESSAGE)[0], client.getreply()[0]) == (250, 552)


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_aiosmtpd_records_what_it_took(start_aiosmtpd, certificates, tls):
    server = start_aiosmtpd(tls=tls)
    assert send(server, [ANN, BOB], certificates.client_context()) == {}
    (mail,) = server.mails
    assert (mail.sender, mail.recipients, mail.content) == (SENDER, [ANN, BOB], MESSAGE)
    assert mail.tls is (tls is not None)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_aiosmtpd_with_the_wrong_name_is_not_trusted(start_aiosmtpd, certificates, tls):
    server = start_aiosmtpd(tls=tls, wrong_name=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        send(server, context=certificates.client_context())
    assert server.mails == []


def test_aiosmtpd_lets_only_the_right_login_send(start_aiosmtpd):
    server = start_aiosmtpd(auth=True)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        send(server, login=(USER, "wrong"))
    with pytest.raises(smtplib.SMTPSenderRefused):
        send(server)
    assert send(server, login=(USER, PASSWORD)) == {}
    assert [mail.user for mail in server.mails] == [USER]


def test_aiosmtpd_answers_as_it_is_told(start_aiosmtpd):
    server = start_aiosmtpd(
        answers={
            "RCPT": lambda address: "550 5.1.1 no such user" if address == BOB else None,
            "DATA": lambda count: "452 4.3.1 full" if count == 1 else None,
        }
    )
    assert send(server, [ANN, BOB]) == {BOB: (550, b"5.1.1 no such user")}
    with pytest.raises(smtplib.SMTPDataError) as refused:
        send(server)
    assert refused.value.smtp_code == 452
    assert len(server.mails) == 1


def test_smtp_sink_keeps_what_it_took(start_smtp_sink):
    server = start_smtp_sink(keep=True)
    assert send(server, [ANN, BOB]) == {}
    (content,) = server.dumped()
    assert b"X-Rcpt-Args: <bob@example.test>\n" in content
    assert b"\nline\n.dot\n" in content


def test_smtp_sink_refuses_what_its_switches_refuse(start_smtp_sink):
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(start_smtp_sink("-r", "RCPT"))
    assert refused.value.recipients[ANN][0] == 450
    with pytest.raises((smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError)):
        send(start_smtp_sink("-q", "CONNECT"))


def test_a_server_is_gone_when_its_test_ends(tmp_path):
    with smtp_sink(tmp_path) as server:
        assert greets(server.port)
    assert not greets(server.port)
    assert not os.path.exists(f"/proc/{server.pid}")


def test_proxies_leave_nothing_running(tmp_path, certificates):
    """Dante forks; squid is killed, and its helper, in a group of its own, ends when it has nobody to answer."""
    with ExitStack() as running:
        proxies = Proxies(tmp_path, certificates, running)
        started = [proxies.squid(login=True), proxies.dante(), proxies.tinyproxy(), proxies.microsocks(), proxies.ssh()]
        started.append(proxies.tls_front(started[2]))
        assert all(accepts(proxy.port) and os.path.exists(f"/proc/{proxy.pid}") for proxy in started)
        (helper,) = Path(f"/proc/{started[0].pid}/task/{started[0].pid}/children").read_text().split()
        assert living(int(helper)) == [helper] and len(living(started[1].pid)) > 1
    assert not any(accepts(proxy.port) or living(proxy.pid) for proxy in started)
    wait_until(lambda: not living(int(helper)), "the end of squid's helper")


def test_a_missing_program_is_a_skip_with_its_reason_or_a_failure(require, monkeypatch):
    monkeypatch.delenv("BULKMAIL_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-server is not installed"):
        require("no-such-server")
    monkeypatch.setenv("BULKMAIL_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-server is not installed"):
        require("no-such-server")
