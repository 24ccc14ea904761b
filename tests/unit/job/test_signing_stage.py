"""Messages signed on their way: nobody is lost or sent to twice, the signers never wait, little is in doubt."""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.errors import MessageError
from bulkmail.job.stock import COMMIT_RECIPIENTS
from unit.job.fake_signers import FakeSigners
from unit.job.simulation import FakeRelay, Simulation, address
from unit.job.test_scheduler import restarted


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def fast(connections=20):
    return FakeRelay(url=f"smtp://relay.test?connections={connections}", latency=0.0005)


@pytest.mark.parametrize("recipients", [1, 3, 4, 5, 999, 2500])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_everybody_gets_a_signed_message_once(recipients, batch):
    signers = FakeSigners(batch=batch)
    simulation = Simulation(recipients, fast(), signers=signers).run().checked()
    assert simulation.error is None
    assert simulation.taken == everybody(recipients) and signers.signed == recipients
    assert all(tx.body[0].startswith(b"DKIM-Signature: ") for tx in simulation.handed)


def test_the_signers_are_what_bounds_the_rate():
    recipients, seconds, workers = 4000, 0.0007, 2
    simulation = Simulation(recipients, fast(), signers=FakeSigners(seconds, 8, workers)).run()
    at_best = recipients * seconds / workers
    assert at_best <= simulation.seconds < 1.1 * at_best


def test_what_is_being_signed_counts_as_claimed_ahead():
    signers = FakeSigners(seconds=0.01)
    simulation = Simulation(3000, fast(), signers=signers)
    most, advance = 0, simulation.ledger.advance

    def watch(batch):
        nonlocal most
        advance(batch)
        chunks = simulation.ledger.chunks.values()
        most = max(most, sum(chunk.outcome[: chunk.claimed].count(b".") for chunk in chunks))

    simulation.ledger.advance = watch
    simulation.run().checked()
    assert max(signers.in_hand) <= COMMIT_RECIPIENTS
    assert most <= COMMIT_RECIPIENTS + 18 * 20


def test_a_slow_job_has_few_with_the_signers():
    signers = FakeSigners()
    Simulation(200, fast(), signers=signers, rate=100.0).run().checked()
    assert max(signers.in_hand) <= 5


@pytest.mark.parametrize("when", [0.0, 0.0005, 0.01, 0.05, 0.2])
def test_a_stop_while_messages_are_signed_leaves_them_for_the_next_run(when):
    first = Simulation(500, fast(), signers=FakeSigners())
    first.at = [(when, first.stop)]
    first.run().checked()
    second = Simulation(ledger=restarted(first), signers=FakeSigners()).run().checked()
    assert first.taken + second.taken == everybody(500)


def test_a_key_that_fails_stops_the_job_and_fails_nobody():
    simulation = Simulation(500, fast(), signers=FakeSigners(fails=100)).run().checked()
    assert isinstance(simulation.error, MessageError) and "the key is gone" in str(simulation.error)
    counts = simulation.counts
    assert counts.get("failed", 0) == counts.get("in_doubt", 0) == 0 and counts["delivered"] < 100
    second = Simulation(ledger=restarted(simulation), signers=FakeSigners()).run().checked()
    assert simulation.taken + second.taken == everybody(500)


@pytest.mark.parametrize("bad", [{1}, {7, 8, 9, 10}, set(range(1, 501))])
def test_messages_that_cannot_be_composed_fail_alone(bad):
    simulation = Simulation(500, fast(), signers=FakeSigners(), bad=bad).run().checked()
    assert simulation.counts.get("failed", 0) == len(bad)
    assert simulation.taken == everybody(500) - Counter(address(number) for number in bad)


def test_a_stop_does_not_wait_for_a_key_that_does_not_answer():
    first = Simulation(500, fast(), signers=FakeSigners(seconds=1000.0))
    first.at = [(0.05, first.stop)]
    first.run().checked()
    assert first.seconds < 1 and not first.taken and first.counts["pending"] == 500


def test_one_message_that_cannot_be_signed_fails_its_recipient_alone():
    signers = FakeSigners(batch=4)
    signers.unfit = True
    simulation = Simulation(400, fast(), signers=signers).run().checked()
    assert simulation.error is None
    assert simulation.counts == {"recipients": 400, "delivered": 399, "failed": 1}
