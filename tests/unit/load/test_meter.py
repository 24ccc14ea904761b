"""Latencies in a histogram of fixed size, and transactions that are counted and used again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.load.meter import Histogram, Meter, renewed, retried
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import IN_DOUBT, NOT_TAKEN, WAITING, Transaction

MICROSECOND = 1e-6


def of(*latencies: float) -> Histogram:
    histogram = Histogram()
    for seconds in latencies:
        histogram.record(seconds)
    return histogram


def exact(latencies: list[float], percent: float) -> float:
    """The nearest rank: the smallest one that at least `percent` of all do not exceed."""
    ordered = sorted(latencies)
    rank = max(1, -(-len(ordered) * int(percent * 10) // 1000))
    return ordered[rank - 1]


def test_without_latencies_there_is_no_percentile():
    assert Histogram().percentile(50) is None


@given(st.lists(st.floats(MICROSECOND, 1e5), min_size=1, max_size=200), st.sampled_from([0.0, 50.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_off_by_less_than_one_percent_or_a_microsecond(latencies, percent):
    found, true = of(*latencies).percentile(percent), exact(latencies, percent)
    assert abs(found - true) <= max(MICROSECOND, true * 0.01)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), 1e-9])
def test_what_is_no_latency_counts_as_the_least(seconds):
    assert of(seconds).percentile(50) == pytest.approx(MICROSECOND / 2)


@pytest.mark.parametrize("seconds", [2.0**41 * MICROSECOND, 1e12, float("inf")])
def test_what_is_beyond_the_highest_bucket_counts_in_it(seconds):
    histogram = of(seconds, 0.001)
    assert histogram.count == 2
    assert histogram.percentile(100) == pytest.approx(2.0**40 * MICROSECOND, rel=0.02)


def test_neighbouring_values_are_in_order_across_the_borders_of_buckets():
    found = [of(value * MICROSECOND).percentile(50) for value in range(1, 5000)]
    assert found == sorted(found)


# ---- the meter


def finished(count: int, *replies: bytes) -> list[Transaction]:
    """So many transactions, pushed at 1.0 and answered at 1.5 as the replies say."""
    client = Client(True, None, True)
    client.extensions = {"PIPELINING": "", "CHUNKING": ""}
    for number in range(count):
        client.push(Transaction(b"a@example.test", [b"u%d@example.test" % number], b"hello\r\n.\r\n"), 1.0)
    for reply in replies:
        client.feed(reply, 1.5)
    return client.done


OK = b"250 2.0.0 ok\r\n"


def test_what_was_taken_is_counted_timed_and_ready_again():
    meter, spare = Meter(), []
    done = finished(2, OK * 3, OK * 4)  # the second is preceded by a RSET
    assert meter.note(done, spare) == []
    assert meter.taken == meter.latencies.count == 2
    assert meter.latencies.percentile(50) == pytest.approx(0.5, rel=0.01)
    assert spare == done
    assert [(tx.state, tx.reply, tx.tries, tx.mail_at) for tx in spare] == [(WAITING, None, 0, 0.0)] * 2


def test_what_was_refused_is_handed_back_and_not_counted():
    meter, spare = Meter(), []
    refused = finished(1, OK * 2, b"554 5.7.1 no\r\n")
    assert meter.note(refused, spare) == refused
    assert (meter.taken, meter.latencies.count, spare) == (0, 0, [])


def test_what_was_lost_is_handed_back():
    client = Client(True, None, True)
    client.extensions = {"PIPELINING": "", "CHUNKING": ""}
    client.push(Transaction(b"", [b"a@example.test"], b".\r\n"), 1.0)
    client.take_output()
    client.lost(ConnectionError("gone"), 0, 2.0)
    (tx,) = client.done
    assert tx.state == IN_DOUBT
    assert Meter().note([tx], []) == [tx]


def test_tries_count_what_was_begun_only():
    tx = Transaction(b"", [b"a@example.test"], b".\r\n")
    tx.state = NOT_TAKEN
    assert retried(tx).tries == 0
    tx.state, tx.mail_at = NOT_TAKEN, 3.0
    assert (retried(tx).tries, tx.mail_at) == (1, 0.0)
    tx.state, tx.mail_at = NOT_TAKEN, 4.0
    assert retried(tx).tries == 2
    assert renewed(tx).tries == 0
