"""Logging in: what is sent when, what a refusal looks like, and that a password turns up nowhere else."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import traceback

import pytest

from bulkmail.errors import (
    AuthError,
    AuthUnavailable,
    BulkmailError,
    ConfigError,
    ConnectionLost,
    ProtocolError,
    TimedOut,
)
from bulkmail.smtp import auth
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import close, expect, hang, hello, reset, scripted, send, serve

USER, SECRET = "ann@example.test", "s3cret/ päss:%"
URL_SECRET = "s3cret%2F%20p%C3%A4ss%3A%25"
OK = b"235 2.7.0 welcome\r\n"
SOON = 0.1


def b64(text):
    return base64.b64encode(text.encode()).decode()


PLAIN = b64(f"\0{USER}\0{SECRET}")
SECRETS = (SECRET, URL_SECRET, PLAIN, b64(SECRET))


def with_login(server):
    return server.url.replace("//", f"//ann%40example.test:{URL_SECRET}@")


def heard(text):
    return expect(text.replace("+", "\\+").encode())


async def connected(script, **options):
    """The AUTH that was used, and whether the connection then worked."""
    async with scripted(script) as server, Connection(with_login(server), **options) as connection:
        return connection.info.auth, (await connection.noop()).code


async def failure(script, **options):
    """(what connect() raises, all that the server heard)."""
    async with scripted(script) as server:
        with pytest.raises(BulkmailError) as caught:
            await Connection(with_login(server), **options).connect()
        await server.until(lambda s: not any(peer.alive() for peer in s.peers))
        return caught.value, bytes(server.peers[0].said)


def told(error):
    return type(error), error.code, error.scope, error.permanent, error.command, error.reply and error.reply.code


# ---- what is sent


def test_plain(run):
    script = [*hello("AUTH LOGIN PLAIN"), heard(f"AUTH PLAIN {PLAIN}"), send(OK), serve()]
    assert run(connected(script)) == ("plain", 250)


def test_login(run):
    script = [*hello("AUTH LOGIN XYZ"), heard("AUTH LOGIN"), send(b"334 VXNlcm5hbWU6\r\n"), heard(b64(USER))]
    script += [send(b"334\r\n"), heard(b64(SECRET)), send(OK), serve()]
    assert run(connected(script)) == ("login", 250)


def test_the_option_says_which(run):
    script = [*hello("AUTH PLAIN LOGIN"), heard("AUTH LOGIN"), send(b"334 \r\n"), heard(b64(USER)), send(b"334 \r\n")]
    assert run(connected([*script, heard(b64(SECRET)), send(OK), serve()], auth="login")) == ("login", 250)


def test_the_old_form_of_the_announcement(run):
    script = [*hello("AUTH=PLAIN"), heard(f"AUTH PLAIN {PLAIN}"), send(OK), serve()]
    assert run(connected(script)) == ("plain", 250)


def test_a_login_by_hand(run):
    async def main():
        script = [*hello("AUTH PLAIN"), heard(f"AUTH PLAIN {PLAIN}"), send(b"535 5.7.8 no\r\n")]
        async with (
            scripted([*script, heard(f"AUTH PLAIN {PLAIN}"), send(OK), serve()]) as server,
            Connection(server.url) as connection,
        ):
            with pytest.raises(AuthError):
                await connection.login(USER, SECRET)
            await connection.login(USER, SECRET)  # a refusal leaves the connection as it was
            return connection.info.auth, (await connection.noop()).code

    assert run(main()) == ("plain", 250)


@pytest.mark.parametrize(("user", "password"), [("a\0b", "x"), ("a", "x\0y")])
def test_a_nul_would_shift_the_fields_of_plain(run, user, password):
    async def main():
        async with scripted([*hello("AUTH PLAIN"), serve()]) as server, Connection(server.url) as connection:
            with pytest.raises(ConfigError, match="NUL"):
                await connection.login(user, password)
            return b"AUTH" in server.peers[0].said

    assert run(main()) is False


# ---- refused, unavailable


@pytest.mark.parametrize(("line", "permanent"), [(b"535 5.7.8 wrong\r\n", True), (b"454 4.7.0 later\r\n", False)])
def test_refused(run, line, permanent):
    error, said = run(failure([*hello("AUTH PLAIN LOGIN"), heard("AUTH PLAIN .*"), send(line), hang()]))
    assert told(error) == (AuthError, "EAUTH", "relay", permanent, "AUTH", int(line[:3]))
    assert USER in str(error) and line[4:].decode().strip() in str(error)
    assert said.count(b"AUTH") == 1  # the other mechanism is not tried with a password that was refused


@pytest.mark.parametrize(
    ("offer", "options"),
    [
        ((), {}),
        (("AUTH GSSAPI",), {}),
        (("AUTH",), {}),
        (("AUTH PLAIN",), {"auth": "login"}),
        (("AUTH PLAINER",), {}),
    ],
    ids=["no AUTH", "another", "empty", "not the one asked for", "a longer name"],
)
def test_unavailable_is_an_error_and_nothing_is_sent(run, offer, options):
    error, said = run(failure([*hello(*offer), hang()], **options))
    assert told(error) == (AuthUnavailable, "ENOAUTH", "relay", True, None, None)
    assert b"AUTH" not in said.replace(b"EHLO", b"")


def test_421_is_no_verdict_on_the_password(run):
    error, _ = run(failure([*hello("AUTH PLAIN"), expect(rb"AUTH .*"), send(b"421 4.3.2 bye\r\n"), close()]))
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, "AUTH", 421)


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on(run, end):
    error, _ = run(failure([*hello("AUTH PLAIN"), expect(rb"AUTH .*"), end]))
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, "AUTH", None)


def test_silence(run):
    error, _ = run(failure([*hello("AUTH PLAIN"), expect(rb"AUTH .*"), hang()], command_timeout=SOON))
    assert told(error) == (TimedOut, "ETIMEDOUT", "connection", False, "AUTH", None)
    assert error.phase == "command"


def test_a_challenge_that_is_no_base64(run):
    error, _ = run(failure([*hello("AUTH LOGIN"), expect(rb"AUTH .*"), send(b"334 User?\r\n"), hang()]))
    assert told(error)[:3] == (ProtocolError, "EPROTOCOL", "connection")


def test_a_server_that_challenges_for_ever(run):
    async def challenging(peer):
        while True:
            await peer.send(b"334 VXNlcg==\r\n")
            await peer.line()

    error, said = run(failure([*hello("AUTH PLAIN"), expect(rb"AUTH .*"), challenging]))
    assert type(error) is AuthError and said.count(b"\n") < 30
    assert said.splitlines()[2] == b"*"  # PLAIN has nothing more to say and cancels


@pytest.mark.parametrize("answer", [b"334 User?\r\n", None], ids=["protocol error", "cancelled"])
def test_a_login_that_was_broken_off_ends_the_connection(run, answer):
    async def main():
        script = [*hello("AUTH LOGIN"), expect(rb"AUTH .*"), *([send(answer)] if answer else []), hang()]
        async with scripted(script) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises((ProtocolError, TimeoutError)):
                await asyncio.wait_for(connection.login(USER, SECRET), SOON)
            with pytest.raises((ProtocolError, ConnectionLost)):
                await connection.noop()  # or it would be the answer to the challenge
            await server.until(lambda s: not s.peers[0].alive())
            return bytes(server.peers[0].said)

    assert b"NOOP" not in run(main())


# ---- not in clear


async def far_away(**options):
    """What a server heard that does not count as loopback: a socket pair's other end, which has no address at all."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    heard = []

    async def serving():
        writer.write(b"220 hi\r\n")
        while line := await reader.readline():
            heard.append(line)
            answers = {b"EHLO": b"250-mx\r\n250 AUTH PLAIN\r\n", b"AUTH": OK, b"QUIT": b"221 bye\r\n"}
            writer.write(answers[line[:4]])
        writer.close()

    server = asyncio.ensure_future(serving())
    try:
        async with Connection("smtp://ann:secret@mx.example.test", socket=ours, **options) as connection:
            assert connection.info.auth == "plain"
    except BulkmailError as error:
        heard.append(error)
    await server
    return heard


def test_not_in_clear_to_a_peer_that_is_not_loopback(run):
    _, error = run(far_away())
    assert told(error) == (AuthUnavailable, "ENOAUTH", "relay", True, None, None)
    assert "not encrypted" in str(error)


def test_in_clear_where_it_is_allowed(run):
    _, login, _ = run(far_away(allow_plaintext_auth=True))
    assert login.startswith(b"AUTH PLAIN")


# ---- mechanisms of others


def test_a_registered_mechanism(run, monkeypatch):
    def respond(credentials):
        challenge = yield None
        yield challenge[::-1] + credentials.password.encode()

    monkeypatch.setattr(auth, "MECHANISMS", dict(auth.MECHANISMS))
    auth.register_auth("X-Test", respond)

    async def main():
        script = [
            *hello("AUTH X-TEST"),
            heard("AUTH X-TEST"),
            send(b"334 YWJj\r\n"),
            heard(b64("cba" + SECRET)),
            send(OK),
        ]
        async with scripted([*script, serve()]) as server, Connection(server.url) as connection:
            await auth.authenticate(connection._session, "X-TEST", auth.Credentials(USER, SECRET))
            return (await connection.noop()).code

    assert run(main()) == 250


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\r\nNOOP"])
def test_a_mechanism_name_that_is_none(name):
    with pytest.raises(ConfigError):
        auth.register_auth(name, lambda credentials: iter(()))


# ---- the password is nowhere


def all_text(error):
    """Everything that a log, a debugger's repr or a traceback would show of an error and of those that led to it."""
    shown, seen = [], set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown += [str(one), repr(one), repr(one.args), repr(vars(one))]
        waiting += [one.__cause__, one.__context__]
    return "\n".join([*shown, *traceback.format_exception(error)])


ENDINGS = {
    "refused": [send(b"535 5.7.8 no\r\n"), hang()],
    "lost": [reset()],
    "silence": [hang()],
    "garbage": [send(b"garbage\r\n"), hang()],
    "challenge": [send(b"334 ???\r\n"), hang()],
    "421": [send(b"421 bye\r\n"), close()],
}


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_error_log_or_repr_holds_the_password(run, caplog, mechanism, ending, tmp_path):
    caplog.set_level(logging.DEBUG)
    wire_log = tmp_path / "wire.log"
    script = [*hello(f"AUTH {mechanism}"), expect(rb"AUTH .*"), *ENDINGS[ending]]
    if mechanism == "LOGIN":
        prompts = [send(b"334 VXNlcg==\r\n"), heard(b64(USER)), send(b"334 UGFzcw==\r\n"), heard(b64(SECRET))]
        script = [*hello("AUTH LOGIN"), expect(rb"AUTH .*"), *prompts, *ENDINGS[ending]]
    error, said = run(failure(script, command_timeout=SOON, wire_log=str(wire_log)))
    assert any(secret.encode() in said for secret in SECRETS)  # it was sent indeed
    shown = all_text(error) + caplog.text + wire_log.read_text()
    assert not [secret for secret in SECRETS if secret in shown]


def test_the_wire_log_masks_secrets_and_messages(run, caplog, tmp_path):
    async def main(**options):
        script = [*hello("PIPELINING", "AUTH LOGIN"), expect(rb"AUTH .*"), send(b"334 VXNlcg==\r\n"), heard(b64(USER))]
        script += [send(b"334 UGFzcw==\r\n"), heard(b64(SECRET)), send(OK), serve()]
        async with scripted(script) as server, Connection(with_login(server), **options) as connection:
            envelope = Envelope("news@example.test", ["bob@example.test"])
            await connection.send(envelope, b"Subject: private\r\n\r\nclassified\r\n")
            await connection.send(envelope, iter([b"Subject: private\r\n\r\n", b"classified\r\n"]))

    caplog.set_level(logging.DEBUG, logger="bulkmail.smtp")
    wire_log = tmp_path / "wire.log"
    run(main(wire_log=str(wire_log)))
    run(main(wire_log=True))
    for shown in (wire_log.read_text(), "\n".join(record.getMessage() for record in caplog.records)):
        assert not [secret for secret in (*SECRETS, b64(USER), "classified", "private") if secret in shown]
        for line in (
            "S: 220 ",
            "C: EHLO ",
            "C: AUTH LOGIN ***",
            "C: ***",
            "S: 235 ",
            "C: RCPT TO:<bob@example.test>",
            "S: 354",
        ):
            assert line in shown
        assert shown.count("C: QUIT") == 1 and "message, " in shown
    assert all(record.cid.startswith("c") for record in caplog.records if record.name == "bulkmail.smtp")


def test_no_repr_holds_the_password():
    connection = Connection(f"smtp://ann:{URL_SECRET}@mx.example.test")
    shown = repr(connection) + repr(vars(connection)) + repr(auth.Credentials(USER, SECRET))
    assert not [secret for secret in SECRETS if secret in shown]
