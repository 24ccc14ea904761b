"""`bulkmail send` of a job with a time to start at, with hours, with a ramp: by the clock of the machine."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime

import pytest

from integration.cli_program import SECONDS, bulkmail, start, write_job
from integration.sink_program import sink

HOUR = 3600.0


def iso(moment):
    return datetime.fromtimestamp(moment, UTC).isoformat()


def received(box):
    """Unix seconds at which the sink took each message."""
    return sorted(datetime.fromisoformat(envelope["received"]).timestamp() for envelope in box.envelopes())


def wait_for(condition, process):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


def status(folder):
    done = bulkmail("status", "news.journal", "--json", cwd=folder)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def test_nothing_leaves_before_the_time_to_start_and_the_status_says_so(tmp_path):
    with sink(tmp_path) as box:
        begin = time.time() + 9
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 20, start_at=iso(begin))
        process = start("send", "news.json", "--json", cwd=tmp_path)
        summary = wait_for(lambda: (found := status(tmp_path)).get("waiting") and found, process)
        assert summary["waiting"] == {"until": pytest.approx(begin), "why": f"it starts at {iso(begin)[:19]}Z"}
        assert (summary["state"], summary["pending"]) == ("running", 20)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        assert "waiting" not in json.loads(out)
        times = received(box)
    assert len(times) == 20 and times[0] >= begin - 0.001


@pytest.mark.parametrize("how", ["start_at", "window"])
def test_a_signal_while_it_waits_ends_it_and_the_next_run_may_begin(tmp_path, how):
    keys = {"start_at": iso(time.time() + HOUR)}
    if how == "window":  # shut for some hours yet, whatever time it is
        hour = (datetime.now(UTC).hour + 3) % 24
        keys = {"limits": {"window": {"from": f"{hour:02}:00", "to": f"{hour:02}:30"}}}
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 5, **keys)
        process = start("send", "news.json", "--json", cwd=tmp_path)
        wait_for(lambda: status(tmp_path).get("waiting"), process)
        text = bulkmail("status", "news.journal", cwd=tmp_path).stdout
        assert "news: running" in text and "\n  waits until 20" in text
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 3
        assert json.loads(out)["state"] == "stopped" and json.loads(out)["pending"] == 5
        assert box.envelopes() == []
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 5)  # without them, and it is the same job
        assert bulkmail("send", "news.json", "--resume", cwd=tmp_path).returncode == 0
        assert len(received(box)) == 5


def test_rehearsals_do_not_wait(tmp_path):
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 5, start_at=iso(time.time() + HOUR))
        assert bulkmail("send", "news.json", "--dry-run", cwd=tmp_path).returncode == 0
        assert bulkmail("send", "news.json", "--test-to", "me@example.com", cwd=tmp_path).returncode == 0
        assert [envelope["to"] for envelope in box.envelopes()] == [["me@example.com"]]


def test_a_stale_schedule_is_a_warning(tmp_path):
    write_job(tmp_path, "smtp://127.0.0.1:9", 5, start_at="2020-01-01T08:00:00Z")
    found = json.loads(bulkmail("check", "news.json", "--json", cwd=tmp_path).stdout)["findings"]
    assert [one["severity"] for one in found if one["path"] == "$.start_at"] == ["warning"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_a_ramp_goes_on_after_a_kill(tmp_path):
    """From 10/s to 210/s in 10 s, killed after some seconds: the next run begins near where it was, not with 10/s."""
    ramp = {"from": "10/s", "to": "210/s", "over": "10s"}
    with sink(tmp_path) as box:
        write_job(tmp_path, f"smtp://127.0.0.1:{box.port}", 700, limits={"ramp": ramp})
        process = start("send", "news.json", cwd=tmp_path)
        wait_for(lambda: len(box.envelopes()) >= 250, process)
        process.kill()
        process.communicate()
        before = received(box)
        at = before[-1] - before[0]
        done = bulkmail("send", "news.json", "--resume", "--in-doubt", "resend", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["delivered"] == 700
        after = received(box)[len(before) :]
    first_second = sum(moment < after[0] + 1 for moment in after)
    high = 10 + 20 * (at + 0.5 + 1)  # the pause counts for half a second at most
    assert 10 + 20 * at * 0.5 < first_second <= high * 1.15 + 21
