"""What a run of the harness has found, and what the table of goals asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tables import Run


class NotMeasuredError(Exception):
    """A figure that there is not; str() says why."""


@dataclass(frozen=True)
class Figures:
    """One value of each round, and what they were made of in words."""

    values: Sequence[float]
    made_of: str = ""


@dataclass
class Results:
    """runs     of each scenario, by client
    short    likewise: one run of a few messages, which is the start
    figures  of what is no client in turns with others, by name
    missing  why a client, a scenario or a figure has none, by its name"""

    runs: dict[str, Mapping[str, Sequence[Run]]] = field(default_factory=dict)
    short: dict[str, Mapping[str, Run | None]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def of(self, scenario: str, client: str) -> Sequence[Run]:
        """The client's runs, one at least."""
        if client in self.missing:
            raise NotMeasuredError(f"{client}: {self.missing[client]}")
        if scenario not in self.runs:
            raise NotMeasuredError(self.missing.get(scenario, f"{scenario} is not part of this run"))
        if not (runs := self.runs[scenario].get(client)):
            why = self.missing.get(f"{scenario} {client}", "takes no part in this run")
            raise NotMeasuredError(f"{client}: {why}")
        return runs


Source = Callable[[Results], Figures]


def cpu(scenario: str, client: str, base: str) -> Source:
    """CPU of a message, of the whole process, by that of another client."""
    return _ratio(scenario, client, base, lambda run: run.cpu_us, "{:.1f} by {:.1f} µs")


def rate(scenario: str, client: str, base: str) -> Source:
    """Messages a second by those of another client."""
    return _ratio(scenario, client, base, lambda run: run.rate, "{:,.0f} by {:,.0f}/s")


def _ratio(scenario: str, client: str, base: str, value: Callable[[Run], float], words: str) -> Source:
    def source(results: Results) -> Figures:
        ours, theirs = ({run.round: value(run) for run in results.of(scenario, name)} for name in (client, base))
        both = [number for number in ours if number in theirs]
        if not both:
            raise NotMeasuredError(f"{client} and {base} have no round in common")
        made_of = words.format(median(ours[number] for number in both), median(theirs[number] for number in both))
        return Figures([ours[number] / theirs[number] for number in both], made_of)

    return source


def cpu_us(scenario: str, client: str) -> Source:
    """CPU of a message, or recipient, in microseconds."""

    def source(results: Results) -> Figures:
        runs = results.of(scenario, client)
        return Figures([run.cpu_us for run in runs], f"{runs[0].messages:,} in a run")

    return source


def start_ms(scenario: str, client: str) -> Source:
    """CPU of a run of a few messages, of the whole process, in milliseconds."""

    def source(results: Results) -> Figures:
        results.of(scenario, client)
        if (run := results.short.get(scenario, {}).get(client)) is None:
            raise NotMeasuredError(f"{client}: its short run failed")
        return Figures([run.cpu * 1e3], f"{run.messages} messages")

    return source


def figure(name: str, program: str) -> Source:
    """What a program of its own has found; `program` is its name among the scenarios."""

    def source(results: Results) -> Figures:
        if name not in results.figures:
            reason = results.missing.get(name) or results.missing.get(program)
            raise NotMeasuredError(reason or f"{program} is not part of this run")
        return results.figures[name]

    return source
