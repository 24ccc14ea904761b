"""`bulkmail send` and `bulkmail verify` through real proxies, and what stands behind a proxy that is no sink of ours:
Postfix, HAProxy that takes the TLS off, HAProxy that wants a PROXY header.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import contextmanager
from threading import Event, Thread

import pytest

import bulkmail
from bulkmail.proxyurl import parse_proxy
from bulkmail.sink import Server
from integration.cli_program import bulkmail as program
from integration.cli_program import write_job
from integration.egress_ways import WAYS, squid_tls
from integration.servers.common import wait_until
from integration.servers.proxy import PASSWORD, PLAIN_PASSWORD

SECRETS = [PASSWORD, PLAIN_PASSWORD, "s3cret%2540"]
NEWS, ANN = "news@example.test", "ann@example.test"
MESSAGE = b"From: news@example.test\r\nTo: ann@example.test\r\nSubject: x\r\n\r\n.hello\r\n"
ROWS = 40
BY_URL = ["direct", "http squid login", "socks5 dante login", "socks5h ssh"]
BY_OBJECT = ["https squid login", "http > socks5h", "socks4 > https > socks5h"]


@contextmanager
def sink_in_a_thread(**options):
    """A server for programs: nothing of the test's loop is needed to answer them."""
    started, stop, found = Event(), [], []

    async def serve():
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with Server(**options) as server:
            found.append(server)
            started.set()
            await ended.wait()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    try:
        yield found[0]
    finally:
        stop[0]()
        thread.join(20)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def no_secret_in(folder, *texts):
    """Neither in what was printed nor in a file that the run wrote; the manifest was the user's."""
    written = [file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != "news.json"]
    for secret in SECRETS:
        assert all(secret not in text for text in texts)
        assert all(secret.encode() not in content for content in written)


@pytest.mark.parametrize("name", BY_URL + BY_OBJECT)
def test_a_job_by_the_proxy_of_its_relay(proxies, tmp_path, name):
    way = WAYS[name]
    proxy = way.proxy(proxies)
    shown = str(parse_proxy(proxy, "proxy")) if proxy is not None else None
    with sink_in_a_thread() as server:
        relay = {"url": f"smtp://{way.host}:{server.port}", "connections": 3}
        manifest = write_job(tmp_path, "", ROWS, relays=[relay | ({"proxy": proxy} if proxy is not None else {})])
        done = program("send", manifest, "--json", "--events", "events.jsonl", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(server.messages) == ROWS == json.loads(done.stdout)["delivered"]
    events = lines((tmp_path / "events.jsonl").read_text())
    ours = [event for event in events if event["event"] in ("connected", "delivered", "disconnected")]
    assert {event["egress"] for event in ours} == {shown} and len(ours) > ROWS
    report = program("report", tmp_path / "news.journal", cwd=tmp_path)
    assert [row["egress"] for row in lines(report.stdout)] == [shown] * ROWS
    no_secret_in(tmp_path, done.stdout, done.stderr, report.stdout)


def test_a_job_by_three_egresses_of_different_kinds(proxies, tmp_path):
    """By weight, each named as the manifest names it; a relay's rows say which it was. At a pace that all can keep."""
    egress = {
        "socks": {"proxy": proxies.dante(login=True).url("socks5"), "weight": 2},
        "web": {**squid_tls(proxies, login=True), "weight": 1},
        "both": [proxies.squid().url("http"), proxies.microsocks(login=True).url("socks5h")],
    }
    with sink_in_a_thread() as server:
        relay = {"url": f"smtp://localhost:{server.port}", "connections": 6, "egress": list(egress)}
        manifest = write_job(tmp_path, "", 400, relays=[relay], egress=egress)
        done = program("send", manifest, "--json", "--rate", "400/s", "--events", "events.jsonl", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(server.messages) == 400 == json.loads(done.stdout)["delivered"]
    delivered = [e["egress"] for e in lines((tmp_path / "events.jsonl").read_text()) if e["event"] == "delivered"]
    share = {name: delivered.count(name) for name in egress}
    assert sum(share.values()) == 400 and min(share.values()) > 0
    report = program("report", tmp_path / "news.journal", cwd=tmp_path)
    found = [row["egress"] for row in lines(report.stdout)]
    assert {name: found.count(name) for name in egress} == share
    no_secret_in(tmp_path, done.stdout, done.stderr, report.stdout)


def test_a_refused_password_stops_the_job_and_nothing_was_sent(proxies, tmp_path):
    proxy = proxies.squid(login=True).url("http", password="wrong-s3cret")
    with sink_in_a_thread() as server:
        relay = {"url": f"smtp://127.0.0.1:{server.port}", "proxy": proxy}
        manifest = write_job(tmp_path, "", 3, relays=[relay], retry={"patience": "1s"})
        done = program("send", manifest, "--json", cwd=tmp_path)
        assert done.returncode == 3 and server.messages == []
    assert "it refused the user or password" in done.stderr and "ann:***@" in done.stderr
    assert "wrong-s3cret" not in done.stderr + done.stdout
    with sqlite3.connect(tmp_path / "news.journal") as journal:
        assert "wrong-s3cret" not in "\n".join(journal.iterdump())


@pytest.mark.parametrize("name", ["http squid login", "socks5h dante", "socks4a ssh"])
def test_verify_by_the_command_line(proxies, tmp_path, name):
    way = WAYS[name]
    with sink_in_a_thread() as server:
        url = f"smtp://{way.host}:{server.port}"
        told = program("verify", url, "--proxy", way.proxy(proxies), cwd=tmp_path)
        result = program("verify", url, "--proxy", way.proxy(proxies), "--json", cwd=tmp_path)
    assert told.returncode == 0 == result.returncode, told.stdout + told.stderr
    steps = {step["name"]: step["state"] for step in json.loads(result.stdout)["steps"]}
    assert (steps["connect"], steps["proxy"], steps["greeting"]) == ("ok", "ok", "ok")
    assert any(line.startswith("proxy ") and " ms " in line for line in told.stdout.splitlines())
    no_secret_in(tmp_path, told.stdout, told.stderr, result.stdout)


# ---- servers of others behind proxies of others


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_postfix_behind_proxies(run, proxies, certificates, start_postfix, tls):
    server = start_postfix(tls=tls)
    names = ["direct", "http squid login", "https haproxy tinyproxy", "socks4 dante", "http > socks5h"]

    async def main():
        for name in names:
            way = WAYS[name]
            url = f"{'smtps' if tls == 'implicit' else 'smtp'}://{way.host}:{server.port}"
            async with bulkmail.Mailer(url, proxy=way.proxy(proxies), ca_file=str(certificates.ca_file)) as mailer:
                receipts = [receipt async for receipt in mailer.send_many([MESSAGE] * 5)]
            assert all(receipt.error is None and bool(receipt.tls) == bool(tls) for receipt in receipts), name

    run(main())
    contents = server.wait_for(5 * len(names))
    assert len(contents) == 5 * len(names) and all(content.endswith(b"\n\n.hello\n") for content in contents)


@pytest.mark.parametrize("name", ["socks5h microsocks", "https squid", "https > https"])
def test_a_server_whose_tls_haproxy_takes_off(run, proxies, certificates, start_haproxy, name):
    way = WAYS[name]

    async def main():
        async with Server() as server:
            front = start_haproxy(server.port, tls=True, accept_proxy=False)
            url, options = f"smtps://{way.host}:{front.port}", {"ca_file": str(certificates.ca_file)}
            async with bulkmail.Connection(url, proxy=way.proxy(proxies), **options) as connection:
                assert connection.secure
                await connection.send(bulkmail.Envelope(NEWS, [ANN]), MESSAGE)
            assert [(message.content, message.tls) for message in server.messages] == [(MESSAGE, None)]

    run(main())


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", ["http tinyproxy", "socks5 dante login", "https squid", "handler"])
def test_a_proxy_header_goes_through_the_tunnel_and_not_to_the_proxy(run, proxies, start_haproxy, name, version):
    way = WAYS[name]

    async def main():
        async with Server() as server:
            front = start_haproxy(server.port)
            url = f"smtp://{way.host}:{front.port}"
            async with bulkmail.Connection(url, proxy=way.proxy(proxies), proxy_protocol=version) as connection:
                await connection.send(bulkmail.Envelope(NEWS, [ANN]), MESSAGE)
            assert [message.content for message in server.messages] == [MESSAGE]
        return front

    front = run(main())
    wait_until(lambda: "client 127.0.0.1:" in front.log(), "HAProxy's line of the connection")
