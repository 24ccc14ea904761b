"""A shared message to more recipients than the relay takes at a time: each gets one copy, and no attempt is used up."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bulkmail.job.job import Job
from bulkmail.sink import Server

PEOPLE = [f"r{number}@example.com" for number in range(60)]


@pytest.mark.parametrize(
    "without", [[], ["LIMITS"], ["LIMITS", "CHUNKING"]], ids=["LIMITS", "452 by BDAT", "452 by DATA"]
)
def test_a_relay_that_takes_seven_at_a_time(run, tmp_path, without):
    async def main():
        async with Server(max_recipients=7, without=without) as server:
            manifest = {
                "job": "news",
                "message": {"from": "news@example.com", "subject": "To all", "text": "Hello"},
                "recipients": PEOPLE,
                "relays": {"url": server.url, "connections": 2},
                "retry": {"delays": ["1h"]},
                "journal": "news.journal",
            }
            (tmp_path / "news.json").write_text(json.dumps(manifest))
            report = await Job.load(tmp_path / "news.json").run_async()
            return report, Counter(address for message in server.messages for address in message.recipients)

    report, taken = run(main())
    assert report.exit_code == 0 and report.summary["delivered"] == len(PEOPLE)
    assert taken == Counter(PEOPLE)
