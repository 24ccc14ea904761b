"""`bulkmail bench` as a program, against `bulkmail sink` and foreign servers: what it counts is what they counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.cli_program import bulkmail, environment, refused, start
from integration.servers.common import START_SECONDS, STOP_SECONDS
from integration.servers.microsocks import microsocks
from integration.sink_program import sink

KEYS = {
    "messages", "seconds", "messages_per_second", "bytes_per_second", "p50_ms", "p99_ms", "cpu_us_per_message",
    "max_rss_mb", "failed",
}  # fmt: skip
MOST_MEMORY_MB = 100


def figures(done: subprocess.CompletedProcess[str], status: int = 0) -> dict:
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert set(found) == KEYS
    return found


def bench(url: str, *options: object, cwd: Path, status: int = 0) -> dict:
    return figures(bulkmail("bench", url, "--json", *options, cwd=cwd), status)


@pytest.mark.parametrize("query", ["", "?chunking=false", "?pipelining=false&chunking=false"])
def test_the_counts_agree_with_the_sinks(query, tmp_path):
    with sink(tmp_path, store=False) as server:
        flags = ["--connections=4", "--messages=500", "--size=3000", "--recipients-per-message=3"]
        found = bench(f"smtp://127.0.0.1:{server.port}{query}", *flags, cwd=tmp_path)
        assert (found["messages"], found["failed"]) == (500, 0)
        assert server.end() == {
            "connections": 4, "messages": 500, "recipients": 1500, "bytes": 500 * 3000, "refused": 0,
        }  # fmt: skip
    assert found["messages_per_second"] == pytest.approx(500 / found["seconds"], rel=0.01)
    assert found["bytes_per_second"] == pytest.approx(500 * 3000 / found["seconds"], rel=0.01)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["seconds"] * 1010
    assert found["cpu_us_per_message"] > 0 and 5 < found["max_rss_mb"] < MOST_MEMORY_MB


@pytest.mark.parametrize("size", [69, 71, 2048, 65537])
def test_what_is_stored_has_the_size_that_was_asked_for(size, tmp_path):
    with sink(tmp_path) as server:
        flags = ["--messages=3", f"--size={size}", "--from=me@example.test", "--to=a@x.test", "--to=b@x.test"]
        bench(f"smtp://127.0.0.1:{server.port}", *flags, cwd=tmp_path)
        server.end()
        assert [len(content) for content in server.contents()] == [size] * 3
        envelopes = server.envelopes()
    assert {envelope["from"] for envelope in envelopes} == {"me@example.test"}
    assert sorted(to for envelope in envelopes for to in envelope["to"]) == ["a@x.test", "a@x.test", "b@x.test"]


def test_a_file_arrives_as_it_is_but_for_its_line_ends(tmp_path):
    (tmp_path / "m.eml").write_bytes(b"Subject: \xc3\xbc\n\n.\n..\r\nend")
    with sink(tmp_path) as server:
        bench(f"smtp://127.0.0.1:{server.port}", "--messages=2", "--message=m.eml", cwd=tmp_path)
        server.end()
        assert server.contents() == [b"Subject: \xc3\xbc\r\n\r\n.\r\n..\r\nend\r\n"] * 2


def test_tls_and_login(certificates, tmp_path):
    options = ["--tls-cert", str(certificates.chain_file), "--auth", "ann:s3cret"]
    with sink(tmp_path, *options) as server:
        url = f"smtp://localhost:{server.port}"
        trusting = f"{url}?ca_file={certificates.ca_file}"
        bench(trusting, "--messages=5", "--tls=require", "--auth=ann:s3cret", cwd=tmp_path)
        bench(url, "--messages=5", "--insecure", "--auth=ann:s3cret", cwd=tmp_path)
        untrusted = bulkmail("bench", url, "--messages=5", "--auth=ann:s3cret", cwd=tmp_path)
        assert (untrusted.returncode, untrusted.stdout) == (3, "") and "certificate" in untrusted.stderr
        wrong = bulkmail("bench", trusting, "--messages=5", "--auth=ann:wr0ng", cwd=tmp_path)
        assert (wrong.returncode, wrong.stdout) == (3, "") and "535" in wrong.stderr
        assert "wr0ng" not in wrong.stderr and "s3cret" not in untrusted.stderr
        server.end()
        envelopes = server.envelopes()
    assert len(envelopes) == 10
    assert {(envelope["tls"], envelope["auth"]) for envelope in envelopes} == {("TLSv1.3", "ann")}


def test_through_a_proxy(tmp_path):
    with sink(tmp_path, store=False) as server, microsocks(tmp_path) as proxy:
        flags = ["--messages=50", "--connections=2", f"--proxy=socks5://127.0.0.1:{proxy.port}"]
        assert bench(f"smtp://127.0.0.1:{server.port}", *flags, cwd=tmp_path)["messages"] == 50
        assert server.end()["messages"] == 50


def test_lmtp(tmp_path):
    with sink(tmp_path, "--lmtp", store=False) as server:
        flags = ["--messages=40", "--recipients-per-message=2"]
        assert bench(f"lmtp://127.0.0.1:{server.port}", *flags, cwd=tmp_path)["messages"] == 40
        counts = server.end()
    assert counts["recipients"] == 80


def test_a_server_that_refuses_all_of_it(tmp_path):
    with sink(tmp_path, "--max-size=1000", store=False) as server:
        done = bulkmail("bench", f"smtp://127.0.0.1:{server.port}", "--messages=30", "--json", cwd=tmp_path)
        found = figures(done, 1)
        assert (found["messages"], found["failed"], found["p50_ms"]) == (0, 30, None)
        assert "30 × " in done.stderr and "1000" in done.stderr
        assert server.end()["messages"] == 0


@pytest.mark.parametrize(
    "fault", ["rcpt:451 4.7.1 later@1/7", "data:421 4.3.2 bye@1/60", "body:drop@1/100", "body:reset@2%"]
)
@pytest.mark.parametrize("query", ["", "?chunking=false"])
def test_the_counts_agree_with_a_sink_that_refuses_and_hangs_up(fault, query, tmp_path):
    with sink(tmp_path, "--fault", fault, "--seed=5", store=False) as server:
        url = f"smtp://127.0.0.1:{server.port}{query}"
        done = bulkmail("bench", url, "--messages=600", "--connections=3", "--json", cwd=tmp_path)
        counts = server.end()
    found = figures(done, 1 if json.loads(done.stdout)["failed"] else 0)
    assert found["messages"] == counts["messages"] > 100
    assert found["messages"] + found["failed"] == 600


def test_against_postfixs_sink(start_smtp_sink, tmp_path):
    server = start_smtp_sink()
    found = bench(f"smtp://127.0.0.1:{server.port}", "--messages=300", cwd=tmp_path)
    assert (found["messages"], found["failed"]) == (300, 0)


def test_nobody_listens(free_port, tmp_path):
    done = bulkmail("bench", f"smtp://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Connection refused" in done.stderr and done.stderr.count("\n") == 1


def test_a_host_elsewhere_is_refused(tmp_path):
    refused(bulkmail("bench", "smtp://192.88.99.1", cwd=tmp_path), "192.88.99.1:587", "--yes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_what_it_measured(number, tmp_path):
    with sink(tmp_path) as server:
        flags = ["--messages=1000000", "--connections=2", "--rate=500/s", "--json"]
        running = start("bench", f"smtp://127.0.0.1:{server.port}", *flags, cwd=tmp_path)
        try:
            until_one_arrived(server.folder / "envelopes.jsonl")
            running.send_signal(number)
            out, err = running.communicate(timeout=STOP_SECONDS)
        finally:
            running.kill()
            running.wait()
        found = figures(subprocess.CompletedProcess([], running.returncode, out, err), 3)
        assert "stopped before the end" in err
        assert found["messages"] == server.end()["messages"] > 0 and found["failed"] == 0


def until_one_arrived(envelopes: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (envelopes.exists() and envelopes.read_bytes()):
        assert time.monotonic() < deadline, "nothing arrived"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_more_messages_need_no_more_memory(tmp_path):
    with sink(tmp_path, store=False) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        few = bench(url, "--messages=2000", "--size=512", cwd=tmp_path)
        many = bench(url, "--messages=150000", "--size=512", cwd=tmp_path)
    assert many["max_rss_mb"] - few["max_rss_mb"] < 2  # a float of each message would be 3.6 MB


def test_a_message_costs_no_python_object_that_stays(tmp_path):
    """The same inside of the process, where the allocator is asked."""
    with sink(tmp_path, store=False) as server:
        done = subprocess.run(
            [sys.executable, "-c", TRACED, f"smtp://127.0.0.1:{server.port}"],
            env=environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10


TRACED = """
import asyncio, sys, tracemalloc
from bulkmail.load.bench import Bench
from bulkmail.load.content import prepare
from bulkmail.url import parse_endpoint

async def main():
    load = prepare(b"x", "a@example.test", (), 1)
    running = Bench(parse_endpoint(sys.argv[1], messages_per_connection=0), load, 20000)
    task = asyncio.create_task(running.run())
    while running._meter.taken < 4000:
        await asyncio.sleep(0.001)
    tracemalloc.start()
    await task
    print(max(0, tracemalloc.get_traced_memory()[0]))

asyncio.run(main())
"""
