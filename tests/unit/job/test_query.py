"""Recipients from a query: rows become JSON as the documentation says; what cannot be is told by its place."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.manifest import load_manifest
from bulkmail.job.query import Query, _columns, _line, without_password
from bulkmail.job.recipients import Source, open_source

MESSAGE = {"from": "news@example.com", "subject": "Hello", "text": "Hi"}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a b%20?#.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE people (EMail TEXT, name TEXT, id INTEGER, amount REAL, photo BLOB)")
        rows = [(f"r{i}@x.org", f"Jürgen {i}", i, i / 4, bytes([i % 256])) for i in range(2500)]
        db.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?)", rows)
        db.commit()
    return path


def load(folder: Path, recipients: Any) -> Any:
    data = {"message": MESSAGE, "recipients": recipients, "relays": "smtp://localhost:1"}
    (folder / "job.json").write_text(json.dumps(data))
    return load_manifest(folder / "job.json", environ={"PW": "hidden"})


def opened(folder: Path, sql: str, *, reuse: bool = False) -> Source:
    manifest = load(folder, {"sql": sql, "url": "sqlite:///a b%2520%3F%23.db"})
    return open_source(manifest.recipients, spool_dir=folder, stem="j.journal", reuse=reuse)


def rows_of(source: Source) -> list[dict[str, Any]]:
    with source:
        return [row for batch in source.scan() for row in batch.rows]


def test_rows_come_as_the_query_gives_them(tmp_path: Path, database: Path) -> None:
    rows = rows_of(opened(tmp_path, "SELECT * FROM people ORDER BY id DESC"))
    assert len(rows) == 2500
    assert rows[2499] == {"email": "r0@x.org", "name": "Jürgen 0", "id": 0, "amount": 0.0, "photo": "AA=="}
    assert rows[0]["name"] == "Jürgen 2499"
    assert (tmp_path / "j.journal.recipients").stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_a_resumed_job_has_the_rows_that_it_began_with(tmp_path: Path, database: Path) -> None:
    first = rows_of(opened(tmp_path, "SELECT email FROM people LIMIT 3"))
    with closing(sqlite3.connect(database)) as db:
        db.execute("DELETE FROM people")
        db.commit()
    assert rows_of(opened(tmp_path, "SELECT email FROM people LIMIT 3", reuse=True)) == first
    assert rows_of(opened(tmp_path, "SELECT email FROM people LIMIT 3")) == []


FAILURES = [
    ("SELECT name FROM people", "no column 'email'; it has 'name'"),
    ("SELECT email, id AS x, name AS x FROM people", "the column 'x' twice"),
    ("SELECT email, email FROM people", "the column 'email' twice"),
    ("SELEKT 1", "syntax error"),
    ("SELECT email FROM nobody", "no such table: nobody"),
    ("SELECT email FROM people; SELECT 1", "one statement at a time"),
    ("DELETE FROM people", "readonly"),
    ("CREATE TABLE email (email)", "readonly"),
    ("ATTACH 'other.db' AS other", "not authorized"),
    ("VACUUM INTO 'other.db'", "authoriz"),
    ("SELECT CAST(x'ff' AS TEXT) AS email", "UTF-8"),
]


@pytest.mark.parametrize(("sql", "words"), FAILURES)
def test_a_query_that_cannot_be_used_is_told_and_nothing_is_left(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, sql: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as refused:
        opened(tmp_path, sql)
    assert words in str(refused.value) and refused.value.path == "$.recipients.sql"
    assert not list(tmp_path.glob("j.journal*")) and not list(tmp_path.glob("other.db*"))
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM people").fetchone() == (2500,)


def test_a_bad_row_of_a_query_is_named(tmp_path: Path, database: Path) -> None:
    with opened(tmp_path, "SELECT 'a@x.org' AS Email UNION ALL SELECT NULL UNION ALL SELECT 7") as source:
        [batch] = source.scan()
        assert source.describe(batch.problems[0]) == 'the query, row 2: no "email": the object is empty'
        assert "row 3" in source.describe(batch.problems[1])


WRONG = [
    ({"sql": "SELECT 1"}, "$.recipients", "'sql' and 'url' belong together"),
    ({"url": "sqlite:///a b%2520%3F%23.db"}, "$.recipients", "one of 'file' and 'sql' is expected, found neither"),
    ({"file": "job.json", "sql": "SELECT 1", "url": "postgresql://h/d"}, "$.recipients", "found both"),
    ({"file": "job.json", "url": "postgresql://h/d"}, "$.recipients", "belong together"),
    ({"sql": "SELECT 1", "url": "postgresql://h/d", "format": "csv"}, "$.recipients", "'format' is of a file"),
    ({"sql": "", "url": "postgresql://h/d"}, "$.recipients.sql", "empty string"),
    ({"sql": 1, "url": "postgresql://h/d"}, "$.recipients.sql", "expected a string"),
    ({"sql": "SELECT 1", "url": "sqlite:///none.db"}, "$.recipients.url", "none.db: No such file"),
    ({"sql": "SELECT 1", "url": "sqlite://none.db"}, "$.recipients.url", "expected sqlite:///file.db or postgresql://"),
    ({"sql": "SELECT 1", "url": "mysql://u:${PW}@h/d"}, "$.recipients.url", "'mysql://u@h/d', expected sqlite:///"),
    ({"sqll": "SELECT 1"}, "$.recipients.sqll", "did you mean 'sql'?"),
]


@pytest.mark.parametrize(("recipients", "place", "words"), WRONG, ids=range(len(WRONG)))
def test_a_source_that_is_not_whole_is_refused(
    tmp_path: Path, database: Path, recipients: dict[str, Any], place: str, words: str
) -> None:
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, recipients)
    problems = refused.value.problems or [(refused.value.path, str(refused.value))]
    assert any(path == place and words in text for path, text in problems), problems
    assert "hidden" not in str(refused.value)


def test_a_job_belongs_to_its_query_and_not_to_a_password(tmp_path: Path) -> None:
    def digest(sql: str, url: str) -> str:
        return str(load(tmp_path, {"sql": sql, "url": url}).digest)

    first = digest("SELECT 1", "postgresql://u:one@h/d?password=one&sslmode=require")
    assert first == digest("SELECT 1", "postgresql://u:two@h/d?password=two&sslmode=require")
    assert first == digest("SELECT 1", "postgresql://u:${PW}@h/d?sslmode=require")
    assert first != digest("SELECT 2", "postgresql://u:one@h/d?sslmode=require")
    assert first != digest("SELECT 1", "postgresql://u:one@h/e?sslmode=require")
    spec = load(tmp_path, {"sql": "SELECT 1", "url": "postgresql://u:${PW}@h/d"}).recipients
    assert "hidden" not in repr(spec) and spec.source.url == "postgresql://u:hidden@h/d"
    assert without_password("postgresql:///d") == "postgresql:///d"


def test_what_json_has_no_form_for_becomes_text() -> None:
    row = {
        "email": "a@x.org",
        "none": None,
        "large": 2**70,
        "amount": Decimal("19.90"),
        "small": Decimal("1E-9"),
        "no": Decimal("NaN"),
        "nan": float("nan"),
        "day": date(2024, 2, 29),
        "at": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
        "hour": time(9, 5),
        "span": timedelta(days=1, hours=2),
        "bytes": b"\xff\x00",
        "view": memoryview(b"ab"),
        "id": UUID(int=1),
        "json": {"a": [1, Decimal("0.5")]},
    }
    made = {
        "email": "a@x.org",
        "none": None,
        "large": 2**70,
        "amount": "19.90",
        "small": "0.000000001",
        "no": None,
        "nan": None,
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00+00:00",
        "hour": "09:05:00",
        "span": "1 day, 2:00:00",
        "bytes": "/wA=",
        "view": "YWI=",
        "id": "00000000-0000-0000-0000-000000000001",
        "json": {"a": [1, "0.5"]},
    }
    assert json.loads(_line(row)) == made
    small = {name: value for name, value in row.items() if name != "large"}  # orjson's way
    assert json.loads(_line(small)) == {name: value for name, value in made.items() if name != "large"}


def test_the_column_email_wins_over_other_spellings() -> None:
    assert _columns(["EMAIL", "x"]) == ["email", "x"]
    assert _columns(["Email", "email"]) == ["Email", "email"]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ManifestError, match=r"needs the package psycopg: pip install 'bulkmail\[postgres\]'"):
        list(Query("SELECT 1", "postgresql", "postgresql://h/d").lines())
