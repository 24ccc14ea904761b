"""STARTTLS and implicit TLS, as servers offer, refuse, break and forge them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest

from bulkmail.errors import (
    AuthUnavailable,
    BulkmailError,
    ConfigError,
    ConnectionLost,
    ProtocolError,
    TimedOut,
    TlsError,
)
from bulkmail.smtp import attach
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
    wait,
)

pytestmark = pytest.mark.usefixtures("both_ways")

SOON = 0.15
ANN = Envelope("news@example.test", ["ann@example.test"])
READY = b"220 2.0.0 go ahead\r\n"
ASK = [*hello("STARTTLS", "X-CLEAR"), expect(rb"STARTTLS")]


def upgraded(context, *extensions):
    """The server's part of a STARTTLS that works, and of the EHLO behind it."""
    return [*ASK, send(READY), start_tls(context), expect(rb"EHLO \S+"), send(offer(*extensions)), serve()]


@pytest.fixture(scope="module")
def tls(certificates):
    """(server's context, the same for another name, options that trust the authority)."""
    wrong = certificates.server_context(wrong_name=True)
    return certificates.server_context(), wrong, {"ca_file": str(certificates.ca_file)}


async def use(script, *scripts, implicit_tls=None, url=lambda url: url, **options):
    """Connect and send one message; (tls version, extensions, said in clear or behind TLS, connections)."""
    async with scripted(script, *scripts, implicit_tls=implicit_tls) as server:
        async with Connection(url(server.url), **{"name": "me.example.test", **options}) as connection:
            assert (await connection.send(ANN, b"hello\r\n")).accepted
            version, offered, secure = connection.tls, connection.extensions, connection.secure
        assert server.contents() == [b"hello\r\n"] and secure == (version is not None)
        return version, offered, [bytes(peer.said) for peer in server.peers]


async def failure(script, *scripts, implicit_tls=None, url=lambda url: url, **options):
    """What connect() raises, and what the server heard of it."""
    async with scripted(script, *scripts, implicit_tls=implicit_tls) as server:
        with pytest.raises(BulkmailError) as caught:
            await Connection(url(server.url), **options).connect()
        await server.until(lambda s: not any(peer.alive() for peer in s.peers))
        return caught.value, [bytes(peer.said) for peer in server.peers]


def login(url):
    return url.replace("//", "//ann:secret@")


# ---- the four policies, with a server that does it right


@pytest.mark.parametrize("policy", ["auto", "require", "opportunistic"])
def test_starttls_where_it_is_offered(run, tls, policy):
    version, offered, said = run(use(upgraded(tls[0], "X-TLS"), tls=policy, **tls[2]))
    assert version == "TLSv1.3"
    assert offered == {"X-TLS": ""}  # what was offered in clear is forgotten (RFC 3207 section 4.2)
    assert said[0].count(b"EHLO") == 2


def test_never_does_not_even_ask(run):
    version, offered, said = run(use([*hello("STARTTLS"), serve()], tls="never"))
    assert version is None and b"STARTTLS" not in said[0] and "STARTTLS" in offered


@pytest.mark.parametrize("policy", ["auto", "opportunistic"])
def test_not_offered_is_in_clear_unless_required(run, policy):
    version, _, said = run(use([*hello(), serve()], tls=policy))
    assert version is None and b"STARTTLS" not in said[0]


def test_require_asks_even_where_it_is_not_offered(run, tls):
    context, _, trust = tls
    script = [*hello(), *upgraded(context)[3:]]
    assert run(use(script, tls="require", **trust))[0] == "TLSv1.3"
    error, said = run(failure([*hello(), expect(rb"STARTTLS"), send(b"502 5.5.1 what?\r\n"), hang()], tls="require"))
    assert (type(error), error.code, error.scope, error.command, error.reply.code) == (
        TlsError,
        "ETLS",
        "relay",
        "STARTTLS",
        502,
    )
    assert b"MAIL" not in said[0] and not error.permanent


def test_implicit_tls(run, tls):
    context, _, trust = tls
    version, _, said = run(use([*hello("STARTTLS"), serve()], implicit_tls=context, **trust))
    assert version == "TLSv1.3" and b"STARTTLS" not in said[0]


# ---- refused


@pytest.mark.parametrize("policy", ["auto", "require"])
@pytest.mark.parametrize("line", [b"454 4.7.0 not now\r\n", b"554 5.7.3 never\r\n"])
def test_starttls_refused(run, policy, line):
    error, said = run(failure([*ASK, send(line), hang()], tls=policy))
    assert (type(error), error.code, error.scope, error.reply.code) == (TlsError, "ETLS", "relay", int(line[:3]))
    assert b"MAIL" not in said[0] and not error.permanent


def test_opportunistic_goes_on_in_clear_when_refused(run):
    version, _, said = run(use([*ASK, send(b"454 4.7.0 not now\r\n"), serve()], tls="opportunistic"))
    assert version is None and len(said) == 1


@pytest.mark.parametrize("policy", ["auto", "require", "opportunistic"])
def test_421_to_starttls_is_the_end(run, policy):
    error, _ = run(failure([*ASK, send(b"421 4.3.2 bye\r\n"), close()], tls=policy))
    assert (type(error), error.command, error.reply.code, error.permanent) == (ConnectionLost, "STARTTLS", 421, False)


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_in_starttls(run, end):
    error, _ = run(failure([*ASK, end]))
    assert (type(error), error.code, error.command) == (ConnectionLost, "ELOST", "STARTTLS")


def test_silence_to_starttls(run):
    error, _ = run(failure([*ASK, hang()], command_timeout=SOON))
    assert (type(error), error.phase, error.command) == (TimedOut, "command", "STARTTLS")


# ---- text behind the 220, which somebody on the way may have put there


@pytest.mark.parametrize("policy", ["auto", "require", "opportunistic"])
@pytest.mark.parametrize(
    "injected",
    [b"250 injected\r\n", b"250-inje", b"2", b"\r\n", b"220 again\r\n", b"421 bye\r\n", b"\x16\x03\x01"],
    ids=["a reply", "half a reply", "a byte", "an empty line", "another 220", "421", "a TLS record"],
)
def test_plaintext_behind_the_220_is_refused(run, policy, injected):
    error, said = run(failure([*ASK, send(READY + injected), hang()], tls=policy))
    assert isinstance(error, ProtocolError | ConnectionLost)
    # no hello over TLS, no message in clear, no second attempt in clear
    assert len(said) == 1 and b"MAIL" not in said[0] and b"\x16\x03" not in said[0]


def test_plaintext_that_comes_a_little_after_the_220_breaks_the_handshake(run):
    error, _ = run(failure([*ASK, send(READY), wait(0.02), send(b"250 injected\r\n"), hang()], connect_timeout=SOON))
    assert isinstance(error, TlsError | ProtocolError)


# ---- broken handshakes

BREAKS = pytest.mark.parametrize(
    "broken",
    [
        [close()],
        [reset()],
        [take(5), send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), hang()],
        [hang()],
        [take(5), send(b"\x15\x03\x01\x00\x02\x02\x28"), close()],  # a fatal alert: handshake_failure
    ],
    ids=["close", "reset", "garbage", "silence", "alert"],
)


@BREAKS
@pytest.mark.parametrize("policy", ["auto", "require"])
def test_a_broken_handshake(run, broken, policy):
    error, said = run(failure([*ASK, send(READY), *broken], tls=policy, connect_timeout=SOON))
    if isinstance(error, TimedOut):
        assert error.phase == "connect"
    else:
        assert (type(error), error.code, error.scope) == (TlsError, "ETLS", "relay") and "127.0.0.1" in str(error)
    assert b"MAIL" not in said[0]


@BREAKS
def test_opportunistic_comes_again_in_clear_and_without_the_password(run, broken):
    in_clear = [*hello("STARTTLS", "AUTH PLAIN"), serve()]
    script = [*ASK, send(READY), *broken]
    version, _, said = run(use(script, in_clear, tls="opportunistic", connect_timeout=SOON, url=login))
    assert version is None and len(said) == 2
    assert b"AUTH" not in said[1] and b"STARTTLS" not in said[1]


def test_opportunistic_with_a_given_socket_makes_no_other_one(run):
    async def main():
        async with scripted([*ASK, send(READY), close()], [*hello(), serve()]) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            with pytest.raises(TlsError):
                await Connection(server.url, socket=sock, tls="opportunistic").connect()
            return len(server.peers)

    assert run(main()) == 1


@BREAKS
def test_a_broken_handshake_of_implicit_tls(run, broken):
    def smtps(url):
        return url.replace("smtp:", "smtps:")

    error, _ = run(failure(broken, url=smtps, connect_timeout=SOON))
    assert (isinstance(error, TimedOut) and error.phase == "connect") or type(error) is TlsError


@BREAKS
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_after_a_broken_handshake_no_socket_object_holds_a_closed_descriptor(run, broken, scheme, monkeypatch):
    """Collected as garbage it would close it again, and by then the number may be that of another connection."""
    dialled = []

    async def dial(*args, **options):
        dialled.append(await real_dial(*args, **options))
        return dialled[-1]

    real_dial = attach.net_dial.reach
    monkeypatch.setattr(attach.net_dial, "reach", dial)
    script = broken if scheme == "smtps" else [*ASK, send(READY), *broken]
    run(failure(script, url=lambda url: url.replace("smtp:", f"{scheme}:"), connect_timeout=SOON))
    (line,) = dialled
    assert line.sock.fileno() == -1


def test_a_server_in_clear_where_tls_is_expected(run):
    error, _ = run(failure([send(GREETING), hang()], url=lambda url: url.replace("smtp:", "smtps:"), connect_timeout=5))
    assert type(error) is TlsError and "does not speak TLS" in str(error)


def test_a_tls_server_where_clear_text_is_expected(run, tls):
    url = lambda url: url.replace("smtps:", "smtp:")  # noqa: E731
    error, _ = run(failure([hang()], implicit_tls=tls[0], url=url, greeting_timeout=SOON))
    assert (type(error), error.phase) == (TimedOut, "greeting")


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_right_after_the_handshake(run, tls, end):
    context, _, trust = tls
    error, _ = run(failure([*ASK, send(READY), start_tls(context), expect(rb"EHLO .*"), end], **trust))
    assert (type(error), error.command) == (ConnectionLost, "EHLO")


# ---- certificates


def test_an_unknown_authority(run, tls):
    error, said = run(failure(upgraded(tls[0])))
    assert (type(error), error.code, error.scope, error.permanent) == (TlsError, "ETLS", "relay", False)
    assert "ca_file" in str(error) and b"MAIL" not in said[0]


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_a_certificate_for_another_name(run, tls, implicit):
    _, wrong, trust = tls
    script = [hang()] if implicit else upgraded(wrong)
    error, _ = run(failure(script, implicit_tls=wrong if implicit else None, **trust))
    assert type(error) is TlsError and "server_name" in str(error)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_server_name_says_what_the_certificate_must_carry(run, tls):
    _, wrong, trust = tls
    assert run(use(upgraded(wrong), server_name="other.test", **trust))[0] == "TLSv1.3"


def test_without_verification_any_certificate_will_do(run, tls):
    assert run(use(upgraded(tls[1]), verify=False))[0] == "TLSv1.3"


def test_opportunistic_encrypts_whatever_the_certificate_says(run, tls):
    version, _, said = run(use(upgraded(tls[1]), tls="opportunistic"))
    assert version == "TLSv1.3" and len(said) == 1


def test_a_ca_file_that_is_missing(run):
    async def main():
        async with scripted([*ASK, send(READY), hang()]) as server:
            with pytest.raises(ConfigError, match=r"ca_file.*missing\.pem"):
                await Connection(server.url, ca_file="missing.pem").connect()
            await server.until(lambda s: not s.peers or not s.peers[0].alive())

    run(main())


@contextmanager
def blocking_server(context):
    """Implicit TLS by a thread: asyncio's servers close without the alert that says what is wrong."""

    def serve_one():
        with suppress(OSError), listener.accept()[0] as client, context.wrap_socket(client, server_side=True) as peer:
            peer.sendall(GREETING)
            peer.recv(100)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_a_server_that_wants_a_certificate_of_ours(run, tls, certificates):
    context = certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca_file)
    with blocking_server(context) as port:
        connection = Connection(f"smtps://127.0.0.1:{port}", **tls[2])
        with pytest.raises(TlsError, match="cert_file"):  # with TLS 1.3 it is said when our handshake is done
            run(connection.connect())
    own = {"cert_file": str(certificates.chain_file), **tls[2]}
    assert run(use([*hello(), serve()], implicit_tls=context, **own))[0] == "TLSv1.3"


# ---- over TLS as in clear


def test_credentials_are_sent_only_after_the_handshake(run, tls):
    context, _, trust = tls
    script = [*hello("STARTTLS", "AUTH PLAIN"), *upgraded(context, "AUTH PLAIN")[3:-1]]
    script += [expect(rb"AUTH PLAIN \S+"), send(b"235 2.7.0 ok\r\n"), serve()]
    version, _, said = run(use(script, url=login, **trust))
    assert version == "TLSv1.3" and said[0].index(b"AUTH") > said[0].rindex(b"EHLO")


def test_credentials_and_a_server_that_forgets_auth_over_tls(run, tls):
    context, _, trust = tls
    script = [*hello("STARTTLS", "AUTH PLAIN"), *upgraded(context)[3:]]
    error, said = run(failure(script, url=login, **trust))
    assert type(error) is AuthUnavailable and b"AUTH PLAIN" not in said[0]


def test_a_large_message_and_many_small_ones(run, tls):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()], implicit_tls=tls[0]) as server:
            async with Connection(server.url, **tls[2]) as connection:
                big = b"0123456789abcde\r\n" * 300_000
                sending = [connection.send(ANN, body) for body in [big, *(b"%d\r\n" % n for n in range(50))]]
                await asyncio.gather(*sending)
                await connection.quit()
                await connection.wait_closed()  # the 221 and TLS's own goodbye may come together
            return [len(content) for content in server.contents()][:2], len(server.messages)

    assert run(main()) == ([5_100_000, 3], 51)
