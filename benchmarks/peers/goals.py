"""The table of goals: every one of them has a row in it, whether it was reached, missed or not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from clients import (
    AIOSMTPLIB,
    BENCH,
    FLOOR,
    FLOOR_NAPPING,
    FLOOR_SHARED,
    FLOOR_TLS,
    LIBRARY,
    LIBRARY_SHARED,
    LIBRARY_TLS,
    NAP_US,
    NODEMAILER,
    ONE_WORKER,
    OURS,
    OURS_TLS,
    SHARED,
    SMTP_SOURCE,
    TWO_WORKERS,
)
from results import NotMeasuredError, Results, Source, cpu, cpu_us, figure, rate, start_ms
from scenarios import MANY, RECEIVERS, SCALE, SIGN, STARTS
from tables import row

REACHED, MISSED, INFORMATION = "reached", "**missed**", "for comparison"


@dataclass(frozen=True)
class Asked:
    """One row: `what` is its figure, which is only shown where there is neither `least` nor `most`."""

    key: str
    work: str
    what: str
    source: Source
    least: float | None = None
    most: float | None = None
    unit: str = "×"

    @property
    def goal(self) -> str:
        if self.least is None and self.most is None:
            return "–"
        bound = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return f"{bound}{_space(self.unit)}"

    def met(self, value: float) -> bool:
        """Of what is shown: 0.998 is shown as 1.00, and is as much."""
        value = float(number(value).replace(",", ""))
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _space(unit: str) -> str:
    return unit if unit in "×%" else f" {unit}"


SEND_2K = "`bulkmail send`, personalised, journal on, 2 KB, 20 connections"
SEND_20K = SEND_2K.replace("2 KB", "20 KB")
MANY_NAME = "10,000 connections"
ASKED = (
    Asked("send-2k-floor", SEND_2K, "CPU by the C floor's", cpu("2k-c20", OURS, FLOOR), most=1.5),
    Asked("send-2k-smtp-source", SEND_2K, "smtp-source's CPU by ours", cpu("2k-c20", SMTP_SOURCE, OURS), least=2.5),
    Asked("send-2k-aiosmtplib", SEND_2K, "aiosmtplib's CPU by ours", cpu("2k-c20", AIOSMTPLIB, OURS), least=15),
    Asked("send-2k-nodemailer", SEND_2K, "Nodemailer pool's CPU by ours", cpu("2k-c20", NODEMAILER, OURS), least=15),
    Asked("send-20k-floor", SEND_20K, "CPU by the C floor's", cpu("20k-c20", OURS, FLOOR), most=1.3),
    Asked(
        "send-many-2k",
        "`Mailer.send_many` of bytes, 2 KB",
        "CPU by the C floor's",
        cpu("2k-c20", LIBRARY, FLOOR),
        most=1.2,
    ),
    Asked(
        "send-many-20k",
        "`Mailer.send_many` of bytes, 20 KB",
        "CPU by the C floor's",
        cpu("20k-c20", LIBRARY, FLOOR),
        most=1.2,
    ),
    Asked("bench-2k", "`bulkmail bench`, 2 KB", "CPU by the C floor's", cpu("2k-c20", BENCH, FLOOR), most=1.2),
    Asked("send-start", "the start of `bulkmail send`", "CPU", start_ms("2k-c20", OURS), unit="ms"),
    Asked(
        "floor-napping",
        f"the floor with naps of {NAP_US} µs, 2 KB",
        "CPU by the C floor's",
        cpu("2k-c20", FLOOR_NAPPING, FLOOR),
    ),
    Asked(
        "shared-job",
        "shared message, 100 recipients a transaction, `bulkmail send`",
        "CPU of a recipient",
        cpu_us("shared", SHARED),
        most=1,
        unit="µs",
    ),
    Asked(
        "shared-library",
        "shared message, 100 recipients a transaction, `Mailer.send_many`",
        "CPU of a recipient",
        cpu_us("shared", LIBRARY_SHARED),
        most=1,
        unit="µs",
    ),
    Asked(
        "shared-floor",
        "the floor, 100 recipients a transaction",
        "CPU of a recipient",
        cpu_us("shared", FLOOR_SHARED),
        unit="µs",
    ),
    Asked(
        "one-connection",
        "1 connection, loopback, smtp-sink",
        "rate by the C floor's",
        rate("2k-c1", OURS, FLOOR),
        least=1,
    ),
    Asked(
        "one-connection-chunking",
        "1 connection, loopback, a server with CHUNKING",
        "rate by the C floor's",
        rate("chunk-c1", OURS, FLOOR),
        least=1,
    ),
    Asked(
        "far-floor", "50 ms round trip, 20 connections", "rate by the C floor's", rate("2k-rtt50", OURS, FLOOR), least=1
    ),
    Asked(
        "far-nodemailer",
        "50 ms round trip, 20 connections, a server with CHUNKING",
        "rate by Nodemailer pool's",
        rate("chunk-rtt50", OURS, NODEMAILER),
        least=50,
    ),
    Asked(
        "tls-send",
        "TLS 1.3, `bulkmail send`, 2 KB",
        "CPU by the TLS floor's",
        cpu("tls-floor", OURS_TLS, FLOOR_TLS),
        most=1.3,
    ),
    Asked(
        "tls-send-many",
        "TLS 1.3, `Mailer.send_many` of bytes, 2 KB",
        "CPU by the TLS floor's",
        cpu("tls-floor", LIBRARY_TLS, FLOOR_TLS),
        most=1.3,
    ),
    Asked(
        "dkim",
        "DKIM RSA-2048, a personalised job, all cores",
        "rate by `openssl speed`",
        figure("dkim", SIGN),
        least=90,
        unit="%",
    ),
    Asked(
        "workers",
        "2 workers on 2 cores, DKIM and TLS",
        "rate by one worker's on one",
        rate("workers", TWO_WORKERS, ONE_WORKER),
        least=1.8,
    ),
    Asked("many-memory", MANY_NAME, "memory of each", figure("many-memory", MANY), most=40, unit="KB"),
    Asked("many-rate", MANY_NAME, "messages/s by those over 20", figure("many-rate", MANY), least=0.95),
    Asked("scale-time", "10 M recipients", "time of each by that at 1 M", figure("scale-time", SCALE), most=1.05),
    Asked("scale-memory", "10 M recipients", "memory by that at 1 M", figure("scale-memory", SCALE), most=1.05),
    Asked(
        "import", "`import bulkmail`", "time, Python's own start included", figure("import", STARTS), most=40, unit="ms"
    ),
    Asked(
        "help", "`bulkmail --help`", "time, Python's own start included", figure("help", STARTS), most=120, unit="ms"
    ),
    Asked(
        "sink", "`bulkmail sink`, fed by `bulkmail bench`", "rate by smtp-sink's", figure("sink", RECEIVERS), least=1
    ),
)


@dataclass(frozen=True)
class Row:
    """One row as it was measured, or why it was not; numbers, so that another program can judge them again."""

    key: str
    work: str
    what: str
    goal: str
    unit: str = ""
    middle: float | None = None
    low: float = 0.0
    high: float = 0.0
    made_of: str = ""
    result: str = ""


def judge(asked: Asked, results: Results) -> Row:
    said = (asked.key, asked.work, asked.what, asked.goal)
    try:
        figures = asked.source(results)
    except NotMeasuredError as reason:
        return Row(*said, result=f"not measured: {reason}")
    middle = median(figures.values)
    bounded = asked.least is not None or asked.most is not None
    result = (REACHED if asked.met(middle) else MISSED) if bounded else INFORMATION
    return Row(*said, asked.unit, middle, min(figures.values), max(figures.values), figures.made_of, result)


def judge_all(results: Results) -> list[Row]:
    return [judge(asked, results) for asked in ASKED]


# -- as Markdown

COLUMNS = ("work", "figure", "goal", "median", "rounds", "made of", "")


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cells(one: Row) -> list[str]:
    if one.middle is None:
        return [one.work, one.what, one.goal, "", "", "", one.result]
    spread = f"{number(one.low)}..{number(one.high)}" if one.low < one.high else "one"
    return [one.work, one.what, one.goal, f"{number(one.middle)}{_space(one.unit)}", spread, one.made_of, one.result]


def table(rows: Sequence[Row]) -> str:
    """Work that has several rows is named in the first of them."""
    lines, before = [row(COLUMNS), row(["---", "---", *["---:"] * 3, "---", "---"])], ""
    for one in rows:
        shown = cells(one)
        if one.work == before:
            shown[0] = ""
        before = one.work
        lines.append(row(shown))
    return "\n".join(lines)


def _rounds(count: int) -> str:
    return f"{count} round{'s' if count > 1 else ''}"


def summary(rows: Sequence[Row]) -> str:
    reached, missed = (sum(one.result == result for one in rows) for result in (REACHED, MISSED))
    absent = sum(one.middle is None for one in rows)
    return f"{reached} reached, {missed} missed, {absent} not measured."


def headline(found: Mapping[str, Any]) -> str:
    """What was measured where, and the table: of a run as `run.save` writes it."""
    rows = [Row(**one) for one in found["rows"]]
    short = " One short round: it shows that all of it runs, and no more." if found["rounds"] == 1 else ""
    return "\n".join([
        f"Run of {found['stamp']}, {_rounds(found['rounds'])}, on {found['machine']}.{short}",
        f"{found['versions']}.",
        "",
        table(rows),
        "",
        summary(rows),
    ])  # fmt: skip
