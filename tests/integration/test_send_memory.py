"""Memory does not grow with the list: the peak of a run of 300,000 is that of one of 100,000."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from integration.cli_program import command, environment, write_job
from integration.sink_program import sink

MOST_GROWTH = 10 << 10  # KiB: 200,000 recipients more in 10 MB is half a byte a bit; a set of them would be 20
MOST = 150 << 10


def peak_of_a_run(folder, port, recipients):
    """(KiB of resident memory at their most, summary)"""
    folder.mkdir()
    row = '{"email":"reader%d@example.test","name":"Name %d"}\n'
    rows = "".join(row % (n, n) for n in range(recipients))
    relays = [{"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": 20}]
    message = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }},\n" + "words " * 80}
    write_job(folder, "", rows, relays=relays, message=message)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command("send", "news.json", "--json"), cwd=folder, stdout=out, env=environment())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    summary = json.loads((folder / "out").read_text())
    assert summary["delivered"] == recipients
    return used.ru_maxrss, summary


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_three_times_as_many_recipients_need_no_more_memory(tmp_path):
    with sink(tmp_path, store=False) as server:
        small, _ = peak_of_a_run(tmp_path / "small", server.port, 100_000)
        large, summary = peak_of_a_run(tmp_path / "large", server.port, 300_000)
    rate = summary["messages_per_second"]
    print(f"peak at 100,000: {small / 1024:.1f} MB, at 300,000: {large / 1024:.1f} MB, {rate:.0f} messages a second")
    assert large - small < MOST_GROWTH
    assert large < MOST
