"""A job stops before more harm is done: when a rule is reached, and that the rest waits for the next run."""

from __future__ import annotations

import pytest

from bulkmail.job.specs import StopRule
from bulkmail.job.stop_rules import StoppedByRule, StopRules
from unit.job.simulation import FakeRelay, Simulation

NO_SUCH = b"550 5.1.1 no such user"
BLOCKED = b"550 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org"


def share(what, most, after=100):
    return StopRule(what, most, share=True, after=after)


def count(what, most, after=1):
    return StopRule(what, most, share=False, after=after)


def every(nth, reply, phase="rcpt"):
    """Each nth is refused so."""
    return lambda relay, at, about: (
        reply if at == phase and int(str(about).split("@")[0].strip("(',user")) % nth == 0 else None
    )


def noted(rules, failed=0, kind="bad_recipient", state="failed"):
    for _ in range(failed):
        rules.note(state, kind)
    return rules


# -- the rule


def test_a_share_counts_from_the_attempts_on_that_it_names():
    assert noted(StopRules([share("failed", 0.05)]), 99).reached(99) is None
    assert noted(StopRules([share("failed", 0.05)]), 5).reached(100) is not None
    assert noted(StopRules([share("failed", 0.05)]), 4).reached(100) is None


def test_a_count_is_reached_by_itself():
    rules = StopRules([count("failed", 3)])
    assert noted(rules, 2).reached(1000) is None
    assert noted(rules, 1).reached(1001) is not None


def test_a_class_counts_whether_it_failed_or_was_deferred():
    rules = StopRules([count("blocked", 4)])
    noted(rules, 2, "blocked")
    assert noted(rules, 1, "blocked", "deferred").reached(50) is None
    assert noted(rules, 1, "blocked", "deferred").reached(50) is not None


def test_what_is_in_doubt_counts_once():
    rules = StopRules([count("in_doubt", 2)])
    assert noted(rules, 1, "in_doubt", "in_doubt").reached(50) is None


def test_nothing_is_looked_at_as_long_as_nobody_is_refused():
    rules = StopRules([share("failed", 0.01)])
    noted(rules, 1)
    assert rules.reached(100) is not None
    assert rules.reached(100) is None, "it has been told"


def test_the_sentence_has_the_rule_and_the_figures():
    error = noted(StopRules([share("failed", 0.05)]), 63).reached(1180)
    assert "'failed' 5%" in str(error) and "63 of 1180 attempts" in str(error) and "(5.3%)" in str(error)
    assert "--resume" in str(error)


# -- in a run


@pytest.mark.parametrize(
    ("rule", "nth", "reply"),
    [
        (share("failed", 0.05), 10, NO_SUCH),
        (share("bad_recipient", 0.05), 10, NO_SUCH),
        (share("blocked", 0.01), 50, BLOCKED),
        (count("blocked", 5), 50, BLOCKED),
        (share("deferred", 0.05), 10, b"451 4.3.0 later"),
    ],
)
def test_a_job_that_reaches_it_stops_with_the_rest_unsent(rule, nth, reply):
    simulation = Simulation(20_000, answer=every(nth, reply), stop_if=[rule]).run().checked()
    assert isinstance(simulation.error, StoppedByRule)
    assert simulation.counts["pending"] > 15_000
    assert simulation.counts.get("in_doubt", 0) == 0, "what was in flight has ended"
    assert rule.what in str(simulation.error)


def test_it_stops_soon_after_the_rule_is_reached():
    simulation = Simulation(20_000, answer=every(10, NO_SUCH), stop_if=[share("failed", 0.05, after=1000)]).run()
    attempts = simulation.tally.counts.attempts
    assert 1000 <= attempts < 1200


def test_one_that_stays_below_goes_on_to_its_end():
    simulation = Simulation(2000, answer=every(30, NO_SUCH), stop_if=[share("failed", 0.05), count("blocked", 1)])
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.counts == {"recipients": 2000, "delivered": 1934, "failed": 66}


def test_the_next_run_counts_anew():
    rule = count("failed", 20)
    simulation = Simulation(1000, answer=every(10, NO_SUCH), stop_if=[rule]).run().checked()
    assert isinstance(simulation.error, StoppedByRule)
    first = simulation.counts["failed"]
    assert 20 <= first < 40
    simulation.ledger.restart()
    simulation.ledger.recover("skip")
    again = Simulation(ledger=simulation.ledger, answer=every(10, NO_SUCH), stop_if=[rule]).run().checked()
    assert isinstance(again.error, StoppedByRule)
    assert first + 20 <= again.counts["failed"] < first + 40


def test_messages_that_cannot_be_composed_count_as_failed():
    simulation = Simulation(2000, bad=range(1, 2000, 2), stop_if=[share("failed", 0.2)]).run().checked()
    assert isinstance(simulation.error, StoppedByRule)
    assert simulation.counts["pending"] > 500


def test_losses_at_the_end_of_data_count_as_in_doubt():
    from unit.job.simulation import DROP

    seen = []

    def answer(relay, phase, about):
        seen.append(about) if phase == "dot" else None
        return DROP if phase == "dot" and len(seen) > 200 and len(seen) % 5 == 0 else None

    simulation = Simulation(5000, FakeRelay(), answer=answer, stop_if=[count("in_doubt", 10)]).run().checked()
    assert isinstance(simulation.error, StoppedByRule)
    assert 10 <= simulation.counts["in_doubt"] <= 20
