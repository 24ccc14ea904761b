"""The wire codecs without a socket: parsing replies, the whole dialogue of a message, pipelined and not, and receiving.

Each round handles ROUND messages, so a figure in microseconds divided by that is the cost of one.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.wire.client import Client
from bulkmail.wire.reply import ReplyReader
from bulkmail.wire.server import ServerCodec
from bulkmail.wire.server_settings import ServerCounts, ServerSettings
from bulkmail.wire.transaction import DONE, Transaction

ROUND = 1000
REPLIES = {
    "short": b"250 2.1.0 Ok\r\n",
    "queued": b"250 2.0.0 Ok: queued as 4cXyZ1234567890\r\n",
    "ehlo": b"250-mx.example.test\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
}
ENVELOPE = REPLIES["short"] + b"250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
BODY = b"Subject: x\r\n\r\n" + b"a line of text that is as long as most of them are\r\n" * 40 + b".\r\n"


@pytest.mark.parametrize("kind", REPLIES)
def test_replies(benchmark: BenchmarkFixture, kind: str) -> None:
    """Cut out and made into objects, as single commands and refusals need them."""
    stream, reader = REPLIES[kind] * ROUND, ReplyReader()
    benchmark.group = f"{ROUND} replies"
    assert len(benchmark(reader.replies, stream)) == ROUND


@pytest.mark.parametrize("kind", REPLIES)
def test_replies_read_as_text(benchmark: BenchmarkFixture, kind: str) -> None:
    stream, reader = REPLIES[kind] * ROUND, ReplyReader()
    benchmark.group = f"{ROUND} replies, with their text"

    def read() -> list[str | None]:
        return [reply.enhanced for reply in reader.replies(stream)]

    assert len(benchmark(read)) == ROUND


def transactions(rcpts: int) -> list[Transaction]:
    people = [b"subscriber-%d@example.test" % number for number in range(rcpts)]
    return [Transaction(b"news@example.test", people, BODY, 0, None, number) for number in range(ROUND)]


def check(client: Client) -> None:
    assert len(client.done) == ROUND and all(tx.state == DONE and tx.judged for tx in client.done)


@pytest.mark.parametrize("rcpts", [1, 10])
def test_dialogue_pipelined(benchmark: BenchmarkFixture, rcpts: int) -> None:
    """One write and one read a message: body, dot and the next envelope; its verdict and those of the next envelope."""
    benchmark.group = f"{ROUND} messages to {rcpts}"
    envelope = REPLIES["short"] + b"250 2.1.5 Ok\r\n" * rcpts + b"354 go\r\n"
    turn = REPLIES["queued"] + envelope

    def dialogue(client: Client, batch: list[Transaction]) -> Client:
        for tx in batch:
            client.push(tx, 1.0)
        client.take_output()
        client.feed(envelope, 2.0)
        for _ in range(ROUND - 1):
            client.take_output()
            client.feed(turn, 3.0)
        client.take_output()
        client.feed(REPLIES["queued"], 4.0)
        return client

    check(benchmark.pedantic(dialogue, setup=lambda: ((Client(True), transactions(rcpts)), {}), rounds=30))


def test_dialogue_one_command_at_a_time(benchmark: BenchmarkFixture) -> None:
    benchmark.group = f"{ROUND} messages to 1"
    lines = [*ENVELOPE.splitlines(keepends=True), REPLIES["queued"]]

    def dialogue(client: Client, batch: list[Transaction]) -> Client:
        for tx in batch:
            client.push(tx, 1.0)
        for _ in range(ROUND):
            for line in lines:
                client.take_output()
                client.feed(line, 2.0)
        return client

    check(benchmark.pedantic(dialogue, setup=lambda: ((Client(False), transactions(1)), {}), rounds=30))


RECEIVED = {
    "DATA": b"DATA\r\n" + BODY,
    "BDAT": b"BDAT %d LAST\r\n%s" % (len(BODY) - 3, BODY[:-3]),
}
READ = 50  # messages in one read of a client that waits for no reply: some 100 KB


@pytest.mark.parametrize("kept", [False, True], ids=["discarded", "kept"])
@pytest.mark.parametrize("command", RECEIVED)
def test_receiving(benchmark: BenchmarkFixture, command: str, kept: bool) -> None:
    """The server's side: envelope, 2 KB of content, verdict; with events for each, or none."""
    benchmark.group = f"{ROUND} messages of 2 KB received"
    read = (b"MAIL FROM:<news@example.test>\r\nRCPT TO:<ann@example.test>\r\n" + RECEIVED[command]) * READ

    def receive(counts: ServerCounts) -> ServerCounts:
        codec = ServerCodec(ServerSettings(envelopes=kept), counts)
        codec.feed(b"EHLO client.test\r\n")
        for _ in range(ROUND // READ):
            codec.feed(read)
            codec.output()
        return counts

    counts = benchmark.pedantic(receive, setup=lambda: ((ServerCounts(),), {}), rounds=30)
    assert (counts.messages, counts.bytes) == (ROUND, ROUND * (len(BODY) - 3))
