"""Chunks in hand, claimed and settled by the batch, against what the same would be one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConnectionLost, MessageError
from bulkmail.job.detail import DetailBuffer, decode
from bulkmail.job.ledger import Chunk
from bulkmail.job.settle import Work, flags_of, personal_transactions, settle_delivered, shared_transaction
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import DONE
from unit.job.journal_tools import rows
from unit.job.simulation import BODY

EIGHT_BIT, UTF8 = 1, 2


def work(n=10, **chunk):
    return Work(Chunk(7, "*", rows(1, n), n, **chunk))


def sent(transactions, *replies, lost=False):
    """What a server that gives these replies makes of them."""
    client = Client(True)
    for tx in transactions:
        client.push(tx, 1.0)
        client.take_output()
    for reply in replies:
        client.feed(reply, 2.0)
        client.take_output()
    if lost:
        client.lost(ConnectionLost("gone"), 0, 3.0)
    return client.done


def composed(count):
    return [(b"s@example.com", b"r%d@example.com" % n, BODY) for n in range(count)]


OK = b"250 ok\r\n250 ok\r\n354 go\r\n"


# -- claims


@given(st.text(".DFdmS?", min_size=1, max_size=40), st.lists(st.integers(1, 9), max_size=9), st.integers(0, 5))
def test_a_claim_takes_those_who_wait_in_their_order(outcome, sizes, claimed):
    claimed = min(claimed, len(outcome))
    one = work(len(outcome), outcome=outcome.encode(), claimed=claimed)
    waiting = [place for place, byte in enumerate(outcome) if byte == "." and place >= claimed]
    for most in sizes:
        assert one.waiting() == len(waiting)
        taken = one.claim(most)
        assert taken == waiting[:most]
        del waiting[:most]
        assert all(place < one.claimed for place in taken)
    assert one.claimed <= one.n


def test_a_row_says_all_and_makes_clean():
    one = work(3, fence=4)
    assert not one.dirty
    assert one.claim(2) == [0, 1]
    assert one.dirty and one.outstanding == 2
    one.settle(0, ord("D"))
    assert one.row() == (7, 4, 2, b"D..")
    assert not one.dirty and one.outstanding == 1
    one.settle(1, ord("d"))
    one.settle(1, ord("m"), was_under_way=False)
    assert one.outstanding == 0
    assert not one.finished()
    one.claim(1)
    one.settle(2, ord("F"))
    assert one.finished()


# -- outcomes


def test_plain_deliveries_are_settled_and_the_rest_is_handed_back():
    one, again = work(6), work(2, attempt=2)
    one.claim(6)
    again.claim(2)
    details, dirty = DetailBuffer(), set()
    good, _ = personal_transactions(composed(2), one, [0, 1], False)
    retried, _ = personal_transactions(composed(1), again, [1], False)
    refused, _ = personal_transactions(composed(1), one, [2], False)
    rejected, _ = personal_transactions(composed(1), one, [3], False)
    doubt, _ = personal_transactions(composed(2), one, [4, 5], False)
    finished = sent(good, OK, b"250 2.0.0 queued as A\r\n" + OK, b"250 2.0.0 queued as B\r\n")
    finished += sent(retried, OK, b"250 2.0.0 queued as C\r\n")
    finished += sent(refused, OK, b"554 5.6.0 no\r\n")
    finished += sent(rejected, b"250 ok\r\n550 5.1.1 no\r\n554 none\r\n")
    finished += sent(doubt, OK, lost=True)
    rest, first, later, size = settle_delivered(finished, details, 1, 2, dirty)
    assert rest == [*refused, *rejected, *doubt]
    assert (first, later, size) == (2, 1, 3 * len(BODY))
    assert dirty == {one, again}
    assert one.row()[3] == b"DD...." and one.outstanding == 4
    assert again.row()[3] == b".D" and again.outstanding == 1
    kept = {no: list(decode(blob)) for no, blob in details.flush()} if len(details) == 3 else {}
    found = [detail for blob in kept.values() for detail in blob]
    assert {(d.position, d.attempt, d.relay, d.egress, d.code) for d in found} == {
        (0, 1, 1, 2, 250),
        (1, 1, 1, 2, 250),
        (1, 3, 1, 2, 250),
    }


def test_a_shared_delivery_settles_all_of_them_and_a_partial_one_is_handed_back():
    one = work(8)
    one.claim(8)
    whole = shared_transaction(b"s@example.com", BODY, [b"r%d@example.com" % n for n in range(3)], one, [0, 2, 4])
    part = shared_transaction(b"s@example.com", BODY, [b"a@example.com", b"b@example.com"], one, [1, 3])
    finished = sent([whole], b"250 ok\r\n" * 4 + b"354 go\r\n", b"250 queued\r\n")
    finished += sent([part], b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n", b"250 queued\r\n")
    rest, first, later, size = settle_delivered(finished, DetailBuffer(), 1, 0, set())
    assert rest == [part]
    assert (first, later, size) == (3, 0, len(BODY))
    assert one.row()[3] == b"D.D.D..." and one.outstanding == 5


def test_a_lone_dot_that_was_taken_is_no_delivery():
    """Nobody was accepted, and the server said 250 to the empty message."""
    one = work(1)
    one.claim(1)
    (tx,), _ = personal_transactions(composed(1), one, [0], False)
    finished = sent([tx], b"250 ok\r\n550 no\r\n354 go\r\n", b"250 taken\r\n")
    assert finished[0].state == DONE
    assert settle_delivered(finished, DetailBuffer(), 1, 0, set())[0] == [tx]


# -- transactions


def test_what_cannot_be_composed_is_named_by_its_index():
    why = MessageError("no")
    made, failed = personal_transactions([*composed(1), why, *composed(1)], work(), [4, 5, 6], False)
    assert [tx.at for tx in made] == [4, 6]
    assert failed == [(1, why)]


@pytest.mark.parametrize(
    ("sender", "rcpt", "body", "flags"),
    [
        (b"a@b.cc", b"r@b.cc", BODY, 0),
        (b"a@b.cc", b"r@b.cc", "é".encode() + BODY, EIGHT_BIT),
        (b"a@b.cc", "ré@b.cc".encode(), BODY, UTF8),
        ("ä@b.cc".encode(), b"r@b.cc", BODY, UTF8),
    ],
)
def test_flags_say_what_is_needed_of_the_server(sender, rcpt, body, flags):
    assert flags_of(sender, [rcpt], body) == flags
    assert shared_transaction(sender, body, [b"x@b.cc", rcpt], work(), [0, 1]).flags == flags
    (made,), _ = personal_transactions([(sender, rcpt, body)], work(), [0], not body.isascii())
    # an address beyond ASCII stands in a header too, so the content is not ASCII either
    assert made.flags == (flags if flags & UTF8 == 0 else UTF8 | EIGHT_BIT)
