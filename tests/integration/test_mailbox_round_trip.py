"""Messages of every kind go through a real Postfix into a real Dovecot mailbox unchanged; Dovecot reads the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest

import bulkmail
from integration.messages import Sample, samples
from integration.servers.common import require, wait_until
from integration.servers.dovecot import Dovecot
from integration.servers.postfix import DOMAIN

ANN = f"ann@{DOMAIN}"
SECONDS = 60


def delivered(run: Callable[..., Any], start_postfix: Any, server: Dovecot, given: list[Sample]) -> list[bytes]:
    """What the mailbox has, from the messages' own header on and with CRLF: what is unchanged in the order given."""
    relay = start_postfix(settings={"virtual_transport": f"lmtp:inet:127.0.0.1:{server.port}"})

    async def send() -> None:
        async with bulkmail.Mailer(relay.url, connections=1) as mailer:
            for sample in given:
                await mailer.send(sample.content, envelope=bulkmail.Envelope("news@example.com", [ANN]))

    run(send())
    wait_until(lambda: len(server.contents(ANN)) == len(given), "the mailbox to have all messages")
    found = [content[content.index(b"From: ") :].replace(b"\n", b"\r\n") for content in server.contents(ANN)]
    order = {sample.content: place for place, sample in enumerate(given)}
    return sorted(found, key=lambda content: order.get(content, -1))


def fetched(server: Dovecot, fields: str) -> list[dict[str, str]]:
    """What doveadm says of each message."""
    done = subprocess.run(
        [require("doveadm"), "-c", str(server.folder / "dovecot.conf"), "-f", "tab", "fetch", "-u", ANN, fields, "ALL"],
        capture_output=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    head, *lines = done.stdout.decode().splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def structure(text: str) -> Any:
    """An IMAP BODYSTRUCTURE as lists, strings and None."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+', f"({text})"):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(None if word == "NIL" else re.sub(r"\\(.)", r"\1", word[1:-1]) if word[0] == '"' else word)
    return stack[0][0]


def tree(body: list[Any]) -> Any:
    """Type, encoding and size of each part as Dovecot sees them."""
    if isinstance(body[0], list):
        parts = [part for part in body if isinstance(part, list)]
        subtype = next(item for item in body if isinstance(item, str))
        return [f"multipart/{subtype}", *(tree(part) for part in parts[: body.index(subtype)])]
    return (f"{body[0]}/{body[1]}", body[5], int(body[6]))


def expected_tree(message: Message) -> Any:
    if message.get_content_maintype() == "multipart":
        return [message.get_content_type(), *(expected_tree(part) for part in message.get_payload())]
    encoding = str(message.get("Content-Transfer-Encoding", "7bit"))
    if message.get_content_maintype() == "message":
        size = len(message.get_payload(0).as_bytes().replace(b"\n", b"\r\n"))
    else:
        size = len(message.get_payload(decode=encoding in ("7bit", "8bit")))
    return (message.get_content_type(), encoding, size)


def lowered(found: Any) -> Any:
    if isinstance(found, list):
        return [lowered(one) for one in found]
    return (found[0].lower(), found[1].lower(), found[2]) if isinstance(found, tuple) else found.lower()


@pytest.fixture
def mailbox(start_dovecot: Callable[..., Dovecot]) -> Dovecot:
    require("doveadm")
    return start_dovecot()


def test_a_mailbox_holds_what_was_composed_and_its_server_reads_the_same(run, start_postfix, mailbox):
    given = samples()
    assert delivered(run, start_postfix, mailbox, given) == [sample.content for sample in given]
    rows = {
        row["hdr.message-id"]: row for row in fetched(mailbox, "hdr.message-id hdr.subject.utf8 imap.bodystructure")
    }
    assert len(rows) == len(given)
    for sample in given:
        message = message_from_bytes(sample.content.replace(b"\r\n", b"\n"))
        row = rows[message["Message-ID"]]
        assert row["hdr.subject.utf8"] == sample.expected.subject, sample.name
        whole = message_from_bytes(sample.content)
        assert lowered(tree(structure(row["imap.bodystructure"]))) == expected_tree(whole), sample.name
