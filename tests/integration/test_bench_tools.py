"""The benchmark's own pieces: the floor sends what it is given, the long line is as long as it says."""

from __future__ import annotations

import json
import shutil
import smtplib
import subprocess
import sys
import time
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
MESSAGE = b"Subject: floor\r\n\r\n.one dot\r\n" + b"x" * 76 + b"\r\n..two\r\n.\r\n"


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    """The compiled floor client."""
    program = tmp_path_factory.mktemp("floor") / "floor"
    compiler = next((found for name in ("gcc", "clang", "cc") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler here")
    subprocess.run([compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, PEERS / "floor.c"], check=True)
    return program


@pytest.mark.parametrize("connections", [1, 4])
def test_the_floor_sends_its_message_to_each_recipient_once(start_smtp_sink, floor, tmp_path, connections):
    server = start_smtp_sink(keep=True)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    flags = ["--port", str(server.port), "--connections", str(connections), "--messages", "30"]
    done = subprocess.run(
        [floor, *flags, "--message", tmp_path / "message.eml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    kept = server.dumped()
    assert all(content.endswith(MESSAGE.replace(b"\r\n", b"\n") + b"\n") for content in kept)
    to = [line for content in kept for line in content.split(b"\n") if line.startswith(b"X-Rcpt-Args")]
    assert sorted(to) == sorted(b"X-Rcpt-Args: <user%d@example.test>" % number for number in range(30))


def test_the_floor_ends_with_an_error_when_it_is_refused(start_smtp_sink, floor, tmp_path):
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    flags = ["--port", str(start_smtp_sink("-f", "RCPT").port), "--messages", "3"]
    done = subprocess.run([floor, *flags, "--message", tmp_path / "message.eml"], capture_output=True, timeout=60)
    # A sink that refuses also stops announcing PIPELINING, which the floor cannot do without.
    assert done.returncode == 1 and b"PIPELINING" in done.stderr


def test_the_long_line_takes_a_round_trip_for_every_reply(start_smtp_sink):
    server = start_smtp_sink()
    rtt = 0.06
    relay = subprocess.Popen(
        [sys.executable, PEERS / "delay.py", "--to", f"127.0.0.1:{server.port}", "--rtt-ms", str(rtt * 1000)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(relay.stdout.readline().split()[1])
        started = time.monotonic()
        client = smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert time.monotonic() - started > 1.9 * rtt
        started = time.monotonic()
        client.ehlo()
        client.noop()
        assert time.monotonic() - started > 1.9 * rtt
        assert client.quit()[0] == 221
    finally:
        relay.terminate()
        relay.wait(10)
        relay.stdout.close()
