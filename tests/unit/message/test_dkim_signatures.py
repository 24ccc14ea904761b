"""Signatures: a foreign verifier (dkimpy) says they are good, and not once what they cover has changed."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bulkmail.errors import JOB, MessageError
from bulkmail.message.canon import BodyHash, HeaderPicker, relaxed_field
from bulkmail.message.dkim import CANONICALIZATIONS, OVERSIGNED, OVERSIGNED_IF_PRESENT, Dkim
from bulkmail.message.dkim_field import Unsigned
from bulkmail.message.dkim_keys import load_key
from bulkmail.message.dkim_sign import Signer, sign_message
from bulkmail.message.raw import from_wire
from bulkmail.wire.body import encode_message
from unit.message.dkim_corpus import CORPUS, HEADERS, both, ed25519_key, rsa_key, verdicts

NOW = 1_790_000_000.9
WHOLE = HEADERS["everything"] + b"\r\nsome  text \r\n.\r\n"


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
@pytest.mark.parametrize("name", CORPUS)
def test_hard_messages_verify(name, canonicalization):
    message, specs = CORPUS[name], both(canonicalization)
    signer, received = Signer(specs), from_wire(encode_message(message))
    assert verdicts(sign_message(message, signer, NOW)[: -len(message)] + received, specs) == [True, True]
    assert verdicts(signer.sign([encode_message(message)], NOW)[0] + received, specs) == [True, True]


blanks = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t "])
names = st.sampled_from([b"To", b"TO", b"Cc", b"Subject", b"sUBJECT", b"X-Other", b"List-Id", b"Date", b"MIME-Version"])
words = st.binary(min_size=1, max_size=8).map(lambda text: re.sub(rb"[\x00-\x20\x7f]", b"x", text))
folds = st.sampled_from([b" ", b"\r\n ", b"\r\n\t ", b"\t", b" \r\n  "])
values = st.builds(
    lambda before, first, rest, after: before + first + b"".join(a + b for a, b in rest) + after,
    blanks, words, st.lists(st.tuples(folds, words), max_size=4), blanks,
)  # fmt: skip
fields = st.lists(st.builds(lambda name, value: name + b":" + value + b"\r\n", names, values), max_size=8)
bodies = st.lists(
    st.sampled_from([b"\r\n", b"\r\n.", b".", b" ", b"\t", b"text", b"\xe4\xf6", b"\r\n\r\n", b"  x "]), max_size=30
).map(b"".join)


@given(before=fields, after=fields, body=bodies, canonicalization=st.sampled_from(CANONICALIZATIONS))
@settings(max_examples=200)
def test_any_message_verifies(before, after, body, canonicalization):
    message = b"".join([*before, b"From: a@example.com\r\n", *after, b"\r\n", body])
    wire, specs = encode_message(message), both(canonicalization)
    assert verdicts(Signer(specs).sign([wire], NOW)[0] + from_wire(wire), specs) == [True, True]


@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
@settings(max_examples=200)
def test_a_changed_byte_is_noticed(place, byte):
    """With simple/simple every byte of the message counts; all of its fields are signed."""
    assume(WHOLE[place] != byte)
    specs = both("simple/simple")
    fields = sign_message(WHOLE, Signer(specs), NOW)[: -len(WHOLE)]
    changed = WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :]
    assert verdicts(fields + WHOLE, specs) == [True, True]
    assert verdicts(fields + changed, specs) == [False, False]


def test_a_changed_signature_field_is_noticed():
    spec = both()[1]
    signed = sign_message(WHOLE, Signer([spec]), NOW)
    head = signed[: signed.index(b" bh=")]
    for tag in (b"s=ed", b"t=1790000000", b"From:From", b"c=relaxed"):
        assert tag in head
        assert verdicts(signed.replace(tag, tag[:-1] + b"9", 1), [spec]) == [False]


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
@pytest.mark.parametrize("name", [*OVERSIGNED, *OVERSIGNED_IF_PRESENT])
def test_a_field_cannot_be_added(name, canonicalization):
    """Above or below the one that is there; of OVERSIGNED also where there is none."""
    specs = both(canonicalization)
    signer, added = Signer(specs), name.encode() + b": evil\r\n"
    messages = [WHOLE + b""]
    messages[0] = b"Sender: bot@example.com\r\n" + messages[0]
    if name in OVERSIGNED and name != "From":
        messages.append(b"From: a@example.com\r\n\r\ntext\r\n")
    for message in messages:
        signed = sign_message(message, signer, NOW)
        header, _, body = signed.partition(b"\r\n\r\n")
        assert verdicts(added + signed, specs) == [False, False]
        assert verdicts(header + b"\r\n" + added + b"\r\n" + body, specs) == [False, False]


@pytest.mark.parametrize("name", ["Date", "Message-ID", "Sender", "MIME-Version"])
def test_what_a_relay_adds_to_a_message_that_lacks_it_breaks_nothing(name):
    specs, message = both(), b"From: a@example.com\r\n\r\ntext\r\n"
    assert verdicts(name.encode() + b": 1\r\n" + sign_message(message, Signer(specs), NOW), specs) == [True, True]


def test_what_changes_on_the_way_is_not_signed():
    message = b"Return-Path: <a@example.com>\r\nReceived: by x\r\nDKIM-Signature: v=1\r\nX-Spam: no\r\n" + WHOLE
    signed = sign_message(message, Signer([both()[1]]), NOW)
    listed = re.sub(rb"\s", b"", signed[signed.index(b" h=") + 3 : signed.index(b";\r\n bh=")]).lower().split(b":")
    assert not {b"return-path", b"received", b"dkim-signature", b"x-spam"} & set(listed)
    assert {b"from", b"list-unsubscribe", b"list-unsubscribe-post", b"date", b"feedback-id"} <= set(listed)  # RFC 8058


def test_headers_and_oversigning_as_stated():
    spec = Dkim("example.com", "ed", key=ed25519_key(), headers=("Subject", "X-Other"), oversign=("x-other", "Cc"))
    signed = sign_message(b"X-Other: 1\r\nSubject: 2\r\nFrom: a@example.com\r\n\r\n", Signer([spec]), NOW)
    assert b" h=From:Subject:X-Other:X-Other:Cc;" in signed.replace(b"\r\n ", b" ").replace(b": ", b":")
    assert verdicts(signed, [spec]) == [True]


def test_of_stated_headers_those_are_oversigned_that_would_be_anyway():
    spec = Dkim("example.com", "ed", key=ed25519_key(), headers=("Subject", "X-Other"))
    signed = sign_message(b"X-Other: 1\r\nSubject: 2\r\nFrom: a@example.com\r\n\r\n", Signer([spec]), NOW)
    assert b"h=From:From:Subject:Subject:X-Other;" in signed.replace(b"\r\n ", b"")


def test_the_tags_say_what_was_asked_for():
    spec = Dkim(
        "Bücher.example", "s1.News", key=ed25519_key(), identity="a=b;c@news.bücher.example", expires=3e8
    )  # fmt: skip
    signed = sign_message(WHOLE, Signer([spec]), NOW).replace(b"\r\n ", b" ")
    assert signed.startswith(
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=xn--bcher-kva.example; s=s1.News; "
        b"i=a=3Db=3Bc@news.xn--bcher-kva.example; t=1790000000; x=2090000000; h="
    )
    assert verdicts(signed, [spec]) == [True]


def test_an_expired_signature_is_refused():
    spec = Dkim("example.com", "ed", key=ed25519_key(), expires=3600)
    assert verdicts(sign_message(WHOLE, Signer([spec])), [spec]) == [True]
    assert verdicts(sign_message(WHOLE, Signer([spec]), 1_600_000_000), [spec]) == [False]


def test_lines_are_short_and_ascii():
    specs = both(identity="@news.example.com", expires=1)
    fields = sign_message(WHOLE, Signer(specs), NOW)[: -len(WHOLE)]
    assert fields.isascii() and fields.endswith(b"\r\n")
    lines = fields.split(b"\r\n")[:-1]
    assert max(map(len, lines)) <= 78 and all(line[:1] == b" " or line.startswith(b"DKIM-S") for line in lines)


def test_a_message_in_pieces_is_signed_as_a_whole():
    specs, wire = both(), encode_message(WHOLE + b"more\r\n" * 9000)
    signer = Signer(specs)
    whole = signer.sign([wire], NOW)
    for cuts in ((0, 5), (len(WHOLE) - 20, 30_000), (len(wire) - 2, len(wire)), (1, len(wire) - 4)):
        pieces = (wire[: cuts[0]], wire[cuts[0] : cuts[1]], wire[cuts[1] :])
        assert signer.sign([pieces], NOW) == whole, cuts


def test_a_header_without_body_in_wire_form():
    spec = both()[1]
    message = b"From: a@example.com\r\n"
    assert verdicts(Signer([spec]).sign([encode_message(message)], NOW)[0] + message, [spec]) == [True]


def test_what_is_not_in_wire_form_is_an_error():
    with pytest.raises(MessageError, match="final dot"):
        Signer([both()[1]]).sign([WHOLE + b"more\r\n"])


def test_too_many_fields_are_an_error_of_the_message():
    with pytest.raises(MessageError, match="more than 500 fields"):
        sign_message(b"From: a@example.com\r\n" + b"To: a\r\n" * 600 + b"\r\n", Signer([both()[1]]))


# RFC 8463 appendix A: the message, and of the Ed25519 signature (which is deterministic) everything.
RFC_8463_FIELD = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b="
)
RFC_8463_SIGNATURE = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
RFC_8463_HEADER = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
)
RFC_8463_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
RFC_8463_KEY = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="


def test_the_known_answer_of_rfc_8463():
    from hashlib import sha256

    body_hash = BodyHash(relaxed=True, dotted=False).digest([RFC_8463_BODY])
    assert base64.b64encode(body_hash) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    wanted = [(b"from", 1), (b"to", 0), (b"subject", 1), (b"date", 1), (b"message-id", 0)]
    _, fields = HeaderPicker(wanted, relaxed=True).pick(RFC_8463_HEADER, len(RFC_8463_HEADER), False)
    key = load_key(RFC_8463_KEY)
    signature = key.sign(sha256(fields + relaxed_field(RFC_8463_FIELD)).digest())
    assert base64.b64encode(signature).decode() == RFC_8463_SIGNATURE
    assert base64.b64encode(key.public or b"") == b"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def test_a_function_signs():
    rsa, ed = load_key(rsa_key()), load_key(ed25519_key())
    asked: list[bytes] = []

    def sign_rsa(data: bytes) -> bytes:
        from hashlib import sha256

        asked.append(data)
        return rsa.sign(sha256(data).digest())

    def sign_ed(data: bytes) -> bytes:
        asked.append(data)
        return ed.sign(data)

    mine = (
        Dkim("example.com", "rsa", sign=sign_rsa),
        Dkim("example.com", "ed", sign=sign_ed, algorithm="ed25519-sha256"),
    )
    theirs = (Dkim("example.com", "rsa", key=rsa_key()), Dkim("example.com", "ed", key=ed25519_key()))
    assert sign_message(WHOLE, Signer(mine), NOW) == sign_message(WHOLE, Signer(theirs), NOW)
    assert asked[0].startswith(b"from:") and asked[0].endswith(b"; b=") and len(asked[1]) == 32


def broken(data: bytes) -> bytes:
    raise OSError("the token was taken out")


@pytest.mark.parametrize(
    ("sign", "text"),
    [(broken, "OSError: the token was taken out"), (lambda data: b"short", "5 bytes"), (len, "gave int")],
)
def test_a_function_that_fails_is_an_error_of_the_job(sign, text):
    with pytest.raises(MessageError, match=text) as caught:
        sign_message(WHOLE, Signer([Dkim("example.com", "s", sign=sign)]))
    assert caught.value.scope == JOB


@pytest.mark.parametrize("size", [*range(1, 130), 256, 512])
def test_a_signature_of_any_size_is_folded_at_78_bytes_and_reads_the_same(size):
    signature = bytes(n % 251 for n in range(size))
    field = Unsigned(b"DKIM-Signature: v=1;\r\n b=", b"").field(signature)
    assert field.startswith(b"DKIM-Signature: v=1;\r\n b=") and field.endswith(b"\r\n")
    lines = field[:-2].split(b"\r\n")
    assert all(0 < len(line) <= 78 and (not n or line.startswith(b" ")) for n, line in enumerate(lines))
    assert all(len(line) == 78 for line in lines[1:-1])
    assert base64.b64decode(field.partition(b"b=")[2].translate(None, b"\r\n "), validate=True) == signature
