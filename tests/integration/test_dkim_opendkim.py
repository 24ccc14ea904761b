"""OpenDKIM verifies what is signed here, hard messages among it, and nothing that was changed afterwards."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail import Mailer, Message
from bulkmail.message.dkim import CANONICALIZATIONS, Dkim
from bulkmail.message.dkim_record import record_name, record_text
from bulkmail.message.dkim_sign import Signer, sign_message
from bulkmail.message.raw import from_wire
from bulkmail.sink import Server
from bulkmail.wire.body import encode_message
from integration.servers.opendkim import opendkim_verdicts
from unit.message.dkim_corpus import CORPUS, both, ed25519_key, rsa_key

# As a milter it gets values without the blanks after the colon, so by "simple" it verifies one space only.
NOT_SIMPLE = ("odd blanks", "empty values")


def records(specs):
    return {record_name(spec): record_text(spec) for spec in specs}


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
def test_hard_messages_pass(canonicalization, tmp_path):
    specs = both(canonicalization)
    signer = Signer(specs)
    left_out = NOT_SIMPLE if canonicalization.startswith("simple") else ()
    wires = {name: encode_message(message) for name, message in CORPUS.items() if name not in left_out}
    signed = {name: signer.sign([wire])[0] + from_wire(wire) for name, wire in wires.items()}
    assert opendkim_verdicts(signed, records(specs), tmp_path) == {name: ["pass", "pass"] for name in wires}


@pytest.mark.parametrize("bits", [2048, 4096])
def test_keys_of_other_sizes_pass(bits, tmp_path):
    spec = Dkim("example.com", "s", key=rsa_key(bits), identity="a=b;c@news.example.com", expires=86400)
    signed = {"whole": sign_message(CORPUS["everything"], Signer([spec]))}
    assert opendkim_verdicts(signed, records([spec]), tmp_path) == {"whole": ["pass"]}


def test_what_was_changed_or_added_fails(tmp_path):
    specs = both()
    signed = sign_message(CORPUS["everything"], Signer(specs))
    header, _, body = signed.partition(b"\r\n\r\n")
    changed = {
        "body": signed.replace(b"some  text", b"some  next"),
        "subject": signed.replace(b"Subject: Hello", b"Subject: Hallo"),
        "unsubscribe": signed.replace(b"example.com/u/1", b"example.net/u/1"),
        "another Subject above": b"Subject: evil\r\n" + signed,
        "another From below": header + b"\r\nFrom: evil@example.net\r\n\r\n" + body,
        "another unsubscribe": b"List-Unsubscribe: <https://evil.example>\r\n" + signed,
        "text at the end": signed + b"more\r\n",
    }
    found = opendkim_verdicts(changed, records(specs), tmp_path)
    assert {name: [word.partition(":")[0] for word in words] for name, words in found.items()} == {
        name: ["fail", "fail"] for name in changed
    }


def test_white_space_and_what_relays_add_pass_when_relaxed(tmp_path):
    specs = both()
    signed = sign_message(CORPUS["everything"], Signer(specs))
    changed = b"Received: by relay.example\r\nX-Spam: no\r\n" + signed.replace(
        b"Subject: Hello", b"SUBJECT:\r\n  Hello "
    )
    changed = changed.replace(b"some  text", b"some \t text  ") + b"\r\n\r\n"
    assert opendkim_verdicts({"changed": changed}, records(specs), tmp_path) == {"changed": ["pass", "pass"]}


def test_an_expired_signature_fails(tmp_path):
    spec = Dkim("example.com", "s", key=ed25519_key(), expires=3600)
    signed = {"old": sign_message(CORPUS["everything"], Signer([spec]), 1_600_000_000)}
    (words,) = opendkim_verdicts(signed, records([spec]), tmp_path).values()
    assert words and "pass" not in words


def test_what_a_server_received_passes(tmp_path):
    """The whole way: composed, signed, dots doubled and undone again."""
    specs = both()

    async def go():
        async with Server() as server, Mailer(server.url, dkim=list(specs)) as mailer:
            await mailer.send(
                Message("Ä <a@example.com>", "b@example.net", "Grüße " * 30, ".\n..\n a  \n\n", html="<p>.</p>")
            )
            return server.messages[0].content

    assert opendkim_verdicts({"sent": asyncio.run(go())}, records(specs), tmp_path) == {"sent": ["pass", "pass"]}
