"""Hooks: what they see, what they may answer, and that a slow or broken one harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.errors import ConnectionLost, MessageRefused
from bulkmail.sink import Refuse, Server, Session
from bulkmail.sink.stream import AHEAD
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
WRONG, RIGHT = b"AUTH PLAIN AGFubgB3cm9uZw==\r\n", b"AUTH PLAIN AGFubgByaWdodA==\r\n"


class Recorder:
    """Every hook, sync; notes its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_connect(self, session: Session) -> None:
        self.calls.append(("connect", session.remote_address, session.helo))

    def on_auth(self, session: Session, mechanism: str, user: str, password: str) -> bool:
        self.calls.append(("auth", mechanism, user, password, session.user))
        return password == "right"

    def on_mail(self, session: Session, address: str, parameters: dict[str, str | None]) -> None:
        self.calls.append(("mail", address, parameters, session.user))

    def on_rcpt(self, session: Session, address: str, parameters: dict[str, str | None]) -> None:
        if address.startswith("bad"):
            raise Refuse(550, "No such user", enhanced="5.1.1")
        self.calls.append(("rcpt", address, list(session.envelope.recipients) if session.envelope else None))

    def on_data(self, session: Session, stream: Any) -> str:
        assert session.envelope is not None
        self.calls.append(("data", b"".join(stream), session.envelope.recipients))
        return "thanks"

    def on_close(self, session: Session) -> None:
        self.calls.append(("close", session.helo, session.remote_address))


class AsyncRecorder(Recorder):
    """The same, async."""

    async def on_connect(self, session: Session) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_connect(session)

    async def on_auth(self, *arguments: Any) -> bool:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().on_auth(*arguments)

    async def on_mail(self, *arguments: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_mail(*arguments)

    async def on_rcpt(self, *arguments: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_rcpt(*arguments)

    async def on_data(self, session: Session, stream: Any) -> str:  # type: ignore[override]
        content = await stream.read()
        assert session.envelope is not None
        self.calls.append(("data", content, session.envelope.recipients))
        return "thanks"

    async def on_close(self, session: Session) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_close(session)


@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
def test_every_hook_is_called_in_order(run: Run, kind: type[Recorder]) -> None:
    async def main() -> None:
        hooks = kind()
        async with Server(hooks) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                assert await client.codes(WRONG + RIGHT, 2) == [535, 235]
                assert await client.codes(MAIL + b"RCPT TO:<bad@b>\r\n", 2) == [250, 550]
                assert await client.codes(RCPT * 2 + b"DATA\r\n", 3) == [250, 250, 354]
                assert await client.say(b"hi\r\n..\r\n.\r\nQUIT\r\n", 2) == ["250 2.0.0 thanks", "221 2.0.0 Bye"]
            await until(lambda: hooks.calls[-1][0] == "close")
            assert server.messages[0].content == b"hi\r\n.\r\n"
            assert server.counts == {"connections": 1, "messages": 1, "recipients": 2, "bytes": 7, "refused": 2}
        assert hooks.calls == [
            ("connect", "127.0.0.1", None),
            ("auth", "PLAIN", "ann", "wrong", None),
            ("auth", "PLAIN", "ann", "right", None),
            ("mail", "a@example.com", {}, "ann"),
            ("rcpt", "b@example.com", []),
            ("rcpt", "b@example.com", ["b@example.com"]),
            ("data", b"hi\r\n.\r\n", ["b@example.com", "b@example.com"]),
            ("close", "client.test", "127.0.0.1"),
        ]

    run(main())


def test_hooks_beside_discard(run: Run) -> None:
    class Hooks:
        def on_rcpt(self, session: Session, address: str, parameters: Any) -> None:
            if address == "no@x":
                raise Refuse(450, "Later")

    async def main() -> None:
        async with Server(Hooks(), discard=True) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.say(MAIL + b"RCPT TO:<no@x>\r\n" + RCPT, 3) == [
                "250 2.1.0 Ok", "450 4.0.0 Later", "250 2.1.5 Ok",
            ]  # fmt: skip
            assert await client.codes(b"DATA\r\n" + b"x" * 500_000 + b"\r\n.\r\n", 2) == [354, 250]
            assert server.counts["bytes"] == 500_002

    run(main())


def test_refusals_at_each_phase(run: Run) -> None:
    class Hooks:
        refuse_at = ""

        def at(self, phase: str) -> None:
            if phase == self.refuse_at:
                raise Refuse(554, "Access denied", enhanced="5.7.1")

        def on_connect(self, session: Session) -> None:
            self.at("connect")

        async def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            self.at("mail")

        async def on_data(self, session: Session, stream: Any) -> None:
            self.at("data")  # at once, without reading: the rest is passed over

    async def main() -> None:
        hooks = Hooks()
        async with Server(hooks) as server:
            hooks.refuse_at = "connect"
            async with Client(server) as client:
                assert client.greeting == "554 5.7.1 Access denied"
                assert await client.closed()
            hooks.refuse_at = "mail"
            async with Client(server) as client:
                await client.say(HELLO)
                assert await client.codes(MAIL + RCPT + b"NOOP\r\n", 3) == [554, 503, 250]
            hooks.refuse_at = "data"
            async with Client(server) as client:
                await client.say(HELLO)
                assert await client.deliver(b"x" * 3_000_000 + b"\r\n") == "554 5.7.1 Access denied"
                hooks.refuse_at = ""
                assert (await client.deliver()).startswith("250 2.0.0 Ok: queued as ")
            assert len(server.messages) == 1
            assert server.counts["refused"] == 3

    run(main())


def test_a_421_closes_the_connection(run: Run) -> None:
    class Hooks:
        def on_rcpt(self, *arguments: Any) -> None:
            raise Refuse(421, "Come back later", enhanced="4.3.2")

    async def main() -> None:
        async with Server(Hooks()) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(MAIL + RCPT + RCPT, 2) == [250, 421]
            assert await client.reply() == ""

    run(main())


def test_a_hook_that_fails_is_a_451_and_a_log_record(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Hooks:
        def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            raise RuntimeError("oops")

        def on_data(self, session: Session, stream: Any) -> str:
            return "two\r\nlines"

        def on_close(self, session: Session) -> None:
            raise RuntimeError("oops")

    async def main() -> str:
        async with Server(Hooks()) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                assert await client.say(MAIL) == ["451 4.3.0 Local error in processing"]
                ident = client.greeting.split()[-1]
            await until(lambda: not server.connections)
            return ident

    ident = run(main())
    assert [getattr(record, "cid", None) for record in caplog.records] == [ident, ident]
    assert "oops" in caplog.text


def test_a_reply_of_two_lines_is_not_sent(run: Run) -> None:
    class Hooks:
        def on_data(self, session: Session, stream: Any) -> str:
            return "fine\r\n250 2.0.0 injected"

    async def main() -> None:
        async with Server(Hooks()) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.deliver() == "451 4.3.0 Local error in processing"
            assert server.messages == []
            assert await client.codes(b"NOOP\r\n") == [250]

    run(main())


def test_a_stream_comes_as_it_is_sent_and_pushes_back(run: Run) -> None:
    class Hooks:
        seen = 0
        go = asyncio.Event()

        async def on_data(self, session: Session, stream: Any) -> None:
            async for piece in stream:
                self.seen += len(piece)
                await self.go.wait()

    async def main() -> None:
        hooks = Hooks()
        hooks.go = asyncio.Event()
        async with Server(hooks, discard=True) as server, Client(server) as client:
            await client.say(HELLO + ENVELOPE, 4)
            client.writer.write(b"x" * 40_000_000)
            (connection,) = server.connections
            await until(lambda: connection._stream and len(connection._stream._pieces) == AHEAD)
            # One piece is with the hook, a few wait, the rest is in the sockets' buffers and the client's.
            assert client.writer.transport.get_write_buffer_size() > 20_000_000
            hooks.go.set()
            assert await client.codes(b"\r\n.\r\n") == [250]
            assert hooks.seen == 40_000_002

    run(main())


@pytest.mark.parametrize("ending, error", [("drop", ConnectionLost), ("bare", MessageRefused), ("big", MessageRefused)])
def test_a_message_that_does_not_end_well_is_an_error_in_the_stream(
    run: Run, ending: str, error: type[Exception]
) -> None:
    class Hooks:
        errors: list[type[BaseException]] = []  # noqa: RUF012

        async def on_data(self, session: Session, stream: Any) -> None:
            try:
                await stream.read()
            except Exception as problem:
                self.errors.append(type(problem))
                raise

    async def main() -> None:
        hooks = Hooks()
        hooks.errors = []
        async with Server(hooks, max_size=1000) as server:
            async with Client(server) as client:
                await client.say(HELLO + ENVELOPE, 4)
                client.writer.write(b"text\r\n")
                if ending == "bare":
                    assert await client.codes(b"a\nb\r\n.\r\n") == [554]
                elif ending == "big":
                    assert await client.codes(b"x" * 2000 + b"\r\n.\r\n") == [552]
            await until(lambda: not server.connections)
            assert hooks.errors == [error]
            assert server.messages == []

    run(main())


def test_a_hook_that_never_returns_does_not_stop_others_or_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkmail.sink.server.STOP_SECONDS", 0.2)

    class Hooks:
        async def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            if address == "slow@x":
                await asyncio.Event().wait()

    async def main() -> None:
        async with Server(Hooks()) as server, Client(server) as slow:
            await slow.say(HELLO)
            slow.writer.write(b"MAIL FROM:<slow@x>\r\n")
            async with Client(server) as quick:
                await quick.say(HELLO)
                assert (await quick.deliver()).startswith("250")
        assert not server.connections

    run(main())


def test_starttls_with_hooks(run: Run, certificates: Any) -> None:
    class Hooks:
        seen: tuple[Any, ...] = ()

        async def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            self.seen = (session.secure, session.tls, session.helo)

    async def main() -> None:
        hooks = Hooks()
        async with Server(hooks, tls_cert=certificates.chain_file) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(b"STARTTLS\r\n" + MAIL) == [220]
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            assert await client.codes(MAIL + b"EHLO again\r\n", 2) == [503, 250]
            assert (await client.deliver()).startswith("250")
            assert hooks.seen[0] is True and hooks.seen[1].startswith("TLSv1") and hooks.seen[2] == "again"

    run(main())


@pytest.mark.parametrize("arguments", [
    (250, "fine"), (600, "x"), (550, "two\nlines"), (550, "bell\a"), (550, "x", "4.7.1"), (550, "x", "5.7"),
    (550, "x" * 500),
])  # fmt: skip
def test_what_cannot_be_a_refusal(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        Refuse(*arguments)
