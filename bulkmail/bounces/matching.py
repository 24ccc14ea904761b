"""Whose bounce it is: notices against the journal of a job.

Tried in this order; what is told first is the harder to make up:

    envid        the transaction's ENVID came back; it is the Message-ID's local part (manifest key `dsn`)
    message_id   the returned message's Message-ID; a job makes it of its name, the row's number and the address, so
                 it names the row, and what does not fit the row's address is refused
    verp         the notice came to an address that `envelope_from` makes for one recipient
    address      the recipient's address is on the list and was sent to

Nothing is indexed beforehand: what is asked for is looked up, many notices at a time, in one pass over the journal's
packed row numbers, and one over the recipients' file where a notice has neither of the first two.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bulkmail.address import ascii_domain
from bulkmail.bounces.notice import Notice
from bulkmail.errors import BulkmailError
from bulkmail.job.blobs import unsqueeze
from bulkmail.job.journal_file import damage, is_live, reading
from bulkmail.job.ledger import MOVED, NONE, RESENT, STATE_NAMES, unpack
from bulkmail.job.recipients import Source, open_pinned
from bulkmail.job.report import message_ids_of, pin_of
from bulkmail.job.seeds import Seeds
from bulkmail.message.compiled import id_parts

HOW = ("envid", "message_id", "verp", "address")

CHUNKS_AT_ONCE = 100
SAME_ADDRESS = 5  # rows with one address that are looked at, where a list was not deduplicated
MAX_DIGITS = 13  # of a number of 64 bits in base 36
_SIMPLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_PRVS = re.compile(r"^prvs=[0-9a-z]+=", re.IGNORECASE)  # BATV
_SRS = re.compile(r"^srs0[=+-][^=]+=[^=]+=([^=]+)=(.+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Match:
    """A recipient of a job. state: as the journal has it; chunk, position: where; attempt: how many were made."""

    journal: str
    job: str
    number: int
    recipient: str
    state: str
    how: str
    chunk: int
    position: int
    attempt: int


class _Place(NamedTuple):
    chunk: int
    position: int
    offset: int
    state: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Verp:
    """A template of the envelope's sender, and the values that the manifest gives."""

    template: str
    values: Mapping[str, Any]


Wanted = Mapping[int, Notice]  # by the caller's index


class JobRecord:
    """The journal of a job, to match notices against. Nothing is kept open.

    verp    None: what the journal remembers of its manifest
    raises  JournalError  no journal, damaged, or the recipients' file is gone or was changed
    """

    def __init__(self, path: Path, verp: Verp | None = None) -> None:
        self.path = path
        with reading(path) as db, damage(path):
            self.job, meta = db.execute("SELECT job, meta FROM job").fetchone()
            self._message_id = message_ids_of(db)
        settings = orjson.loads(meta)
        self._shared = settings.get("message_id_shared") == "1"
        self._seeds = Seeds(settings.get("seeds", ""))
        if verp is None and settings.get("envelope_from"):
            verp = Verp(settings["envelope_from"], orjson.loads(settings.get("envelope_values", "{}")))
        self.verp = verp
        self._head = id_parts(self.job, "")[1].decode()

    # ---- by what the message brought back ----------------------------------------------------------------------------

    def by_ids(self, wanted: Wanted) -> dict[int, Match]:
        """Those whose ENVID or Message-ID names a row of this job, and fits it."""
        if self._message_id is None:
            return {}
        ids = {index: found for index, notice in wanted.items() if (found := self._ids(notice))}
        if self._shared:  # an id names the job, and the address the recipient
            named = self._by_source({index: wanted[index] for index in ids}, verp=False)
            return {index: fits for index, match in named.items() if (fits := self._fitting(match, ids[index]))}
        claims: dict[int, list[int]] = {}
        for index, found in ids.items():
            for _, text in found:
                claims.setdefault(_number_of(text), []).append(index)
        matches: dict[int, Match] = {}
        for number, place, address in self._rows(set(claims)) if claims else ():
            match = self._match(number, place, address, "")
            for index in claims[number]:
                if index not in matches and (fits := self._fitting(match, ids[index])):
                    matches[index] = fits
        return matches

    def _ids(self, notice: Notice) -> list[tuple[str, str]]:
        """(how, what came back) of what has the form of this job's Message-IDs, or of their local parts."""
        named = [("envid", notice.envid)] if notice.envid else []
        named += [("message_id", text) for text in notice.message_ids]
        return [(how, text) for how, text in named if self._is_ours(_local(text))]

    def _is_ours(self, local: str) -> bool:
        digits = local.rpartition(".")[2]
        return (
            f"<{local}".startswith(self._head)
            and 0 < len(digits) <= MAX_DIGITS
            and digits.isascii()
            and digits.isalnum()
        )

    def _fitting(self, match: Match, ids: list[tuple[str, str]]) -> Match | None:
        """The match, if one of these is what its row and address make."""
        assert self._message_id is not None
        whole = self._message_id(match.number, match.recipient) or ""
        how = next((how for how, text in ids if text == (_local(whole) if how == "envid" else whole)), None)
        return replace(match, how=how) if how else None

    # ---- by addresses ------------------------------------------------------------------------------------------------

    def by_addresses(self, wanted: Wanted) -> dict[int, Match]:
        """Those whose notice came to an address of this job's making, or tells of an address on its list."""
        return self._by_source(wanted, verp=True)

    def _by_source(self, wanted: Wanted, *, verp: bool) -> dict[int, Match]:
        if not wanted:
            return {}
        senders: dict[str, list[int]] = {}
        addresses: dict[str, list[int]] = {}
        for index, notice in wanted.items():
            for address in notice.recipients:
                for form in variants(address):
                    addresses.setdefault(form, []).append(index)
            for address in notice.sent_to if verp else ():
                senders.setdefault(unwrapped(address).lower(), []).append(index)
        claims = self._scan(senders, addresses)
        found: dict[int, Match] = {}
        for number, place, address in self._rows(set(claims)):
            if place.state in ("pending", "suppressed"):
                continue  # nothing was sent there
            for index, how in claims[number]:
                if index not in found or HOW.index(how) < HOW.index(found[index].how):
                    found[index] = self._match(number, place, address, how)
        return found

    def _scan(self, senders: Mapping[str, list[int]], addresses: Mapping[str, list[int]]) -> dict[int, Any]:
        """row number -> (index, how)s, of one pass over the recipients' file."""
        claims: dict[int, list[tuple[int, str]]] = {}
        seen: dict[str, int] = {}
        sender_of = _sender_maker(self.verp, senders) if self.verp and senders else None
        with self._source() as source:
            for batch in source.scan():
                for number, row in zip(batch.numbers, batch.rows, strict=True):
                    email = row["email"].lower()
                    if email in addresses and seen.get(email, 0) < SAME_ADDRESS:
                        seen[email] = seen.get(email, 0) + 1
                        claims.setdefault(number, []).extend((index, "address") for index in addresses[email])
                    sender = sender_of(row) if sender_of else None
                    if sender is not None and sender in senders:
                        claims.setdefault(number, []).extend((index, "verp") for index in senders[sender])
        return claims

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _source(self) -> Source:
        with reading(self.path) as db, damage(self.path):
            return open_pinned(pin_of(db))

    def _rows(self, numbers: set[int]) -> list[tuple[int, _Place, str]]:
        """(row number, place, address) of those of these rows that are in the journal."""
        with reading(self.path) as db, damage(self.path):
            places = sorted(_locate(db, self.path, numbers).items(), key=lambda item: item[1].offset)
        if not places:
            return []
        with self._source() as source:
            rows = self._seeds.reader(source).read([place.offset for _, place in places])
        return [(number, place, str(row["email"])) for (number, place), row in zip(places, rows, strict=True)]

    def _match(self, number: int, place: _Place, address: str, how: str) -> Match:
        at = (place.chunk, place.position, place.attempt)
        return Match(str(self.path), self.job, number, address, place.state, how, *at)


def _local(text: str) -> str:
    """Of a Message-ID, or of an ENVID, which is that alone."""
    return text.removeprefix("<").partition("@")[0]


def _number_of(text: str) -> int:
    return int(_local(text).rpartition(".")[2], 36)


def _locate(db: sqlite3.Connection, path: Path, wanted: set[int]) -> dict[int, _Place]:
    """Where these rows stand now: a recipient who moved to a retry chunk is there."""
    run = db.execute("SELECT pid, host, ended FROM run ORDER BY fence DESC LIMIT 1").fetchone()
    live = run is not None and run[2] is None and is_live(path, run[0], run[1])
    found: dict[int, _Place] = {}
    no = 0
    query = (
        "SELECT no, attempt, claimed, outcome, packed FROM chunk JOIN chunk_rows USING (no) "
        f"WHERE no > ? ORDER BY no LIMIT {CHUNKS_AT_ONCE}"
    )
    while rows := db.execute(query, (no,)).fetchall():
        for no, attempt, claimed, outcome, packed in rows:
            numbers, offsets = unpack(unsqueeze(packed))
            for number in wanted.intersection(numbers):
                i = numbers.index(number)
                byte = outcome[i]
                if byte in (MOVED, RESENT):
                    continue
                sent = i < claimed and (byte != NONE or not live)
                state = "in_doubt" if byte == NONE and sent else STATE_NAMES[byte]
                state = "deferred" if state == "pending" and attempt else state
                found[number] = _Place(no, i, offsets[i], state, attempt + sent)
    return found


# ---- addresses -------------------------------------------------------------------------------------------------------


def variants(address: str) -> set[str]:
    """An address in the forms in which a list may have it: lower case, its domain in Unicode and in ASCII."""
    local, _, domain = address.lower().rpartition("@")
    forms = {f"{local}@{domain}"}
    try:
        forms.add(f"{local}@{ascii_domain(domain)}")
        if "xn--" in domain:
            import idna

            forms.add(f"{local}@{idna.decode(domain)}")
    except (ValueError, BulkmailError):  # idna's errors are ValueErrors
        pass
    return forms


def unwrapped(address: str) -> str:
    """An envelope's sender without what forwarders put around it: BATV's prvs=, SRS0."""
    local, at, domain = address.rpartition("@")
    local = _PRVS.sub("", local)
    if found := _SRS.match(local):
        return f"{found[2]}@{found[1]}"
    return f"{local}{at}{domain}"


def _sender_maker(verp: Verp, senders: Iterable[str]) -> Callable[[dict[str, Any]], str | None] | None:
    """A function from a row to its envelope's sender in lower case, or None; None where all rows have the same."""
    render = _renderer(verp)
    if render is None:
        return None
    slot = _only_slot(verp.template)
    if slot is None:
        return render
    name, before, after = slot
    # Most rows are not asked for: looking at the one value that matters spares rendering.
    values = {
        one[len(before) : len(one) - len(after)] for one in senders if one.startswith(before) and one.endswith(after)
    }

    def of(row: dict[str, Any]) -> str | None:
        return render(row) if str(row.get(name, verp.values.get(name))).lower() in values else None

    return of


def _only_slot(template: str) -> tuple[str, str, str] | None:
    """(field, text before, text after) of a template with one plain {{ field }}, in lower case; else None."""
    found = _SIMPLE.findall(template)
    before, after = _SIMPLE.split(template)[::2] if len(found) == 1 else ("{{", "")
    return None if "{" in before + after else (found[0], before.strip().lower(), after.strip().lower())


def _renderer(verp: Verp) -> Callable[[dict[str, Any]], str | None] | None:
    from bulkmail.message import template as templates

    if "{" not in verp.template:
        return None
    label = templates.Source("envelope_from", verp.template)
    loaded = templates.load(templates.make_environment(None, html=False), label, label)
    values = dict(verp.values)

    def render(row: dict[str, Any]) -> str | None:
        try:
            text = templates.Row(values | row).render(loaded, label, None)
        except BulkmailError:  # such a recipient was not sent to
            return None
        return text.strip().lower()

    return render
