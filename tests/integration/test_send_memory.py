"""Memory does not grow with the list: the peak of a run of 300,000 is that of one of 100,000."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from integration.cli_program import environment, write_job
from integration.sink_program import sink

MOST_GROWTH = 10 << 10  # KiB, for 200,000 recipients more: some 50 bytes each; one that was kept would need far more
MOST = 150 << 10
# The command in a process that says at its end what it needed. (ru_maxrss would count the process it is forked from.)
PROGRAM = """
import sys
from bulkmail.cli import main
try:
    main(["send", "news.json", "--json"])
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def peak_of_a_run(folder, port, recipients):
    """(KiB of resident memory at their most, summary)"""
    folder.mkdir()
    rows = "".join(f'{{"email":"reader{n}@example.test","name":"Name {n}"}}\n' for n in range(recipients))
    relays = [{"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": 20}]
    message = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }},\n" + "words " * 80}
    write_job(folder, "", rows, relays=relays, message=message)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["delivered"] == recipients
    return int(done.stderr), summary


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_three_times_as_many_recipients_need_no_more_memory(tmp_path):
    with sink(tmp_path, store=False) as server:
        small, _ = peak_of_a_run(tmp_path / "small", server.port, 100_000)
        large, summary = peak_of_a_run(tmp_path / "large", server.port, 300_000)
    rate = summary["messages_per_second"]
    print(f"peak at 100,000: {small / 1024:.1f} MB, at 300,000: {large / 1024:.1f} MB, {rate:.0f} messages a second")
    assert large - small < MOST_GROWTH
    assert large < MOST
