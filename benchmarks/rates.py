#!/usr/bin/env python3
"""Limits as the receiving side sees them: real runs of `bulkmail send` to a sink in this process, and what came when.

    rates.py [--seconds 20] [--svg docs/images/rates.svg]

Three runs: a rate for the job, a rate for the domain that gets most of it, a ramp. For each the most by which any
window of time had more recipients than rate x T (at most the burst, and what the network and the sink delay), and how
much of the rate was used. The chart shows recipients so far beside the line that they stay below.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from plot import Chart  # noqa: E402

from bulkmail.sink import Server  # noqa: E402

RUN_SECONDS = 300.0
COLOURS = ("#2563eb", "#dc2626", "#16a34a")
RATE, DOMAIN_RATE, RAMP = 300.0, 120.0, (20.0, 400.0)


class Hooks:
    """Notes when each recipient is named."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def on_rcpt(self, session: Any, address: str, parameters: Any) -> None:
        self.times.setdefault(address.partition("@")[2], []).append(time.perf_counter())


async def run(folder: Path, limits: dict[str, Any], recipients: int) -> dict[str, list[float]]:
    """Send to the sink; when each domain's recipients came, in seconds since the first."""
    rows = [{"email": f"r{n}@{'big.test' if n % 4 else f'd{n % 50}.test'}"} for n in range(recipients)]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    hooks = Hooks()
    async with Server(hooks, discard=True) as server:
        message = {"from": "news@example.com", "to": "{{ email }}", "subject": "Hello", "text": "Hello {{ email }}"}
        keys = {"message": message, "recipients": "list.jsonl", "relays": f"{server.url}?connections=10"}
        (folder / "job.json").write_text(json.dumps({"job": "rates", **keys, "limits": limits}))
        program = [sys.executable, "-m", "bulkmail", "send", "job.json", "--fresh", "--no-progress"]
        process = await asyncio.create_subprocess_exec(*program, cwd=folder)
        async with asyncio.timeout(RUN_SECONDS):
            if await process.wait() != 0:
                raise SystemExit("the job failed")
    first = min(times[0] for times in hooks.times.values())
    return {domain: [at - first for at in times] for domain, times in hooks.times.items()}


def excess(times: list[float], line: Callable[[float], float]) -> float:
    """The most recipients in any window, less what the line allows in it: at most the burst."""
    debt, last, most = 0.0, times[0], 0.0
    for at in times:
        debt = max(0.0, debt - (line(at) - line(last))) + 1
        last, most = at, max(most, debt)
    return most


def rising(over: float) -> Callable[[float], float]:
    """How many may have left by then on the ramp."""
    low, high = RAMP

    def line(at: float) -> float:
        part = min(at, over)
        return low * part + (high - low) * part * part / (2 * over) + max(0.0, at - over) * high

    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "images" / "rates.svg")
    args = parser.parse_args()
    over = args.seconds
    ramp = rising(over)
    runs = [
        (f"job {RATE:.0f}/s", {"rate": f"{RATE:.0f}/s"}, None, lambda at: RATE * at, RATE),
        (
            f"domain {DOMAIN_RATE:.0f}/s",
            {"domains": {"big.test": {"rate": f"{DOMAIN_RATE:.0f}/s"}}},
            "big.test",
            lambda at: DOMAIN_RATE * at,
            DOMAIN_RATE,
        ),
        (
            "ramp",
            {"ramp": {"from": f"{RAMP[0]:.0f}/s", "to": f"{RAMP[1]:.0f}/s", "over": f"{over}s"}},
            None,
            ramp,
            400.0,
        ),
    ]
    high = RATE * args.seconds
    seconds = range(0, int(args.seconds) + 1, 5)
    made = Chart(
        "Recipients so far, as the sink saw them, and what the limits allow (dashed)",
        args.seconds,
        high,
        [(at, f"{at} s") for at in seconds],
        [(high * n / 4, f"{high * n / 4:,.0f}") for n in range(5)],
    )
    for colour, (name, limits, domain, line, rate) in zip(COLOURS, runs, strict=True):
        wanted = int(line(args.seconds)) if domain is None else int(line(args.seconds) * 4 / 3)
        with tempfile.TemporaryDirectory() as folder:
            came = asyncio.run(run(Path(folder), limits, wanted))
        times = came[domain] if domain is not None else sorted(at for its in came.values() for at in its)
        used = (len(times) - 1) / line(times[-1])
        print(f"{name}: {len(times):,} recipients in {times[-1]:.2f} s, {used:.1%} of the rate used; ", end="")
        print(f"at most {excess(times, line):.1f} above rate x T in any window, the burst is {max(1, int(rate / 10))}")
        step = max(1, len(times) // 300)
        made.line(name, colour, [(at, n + 1) for n, at in enumerate(times)][::step])
        made.line("", colour, [(at / 4, line(at / 4)) for at in range(int(args.seconds * 4) + 1)], dashed=True)
    args.svg.write_text(made.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
