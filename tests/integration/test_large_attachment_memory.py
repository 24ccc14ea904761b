"""25 MB attached in a personalised job: however many get it, by however many connections, it is in memory once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from integration.cli_program import environment, write_job
from integration.sink_program import sink
from integration.test_send_memory import PROGRAM

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

SIZE = 25 << 20
ENCODED = SIZE // 57 * 78  # bytes of its base64
CONNECTIONS = 4  # as many copies under way would be 137 MB
RECIPIENTS = 8
SLACK = 10 << 10  # KiB


def peak_of_a_run(folder, port, recipients, attachments):
    """KiB of resident memory at their most."""
    folder.mkdir()
    rows = "".join(f'{{"email":"reader{n}@example.test","name":"Name {n}"}}\n' for n in range(recipients))
    relay = {"name": "sink", "url": f"smtp://127.0.0.1:{port}", "connections": CONNECTIONS}
    message = {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }},\n"}
    write_job(folder, "", rows, relays=[relay], message={**message, "attachments": attachments})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["delivered"] == recipients
    return int(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--without", "CHUNKING"]], ids=["bdat", "data"])
def test_all_recipients_share_the_one_encoded_copy(tmp_path, options):
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * (SIZE // 256))
    attached = [{"file": "../large.bin"}]
    with sink(tmp_path, *options, store=False) as server:
        plain = peak_of_a_run(tmp_path / "plain", server.port, RECIPIENTS, [])
        one = peak_of_a_run(tmp_path / "one", server.port, 1, attached)
        many = peak_of_a_run(tmp_path / "many", server.port, RECIPIENTS, attached)
        counts = server.end()
    assert counts["bytes"] > (1 + RECIPIENTS) * ENCODED
    assert many - one < SLACK
    assert one - plain < (SIZE + ENCODED) // 1024 + SLACK  # the file while it is encoded, and what it becomes
