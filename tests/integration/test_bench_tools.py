"""The benchmark's own pieces: the floor sends what it is given, the long line is as long as it says."""

from __future__ import annotations

import json
import shutil
import smtplib
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.servers.common import missing

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


@pytest.fixture
def peers(monkeypatch):
    """The harness's modules can be imported."""
    monkeypatch.syspath_prepend(str(PEERS))


@pytest.mark.parametrize("tasks", [0, 7])
@pytest.mark.parametrize("script", ["bulkmail_library.py", "aiosmtplib_send.py"])
def test_the_library_clients_send_each_message_once(start_smtp_sink, tmp_path, script, tasks):
    pytest.importorskip("aiosmtplib" if script.startswith("aio") else "bulkmail")
    pytest.importorskip("uvloop")
    server = start_smtp_sink(keep=True)
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    command = [sys.executable, PEERS / script, "--port", str(server.port), "--connections", "3", "--messages", "30"]
    command += ["--message", tmp_path / "message.eml", "--tasks", str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 30
    to = [line for kept in server.dumped() for line in kept.split(b"\n") if line.startswith(b"X-Rcpt-Args")]
    assert sorted(to) == sorted(b"X-Rcpt-Args: <user%d@example.test>" % number for number in range(30))


def test_the_harness_has_servers_with_chunking_and_with_tls(peers, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    from servers import SINK, SINK_TLS, Servers

    (tmp_path / "message.eml").write_bytes(MESSAGE)
    with Servers(tmp_path) as servers:
        with smtplib.SMTP("127.0.0.1", servers.port(SINK, 10), timeout=20) as client:
            client.ehlo()
            assert client.has_extn("chunking") and not client.has_extn("starttls")
        with smtplib.SMTP("127.0.0.1", servers.port(SINK_TLS, 0), timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=servers.get(SINK_TLS).ca_file))
        command = [sys.executable, PEERS / "bulkmail_library.py", "--port", str(servers.port(SINK_TLS, 0))]
        command += ["--connections", "2", "--messages", "5", "--message", tmp_path / "message.eml"]
        command += ["--ca-file", servers.get(SINK_TLS).ca_file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["messages"] == 5, done.stderr


def run_of(client, rate, cpu, messages=1000):
    from tables import Run

    return Run(client, messages, messages / rate, messages / rate, cpu, 0.0, 10.0, 0.5)


def test_a_goal_compares_medians_and_says_when_it_is_missed(peers):
    from tables import Goal, goal_lines

    runs = {
        "ours": [run_of("ours", rate, 2.0) for rate in (900, 1000, 4000)],
        "theirs": [run_of("theirs", rate, 1.0) for rate in (50, 100, 100)],
        "broken": [],
    }
    short = {name: run_of(name, 10, 0.5, messages=10) for name in ("ours", "theirs")}
    goals = (
        Goal("ours", "theirs", "messages/s", least=10),
        Goal("ours", "theirs", "messages/s", least=11),
        Goal("ours", "theirs", "CPU past start-up", most=2),
        Goal("ours", "broken", "messages/s", least=1),
    )
    lines = goal_lines(goals, runs, short)[1:]
    assert "10.00, asked at least 10: reached (by round: 18.00, 10.00, 40.00)" in lines[0]
    assert "10.00, asked at least 11: MISSED" in lines[1]
    assert "3.00, asked at most 2: MISSED" in lines[2]
    assert "not measured" in lines[3]


def test_composers_that_are_compared_compose_the_same(peers, tmp_path):
    import compose

    compose.write(tmp_path, 2048)
    compose.check(compose.composers(), tmp_path)
    assert abs(compose.once(compose.OURS, tmp_path, 200)["bytes"] - 2048) < 100


def test_what_was_asked_of_composing_is_judged_by_medians(peers):
    import compose

    def runs(*microseconds):
        return [{"us": value} for value in microseconds]

    good = compose.goals("20 KB", {compose.OURS: runs(9, 10, 90), compose.EMAIL: runs(50, 200, 400)})
    assert [line.endswith("reached") for line in good] == [True, True]
    bad = compose.goals("20 KB", {compose.OURS: runs(9, 11, 12), compose.EMAIL: runs(50, 200, 400)})
    assert [line.endswith("MISSED") for line in bad] == [True, True]


def test_a_composer_that_leaves_something_out_ends_the_comparison(peers, tmp_path, monkeypatch):
    import compose

    compose.write(tmp_path, 2048)
    command = compose.command

    def without_the_list(name, folder, count, keep=None):
        if name == compose.EMAIL:
            job = json.loads((folder / "job.json").read_text())
            (folder / "job.json").write_text(json.dumps({**job, "html": "<p>{{ id }}</p>"}))
        return command(name, folder, count, keep)

    monkeypatch.setattr(compose, "command", without_the_list)
    with pytest.raises(SystemExit, match="recipient 0 gets another html than from bulkmail"):
        compose.check([compose.OURS, compose.EMAIL], tmp_path)


@pytest.mark.parametrize("algorithm", ["rsa2048", "ed25519"])
def test_signatures_are_counted_beside_those_of_openssl(peers, tmp_path, algorithm):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    import compose
    import sign

    compose.write(tmp_path, 2048)
    sign.write_key(algorithm, tmp_path / f"{algorithm}.pem")
    assert sign.openssl(algorithm, 1.0) > 0
    assert sign.ours(tmp_path, algorithm, 0.3) > 0


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


# ---- receiving servers side by side


@pytest.mark.parametrize("name", ["bulkmail sink", "smtp-sink", "aiosmtpd", "npm smtp-server"])
def test_every_receiver_takes_what_every_feeder_sends(peers, name, monkeypatch, tmp_path):
    import receivers
    from children import running
    from recorder import free_port, wait_for

    monkeypatch.setenv("PYTHONPATH", str(PEERS.parents[1]))
    if (why := receivers.unavailable(name)) or not receivers.find("smtp-source"):
        missing(why or "Postfix is not installed")
    port = free_port()
    receiver = receivers.RECEIVERS[name]
    with running(receivers.on_core(0, receiver.command(port)), log=tmp_path / "log") as child:
        wait_for(port)
        fed = [receivers.feed(child.pid, port, by, 60) for by in receiver.guess]
    assert len(fed) >= 2 and all(one.rate > 0 and one.cpu_us > 0 for one in fed)


def test_goals_of_receivers_are_judged_by_medians(peers):
    from receivers import NODE, OURS, PIPELINING, POSTFIX, SOURCE, Fed, goals

    def fed(*rates):
        return [Fed(rate, 1e6 / rate, 1.0) for rate in rates]

    lines = goals({
        (OURS, SOURCE): fed(100.0, 80.0, 1000.0), (POSTFIX, SOURCE): fed(100.0, 100.0, 100.0),
        (NODE, SOURCE): fed(30.0, 20.0, 26.0), (OURS, PIPELINING): fed(9.0), (POSTFIX, PIPELINING): fed(10.0),
    })  # fmt: skip
    assert "1.00, asked at least 0.8: reached (by round: 1.00, 0.80, 10.00;" in lines[0]
    assert "aiosmtpd" in lines[1] and "not measured (asked: at least 10)" in lines[1]
    assert "3.85, asked at least 4: MISSED" in lines[2] and lines[2].endswith("3.85)")
    assert "0.90, asked at least 1: MISSED" in lines[3]
