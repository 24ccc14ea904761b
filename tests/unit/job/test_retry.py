"""When the next attempt is made, and by whom: the rules, and what comes of them in a run by a clock that jumps."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bulkmail.job.retry import BUILT_IN, Retries
from bulkmail.job.routes import Route
from bulkmail.job.specs import ClassRetry, RetrySpec
from bulkmail.smtp.classify import kinds
from bulkmail.wire.reply import Reply
from unit.job.simulation import START, Simulation, address

GREYLISTED = b"450 4.2.0 Greylisted"
FULL = b"452 4.2.2 mailbox full"
LATER = b"451 4.3.0 try again later"
FLAT = RetrySpec((60.0, 300.0), jitter=0.0)


def wait(spec, kind="system", text="4.3.0 later", attempt=0, waited=0.0, code=451):
    return Retries(spec).wait(kind, Reply(code, [text]), "RCPT", attempt, 1000.0, 1000.0 + waited)


def at_rcpt(*replies):
    """These in turn, for whoever it is; then it is taken."""
    left = list(replies)
    return lambda relay, phase, about: left.pop(0) if phase == "rcpt" and left else None


def times(simulation):
    """When each attempt ended, in seconds of the run."""
    return [event["ts"] - START for event in simulation.named("deferred", "failed", "delivered")]


# -- which delay


@pytest.mark.parametrize("kind", [*kinds(), "connection"])
def test_delays_that_are_given_hold_for_every_class(kind):
    assert [wait(FLAT, kind, attempt=n) for n in range(3)] == [60.0, 300.0, None]


def test_classes_go_before_the_delays_that_are_given():
    classes = {"greylisted": ClassRetry((5.0, 7.0)), "policy": ClassRetry()}
    spec = RetrySpec((60.0, 300.0), classes=classes)
    assert [wait(spec, "greylisted", attempt=n) for n in range(3)] == [5.0, 7.0, None]
    assert wait(spec, "policy") is None
    assert wait(spec, "system") == 60.0


def test_without_delays_each_class_has_its_own():
    spec = RetrySpec(delays_given=False)
    assert wait(spec, "greylisted") == 300
    assert wait(spec, "mailbox_full") == 6 * 3600
    assert wait(spec, "policy") == 1800
    assert wait(spec, "system") == 60
    assert wait(RetrySpec(delays_given=False, classes={"policy": ClassRetry()}), "policy") is None


def test_the_classes_that_have_delays_of_their_own_exist_and_last_a_day_at_least():
    """Who is refused in several ways one after the other must not have failed sooner than by any of them."""
    assert BUILT_IN.keys() <= set(kinds())
    for one in BUILT_IN.values():
        assert len(one.delays) >= len(RetrySpec().delays)
        assert list(one.delays) == sorted(one.delays)


def test_give_up_after_ends_it_whatever_the_delays():
    spec = RetrySpec((60.0, 300.0, 3600.0), give_up_after=1000.0)
    assert wait(spec, attempt=1, waited=60.0) == 300
    assert wait(spec, attempt=1, waited=701.0) is None
    assert wait(spec, attempt=2, waited=360.0) is None
    longer = RetrySpec((60.0,), give_up_after=1.0, classes={"mailbox_full": ClassRetry((60.0,), 100.0)})
    assert wait(longer, "mailbox_full") == 60 and wait(longer) is None


# -- what the server asks for


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4.7.1 Greylisted, try again in 300 seconds", 300),
        ("4.7.1 try again in 37 seconds", 60),  # sooner than the delay
        ("4.7.1 try again in 2 hours", 7200),
        ("4.7.1 try again in 61 seconds", 90),  # rounded up: who is due at nearly the same time shares a chunk
        ("4.7.1 try again in 90000 seconds", 86_400),  # the end of give_up_after, and of what is believed
    ],
)
def test_a_later_time_that_the_server_names_moves_the_retry(text, seconds):
    assert wait(FLAT, "greylisted", text) == seconds


def test_it_is_moved_no_further_than_to_the_end_of_give_up_after():
    spec = RetrySpec((60.0, 60.0), give_up_after=500.0)
    assert wait(spec, text="try again in 2 hours", waited=100.0, attempt=1) == 400


def test_experience_with_a_server_counts_only_where_no_delays_are_given():
    text = "4.7.500 Server busy"  # Outlook: a quarter of an hour
    assert wait(RetrySpec((0.2,)), "throttled", text) == pytest.approx(0.2)
    assert wait(RetrySpec(delays_given=False), "throttled", text) == 900
    given = RetrySpec(delays_given=False, classes={"throttled": ClassRetry((5.0,))})
    assert wait(given, "throttled", text) == 5


def test_the_jitter_makes_delays_longer_by_its_share_at_most():
    for draw, factor in [(0.0, 1.0), (0.5, 1.05), (1.0, 1.1)]:
        assert Retries(RetrySpec(jitter=0.1), draw=lambda draw=draw: draw).spread() == pytest.approx(factor)
    drawn = {Retries(RetrySpec()).spread() for _ in range(20)}
    assert len(drawn) > 1 and all(1 <= one <= 1.1 for one in drawn)


# -- routes


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("gmail.com", Route("gmail.com")),
        ("* !main", Route("*", "main")),
        ("gmail.com,googlemail.com =relay two", Route("gmail.com,googlemail.com", "relay two", True)),
        ("* !=odd", Route("*", "=odd")),
    ],
)
def test_a_route_is_read_as_it_is_written(text, route):
    assert Route.parse(text) == route and str(route) == text


@pytest.mark.parametrize("text", ["", "a.test", "a.test ", "a.test !", "a.test main"])
def test_what_names_no_relay_is_a_pattern(text):
    assert Route.parse(text) == Route(text)


def test_the_retry_of_a_retry_goes_by_the_last_relays_word():
    retries = Retries(RetrySpec(relay="next"), several=True)
    assert retries.route("* !a", "b") == "* !b"
    assert Retries(RetrySpec(relay="same"), several=True).route("x.test", "a") == "x.test =a"
    assert Retries(RetrySpec(relay="next")).route("*", "a") == "*", "there is no other"
    assert Retries(RetrySpec(), several=True).route("* !a", "b") == "* !a"


# -- in a run


def test_each_class_has_its_time():
    retry = RetrySpec(
        (60.0,), jitter=0.0, classes={"greylisted": ClassRetry((300.0,)), "mailbox_full": ClassRetry((21_600.0,))}
    )
    replies = {1: GREYLISTED, 2: FULL, 3: LATER}
    refused = set()

    def answer(relay, phase, about):
        number = int(about.split("@")[0][4:]) if phase == "rcpt" else 0
        if number in replies and number not in refused:
            refused.add(number)
            return replies[number]
        return None

    simulation = Simulation(5, answer=answer, retry=retry).run().checked()
    again = {
        event["recipient"]: event["ts"] - START for event in simulation.named("delivered") if event["attempt"] == 2
    }
    assert again[address(3)] == pytest.approx(60, abs=1)
    assert again[address(1)] == pytest.approx(300, abs=1)
    assert again[address(2)] == pytest.approx(21_600, abs=1)
    assert simulation.counts == {"recipients": 5, "delivered": 5}


def test_a_class_that_is_never_tried_again_has_failed_at_its_first_refusal():
    retry = RetrySpec((60.0,), classes={"greylisted": ClassRetry()})
    simulation = Simulation(1, answer=at_rcpt(GREYLISTED), retry=retry).run().checked()
    assert simulation.counts == {"recipients": 1, "failed": 1}
    assert simulation.tried[address(1)] == 1


def test_with_the_jitter_drawn_whole_each_retry_is_a_tenth_later():
    simulation = Simulation(1, answer=at_rcpt(LATER, LATER), retry=RetrySpec((60.0, 300.0)))
    simulation.draw = 1.0
    simulation.run().checked()
    pauses = [later - sooner for sooner, later in pairwise(times(simulation))]
    assert pauses == pytest.approx([66, 330], abs=0.5)


def test_a_time_that_the_server_names_is_waited_for():
    asked = b"451 4.7.1 Greylisted, please try again in 300 seconds"
    simulation = Simulation(1, answer=at_rcpt(asked), retry=FLAT).run().checked()
    assert times(simulation)[1] == pytest.approx(300, abs=1)


def test_the_time_from_the_first_attempt_counts_also_when_retries_came_late():
    """The server has put each off for an hour: of four delays that fit into two hours, two are left out."""
    asked = b"451 4.7.1 try again in 1 hour"
    retry = RetrySpec((1.0, 1.0, 1.0, 1.0), give_up_after=7200.0, jitter=0.0)
    simulation = Simulation(1, answer=at_rcpt(*[asked] * 9), retry=retry).run().checked()
    assert simulation.counts == {"recipients": 1, "failed": 1}
    assert simulation.tried[address(1)] == 3 and 7199 <= simulation.seconds <= 7202


def test_a_resumed_job_goes_on_counting_that_time():
    retry = RetrySpec((600.0,) * 20, give_up_after=3050.0, jitter=0.0)
    simulation = Simulation(1, answer=at_rcpt(*[LATER] * 99), retry=retry)
    simulation.at = [(1000.0, simulation.stop)]
    simulation.run().checked()
    simulation.ledger.restart()
    simulation.ledger.recover("skip", now=START, delays=retry.delays)
    again = Simulation(ledger=simulation.ledger, answer=at_rcpt(*[LATER] * 99), retry=retry).run().checked()
    assert again.counts == {"recipients": 1, "failed": 1}
    assert simulation.tried[address(1)] + again.tried[address(1)] == 6  # at 0, 600 ... 3000


def test_who_was_refused_together_leaves_in_few_chunks_whatever_the_server_asks():
    def answer(relay, phase, about):
        return b"451 4.7.1 try again in %d seconds" % (61 + hash(about) % 30) if phase == "rcpt" else None

    simulation = Simulation(2000, answer=answer, retry=RetrySpec((60.0,), jitter=0.0)).run()
    assert len(simulation.ledger.chunks) <= 40
