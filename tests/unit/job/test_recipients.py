"""Recipients of every form come out alike; what cannot be read is refused by name; memory stays the same."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import JournalError, ManifestError
from bulkmail.job.recipients import Source, open_pinned, open_source
from bulkmail.job.specs import RecipientsSpec

JSON_LINES = b'{"email":"a@x.org","name":"Ann"}\n{"email":"b@x.org","name":"Bob"}\n'
CSV = b"email,name\na@x.org,Ann\nb@x.org,Bob\n"
ROWS = [{"email": "a@x.org", "name": "Ann"}, {"email": "b@x.org", "name": "Bob"}]


def opened(tmp_path: Path, source: Any, **options: Any) -> Source:
    reuse = options.pop("reuse", False)
    return open_source(RecipientsSpec(source, **options), spool_dir=tmp_path, stem="j.journal", reuse=reuse)


def scanned(source: Source, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in source.scan(**options):
        assert batch.problems == []
        assert source.read(batch.offsets) == batch.rows
        rows += batch.rows
    return rows


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


FORMS = [
    ("r.jsonl", JSON_LINES, "jsonl"),
    ("r.ndjson", JSON_LINES, "jsonl"),
    ("r.csv", CSV, "csv"),
    ("R.CSV", b"name,Email\r\nAnn,a@x.org\r\nBob,b@x.org\r\n", "csv"),
    ("r.csv", b"email;name\na@x.org;Ann\nb@x.org;Bob", "csv"),
    ("r.csv", b'"email"\t" name "\na@x.org\tAnn\nb@x.org\tBob\n', "csv"),
    ("list", JSON_LINES, "jsonl"),
    ("list", b"\n\n" + JSON_LINES, "jsonl"),
    ("list", CSV, "csv"),
    ("list.dat", b"name,email\nAnn,a@x.org\nBob,b@x.org\n", "csv"),
]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "data", "format"), FORMS, ids=range(len(FORMS)))
def test_every_form_gives_the_same_rows(
    tmp_path: Path, name: str, data: bytes, format: str, zipped: bool, bom: bytes
) -> None:
    data = bom + data
    path = written(tmp_path, name + ".gz", gzip.compress(data)) if zipped else written(tmp_path, name, data)
    with opened(tmp_path, path) as source:
        assert source.format == format
        assert scanned(source) == ROWS
        assert scanned(source, batch=1) == ROWS


def test_plain_text_is_an_address_a_line(tmp_path: Path) -> None:
    for name in ("r.txt", "list"):
        with opened(tmp_path, written(tmp_path, name, b"a@x.org\r\n\n b@x.org \n")) as source:
            assert source.format == "text"
            assert scanned(source) == [{"email": "a@x.org"}, {"email": "b@x.org"}]


def test_the_stated_format_wins_over_the_name(tmp_path: Path) -> None:
    with opened(tmp_path, written(tmp_path, "r.txt", CSV), format="csv") as source:
        assert scanned(source) == ROWS


def test_the_manifests_own_list_is_kept_beside_the_journal(tmp_path: Path) -> None:
    with opened(tmp_path, ("a@x.org", {"email": "b@x.org", "id": 2**70, "deep": {"x": [None]}})) as source:
        assert source.path == tmp_path / "j.journal.recipients"
        assert scanned(source) == [{"email": "a@x.org"}, {"email": "b@x.org", "id": 2**70, "deep": {"x": [None]}}]
    assert source.path.stat().st_mode & 0o077 == 0 or os.name == "nt"


@pytest.mark.parametrize("data", [JSON_LINES, CSV, gzip.compress(JSON_LINES), gzip.compress(CSV)])
def test_standard_input_is_kept_beside_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with opened(tmp_path, "-") as source:
        assert scanned(source) == ROWS
        pin = source.pin
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with opened(tmp_path, "-", reuse=True) as source:
        assert scanned(source) == ROWS
        assert source.pin == pin


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(CSV,))
    writer.start()
    with opened(tmp_path, pipe) as source:
        assert scanned(source) == ROWS
    writer.join()


def test_several_gzip_members_and_padding_are_one_file(tmp_path: Path) -> None:
    data = gzip.compress(JSON_LINES[:40]) + gzip.compress(b"") + gzip.compress(JSON_LINES[40:]) + bytes(512)
    with opened(tmp_path, written(tmp_path, "r.jsonl.gz", data)) as source:
        assert scanned(source) == ROWS


BROKEN = [
    ("gone.jsonl", None, "No such file"),
    ("r.jsonl.gz", JSON_LINES, "not a gzip file"),
    ("r.jsonl.gz", b"", "not a gzip file"),
    ("r.jsonl.gz", gzip.compress(JSON_LINES)[:-9], "cut off"),
    ("r.jsonl.gz", gzip.compress(JSON_LINES)[:20] + b"xxxxxxxxxxxxxxxx", "damaged"),
    ("r.jsonl.gz", gzip.compress(JSON_LINES) + b"more", "damaged"),
    ("r.json", b'[{"email":"a@x.org"}]', "one object a line"),
    ("r.csv", b"mail,name\na@x.org,Ann\n", "no column \"email\" in its header row: 'mail,name'"),
    ("r.csv", b"", "no header row"),
    ("r.csv", b"email,gr\xf6\xdfe\n", "not valid UTF-8"),
    ("r.csv", b"email,name,name\n", "column 'name' twice"),
    ("r.csv", "email,name\na@x.org,Ann\n".encode("utf-16"), "UTF-16"),
    ("r.csv", b'email,"' + b"x" * (1 << 17) + b'"\na@x.org,1\n', "no column"),
]


@pytest.mark.parametrize(("name", "data", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, name: str, data: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ManifestError) as refused:
        opened(tmp_path, path)
    assert words in str(refused.value) and name in str(refused.value)
    assert refused.value.path == "$.recipients"
    assert not (tmp_path / "j.journal.recipients").exists() and not list(tmp_path.glob("*.part"))


def test_a_folder_is_no_file_of_recipients(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="it is a folder"):
        opened(tmp_path, tmp_path)


def test_the_folder_for_the_spool_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        open_source(RecipientsSpec(("a@x.org",)), spool_dir=tmp_path / "none", stem="j")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_the_journals_trouble(tmp_path: Path) -> None:
    (tmp_path / "j.journal.recipients.part").symlink_to("/dev/full")
    with pytest.raises(JournalError, match="No space left"):
        opened(tmp_path, ("a@x.org",))
    assert not (tmp_path / "j.journal.recipients").exists()


def test_a_resumed_job_refuses_other_recipients_and_keeps_the_old_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl.gz", gzip.compress(JSON_LINES))
    opened(tmp_path, path).close()
    kept = open_source(RecipientsSpec(path), spool_dir=tmp_path, stem="j.journal", reuse=True)
    before = kept.pin
    kept.close()
    path.write_bytes(gzip.compress(JSON_LINES * 2))
    with pytest.raises(ManifestError, match="not those that the job began with"):
        opened(tmp_path, path, reuse=True)
    with open_pinned(before) as source:
        assert source.pin == before


def test_the_pin_is_of_the_whole_file_even_if_the_scan_stopped_early(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", JSON_LINES * 500)
    with Source(path) as whole, Source(path) as part, Source(path) as none:
        assert len(scanned(whole)) == 1000
        next(part.scan(batch=3))
        assert whole.pin == part.pin == none.pin
        assert whole.pin.size == len(JSON_LINES) * 500
    path.write_bytes(JSON_LINES * 499 + JSON_LINES.replace(b"Ann", b"Eve"))
    with Source(path) as other:
        assert other.pin.digest != whole.pin.digest


def test_a_file_changed_under_the_job_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", JSON_LINES)
    with Source(path) as source:
        batch = next(source.scan())
        path.write_bytes(JSON_LINES[:40])
        with pytest.raises(JournalError, match="changed while the job"):
            source.read(batch.offsets)
        with pytest.raises(JournalError, match="changed while the job"):
            list(source.scan())


def test_an_opened_file_may_be_replaced_by_another(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", JSON_LINES)
    with Source(path) as source:
        batch = next(source.scan())
        written(tmp_path, "new", b"").replace(path)
        assert source.read(batch.offsets) == ROWS


def test_a_pinned_source_that_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", JSON_LINES)
    with Source(path) as source:
        pin = source.pin
    with open_pinned(pin) as source:
        assert source.read([0]) == ROWS[:1]
    path.write_bytes(JSON_LINES * 2)
    with pytest.raises(JournalError, match="not the file that the job began with"):
        open_pinned(pin)
    path.unlink()
    with pytest.raises(JournalError, match="No such file"):
        open_pinned(pin)


def test_rows_are_read_in_any_order_and_from_anywhere(tmp_path: Path) -> None:
    lines = [json.dumps({"email": f"r{i}@x.org", "pad": "x" * (i * 7919 % 9000)}) for i in range(300)]
    lines[150] = json.dumps({"email": "r150@x.org", "pad": "x" * 900_000})
    with Source(written(tmp_path, "r.jsonl", ("\n".join(lines)).encode())) as source:
        [batch] = source.scan()
        rows = [json.loads(line) for line in lines]
        assert batch.rows == rows
        for order in (range(300), range(0, 300, 37), range(299, -1, -1), [5, 5, 299, 0, 150, 151, 149, 150]):
            assert source.read([batch.offsets[i] for i in order]) == [rows[i] for i in order]
        assert source.read([]) == []
        with pytest.raises(JournalError, match="not the file"):
            source.read([source.size + 5])


def test_required_fields_and_header_fields_are_looked_at_in_the_scan(tmp_path: Path) -> None:
    data = JSON_LINES + b'{"email":"c@x.org"}\n{"email":"d@x.org","name":"D\\r\\nBcc: e@x.org"}\n'
    with Source(written(tmp_path, "r.jsonl", data)) as source:
        [batch] = source.scan(required=frozenset({"name"}), header_fields=frozenset({"name"}))
        assert batch.numbers == [1, 2, 4]
        assert [(number, line) for number, line, _ in batch.problems] == [(3, 3)]
        assert [index for index, _ in batch.failed] == [2]


def test_one_bad_row_is_one_sentence(tmp_path: Path) -> None:
    with Source(written(tmp_path, "r.csv", b"email\na@x.org\n\nnobody\n")) as source:
        [batch] = source.scan()
        error = source.bad_rows(batch.problems)
        assert str(error) == f"{source.path}, row 2 (line 4): 'nobody' is not an email address: it has no @"
        assert error.path == "$.recipients"


def test_many_bad_rows_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    with Source(written(tmp_path, "r.txt", b"nobody\n" * 30)) as source:
        [batch] = source.scan()
        lines = str(source.bad_rows(batch.problems, more=5)).splitlines()
        assert "35 bad rows" in lines[0] and '"bad_rows": "skip"' in lines[0]
        assert "row 20:" in lines[20] and lines[21] == "  and 15 more" and len(lines) == 22


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = b'{"email":"recipient%d@example.org","name":"Recipient","note":"' + b"x" * 100 + b'"}\n'
    path = tmp_path / "r.jsonl"
    with open(path, "wb") as file:
        for first in range(0, 100_000, 1000):
            file.write(b"".join(line % i for i in range(first, first + 1000)))
    tracemalloc.start()
    try:
        with Source(path) as source:
            for batch in source.scan():
                assert len(source.read(batch.offsets)) == len(batch)
            assert source.pin.size > 15_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_disk_that_goes_away_while_rows_are_read_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unmounted or unplugged disk: a traceback would end the run without its record."""
    path = tmp_path / "list.txt"
    path.write_text("a@example.com\n")

    def gone(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Source(path) as source:
        monkeypatch.setattr(os, "fstat", gone)
        with pytest.raises(JournalError, match=r"list\.txt cannot be read any more: Input/output error"):
            source.read([0])
        monkeypatch.undo()
