"""Every word about a message names the egress that it took: receipts, events, report, the journal's views, status.

The egresses are addresses of this machine, so that the server sees for itself by which of them it was reached.
"""

from __future__ import annotations

import asyncio
import csv
import io
import sqlite3
import sys
from collections import Counter

import pytest

from bulkmail.errors import BulkmailError
from bulkmail.job.job import Job
from bulkmail.job.report import iter_report, status, write_report
from bulkmail.pool.mailer import Mailer
from faults.mails import WELL, collect, mail, message, serving
from faults.scripted import always, at, close, hang, hello, reset, scripted, send, serve
from integration.cli_program import write_job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of this machine on Linux only")

EGRESS = {"a": {"local_address": "127.0.0.2"}, "b": {"local_address": "127.0.0.3"}}
ADDRESSES = {"127.0.0.2": "a", "127.0.0.3": "b"}


def egress_of(peer):
    return ADDRESSES[peer.writer.get_extra_info("peername")[0]]


def only_from(egress, *steps):
    """A step: these, for whoever comes by this egress."""

    async def step(peer):
        if egress_of(peer) == egress:
            await peer.play(steps)

    return step


def job(folder, server, rows=40, egress=EGRESS, **keys):
    keys = {"retry": {"delays": [], "patience": 5}} | keys
    relay = {"name": "main", "url": f"{server.url}?connections=4", "egress": list(egress)}
    return Job.load(write_job(folder, relay, rows, egress=egress, **keys))


def told(folder, state=None):
    """The egress of each recipient, by the report; and by the view `troubles`."""
    reported = {line["recipient"]: line["egress"] for line in iter_report(folder / "news.journal", state)}
    with sqlite3.connect(folder / "news.journal") as db:
        troubles = dict(db.execute("SELECT recipient, egress FROM troubles"))
    return reported, troubles


def by_server(server):
    """The egress of each recipient whose message was taken, as the server saw it."""
    return {to.decode(): egress_of(server.peers[one.connection]) for one in server.messages for to in one.rcpts}


def of_events(events, *names):
    return {event["recipient"]: event["egress"] for event in events if event["event"] in names}


# ---- jobs


def test_what_is_delivered(run, tmp_path):
    async def main():
        async with scripted(WELL) as server:
            events = []
            report = await job(tmp_path, server).run_async(on_event=events.append)
            return report, by_server(server), events

    report, seen, events = run(main())
    assert len(seen) == 40 and set(seen.values()) == {"a", "b"}
    assert told(tmp_path) == (seen, {}) and of_events(events, "delivered") == seen
    assert {event["relay"] for event in events if "recipient" in event} == {"main"}
    delivered = {name: one["delivered"] for name, one in report.summary["relays"]["main"]["egress"].items()}
    assert delivered == Counter(seen.values())
    kept = status(tmp_path / "news.journal")["relays"]["main"]["egress"]
    assert {name: one["delivered"] for name, one in kept.items()} == delivered


@pytest.mark.parametrize("reply", [b"550 5.1.1 no\r\n", b"451 4.3.0 later\r\n"])
def test_what_is_refused(run, tmp_path, reply):
    state = "failed"  # the second one too: it has no delay left

    async def main():
        async with scripted(serving(always("RCPT", reply))) as server:
            events = []
            report = await job(tmp_path, server).run_async(on_event=events.append)
            asked = {}
            for peer in server.peers:
                for line in bytes(peer.said).split(b"\r\n"):
                    if line.startswith(b"RCPT TO:<"):
                        asked[line[9:].partition(b">")[0].decode()] = egress_of(peer)
            return report, asked, events

    report, asked, events = run(main())
    assert len(asked) == 40 and set(asked.values()) == {"a", "b"}
    assert told(tmp_path, state) == (asked, asked) and of_events(events, state) == asked
    figures = report.summary["relays"]["main"]["egress"]
    assert {name: one[state] for name, one in figures.items()} == Counter(asked.values())


def test_what_is_in_doubt_since_the_connection_was_lost(run, tmp_path):
    async def main():
        async with scripted(serving(at("dot", reset()))) as server:
            events = []
            await job(tmp_path, server, 6).run_async(on_event=events.append)
            return events, Counter(egress_of(peer) for peer in server.peers)

    events, connections = run(main())
    reported, troubles = told(tmp_path, "in_doubt")
    assert len(reported) == 6 and reported == troubles == of_events(events, "in_doubt")
    assert all(count <= connections[egress] for egress, count in Counter(reported.values()).items()), "one a connection"


def test_a_run_that_goes_on_with_another_egress(run, tmp_path):
    """Numbers stand for the names in the journal; those of the first run keep theirs."""

    async def main():
        async with scripted(WELL) as server:
            first = job(tmp_path, server, egress={"b": EGRESS["b"]}, limits={"rate": "200/s"})

            stopped = []

            def stop(event):
                if event["event"] == "delivered" and not stopped:  # a second stop would abandon what is under way
                    stopped.append(first.stop())

            assert (await first.run_async(on_event=stop)).exit_code == 3
            assert (await job(tmp_path, server, egress={"a": EGRESS["a"]}).run_async(resume=True)).exit_code == 0
            return by_server(server)

    seen = run(main())
    assert set(seen.values()) == {"a", "b"} and told(tmp_path) == (seen, {})
    figures = status(tmp_path / "news.journal")["relays"]["main"]["egress"]
    assert {name: one["delivered"] for name, one in figures.items()} == Counter(seen.values())


def test_every_format_of_the_report(run, tmp_path):
    async def main():
        async with scripted(WELL) as server:
            await job(tmp_path, server, 1, egress={"by-b": EGRESS["b"]}).run_async()

    run(main())
    for form in ("jsonl", "csv", "html"):
        out = io.StringIO()
        write_report(tmp_path / "news.journal", form, out)
        assert "by-b" in out.getvalue(), form
        if form == "csv":
            assert next(csv.DictReader(io.StringIO(out.getvalue())))["egress"] == "by-b"


# ---- events of connections


def test_connections_come_and_go_by_an_egress(run, tmp_path):
    async def main():
        async with scripted(WELL) as server:
            events = []
            await job(tmp_path, server).run_async(on_event=events.append)
            return events, Counter(egress_of(peer) for peer in server.peers)

    events, seen = run(main())
    for name in ("connected", "disconnected"):
        assert Counter(event["egress"] for event in events if event["event"] == name) == seen
    assert {event["relay"] for event in events if "egress" in event} == {"main"}


def test_an_egress_that_is_down_is_named_with_the_reason_and_the_others_deliver(run, tmp_path, free_port):
    down = f"http://user:s3cret@127.0.0.1:{free_port()}"

    async def main():
        async with scripted(WELL) as server:
            events = []
            report = await job(tmp_path, server, egress=EGRESS | {"c": down}).run_async(on_event=events.append)
            return report, events

    report, events = run(main())
    assert report.exit_code == 0 and "s3cret" not in str(events)
    failed = [event for event in events if event["event"] == "connect_failed"]
    assert {(event["relay"], event["egress"]) for event in failed} == {("main", "c")} and "refused" in failed[0][
        "error"
    ]
    paused = [event for event in events if event["event"] == "throttled"]
    assert {(event["scope"], event["relay"], event["egress"]) for event in paused} == {("egress c", "main", "c")}
    assert all(event["until"] > event["ts"] and "refused" in event["why"] for event in paused)
    figures = report.summary["relays"]["main"]["egress"]
    assert (figures["c"]["state"], figures["c"]["delivered"], figures["a"]["state"]) == ("out", 0, "ok")
    assert figures["c"]["failures"] == len(failed) and "refused" in figures["c"]["last_error"]
    assert figures["c"]["connections"] == 0 < figures["a"]["connections"]


def test_an_egress_that_comes_back_is_named(run, tmp_path):
    refused = []

    async def refuse_b_once(peer):
        if egress_of(peer) == "b" and not refused:
            refused.append(peer)
            await peer.send(b"421 4.3.2 not now\r\n")
            await close()(peer)

    async def main():
        async with scripted([refuse_b_once, *WELL]) as server:
            events = []
            ways = {"a": EGRESS["a"] | {"max_connections": 1}, "b": EGRESS["b"]}
            running = job(tmp_path, server, egress=ways, limits={"rate": "40/s"})
            return await running.run_async(on_event=events.append), events

    report, events = run(main())
    (back,) = [event for event in events if event["event"] == "resumed"]
    assert (back["scope"], back["relay"], back["egress"], back["until"]) == ("egress b", "main", "b", None)
    figures = report.summary["relays"]["main"]["egress"]["b"]
    assert (figures["state"], figures["failures"]) == ("ok", 1) and figures["delivered"]


def test_status_sees_an_egress_that_is_out_while_nothing_can_be_sent(run, tmp_path):
    """No recipient is settled, and so nothing but the egresses' figures is committed."""
    events, seen = [], []

    async def main():
        async with scripted([send(b"421 4.3.2 not now\r\n"), close()]) as server:
            running = job(tmp_path, server, 3, retry={"patience": 60})

            def look(event):
                events.append(event)
                figures = status(tmp_path / "news.journal")["relays"].get("main", {}).get("egress", {})
                if not seen and {one["state"] for one in figures.values()} == {"out"}:
                    seen.append(figures)
                    running.stop()

            return await running.run_async(on_event=look)

    assert run(main()).exit_code == 3
    assert set(seen[0]) == {"a", "b"}
    assert all(
        "not now" in one["last_error"] and one["failures"] and not one["connections"] for one in seen[0].values()
    )


# ---- receipts


def test_a_receipt_names_the_egress(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, egress=EGRESS, connections=4) as mailer:
            receipts = await collect(mailer, [mail(number) for number in range(40)])
            return {receipt.accepted[0]: receipt.egress for receipt in receipts}, by_server(server)

    told, seen = run(main())
    assert told == seen and set(seen.values()) == {"a", "b"}


@pytest.mark.parametrize(("phase", "action"), [("RCPT", b"550 5.1.1 no\r\n"), ("dot", b"554 5.6.0 no\r\n")])
def test_a_receipt_of_a_refusal_names_it_too(run, phase, action):
    async def main():
        async with (
            scripted(serving(always(phase, action))) as server,
            Mailer(server.url, egress={"b": EGRESS["b"]}) as mailer,
        ):
            return await collect(mailer, [mail(1)])

    (receipt,) = run(main())
    assert receipt.rejected and receipt.egress == "b"


def test_a_message_to_domains_of_two_egresses_is_told_of_one_that_took_it(run):
    """Not of what failed afterwards, in no connection."""

    async def main():
        # the first of the two to be connected takes it, the other one's egress is closed with the Mailer
        async with scripted([only_from("b", hang()), *WELL]) as server:
            mailer = Mailer(server.url, egress=EGRESS, domains={"a.test": ["a"], "b.test": ["b"]})
            async with mailer:
                receipts = mailer.send_many([message(1, "x@a.test, y@b.test")])
                task = asyncio.ensure_future(collect_all(receipts))
                await server.until(lambda server: server.messages)
                await mailer.close()
                return await task

    async def collect_all(receipts):
        return [receipt async for receipt in receipts]

    (receipt,) = run(main())
    assert (receipt.accepted, receipt.egress) == (["x@a.test"], "a")
    assert [one.address for one in receipt.rejected] == ["y@b.test"]


def test_a_receipt_names_the_proxy_of_the_option_and_no_password(run):
    async def connect(peer):
        await peer.until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 fine\r\n\r\n")

    async def main():
        async with scripted([connect, *hello(), serve()]) as proxy:
            url = f"http://user:s3cret@127.0.0.1:{proxy.port}"
            async with Mailer("smtp://relay.test", proxy=url) as mailer:
                return await mailer.send(message(1)), proxy.port

    receipt, port = run(main())
    assert receipt.egress == f"http://user:***@127.0.0.1:{port}"


def test_all_egresses_out_are_named_in_the_error(run, free_port):
    async def main():
        ways = {"a": f"http://127.0.0.1:{free_port()}", "b": f"http://127.0.0.1:{free_port()}"}
        async with Mailer("smtp://relay.test", egress=ways) as mailer:
            with pytest.raises(BulkmailError) as caught:
                await mailer.send(message(1))
            return str(caught.value)

    text = run(main())
    assert "egress a: " in text and "egress b: " in text and "refused" in text
