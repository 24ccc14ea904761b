"""Logging in as users of Nodemailer and aiosmtplib do it: names and passwords in any script, a line that drops."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64encode
from urllib.parse import quote

import pytest

from bulkmail.errors import AuthError, ConfigError, ConnectionLost
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp import auth
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import message
from faults.scripted import expect, hello, reset, scripted, send, serve

ANN = Envelope("news@example.test", ["ann@example.test"])
OK = send(b"235 2.7.0 welcome\r\n")
PEOPLE = pytest.mark.parametrize(
    ("user", "password"), [("test", "test"), ("admin124", "$3cr3t$"), ("føø", "bär€"), ("ภาษา", "ไทย")]
)


def b64(text):
    return b64encode(text if isinstance(text, bytes) else text.encode())


def heard(*words):
    return expect(b" ".join(words).replace(b"+", b"\\+"))


def login_steps(mechanism, user, password):
    """The server's part of a login that it checks to the byte."""
    if mechanism == "PLAIN":
        return [heard(b"AUTH PLAIN", b64(f"\0{user}\0{password}")), OK]
    if mechanism == "LOGIN":
        prompts = [send(b"334 VXNlcm5hbWU6\r\n"), heard(b64(user)), send(b"334 UGFzc3dvcmQ6\r\n"), heard(b64(password))]
        return [heard(b"AUTH LOGIN"), *prompts, OK]
    if mechanism == "CRAM-MD5":
        proof = hmac.new(password.encode(), b"<1@mx.test>", hashlib.md5).hexdigest()
        return [heard(b"AUTH CRAM-MD5"), send(b"334 %s\r\n" % b64("<1@mx.test>")), heard(b64(f"{user} {proof}")), OK]
    return [heard(b"AUTH XOAUTH2", b64(f"user={user}\1auth=Bearer {password}\1\1")), OK]


@PEOPLE
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_names_and_passwords_of_any_script_are_utf_8(run, mechanism, user, password):
    async def main():
        script = [*hello(f"AUTH {mechanism}"), *login_steps(mechanism, user, password), serve()]
        async with scripted(script, script) as server:
            url = server.url.replace("//", f"//{quote(user, safe='')}:{quote(password, safe='')}@")
            async with Connection(url) as connection:
                used = connection.info.auth
            async with Connection(server.url) as connection:
                await connection.login(user, password)
                return used, connection.info.auth

    assert run(main()) == (mechanism.lower(), mechanism.lower())


@pytest.mark.parametrize("user", ["test@example.test", "føø@example.test"])
def test_a_user_of_any_script_with_a_token(run, user):
    async def main():
        script = [*hello("AUTH XOAUTH2"), *login_steps("XOAUTH2", user, "ya29.token-123"), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            await connection.login(user, token="ya29.token-123")
            return connection.info.auth

    assert run(main()) == "xoauth2"


def test_a_user_alone_is_no_login_and_is_not_passed_over():
    with pytest.raises(ConfigError, match="without a password"):
        Connection("smtp://zzz@mx.example.test")
    with pytest.raises(ConfigError, match="without a password"):
        Mailer("smtp://zzz@mx.example.test")


def test_a_line_that_drops_in_the_login_leaves_no_task_behind(run):
    async def main():
        async with scripted([*hello("AUTH XOAUTH2 PLAIN"), expect(rb"AUTH .*"), reset()]) as server:
            before = asyncio.all_tasks()
            for url, options in (("//ann@", {"token": lambda renew: "t1"}), ("//ann:secret@", {})):
                with pytest.raises(ConnectionLost):
                    await Connection(server.url.replace("//", url), **options).connect()
            await server.until(lambda s: all(peer.ended for peer in s.peers))
            await asyncio.sleep(0.01)
            return [task for task in asyncio.all_tasks() - before if "on_connection" not in repr(task)]

    assert run(main()) == []


def test_one_token_serves_message_after_message(run):
    asked = []

    async def token(renew):
        asked.append(renew)
        return "provisioned-token"

    async def main():
        steps = login_steps("XOAUTH2", "ann", "provisioned-token")
        async with scripted([*hello("AUTH XOAUTH2"), *steps, serve()]) as server:
            url = server.url.replace("//", "//ann@")
            async with Mailer(url, token=token, messages_per_connection=1) as mailer:
                for number in range(3):
                    assert (await mailer.send(message(number))).accepted
            return len(server.peers)

    assert run(main()) == 3 and asked == [False]


def test_a_mechanism_of_one_s_own_needs_no_password(run, monkeypatch):
    def respond(credentials):
        challenge = yield None
        yield b"key for " + challenge + b" of " + credentials.user.encode()

    async def main():
        steps = [heard(b"AUTH X-KEY"), send(b"334 bXg=\r\n"), heard(b64("key for mx of ann")), OK]
        async with (
            scripted([*hello("AUTH X-KEY"), *steps, serve()]) as server,
            Connection(server.url.replace("//", "//ann@"), auth="x-key") as connection,
        ):
            return connection.info.auth, (await connection.send(ANN, b"x")).accepted

    monkeypatch.setattr(auth, "MECHANISMS", dict(auth.MECHANISMS))
    auth.register_auth("X-KEY", respond)
    assert run(main()) == ("x-key", ["ann@example.test"])


def test_a_login_refused_by_hand_keeps_the_server_s_words_and_the_state(run):
    async def main():
        script = [*hello("AUTH PLAIN"), expect(rb"AUTH .*"), send(b"535 5.7.8 no such user\r\n"), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            with pytest.raises(AuthError) as caught:
                await connection.login("ann", "wrong")
            return caught.value.code, caught.value.reply.code, connection.info.auth

    assert run(main()) == ("EAUTH", 535, None)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_refused_at_each_step_it_is_an_error_and_the_connection_goes_on(run, mechanism):
    async def main(step):
        steps = login_steps(mechanism, "ann", "wrong")[:-1]
        script = [*hello(f"AUTH {mechanism}"), *steps[: step + 1], send(b"535 5.7.8 no\r\n"), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            with pytest.raises(AuthError, match=r"5\.7\.8 no"):
                await connection.login("ann", "wrong")
            return (await connection.noop()).code

    said = len(login_steps(mechanism, "ann", "wrong")[:-1])
    assert {run(main(step)) for step in range(0, said, 2)} == {250}  # after each line of ours
