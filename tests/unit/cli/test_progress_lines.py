"""The progress bar: its arithmetic with time as a parameter, and that it shows on a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from bulkmail.cli.progress import WINDOW_SECONDS, Pace, counts_text, pace_text

ROOT = Path(__file__).resolve().parents[3]
LIVE = {
    "job": "news",
    "recipients": 1000,
    "delivered": 450,
    "deferred": 80,
    "failed": 20,
    "in_doubt": 0,
    "suppressed": 30,
    "pending": 420,
}


def test_the_rate_is_that_of_the_last_seconds():
    pace = Pace()
    for second in range(100):
        pace.note(float(second), second * 1000 if second < 50 else 50_000 + (second - 50) * 10)
    assert pace.per_second() == pytest.approx(10)
    assert pace.seconds_left(100) == pytest.approx(10)


def test_nothing_known_yet_and_nothing_moving():
    pace = Pace()
    assert pace.seconds_left(5) is None
    pace.note(1.0, 7)
    pace.note(1.0, 9)
    assert pace.per_second() == 0
    pace.note(1.0 + 3 * WINDOW_SECONDS, 9)
    assert pace.seconds_left(5) is None


def test_what_the_two_lines_say():
    pace = Pace()
    pace.note(0.0, 0)
    pace.note(10.0, 500)
    assert pace_text(LIVE, pace) == " 50%  50/s  10.0 s left"
    assert counts_text(LIVE) == "news: delivered 450 of 1,000, deferred 80, failed 20"
    assert counts_text({**LIVE, "in_doubt": 3}).endswith("failed 20, in doubt 3")
    assert pace_text({}, Pace()) == "  -%  0.0/s  -- left"


PROGRAM = f"""
import sys, time
from bulkmail.cli import progress
class Job:
    def progress(self):
        return {LIVE!r}
with progress.shown(Job(), "--no-progress" not in sys.argv):
    time.sleep(4 * progress.REFRESH_SECONDS)
print("rich" in sys.modules, flush=True)
"""


def run_on_terminal(*args: str) -> tuple[str, str]:
    """(standard output, what a terminal on standard error saw)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args], stdout=subprocess.PIPE, stderr=theirs, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other side has closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    return process.communicate(timeout=60)[0], seen.decode()


def test_a_terminal_sees_the_bar():
    out, terminal = run_on_terminal()
    assert out == "True\n"
    assert "delivered 450 of 1,000" in terminal and "50%" in terminal and "deferred 80" in terminal
    assert terminal.rindex("\x1b[?25h") > terminal.index("\x1b[?25l")  # the cursor was hidden and is back


def test_no_progress_hides_it():
    assert run_on_terminal("--no-progress") == ("False\n", "")


def test_no_terminal_no_bar():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
