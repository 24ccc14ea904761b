"""The message of a load run: exactly as long as asked for, well-formed, and the recipients in turn."""

from __future__ import annotations

import email
import email.policy
import random

import pytest

from bulkmail.errors import ConfigError, EnvelopeRefused
from bulkmail.load.content import prepare, sized_message

DATE = "Fri, 21 Nov 2025 09:00:00 +0000"
LEAST = len(f"From: <bench@example.test>\r\nDate: {DATE}\r\n\r\n")
SENDER = "bench@example.test"
SOME = random.Random(7)


def test_every_size_is_exact_and_every_message_well_formed():
    for size in [*range(LEAST, 500), 2048, 20480, *(SOME.randrange(500, 1 << 20) for _ in range(20))]:
        check(size)


def check(size):
    made = sized_message(size, SENDER, DATE)
    assert len(made) == size
    assert made.endswith(b"\r\n") and made.count(b"\r") == made.count(b"\n") == made.count(b"\r\n")
    assert not any(line.startswith(b".") or len(line) > 160 for line in made.split(b"\r\n"))
    parsed = email.message_from_bytes(made, policy=email.policy.strict)
    assert parsed["From"].addresses[0].addr_spec == SENDER and parsed["Date"].datetime.year == 2025
    assert not parsed.defects and "Message-ID" not in parsed


def test_the_load_knows_the_size_too():
    load = prepare(sized_message(777, SENDER, DATE), SENDER, (), 1)
    assert load.size == 777 and len(load.body) == 777 + len(".\r\n")


def test_a_size_without_room_for_the_fields_says_how_much_they_take():
    with pytest.raises(ConfigError, match=f"{LEAST - 1} bytes is too small.* take {LEAST}$"):
        sized_message(LEAST - 1, SENDER, DATE)


@pytest.mark.parametrize("content, size", [
    (b"", 0), (b"a", 3), (b"a\nb\n", 6), (b"a\r\nb\r\n", 6), (b".\n..\n.x", 3 + 4 + 4), (b"\r\r", 4), (b"..a\r\n", 5),
])  # fmt: skip
def test_a_files_size_is_that_of_its_content_on_the_other_side(content, size):
    assert prepare(content, SENDER, (), 1).size == size


def envelopes(load, count):
    return [load.transaction(number).rcpts for number in range(count)]


def test_by_default_every_message_has_the_same_recipients():
    assert envelopes(prepare(b"", SENDER, (), 3), 2) == [[b"user%d@example.test" % n for n in (1, 2, 3)]] * 2


def test_given_recipients_are_taken_in_turn():
    load = prepare(b"", "", ("a@x.test", "b@x.test", "c@x.test"), 2)
    assert load.sender == b""
    assert envelopes(load, 3) == [
        [b"a@x.test", b"b@x.test"], [b"c@x.test", b"a@x.test"], [b"b@x.test", b"c@x.test"],
    ]  # fmt: skip


def test_an_impossible_recipient_is_named():
    with pytest.raises(EnvelopeRefused, match=r"'nobody'"):
        prepare(b"", SENDER, ("nobody",), 1)
