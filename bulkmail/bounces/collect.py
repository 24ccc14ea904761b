"""From mailboxes to a result: read, match, judge, and what follows from it (suppression, recipients in doubt)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bulkmail.address import check_address
from bulkmail.bounces.mailboxes import Raw, messages
from bulkmail.bounces.matching import JobRecord, Match
from bulkmail.bounces.meaning import HARD, as_reply, judge
from bulkmail.bounces.notice import Notice, read_notices
from bulkmail.errors import JournalError
from bulkmail.job.ledger import DELIVERED, FAILED, Trouble
from bulkmail.job.specs import RETRY_DELAYS

# Notices that are matched together: some 2 KB each, and a pass over each journal.
AT_ONCE = 10_000

KINDS = ("bounce", "delayed", "delivered", "complaint", "auto_reply", "other", "unreadable")

Item = dict[str, Any]


@dataclass(slots=True)
class Summary:
    """messages: read; kinds: notices by KINDS; classes: bounces by class; matched: by how.

    suppressed  addresses that were added to the suppression file; settled: recipients who were in doubt
    """

    messages: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    matched: Counter[str] = field(default_factory=Counter)
    suppressed: int = 0
    settled: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "bounces": self.kinds["bounce"],
            "hard": self.classes["hard"],
            "soft": self.classes["soft"],
            "blocked": self.classes["blocked"],
            "delayed": self.kinds["delayed"],
            "delivered": self.kinds["delivered"],
            "complaints": self.kinds["complaint"],
            "auto_replies": self.kinds["auto_reply"],
            "other": self.kinds["other"],
            "unreadable": self.kinds["unreadable"],
            "matched": sum(self.matched.values()),
            "matched_by": dict(self.matched),
            "suppressed": self.suppressed,
            "settled": self.settled,
        }


@dataclass(slots=True)
class _Read:
    name: str
    notice: Notice | None
    problem: str | None
    match: Match | None = None


class Collector:
    """Reads notices and gives an item for each; what follows from them waits until all are read.

    journals   in the order in which they are asked; what a notice brought back is asked of all before addresses are
    on_item    is given each item
    """

    def __init__(self, journals: Sequence[JobRecord], on_item: Callable[[Item], None]) -> None:
        self.journals, self._on_item = journals, on_item
        self.summary = Summary()
        self.to_suppress: set[str] = set()
        self.to_settle: dict[str, dict[int, tuple[Match, Notice]]] = {}

    def read(self, paths: Iterable[str]) -> None:
        """raises  ConfigError  a path that is not there; JournalError"""
        every = self._notices(messages(paths))
        while batch := list(islice(every, AT_ONCE)):
            self._match(batch)
            for one in batch:
                self._take(one)

    def _notices(self, raws: Iterator[Raw]) -> Iterator[_Read]:
        for raw in raws:
            self.summary.messages += 1
            if raw.problem is not None:
                yield _Read(raw.name, None, raw.problem)
                continue
            try:
                notices = read_notices(raw.data)
            except Exception as error:  # whatever strangers send: one line of the result, and the next message
                yield _Read(raw.name, None, f"cannot be taken apart: {type(error).__name__}")
                continue
            for notice in notices:
                yield _Read(raw.name, notice, None)

    def _match(self, batch: list[_Read]) -> None:
        wanted = {i: one.notice for i, one in enumerate(batch) if one.notice and one.notice.kind != "other"}
        for ask in (JobRecord.by_ids, JobRecord.by_addresses):
            for journal in self.journals:
                if not wanted:
                    return
                for i, match in ask(journal, wanted).items():
                    batch[i].match = match
                    del wanted[i]

    def _take(self, one: _Read) -> None:
        notice, match = one.notice, one.match
        kind = notice.kind if notice else "unreadable"
        class_, why = judge(notice) if notice else (None, None)
        self.summary.kinds[kind] += 1
        if kind == "bounce":
            self.summary.classes[class_ or ""] += 1
        if match:
            self.summary.matched[match.how] += 1
        suppress = kind == "complaint" or (kind == "bounce" and class_ == HARD)
        recipient = match.recipient if match else next(iter(notice.recipients), None) if notice else None
        if suppress and recipient and (match or not self.journals) and _is_address(recipient):
            self.to_suppress.add(recipient)
        if notice and match and match.state == "in_doubt" and kind in ("bounce", "delivered", "complaint"):
            self.to_settle.setdefault(match.journal, {})[match.number] = (match, notice)
        self._on_item(_item(one, kind, class_, why, recipient))

    def settle(self) -> int:
        """Let the journals know of those in doubt for whom a notice came. raises  JournalError  one is in use"""
        for path, found in self.to_settle.items():
            self.summary.settled += settle_journal(Path(path), list(found.values()))
        return self.summary.settled


def _is_address(text: str) -> bool:
    """Whatever else a stranger names would make the suppression file one that no job takes."""
    try:
        check_address(text)
    except ValueError:
        return False
    return True


def _item(one: _Read, kind: str, class_: str | None, why: str | None, recipient: str | None) -> Item:
    notice, match = one.notice, one.match
    return {
        "file": one.name,
        "kind": kind,
        "class": class_,
        "reason": why if notice else one.problem,
        "recipient": recipient,
        "action": notice.action if notice else None,
        "code": notice.code if notice else None,
        "status": notice.status if notice else None,
        "reply": notice.reply if notice else None,
        "remote": notice.remote if notice else None,
        "matched_by": match.how if match else None,
        "job": match.job if match else None,
        "journal": match.journal if match else None,
        "number": match.number if match else None,
        "state": match.state if match else None,
        "message_id": next(iter(notice.message_ids), None) if notice else None,
        "envid": notice.envid if notice else None,
    }


def settle_journal(path: Path, found: Sequence[tuple[Match, Notice]]) -> int:
    """Recipients in doubt: a bounce makes them failed, a confirmation or a complaint delivered; how many changed.

    Nobody may be running the job. The journal gets a run of its own, which sends nothing.
    """
    from bulkmail.job.journal import Journal
    from bulkmail.job.report import status

    before = status(path)["state"]
    if before == "running":
        raise JournalError(f"{path}: its job is running; settle those in doubt when it has stopped")
    with Journal.open(path) as journal:
        journal.recover("skip", now=time.time(), delays=RETRY_DELAYS)
        outcomes = [
            (match.chunk, match.position, FAILED if notice.kind == "bounce" else DELIVERED) for match, notice in found
        ]
        changed = journal.late(
            outcomes, [_trouble(match, notice) for match, notice in found if notice.kind == "bounce"]
        )
        journal.finish(before, f"bounces: {changed} recipients in doubt were settled")
    return changed


def _trouble(match: Match, notice: Notice) -> Trouble:
    reply = as_reply(notice)
    return Trouble(
        match.recipient,
        match.number,
        match.chunk,
        match.position,
        match.attempt,
        FAILED,
        judge(notice)[1],
        reply.code,
        notice.status,
        notice.reply,
        time=time.time(),
    )
