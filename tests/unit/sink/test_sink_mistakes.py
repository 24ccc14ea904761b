"""What people get wrong who use the sink for the first time, and the sentence that tells them."""

from __future__ import annotations

import asyncio
import smtplib
import time

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Refuse, Server, SmtpSink
from bulkmail.sink.options import SinkOptions

CONTENT = "Subject: x\n\nhello\n"


class Correct:
    def on_rcpt(self, session, address, parameters): ...


class Recipient:
    def on_recipient(self, session, address, parameters): ...


class TooFew:
    def on_rcpt(self, session, address): ...


class TooMany:
    async def on_data(self, session, stream, envelope): ...


class NoMethod:
    on_mail = "250 OK"


class Lenient:
    on_close = None

    def on_connect(self, *arguments): ...

    def on_rcpt(self, who, whom, parameters, more=None): ...


class Static:
    @staticmethod
    def on_rcpt(session, address, parameters): ...


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        (Recipient(), "there is no hook 'on_recipient'; did you mean 'on_rcpt'?"),
        (Recipient, "there is no hook 'on_recipient'; did you mean 'on_rcpt'?"),
        (Correct, r"the hooks are the class Correct, expected an instance: Correct\(\)"),
        (TooFew(), r"the hook 'on_rcpt' takes \(session, address\), expected \(session, address, parameters\)"),
        (TooMany(), r"the hook 'on_data' takes \(session, stream, envelope\), expected \(session, stream\)"),
        (NoMethod(), r"the hook 'on_mail' is a str, expected a method that takes \(session, address, parameters\)"),
        ({"on_rcpt": print}, "methods such as on_rcpt, not a dict"),
        (lambda *_: None, "methods such as on_rcpt, not a function"),
        ("on_rcpt", "methods such as on_rcpt, not a str"),
    ],
)
def test_hooks_that_would_never_be_called_are_refused(hooks, told):
    with pytest.raises(ConfigError, match=told):
        Server(hooks)


def test_hooks_may_be_any_object_that_has_some():
    for hooks in (Correct(), Lenient(), Static, Static(), None, object()):
        Server(hooks)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"port": 2525}, "no option 'port' of a sink; did you mean 'listen'?"),
        ({"host": "localhost"}, "no option 'host' of a sink; did you mean 'listen'?"),
        ({"max_size": "10"}, "'max_size' is '10', expected a whole number"),
        ({"max_recipients": 1.5}, "'max_recipients' is 1.5, expected a whole number"),
        ({"grace": "5s"}, "'grace' is '5s', expected a number of seconds"),
        ({"tls_cert": True}, "'tls_cert' is True, expected the path of a file"),
        ({"store": 5}, "'store' is 5, expected the path of a folder, or a function"),
        ({"mbox": True}, "'mbox' is True, expected the path of a file"),
        ({"store": ""}, "'store' is empty, expected the path of a folder, or a function"),
        ({"mbox": ""}, "'mbox' is empty, expected the path of a file"),
        ({"tls_cert": "", "tls_implicit": True}, "'tls_cert' is empty, expected the path of a file"),
        ({"tls_cert": "server.pem", "tls_key": ""}, "'tls_key' is empty, expected the path of a file"),
        ({"max_size": 2**63}, f"'max_size' is {2**63}, expected at most {2**63 - 1}"),
        ({"max_recipients": 2**63}, f"'max_recipients' is {2**63}, expected at most {2**63 - 1}"),
        ({"without": "PIPELINE"}, "^there is no extension 'PIPELINE'; did you mean 'PIPELINING'.$"),
        ({"without": "FOO"}, "^there is no extension 'FOO'; there are PIPELINING, SIZE, STARTTLS"),
        ({"deny": True}, "'deny' is True, expected a text, or several in a list"),
        ({"name": 5}, "'name' is 5, expected a text"),
        ({"web": True}, "'web' is True, expected HOST:PORT"),
        ({"auth": ("ann", "s3cret")}, "^'auth' is USER:PASSWORD$"),
        ({"listen": "smtp://127.0.0.1:2525"}, "'smtp://127.0.0.1:2525': expected HOST:PORT"),
        ({"listen": 99999}, "'99999': expected HOST:PORT"),
    ],
)
def test_options_that_mean_nothing_are_told_in_one_sentence(options, told):
    with pytest.raises(ConfigError, match=told):
        Server(**options)


def test_none_is_an_option_that_is_not_given():
    assert Server(**dict.fromkeys(SinkOptions.__dataclass_fields__)).options == SinkOptions()


def test_a_port_may_be_a_number():
    assert Server(listen=2525).places == [("127.0.0.1", 2525)]


def test_a_certificate_without_its_key_names_the_option_for_it(tmp_path):
    (tmp_path / "cert.pem").write_text("")
    with pytest.raises(ConfigError, match=r"cert\.pem' \(a key in a file of its own is 'tls_key'\)"):
        Server(tls_cert=tmp_path / "cert.pem")


def test_a_server_that_has_served_is_not_started_again():
    async def main():
        server = Server()
        async with server:
            pass
        with pytest.raises(RuntimeError, match="started once"):
            await server.start()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((250, "Ok"), "a code of 400 to 599, not 250"),
        (("550 No",), "a code of 400 to 599, not '550 No'"),
        ((550, b"No"), "is a str, not b'No'"),
        ((550, "No", 5.7), "looks like 5.7.1, not 5.7"),
        ((550, "No\nway"), "one line"),
    ],
)
def test_what_is_no_refusal_cannot_be_made(given, told):
    with pytest.raises(ValueError, match=told):
        Refuse(*given)


def returning(name, value):
    return type("Hooks", (), {name: lambda *_: value})()


def outcome(hooks):
    """What a client of these hooks gets."""
    with SmtpSink(hooks) as sink, smtplib.SMTP(sink.host, sink.port, timeout=20) as client:
        try:
            client.sendmail("a@example.com", ["b@example.com"], CONTENT)
        except smtplib.SMTPException as error:
            return error
        return sink.messages[0].content


@pytest.mark.parametrize("name", ["on_mail", "on_rcpt", "on_data"])
def test_a_refusal_that_is_returned_is_one(name):
    assert "550" in str(outcome(returning(name, Refuse(550, "No"))))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("on_mail", False, "on_mail returned False: a hook says no with `raise Refuse"),
        ("on_rcpt", False, "on_rcpt returned False"),
        ("on_data", False, "on_data returned False"),
        ("on_data", b"queued", "on_data returned bytes: it returns the text of the reply"),
    ],
)
def test_an_answer_that_is_none_is_logged_and_takes_nothing(name, value, told, caplog):
    assert "451" in str(outcome(returning(name, value)))
    assert told in caplog.text


def test_an_async_hook_that_reads_as_a_sync_one_does_not_lose_the_message(caplog):
    class Hooks:
        async def on_data(self, session, stream):
            return str(sum(map(len, stream)))

    assert "451" in str(outcome(Hooks()))
    assert "an async hook iterates with `async for`" in caplog.text


def test_a_hook_that_reads_nothing_still_has_its_message_kept():
    class Hooks:
        async def on_data(self, session, stream):
            return "Thanks"

    assert outcome(Hooks()) == CONTENT.replace("\n", "\r\n").encode()


def test_a_hook_that_blocks_everybody_is_told_of(caplog, monkeypatch):
    monkeypatch.setattr("bulkmail.sink.hooked.SLOW_HOOK_SECONDS", 0.01)

    class Hooks:
        def on_mail(self, session, address, parameters):
            time.sleep(0.02)

        async def on_rcpt(self, session, address, parameters):
            await asyncio.sleep(0.02)

    outcome(Hooks())
    (record,) = [record for record in caplog.records if "held up every client" in record.message]
    assert "hook on_mail" in record.message and record.cid
