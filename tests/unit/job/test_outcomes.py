"""What each answer of a relay leads to: retried when, failed when, in doubt, never sent twice; what is told of it."""

from __future__ import annotations

from collections import Counter

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused
from bulkmail.job.outcomes import EVERYONE, MAX_REPLY_SHOWN, Outcomes
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import Transaction
from unit.job.simulation import DROP, DROP_TAKEN, START, FakeRelay, Simulation, address

LATER, NEVER = b"451 4.3.0 later", b"550 5.1.1 no such user"


def number_of(name):
    return int(name[4 : name.index("@")])


def everybody(count):
    return Counter(address(number) for number in range(1, count + 1))


def at_rcpt(replies):
    """Answer RCPTs of a row number by what `replies` has for it: a reply, or several, one after the other, then yes."""
    left = {number: list(reply) if isinstance(reply, list) else reply for number, reply in replies.items()}

    def answer(relay, phase, about):
        if phase != "rcpt" or number_of(about) not in left:
            return None
        reply = left[number_of(about)]
        return (reply.pop(0) if reply else None) if isinstance(reply, list) else reply

    return answer


# -- retries


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
def test_a_temporary_refusal_anywhere_is_tried_again_after_the_delays(phase):
    refused = []

    def answer(relay, at, about):
        if at == phase and len(refused) < 2:
            refused.append(simulation.scheduler._loop.time())
            return LATER
        return None

    relay = FakeRelay(url="smtp://relay.test?connections=1")
    simulation = Simulation(1, relay, answer=answer, delays=(60.0, 300.0))
    simulation.run().checked()
    assert simulation.counts == {"recipients": 1, "delivered": 1}
    assert simulation.tally.counts.attempts == 3
    assert 60 <= refused[1] - refused[0] < 61
    assert 360 <= simulation.seconds < 362


def test_without_a_delay_left_it_has_failed():
    simulation = Simulation(1, answer=at_rcpt({1: LATER}), delays=(60.0, 300.0)).run().checked()
    assert simulation.counts == {"recipients": 1, "failed": 1}
    assert simulation.tried[address(1)] == 3
    assert [trouble.attempt for trouble in simulation.ledger.troubles] == [1, 2, 3]
    assert simulation.seconds < 362


def test_no_delays_means_one_attempt():
    simulation = Simulation(3, answer=at_rcpt({2: LATER}), delays=()).run().checked()
    assert simulation.counts == {"recipients": 3, "delivered": 2, "failed": 1}


def test_no_attempt_begins_after_give_up_after():
    answer = at_rcpt({1: LATER})
    simulation = Simulation(1, answer=answer, delays=(60.0, 300.0, 3600.0), give_up_after=1000.0).run().checked()
    assert simulation.counts == {"recipients": 1, "failed": 1}
    assert simulation.tried[address(1)] == 3
    assert simulation.seconds < 1000


def test_a_permanent_refusal_is_not_tried_again():
    simulation = Simulation(20, answer=at_rcpt({7: NEVER})).run().checked()
    assert simulation.counts == {"recipients": 20, "delivered": 19, "failed": 1}
    assert simulation.tried[address(7)] == 1


def test_first_later_then_never():
    simulation = Simulation(20, answer=at_rcpt({7: [LATER, NEVER]})).run().checked()
    assert simulation.counts == {"recipients": 20, "delivered": 19, "failed": 1}
    assert [(t.attempt, chr(t.outcome), t.code) for t in simulation.ledger.troubles] == [(1, "d", 451), (2, "F", 550)]


def test_the_job_goes_on_while_some_wait_for_their_retry():
    simulation = Simulation(500, answer=at_rcpt({number: [LATER] for number in range(1, 500, 10)})).run().checked()
    first = [event["ts"] - START for event in simulation.named("delivered") if event["attempt"] == 1]
    again = [event["ts"] - START for event in simulation.named("delivered") if event["attempt"] == 2]
    assert max(first) < 10
    assert len(again) == 50
    assert min(again) >= 60
    assert max(again) < 75


def test_deferred_recipients_leave_in_few_chunks():
    """A chunk for each would make the ledger as large as a row for each recipient."""
    simulation = Simulation(5000, answer=lambda relay, phase, about: LATER if phase == "rcpt" else None, delays=(60.0,))
    simulation.run().checked()
    assert simulation.counts == {"recipients": 5000, "failed": 5000}
    assert len(simulation.ledger.chunks) < 60


def test_a_run_that_is_killed_and_goes_on_keeps_count_of_the_attempts():
    simulation = Simulation(1, answer=at_rcpt({1: LATER}), delays=(60.0, 300.0))
    simulation.at = [(100.0, simulation.stop)]
    simulation.run().checked()
    simulation.ledger.restart()
    simulation.ledger.recover("skip", now=START + 100, delays=(60.0, 300.0))
    again = Simulation(ledger=simulation.ledger, answer=at_rcpt({1: LATER}), delays=(60.0, 300.0)).run().checked()
    assert (simulation.tried[address(1)], again.tried[address(1)]) == (2, 1)
    assert again.counts == {"recipients": 1, "failed": 1}


def test_a_5xx_that_passes_by_itself_is_tried_again():
    """A limit is no reason to lose a recipient, whatever code it comes with."""
    quota = b"550 5.4.5 Daily user sending limit exceeded"
    simulation = Simulation(20, answer=at_rcpt({7: [quota]}), delays=(60.0,)).run().checked()
    assert simulation.counts == {"recipients": 20, "delivered": 20}
    assert [(t.class_, chr(t.outcome), t.code) for t in simulation.ledger.troubles] == [("quota", "d", 550)]


def test_a_relay_whose_quota_is_used_up_from_the_start_burns_nobody():
    """It would be the end of the list if each were tried again until no delay is left."""
    quota = b"550 5.4.5 Daily user sending limit exceeded"
    answer = lambda relay, phase, about: quota if phase == "rcpt" else None  # noqa: E731
    simulation = Simulation(3000, answer=answer, delays=(1.0,)).run().checked()
    assert "Daily user sending limit" in str(simulation.error)
    assert simulation.counts == {"recipients": 3000, "pending": 3000}


def test_at_the_end_of_a_short_list_what_passes_is_tried_again_as_often_as_anything():
    quota = b"550 5.4.5 Daily user sending limit exceeded"
    simulation = Simulation(2, answer=at_rcpt({1: [quota], 2: quota}), delays=(60.0, 300.0)).run().checked()
    assert simulation.counts == {"recipients": 2, "delivered": 1, "failed": 1}
    assert (simulation.tried[address(1)], simulation.tried[address(2)]) == (2, 3)
    assert 360 <= simulation.seconds < 364


def test_a_4xx_that_says_it_is_for_good_fails_nobody_at_once():
    never = b"421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed"
    answers = [never]
    simulation = Simulation(
        1, answer=lambda relay, phase, about: answers.pop() if phase == "dot" and answers else None, delays=(60.0,)
    )
    simulation.run().checked()
    assert simulation.counts == {"recipients": 1, "delivered": 1}
    assert [(t.class_, chr(t.outcome)) for t in simulation.ledger.troubles] == [("blocked", "d")]


def test_each_refusal_is_kept_with_what_it_means():
    replies = {
        1: b"550 5.1.1 no such user",
        2: b"552 5.2.2 Mailbox full",
        3: b"550 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org",
        4: b"450 4.2.0 Greylisted",
        5: b"554 hm",
    }
    simulation = Simulation(10, answer=at_rcpt(replies), delays=()).run().checked()
    assert {number_of(trouble.recipient): trouble.class_ for trouble in simulation.ledger.troubles} == {
        1: "bad_recipient",
        2: "mailbox_full",
        3: "blocked",
        4: "greylisted",
        5: "policy",
    }


@pytest.mark.parametrize(
    ("replies", "refused"),
    [
        ([b"530 5.7.0 Authentication required"], True),
        ([b"553 5.7.1 sender rejected"], True),
        ([b"250 ok", b"554 5.7.1 Relay access denied", b"554 5.7.1 Relay access denied"], True),
        (
            [
                b"250 ok",
                b"530 5.7.0 Must issue a STARTTLS command first",
                b"530 5.7.0 Must issue a STARTTLS command first",
            ],
            True,
        ),
        ([b"451 4.1.8 cannot look up the sender's domain"], False),
        ([b"250 ok", b"450 4.7.1 relay access denied for now", b"454 4.7.1 Relay access denied"], False),
        ([b"250 ok", b"550 5.1.1 no", b"550 5.1.1 no"], False),
        ([b"250 ok", b"550 5.7.1 blocked using spamhaus", b"550 5.7.1 blocked using spamhaus"], False),
        ([b"250 ok", b"554 5.7.1 Relay access denied", b"250 ok", b"354 go"], False),
    ],
)
def test_a_relay_refuses_us_only_for_good_and_only_all_of_a_transaction(replies, refused):
    """What passes may be a full disk or a look-up that failed: the relay is not to be given up for it."""
    client = Client(False)
    tx = Transaction(b"news@example.test", [b"ann@example.test", b"bob@example.test"], b".\r\n")
    client.push(tx, 0.0)
    for reply in replies:
        client.feed(reply + b"\r\n", 1.0)
    if replies[-1].startswith(b"354"):
        client.feed(b"250 queued\r\n", 1.0)
    assert client.done == [tx]
    assert Outcomes.sender_refused(tx) is refused


# -- connections that end


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("how", [DROP, b"421 4.3.2 closing"])
def test_work_that_was_not_taken_goes_out_by_another_connection(phase, how):
    """At the dot a 421 is a refusal for now; a loss there is in doubt, whatever the relay did."""
    ended = []

    def answer(relay, at, about):
        if at == phase and len(simulation.handed) > 100 and len(ended) < 3:
            ended.append(at)
            return how
        return None

    simulation = Simulation(600, FakeRelay(url="smtp://relay.test?connections=3"), answer=answer)
    simulation.run().checked()
    assert simulation.error is None
    if phase == "dot" and how is DROP:
        assert simulation.counts == {"recipients": 600, "delivered": 597, "in_doubt": 3}
        assert max(simulation.taken.values()) == 1
    else:
        assert simulation.taken == everybody(600)
        assert simulation.counts["delivered"] == 600


def test_what_may_have_been_taken_is_in_doubt_and_never_sent_again():
    answer = lambda relay, phase, about: DROP_TAKEN if phase == "dot" and number_of(about[0]) in (3, 40) else None  # noqa: E731
    simulation = Simulation(60, answer=answer).run().checked()
    assert simulation.counts == {"recipients": 60, "delivered": 58, "in_doubt": 2}
    assert simulation.taken == everybody(60)
    troubles = {trouble.recipient: trouble for trouble in simulation.ledger.troubles}
    assert set(troubles) == {address(3), address(40)}
    assert {chr(trouble.outcome) for trouble in troubles.values()} == {"?"}
    assert all("may have been taken" in trouble.reply for trouble in troubles.values())


def test_a_transaction_that_ends_every_connection_is_put_off_and_does_not_stop_the_others():
    """A message that crashes the relay's filter must not be offered to it for ever."""
    answer = lambda relay, phase, about: DROP if phase == "rcpt" and number_of(about) == 5 else None  # noqa: E731
    simulation = Simulation(300, answer=answer, delays=(600.0,)).run().checked()
    assert simulation.counts == {"recipients": 300, "delivered": 299, "failed": 1}
    assert simulation.tried[address(5)] <= 2 * (Outcomes.MAX_TRIES + 1)


def test_connections_that_are_lost_again_and_again_lose_nobody():
    simulation = Simulation(400, FakeRelay(latency=0.05))
    simulation.at = [(0.3 + 0.37 * n, simulation.hang_up) for n in range(8)]
    simulation.run().checked()
    assert simulation.error is None
    counts = simulation.counts
    assert counts["delivered"] + counts.get("in_doubt", 0) == 400
    assert max(simulation.taken.values()) == 1


# -- refusals of a relay that has taken nothing yet


def refuse_all(relay, phase, about):
    return b"550 5.7.1 your address is blocked" if phase == "rcpt" else None


def test_a_relay_that_refuses_everyone_stops_the_job_and_burns_nobody():
    simulation = Simulation(3000, answer=refuse_all).run().checked()
    assert isinstance(simulation.error, EnvelopeRefused)
    assert "refuses everyone" in str(simulation.error)
    assert "your address is blocked" in str(simulation.error)
    assert simulation.counts == {"recipients": 3000, "pending": 3000}
    assert EVERYONE <= sum(simulation.tried.values()) < 2 * EVERYONE
    assert set(simulation.states().values()) == {"."}


def test_after_that_the_next_run_begins_with_others_and_ends_the_job():
    """If it was the list and not the relay, each run gets on."""
    simulation = Simulation(300, answer=refuse_all).run()
    simulation.ledger.restart()
    simulation.ledger.recover("skip")
    again = Simulation(ledger=simulation.ledger).run().checked()
    assert again.error is None
    assert again.taken == everybody(300)


def test_a_short_list_that_is_refused_whole_has_failed():
    simulation = Simulation(EVERYONE - 1, answer=refuse_all).run().checked()
    assert simulation.error is None
    assert simulation.counts == {"recipients": EVERYONE - 1, "failed": EVERYONE - 1}
    assert len(simulation.ledger.troubles) == EVERYONE - 1
    assert len(simulation.named("failed")) == EVERYONE - 1


def test_one_message_taken_makes_the_refusals_before_it_failures():
    simulation = Simulation(400, answer=at_rcpt(dict.fromkeys(range(1, 81), NEVER))).run().checked()
    assert simulation.error is None
    assert simulation.counts == {"recipients": 400, "delivered": 320, "failed": 80}


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
def test_it_does_not_matter_where_it_refuses_everyone(phase):
    answer = lambda relay, at, about: b"554 5.7.1 go away" if at == phase else None  # noqa: E731
    simulation = Simulation(1000, answer=answer).run().checked()
    assert "go away" in str(simulation.error)
    assert simulation.counts == {"recipients": 1000, "pending": 1000}


def test_stopped_while_refusals_are_held_back_they_wait_for_the_next_run():
    simulation = Simulation(50, FakeRelay(url="smtp://relay.test?connections=1", latency=0.1), answer=refuse_all)
    simulation.at = [(1.0, simulation.stop)]
    simulation.run().checked()
    assert simulation.counts == {"recipients": 50, "pending": 50}


# -- what is told


def test_each_recipient_has_one_event_an_attempt_with_all_that_is_known():
    replies = {2: NEVER, 3: [LATER], 5: [LATER, NEVER]}
    simulation = Simulation(30, answer=at_rcpt(replies), bad=[9], delays=(60.0,)).run().checked()
    told = simulation.named("delivered", "deferred", "failed", "in_doubt")
    assert Counter(event["event"] for event in told) == {"delivered": 27, "deferred": 2, "failed": 3}
    assert {(e["recipient"], e["attempt"]) for e in told if e["recipient"] == address(5)} == {
        (address(5), 1),
        (address(5), 2),
    }
    keys = {"ts", "event", "recipient", "attempt", "relay", "egress", "code", "enhanced", "reply", "message_id", "ms"}
    assert all(set(event) == keys for event in told)
    refused = next(event for event in told if event["recipient"] == address(2))
    assert (refused["code"], refused["enhanced"], refused["reply"]) == (550, "5.1.1", "5.1.1 no such user")
    assert (refused["relay"], refused["message_id"]) == ("main", f"<2.{address(2)}>")
    delivered = next(event for event in told if event["recipient"] == address(1))
    assert delivered["code"] == 250
    assert delivered["ms"] >= 20  # two round trips
    bad = next(event for event in told if event["recipient"] == address(9))
    assert (bad["event"], bad["attempt"], bad["reply"]) == ("failed", 0, "row 9 cannot be composed")


def test_connections_are_told_too():
    answer = lambda relay, phase, about: ConnectionLost("no") if phase == "connect" and about == 1 else None  # noqa: E731
    simulation = Simulation(5, FakeRelay(url="smtp://relay.test?connections=1"), answer=answer).run()
    assert [event["event"] for event in simulation.events if "connect" in event["event"]][:2] == [
        "connect_failed",
        "connected",
    ]
    failed = simulation.named("connect_failed")[0]
    assert (failed["relay"], failed["error"]) == ("main", "no")


def test_a_long_reply_is_cut_in_events():
    simulation = Simulation(1, answer=at_rcpt({1: b"550 5.1.1 " + b"x" * 400})).run()
    assert len(simulation.named("failed")[0]["reply"]) == MAX_REPLY_SHOWN


def test_partly_refused_transactions_tell_of_each():
    simulation = Simulation(10, shared=True, batch=10, answer=at_rcpt({4: NEVER, 6: [LATER]})).run().checked()
    told = {(event["recipient"], event["event"]) for event in simulation.named("delivered", "failed", "deferred")}
    assert (address(4), "failed") in told
    assert {(address(6), "deferred"), (address(6), "delivered")} <= told
    assert len(told) == 11
