"""The scheduler against relays made of bytes: what is claimed, committed, handed out when, and that every run ends."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.commits import COMMIT_SECONDS
from bulkmail.job.ledger import JournalFault
from bulkmail.job.stock import COMMIT_RECIPIENTS
from unit.job.simulation import DROP_TAKEN, FakeRelay, Simulation, address


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


# -- claims and commits (the simulation itself fails on a second commit under way, and on work handed out unclaimed)


@pytest.mark.parametrize("recipients", [1, 2, 999, 1000, 1001, 4500])
def test_everybody_is_sent_to_once(recipients):
    simulation = Simulation(recipients).run().checked()
    assert simulation.error is None
    assert simulation.taken == everybody(recipients)
    assert simulation.counts == {"recipients": recipients, "delivered": recipients}


@pytest.mark.parametrize("commit_seconds", [0.0, 0.0001, 0.02, 0.5])
def test_a_slow_disk_delays_and_changes_nothing_else(commit_seconds):
    simulation = Simulation(1500, FakeRelay(latency=0.001), commit_seconds=commit_seconds).run().checked()
    assert simulation.taken == everybody(1500)


def test_a_commit_takes_outcomes_and_the_next_claims_along():
    simulation = Simulation(
        3000, FakeRelay(url="smtp://relay.test?connections=20", latency=0.002), commit_seconds=0.005
    ).run()
    assert len(simulation.writer.commits) < 3000 / 10
    mixed = [
        batch for batch in simulation.writer.commits if batch.details and any(b"." in row[3] for row in batch.chunks)
    ]
    assert len(mixed) > len(simulation.writer.commits) / 2


def test_at_full_speed_a_commit_is_worth_its_while():
    """One that is made for outcomes takes claims along, and the timer for outcomes begins anew with each."""
    relay = FakeRelay(url="smtp://relay.test?connections=20", latency=0.001)
    simulation = Simulation(6000, relay, commit_seconds=0.0005).run().checked()
    assert len(simulation.writer.commits) < 6000 / 150


def test_no_more_is_claimed_ahead_than_one_commit_covers():
    """In doubt after kill -9 is what is claimed and has no outcome in the ledger: what sessions hold and one claim."""
    connections = 20
    most = 0
    simulation = Simulation(6000, FakeRelay(url=f"smtp://relay.test?connections={connections}", latency=0.003))
    advance = simulation.ledger.advance

    def watch(batch):
        nonlocal most
        advance(batch)
        chunks = simulation.ledger.chunks.values()
        most = max(most, sum(chunk.outcome[: chunk.claimed].count(b".") for chunk in chunks))

    simulation.ledger.advance = watch
    simulation.run().checked()
    assert connections < most <= connections * (16 + 2) + COMMIT_RECIPIENTS


def test_outcomes_are_committed_soon_also_when_nothing_follows_for_long():
    """A minute between two messages: what the relay said of the first must not wait for the second."""
    late = []

    def answer(relay, phase, about):
        if phase == "mail" and simulation.scheduler._commits.dirty:
            late.append(simulation.scheduler._loop.time())

    simulation = Simulation(4, rate=1 / 60, answer=answer, commit_seconds=COMMIT_SECONDS * 1.5)
    simulation.run().checked()
    assert simulation.taken == everybody(4)
    assert late == []


@pytest.mark.parametrize("recipients", [3, 7, 20])
def test_outcomes_that_come_while_a_commit_is_under_way_go_with_the_next_one(recipients):
    simulation = Simulation(recipients, FakeRelay(latency=0.004), commit_seconds=0.05, rate=2.0)
    seen = []

    def look():
        seen.append(len(simulation.scheduler._commits.dirty))

    simulation.at = [(0.9 + n, look) for n in range(recipients // 2)]
    simulation.run().checked()
    assert seen and not any(seen)


def test_counts_of_each_commit_add_up():
    def answer(relay, phase, about):
        return b"451 4.3.0 later" if phase == "dot" and "7@" in about[0] else None

    simulation = Simulation(2500, answer=answer)
    advance = simulation.ledger.advance

    def watch(batch):
        advance(batch)
        assert simulation.ledger.counts(live=True).recipients == 2500 == simulation.tally.counts.recipients

    simulation.ledger.advance = watch
    simulation.run().checked()


# -- messages that cannot be composed


@pytest.mark.parametrize("connections", [1, 5])
@pytest.mark.parametrize("bad", [[1], [1, 2, 3], [10], range(1, 11), range(2, 10)])
def test_a_message_that_cannot_be_composed_fails_its_recipient_alone(bad, connections):
    relay = FakeRelay(url=f"smtp://relay.test?connections={connections}")
    simulation = Simulation(10, relay, bad=list(bad)).run().checked()
    assert simulation.error is None
    assert simulation.counts.get("failed", 0) == len(bad)
    assert simulation.taken == everybody(10) - Counter(address(number) for number in bad)
    assert {trouble.reply for trouble in simulation.ledger.troubles} == {f"row {n} cannot be composed" for n in bad}
    assert simulation.seconds < 1


def test_a_long_run_of_messages_that_cannot_be_composed_does_not_stop_the_job():
    simulation = Simulation(5000, bad=range(1, 4000)).run().checked()
    assert simulation.counts == {"recipients": 5000, "delivered": 1001, "failed": 3999}
    assert simulation.seconds < 10


def test_recipients_that_change_under_the_job_stop_it_and_leave_nobody_in_doubt():
    simulation = Simulation(3000)

    def change():
        simulation.source.broken = JournalError("list.jsonl was changed")

    simulation.at = [(1.0, change)]
    simulation.run().checked()
    assert str(simulation.error) == "list.jsonl was changed"
    assert simulation.counts.get("in_doubt", 0) == 0
    assert 0 < simulation.counts["delivered"] < 3000
    again = Simulation(ledger=restarted(simulation)).run().checked()
    assert simulation.taken + again.taken == everybody(3000)


def restarted(simulation, policy="skip"):
    simulation.ledger.restart()
    simulation.ledger.recover(policy)
    return simulation.ledger


# -- stopping


@pytest.mark.parametrize("when", [0.0, 0.0005, 0.001, 0.0015, 0.005, 0.0115, 0.02, 0.1, 0.5])
def test_a_stop_at_any_moment_ends_the_run_and_the_rest_goes_out_once(when):
    simulation = Simulation(1200, FakeRelay(latency=0.007))
    simulation.at = [(when, simulation.stop)]
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.seconds <= when + 0.1
    assert simulation.counts.get("in_doubt", 0) == 0
    assert simulation.counts.get("pending", 0) + simulation.counts.get("delivered", 0) == 1200
    again = Simulation(ledger=restarted(simulation)).run().checked()
    assert again.error is None
    assert simulation.taken + again.taken == everybody(1200)


def test_a_stop_just_after_a_reply_came_records_what_it_said():
    """Outcomes are handed over in batches, some milliseconds late: those of a connection's last message count too."""
    for when in range(200):
        simulation = Simulation(60, FakeRelay(url="smtp://relay.test?messages_per_connection=2", latency=0.003))
        simulation.at = [(0.02 + when / 1000, simulation.stop)]
        simulation.run().checked()
        assert simulation.ledger.counts(live=False).in_doubt == 0


def test_a_stop_leaves_at_most_what_is_under_way_in_doubt_while_it_waits_for_it():
    """Supervisors kill whoever does not end soon after the first signal."""
    simulation = Simulation(2000, FakeRelay(url="smtp://relay.test?connections=10", latency=5.0), commit_seconds=0.002)
    seen = []

    def look():
        seen.append(simulation.ledger.counts(live=False).in_doubt)

    simulation.at = [(29.0, look), (29.5, simulation.stop), (29.51, look), (29.9, look)]
    simulation.run().checked()
    assert seen[0] > 20
    assert 0 < seen[1] <= 20
    assert seen[1] == seen[2]
    assert simulation.ledger.counts(live=False).in_doubt == 0


def test_a_stop_before_the_start_is_a_stop():
    simulation = Simulation(5)
    start = simulation._make_scheduler

    def make():
        start()
        simulation.scheduler.start, begin = lambda: (begin(), simulation.stop()), simulation.scheduler.start

    simulation._make_scheduler = make
    simulation.run().checked()
    assert simulation.counts == {"recipients": 5, "pending": 5}


def test_a_stop_while_retries_wait_does_not_wait_for_them():
    simulation = Simulation(20, answer=lambda relay, phase, about: b"450 4.2.0 later" if phase == "rcpt" else None)
    simulation.at = [(5.0, simulation.stop)]
    simulation.run().checked()
    assert simulation.seconds < 6
    assert simulation.counts == {"recipients": 20, "deferred": 20}


def test_many_stops_in_a_row_send_everybody_once():
    taken = Counter()
    simulation = Simulation(400, FakeRelay(latency=0.02))
    for run in itertools.count():
        simulation.at = [(0.11 + run % 7 / 100, simulation.stop)]
        simulation.run().checked()
        taken += simulation.taken
        if simulation.counts["delivered"] == 400:
            break
        assert run < 100
        simulation = Simulation(FakeRelay(latency=0.02), ledger=restarted(simulation))
        simulation.relays = [FakeRelay(latency=0.02)]
    assert taken == everybody(400)


# -- a ledger that fails


@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_a_full_disk_stops_the_run_and_the_rest_goes_out_after_it(number):
    fault = JournalFault("the disk is full")
    simulation = Simulation(500, fail_commit=lambda n: fault if n >= number else None).run()
    assert simulation.error is fault
    sent = simulation.taken
    ledger = restarted(simulation)
    in_doubt = {ledger_row.number for ledger_row in ledger.in_doubt()}
    again = Simulation(ledger=ledger).run().checked()
    assert again.error is None
    assert max((sent + again.taken).values()) == 1
    missing = everybody(500) - sent - again.taken
    assert {int(name[4 : name.index("@")]) for name in missing} <= in_doubt


def test_a_ledger_that_cannot_be_read_stops_the_run():
    simulation = Simulation(10)

    def broken(*args):
        raise AssertionError("replaced below")

    make = simulation._make_scheduler

    def lease(routes, chunks, now, done):
        simulation.writer._put(lambda: done([], JournalFault("the disk fails")))

    def made():
        make()
        simulation.writer.lease_each = lease

    simulation._make_scheduler = made
    simulation.run()
    assert isinstance(simulation.error, JournalFault)


# -- shared messages


@pytest.mark.parametrize(("recipients", "batch"), [(1, 100), (100, 100), (101, 100), (2500, 100), (2500, 7), (1000, 1)])
def test_a_shared_message_goes_out_in_transactions_of_batch(recipients, batch):
    simulation = Simulation(recipients, shared=True, batch=batch).run().checked()
    assert simulation.taken == everybody(recipients)
    sizes = Counter(len(tx.rcpts) for tx in simulation.handed)
    assert max(sizes) <= batch
    # a chunk's rest is a transaction of its own
    assert len(simulation.handed) <= -(-recipients // batch) + -(-recipients // 1000) + 1


def test_a_partial_refusal_decides_for_each_recipient():
    def answer(relay, phase, about):
        if phase != "rcpt":
            return None
        number = int(about[4 : about.index("@")])
        return {1: b"550 5.1.1 unknown", 2: b"451 4.7.1 later"}.get(number % 10)

    simulation = Simulation(300, shared=True, batch=25, answer=answer, delays=(60.0,)).run().checked()
    assert simulation.counts == {"recipients": 300, "delivered": 240, "failed": 60}
    assert max(simulation.taken.values()) == 1
    said = Counter((trouble.outcome, trouble.code) for trouble in simulation.ledger.troubles)
    assert said == {(ord("F"), 550): 30, (ord("d"), 451): 30, (ord("F"), 451): 30}


def test_bytes_are_counted_once_a_transaction_also_when_one_in_it_is_refused():
    refuse = lambda relay, phase, about: b"550 5.1.1 no" if phase == "rcpt" and about == address(3) else None  # noqa: E731
    whole = Simulation(10, shared=True, batch=10).run().tally.counts.bytes
    partial = Simulation(10, shared=True, batch=10, answer=refuse).run().tally.counts.bytes
    assert whole == partial > 0


def test_a_shared_transaction_that_is_lost_after_its_dot_leaves_all_of_it_in_doubt():
    lost = [True]

    def answer(relay, phase, about):
        if phase == "dot" and lost and address(5) in about:
            lost.clear()
            return DROP_TAKEN
        return None

    simulation = Simulation(40, shared=True, batch=10, answer=answer).run().checked()
    assert simulation.counts == {"recipients": 40, "delivered": 30, "in_doubt": 10}
    assert simulation.taken == everybody(40)


# -- rates


def assert_paced(times, rate, burst):
    """Never more than rate x T + burst in any T."""
    times = sorted(times)
    for first, last in itertools.combinations(range(len(times)), 2):
        assert last - first + 1 <= rate * (times[last] - times[first]) + burst + 1e-6


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0])
def test_a_rate_is_kept_and_used(rate):
    simulation = Simulation(60, rate=rate).run().checked()
    times = simulation.relays[0].times
    assert_paced(times, rate, max(1, rate // 10))
    assert times[-1] - times[0] <= 60 / rate * 1.1 + 0.2


def test_a_mail_counts_when_it_is_written_also_where_a_reset_is_awaited_before():
    answer = lambda relay, phase, about: b"451 4.3.0 no" if phase == "rcpt" and relay == "plain" else None  # noqa: E731
    plain = FakeRelay("plain", "smtp://plain.test", latency=0.1, pipelining=False)
    quick = FakeRelay("quick", "smtp://quick.test", latency=0.001)
    simulation = Simulation(200, plain, quick, rate=9.0, answer=answer, delays=()).run().checked()
    assert len(plain.times) > 20
    assert_paced([at for at, *_ in simulation.offers], 9.0, 1)


def test_the_rate_of_one_relay_does_not_slow_another():
    slow = FakeRelay("slow", "smtp://slow.test?rate=6/m")
    quick = FakeRelay("quick", "smtp://quick.test?rate=20/s")
    simulation = Simulation(400, slow, quick).run().checked()
    assert_paced(slow.times, 0.1, 1)
    assert_paced(quick.times, 20, 2)
    assert len(quick.times) > 390
    assert simulation.seconds < 30


def test_a_relay_without_a_rate_is_not_paced_by_one_with():
    slow = FakeRelay("slow", "smtp://slow.test?rate=1/s")
    free = FakeRelay("free", "smtp://free.test")
    simulation = Simulation(3000, slow, free).run().checked()
    alone = Simulation(3000, FakeRelay("free", "smtp://free.test")).run()
    assert simulation.seconds < alone.seconds * 1.5 + 1


def test_a_slow_job_claims_hardly_ahead():
    simulation = Simulation(30, rate=2.0)
    seen = []
    simulation.at = [
        (n + 0.75, lambda: seen.append(sum(len(stock.ready) for stock in simulation.scheduler._stocks)))
        for n in range(10)
    ]
    simulation.run().checked()
    assert max(seen) <= 1


def test_a_shared_message_under_a_rate_is_cut_to_what_may_leave_at_once():
    simulation = Simulation(60, shared=True, batch=4, rate=40.0).run().checked()
    assert_paced(simulation.relays[0].times, 40.0, 4)
