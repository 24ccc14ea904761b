#!/usr/bin/env python3
"""A day of a job on the virtual clock (tests/unit/job/day.py), drawn from what its relays saw.

    day.py [--svg docs/images/day.svg]

24,000 recipients, two windows, a ramp, a limit for gmail.com, a receiver that takes 0.2/s and says so by refusals only,
greylisting, and a relay that is dead for an hour.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from plot import Chart, per_minute  # noqa: E402

from unit.job import day as model  # noqa: E402

HOUR = model.HOUR
BUCKET = 300.0
COLOURS = {"all": "#2563eb", "gmail.com": "#dc2626", "slow.test": "#16a34a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "images" / "day.svg")
    args = parser.parse_args()
    began = time.process_time()
    day = model.Day().run()
    took = time.process_time() - began
    args.svg.write_text(chart(day).svg(), encoding="utf-8")
    counts = day.simulation.tally.counts
    print(f"{counts.recipients:,} recipients, {counts.delivered:,} delivered, {counts.failed} failed")
    print(f"{counts.attempts:,} attempts, refused: {dict(day.refused)}")
    slow = [moment for moment, name in day.taken if name == "slow.test"]
    hours = [moment for moment in slow if model.BEGIN + HOUR <= moment < model.BEGIN + 5 * HOUR]
    print(f"slow.test took {len(hours) / (4 * HOUR * model.CAPACITY):.1%} of what it would have taken")
    print(f"{day.simulation.seconds / HOUR:.1f} hours in {took:.1f} s of CPU time")


def chart(day: model.Day) -> Chart:
    begin, hours = model.BEGIN - HOUR, 14
    made = Chart(
        "Recipients a minute, as the relays saw them",
        hours * HOUR,
        140.0,
        [(n * HOUR, f"{7 + n:02}:00") for n in range(0, hours + 1, 2)],
        [(value, str(value)) for value in (0, 30, 60, 90, 120)],
    )
    windows = [(start - begin, end - begin) for start, end in model.open_windows()]
    for start, end in windows:
        made.area(start, min(end, hours * HOUR), "#22c55e18")
    made.area(model.DEAD[0] - begin, model.DEAD[1] - begin, "#ef444422")
    times = {name: [at - begin for at, its in day.named if its == name] for name in model.ROUTES}
    made.line("all", COLOURS["all"], per_minute([at - begin for at, _ in day.named], hours * HOUR, BUCKET))
    made.line("ramp", COLOURS["all"], ramp(windows), dashed=True)
    for name, limit in (("gmail.com", model.LIMITS["gmail.com"]), ("slow.test", model.CAPACITY)):
        made.line(name, COLOURS[name], per_minute(times[name], hours * HOUR, BUCKET))
        label = "its limit" if name in model.LIMITS else "what it takes"
        made.line(label, COLOURS[name], [(0, limit * 60), (hours * HOUR, limit * 60)], dashed=True)
    return made


def ramp(windows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What it allows a minute, while a window is open."""
    points, elapsed, spec = [], 0.0, model.RAMP
    for start, end in windows[:2]:
        points.append((start, 0.0))
        for step in range(int((end - start) / BUCKET) + 1):
            share = min((elapsed + step * BUCKET) / spec.over, 1.0)
            points.append((start + step * BUCKET, (spec.begin + (spec.end - spec.begin) * share) * 60))
        points.append((end, 0.0))
        elapsed += end - start
    return points


if __name__ == "__main__":
    main()
