"""Rates as the receiving side sees them, in real time: job, relay, three egresses and groups of domains at once."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from bulkmail.job.job import Job
from bulkmail.sink import Server
from integration.arrivals import Arrivals

# What a busy machine adds to the way of a command, beside the longest time that the loop was seen to be late.
JITTER = 0.02


class Times(Arrivals):
    def assert_paced(self, key: str, rate: float, burst: int) -> None:
        """In any window at most rate x T + burst; a command may have come later than it left by `late`."""
        times = sorted(self.by[key])
        for first, begin in enumerate(times):
            for last in range(first + burst, len(times)):
                window = times[last] - begin + self.late + JITTER
                assert last - first + 1 <= rate * window + burst, (key, last - first + 1, window)


def manifest(url: str) -> dict[str, object]:
    people = [f"p{number}@{domain}" for domain in ("a.test", "b.test", "c.test", "d.test") for number in range(80)]
    return {
        "job": "news",
        "message": {"from": "news@example.com", "subject": "Hello {{ email }}", "text": "Hello"},
        "recipients": people,
        "egress": {f"e{n}": {"local_address": f"127.0.0.{n + 2}", "rate": "80/s"} for n in range(3)},
        "relays": {"url": url, "connections": 9, "rate": "190/s", "egress": ["e0", "e1", "e2"]},
        "limits": {
            "rate": "200/s",
            "domains": {"a.test,b.test": {"rate": "100/s"}, "c.test": {"rate": "45/s", "burst": 9, "connections": 2}},
        },
        "journal": "news.journal",
    }


@pytest.mark.parametrize(
    "without", [[], ["CHUNKING"], ["CHUNKING", "PIPELINING"]], ids=["BDAT", "DATA", "no pipelining"]
)
def test_no_window_has_more_than_any_limit_allows(run, tmp_path, without):
    async def main():
        times = Times()
        async with Server(times, without=without) as server:
            (tmp_path / "news.json").write_text(json.dumps(manifest(server.url)))
            watch = asyncio.create_task(times.watch())
            report = await Job.load(tmp_path / "news.json").run_async()
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        return report, times

    report, times = run(main())
    assert report.exit_code == 0 and report.summary["delivered"] == 320
    times.assert_paced("job", 190, 19)
    for n in range(3):
        assert times.by[f"127.0.0.{n + 2}"]
        times.assert_paced(f"127.0.0.{n + 2}", 80, 8)
    times.by["a and b"] = times.by["a.test"] + times.by["b.test"]
    times.assert_paced("a and b", 100, 10)
    times.assert_paced("c.test", 45, 9)
    took = max(times.by["job"]) - min(times.by["job"])
    assert took < 320 / 190 * 1.5 + 5  # used as well as kept; the machine may be busy
