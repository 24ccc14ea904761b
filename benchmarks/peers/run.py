#!/usr/bin/env python3
"""Our clients beside other SMTP clients, in turns, against servers on this machine. See ../README.md.

    run.py                                   some twenty minutes: all that has a goal, three rounds
    run.py --effort quick                    some three minutes: one short round, to see that it runs
    run.py --effort full                     five rounds of everything, memory at 1,000,000, a job of ten million
    run.py --scenarios 2k-c20 --clients floor,bulkmail --rounds 9
    run.py --readme                          and put the table of goals into README.md and docs/performance.md

Every client first sends a few messages to a recording sink, and is left out if they are not what they should be. What
cannot be measured here is left out too, and the table of goals says why. The tables go to standard output and
.bench/last.md, the last one also to .bench/last.json, every single run to .bench/runs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import compose
import goals
import headline
import machine
import many_connections
import opening
import receivers
import sign
import sink_crowd
import starts
import stream
from children import Cost, cpu_seconds, measure
from clients import CLIENTS, COMPOSED, OURS, OWN, SHARED, TOOLS, Client, Load, unavailable
from messages import SENDER, message
from recorder import HOST, content, recipients, record, sender
from results import Figures, Results
from scenarios import (
    COMPOSE,
    CROWD,
    EFFORTS,
    KNOWN,
    MANY,
    OPENING,
    RECEIVERS,
    SCALE,
    SCENARIOS,
    SIGN,
    SIZES,
    STARTS,
    STREAM,
    Effort,
    Scenario,
    amount,
)
from servers import Servers
from tables import Run, goal_lines, memory_table, scenario_table

RUN_SECONDS = 900.0
PROBE_MESSAGES = 12
MILLION = 1_000_000
STREAM_CHECKED = 32 << 20
Apart = tuple[str, dict[str, Figures]]


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


class Harness:
    """The servers, the files that the runs need, and what was found."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.results = Results()
        self.runs: list[dict[str, object]] = []

    def __enter__(self) -> Harness:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkmail-bench-")))
        self.servers = self.stack.enter_context(Servers(self.folder))
        self.messages = {size: self.folder / f"{size}.eml" for size in SIZES.values()}
        for size, path in self.messages.items():
            path.write_bytes(message(size))
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def once(self, client: Client, scenario: Scenario, messages: int, number: int = 0) -> Run | None:
        """One measured run; None, and said why, when it did not do its work."""
        server = self.servers.get(scenario.server)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            load = Load(
                HOST,
                self.servers.port(scenario.server, scenario.rtt_ms),
                min(scenario.connections, messages),
                messages,
                scenario.size,
                self.messages[scenario.size],
                Path(folder),
                server.ca_file,
                self.servers.front(client.front, server.port),
                scenario.rate,
            )
            command = client.command(load)
            busy = cpu_seconds(server.pid)
            cost = measure(command, seconds=RUN_SECONDS)
            busy = cpu_seconds(server.pid) - busy
        seconds = float(str(cost.result().get("seconds", cost.wall)))
        if problem := undone(cost, messages, seconds):
            say(f"   {client.name} failed: {problem}")
            self.results.missing[f"{scenario.name} {client.name}"] = problem
            return None
        run = Run(
            client.name, messages, seconds, cost.wall, cost.user, cost.system, cost.peak_mb, busy / cost.wall, number
        )
        self.runs.append({"scenario": scenario.name, "load1": os.getloadavg()[0], **asdict(run)})
        return run


def undone(cost: Cost, messages: int, seconds: float) -> str:
    """What a run has not done, or what cannot be true of it; empty where all is well."""
    done = cost.result().get("delivered", cost.result().get("messages", messages))
    if cost.status or done != messages:
        return f"status {cost.status}, {done} of {messages:,}. {last_line(cost.errors)}"
    return "" if 0 < seconds <= cost.wall else f"it claims {seconds:.2f} s and lived {cost.wall:.2f} s"


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][-200:]


def wrong(client: Client, size: int, ready: Path, servers: Servers) -> str | None:
    """What is wrong with the messages that a client sends; None when they are right."""
    if reason := unavailable(client):
        return reason
    if client.secure:
        return None  # the sink that records has no TLS: it was checked without, under another name
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:

        def command(port: int) -> list[str]:
            front = servers.front(client.front, port)
            return client.command(Load(HOST, port, 3, PROBE_MESSAGES, size, ready, Path(folder), front=front))

        cost, dumped = record(command)
    to = [address for mail in dumped for address in recipients(mail)]
    if cost.status or len(to) != PROBE_MESSAGES or {sender(mail) for mail in dumped} != {SENDER}:
        errors = last_line(cost.errors)
        return f"status {cost.status}, {len(to)} of {PROBE_MESSAGES} recipients arrived from {SENDER}. {errors}"
    if client.sends == OWN:
        return None
    if len(set(to)) != PROBE_MESSAGES or len(dumped) != PROBE_MESSAGES:
        return f"not {PROBE_MESSAGES} recipients, one a message: {sorted(to)[:3]}"
    return next(filter(None, (wrong_content(client, size, ready, mail) for mail in dumped)), None)


def wrong_content(client: Client, size: int, ready: Path, mail: bytes) -> str | None:
    arrived = content(mail).replace(b"\n", b"\r\n")
    if client.sends == COMPOSED:
        number = recipients(mail)[0].split("@")[0].removeprefix("user").encode()
        if abs(len(arrived) - size) > size // 100 or b"r%07d" % int(number) not in arrived:
            return f"{len(arrived)} bytes instead of {size}, or without the recipient's own id"
    elif arrived.rstrip(b"\r\n") != ready.read_bytes().rstrip(b"\r\n"):
        return f"other content than the message it was given ({len(arrived)} bytes)"
    return None


def check(harness: Harness, scenarios: Sequence[Scenario], clients: Sequence[Client]) -> list[Client]:
    """Those that send what they should; the others are `missing`."""
    missing = harness.results.missing
    for client in clients:
        for size in sorted({one.size for one in scenarios if one.takes(client)}):
            if client.name in missing:
                break
            try:
                problem = wrong(client, size, harness.messages[size], harness.servers)
            except (Exception, SystemExit) as error:
                problem = str(error) or type(error).__name__
            say(f"check     {client.name}, {size} bytes: {problem or 'right'}")
            if problem:
                missing[client.name] = problem
    return [client for client in clients if client.name not in missing]


def play(harness: Harness, scenario: Scenario, clients: Sequence[Client], effort: Effort) -> str:
    """One scenario: a short run each for the cost of starting, then the rounds, whose order rotates; its table."""
    clients = [client for client in clients if scenario.takes(client)]
    if not clients:
        raise RuntimeError("none of its clients can run here")
    short = {client.name: harness.once(client, scenario, scenario.connections) for client in clients}
    runs: dict[str, list[Run]] = {client.name: [] for client in clients}
    for number in range(effort.rounds):
        turn = number % len(clients)
        for client in clients[turn:] + clients[:turn]:
            run = harness.once(client, scenario, amount(client, scenario, effort), number)
            if run:
                runs[client.name].append(run)
                say(f"{scenario.name:9} {number + 1}/{effort.rounds} {run}")
    harness.results.runs[scenario.name], harness.results.short[scenario.name] = runs, short
    shown = scenario_table(scenario.title, runs, short, scenario.floor, scenario.unit)
    return "\n".join([shown, *goal_lines(scenario.goals, runs, short)])


def memory(harness: Harness, client: Client) -> str:
    runs = [harness.once(client, SCENARIOS[0], count) for count in (100_000, 1_000_000)]
    for run in filter(None, runs):
        say(f"memory    {run}")
    return memory_table([run for run in runs if run])


def grown(harness: Harness) -> Apart:
    """A job of ten million, beside one of a million: time of a recipient, memory."""
    client = next(one for one in CLIENTS if one.name == SHARED)
    scenario = next(one for one in SCENARIOS if one.name == "shared")
    runs = [run for count in (MILLION, 10 * MILLION) if (run := harness.once(client, scenario, count))]
    if len(runs) < 2:
        raise RuntimeError(harness.results.missing[f"{scenario.name} {client.name}"])
    for run in runs:
        say(f"scale     {run}")
    one, ten = ((run.seconds / run.messages * 1e6, run.peak_mb) for run in runs)
    return memory_table(runs), {
        "scale-time": Figures([ten[0] / one[0]], f"{ten[0]:.2f} by {one[0]:.2f} µs a recipient"),
        "scale-memory": Figures([ten[1] / one[1]], f"{ten[1]:.0f} by {one[1]:.0f} MB"),
    }


def text_only(text: str) -> Apart:
    return text, {}


# Programs of their own: their tables, and their figures for the table of goals.
APART: dict[str, Callable[[Harness, Effort], Apart]] = {
    STARTS: lambda _, effort: starts.compare(5 if effort.rounds == 1 else 20),
    SIGN: lambda _, effort: sign.compare(effort.rounds, min(5.0, 4 * effort.seconds), effort.keys),
    RECEIVERS: lambda _, effort: receivers.compare(min(1.5, effort.seconds), effort.rounds),
    MANY: lambda _, effort: many_connections.compare(10_000, 3 if effort.memory else 1),
    SCALE: lambda harness, _: grown(harness),
    STREAM: lambda _, effort: text_only(stream.compare(effort.stream_mb << 20, STREAM_CHECKED, effort.rounds)),
    OPENING: lambda _, effort: text_only(opening.compare(1000, 50, effort.rounds)),
    COMPOSE: lambda _, effort: text_only(compose.compare(effort.rounds)),
    CROWD: lambda _, effort: text_only(sink_crowd.compare(5000, 1000, effort.rounds, round(200_000 * effort.share))),
}


def run_all(harness: Harness, effort: Effort, names: Sequence[str], clients: Sequence[Client]) -> list[str]:
    """The table of each; what fails, whatever it is, is `missing` and ends nothing else."""
    missing, tables = harness.results.missing, []
    if SCALE not in names:
        missing[SCALE] = "a quick run has no time for it"
    scenarios = [one for one in SCENARIOS if one.name in names]
    clients = check(harness, scenarios, clients)
    steps: dict[str, Callable[[], str]] = {
        one.name: lambda one=one: play(harness, one, clients, effort)  # type: ignore[misc]
        for one in scenarios
    }
    for name in APART:
        if name in names:
            steps[name] = lambda name=name: apart(harness, name, effort)  # type: ignore[misc]
    if effort.memory and any(client.name == OURS for client in clients):
        steps["memory"] = lambda: memory(harness, next(one for one in clients if one.name == OURS))
    for name, step in steps.items():
        try:
            tables.append(step())
        except (Exception, SystemExit) as error:
            missing[name] = last_line(str(error)) or type(error).__name__
            say(f"{name:9} not measured: {missing[name]}")
    return tables + [f"Note: {name} is left out: {why}" for name, why in missing.items() if name != SCALE]


def apart(harness: Harness, name: str, effort: Effort) -> str:
    text, figures = APART[name](harness, effort)
    harness.results.figures.update(figures)
    return text


def chosen(names: str, known: list[str], what: str) -> list[str]:
    """The known names that a comma list selects by the letters they hold: "floor" is "C floor"."""
    found = []
    for part in names.split(","):
        matches = [name for name in known if part.lower() in name.lower()]
        if not matches:
            raise SystemExit(f"no {what} is called {part}; there are {', '.join(known)}")
        found += matches
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Wanted:
    effort: Effort
    names: Sequence[str]
    clients: Sequence[Client]
    readme: bool


def wanted() -> Wanted:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", choices=EFFORTS, default="normal")
    parser.add_argument("--scenarios", help="comma list of " + ", ".join(KNOWN))
    parser.add_argument("--clients", help="comma list of " + ", ".join(c.name for c in CLIENTS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--memory", action="store_true", help="peak memory at 100,000 and 1,000,000 recipients")
    parser.add_argument("--readme", action="store_true", help="the table of goals goes into README.md")
    options = parser.parse_args()
    effort = EFFORTS[options.effort]
    effort = replace(effort, rounds=options.rounds or effort.rounds, memory=effort.memory or options.memory)
    names = chosen(options.scenarios, KNOWN, "scenario") if options.scenarios else effort.scenarios
    clients = list(CLIENTS)
    if options.clients:
        these = chosen(options.clients, [c.name for c in CLIENTS], "client")
        clients = [c for c in CLIENTS if c.name in these]
    return Wanted(effort, names, clients, options.readme)


def save(found: dict[str, object], text: str, runs: Sequence[dict[str, object]]) -> None:
    TOOLS.mkdir(exist_ok=True)
    (TOOLS / "last.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (TOOLS / "last.md").write_text(text + "\n")
    (TOOLS / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))


def main() -> int:
    asked = wanted()
    found: dict[str, object] = {
        "stamp": machine.stamp(),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "rounds": asked.effort.rounds,
    }
    with Harness() as harness:
        tables = run_all(harness, asked.effort, asked.names, asked.clients)
        found["rows"] = [asdict(row) for row in goals.judge_all(harness.results)]
    text = "\n\n".join(["# SMTP clients, in turns", *tables, "# What is asked", goals.headline(found)])
    save(found, text, harness.runs)
    print(text)
    if asked.readme:
        headline.write()
    return 1 if OURS in harness.results.missing else 0


if __name__ == "__main__":
    sys.exit(main())
