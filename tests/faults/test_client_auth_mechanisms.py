"""Mechanisms in a dialogue: hostile servers, long responses, mechanisms that are refused, channel binding under TLS."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode

import pytest

from bulkmail import loginoptions
from bulkmail.errors import (
    AuthError,
    AuthUnavailable,
    BulkmailError,
    ConfigError,
    ConnectionLost,
    ProtocolError,
    TimedOut,
)
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp import auth
from bulkmail.smtp.auth.dialogue import MAX_COMMAND, MAX_RESPONSE
from bulkmail.smtp.connection import Connection
from faults.mails import send_all
from faults.scram_peer import OK, REFUSED, ScramPeer
from faults.scripted import close, expect, hang, hello, offer, reset, scripted, send, serve, start_tls

USER, PASSWORD = "ann", "pencil"
SOON = 0.1


def b64(text):
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def with_login(server, password=PASSWORD):
    return server.url.replace("//", f"//{USER}:{password}@")


def heard(text):
    return expect(text.replace("+", "\\+").encode())


def prompt(text):
    return send(b"334 " + b64encode(text) + b"\r\n")


async def connected(script, url=with_login, **options):
    """The AUTH that was used, and whether the connection then worked."""
    async with scripted(script) as server, Connection(url(server), **options) as connection:
        return connection.info.auth, (await connection.noop()).code


async def failure(script, url=with_login, **options):
    """(what connect() raises, all that the server heard)."""
    async with scripted(script) as server:
        with pytest.raises(BulkmailError) as caught:
            await Connection(url(server), **options).connect()
        await server.until(lambda s: not any(peer.alive() for peer in s.peers))
        return caught.value, bytes(server.peers[0].said)


# ---- SCRAM


def scram_script(peer, *more):
    return [*hello("AUTH SCRAM-SHA-256"), peer.step(), *(more or [serve()])]


def test_scram(run):
    peer = ScramPeer(PASSWORD)
    assert run(connected(scram_script(peer))) == ("scram-sha-256", 250)
    assert peer.proofs == 1


def test_scram_with_a_password_beyond_ascii(run):
    peer = ScramPeer("pä IX")  # what SASLprep makes of it
    url = lambda server: with_login(server, "pa%CC%88%C2%A0%E2%85%A8")  # noqa: E731
    assert run(connected(scram_script(peer), url))[0] == "scram-sha-256"


def test_scram_with_the_wrong_password(run):
    peer = ScramPeer("another")
    error, said = run(failure(scram_script(peer, hang())))
    assert type(error) is AuthError and error.permanent and error.reply.code == 535
    assert said.count(b"AUTH") == 1 and "authentication failed" in str(error) and "prove" not in str(error)


HOSTILE = {
    "another nonce": ({"first": lambda right: b"r=x" + right[2:]}, "nonce"),
    "our nonce alone": ({"first": lambda right: right.replace(b"XYZ", b"")}, "nonce"),
    "no iterations": ({"first": lambda right: right.partition(b",i=")[0]}, "malformed"),
    "few iterations": ({"first": lambda right: right.replace(b"i=4096", b"i=1")}, "asks for 1 iterations"),
    "many iterations": ({"first": lambda right: right.replace(b"i=4096", b"i=4294967295")}, "iterations"),
    "no salt": ({"first": lambda right: right.partition(b",s=")[0] + b",s=,i=4096"}, "malformed"),
    "not ascii": ({"first": lambda right: "é".encode() + right}, "malformed"),
    "binary": ({"first": lambda right: b"\0\xff" * 50}, "malformed"),
    "control characters": ({"first": lambda right: b"\x1b[2J\r\n250 ok"}, "malformed"),
    "an extension that must be understood": ({"first": lambda right: b"m=x," + right}, "malformed"),
    "wrong signature": ({"final": lambda right: b"v=" + b64encode(b"\0" * 32)}, "did not prove"),
    "signature cut": ({"final": lambda right: right[:-3]}, "did not prove"),
    "no signature": ({"final": lambda right: b""}, "did not prove"),
    "accepted without proof": ({"skip_proof": True}, "did not prove"),
    "an error, and accepted": ({"final": lambda right: b"e=other-error"}, "did not prove"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_scram_server(run, how):
    faults, words = HOSTILE[how]
    error, said = run(failure(scram_script(ScramPeer(PASSWORD, **faults), hang()), command_timeout=5))
    assert type(error) is AuthError and words in str(error) and error.permanent and error.command == "AUTH"
    assert str(error).isprintable() and len(str(error)) < 700
    assert said.count(b"AUTH") == 1 and b"QUIT" not in said  # it is hung up on: it is not who it should be


def test_a_scram_error_that_the_server_names(run):
    async def main():
        script = [*hello("AUTH SCRAM-SHA-256"), _refusing, hang()]
        return await failure(script)

    async def _refusing(peer):
        nonce = b64decode((await peer.line()).split()[2]).rpartition(b"r=")[2]
        await peer.send(b"334 " + b64encode(b"r=%sX,s=QSXCR+Q6sek8bf92,i=4096" % nonce) + b"\r\n")
        await peer.line()
        await peer.send(b"334 " + b64encode(b"e=invalid-proof") + b"\r\n")
        assert await peer.line() == b""
        await peer.send(REFUSED)

    error, _ = run(main())
    assert "(invalid-proof)" in str(error) and error.reply.code == 535


@pytest.mark.parametrize("size", range(0, 40, 3))
def test_a_challenge_that_is_cut_anywhere(run, size):
    """The connection ends in the middle of a challenge, or of its base64: never a login, never a hang."""
    whole = b"334 " + b64encode(b"r=abcdefgh,s=QSXCR+Q6sek8bf92,i=4096") + b"\r\n"
    script = [*hello("AUTH SCRAM-SHA-256"), expect(rb"AUTH .*"), send(whole[:size]), close()]
    error, _ = run(failure(script))
    assert isinstance(error, ConnectionLost | AuthError)


def test_a_server_that_takes_its_time_for_each_challenge_runs_out_of_it(run):
    async def slow(peer):
        await peer.line()
        while True:
            await asyncio.sleep(SOON / 3)
            await peer.send(b"334 YWJj\r\n")
            await peer.line()

    error, _ = run(failure([*hello("AUTH LOGIN"), slow], command_timeout=SOON))
    assert type(error) is TimedOut and error.command == "AUTH"


MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER")


def url_for(mechanism):
    if mechanism in ("XOAUTH2", "OAUTHBEARER"):
        return lambda server: server.url.replace("//", "//ann@") + "?token=pencil"
    return with_login


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "line", [b"334 ???\r\n", b"334 YQ\r\n", b"334 YQ==\xff\r\n", b"334 \xc3\xa9\r\n", b"334-YQ==\r\n334 YQ==\r\n"]
)
def test_garbage_for_a_challenge(run, mechanism, line):
    async def garbage(peer):
        await peer.line()
        while True:
            await peer.send(line)
            await peer.line()

    error, said = run(failure([*hello(f"AUTH {mechanism}"), garbage], url_for(mechanism), command_timeout=5))
    assert isinstance(error, ProtocolError | AuthError) and said.count(b"\n") < 30


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_server_that_challenges_for_ever(run, mechanism):
    async def challenging(peer):
        await peer.line()
        while True:
            await peer.send(b"334 YWJj\r\n")
            await peer.line()

    error, said = run(failure([*hello(f"AUTH {mechanism}"), challenging], url_for(mechanism), command_timeout=5))
    assert type(error) is AuthError and error.permanent and said.count(b"\n") < 30


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_a_server_that_hangs_up_behind_a_challenge(run, mechanism, end):
    script = [*hello(f"AUTH {mechanism}"), expect(rb"AUTH .*"), send(b"334 YWJj\r\n"), end]
    error, _ = run(failure(script, url_for(mechanism)))
    assert type(error) is (AuthError if mechanism.startswith("SCRAM") else ConnectionLost)


# ---- CRAM-MD5, EXTERNAL


def test_cram_md5(run):
    script = [*hello("AUTH CRAM-MD5"), heard("AUTH CRAM-MD5"), prompt(b"<1896.697170952@postoffice.reston.mci.net>")]
    answer = "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    url = lambda server: server.url.replace("//", "//tim:tanstaaftanstaaf@")  # noqa: E731
    assert run(connected([*script, heard(answer), send(OK), serve()], url)) == ("cram-md5", 250)


def test_external_without_a_certificate_is_unavailable(run):
    error, said = run(failure([*hello("AUTH EXTERNAL"), hang()], lambda server: server.url, auth="external"))
    assert type(error) is AuthUnavailable and "cert_file" in str(error) and b"AUTH" not in said


@pytest.mark.parametrize(("user", "answer"), [("", "="), ("bob@", b64("bob"))])
def test_external_with_a_certificate(run, certificates, user, answer):
    secured = [expect(rb"EHLO \S+"), send(offer("AUTH EXTERNAL PLAIN")), heard(f"AUTH EXTERNAL {answer}"), send(OK)]

    async def main():
        context = certificates.server_context()
        script = [*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"), start_tls(context), *secured, serve()]
        files = {"ca_file": str(certificates.ca_file), "cert_file": str(certificates.chain_file)}
        return await connected(script, lambda s: s.url.replace("//", f"//{user}"), auth="external", **files)

    assert run(main()) == ("external", 250)


# ---- long responses (RFC 4954 sections 4 and 4.5)


def plain_of(size):
    """A password with which the AUTH PLAIN line has `size` octets (a multiple of 4 above its verb)."""
    encoded = size - len("AUTH PLAIN ") - 2
    return "x" * (encoded // 4 * 3 - len("\0ann\0"))


@pytest.mark.parametrize("over", [-1, 0, 1, 4])
def test_an_initial_response_that_the_command_cannot_carry_waits_for_its_prompt(run, over):
    password = plain_of(MAX_COMMAND + over - (MAX_COMMAND + over - 13) % 4)
    response = b64(f"\0ann\0{password}")
    lines = [heard(f"AUTH PLAIN {response}")]
    if len(f"AUTH PLAIN {response}\r\n") > MAX_COMMAND:
        lines = [heard("AUTH PLAIN"), send(b"334 \r\n"), heard(response)]
    script = [*hello("AUTH PLAIN"), *lines, send(OK), serve()]
    assert run(connected(script, lambda server: with_login(server, password))) == ("plain", 250)


def test_a_response_longer_than_servers_take_is_an_error_and_not_sent(run):
    password = "x" * MAX_RESPONSE
    error, said = run(failure([*hello("AUTH LOGIN"), expect(rb"AUTH LOGIN"), send(b"334 \r\n"), expect(rb".*"),
                               send(b"334 \r\n"), hang()], lambda server: with_login(server, password)))  # fmt: skip
    assert type(error) is AuthError and str(MAX_RESPONSE) in str(error) and b64(password).encode() not in said


# ---- mechanisms that the server refuses, not the password


def test_a_mechanism_that_the_server_does_not_know_after_all(run):
    script = [*hello("AUTH PLAIN LOGIN"), expect(rb"AUTH PLAIN .*"), send(b"504 5.5.4 unrecognized\r\n")]
    script += [heard("AUTH LOGIN"), send(b"334 \r\n"), heard(b64(USER)), send(b"334 \r\n"), heard(b64(PASSWORD))]
    assert run(connected([*script, send(OK), serve()])) == ("login", 250)


def test_a_mechanism_that_is_too_weak_is_followed_by_a_stronger_one(run):
    peer = ScramPeer(PASSWORD)
    script = [*hello("AUTH PLAIN LOGIN SCRAM-SHA-256"), expect(rb"AUTH PLAIN .*"), send(b"534 5.7.9 too weak\r\n")]
    assert run(connected([*script, peer.step(), serve()])) == ("scram-sha-256", 250)


def test_534_of_an_account_is_not_tried_again_with_another_clear_mechanism(run):
    line = b"534 5.7.9 Application-specific password required\r\n"
    error, said = run(failure([*hello("AUTH PLAIN LOGIN"), expect(rb"AUTH PLAIN .*"), send(line), hang()]))
    assert type(error) is AuthError and error.permanent and said.count(b"AUTH") == 1


@pytest.mark.parametrize("code", [b"504", b"534", b"535", b"538"])
def test_what_was_asked_for_is_not_replaced(run, code):
    script = [*hello("AUTH PLAIN LOGIN"), expect(rb"AUTH PLAIN .*"), send(code + b" 5.7.0 no\r\n"), hang()]
    error, said = run(failure(script, auth="plain"))
    assert type(error) is AuthError and error.permanent and said.count(b"AUTH") == 1


# ---- who may see the password


def upgraded(context, *extensions):
    secured = [start_tls(context), expect(rb"EHLO \S+"), send(offer(*extensions))]
    return [*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"), *secured]


def test_where_the_certificate_was_not_verified_the_password_is_not_shown_if_there_is_another_way(run, certificates):
    """Loopback counts as near; so the peer is seen as a stranger's, which is what a certificate of nobody's is."""
    peer = ScramPeer(PASSWORD)

    async def main(monkeypatch):
        monkeypatch.setattr("bulkmail.smtp.login._is_near", lambda session, endpoint: False)
        script = [*upgraded(certificates.server_context(), "AUTH PLAIN LOGIN SCRAM-SHA-256"), peer.step(), serve()]
        return await connected(script, verify=False)

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(main(monkeypatch)) == ("scram-sha-256", 250)


def test_behind_a_verified_certificate_plain_is_fine(run, certificates):
    async def main(monkeypatch):
        monkeypatch.setattr("bulkmail.smtp.login._is_near", lambda session, endpoint: False)
        context = certificates.server_context()
        script = [*upgraded(context, "AUTH SCRAM-SHA-256 PLAIN"), expect(rb"AUTH PLAIN .*"), send(OK), serve()]
        return await connected(script, ca_file=str(certificates.ca_file))

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(main(monkeypatch)) == ("plain", 250)


@pytest.mark.parametrize(
    ("version", "kind"), [("TLSv1_2", b"p=tls-unique,,"), ("TLSv1_3", b"p=tls-server-end-point,,")]
)
def test_plus_sends_the_binding_of_this_connection(run, certificates, version, kind):
    import ssl

    heard = []

    async def first_message(peer):
        heard.append(b64decode((await peer.line()).split()[2]))
        await peer.send(REFUSED)

    async def main():
        context = certificates.server_context()
        context.maximum_version = getattr(ssl.TLSVersion, version)
        script = [*upgraded(context, "AUTH SCRAM-SHA-256-PLUS"), first_message, hang()]
        return await failure(script, ca_file=str(certificates.ca_file))

    error, _ = run(main())
    assert type(error) is AuthError and heard[0].startswith(kind + b"n=ann,r=")


# ---- mechanisms of others


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(auth, "MECHANISMS", dict(auth.MECHANISMS))
    monkeypatch.setattr(loginoptions, "registered", set())


def test_a_registered_mechanism_by_its_name(run, registry):
    def respond(credentials):
        challenge = yield credentials.host.encode()
        yield challenge[::-1] + credentials.user.encode() + credentials.password.encode()

    auth.register_auth("X-Test", respond)
    script = [*hello("AUTH X-TEST PLAIN"), heard(f"AUTH X-TEST {b64('127.0.0.1')}"), prompt(b"abc")]
    script += [heard(b64("cbaannpencil")), send(OK), serve()]
    assert run(connected(script, auth="x-test")) == ("x-test", 250)


def _raises(credentials):
    yield None
    raise RuntimeError(credentials.password)


def _gives_text(credentials):
    yield credentials.password


def _gives_nothing(credentials):
    return
    yield


@pytest.mark.parametrize(
    ("mechanism", "words"), [(_raises, "failed: RuntimeError"), (_gives_text, "yielded str, expected bytes")]
)
def test_a_registered_mechanism_that_fails(run, registry, mechanism, words):
    auth.register_auth("X-Test", mechanism)
    script = [*hello("AUTH X-TEST"), expect(rb"AUTH.*"), send(b"334 \r\n"), hang()]
    error, _ = run(failure(script, auth="x-test"))
    assert type(error) is AuthError and error.permanent and words in str(error) and PASSWORD not in str(error)


def test_a_registered_mechanism_without_a_word_of_its_own(run, registry):
    auth.register_auth("X-Test", _gives_nothing)
    script = [*hello("AUTH X-TEST"), heard("AUTH X-TEST"), send(OK), serve()]
    assert run(connected(script, auth="x-test")) == ("x-test", 250)


# ---- a pool


def test_a_refused_scram_login_ends_a_pool_after_one_attempt(run):
    peer = ScramPeer("another")

    async def main():
        async with scripted(scram_script(peer, hang())) as server:
            async with Mailer(with_login(server), connections=20) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 50), 10)
            return results, len(server.peers)

    results, connections = run(main())
    assert {type(result) for result in results} == {AuthError} and connections == 1


def test_a_scram_pool_computes_its_key_once(run, monkeypatch):
    from bulkmail.smtp.auth import scram

    computed = []
    real = scram.hashlib.pbkdf2_hmac
    scram._salted.cache_clear()
    monkeypatch.setattr(scram.hashlib, "pbkdf2_hmac", lambda *args: computed.append(args[3]) or real(*args))
    peer = ScramPeer(PASSWORD)

    async def main():
        async with scripted(scram_script(peer)) as server:
            async with Mailer(with_login(server), connections=8) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 50), 10)
            return [result.accepted for result in results], len(server.peers)

    accepted, connections = run(main())
    assert all(accepted) and connections > 1 and peer.proofs == connections
    assert len(computed) == 1 + connections  # ours, once; and the peer's


def test_login_by_hand_takes_a_password_or_a_token(run):
    async def main():
        async with scripted([*hello("AUTH PLAIN"), serve()]) as server, Connection(server.url) as connection:
            with pytest.raises(ConfigError, match="expected one of them"):
                await connection.login(USER, PASSWORD, token="t")
            with pytest.raises(AuthUnavailable, match="a token was given"):
                await connection.login(USER, token="t")
            with pytest.raises(ConfigError, match="not an access token"):
                await connection.login(USER, token="a b")

    run(main())


@pytest.mark.parametrize(
    ("asked", "password", "token", "words"),
    [
        ("auto", None, None, "neither a password nor a token"),
        ("plain", None, None, "neither a password nor a token"),
        ("plain", None, "t", "auth=plain has no use for it"),
        ("xoauth2", None, None, "auth=xoauth2 needs a token"),
    ],
)
def test_login_by_hand_with_what_the_mechanism_cannot_use(run, asked, password, token, words):
    async def main():
        async with (
            scripted([*hello("AUTH PLAIN XOAUTH2"), serve()]) as server,
            Connection(server.url, auth=asked) as connection,
        ):
            with pytest.raises(AuthUnavailable, match=words):
                await connection.login(USER, password, token=token)
            return (await connection.noop()).code, b"AUTH" in bytes(server.peers[0].said)

    assert run(main()) == (250, False)
