"""BDAT through a running server: what is stored, what hooks see, and streams that wait for no reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConnectionLost, MessageRefused
from bulkmail.sink import Server, Session
from unit.sink.sink_client import HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
BINARY = MAIL.replace(b">\r", b"> BODY=BINARYMIME\r")
EVERY_BYTE = bytes(range(256)) * 300  # more than a store holds in memory


def bdat(content: bytes, last: bool = True) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(content), b" LAST" if last else b"", content)


def chunk(content: bytes) -> bytes:
    return bdat(content, last=False)


def test_what_is_stored_is_what_was_sent(run: Run, tmp_path: Path) -> None:
    text = b"Subject: x\r\n\r\n.\r\n..\r\nno line end"

    async def main() -> None:
        async with Server(store=tmp_path) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(MAIL + RCPT + chunk(text[:20]) + bdat(text[20:]), 4) == [250] * 4
            assert await client.codes(BINARY + RCPT + chunk(EVERY_BYTE) + bdat(b"\r"), 4) == [250] * 4
            assert await client.codes(MAIL + RCPT + chunk(text) + b"RSET\r\n", 4) == [250] * 4
            assert await client.codes(MAIL + RCPT + chunk(EVERY_BYTE) + bdat(text), 4) == [250, 250, 554, 554]
            assert await client.codes(MAIL + RCPT + bdat(b""), 3) == [250] * 3

    run(main())
    envelopes = [json.loads(line) for line in (tmp_path / "envelopes.jsonl").read_text().splitlines()]
    stored = [(tmp_path / envelope["file"]).read_bytes() for envelope in envelopes]
    assert stored == [text, EVERY_BYTE + b"\r", b""]
    assert len(list((tmp_path / "new").iterdir())) == 3
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_stream_of_messages_that_waits_for_no_reply(run: Run) -> None:
    texts = [b"Subject: %d\r\n\r\n" % number + b"x" * 50 * number for number in range(60)]
    stream = b"".join(MAIL + RCPT + bdat(text) for text in texts)

    async def main() -> None:
        async with Server() as server, Client(server) as client:
            assert await client.codes(HELLO + stream, 1 + 3 * 60) == [250] * (1 + 3 * 60)
            assert [message.content for message in server.messages] == texts

    run(main())


def test_a_refused_message_in_such_a_stream_is_the_only_one_lost(run: Run) -> None:
    async def main() -> None:
        async with Server(max_size=100) as server, Client(server) as client:
            stream = MAIL + RCPT + bdat(b"one") + MAIL + RCPT + bdat(MAIL * 9) + MAIL + RCPT + bdat(b"three")
            assert await client.codes(HELLO + stream, 10) == [250] * 6 + [552] + [250] * 3
            assert [message.content for message in server.messages] == [b"one", b"three"]

    run(main())


def test_lmtp_in_chunks(run: Run) -> None:
    async def main() -> None:
        async with Server(lmtp=True) as server, Client(server) as client:
            assert await client.codes(HELLO.replace(b"EHLO", b"LHLO")) == [250]
            assert await client.codes(MAIL + RCPT * 2 + chunk(b"a") + bdat(b"b"), 6) == [250] * 6
            assert server.messages[0].content == b"ab"

    run(main())


def test_chunks_through_tls(run: Run, certificates: Any) -> None:
    async def main() -> None:
        async with (
            Server(tls_cert=certificates.chain_file, tls_implicit=True) as server,
            Client(server, certificates.client_context(), "localhost") as client,
        ):
            assert "REQUIRETLS" in (await client.say(HELLO))[0]
            mail = BINARY.replace(b"\r", b" REQUIRETLS\r")
            assert await client.codes(mail + RCPT + bdat(EVERY_BYTE), 3) == [250] * 3
            assert server.messages[0].content == EVERY_BYTE
            assert server.messages[0].parameters == {"BODY": "BINARYMIME", "REQUIRETLS": None}

    run(main())


def test_hooks_see_the_parameters_and_the_chunks(run: Run) -> None:
    class Hooks:
        calls: list[tuple[Any, ...]] = []  # noqa: RUF012

        def on_mail(self, session: Session, address: str, parameters: Any) -> None:
            self.calls.append((address, parameters))

        async def on_rcpt(self, session: Session, address: str, parameters: Any) -> None:
            self.calls.append((address, parameters))

        async def on_data(self, session: Session, stream: Any) -> str:
            self.calls.append((await stream.read(),))
            return "thanks"

    async def main() -> None:
        hooks = Hooks()
        hooks.calls = []
        async with Server(hooks, discard=True) as server, Client(server) as client:
            await client.say(HELLO)
            mail = b"MAIL FROM:<a@b> RET=HDRS ENVID=x+2By\r\nRCPT TO:<c@d> NOTIFY=NEVER ORCPT=rfc822;e@f\r\n"
            assert await client.codes(mail + chunk(b"one "), 3) == [250] * 3
            assert await client.say(bdat(b"two")) == ["250 2.0.0 thanks"]
        assert hooks.calls == [
            ("a@b", {"RET": "HDRS", "ENVID": "x+2By"}),
            ("c@d", {"NOTIFY": "NEVER", "ORCPT": "rfc822;e@f"}),
            (b"one two",),
        ]

    run(main())


@pytest.mark.parametrize("ending, error", [
    (b"", ConnectionLost), (b"RSET\r\n", MessageRefused), (HELLO, MessageRefused), (chunk(b"\n"), MessageRefused),
    (b"BDAT 9999 LAST\r\n" + b"x" * 9999, MessageRefused), (b"DATA\r\n", MessageRefused),
])  # fmt: skip
def test_a_message_that_never_gets_its_last_chunk_is_an_error_in_the_stream(
    run: Run, ending: bytes, error: type[Exception]
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
                await client.codes(HELLO + MAIL + RCPT + chunk(b"half"), 4)
                if ending:
                    await client.say(ending)
                    assert hooks.errors == [error]  # at once, not when the client goes
            await until(lambda: not server.connections)
            assert hooks.errors == [error]
            assert server.messages == []

    run(main())


def test_without_chunking_a_chunk_is_not_read_as_commands(run: Run) -> None:
    async def main() -> None:
        async with Server(without=["chunking"]) as server, Client(server) as client:
            assert "CHUNKING" not in (await client.say(HELLO))[0]
            assert await client.codes(MAIL + RCPT + bdat(MAIL + RCPT + b"DATA\r\n.\r\n"), 3) == [250, 250, 502]
            assert await client.closed()
            assert server.messages == []

    run(main())
