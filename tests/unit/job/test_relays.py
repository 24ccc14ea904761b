"""When a relay is given up, who takes over, and that nobody pays for it: by a clock that jumps."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from bulkmail.errors import (
    AuthError,
    AuthUnavailable,
    ConfigError,
    ConnectError,
    EnvelopeRefused,
    TimedOut,
    TlsError,
)
from bulkmail.job.pacing import shares_of
from bulkmail.job.relay import LONGEST_PAUSE, REFUSALS
from bulkmail.wire.reply import Reply
from unit.job.simulation import DROP, START, FakeRelay, Simulation, address


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def two(**changes):
    return FakeRelay("a", "smtp://a.test", **changes), FakeRelay("b", "smtp://b.test", **changes)


def auth_error(code=535):
    return AuthError("the server refused the login", reply=Reply(code, ["5.7.8 no"]), command="AUTH")


def down(*names, error=None):
    refused = error or ConnectError("connection refused")
    return lambda relay, phase, about: refused if phase == "connect" and relay in names else None


def tries(simulation, relay="main"):
    """When connections to a relay failed, in seconds of the run."""
    return [event["ts"] - START for event in simulation.named("connect_failed") if event["relay"] == relay]


# -- unreachable


def test_a_relay_that_is_down_is_tried_with_growing_pauses_until_the_patience_ends():
    simulation = Simulation(10, FakeRelay(patience=300.0), answer=down("main")).run().checked()
    assert isinstance(simulation.error, ConnectError)
    assert "relay main" in str(simulation.error) and "connection refused" in str(simulation.error)
    assert simulation.counts == {"recipients": 10, "pending": 10}
    at = tries(simulation)
    assert 299 <= at[-1] <= 301
    pauses = [later - sooner for sooner, later in pairwise(at) if later > sooner]
    assert pauses[:-1] == sorted(pauses[:-1])
    assert max(pauses) <= LONGEST_PAUSE + 0.1
    assert len(at) < 40


def test_patience_zero_gives_up_at_once():
    simulation = Simulation(3, FakeRelay(patience=0.0), answer=down("main")).run().checked()
    assert simulation.error is not None
    assert simulation.seconds < 1


def test_a_relay_that_comes_back_in_time_is_used():
    def answer(relay, phase, about):
        gone = phase == "connect" and simulation.scheduler._loop.time() < 1100
        return ConnectError("connection refused") if gone else None

    simulation = Simulation(50, FakeRelay(patience=300.0), answer=answer)
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.taken == everybody(50)
    assert 100 <= simulation.seconds <= 100 + LONGEST_PAUSE + 1


def test_a_relay_that_goes_away_in_the_middle_stops_the_job_and_the_rest_waits():
    def answer(relay, phase, about):
        gone = simulation.scheduler._loop.time() > 1001
        return (ConnectError("connection refused") if phase == "connect" else DROP) if gone else None

    simulation = Simulation(2000, FakeRelay(patience=60.0), answer=answer)
    simulation.run().checked()
    assert isinstance(simulation.error, ConnectError)
    assert simulation.counts.get("failed", 0) == 0
    counts = simulation.counts
    assert counts["delivered"] + counts["pending"] + counts.get("in_doubt", 0) + counts.get("deferred", 0) == 2000
    assert counts["pending"] > 1000


@pytest.mark.parametrize("connections", [1, 5, 20])
@pytest.mark.parametrize("how", [DROP, b"421 4.7.0 too busy"])
@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
def test_a_relay_that_takes_connections_and_ends_each_is_as_good_as_down(phase, how, connections):
    """It must not go on for ever, nor use up the recipients' attempts."""
    answer = lambda relay, at, about: how if at == phase else None  # noqa: E731
    fake = FakeRelay(url=f"smtp://relay.test?connections={connections}", patience=30.0)
    simulation = Simulation(500, fake, answer=answer, delays=(1.0, 2.0, 3.0)).run().checked()
    assert simulation.error is not None
    assert simulation.seconds < 60
    assert simulation.counts.get("failed", 0) == 0
    assert simulation.counts.get("delivered", 0) == 0
    assert fake.opened < 40 * connections


def test_a_relay_that_refuses_further_connections_is_not_given_up_while_one_works():
    """A limit of the relay's: two connections, each beyond is told to go away."""

    def answer(relay, phase, about):
        if phase == "connect" and len(simulation.scheduler.relays[0].pool.sessions) >= 2:
            return ConnectError("421 too many connections")
        return None

    simulation = Simulation(
        3000, FakeRelay(url="smtp://relay.test?connections=10", patience=5.0, latency=0.1), answer=answer
    )
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.taken == everybody(3000)
    assert simulation.seconds > 60


# -- login, TLS


@pytest.mark.parametrize(
    "error",
    [
        auth_error(535),
        auth_error(534),
        AuthUnavailable("the server offers no mechanism"),
        ConfigError("no such mechanism"),
        TlsError("the certificate is of another", permanent=True),
    ],
)
def test_what_trying_again_cannot_help_is_tried_once(error):
    fake = FakeRelay(url="smtp://user:pw@relay.test?connections=20")
    simulation = Simulation(100, fake, answer=down("main", error=error)).run().checked()
    assert isinstance(simulation.error, type(error))
    assert "relay main" in str(simulation.error)
    assert fake.opened == 1
    assert simulation.seconds < 1
    assert simulation.counts == {"recipients": 100, "pending": 100}


@pytest.mark.parametrize(
    "error",
    [
        auth_error(454),
        AuthError("the token endpoint is down"),
        TlsError("handshake failed"),
        TimedOut("no greeting", phase="greeting"),
    ],
)
def test_what_may_pass_is_tried_again(error):
    fake = FakeRelay(url="smtp://user:pw@relay.test?connections=20", patience=10.0)
    simulation = Simulation(100, fake, answer=down("main", error=error)).run().checked()
    assert isinstance(simulation.error, type(error))
    assert 3 < fake.opened < 20
    assert 9 < simulation.seconds < 12


def test_a_password_that_is_withdrawn_in_the_middle_is_tried_once_more():
    def answer(relay, phase, about):
        return auth_error() if phase == "connect" and simulation.scheduler._loop.time() > 1001 else None

    fake = FakeRelay(url="smtp://user:pw@relay.test?connections=4&messages_per_connection=20")
    simulation = Simulation(3000, fake, answer=answer)
    simulation.run().checked()
    assert isinstance(simulation.error, AuthError)
    assert len(simulation.named("connect_failed")) <= 4  # those that were being opened at the same time
    counts = simulation.counts
    assert counts["delivered"] + counts["pending"] == 3000
    assert max(simulation.taken.values()) == 1


# -- several relays


def test_relays_share_the_work():
    a, b = two()
    simulation = Simulation(1000, a, b).run().checked()
    assert simulation.taken == everybody(1000)
    assert min(len(a.taken), len(b.taken)) > 300


@pytest.mark.parametrize("error", [ConnectError("connection refused"), auth_error()])
def test_when_one_is_down_the_other_does_it_all(error):
    a, b = two()
    simulation = Simulation(1000, a, b, answer=down("a", error=error)).run().checked()
    assert simulation.error is None
    assert len(b.taken) == 1000
    assert "refused" in simulation.tally.relays["a"].last_error
    assert simulation.tally.relays["b"].delivered == 1000


def test_when_all_are_down_each_is_named():
    a, b = two(patience=5.0)
    simulation = Simulation(10, a, b, answer=down("a", "b")).run().checked()
    assert "relay a" in str(simulation.error) and "relay b" in str(simulation.error)
    assert simulation.counts == {"recipients": 10, "pending": 10}


def test_one_that_dies_in_the_middle_leaves_its_work_to_the_other():
    def answer(relay, phase, about):
        if relay == "a" and simulation.scheduler._loop.time() > 1000.5:
            return ConnectError("gone") if phase == "connect" else DROP
        return None

    a, b = two(patience=1.0)
    simulation = Simulation(1500, a, b, answer=answer)
    simulation.run().checked()
    assert simulation.error is None
    counts = simulation.counts
    assert counts["delivered"] + counts.get("in_doubt", 0) == 1500
    assert counts.get("in_doubt", 0) <= 5
    assert max(simulation.taken.values()) == 1


# -- refusals of the sender


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("mail", b"553 5.7.1 sender address rejected"),
        ("mail", b"530 5.7.0 authentication required"),
        ("rcpt", b"554 5.7.1 <x>: relay access denied"),
        ("rcpt", b"550 relaying denied"),
    ],
)
def test_a_relay_that_refuses_us_is_given_up_after_three(phase, reply):
    answer = lambda relay, at, about: reply if at == phase else None  # noqa: E731
    simulation = Simulation(200, FakeRelay(url="smtp://relay.test?connections=1"), answer=answer).run().checked()
    assert isinstance(simulation.error, EnvelopeRefused)
    assert simulation.error.reply.code == int(reply[:3])
    assert simulation.counts == {"recipients": 200, "pending": 200}
    assert sum(simulation.tried.values()) <= (REFUSALS + 1 if phase == "rcpt" else 0)  # one was on its way already


def test_the_others_take_over_from_a_relay_that_refuses_us():
    answer = lambda relay, phase, about: b"554 5.7.1 relay access denied" if (relay, phase) == ("a", "rcpt") else None  # noqa: E731
    a, b = two()
    simulation = Simulation(1000, a, b, answer=answer).run().checked()
    assert simulation.error is None
    assert len(b.taken) == 1000
    assert simulation.counts == {"recipients": 1000, "delivered": 1000}


def test_the_others_take_over_from_a_relay_that_refuses_everyone():
    """A blocked address shows as refusals of recipients: they must not pay for it."""
    answer = lambda relay, phase, about: b"550 5.7.1 blocked" if (relay, phase) == ("a", "rcpt") else None  # noqa: E731
    a, b = two()
    simulation = Simulation(5000, a, b, answer=answer).run().checked()
    assert simulation.error is None
    assert len(b.taken) == 5000
    assert simulation.counts == {"recipients": 5000, "delivered": 5000}


def test_refusals_in_flight_when_the_last_relay_goes_burn_nobody():
    """One relay has taken mail and died; the other refuses us: those on their way to it wait for the next run."""

    def answer(relay, phase, about):
        if relay == "a":
            if simulation.scheduler._loop.time() > 1000.4:
                return ConnectError("gone") if phase == "connect" else DROP if phase == "rcpt" else None
            return None
        return b"554 5.7.1 relay access denied" if phase == "rcpt" else None

    a = FakeRelay("a", "smtp://a.test", patience=1.0)
    b = FakeRelay("b", "smtp://b.test?connections=10", latency=0.4)
    simulation = Simulation(3000, a, b, answer=answer)
    simulation.run().checked()
    assert simulation.error is not None
    assert simulation.counts.get("failed", 0) == 0


def test_a_refused_sender_of_one_message_fails_that_one_where_the_relay_takes_others():
    def answer(relay, phase, about):
        return b"553 5.1.8 sender rejected" if phase == "mail" and len(simulation.taken) == 10 else None

    simulation = Simulation(11, FakeRelay(url="smtp://relay.test?connections=1", pipelining=False), answer=answer)
    simulation.run().checked()
    assert simulation.error is None
    assert simulation.counts == {"recipients": 11, "delivered": 10, "failed": 1}


# -- connections dealt out


@pytest.mark.parametrize(
    ("total", "wanted", "given"),
    [
        (None, [5, 5], [5, 5]),
        (20, [5, 5], [5, 5]),
        (10, [10, 10], [5, 5]),
        (10, [20, 5], [8, 2]),
        (3, [20, 1], [2, 1]),
        (1, [20, 20], [1, 1]),
        (7, [3, 3, 3], [3, 2, 2]),
        (7, [20, 1, 1], [5, 1, 1]),
    ],
)
def test_the_jobs_connections_are_dealt_out_to_its_relays(total, wanted, given):
    assert shares_of(total, wanted) == given
