"""Logins with tokens: refused, expired, renewed once for a whole pool; and that no secret turns up anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from bulkmail.errors import AuthError, AuthUnavailable, BulkmailError, ConfigError, ConnectionLost
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp import auth
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import send_all
from faults.scram_peer import ScramPeer
from faults.scripted import close, expect, hang, hello, reset, scripted, send, serve

OK = b"235 2.7.0 welcome\r\n"
REFUSED = b"535 5.7.8 bad credentials\r\n"
EXPIRED = b"334 " + b64encode(b'{"status":"401","schemes":"bearer","scope":"https://mail.example/"}') + b"\r\n"
SOON = 0.2


def b64(text):
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def as_ann(server):
    return server.url.replace("//", "//ann@")


class Tokens:
    """The function given as `token`: t1, t2... `calls`: what `renew` was each time."""

    def __init__(self, *, always=None):
        self.calls, self.always = [], always

    async def __call__(self, renew):
        self.calls.append(renew)
        await asyncio.sleep(0)
        return self.always or f"t{len(self.calls)}"


def login(good, mechanism="XOAUTH2", *, behind=(), hangs_up=False):
    """A step: AUTH, again and again, until a token that `good` (a set that a test may change) holds."""

    async def step(peer):
        while True:
            command, name, response = (await peer.line()).split(b" ")
            assert (command, name) == (b"AUTH", mechanism.encode())
            token = b64decode(response).rpartition(b"auth=Bearer ")[2].removesuffix(b"\1\1").decode()
            peer.server.tokens = [*getattr(peer.server, "tokens", []), token]
            if token in good:
                await peer.send(OK)
                break
            await peer.send(EXPIRED)
            assert await peer.line() == (b"" if mechanism == "XOAUTH2" else b"AQ==")
            await peer.send(REFUSED)
            if hangs_up:
                await close()(peer)

    return step


def script(good, mechanism="XOAUTH2", **more):
    return [*hello("PIPELINING", f"AUTH PLAIN {mechanism}"), login(good, mechanism, **more), serve()]


# ---- one connection


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_that_is_good(run, mechanism):
    async def main():
        async with (
            scripted(script({"t1"}, mechanism)) as server,
            Connection(as_ann(server), token="t1") as connection,
        ):
            return connection.info.auth, (await connection.noop()).code

    assert run(main()) == (mechanism.lower(), 250)


def test_a_password_is_the_token_where_the_mechanism_takes_no_password(run):
    async def main():
        async with scripted(script({"t1"})) as server:
            url = server.url.replace("//", "//ann:t1@")
            async with Connection(url, auth="xoauth2") as connection:
                return connection.info.auth

    assert run(main()) == "xoauth2"


async def refused(good, *, mechanism="XOAUTH2", connect=None, **options):
    """(error of connect(), tokens that the server saw)."""
    async with scripted([*hello(f"AUTH {mechanism}"), login(good, mechanism), serve()]) as server:
        with pytest.raises(BulkmailError) as caught:
            await Connection(as_ann(server), **options).connect()
        return caught.value, server.tokens


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_fixed_token_that_is_refused_is_tried_once(run, mechanism):
    error, tokens = run(refused(set(), mechanism=mechanism, token="t1"))
    assert type(error) is AuthError and error.permanent and error.reply.code == 535 and tokens == ["t1"]
    assert "status 401, schemes bearer, scope https://mail.example/" in str(error) and "'ann'" in str(error)


def test_a_function_is_asked_for_another_once(run):
    tokens = Tokens()
    error, seen = run(refused(set(), token=tokens))
    assert type(error) is AuthError and error.permanent
    assert seen == ["t1", "t2"] and tokens.calls == [False, True]


def test_a_function_that_gives_the_same_again_is_not_tried_again(run):
    error, seen = run(refused(set(), token=Tokens(always="same")))
    assert type(error) is AuthError and error.permanent and seen == ["same"]


def test_the_renewed_token_is_used_on_the_same_connection(run):
    async def main():
        async with scripted(script({"t2"})) as server, Connection(as_ann(server), token=Tokens()) as connection:
            return server.tokens, len(server.peers), (await connection.noop()).code

    assert run(main()) == (["t1", "t2"], 1, 250)


@pytest.mark.parametrize("line", [b"454 4.7.0 later\r\n", b"432 4.7.12 transition\r\n"])
def test_a_temporary_refusal_says_nothing_of_the_token(run, line):
    tokens = Tokens()

    async def main():
        async with scripted([*hello("AUTH XOAUTH2"), expect(rb"AUTH .*"), send(line), hang()]) as server:
            with pytest.raises(AuthError) as caught:
                await Connection(as_ann(server), token=tokens).connect()
            return caught.value

    assert run(main()).permanent is False and len(tokens.calls) == 1


def test_a_server_that_does_not_know_oauthbearer_after_all_gets_xoauth2(run):
    first = [*hello("AUTH OAUTHBEARER XOAUTH2"), expect(rb"AUTH OAUTHBEARER .*"), send(b"504 5.5.4 no\r\n")]

    async def main():
        async with (
            scripted([*first, login({"t1"}), serve()]) as server,
            Connection(as_ann(server), token="t1") as connection,
        ):
            return connection.info.auth

    assert run(main()) == "xoauth2"


@pytest.mark.parametrize("offer", [(), ("AUTH PLAIN LOGIN",)])
def test_a_token_that_no_mechanism_takes_is_unavailable_and_not_fetched(run, offer):
    tokens = Tokens()

    async def main():
        async with scripted([*hello(*offer), hang()]) as server:
            with pytest.raises(AuthUnavailable) as caught:
                await Connection(as_ann(server), token=tokens).connect()
            return caught.value

    assert "a token was given" in str(run(main())) and tokens.calls == []


def test_login_by_hand_with_a_token(run):
    async def main():
        async with scripted(script({"t1"})) as server, Connection(server.url) as connection:
            await connection.login("ann", token=lambda: "t1")
            return connection.info.auth

    assert run(main()) == "xoauth2"


@pytest.mark.parametrize("answer", [b"334 !!!\r\n", b"334 " + b64(b"\xff{").encode() + b"\r\n", b"334\r\n"])
def test_an_error_challenge_that_is_garbage(run, answer):
    async def main():
        steps = [expect(rb"AUTH .*"), send(answer), expect(rb".*"), send(REFUSED), hang()]
        async with scripted([*hello("AUTH XOAUTH2"), *steps]) as server:
            with pytest.raises(BulkmailError) as caught:
                await Connection(as_ann(server), token="t1").connect()
            return caught.value

    assert str(run(main())).isprintable()


# ---- a pool


def test_a_pool_fetches_its_token_once(run):
    tokens = Tokens()

    async def main():
        async with scripted(script({"t1"})) as server:
            async with Mailer(as_ann(server), token=tokens, connections=20, messages_per_connection=3) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 120), 20)
            return [result.accepted for result in results], len(server.peers)

    accepted, connections = run(main())
    assert all(accepted) and connections >= 40 and tokens.calls == [False]


def test_a_token_that_expires_while_twenty_connections_open_is_renewed_once(run):
    tokens, good = Tokens(), {"t1"}

    async def main():
        async with scripted(script(good)) as server:
            async with Mailer(as_ann(server), token=tokens, connections=20, messages_per_connection=1) as mailer:
                await mailer.send(b"Subject: first\r\n\r\n", envelope=Envelope("n@example.test", ["a@example.test"]))
                good.clear()
                good.add("t2")
                results = await asyncio.wait_for(send_all(mailer, 60), 20)
            return [getattr(result, "accepted", result) for result in results], server.tokens

    accepted, seen = run(main())
    assert all(type(found) is list and found for found in accepted)
    assert tokens.calls == [False, True] and set(seen) == {"t1", "t2"}


def test_a_server_that_hangs_up_on_a_refused_token_gets_the_new_one_on_another_connection(run):
    tokens = Tokens()

    async def main():
        async with scripted(script({"t2"}, hangs_up=True)) as server:
            async with Mailer(as_ann(server), token=tokens, connections=5) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 10), 20)
            return [getattr(result, "accepted", result) for result in results], server.tokens

    accepted, seen = run(main())
    assert all(type(found) is list and found for found in accepted)
    assert tokens.calls == [False, True] and seen[:2] == ["t1", "t2"]


def test_one_that_hangs_up_and_never_takes_any_is_given_up_after_the_second(run):
    tokens = Tokens()

    async def main():
        async with scripted(script(set(), hangs_up=True)) as server:
            async with Mailer(as_ann(server), token=tokens, connections=20) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 30), 20)
            return {type(result) for result in results}, server.tokens

    kinds, seen = run(main())
    assert kinds <= {AuthError, ConnectionLost} and AuthError in kinds and seen == ["t1", "t2"]


def test_a_pool_whose_token_is_refused_for_good_ends_at_once(run):
    async def main():
        async with scripted(script(set())) as server:
            async with Mailer(as_ann(server), token="t1", connections=20) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 50), 10)
            return {type(result) for result in results}, server.tokens

    assert run(main()) == ({AuthError}, ["t1"])


def test_a_command_runs_once_for_a_pool(run, tmp_path):
    runs = tmp_path / "runs"
    program = tmp_path / "token.py"
    program.write_text(f"open({str(runs)!r}, 'a').write('x'); print('t1')")

    async def main():
        async with scripted(script({"t1"})) as server:
            options = {"token_command": [sys.executable, str(program)], "connections": 10}
            async with Mailer(as_ann(server), messages_per_connection=2, **options) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 40), 30)
            return [result.accepted for result in results]

    assert all(run(main())) and runs.read_text() == "x"


@pytest.mark.parametrize("body", ["import sys; sys.exit(1)", "pass", "print('a b')"])
def test_a_command_that_gives_no_token_fails_the_messages_with_its_reason(run, body):
    async def main():
        async with scripted([*hello("AUTH XOAUTH2"), hang()]) as server:
            async with Mailer(as_ann(server), token_command=[sys.executable, "-c", body]) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 5), 30)
            return {type(result) for result in results}, str(results[0]), b"AUTH" in bytes(server.peers[0].said)

    kinds, text, sent = run(main())
    assert kinds == {AuthError} and "token_command" in text and not sent


# ---- no secret turns up anywhere

MARKER = "Marker-s3cret.t0ken~x"
ECHO = (b"535 5.7.8 you said %s\r\n", b"535-5.7.8 no\r\n535 5.7.8 %s is wrong\r\n", b"334 %s\r\n", b"500 %s\r\n")
ECHO += (b"421 4.3.2 bye %s\r\n", b"you said %s\r\n", b"535 %s", b"535-%s\r\n250 ok\r\n", b"334-%s\r\n535 x\r\n")
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-1", "XOAUTH2", "OAUTHBEARER", "X-TEST")


def all_text(error):
    """Everything that a log, a debugger's repr or a traceback would show of an error and of those that led to it."""
    shown, seen, waiting = [], set(), [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown += [str(one), repr(one), repr(one.args), repr({k: str(v) + repr(v) for k, v in vars(one).items()})]
        waiting += [one.__cause__, one.__context__]
    return "\n".join([*shown, *traceback.format_exception(error)])


def echoing(how, sent):
    """A server that repeats what it was sent: in base64, and what that stands for."""

    async def step(peer):
        for _ in range(4):
            line = await peer.line()
            response = line.split(b" ")[-1]
            sent.append(line)
            if line.startswith(b"AUTH") and line.count(b" ") < 2:
                await peer.send(b"334 \r\n")
                continue
            try:
                plain = b64decode(response, validate=True).replace(b"\0", b" ").replace(b"\1", b" ")
            except ValueError:
                plain = b""
            if how.startswith(b"334"):
                await peer.send(how % response)
            elif b"n=" in plain:  # SCRAM's first message: go on to where it proves something
                nonce = plain.rpartition(b"r=")[2]
                await peer.send(b"334 " + b64encode(b"r=%sX,s=QSXCR+Q6sek8bf92,i=4096" % nonce) + b"\r\n")
            elif line == b64(b"ann").encode():
                await peer.send(b"334 \r\n")
            else:
                await peer.send(how % (response + b" " + plain))
                break
        await hang()(peer)

    return step


@pytest.fixture
def x_test(monkeypatch):
    from bulkmail import loginoptions

    def respond(credentials):
        yield credentials.password.encode()

    monkeypatch.setattr(auth, "MECHANISMS", dict(auth.MECHANISMS))
    monkeypatch.setattr(loginoptions, "registered", set())
    auth.register_auth("X-TEST", respond)


@pytest.mark.parametrize("how", [*ECHO, None])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_neither_a_secret_nor_its_base64_is_in_any_text(run, caplog, tmp_path, x_test, mechanism, how):
    caplog.set_level(logging.DEBUG)
    wire_log, sent = tmp_path / "wire.log", []

    async def main():
        end = [echoing(how, sent)] if how else [expect(rb"AUTH.*"), reset()]
        async with scripted([*hello(f"AUTH {mechanism}"), *end]) as server:
            token = mechanism in ("XOAUTH2", "OAUTHBEARER")
            url = as_ann(server) if token else server.url.replace("//", f"//ann:{MARKER}@")
            options = {"token": MARKER} if token else {}
            shown = []
            for log in (str(wire_log), True):
                connection = Connection(url, auth=mechanism, wire_log=log, command_timeout=SOON, **options)
                with pytest.raises(BulkmailError) as caught:
                    await connection.connect()
                shown += [all_text(caught.value), repr(connection), repr(vars(connection))]
            return shown

    shown = "\n".join([*run(main()), wire_log.read_text(), caplog.text])
    secrets = {MARKER, b64(MARKER), b64(f"\0ann\0{MARKER}")}
    secrets |= {line.split(b" ")[-1].decode() for line in sent if len(line) > 20}
    assert not [secret for secret in secrets if secret in shown]
    assert "AUTH" in wire_log.read_text() and (not how or "***" in wire_log.read_text())


def test_a_scram_login_leaves_nothing_in_the_wire_log(run, tmp_path):
    wire_log, peer = tmp_path / "wire.log", ScramPeer(MARKER)

    async def main():
        async with scripted([*hello("AUTH SCRAM-SHA-256"), peer.step(), serve()]) as server:
            url = server.url.replace("//", f"//ann:{MARKER}@")
            async with Connection(url, wire_log=str(wire_log)) as connection:
                await connection.noop()

    run(main())
    lines = [line.split(" ", 2)[2] for line in wire_log.read_text().splitlines()]
    assert [line for line in lines if line.startswith("C:")][1:4] == ["C: AUTH SCRAM-SHA-256 ***", "C: ***", "C: ***"]


def test_no_repr_of_a_mailer_or_its_options_shows_a_secret():
    settings = {"client_id": "me", "client_secret": MARKER, "refresh_token": MARKER, "token_url": "https://o.example/t"}
    for options in ({"token": MARKER}, {"token_command": ["get", MARKER]}, {"oauth2": settings}):
        mailer = Mailer("smtp://ann@relay.example", **options)
        connection = Connection("smtp://ann@relay.example", **options)
        shown = [repr(mailer), repr(mailer._endpoint), str(mailer._endpoint), repr(vars(connection))]
        assert MARKER not in "\n".join(shown)


def test_a_bad_option_is_refused_without_showing_it():
    for options in (
        {"token": MARKER + " "},
        {"token_command": MARKER + " '"},
        {"oauth2": json.dumps({"client_id": "c", "refresh_token": MARKER, "token_url": "http://far.example/"})},
    ):
        with pytest.raises(ConfigError) as caught:
            Connection("smtp://ann@relay.example", **options)
        assert MARKER not in all_text(caught.value)


def test_this_file_knows_all_mechanisms():
    known = {*MECHANISMS, "EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"} - {"X-TEST"}
    assert known == set(auth.MECHANISMS), Path(__file__).name
