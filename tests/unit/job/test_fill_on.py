"""A ledger filled part by part holds what one filled at once does, wherever the run that filled it was stopped."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import JournalError, ManifestError
from bulkmail.job import fill_on
from bulkmail.job.fill import Filling
from bulkmail.job.fill_on import PartFiller
from bulkmail.job.journal import Journal
from bulkmail.job.journal_schema import PLACE
from bulkmail.job.ledger import Fenced, Part, PartChunk
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.packing import pack_rows
from bulkmail.job.recipients import Source, open_source
from bulkmail.job.specs import RecipientsSpec
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec
from bulkmail.pool.domains import DomainMap

COMPILED = compile_message(
    MessageSpec(from_="news@example.com", subject="Hello {{ name }}", text="Dear {{ name }}"), job="job"
)
ROUTES = DomainMap(["a.example", "*.b.example"])
Everybody = dict[int, tuple[int, str, str | None]]  # row number -> offset, state, why


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 10), ("FIRST_ROWS", 20), ("PART_ROWS", 50), ("ROUTE_ROWS", 5)):
        monkeypatch.setattr(fill_on, name, value)


def write_list(folder: Path, count: int) -> Path:
    """Duplicates, bad rows, rows whose recipient fails, suppressed ones, several routes."""
    chance, path = random.Random(count), folder / "list.jsonl"
    with open(path, "w") as file:
        for _ in range(count):
            domain = chance.choice(["a.example", "x.b.example", "c.example", "gone.example"])
            email = f"r{chance.randrange(count)}@{domain}"
            row: dict[str, Any] = {"email": email, "name": chance.choice(["N", "a\nb"])}
            line = json.dumps(row) if chance.random() < 0.9 else chance.choice(["[]", "", '{"email":"a@x.org"}'])
            file.write(line + "\n")
    (folder / "gone.txt").write_text("gone.example\n")
    return path


def spec_of(folder: Path, **more: Any) -> RecipientsSpec:
    return RecipientsSpec(folder / "list.jsonl", bad_rows="skip", suppress=(folder / "gone.txt",), **more)


def filling(source: Source, spec: RecipientsSpec, limit: int | None = None) -> Filling:
    return Filling(source, spec, COMPILED, limit, ROUTES)


def everybody(ledger: MemoryLedger) -> Everybody:
    why = {trouble.number: trouble.reply for trouble in ledger.troubles}
    found: Everybody = {}
    for chunk in ledger.chunks.values():
        for number, offset, byte in zip(chunk.numbers, chunk.offsets, chunk.outcome, strict=True):
            assert number not in found
            found[number] = (offset, chr(byte), why.get(number))
    for trouble in ledger.troubles:
        chunk = ledger.chunks[trouble.chunk]
        assert chunk.numbers[trouble.position] == trouble.number and chr(chunk.outcome[trouble.position]) == "F"
    return found


def at_once(source: Source, spec: RecipientsSpec, limit: int | None = None) -> Everybody:
    ledger = MemoryLedger()
    with ledger.fill() as filler:
        filling(source, spec, limit).run(filler)
    return everybody(ledger)


@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("limit", [None, 137])
@pytest.mark.parametrize("where", [None, "name == 'N'"])
def test_however_often_it_is_stopped_everybody_is_in_once(
    tmp_path: Path, deduplicate: bool, limit: int | None, where: str | None
) -> None:
    write_list(tmp_path, 500)
    seeds: tuple[dict[str, Any], ...] = ({"email": "seed@x.org", "name": "S"},)
    spec = spec_of(tmp_path, deduplicate=deduplicate, where=where, always_include=seeds)
    chance = random.Random(7)
    with open_source(spec, spool_dir=tmp_path, stem="j") as source:
        wanted = at_once(source, spec, limit)
        assert len({state for _, state, _ in wanted.values()}) == 3
        for each_part, each_step in ((0.0, 0.0), (1.0, 0.0), (0.3, 0.02)):
            ledger = MemoryLedger()
            parts = PartFiller(filling(source, spec, limit), None, 2)
            while not ledger.filled:
                part = parts.step()
                killed_before = chance.random() < each_step
                if part is not None and not killed_before:
                    ledger.add_part(part)
                if killed_before or (part is not None and chance.random() < each_part):
                    given = limit if ledger.place is None else None
                    parts = PartFiller(filling(source, spec, given), ledger.place, 2)
            assert everybody(ledger) == wanted
            assert ledger.counts().recipients == len(wanted)


def test_parts_are_small_at_first_and_chunks_are_whole_later(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text("".join(f'{{"email":"r{i}@x.org","name":"N"}}\n' for i in range(300)))
    spec = RecipientsSpec(tmp_path / "list.jsonl", bad_rows="skip")
    with open_source(spec, spool_dir=tmp_path, stem="j") as source:
        parts = PartFiller(Filling(source, spec, COMPILED, None), None, 0)
        sizes = []
        while not parts.ended:
            part = parts.step()
            if part is not None:
                sizes.append(sum(chunk.n for chunk in part.chunks))
        assert sizes == [20, 50, 50, 50, 50, 50, 30]
        assert part is not None and part.place is None and part.digest == source.digest


def test_a_list_without_recipients_is_refused_by_the_first_part(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text("\n\n")
    spec = RecipientsSpec(tmp_path / "list.jsonl", bad_rows="skip")
    with (
        open_source(spec, spool_dir=tmp_path, stem="j") as source,
        pytest.raises(ManifestError, match="no recipients"),
    ):
        PartFiller(Filling(source, spec, COMPILED, None), None, 0).first()


def test_a_place_that_is_between_no_two_rows_is_another_list(tmp_path: Path) -> None:
    write_list(tmp_path, 100)
    spec = spec_of(tmp_path, deduplicate=True)
    with open_source(spec, spool_dir=tmp_path, stem="j") as source:
        parts = PartFiller(filling(source, spec), None, 2)
        place = json.loads(parts.first().place or "")
        parts = PartFiller(filling(source, spec), json.dumps(place | {"offset": place["offset"] + 1}), 2)
        with pytest.raises(JournalError, match="not the file that the job began with"):
            while not parts.ended:
                parts.step()


def test_rows_of_every_format_go_on_where_they_were(tmp_path: Path) -> None:
    for name, head, line in (
        ("r.csv", "email,name\n", 'r%d@x.org,"two\nlines"\n'),
        ("r.txt", "", "r%d@x.org\n"),
        ("r.jsonl", "\ufeff", '{"email":"r%d@x.org"}\n'),
    ):
        (tmp_path / name).write_text(head + "".join(line % i for i in range(95)))
        with Source(tmp_path / name) as source:
            whole = list(source.scan(10))
            for i, batch in enumerate(whole[:-1]):
                rest = list(source.scan(10, start=batch.end))
                assert [(b.numbers, b.offsets, b.rows, b.end) for b in rest] == [
                    (b.numbers, b.offsets, b.rows, b.end) for b in whole[i + 1 :]
                ]


# ---- in the journal --------------------------------------------------------------------------------------------------

PIN_PART = Part([PartChunk("*", pack_rows([1, 2], [0, 9]), 2)], place="here")


def journal(path: Path) -> Journal:
    with Source(write_list(path.parent, 3)) as source:
        return Journal.create(path, job="j", manifest_digest="m", pin=source.known_pin)


def test_a_journal_keeps_the_parts_and_the_place_together(tmp_path: Path) -> None:
    path = tmp_path / "j.journal"
    held = journal(path)
    assert held.lease(1, 0.0) == []
    held.add_part(PIN_PART)
    assert (held.filled, held.counts().pending) == (False, 2)
    [chunk] = held.lease(5, 0.0)
    assert (chunk.no, chunk.route, list(chunk.numbers), bytes(chunk.outcome)) == (1, "*", [1, 2], b"..")
    held.close()
    held = Journal.open(path)
    assert held.meta[PLACE] == "here" and not held.filled
    held.recover("skip")
    decided = PartChunk("*", pack_rows([3], [20]), 1, ord("S"), "suppressed: duplicate")
    other = PartChunk("x.org", pack_rows([4], [30]), 1)
    held.add_part(Part([decided, other], digest="abc"))
    assert held.filled
    assert Counter(held.routes()) == Counter({"*": 1, "x.org": 1})
    assert (held.counts().pending, held.counts().suppressed) == (3, 1)
    with pytest.raises(JournalError, match="in the journal already"):
        held.add_part(PIN_PART)
    held.close()
    held = Journal.open(path)
    assert held.filled and PLACE not in held.meta
    held.close()


def test_a_run_that_was_overtaken_adds_nothing(tmp_path: Path) -> None:
    held = journal(tmp_path / "j.journal")
    held._db.execute("INSERT INTO run (fence, pid, host, started, seen_at, state) VALUES (9, 1, '', 0, 0, 'running')")
    with pytest.raises(Fenced):
        held.add_part(PIN_PART)
    assert held._db.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
    held.close()
