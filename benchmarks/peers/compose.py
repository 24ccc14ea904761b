#!/usr/bin/env python3
"""Composing alone: microseconds a recipient until a personalised message is ready for the wire, beside other composers.

    compose.py [--rounds 3]

A newsletter of text and html with ten values in them, at 2 KB and 20 KB. Everybody has parsed the template and the
recipients before the clock starts. Each is a process of its own, on one core; they take turns. First each composes a
few messages, whose headers, text and html must be the same when Python's `email` has decoded them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from statistics import median
from typing import Any

from clients import TOOLS
from messages import SENDER, html, paragraphs
from tables import row, verdict

SIZES = {"2 KB": 2048, "20 KB": 20480}
SLOTS = (3, 7)  # in the text, in the html
ROWS = 5000
BATCH = 100  # what a job composes at once
CHECKED = 5
MOST_US = {"2 KB": 4.0, "20 KB": 10.0}
LEAST_TIMES = 20.0
OURS, EMAIL, NODEMAILER = "bulkmail", "Jinja2 and email", "Nodemailer's MailComposer"
# Recipients in one run: about a second of each.
COUNTS = {OURS: {"2 KB": 500_000, "20 KB": 100_000}, EMAIL: {"2 KB": 600, "20 KB": 250}}
COUNTS[NODEMAILER] = {"2 KB": 6000, "20 KB": 3000}
DATE = "Fri, 21 Nov 2025 09:00:00 +0000"
SUBJECT = "Notes for {{ name }}"
FROM = f"Example News <{SENDER}>"
NAMES = ("Reader", "Conor O'Neill", "Zoë", "Fish & Chips", "<Ann>")
DEADLINE = 120.0

Make = Callable[[list[dict[str, Any]]], list[bytes]]


# -- what is composed


def sources(filler: int) -> dict[str, str]:
    return {"text": paragraphs(filler // 3, SLOTS[0]), "html": html(filler - filler // 3, SLOTS[1])}


def recipients() -> list[dict[str, Any]]:
    return [
        {"email": f"user{n}@example.test", "name": f"{NAMES[n % len(NAMES)]} {n}", "id": f"r{n:07d}"}
        for n in range(ROWS)
    ]


def write(folder: Path, size: int) -> None:
    """The template whose messages come out at `size` bytes as we compose them."""
    filler, arrived = size - 900, 0
    for _attempt in range(6):
        made = sources(max(filler, 2))
        arrived = len(bulkmail(made)(recipients()[:1])[0])
        if abs(arrived - size) <= size // 200:
            break
        filler += size - arrived
    else:
        raise SystemExit(f"no template of ours comes out at {size} bytes; the last try was {arrived}")
    (folder / "job.json").write_text(json.dumps({**made, "recipients": recipients()}))


# -- the composers that are Python


def bulkmail(made: dict[str, str]) -> Make:
    from bulkmail.job.settle import keep_freed_memory
    from bulkmail.message.compile import compile_message
    from bulkmail.message.spec import MessageSpec

    keep_freed_memory()  # as a job does
    spec = MessageSpec(from_=FROM, to="{{ name }} <{{ email }}>", subject=SUBJECT, text=made["text"], html=made["html"])
    compiled = compile_message(spec, job="bench")
    numbers = list(range(BATCH))

    def make(rows: list[dict[str, Any]]) -> list[bytes]:
        return [item[2] for item in compiled.compose(rows, numbers[: len(rows)], DATE.encode())]

    return make


def jinja_and_email(made: dict[str, str]) -> Make:
    from email.headerregistry import Address
    from email.message import EmailMessage

    from jinja2 import Environment, StrictUndefined

    plain = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    escaping = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=True)
    subject, text = plain.from_string(SUBJECT), plain.from_string(made["text"])
    markup = escaping.from_string(made["html"])
    dots = re.compile(rb"^\.", re.M)

    def one(row: dict[str, Any]) -> bytes:
        message = EmailMessage(policy.SMTP)
        message["From"] = FROM
        message["To"] = Address(row["name"], addr_spec=row["email"])
        message["Subject"] = subject.render(row)
        message["Date"] = DATE
        message["Message-ID"] = f"<{row['id']}@example.test>"
        message.set_content(text.render(row))
        message.add_alternative(markup.render(row), subtype="html")
        return dots.sub(b"..", message.as_bytes()) + b".\r\n"

    return lambda rows: [one(row) for row in rows]


PYTHON = {OURS: bulkmail, EMAIL: jinja_and_email}


def batches(rows: list[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, count, BATCH):
        at = start % len(rows)
        yield rows[at : at + min(BATCH, count - start)]


def compose(name: str, folder: Path, count: int, keep: Path | None) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows = job.pop("recipients")
    make = PYTHON[name](job)
    for number, made in enumerate(make(rows[:CHECKED])):
        if keep:
            (keep / f"{number}.eml").write_bytes(re.sub(rb"^\.\.?", lambda dot: dot[0][1:], made[:-3], flags=re.M))
    cpu, started, size = time.process_time(), time.perf_counter(), 0
    for batch in batches(rows, count):
        size += sum(map(len, make(batch)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "bytes": size}))


# -- the comparison


def command(name: str, folder: Path, count: int, keep: Path | None = None) -> list[str]:
    flags = ["--folder", str(folder), "--count", str(count), *(["--keep", str(keep)] if keep else [])]
    if name in PYTHON:
        return [sys.executable, __file__, "--manner", name, *flags]
    script = Path(__file__).with_name("nodemailer_compose.js")
    return ["env", f"NODE_PATH={TOOLS / 'node' / 'node_modules'}", "node", str(script), *flags]


def once(name: str, folder: Path, count: int, keep: Path | None = None) -> dict[str, float]:
    done = subprocess.run(command(name, folder, count, keep), capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-1000:]}")
    run = json.loads(done.stdout)
    return {"us": run["seconds"] / count * 1e6, "cpu": run["cpu"] / count * 1e6, "bytes": run["bytes"] / count}


def content(path: Path) -> dict[str, str]:
    """What a message says once decoded."""
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    said = {name: str(message[name]) for name in ("From", "To", "Subject")}
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        assert part is not None, f"{path}: no {kind}"
        said[kind] = part.get_content().replace("\r\n", "\n").rstrip("\n")
    return said


def check(names: list[str], folder: Path) -> None:
    """Ends the run if two of them do not compose the same."""
    for name in names:
        kept = folder / name
        kept.mkdir()
        once(name, folder, CHECKED, kept)
        for number in range(CHECKED):
            said, expected = content(kept / f"{number}.eml"), content(folder / OURS / f"{number}.eml")
            if said != expected or f"r{number:07d}" not in said["html"]:
                wrong = [key for key in said if said[key] != expected[key]]
                raise SystemExit(f"{name}: recipient {number} gets another {', '.join(wrong)} than from {OURS}")


def composers() -> list[str]:
    return [OURS, EMAIL, *([NODEMAILER] if (TOOLS / "node" / "node_modules" / "nodemailer").exists() else [])]


def compare(rounds: int) -> str:
    head = ("composer", "µs a recipient", "CPU µs", "÷ bulkmail", "by round", "bytes")
    lines = []
    for title, size in SIZES.items():
        runs = play(title, size, rounds)
        ours = [run["us"] for run in runs[OURS]]
        lines += [f"## Composing {title}, text and html, {sum(SLOTS)} values", "", row(head)]
        lines.append(row(["---", *["---:"] * (len(head) - 1)]))
        for name, its in runs.items():
            times = [run["us"] / mine for run, mine in zip(its, ours, strict=True)]
            cells = [name, f"{median(run['us'] for run in its):,.2f}", f"{median(run['cpu'] for run in its):,.2f}"]
            cells += [f"{median(times):,.1f}", ", ".join(f"{ratio:,.1f}" for ratio in times), f"{its[0]['bytes']:,.0f}"]
            lines.append(row(cells))
        lines += ["", *goals(title, runs), ""]
    return "\n".join(lines).rstrip()


def goals(title: str, runs: dict[str, list[dict[str, float]]]) -> list[str]:
    mine = median(run["us"] for run in runs[OURS])
    times = median(run["us"] for run in runs[EMAIL]) / mine
    most, least = MOST_US[title], LEAST_TIMES
    return [
        f"- {OURS}: {mine:.2f} µs, asked at most {most:g}: {verdict(mine <= most)}",
        f"- {EMAIL} ÷ {OURS}: {times:,.0f}, asked at least {least:g}: {verdict(times >= least)}",
    ]


def play(title: str, size: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    names = composers()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as temporary:
        folder = Path(temporary)
        write(folder, size)
        check(names, folder)
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                runs[name].append(once(name, folder, COUNTS[name][title]))
                print(
                    f"compose   {number + 1}/{rounds} {title} {name:26} {runs[name][-1]}", file=sys.stderr, flush=True
                )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    # what it runs itself with
    parser.add_argument("--manner", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.manner:
        compose(arguments.manner, arguments.folder, arguments.count, arguments.keep)
    else:
        print(compare(arguments.rounds))


if __name__ == "__main__":
    main()
