"""Each policy of TLS against each way in which a server may answer it; what is forgotten; who is let in."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest

from bulkmail.errors import BulkmailError, ConnectionLost, ProtocolError, TimedOut, TlsError
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import (
    GREETING,
    close,
    expect,
    hang,
    hello,
    offer,
    reset,
    scripted,
    send,
    serve,
    start_tls,
    take,
)

trustme = pytest.importorskip("trustme")

SOON = 0.15
ANN = Envelope("news@example.test", ["ann@example.test"])
READY = b"220 2.0.0 go ahead\r\n"
ASK = [*hello("STARTTLS"), expect(rb"STARTTLS")]
LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)


class Pki:
    """An authority that clients trust, and server contexts that are good, or bad in one way."""

    def __init__(self, folder):
        self.folder = folder
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.ca_file = self.write("ca.pem", self.authority.cert_pem)
        past = {"not_before": LONG_AGO, "not_after": LONG_AGO + datetime.timedelta(days=90)}
        self.leaves = {
            "good": self.authority.issue_cert("127.0.0.1"),
            "another name": self.authority.issue_cert("other.test"),
            "expired": self.authority.issue_cert("127.0.0.1", **past),
            "unknown authority": self.stranger.issue_cert("127.0.0.1"),
        }
        ours, wrong = self.authority.issue_cert("client.test"), self.stranger.issue_cert("client.test")
        self.own = self.write("own.pem", ours.private_key_and_cert_chain_pem)
        self.wrong = self.write("wrong.pem", wrong.private_key_and_cert_chain_pem)

    def write(self, name, blob):
        blob.write_to_path(str(self.folder / name))
        return str(self.folder / name)

    def server(self, leaf="good", *, asks=False, only=None):
        """asks: for a certificate of the client's; only: the one TLS version that it speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.leaves[leaf].configure_cert(context)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        if only is not None:
            if only < ssl.TLSVersion.TLSv1_2:
                context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = only
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


async def attempt(*scripts, url=lambda url: url, implicit_tls=None, **options):
    """(what came of one message, what the server heard on each connection).

    What came: "tls" or "clear" if it was delivered, the class of the error if not.
    """
    async with scripted(*scripts, implicit_tls=implicit_tls) as server:
        try:
            async with Connection(url(server.url), **{"name": "me.example.test", **options}) as connection:
                assert (await connection.send(ANN, b"hello\r\n")).accepted
                outcome = "tls" if connection.secure else "clear"
                assert server.contents() == [b"hello\r\n"]
        except BulkmailError as error:
            outcome = error
            assert server.messages == []
        await server.until(lambda s: not any(peer.alive() for peer in s.peers))
        return outcome, [bytes(peer.said) for peer in server.peers]


def upgraded(context):
    return [*ASK, send(READY), start_tls(context), expect(rb"EHLO \S+"), send(offer("X-TLS")), serve()]


# ---- the matrix. A server that may be left alone serves in clear; the second connection always does

IN_CLEAR = [*hello("STARTTLS"), serve()]
DELIVERED, BROKEN = {"never": "clear", "opportunistic": "tls"}, {"never": "clear", "opportunistic": "clear again"}
SERVERS = {
    "good": (None, {"never": "clear", "auto": "tls", "require": "tls", "opportunistic": "tls"}),
    **{
        f"refuses with {code}": (
            [*ASK, send(b"%d no\r\n" % code), serve()],
            {"never": "clear", "opportunistic": "clear"},
        )
        for code in (454, 500, 501, 502, 554)
    },
    "another name": (None, DELIVERED),
    "expired": (None, DELIVERED),
    "unknown authority": (None, DELIVERED),
    "closes": ([*ASK, send(READY), close()], BROKEN),
    "resets": ([*ASK, send(READY), reset()], BROKEN),
    "hangs": ([*ASK, send(READY), hang()], BROKEN),
    "speaks garbage": ([*ASK, send(READY), take(5), send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), hang()], BROKEN),
    "goes silent in mid-handshake": ([*ASK, send(READY), take(5), send(b"\x16\x03\x03\x00\x7a\x02"), hang()], BROKEN),
    "sends an alert": ([*ASK, send(READY), take(5), send(b"\x15\x03\x01\x00\x02\x02\x28"), close()], BROKEN),
}


@pytest.mark.parametrize("policy", ["never", "auto", "require", "opportunistic"])
@pytest.mark.parametrize("case", SERVERS)
def test_a_policy_and_a_server(run, pki, policy, case):
    script, outcomes = SERVERS[case]
    script = script or upgraded(pki.server(case))
    if policy == "never":
        script = IN_CLEAR
    outcome, said = run(attempt(script, IN_CLEAR, tls=policy, ca_file=pki.ca_file, connect_timeout=SOON * 4))
    wanted = outcomes.get(policy)
    if wanted is None:
        assert isinstance(outcome, TlsError | TimedOut) and len(said) == 1 and b"MAIL" not in said[0]
        assert outcome.scope in ("relay", "connection") and not outcome.permanent
        assert isinstance(outcome, TlsError) or outcome.phase == "connect"
        assert "127.0.0.1" in str(outcome)
    else:
        assert outcome == wanted.split()[0] and len(said) == (2 if wanted == "clear again" else 1)
        assert policy != "never" or b"STARTTLS" not in said[0]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("another name", ["not for 127.0.0.1", "'server_name'"]),
        ("expired", ["has expired", "clocks"]),
        ("unknown authority", ["not from a known authority", "'ca_file'"]),
    ],
)
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_a_bad_certificate_names_the_host_the_reason_and_the_option(run, pki, case, words, implicit):
    context = pki.server(case)
    script = [hang()] if implicit else upgraded(context)
    error, _ = run(attempt(script, implicit_tls=context if implicit else None, ca_file=pki.ca_file))
    assert type(error) is TlsError and error.code == "ETLS"
    assert str(error).startswith("127.0.0.1: TLS failed: ") and all(word in str(error) for word in words)


def test_a_server_without_starttls_is_named_as_such(run):
    script = [*hello(), expect(rb"STARTTLS"), send(b"502 5.5.1 what?\r\n"), hang()]
    error, _ = run(attempt(script, tls="require"))
    assert type(error) is TlsError and "does not offer" in str(error) and "502" in str(error)


def test_a_hanging_handshake_names_the_host(run):
    error, _ = run(attempt([*ASK, send(READY), hang()], connect_timeout=SOON))
    assert type(error) is TimedOut and error.phase == "connect" and "127.0.0.1" in str(error)


# ---- text of others around the 220


@pytest.mark.parametrize("policy", ["auto", "require", "opportunistic"])
@pytest.mark.parametrize(
    "early", [READY, b"250 2.0.0 ok\r\n", b"250-half", b"\r\n"], ids=["220", "250", "half", "empty"]
)
def test_text_that_came_before_we_asked_is_no_answer(run, policy, early):
    """Whoever put a 220 behind the reply to EHLO would begin our handshake before the server has heard of it."""
    script = [send(GREETING), expect(rb"EHLO \S+"), send(offer("STARTTLS") + early), hang()]
    error, said = run(attempt(script, tls=policy, command_timeout=SOON))
    assert isinstance(error, ProtocolError | TimedOut)
    assert len(said) == 1 and b"\x16\x03" not in said[0] and b"MAIL" not in said[0]


def test_a_220_of_several_lines_is_one_reply(run, pki):
    script = [*ASK, send(b"220-2.0.0 well\r\n220 2.0.0 go ahead\r\n"), *upgraded(pki.server())[len(ASK) + 1 :]]
    assert run(attempt(script, ca_file=pki.ca_file))[0] == "tls"


@pytest.mark.parametrize("policy", ["auto", "require", "opportunistic"])
def test_the_second_line_of_an_unfinished_220_is_not_waited_for_in_clear(run, policy):
    error, said = run(attempt([*ASK, send(READY + b"220-"), hang()], tls=policy, connect_timeout=SOON))
    assert isinstance(error, ProtocolError) and len(said) == 1 and b"\x16\x03" not in said[0]


def test_what_was_offered_in_clear_is_forgotten(run, pki):
    """SIZE 3 would refuse the message, PIPELINING and CHUNKING would change how it is sent."""
    clear = [*hello("STARTTLS", "SIZE 3", "PIPELINING", "CHUNKING", "LIMITS RCPTMAX=0"), expect(rb"STARTTLS")]
    outcome, said = run(attempt([*clear, *upgraded(pki.server())[len(ASK) :]], ca_file=pki.ca_file))
    assert outcome == "tls" and b"BDAT" not in said[0] and b"SIZE=" not in said[0]


def test_lmtp_says_lhlo_again(run, pki):
    async def main():
        lhlo = [expect(rb"LHLO \S+"), send(offer("STARTTLS")), expect(rb"STARTTLS"), send(READY)]
        again = [start_tls(pki.server()), expect(rb"LHLO \S+"), send(offer("X-TLS")), serve()]
        async with scripted([send(GREETING), *lhlo, *again]) as server:
            url = server.url.replace("smtp:", "lmtp:")
            async with Connection(url, tls="require", ca_file=pki.ca_file) as connection:
                return connection.tls, connection.extensions

    assert run(main()) == ("TLSv1.3", {"X-TLS": ""})


# ---- versions, sessions


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize(
    ("version", "lowest"), [(ssl.TLSVersion.TLSv1_1, "1.2"), (ssl.TLSVersion.TLSv1_2, "1.3")], ids=["1.1", "1.2"]
)
def test_a_server_that_is_too_old(run, pki, version, lowest, implicit):
    context = pki.server(only=version)
    script = [hang()] if implicit else upgraded(context)
    error, _ = run(attempt(script, implicit_tls=context if implicit else None, ca_file=pki.ca_file, tls_min=lowest))
    assert type(error) is TlsError and "127.0.0.1" in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_no_session_is_resumed(run, pki, version):
    """A resumed one has no certificate that could be checked against the name."""
    context = pki.server(only=version)
    options = {"implicit_tls": context, "ca_file": pki.ca_file}

    async def main():
        return [(await attempt([*hello(), serve()], **options))[0] for _ in range(3)]

    assert run(main()) == ["tls"] * 3
    stats = context.session_stats()
    assert stats["accept_good"] == 3 and stats["hits"] == 0


# ---- certificates of ours


@contextmanager
def strict_server(context, starttls):
    """By a thread: asyncio's servers close without the alert that says what is wrong. Yields its port."""

    def serve_one():
        with suppress(OSError), listener.accept()[0] as client:
            if starttls:
                client.sendall(GREETING)
                client.recv(1000)
                client.sendall(offer("STARTTLS"))
                client.recv(1000)
                client.sendall(READY)
            with context.wrap_socket(client, server_side=True) as peer:
                if not starttls:
                    peer.sendall(GREETING)
                peer.recv(1000)
                peer.sendall(offer())
                peer.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("given", ["none", "wrong", "own"])
def test_a_server_that_wants_a_certificate_of_ours(run, pki, given, scheme, version):
    options = {"ca_file": pki.ca_file, "cert_file": None if given == "none" else getattr(pki, given)}

    async def connect(port):
        async with Connection(f"{scheme}://127.0.0.1:{port}", **options) as connection:
            return connection.secure

    with strict_server(pki.server(asks=True, only=version), scheme == "smtp") as port:
        if given == "own":
            assert run(connect(port))
        else:
            with pytest.raises((TlsError, ConnectionLost)) as caught:
                run(connect(port))
            if isinstance(caught.value, ConnectionLost):
                # the server's alert may lie unread behind a write that found the connection reset
                assert version is ssl.TLSVersion.TLSv1_3 and isinstance(caught.value.__cause__, ConnectionError)
            else:
                assert "cert_file" in str(caught.value) and "127.0.0.1" in str(caught.value)


def test_opportunistic_goes_on_in_clear_where_our_certificate_is_missing(run, pki):
    """With TLS 1.3 the handshake is done for us before the server refuses it."""
    script = upgraded(pki.server(asks=True))
    outcome, said = run(attempt(script, IN_CLEAR, tls="opportunistic"))
    assert outcome == "clear" and len(said) == 2 and b"STARTTLS" not in said[1]


def test_opportunistic_does_not_go_on_when_text_was_injected(run):
    error, said = run(attempt([*ASK, send(READY + b"250 evil\r\n"), hang()], IN_CLEAR, tls="opportunistic"))
    assert isinstance(error, ProtocolError) and len(said) == 1


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_never_and_opportunistic_are_not_for_smtps(implicit):
    for policy in ("never", "opportunistic"):
        if implicit:
            with pytest.raises(BulkmailError, match="TLS from the start"):
                Connection("smtps://127.0.0.1", tls=policy)
        else:
            Connection("smtp://127.0.0.1", tls=policy)
