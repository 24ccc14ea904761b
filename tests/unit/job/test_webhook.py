"""Webhooks, and receivers that fail, hang, drip and drop: what is promised of delivery, and that mail never waits."""

from __future__ import annotations

import base64
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import threading
import time
from pathlib import Path

import pytest
import trustme
from standardwebhooks.webhooks import Webhook as ForeignWebhook
from standardwebhooks.webhooks import WebhookVerificationError

from bulkmail.job import webhook as module
from bulkmail.job import webhook_outbox
from bulkmail.job.specs import WebhookSpec
from bulkmail.job.webhook import Webhook, pause_after
from bulkmail.job.webhook_http import Poster, _retry_after
from bulkmail.job.webhook_outbox import Batch, Outbox
from unit.job.hook_server import HookServer

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
SOON = 20.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)


def wait_for(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def hook(server, folder, **options):
    url = server if isinstance(server, str) else server.url
    given = {"key": KEY, "batch": 50, "every": 0.05, "timeout": 5.0} | options
    return Webhook(WebhookSpec(url, **given), "news", Path(folder) / "news.journal")


def events(count, name="delivered"):
    return [{"event": name, "n": n, "recipient": f"r{n}@example.com"} for n in range(count)]


def tell(server, folder, told, **options):
    """Tell all of it and close; the webhook."""
    one = hook(server, folder, **options)
    one.start()
    for event in told:
        one.put(event)
    one.close()
    return one


# -- what is sent


def test_everything_told_arrives_once_in_order_in_batches(tmp_path):
    told = events(1234)
    with HookServer() as server:
        one = tell(server, tmp_path, told, batch=100)
    assert server.events() == told
    assert len(server.requests) < 40 and all(len(request.events) <= 100 for request in server.requests)
    assert server.connections == 1
    assert one.figures() == {"delivered": 1234, "waiting": 0, "dropped": 0, "last_error": None}
    assert os.listdir(tmp_path) == []


def test_an_event_does_not_wait_long_for_others(tmp_path):
    with HookServer() as server:
        one = hook(server, tmp_path, batch=1000, every=0.05)
        one.start()
        one.put({"event": "started"})
        wait_for(lambda: server.requests)
        one.close()


def test_a_foreign_library_verifies_the_signature(tmp_path):
    with HookServer() as server:
        tell(server, tmp_path, events(3))
    (request,) = server.requests
    payload = ForeignWebhook(SECRET).verify(request.body, request.headers)
    assert payload["type"] == "bulkmail.events"
    assert payload["data"]["job"] == "news" and payload["data"]["events"] == events(3)
    assert request.path == "/hook?token=sesame"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-timestamp"].isdigit()
    for changed in (request.body.replace(b"r1@", b"r2@"), request.body + b" "):
        with pytest.raises(WebhookVerificationError):
            ForeignWebhook(SECRET).verify(changed, request.headers)
    with pytest.raises(WebhookVerificationError):
        ForeignWebhook(SECRET).verify(request.body, request.headers | {"webhook-id": "msg_other"})


def test_without_a_secret_nothing_pretends_to_be_signed(tmp_path):
    with HookServer() as server:
        tell(server, tmp_path, events(1), key=None)
    assert "webhook-signature" not in server.requests[0].headers


def test_only_the_events_that_were_asked_for_go_out(tmp_path):
    with HookServer() as server:
        tell(server, tmp_path, events(10) + events(3, "failed") + events(10), events=frozenset(("failed", "stopped")))
    assert server.events() == events(3, "failed")


def test_further_headers_go_along(tmp_path):
    with HookServer() as server:
        tell(server, tmp_path, events(1), headers=(("Authorization", "Bearer sesame"),))
    assert server.requests[0].headers["authorization"] == "Bearer sesame"


def test_what_json_cannot_say_does_not_stop_the_others(tmp_path):
    told = [{"event": "failed", "reply": "caf\udce9"}, {"event": "failed", "path": object}]
    with HookServer() as server:
        tell(server, tmp_path, told)
    assert [event["event"] for event in server.events()] == ["failed", "failed"]


# -- receivers on a bad day


def hang(handler):
    time.sleep(1.0)


def drip(handler):
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def drop(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def garbage(handler):
    handler.wfile.write(b"\0\xff no http\r\n\r\n")
    handler.close_connection = True


def flood(handler):
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"y" * 300_000 + b"\r\n\r\n")


BAD = {
    "500": 500, "503": 503, "404": 404, "redirect": (307, {"Location": "http://127.0.0.1:9/"}),
    "hang": hang, "drip": drip, "drop": drop, "garbage": garbage, "flood": flood, "429": (429, {"Retry-After": "0"}),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_moment_is_followed_by_the_same_batch_again(tmp_path, bad):
    told = events(120)
    with HookServer(lambda number: bad if number in (1, 2, 4) else 200) as server:
        one = hook(server, tmp_path, timeout=0.3)
        one.start()
        for event in told:
            one.put(event)
        wait_for(lambda: one.delivered == 120)
        one.close()
    assert server.events() == told
    assert server.requests[0].id == server.requests[1].id == server.requests[2].id
    assert server.requests[0].body == server.requests[2].body
    for request in server.requests:
        ForeignWebhook(SECRET).verify(request.body, request.headers)
    assert one.figures()["dropped"] == 0 and one.last_error


def test_the_receiver_says_when_to_come_again(tmp_path):
    with HookServer(lambda number: (429, {"Retry-After": "1"}) if number == 1 else 200) as server:
        one = hook(server, tmp_path)
        one.start()
        one.put({"event": "started"})
        wait_for(lambda: len(server.requests) == 2)
        one.close()
    assert server.requests[1].at - server.requests[0].at >= 1


def test_pauses_grow_with_chance_and_never_below_what_was_asked(monkeypatch):
    monkeypatch.undo()
    assert [pause_after(n, None, 1.0) for n in (1, 2, 3, 7, 100)] == [1, 2, 4, 60, 60]
    assert pause_after(1, None, 0.0) == 0.5
    assert pause_after(1, 90.0, 0.5) == 90


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("7", 7), ("0", 0), ("99999999999999999999", 3600), ("soon", None), ("-5", None), ("", None),
     ("Thu, 01 Jan 1970 00:01:40 GMT", 40), ("Thu, 01 Jan 1970 00:00:40 GMT", 0), ("1e400", None)],
)  # fmt: skip
def test_retry_after_in_its_forms(text, seconds):
    assert _retry_after(text, now=60.0) == seconds


def test_a_connection_that_the_receiver_closed_while_idle_is_no_failure(tmp_path):
    with HookServer(lambda number: (200, {"Keep-Alive": "timeout=0"})) as server:

        def answer(number):
            def reply(handler):
                handler.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                handler.wfile.flush()
                handler.close_connection = True  # without having said so

            return reply

        server.answer = answer
        one = hook(server, tmp_path)
        one.start()
        for number in range(3):
            one.put({"event": "started", "n": number})
            wait_for(lambda number=number: one.delivered == number + 1)
            time.sleep(0.05)
        one.close()
    assert one.last_error is None
    assert server.connections == 3


def test_gone_ends_it_and_what_cannot_be_taken_is_left_out(tmp_path):
    with HookServer(lambda number: {2: 413, 4: 410}.get(number, 200)) as server:
        one = tell(server, tmp_path, events(500), batch=50)
    assert len(server.requests) == 4
    assert one.figures() == {"delivered": 100, "waiting": 0, "dropped": 400, "last_error": "HTTP status 410"}
    assert os.listdir(tmp_path) == []


# -- receivers that are down for long


def nowhere():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


def test_what_could_not_be_delivered_is_delivered_by_the_next_run_under_the_same_ids(tmp_path):
    told, refusing = events(700), HookServer(lambda number: 503)
    with refusing as server:
        one = tell(server, tmp_path, told, batch=100)
    assert one.figures()["waiting"] == 700 and one.figures()["dropped"] == 0
    spool = tmp_path / "news.journal.events"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    with HookServer() as server:
        two = tell(server, tmp_path, [{"event": "started"}], batch=100)
    assert server.events() == [*told, {"event": "started"}]
    assert server.requests[0].id == refusing.requests[0].id
    assert two.figures() == {"delivered": 701, "waiting": 0, "dropped": 0, "last_error": None}
    assert not spool.exists()


def test_a_receiver_that_is_down_costs_the_job_no_time(tmp_path):
    one = hook(nowhere(), tmp_path, batch=100)
    one.start()
    started = time.monotonic()
    for event in events(20_000):
        one.put(event)
    assert time.monotonic() - started < 5.0
    one.close()
    assert time.monotonic() - started < 10.0  # it does not wait for a receiver that is down
    assert one.figures()["waiting"] == 20_000
    assert one.last_error == "Connection refused"


def test_the_end_of_a_run_waits_for_a_hanging_receiver_only_so_long(tmp_path):
    with HookServer(lambda number: lambda handler: server.ending.wait(SOON)) as server:
        one = hook(server, tmp_path, timeout=SOON)
        one.start()
        one.put({"event": "stopped"})
        wait_for(lambda: server.requests)
        started = time.monotonic()
        one.close(seconds=0.2)
        assert time.monotonic() - started < 10.0
    assert one.figures()["waiting"] == 1
    with HookServer() as again:
        tell(again, tmp_path, [])
    assert again.requests[0].id == server.requests[0].id


def batches(count, size=100, first=0):
    return [Batch(f"msg_{n:032x}", 1, b"%0*d" % (size, n)) for n in range(first, first + count)]


def drained(outbox):
    outbox.end()
    found = []
    while (batch := outbox.head()) is not None:
        found.append(batch)
        outbox.done(batch)
    return found


def test_order_is_kept_between_memory_and_file(tmp_path):
    outbox = Outbox(tmp_path / "e", memory=1000, file=100_000)
    outbox.open()
    sent, all_of_them = [], batches(300)
    for place, batch in enumerate(all_of_them):
        outbox.add(batch)
        if place % 3 == 0:
            sent.append(outbox.head())
            outbox.done(sent[-1])
    assert sent + drained(outbox) == all_of_them
    assert outbox.waiting() == outbox.dropped == 0
    assert (tmp_path / "e").stat().st_size == 0
    outbox.close()
    assert not (tmp_path / "e").exists()


def test_memory_and_file_are_bounded_and_what_comes_beyond_is_counted(tmp_path):
    outbox = Outbox(tmp_path / "e", memory=1000, file=5000)
    outbox.open()
    for batch in batches(100):
        outbox.add(batch)
    size = (tmp_path / "e").stat().st_size
    assert 4000 < size <= 5000
    assert outbox._bytes <= 1000
    kept = 100 - outbox.dropped
    assert kept == outbox.waiting() == len(drained(outbox)) and 30 < kept < 50
    outbox.close()


def test_a_file_that_is_never_drained_does_not_grow_for_ever(tmp_path):
    outbox = Outbox(tmp_path / "e", memory=300, file=5000)
    outbox.open()
    all_of_them, sent = batches(1000), []
    for batch in all_of_them[:10]:
        outbox.add(batch)
    for batch in all_of_them[10:]:
        outbox.add(batch)
        sent.append(outbox.head())
        outbox.done(sent[-1])
    assert outbox.dropped == 0 and (tmp_path / "e").stat().st_size <= 5000
    assert sent + drained(outbox) == all_of_them
    outbox.close()


@pytest.mark.parametrize("kept", [0, 1, 57, 58, 200, -1])
def test_a_file_that_a_crash_cut_short_gives_its_whole_lines(tmp_path, kept):
    outbox = Outbox(tmp_path / "e", memory=0, file=100_000)
    outbox.open()
    all_of_them = batches(5)
    for batch in all_of_them:
        outbox.add(batch)
    data = (tmp_path / "e").read_bytes()
    (tmp_path / "e").write_bytes(data[:kept])
    whole = data[:kept].count(b"\n")
    again = Outbox(tmp_path / "e", memory=200, file=100_000)
    again.open()
    assert again.waiting() == whole
    again.add(batches(1, first=77)[0])
    assert drained(again) == all_of_them[:whole] + batches(1, first=77)
    again.close()


def test_lines_that_are_none_of_ours_are_passed_over(tmp_path):
    good = batches(2)
    (tmp_path / "e").write_bytes(b"\xff\0\n" + good[0].line() + b"msg_1 2 {}\n\n" + good[1].line() + b"msg_")
    outbox = Outbox(tmp_path / "e")
    outbox.open()
    assert drained(outbox) == good
    outbox.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_is_full_loses_events_and_says_how_many(tmp_path):
    outbox = Outbox(Path("/dev/full"), memory=250, file=100_000)
    outbox._fd = os.open("/dev/full", os.O_RDWR)
    for batch in batches(5):
        outbox.add(batch)
    assert outbox.dropped == 3 and "No space left" in outbox.error
    assert outbox.waiting() == 2


@pytest.mark.parametrize("read", [0, 3])
def test_a_disk_that_is_full_when_the_file_is_written_anew_keeps_it_and_leaves_no_other(tmp_path, monkeypatch, read):
    outbox = Outbox(tmp_path / "e", memory=250, file=100_000)
    outbox.open()
    for batch in batches(10):
        outbox.add(batch)
    for _ in range(read):
        outbox.done(outbox.head())

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (tmp_path / "e").read_bytes()
    monkeypatch.setattr(webhook_outbox.shutil, "copyfileobj", full)
    outbox.close()
    assert "No space left" in outbox.error
    assert os.listdir(tmp_path) == ["e"] and (tmp_path / "e").read_bytes() == before


def test_a_folder_that_cannot_be_written_leaves_the_memory(tmp_path):
    outbox = Outbox(tmp_path / "none" / "e")
    outbox.open()
    outbox.add(batches(1)[0])
    assert drained(outbox) == batches(1)
    assert "No such file" in outbox.error
    outbox.close()


# -- who gets it


def test_redirects_are_not_followed_and_proxies_not_asked(tmp_path, monkeypatch):
    with HookServer() as other, HookServer(lambda number: (302, {"Location": other.url})) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, other.url)
        tell(server, tmp_path, events(1))
        assert server.requests and not other.requests


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def secure(authority, *names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_the_receivers_certificate_is_verified(tmp_path, authority):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for names, ca_file, said in (
        (["127.0.0.1"], tmp_path / "ca.pem", None),
        (["127.0.0.1"], None, "certificate is not valid"),
        (["other.example"], tmp_path / "ca.pem", "certificate is not valid"),
    ):
        with HookServer(context=secure(authority, *names)) as server:
            one = tell(server, tmp_path, [{"event": "started"}], ca_file=ca_file)
        assert bool(server.requests) == (said is None)
        assert said is None or said in one.last_error


def test_no_secret_is_in_what_is_logged_or_shown(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with HookServer(lambda number: 500) as server:
        one = tell(server, tmp_path, events(1), headers=(("Authorization", "Bearer sesame"),))
    assert "127.0.0.1" in caplog.text
    for text in (caplog.text, repr(one._spec), repr(one.figures())):
        assert "sesame" not in text and SECRET not in text and str(KEY) not in text


def test_a_deadline_is_of_the_whole_request(tmp_path):
    with HookServer(lambda number: drip) as server:
        poster = Poster(WebhookSpec(server.url, timeout=0.3))
        started = time.monotonic()
        answer = poster.post(b"{}", {})
        assert time.monotonic() - started < 10.0
    assert (answer.status, answer.said) == (0, "no answer within 0.3 s")
    assert threading.active_count() < 20


def test_the_example_in_the_documentation_verifies_what_is_sent(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "events.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    verified = names["verified"]
    with HookServer() as server:
        tell(server, tmp_path, events(3))
    (request,) = server.requests
    assert verified(SECRET, request.headers, request.body)
    assert not verified(SECRET, request.headers, request.body + b" ")
    assert not verified(SECRET, request.headers | {"webhook-timestamp": "1700000000"}, request.body)
    assert not verified(SECRET[:-8] + "AAAAAAA=", request.headers, request.body)
