"""What a journal tells its users: `status`, and `report` with every recipient's outcome.

Readers need no lock and keep nothing open for long: the journal is read chunk by chunk, also while a run writes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from bulkmail.job import report_formats
from bulkmail.job.blobs import unpack_details, unsqueeze
from bulkmail.job.detail import Detail, decode
from bulkmail.job.journal_file import damage, is_live, reading
from bulkmail.job.journal_read import read_counts, read_relays, read_seconds, standing_still
from bulkmail.job.ledger import DEFERRED, MOVED, NONE, RESENT, STATE_NAMES, STATES, unpack

if TYPE_CHECKING:
    from bulkmail.job.variants import RememberedVariants

Read = Callable[[Sequence[int]], list[dict[str, Any]]]
MessageId = Callable[[int, str], str | None]

FORMATS = report_formats.FORMATS
COLUMNS = (
    "recipient",
    "state",
    "class",
    "code",
    "enhanced",
    "reply",
    "attempts",
    "relay",
    "egress",
    "message_id",
    "first_attempt",
    "last_attempt",
)
VARIANT = "variant"  # one column more where the message has variants

# A commit's details are shared by the chunks that were in hand then, mostly neighbours in the report; 10 KB each.
BLOBS_KEPT = 64


# What may stand for a state in a chunk: a look at the bytes spares reading its rows.
OUTCOMES_OF = {name: bytes([byte]) for byte, name in STATE_NAMES.items()} | {"deferred": bytes([DEFERRED, NONE])}


# ---- status ----------------------------------------------------------------------------------------------------------


def status(path: str | os.PathLike[str], *, now: float | None = None) -> dict[str, Any]:
    """The summary of a journal, running or not: the object that `status --json` prints. Raises JournalError."""
    path = Path(path)
    with reading(path) as db, damage(path):
        live = _is_live(db, path)
        job, state = db.execute("SELECT job, state FROM job").fetchone()
        if state == "running" and not live:
            state = "stopped"
        counts = read_counts(db, live)
        relays = read_relays(db, live)
        seconds = read_seconds(db, (time.time() if now is None else now) if live else None)
        still = standing_still(db) if live and state == "running" else {}
    return {
        "job": job,
        "state": state,
        **still,
        **counts.as_dict(),
        "seconds": round(seconds, 3),
        "messages_per_second": round(counts.delivered / seconds, 1) if seconds > 0 else 0.0,
        "relays": relays,
        "journal": str(path),
    }


def _is_live(db: Connection, path: Path) -> bool:
    run = db.execute("SELECT pid, host, ended FROM run ORDER BY fence DESC LIMIT 1").fetchone()
    return run is not None and run[2] is None and is_live(path, run[0], run[1])


# ---- report ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """One attempt at one recipient, from a detail or from a row of trouble."""

    outcome: int
    attempt: int
    time: float
    recipient: str | None = None
    class_: str | None = None
    code: int | None = None
    enhanced: str | None = None
    reply: str | None = None
    relay: int = 0
    egress: int = 0


@dataclass(slots=True)
class _Row:
    """One recipient of a chunk, as the report gathers it. attempts: how many were made."""

    number: int
    offset: int
    state: str
    outcome: int
    attempts: int
    history: list[_Attempt] = field(default_factory=list)


def iter_report(
    path: str | os.PathLike[str],
    state: str | None = None,
    *,
    read: Read | None = None,
    message_id: MessageId | None = None,
) -> Iterator[dict[str, Any]]:
    """Every recipient once, chunk by chunk, with the keys of `columns_of`; memory for one chunk.

    While a run writes, each chunk is read at another moment: who moves to a retry chunk meanwhile can stand twice.

    state       only those in one of ledger.STATES
    read        rows of the source by offset; opened by what the journal is pinned to if not given
    message_id  (row number, address) -> Message-ID; made from the journal's settings if not given
    raises      JournalError, also where the source is gone or was changed
    """
    path = Path(path)
    if state is not None and state not in STATES:
        raise ValueError(f"state is {state!r}, expected one of {', '.join(STATES)}")
    with reading(path) as db, damage(path):
        reporter = _Reporter(db, path, read, message_id)
        try:
            no = 0
            while row := db.execute("SELECT no FROM chunk WHERE no > ? ORDER BY no LIMIT 1", (no,)).fetchone():
                (no,) = row
                yield from reporter.chunk(no, state)
        finally:
            reporter.close()


def columns_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The columns of a journal's report: COLUMNS, and VARIANT where the job has variants. raises  JournalError"""
    path = Path(path)
    with reading(path) as db, damage(path):
        return (*COLUMNS, VARIANT) if "variants" in _settings(db) else COLUMNS


class _Reporter:
    def __init__(self, db: Connection, path: Path, read: Read | None, message_id: MessageId | None) -> None:
        self._db = db
        self.live = _is_live(db, path)
        self._names: dict[int, str] = dict(db.execute("SELECT id, name FROM name"))
        self._source: Any = None
        self._rows: Any = None
        self.read = read or self._read_source
        settings = _settings(db)
        self._seeds = settings.get("seeds", "")
        self.variants = _variants(db, settings)
        self._message_id = message_id or _message_ids(db, settings, self.variants)
        self._blob = lru_cache(BLOBS_KEPT)(self._read_blob)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    def chunk(self, no: int, state: str | None) -> Iterator[dict[str, Any]]:
        attempt, claimed, note, outcome, packed = self._db.execute(
            "SELECT attempt, claimed, note, outcome, packed FROM chunk JOIN chunk_rows USING (no) WHERE no = ?", (no,)
        ).fetchone()
        if not self.live:  # as recover() will settle it
            outcome = outcome[:claimed].replace(b".", b"?") + outcome[claimed:]
        if state is not None and not any(byte in outcome for byte in OUTCOMES_OF[state]):
            return
        places = [i for i, byte in enumerate(outcome) if byte not in (MOVED, RESENT)]
        named = [(i, _state(outcome[i], attempt)) for i in places]
        if state is not None:
            named = [(i, name) for i, name in named if name == state]
        if not named:
            return
        numbers, offsets = unpack(unsqueeze(packed))
        rows = {
            i: _Row(numbers[i], offsets[i], name, outcome[i], attempt + (outcome[i] != NONE and i < claimed))
            for i, name in named
        }
        self._add_troubles(rows, attempt)
        self._add_details(no, rows)
        self._add_note(rows, note)
        addresses = self._addresses(rows)
        for i, row in rows.items():
            yield self._line(row, addresses[i])

    # ---- what is known of each recipient -----------------------------------------------------------------------------

    def _add_troubles(self, rows: Mapping[int, _Row], attempt: int) -> None:
        """History by row number: it may stand under chunks that the recipient was in before."""
        wanted = {row.number: row for row in rows.values() if attempt or row.state not in ("delivered", "pending")}
        found = self._db.execute(
            "SELECT number, outcome, attempt, time, recipient, class, code, enhanced, reply, relay, egress "
            "FROM trouble WHERE number IN (SELECT value FROM json_each(?)) ORDER BY id",
            (orjson.dumps(list(wanted)).decode(),),
        ).fetchall()
        for number, *columns in found:
            wanted[number].history.append(_Attempt(*columns))

    def _add_details(self, no: int, rows: Mapping[int, _Row]) -> None:
        ids = self._db.execute("SELECT detail FROM detail_chunk WHERE chunk = ? ORDER BY detail", (no,)).fetchall()
        for (blob,) in ids:
            for section in self._blob(blob).get(no, ()):
                for detail in decode(section):
                    if detail.position in rows:
                        rows[detail.position].history.append(_from_detail(detail))

    def _read_blob(self, no: int) -> dict[int, list[bytes]]:
        return unpack_details(self._db.execute("SELECT blob FROM detail WHERE id = ?", (no,)).fetchone()[0])

    def _add_note(self, rows: Mapping[int, _Row], note: str | None) -> None:
        for row in rows.values() if note else ():
            if not row.history:
                row.history.append(_Attempt(row.outcome, row.attempts, 0.0, class_=note))

    def _addresses(self, rows: Mapping[int, _Row]) -> dict[int, str | None]:
        """From the trouble rows where there is one (a bad row cannot be read again), else from the source."""
        found = {i: row.history[-1].recipient if row.history else None for i, row in rows.items()}
        missing = [i for i, address in found.items() if address is None]
        if missing:
            for i, fields in zip(missing, self.read([rows[i].offset for i in missing]), strict=True):
                found[i] = str(fields.get("email"))
        return found

    def _read_source(self, offsets: Sequence[int]) -> list[dict[str, Any]]:
        if self._source is None:
            from bulkmail.job.recipients import open_pinned
            from bulkmail.job.seeds import Seeds

            self._source = open_pinned(pin_of(self._db))
            self._rows = Seeds(self._seeds).reader(self._source)
        return self._rows.read(offsets)  # type: ignore[no-any-return]

    # ---- one line ----------------------------------------------------------------------------------------------------

    def _line(self, row: _Row, address: str | None) -> dict[str, Any]:
        last = next((one for one in reversed(row.history) if one.outcome == row.outcome), None)
        attempts = last.attempt if last else row.attempts
        if last is None and row.outcome == NONE and row.history:
            last = row.history[-1]  # it waits; what it waits for is the last refusal
        times = sorted(one.time for one in row.history if one.attempt and one.time)
        first = _iso(times[0]) if times else None
        message_id = self._message_id(row.number, address) if self._message_id and attempts and address else None
        line = {
            "recipient": address or None,
            "state": row.state,
            "class": last.class_ if last else None,
            "code": last.code if last else None,
            "enhanced": last.enhanced if last else None,
            "reply": last.reply if last else None,
            "attempts": attempts,
            "relay": self._names.get(last.relay) if last else None,
            "egress": self._names.get(last.egress) if last else None,
            "message_id": message_id,
            "first_attempt": first,
            "last_attempt": _iso(times[-1]) if len(times) > 1 else first,
        }
        if self.variants is not None:
            line[VARIANT] = self.variants.of(row.number, address) if address and row.state != "suppressed" else None
        return line


def _state(outcome: int, attempt: int) -> str:
    """The word for an outcome, by the rules of ledger.Counts.add."""
    return "deferred" if outcome == NONE and attempt else STATE_NAMES[outcome]


def _from_detail(detail: Detail) -> _Attempt:
    enhanced, text = _reply_of(detail.reply)
    return _Attempt(
        detail.outcome,
        detail.attempt,
        detail.started,
        code=detail.code or None,
        enhanced=enhanced,
        reply=text or None,
        relay=detail.relay,
        egress=detail.egress,
    )


@lru_cache(1024)
def _reply_of(raw: bytes) -> tuple[str | None, str]:
    """(enhanced code, text without codes) of a reply as it came: whole or cut short, with its three digits or not."""
    from bulkmail.wire.reply import Reply

    lines = raw.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if lines[0][:3].isdigit() and lines[0][3:4] in ("", " ", "-", "\r"):
        lines = [line[4:] for line in lines]
    reply = Reply(250, [_printable(line.rstrip("\r")) for line in lines])
    return reply.enhanced, reply.text


def _printable(text: str) -> str:
    """A server's words reach terminals and spreadsheets: no control characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- what the journal remembers of its job ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pin:
    path: str
    format: str
    size: int
    mtime_ns: int
    digest: str | None


def pin_of(db: Connection) -> _Pin:
    """What the recipients' file of this journal is held to."""
    return _Pin(*db.execute("SELECT src_path, src_format, src_size, src_mtime_ns, src_digest FROM job").fetchone())


def _settings(db: Connection) -> dict[str, str]:
    """What the run that began the journal had to tell its readers."""
    return orjson.loads(db.execute("SELECT meta FROM job").fetchone()[0])  # type: ignore[no-any-return]


def _variants(db: Connection, settings: Mapping[str, str]) -> RememberedVariants | None:
    if "variants" not in settings:
        return None
    from bulkmail.job.variants import RememberedVariants

    (job,) = db.execute("SELECT job FROM job").fetchone()
    return RememberedVariants(job, orjson.loads(settings["variants"]), settings["message_id_shared"] == "1")


def message_ids_of(db: Connection) -> MessageId | None:
    """(row number, address) -> Message-ID of the job's messages; None where they brought their own."""
    settings = _settings(db)
    return _message_ids(db, settings, _variants(db, settings))


def _message_ids(db: Connection, settings: Mapping[str, str], variants: RememberedVariants | None) -> MessageId | None:
    """The function that made the messages' ids, if the journal's settings name the domain.

    message_id_shared: "1" where one message went to everybody, so that it has one id.
    """
    if variants is not None:
        return variants.message_id
    (job,) = db.execute("SELECT job FROM job").fetchone()
    domain = settings.get("message_id_domain")
    if domain is None:
        return None
    from bulkmail.message.compiled import make_message_id

    if settings.get("message_id_shared") == "1":
        shared = make_message_id(job, 0, "", domain)
        return lambda number, address: shared
    return lambda number, address: make_message_id(job, number, address, domain)


# ---- formats ---------------------------------------------------------------------------------------------------------


def write_report(
    path: str | os.PathLike[str],
    format: str,
    out: TextIO,
    state: str | None = None,
    *,
    read: Read | None = None,
    message_id: MessageId | None = None,
) -> int:
    """Write the report to a text stream as jsonl, csv or html; how many recipients are listed. See iter_report."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if format == "html":
        return _write_page(path, out, state, read, message_id)
    return report_formats.write(
        format, iter_report(path, state, read=read, message_id=message_id), columns_of(path), out
    )


def _write_page(
    path: str | os.PathLike[str], out: TextIO, state: str | None, read: Read | None, message_id: MessageId | None
) -> int:
    from bulkmail.job import report_page
    from bulkmail.job.report_totals import gather

    if state is not None and state not in STATES:
        raise ValueError(f"state is {state!r}, expected one of {', '.join(STATES)}")
    summary = status(path)
    path = Path(path)
    with reading(path) as db, damage(path):
        reporter = _Reporter(db, path, read, message_id)
        try:
            variants = reporter.variants.of if reporter.variants is not None else None
            totals = gather(db, reporter.live, reporter.read, variants)
        finally:
            reporter.close()
        runs = report_page.read_runs(db)
    wanted = [state] if state else _states_listed(summary)
    lists = [
        report_page.listed(
            iter_report(path, one, read=read, message_id=message_id),
            "Recipients" if one is None else f"Recipients: {report_page.words(one)}",
            one,
            summary["recipients" if one is None else one],
        )
        for one in wanted
    ]
    out.write(report_page.render(summary, totals, runs, lists))
    return sum(len(one["rows"]) for one in lists)


def _states_listed(summary: Mapping[str, Any]) -> list[str | None]:
    """Everybody, of a small job; of a large one whom somebody has to look after."""
    from bulkmail.job.report_page import LISTED

    if summary["recipients"] <= LISTED:
        return [None]
    return [name for name in ("in_doubt", "failed") if summary[name]]
