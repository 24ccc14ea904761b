"""The log of a sink: what it says of a connection, where anybody listens, and what a client cannot make it say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.sink import Refuse, Server, Session
from bulkmail.sink.hooked import HookedConnection
from bulkmail.sink.records import MAX_REFUSALS, MAX_SHOWN, shown
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]


class Hooks:
    async def on_auth(self, session: Session, mechanism: str, user: str, password: str) -> bool:
        return password == "right"

    def on_rcpt(self, session: Session, address: str, parameters: Any) -> None:
        if address.startswith("bad"):
            raise Refuse(550, "No such user", enhanced="5.1.1")

    async def on_data(self, session: Session, stream: Any) -> None:
        if b"bad" in await stream.read():
            raise Refuse(554, "No", enhanced="5.7.1")


def told(caplog: pytest.LogCaptureFixture, ident: str) -> list[str]:
    """The records of the connection; there are no others."""
    assert {getattr(record, "cid", None) for record in caplog.records} <= {ident}
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("options", [{}, {"discard": True}, {"hooks": Hooks()}, {"hooks": Hooks(), "discard": True}],
                         ids=["kept", "discarded", "hooked", "hooked, discarded"])  # fmt: skip
def test_a_connection_from_its_beginning_to_its_end(
    run: Run, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG, "bulkmail.sink")

    async def main() -> tuple[str, int, int]:
        async with Server(**options) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                await client.codes(MAIL + RCPT * 2 + b"BDAT 3 LAST\r\nx\r\n" + MAIL + b"RCPT TO:<c>\r\nRSET\r\n", 7)
                await client.codes(ENVELOPE + b"a\nb\r\n.\r\n" + ENVELOPE + b".\r\nQUIT\r\n", 9)
                here = client.writer.get_extra_info("sockname")[1]
            await until(lambda: not server.connections)
            return client.greeting.split()[-1], here, server.port

    ident, here, port = run(main())
    begun, *middle, end = told(caplog, ident)
    assert begun == f"connected from 127.0.0.1:{here} to 127.0.0.1:{port}"
    assert end.startswith("disconnected after ")
    assert end.endswith(" seconds: messages 2, bytes 3, refused 2")
    infos = [line for line in middle if not line.startswith("recipient ")]
    assert sorted(infos) == sorted([
        "calls itself client.test",
        f"message {ident}.1 from <a@example.com> to 2 recipients taken, 3 bytes",
        "refused: 501 5.1.3 Bad recipient address syntax",
        "refused: 554 5.6.0 The message has a CR or LF that is not part of a CR LF",
        f"message {ident}.3 from <a@example.com> to 1 recipient taken, 0 bytes",
    ])  # fmt: skip
    assert middle.count("recipient <b@example.com>") == 4


def test_what_hooks_decide_and_who_logs_in(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bulkmail.sink")

    async def main() -> str:
        async with Server(Hooks()) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                await client.codes(b"AUTH PLAIN AGFubgB3cm9uZw==\r\nAUTH PLAIN AGFubgByaWdodA==\r\n", 2)
                await client.codes(MAIL + b"RCPT TO:<bad@x>\r\n" + RCPT + b"BDAT 3 LAST\r\nbad", 4)
                await client.codes(MAIL + RCPT + b"BDAT 4 LAST\r\ngood", 3)
            await until(lambda: not server.connections)
            return client.greeting.split()[-1]

    ident = run(main())
    lines = told(caplog, ident)
    assert lines[1:-1] == [
        "refused: 535 5.7.8 Authentication credentials invalid",
        "logged in as ann",
        "refused: 550 5.1.1 No such user",
        "refused: 554 5.7.1 No",
        f"message {ident}.2 from <a@example.com> to 1 recipient taken, 4 bytes",
    ]
    assert "right" not in caplog.text and "wrong" not in caplog.text and "AGFub" not in caplog.text


def test_tls_is_told(run: Run, caplog: pytest.LogCaptureFixture, certificates: Any) -> None:
    caplog.set_level(logging.DEBUG, "bulkmail.sink")

    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file) as server, Client(server) as client:
            await client.say(HELLO + b"STARTTLS\r\n", 2)
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            await client.say(HELLO)

    run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert lines[1:4] == ["calls itself client.test", "TLS has begun: TLSv1.3", "calls itself client.test"]


def test_where_nobody_listens_nothing_is_made(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bulkmail.sink")

    async def main() -> None:
        async with Server(discard=True) as server, Client(server) as client:
            await client.say(HELLO)
            await client.deliver()
            assert not server.settings.envelopes
            (connection,) = server.connections
            assert getattr(connection, "_records", 0) is None

    run(main())
    assert caplog.records == []


def test_a_clients_words_cannot_shape_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bulkmail.sink")

    async def main() -> None:
        async with Server() as server, Client(server) as client:
            await client.say("EHLO a\u2028b\u202e\x85\r\n".encode())
            await client.say(HELLO.replace(b".", b"\\"))
            await client.codes('MAIL FROM:<"\u2028\\\\ x"@y> SMTPUTF8\r\n'.encode() + RCPT + b"BDAT 0 LAST\r\n", 3)
            await client.codes(b"\x1b[31m\r\n")

    run(main())
    assert "calls itself a\\u2028b\\u202e\\x85" in caplog.text
    assert "calls itself client\\\\test" in caplog.text
    assert 'from <"\\u2028\\\\\\\\ x"@y>' in caplog.text
    assert caplog.text.isascii() and "\x1b" not in caplog.text


@pytest.mark.parametrize("text, line", [
    ("a b", "a b"), ("jürgen@bücher", "jürgen@bücher"), ("a\r\nb", "a\\r\\nb"), ("\x00\x7f", "\\x00\\x7f"),
    ("\\n", "\\\\n"), ("\ufffd", "\ufffd"), ("\ud800", "\\ud800"), ("x" * 999, "x" * MAX_SHOWN + "…"),
    ("\n" * 999, "\\n" * MAX_SHOWN + "…"),
])  # fmt: skip
def test_what_is_shown_is_one_line(text: str, line: str) -> None:
    assert shown(text) == line


def test_refusals_without_end_do_not_fill_a_disk(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bulkmail.sink")

    async def main() -> None:
        async with Server(max_recipients=1) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                await client.codes(MAIL + RCPT * (3 * MAX_REFUSALS), 1 + 3 * MAX_REFUSALS)
            await until(lambda: not server.connections)

    run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("refused: ")]) == MAX_REFUSALS
    assert lines[-1].endswith(f"refused {3 * MAX_REFUSALS - 1}")


@pytest.mark.parametrize("hooks", [None, Hooks()], ids=["plain", "hooked"])
def test_who_is_not_let_in_has_a_beginning_and_an_end(run: Run, caplog: pytest.LogCaptureFixture, hooks: Any) -> None:
    caplog.set_level(logging.DEBUG, "bulkmail.sink")

    async def main() -> None:
        async with Server(hooks, deny=["127.0.0.1"]) as server, Client(server) as client:
            assert client.greeting.startswith("554")
            await client.closed()
            await until(lambda: len(caplog.records) == 3)

    run(main())
    assert [record.getMessage().split()[0] for record in caplog.records] == ["connected", "refused:", "disconnected"]


def test_ignored_clients_are_not_told_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bulkmail.sink")

    async def main() -> None:
        async with Server(ignore=["127.0.0.1"]) as server, Client(server) as client:
            await client.say(HELLO)
            await client.deliver()

    run(main())
    assert caplog.records == []


def test_a_fault_of_our_own_is_told_with_the_id_and_ends_the_connection(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: HookedConnection, events: Any) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(HookedConnection, "work", fail)

    async def main() -> str:
        async with Server(Hooks()) as server, Client(server) as client:
            client.writer.write(HELLO)
            assert await client.closed()
            await until(lambda: not server.connections)
            return client.greeting.split()[-1]

    ident = run(main())
    assert told(caplog, ident) == ["the connection failed"]
    assert "RuntimeError: oops" in caplog.text
