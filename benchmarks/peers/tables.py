"""Runs become tables: medians of the rounds, ratios to the floor of the same rounds, and how far the rounds differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One measured run.

    seconds    by the client's own clock: first connect to last reply; `wall` where it has none
    user, system, peak_mb   of the whole process, from exec to end
    sink_busy  CPU of the sink, of one core: near 1.0 the sink, not the client, decides the messages/s
    round      runs of one round are compared with each other
    """

    client: str
    messages: int
    seconds: float
    wall: float
    user: float
    system: float
    peak_mb: float
    sink_busy: float
    round: int = 0

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.messages * 1e6

    def __str__(self) -> str:
        return (
            f"{self.client:26} {self.messages:8,} in {self.seconds:6.2f} s {self.rate:8,.0f}/s {self.cpu_us:7.1f} us "
            f"{self.peak_mb:6.1f} MB  sink {self.sink_busy:4.0%}"
        )


@dataclass(frozen=True)
class Goal:
    """How two clients of one scenario must compare: `client` ÷ `base`, of "messages/s" or "CPU past start-up"."""

    client: str
    base: str
    what: str
    least: float = 0.0
    most: float = float("inf")


def goal_lines(goals: Sequence[Goal], runs: Mapping[str, Sequence[Run]], short: Mapping[str, Run | None]) -> list[str]:
    """What was asked and what was measured, by medians; a round's own ratios say how sure that is."""
    lines = []
    for goal in goals:
        asked = f"at least {goal.least:g}" if goal.least else f"at most {goal.most:g}"
        pair = [_measures(goal.what, runs.get(name, ()), short.get(name)) for name in (goal.client, goal.base)]
        title = f"- {goal.client} ÷ {goal.base}, {goal.what}:"
        if not all(pair):
            lines.append(f"{title} not measured (asked: {asked})")
            continue
        ratio = median(pair[0]) / median(pair[1])
        each = ", ".join(f"{ours / theirs:.2f}" for ours, theirs in zip(*pair, strict=False))
        met = verdict(goal.least <= ratio <= goal.most)
        lines.append(f"{title} {ratio:.2f}, asked {asked}: {met} (by round: {each})")
    return ["", *lines] if lines else []


def verdict(met: bool) -> str:
    return "reached" if met else "MISSED"


def _measures(what: str, runs: Sequence[Run], short: Run | None) -> list[float]:
    if what == "messages/s":
        return [run.rate for run in runs]
    return [value for run in runs if (value := past_start(run, short)) is not None]


def past_start(run: Run, short: Run | None) -> float | None:
    """CPU microseconds of a message beyond those of the short run: what a longer job tends to."""
    if short is None or run.messages < 2 * short.messages:
        return None
    return (run.cpu - short.cpu) / (run.messages - short.messages) * 1e6


def spread(values: Sequence[float]) -> str:
    middle = median(values)
    return f"-{1 - min(values) / middle:.0%} +{max(values) / middle - 1:.0%}" if len(values) > 1 else "one run"


COLUMNS = (
    "client",
    "messages/s",
    "÷ floor",
    "CPU µs/message",
    "÷ floor",
    "past start-up µs",
    "user + sys µs",
    "peak MB",
    "messages",
    "spread of CPU",
    "sink busy",
)


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def scenario_table(
    title: str, runs: Mapping[str, Sequence[Run]], short: Mapping[str, Run | None], floor: str, unit: str
) -> str:
    """The markdown table of one scenario; a client without a good run says so."""
    base = runs.get(floor) or ()
    base_rate = median(run.rate for run in base) if base else None
    base_cpu = median(run.cpu_us for run in base) if base else None
    head = [column.replace("message", unit) for column in COLUMNS]
    lines = [f"## {title}", "", row(head), row(["---", *["---:"] * (len(COLUMNS) - 1)])]
    for client, its in runs.items():
        if not its:
            lines.append(row([client, "failed", *[""] * (len(COLUMNS) - 2)]))
            continue
        rate, cpu = median(run.rate for run in its), median(run.cpu_us for run in its)
        beyond = [value for run in its if (value := past_start(run, short.get(client))) is not None]
        user = median(run.user / run.messages * 1e6 for run in its)
        system = median(run.system / run.messages * 1e6 for run in its)
        lines.append(
            row(
                [
                    client,
                    f"{rate:,.0f}",
                    f"{rate / base_rate:.2f}" if base_rate else "",
                    f"{cpu:.1f}",
                    f"{cpu / base_cpu:.2f}" if base_cpu else "",
                    f"{median(beyond):.1f}" if beyond else "",
                    f"{user:.1f} + {system:.1f}",
                    f"{max(run.peak_mb for run in its):.1f}",
                    f"{its[0].messages:,}",
                    spread([run.cpu_us for run in its]),
                    f"{median(run.sink_busy for run in its):.0%}",
                ]
            )
        )
    return "\n".join(lines)


def memory_table(runs: Sequence[Run]) -> str:
    lines = ["## Memory of one job", "", row(("recipients", "peak MB", "messages/s", "CPU µs/message"))]
    lines.append(row(["---:"] * 4))
    lines += [row((f"{run.messages:,}", f"{run.peak_mb:.1f}", f"{run.rate:,.0f}", f"{run.cpu_us:.1f}")) for run in runs]
    return "\n".join(lines)
