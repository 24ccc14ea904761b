"""The one pass before anything is sent: who gets into the ledger, in which state, and what stops it."""

from __future__ import annotations

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.fill import MAX_PROBLEMS, Filling
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.recipients import open_source
from bulkmail.job.specs import RecipientsSpec
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec
from bulkmail.pool.domains import DomainMap

MESSAGE = MessageSpec(from_="news@example.com", subject="Hello {{ name }}", text="Dear {{ name }}")


def row(number, name="N"):
    return f'{{"email":"r{number}@example.com","name":"{name}"}}\n'


def fill(folder, rows, limit=None, **spec):
    path = folder / "list.jsonl"
    path.write_text(rows)
    ledger = MemoryLedger()
    spec = RecipientsSpec(path, **spec)
    with open_source(spec, spool_dir=folder, stem="journal") as source, ledger.fill() as filler:
        Filling(source, spec, compile_message(MESSAGE, job="job"), limit).run(filler)
    return ledger


def shown(ledger):
    """Row number -> state."""
    return {
        number: chr(byte)
        for chunk in ledger.chunks.values()
        for number, byte in zip(chunk.numbers, chunk.outcome, strict=True)
    }


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_rows_are_cut_into_chunks_of_a_thousand(tmp_path, count):
    ledger = fill(tmp_path, "".join(map(row, range(count))))
    assert [chunk.n for chunk in ledger.chunks.values()] == [1000] * (count // 1000) + [count % 1000] * bool(
        count % 1000
    )
    assert list(shown(ledger)) == list(range(1, count + 1))
    assert ledger.counts().pending == count


def test_who_is_decided_stands_apart_from_who_is_sent_to(tmp_path):
    (tmp_path / "gone.txt").write_text("r3@example.com\n")
    rows = row(1) + row(2, "two\\nlines") + row(3) + row(1) + row(4)
    ledger = fill(tmp_path, rows, deduplicate=True, suppress=(tmp_path / "gone.txt",))
    assert shown(ledger) == {1: ".", 2: "F", 3: "S", 4: "S", 5: "."}
    assert all(len(set(chunk.outcome)) == 1 for chunk in ledger.chunks.values())
    (trouble,) = ledger.troubles
    assert (trouble.recipient, trouble.number, trouble.class_, trouble.attempt) == ("r2@example.com", 2, "message", 0)


def test_who_is_suppressed_does_not_also_fail(tmp_path):
    (tmp_path / "gone.txt").write_text("example.com\n")
    ledger = fill(tmp_path, row(1, "two\\nlines"), suppress=(tmp_path / "gone.txt",))
    assert shown(ledger) == {1: "S"}
    assert ledger.troubles == []


def test_skipped_bad_rows_have_failed_in_their_place(tmp_path):
    ledger = fill(tmp_path, row(1) + "oops\n" + row(3) + "{}\n", bad_rows="skip")
    assert shown(ledger) == {1: ".", 3: ".", 2: "F", 4: "F"}
    assert {(t.number, t.class_, t.recipient) for t in ledger.troubles} == {(2, "bad_row", ""), (4, "bad_row", "")}
    assert ledger.counts().recipients == 4


@pytest.mark.parametrize("limit", range(1, 12))
def test_limit_counts_every_row_good_or_bad(tmp_path, limit):
    (tmp_path / "gone.txt").write_text("r2@example.com\n")
    lines = [row(1), row(2), "oops\n", row(4), row(5, "a\\nb"), "{}\n", row(7), row(1), row(9)]
    options = {"bad_rows": "skip", "deduplicate": True, "suppress": (tmp_path / "gone.txt",)}
    whole = shown(fill(tmp_path, "".join(lines), **options))
    assert shown(fill(tmp_path, "".join(lines), limit=limit, **options)) == {
        n: s for n, s in whole.items() if n <= limit
    }


def test_a_bad_row_behind_the_limit_does_not_matter(tmp_path):
    assert shown(fill(tmp_path, row(1) + row(2) + "oops\n", limit=2)) == {1: ".", 2: "."}
    with pytest.raises(ManifestError, match="row 3"):
        fill(tmp_path, row(1) + row(2) + "oops\n", limit=3)


def test_a_bad_row_at_the_end_takes_everything_back(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text("".join(map(row, range(3000))) + "oops\n")
    spec, ledger = RecipientsSpec(path), MemoryLedger()
    compiled = compile_message(MESSAGE, job="job")
    source = open_source(spec, spool_dir=tmp_path, stem="journal")
    with source, pytest.raises(ManifestError, match="row 3001"), ledger.fill() as filler:
        Filling(source, spec, compiled, None).run(filler)
    assert not ledger.chunks and not ledger.filled


def test_bad_rows_without_end_are_counted_and_not_kept(tmp_path):
    with pytest.raises(ManifestError, match=f"{3 * MAX_PROBLEMS} bad rows"):
        fill(tmp_path, "oops\n" * 3 * MAX_PROBLEMS)


def test_nobody_is_no_job(tmp_path):
    with pytest.raises(ManifestError, match="no recipients") as raised:
        fill(tmp_path, "\n")
    assert raised.value.path == "$.recipients"


def test_a_job_of_none_but_suppressed_is_one(tmp_path):
    (tmp_path / "gone.txt").write_text("example.com\n")
    ledger = fill(tmp_path, row(1) + row(2), suppress=(tmp_path / "gone.txt",))
    assert ledger.counts().suppressed == ledger.counts().recipients == 2


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_rows_that_are_cut_on_the_way_end_where_those_that_are_asked_about_do(tmp_path, format):
    """A selection that leaves out nobody but asks about everybody is the other way."""
    kinds = [row, lambda n: row(n, "two\\nlines"), lambda n: "oops\n", lambda n: row(n, "\\u00fc"), lambda n: "\n"]
    lines = [kinds[n * n % 5 if n % 7 == 0 else 0](n) for n in range(2500)]
    if format == "csv":
        names = ["one line", "two\nlines"]
        rows = [f'r{n}@example.com,"{names[n % 9 == 0]}"\n' for n in range(2500)]
        lines = ["email,name\n", *rows, "x\n"]
    (tmp_path / "nobody.txt").write_text("other.example\n")
    found = []
    for more in ({}, {"suppress": (tmp_path / "nobody.txt",)}):
        ledger = fill(tmp_path, "".join(lines), format=format, bad_rows="skip", **more)
        found.append([(chunk.packed, bytes(chunk.outcome)) for chunk in ledger.chunks.values()])
        found.append([trouble._replace(time=0) for trouble in ledger.troubles])
    assert found[:2] == found[2:]
    assert {chr(outcome[0]) for _, outcome in found[0]} == {".", "F"}


# -- routes


def filled_by_route(folder, emails, *patterns, **spec):
    """The emails of each route's chunks, in order."""
    path = folder / "list.jsonl"
    path.write_text("".join(f'{{"email":"{email}","name":"N"}}\n' for email in emails))
    ledger, spec = MemoryLedger(), RecipientsSpec(path, **spec)
    with open_source(spec, spool_dir=folder, stem="journal") as source, ledger.fill() as filler:
        Filling(source, spec, compile_message(MESSAGE, job="job"), None, DomainMap(patterns)).run(filler)
    chunks = list(ledger.chunks.values())
    return chunks, {
        route: [number for chunk in chunks if chunk.route == route for number in chunk.numbers]
        for route in {chunk.route for chunk in chunks}
    }


def test_chunks_are_cut_by_the_domains_that_have_a_route(tmp_path):
    emails = [
        "a@x.test",
        "b@gmail.com",
        "c@GMAIL.com",
        " d@gmail.com ",
        "e@a.example.com",
        "f@example.com",
        "g@bücher.de",
    ]
    _, routes = filled_by_route(tmp_path, emails, "gmail.com", "*.example.com", "xn--bcher-kva.de")
    assert routes == {"*": [1, 6], "gmail.com": [2, 3, 4], "*.example.com": [5], "xn--bcher-kva.de": [7]}


def test_each_route_has_whole_chunks_of_its_own(tmp_path):
    emails = [f"r{n}@{'gmail.com' if n % 2 else 'x.test'}" for n in range(1, 4202)]
    chunks, routes = filled_by_route(tmp_path, emails, "gmail.com")
    assert sorted(chunk.n for chunk in chunks) == [100, 101, 1000, 1000, 1000, 1000]
    assert routes == {"gmail.com": list(range(1, 4202, 2)), "*": list(range(2, 4202, 2))}


def test_who_is_suppressed_has_no_route(tmp_path):
    (tmp_path / "gone.txt").write_text("gmail.com\n")
    chunks, routes = filled_by_route(
        tmp_path, ["a@gmail.com", "b@x.test"], "gmail.com", suppress=(tmp_path / "gone.txt",)
    )
    assert routes == {"*": [1, 2]} and len(chunks) == 2
