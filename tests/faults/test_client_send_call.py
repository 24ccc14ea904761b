"""bulkmail.send: one message, from code that is not async."""

from __future__ import annotations

import asyncio
import threading

import pytest

import bulkmail
from bulkmail.errors import ConfigError, EnvelopeRefused, MessageError
from bulkmail.smtp.envelope import Envelope, Receipt
from faults.mails import WELL, message
from faults.scripted import scripted


@pytest.fixture
def relay():
    """An obliging server in a thread: bulkmail.send runs a loop of its own."""
    started, servers = threading.Event(), []

    async def main():
        async with scripted(WELL) as server:
            servers.append(server)
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            started.set()
            await stop[0][1].wait()

    stop = []
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait(10)
    yield servers[0]
    loop, event = stop[0]
    loop.call_soon_threadsafe(event.set)
    thread.join(10)


def test_send_takes_the_envelope_from_the_message_the_argument_or_an_envelope(relay):
    receipts = [
        bulkmail.send(message(0), via=relay.url),
        bulkmail.send(message(1), to="bob@example.test", via=relay.url),
        bulkmail.send(message(2), to=["cy@example.test", "di@example.test"], via=relay.url, name="me.example.test"),
        bulkmail.send(message(3), envelope=Envelope("", ["eve@example.test"]), via=relay.url),
    ]
    assert all(type(receipt) is Receipt for receipt in receipts)
    assert [receipt.accepted for receipt in receipts] == [
        ["ann@example.test"],
        ["bob@example.test"],
        ["cy@example.test", "di@example.test"],
        ["eve@example.test"],
    ]
    assert [m.sender for m in relay.messages] == [b"news@example.test"] * 3 + [b""]
    assert all(bytes(peer.said).endswith(b"QUIT\r\n") for peer in relay.peers)


def test_send_raises_what_is_wrong(relay, free_port):
    with pytest.raises(bulkmail.ConnectError):
        bulkmail.send(message(0), via=f"smtp://127.0.0.1:{free_port()}")
    with pytest.raises(EnvelopeRefused, match="no From"):
        bulkmail.send(b"Subject: x\r\n\r\n", to="bob@example.test", via=relay.url)
    with pytest.raises(EnvelopeRefused, match="no recipients"):
        bulkmail.send(b"From: a@example.test\r\n\r\n", via=relay.url)
    with pytest.raises(ConfigError, match="conections"):
        bulkmail.send(message(0), via=relay.url, conections=1)
    with pytest.raises(MessageError):
        bulkmail.send(42, via=relay.url)
    assert relay.messages == []


def test_send_within_a_running_loop_says_what_to_use_instead():
    async def main():
        with pytest.raises(RuntimeError, match="event loop"):
            bulkmail.send(message(0), via="smtp://127.0.0.1:1")

    asyncio.run(main())
