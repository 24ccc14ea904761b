"""A load run against servers that refuse, drop and hang: every message has one end, and it is counted once."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.load.bench import PAUSES, Bench
from bulkmail.load.content import prepare
from bulkmail.pool.parcel import MAX_TRIES
from bulkmail.url import parse_endpoint
from faults.scripted import (
    GREETING,
    always,
    at,
    close,
    expect,
    hang,
    hello,
    late,
    offer,
    reset,
    scripted,
    send,
    serve,
    serve_lmtp,
    silence,
)

CONTENT = b"Subject: load\r\n\r\n.dotted\r\n"
LATER = b"451 4.7.1 later\r\n"
NO = b"550 5.7.1 no\r\n"


def bench(url, messages=20, *, each=1, to=(), duration=None, **options):
    options = {"connections": 2, "messages_per_connection": 0, **options}
    return Bench(parse_endpoint(url, **options), prepare(CONTENT, "a@example.test", to, each), messages, duration)


def serving(*faults, extensions=("PIPELINING",)):
    return [*hello(*extensions), serve(*faults)]


def run_against(run, scripts, messages=20, scheme=None, **options):
    """(the report, the server)"""

    async def main():
        async with scripted(*scripts) as server:
            url = server.url if scheme is None else server.url.replace("smtp:", scheme + ":")
            return await bench(url, messages, **options).run(), server

    return run(main())


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")])
def test_what_is_counted_is_what_arrived_however_it_is_sent(run, extensions):
    report, server = run_against(run, [serving(extensions=extensions)], 200, each=3)
    assert (report.messages, report.failed, report.refused, report.error) == (200, 0, 0, None)
    assert len(server.messages) == 200
    assert {message.content for message in server.messages} == {CONTENT}
    assert {len(message.rcpts) for message in server.messages} == {3}
    assert report.size == len(CONTENT)
    assert 0 < report.p50 <= report.p99 < report.seconds * 1.02
    assert report.connections <= server.most == 2 == report.asked


def test_all_connections_are_open_before_the_first_message(run):
    report, server = run_against(run, [serving()], 300, connections=60)  # more than are opened at once
    assert (report.messages, report.connections, server.most) == (300, 60, 60)
    assert min(peer.times.get("MAIL", 0) for peer in server.peers) >= 1
    assert report.opening > 0


def test_there_are_no_more_connections_than_messages(run):
    report, server = run_against(run, [serving()], 3, connections=60)
    assert (report.messages, report.connections, len(server.peers)) == (3, 3, 3)


def test_a_connection_that_takes_long_is_not_waited_for(run, monkeypatch):
    monkeypatch.setattr("bulkmail.load.bench.OPENING_SECONDS", 0.05)
    report, server = run_against(run, [serving(), [hang()]], 20, connections=2)
    assert (report.messages, report.connections, len(server.peers)) == (20, 1, 2)


def test_latency_is_that_of_the_server(run):
    report, _ = run_against(run, [serving(always("dot", late(0.05, b"250 ok\r\n")))], 6)
    assert 0.045 < report.p50 <= report.p99 and report.seconds > 0.13  # timers may be a little early


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "dot"])
def test_each_refused_message_is_counted_once(run, phase):
    refusing = [at(phase, NO, nth) for nth in range(3, 1000, 4)]
    report, server = run_against(run, [serving(*refusing)], 40)
    assert report.messages == len(server.messages)
    assert report.messages + report.failed == 40 and report.failed >= 8
    assert report.error is None and report.in_doubt == 0
    name = "end of data" if phase == "dot" else phase
    assert report.reasons == [(f"{name}: 550 5.7.1 no", report.failed)]


def test_a_message_taken_for_some_counts_as_taken_and_the_refused_are_told(run):
    report, server = run_against(run, [serving(always("RCPT", b"250 ok\r\n"), at("RCPT", LATER, 2))], 5, each=3)
    assert (report.messages, report.failed) == (5, 0)
    assert len(server.messages) == 5
    assert report.refused == len(server.peers)
    assert report.reasons == [("RCPT: 451 4.7.1 later", report.refused)]


def test_lmtp_has_a_verdict_for_each_recipient(run):
    hello = [send(GREETING), expect(rb"LHLO \S+"), send(offer("PIPELINING"))]
    scripts = [[*hello, serve_lmtp(at("dot", NO, 2))]]
    report, server = run_against(run, scripts, 4, scheme="lmtp", each=2, connections=1)
    assert (report.messages, report.failed, report.refused) == (4, 0, 1)
    assert len(server.messages) == 7  # the test's server keeps one for each recipient
    assert report.reasons == [("end of data: 550 5.7.1 no", 1)]


@pytest.mark.parametrize("drop", [close(), reset()])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
def test_what_was_not_taken_when_a_connection_ended_goes_by_another(run, phase, drop):
    report, server = run_against(run, [serving(at(phase, drop, 5))], 20)
    assert (report.messages, report.failed, report.error) == (20, 0, None)
    assert len(server.messages) == 20


def test_what_is_lost_behind_the_end_of_data_is_in_doubt_and_not_sent_again(run):
    report, server = run_against(run, [serving(at("dot", reset(), 5))], 20)
    assert report.messages == len(server.messages)
    assert report.messages + report.failed == 20
    assert report.in_doubt == report.failed == sum(peer.times.get("dot") == 5 for peer in server.peers) >= 2
    assert all(text.startswith("in doubt: ") for text, _ in report.reasons)


def test_a_message_that_no_connection_gets_through_fails_after_some_tries(run):
    # each connection carries one message, and breaks over the second one's RCPT
    report, server = run_against(run, [serving(at("RCPT", reset(), 2))], 8, connections=1)
    assert report.messages + report.failed == 8 and report.error is None
    assert report.messages == len(server.messages)
    begun = sum(peer.times.get("RCPT", 0) for peer in server.peers)
    assert begun <= report.messages + MAX_TRIES * 8


def test_nobody_there_ends_the_run_at_once(run, free_port):
    report = run(bench(f"smtp://127.0.0.1:{free_port()}").run())
    assert (report.messages, report.failed, report.p50, report.messages_per_second) == (0, 0, None, 0.0)
    assert report.error.code == "ECONNECTION"


def test_a_refused_login_ends_the_run_after_one_attempt(run):
    async def main():
        refusing = [*hello("PIPELINING", "AUTH PLAIN"), expect(rb"AUTH PLAIN .*"), send(b"535 5.7.8 no\r\n"), hang()]
        async with scripted(refusing) as server:
            url = server.url.replace("//", "//ann:secret@")
            return await bench(url, connections=10).run(), len(server.peers)

    report, connections = run(main())
    assert (report.error.code, connections) == ("EAUTH", 1)
    assert "secret" not in str(report.error)


def test_connections_beyond_what_the_server_takes_are_told_and_the_others_go_on(run):
    full = [send(b"421 4.7.0 too many connections\r\n"), close()]
    slow = always("dot", late(0.02, b"250 ok\r\n"))
    report, server = run_against(run, [serving(slow), full], 12, connections=4)
    assert (report.messages, report.failed, report.error) == (12, 0, None)
    assert (report.connections, report.asked) == (1, 4)
    assert report.connect_failures and "too many connections" in str(report.last_failure)
    assert len(server.messages) == 12


def test_a_server_that_stops_working_ends_the_run(run, monkeypatch):
    monkeypatch.setattr("bulkmail.load.bench.PAUSES", (0.001,) * len(PAUSES))
    dies = [*hello("PIPELINING"), serve(at("MAIL", reset(), 3))]
    report, server = run_against(run, [dies, dies, [send(b"421 4.3.2 down\r\n"), close()]], 20)
    assert report.messages == len(server.messages) >= 2
    assert "421 4.3.2 down" in str(report.error) and report.messages + report.failed < 20


def test_a_rate_is_kept_and_counts_recipients(run):
    report, server = run_against(run, [serving()], 10, each=2, rate="100/s")
    assert (report.messages, len(server.messages)) == (10, 10)
    assert report.seconds > (20 - 10) / 100 * 0.9  # a tenth of a second's worth leaves at once


def test_a_rate_lower_than_one_message_still_sends(run):
    report, _ = run_against(run, [serving()], 2, each=50, rate="200/s")
    assert report.messages == 2


def test_a_duration_ends_the_run_and_all_that_was_begun_is_counted(run):
    report, server = run_against(run, [serving(always("dot", late(0.005, b"250 ok\r\n")))], None, duration=0.2)
    assert report.messages == len(server.messages) > 0
    assert (report.failed, report.error, report.stopped) == (0, None, False)
    assert 0.05 < report.seconds < 5


def test_stopping_counts_what_was_begun(run):
    async def main():
        async with scripted(serving(always("dot", late(0.01, b"250 ok\r\n")))) as server:
            running = bench(server.url, 1_000_000)
            task = asyncio.create_task(running.run())
            await server.until(lambda server: len(server.messages) >= 5)
            running.stop()
            return await task, server

    report, server = run(main())
    assert report.stopped and report.error is None and report.failed == 0
    assert report.messages == len(server.messages) < 1_000_000


def test_stopping_does_not_wait_for_a_server_that_hangs(run, monkeypatch):
    monkeypatch.setattr("bulkmail.load.bench.STOP_SECONDS", 0.05)

    async def main():
        hung = asyncio.Semaphore(0)

        async def tell(peer):
            hung.release()

        async with scripted(serving(at("dot", [tell, hang()], 3))) as server:
            running = bench(server.url, 1_000_000)
            task = asyncio.create_task(running.run())
            await hung.acquire()
            await hung.acquire()
            running.stop()
            return await task, server

    report, server = run(main())
    assert report.messages == len(server.messages) == 4
    assert report.failed == report.in_doubt == 2 and report.stopped


def test_stopping_does_not_wait_for_connections_on_the_way(run):
    async def main():
        async with scripted([hang()]) as server:
            running = bench(server.url)
            task = asyncio.create_task(running.run())
            await server.until(lambda server: len(server.peers) == 2)
            running.stop()
            async with asyncio.timeout(5):
                return await task

    report = run(main())
    assert (report.messages, report.failed, report.seconds, report.stopped) == (0, 0, 0.0, True)


def test_stopped_before_it_began_it_sends_nothing(run):
    async def main():
        async with scripted(serving()) as server:
            running = bench(server.url)
            running.stop()
            return await running.run(), len(server.messages)

    report, arrived = run(main())
    assert (report.messages, report.failed, arrived, report.stopped) == (0, 0, 0, True)


def test_a_server_that_does_not_speak_is_given_up_in_time(run):
    async def main():
        async with silence() as port:
            return await bench(f"smtp://127.0.0.1:{port}", greeting_timeout=0.1).run()

    assert run(main()).error.phase == "greeting"


def test_transactions_are_used_again_and_not_piled_up(run):
    async def main():
        async with scripted(serving()) as server:
            running = bench(server.url, 2000, connections=3)
            await running.run()
            return running._made, len(running._spare)

    made, spare = run(main())
    assert made == spare <= 3 * 20  # a window of 16 waiting, two under way
