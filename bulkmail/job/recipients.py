"""Recipients: a file of any size, streamed. Scanned once when the job is made, read again by place while it is sent.

The file is read in blocks and not mapped: mapped pages count as the process's memory, and a file that shrinks under a
map kills the process.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bulkmail.errors import JournalError, ManifestError
from bulkmail.job.compressed import ENDINGS, blocks, kind_of, plain_name
from bulkmail.job.csv_records import split_csv
from bulkmail.job.cutting import Cutter
from bulkmail.job.query import Query
from bulkmail.job.row_blocks import HAVE_PREAD, Blocks, RowWindow
from bulkmail.job.rows import MAX_ROW, RowParser, RowProblem
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.spool import inline_blocks, is_of, new_digest, rest_digest, write_spool
from bulkmail.records import Record

BLOCK = 1 << 18  # bytes read at a time in a scan: some 2,000 rows; larger ones leave the processor's cache
HEAD = 1 << 16  # bytes looked at for the format and a CSV header
SPAN = 1 << 16  # rows closer than this are read in one go
SLACK = 1 << 12  # read behind the last row of a span, whose length is not known
SHOWN_PROBLEMS = 20  # bad rows that an error lists; the rest is counted

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "text"}
DELIMITERS = ",;\t"
BOM = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """Where in a file a scan can go on: before the row at a byte's offset, with what its parser had counted."""

    offset: int
    number: int
    line: int
    skipping: bool


@dataclass(slots=True)
class RowBatch:
    """Rows of a scan, in the order of the file.

    numbers, offsets, addresses  one entry each for every good row: number from 1, byte offset in the file, row["email"]
    rows                         the fields of every good row; empty if the scan was not asked for them
    problems                     bad rows, in none of the other lists: number and line from 1, reason
    failed                       (index in the lists, reason): a line break that would reach a header or the envelope
    cut                          good rows that went straight to a cutter, and stand in no list
    end                          where the next batch begins
    """

    numbers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    cut: int = 0
    end: Place | None = None

    def __len__(self) -> int:
        return len(self.numbers) + len(self.problems) + self.cut


class SourcePin(NamedTuple):
    """What a journal remembers of its source. digest: of the whole content, in hexadecimal; None: not read yet."""

    path: str
    format: str
    size: int
    mtime_ns: int
    digest: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Layout(Record):
    """How a file is to be read: where its first row begins, and for CSV its columns."""

    format: str
    start: int
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    lines: int = 0


class Source:
    """A plain file of recipients.

    Owns      one open file for `read`; each scan has its own. Not for several threads at once.
    Promises  `read` gives the rows that the scan gave, or JournalError once the file was changed.
    Errors    ManifestError  it cannot be read, or its format is not known; bad rows are in the batches
    """

    def __init__(self, path: Path, format: str | None = None, *, name: str | None = None) -> None:
        """name: how errors call it, and what the format is found from, where that is not the path."""
        self.path = path
        self.name = name or str(path)
        self._digest: str | None = None
        self._blocks = Blocks()
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
            self._stat = os.fstat(self._file.fileno())
            head = self._file.read(HEAD)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        try:
            self._layout = _find_layout(head, format or _named_format(self.name), self.name, self._stat.st_size > HEAD)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def format(self) -> str:
        return self._layout.format

    @property
    def size(self) -> int:
        """Bytes."""
        return self._stat.st_size

    @property
    def mtime_ns(self) -> int:
        return self._stat.st_mtime_ns

    @property
    def digest(self) -> str:
        """Of the whole content, in hexadecimal. Reads the file if no scan has come to its end."""
        if self._digest is None:
            with open(self.path, "rb", buffering=0) as file:
                self._digest = rest_digest(file, new_digest())
                self._refuse_change(file.fileno())
        return self._digest

    @property
    def pin(self) -> SourcePin:
        """What this file is. A Source is a Pin itself, one whose digest is read only if it is asked for."""
        return self.known_pin._replace(digest=self.digest)

    @property
    def known_pin(self) -> SourcePin:
        """What is known without reading the file whole: without its digest, if no scan has come to its end."""
        return SourcePin(str(self.path), self.format, self.size, self.mtime_ns, self._digest)

    def scan(
        self,
        batch: int = 1000,
        *,
        required: frozenset[str] = frozenset(),
        header_fields: frozenset[str] = frozenset(),
        rows: bool = True,
        start: Place | None = None,
        cutter: Cutter | None = None,
    ) -> Iterator[RowBatch]:
        """All rows, checked, up to `batch` at a time.

        rows           False: the batches have addresses and no rows, which takes a third of the time
        required       fields that the message uses: a row without one is bad
        header_fields  fields that reach a header or the envelope: a CR or LF in one makes the row `failed`
        start          the `end` of a batch of an earlier scan
        cutter         gets the good rows; a batch then has only those that are `failed` or bad
        """
        parser = self._parser(required, header_fields, rows, start)
        digest = new_digest()
        with open(self.path, "rb", buffering=0) as file:
            if start is None:
                digest.update(file.read(self._layout.start))
            else:
                file.seek(start.offset)
            base, pos, final, out = file.tell(), 0, False, RowBatch()
            data = b""
            while not final:
                block = file.read(BLOCK)
                digest.update(block)
                final = not block
                data, base, pos = data[pos:] + block, base + pos, 0
                while True:
                    pos = parser.take(data, pos, base, final, out, batch, cutter)
                    out.end = Place(base + pos, parser.number, parser.line, parser.skipping)
                    if len(out) < batch:
                        break
                    yield out
                    out = RowBatch()
            self._refuse_change(file.fileno())
        if start is None:
            self._digest = str(digest.hexdigest())
        if len(out):
            yield out

    def read(self, offsets: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at these offsets, as the scan gave them; quickest in ascending order.

        raises  JournalError  the file was changed since, or is gone with its disk
        """
        try:
            return self._read(offsets)
        except OSError as error:
            raise JournalError(f"{self.name} cannot be read any more: {error.strerror or error}") from error

    def window(self) -> RowWindow | None:
        """For whoever reads rows without decoding them, where they are JSON lines and the system has pread()."""
        if self.format != "jsonl" or not HAVE_PREAD:
            return None
        return RowWindow(self._file.fileno(), self.size, self.mtime_ns, self._blocks)

    def _read(self, offsets: Sequence[int]) -> list[dict[str, Any]]:
        self._refuse_change(self._file.fileno())
        wanted = offsets if isinstance(offsets, list) else list(offsets)
        parser, rows = self._parser(), list[dict[str, Any]]()
        i, slack = 0, SLACK
        while i < len(wanted):
            if slack == SLACK:
                i = self._parse_far(parser, wanted, i, rows)
                if i == len(wanted):
                    break
            first = wanted[i]
            # Offsets that do not ascend only make the span a poor guess: parse_at stops where it leaves the data.
            last = max(first, wanted[bisect_left(wanted, first + SPAN, i + 1) - 1])
            self._file.seek(first)
            data = self._file.read(min(last - first, SPAN) + slack)
            try:
                done = parser.parse_at(data, first, wanted, i, first + len(data) >= self._stat.st_size, rows)
            except ValueError as error:
                raise JournalError(f"{self.name} is not the file that the job began with: {error}") from error
            if done == i and not data:
                raise JournalError(f"{self.name} is not the file that the job began with: it ends before byte {first}")
            slack = SLACK if done > i else MAX_ROW + 1
            i = done
        return rows

    def _parse_far(self, parser: RowParser, wanted: list[int], i: int, rows: list[dict[str, Any]]) -> int:
        """Rows of one route of hundreds lie far apart."""
        try:
            return parser.parse_far(self._file.fileno(), wanted, i, rows, self._blocks)
        except ValueError as error:
            raise JournalError(f"{self.name} is not the file that the job began with: {error}") from error

    def bad_rows(self, problems: Sequence[tuple[int, int, str]], more: int = 0) -> ManifestError:
        """The error for bad rows. more: how many there are besides these."""
        total = len(problems) + more
        sentences = [self.describe(problem) for problem in problems[:SHOWN_PROBLEMS]]
        if total > len(sentences):
            sentences.append(f"and {total - len(sentences)} more")
        if total == 1:
            return ManifestError(sentences[0], path="$.recipients")
        text = "\n".join(f"  {sentence}" for sentence in sentences)
        return ManifestError(
            f'{self.name} has {total} bad rows; mend them, or skip them with "bad_rows": "skip":\n{text}',
            path="$.recipients",
            problems=[("$.recipients", sentence) for sentence in sentences],
        )

    def describe(self, problem: tuple[int, int, str]) -> str:
        """One sentence: file, row, line, reason."""
        number, line, reason = problem
        return f"{self.name}, row {number}" + (f" (line {line})" if line != number else "") + f": {reason}"

    def _parser(
        self,
        required: frozenset[str] = frozenset(),
        breakless: frozenset[str] = frozenset(),
        keep: bool = True,
        start: Place | None = None,
    ) -> RowParser:
        layout = self._layout
        return RowParser(
            layout.format,
            columns=layout.columns,
            delimiter=layout.delimiter,
            required=required,
            breakless=breakless,
            number=0 if start is None else start.number,
            line=layout.lines if start is None else start.line,
            skipping=start is not None and start.skipping,
            keep=keep,
        )

    def _refuse_change(self, descriptor: int) -> None:
        now = os.fstat(descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise JournalError(f"{self.name} was changed while the job was using it")


def open_source(spec: RecipientsSpec, *, spool_dir: Path, stem: str, reuse: bool = False) -> Source:
    """The recipients of a manifest as a file, which is spool_dir/stem.recipients unless they are a plain file already.

    reuse    the job is resumed: a spool that is there must be the same, and stands for standard input and a query
    raises   ManifestError, JournalError (the disk is full)
    """
    spool = spool_dir / f"{stem}.recipients"
    if isinstance(spec.source, tuple):
        return Source(write_spool(inline_blocks(spec.source), spool, keep=reuse), "jsonl", name="recipients")
    if isinstance(spec.source, Query):
        if not (reuse and spool.exists()):  # the database may have other rows by now
            write_spool(spec.source.lines(), spool, keep=False)
        return Source(spool, "jsonl", name="the query")
    if spec.source == "-":
        if not (reuse and spool.exists()):
            write_spool(blocks(sys.stdin.buffer.read, "standard input"), spool, keep=False)
        return Source(spool, spec.format, name="standard input")
    path = Path(spec.source)
    if _is_plain_file(path):
        return Source(path, spec.format)
    _unpack(path, spool, reuse)
    return Source(spool, spec.format, name=str(path))


def _unpack(path: Path, spool: Path, reuse: bool) -> None:
    with open(path, "rb") as file:
        origin = os.fstat(file.fileno())
        plain = stat.S_ISREG(origin.st_mode)
        if not (reuse and plain and is_of(spool, origin)):
            time_ns = origin.st_mtime_ns if plain else None
            write_spool(blocks(file.read, str(path)), spool, keep=reuse, time_ns=time_ns)


def open_pinned(pin: Any) -> Source:
    """The source of a journal, checked against size and time (the digest is the resuming run's to compare).

    pin      has path, format, size, mtime_ns
    raises   JournalError  it is gone or was changed
    """
    try:
        source = Source(Path(pin.path), pin.format)
    except ManifestError as error:
        raise JournalError(str(error)) from error
    now = source._stat
    if (now.st_size, now.st_mtime_ns) != (pin.size, pin.mtime_ns):
        source.close()
        raise JournalError(f"{pin.path} is not the file that the job began with: its size or time is another")
    return source


def _is_plain_file(path: Path) -> bool:
    """False for what is compressed, and for what can be read only once (a pipe, such as the shell's <(...))."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            return False
        with open(path, "rb") as file:
            return path.suffix.lower() not in ENDINGS and kind_of(file.read(4)) is None
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(name: str, error: OSError) -> ManifestError:
    return ManifestError(f"cannot read the recipients {name}: {error.strerror}", path="$.recipients")


def _named_format(name: str) -> str | None:
    return FORMATS.get(Path(plain_name(name)).suffix)


def _find_layout(head: bytes, format: str | None, name: str, more: bool) -> _Layout:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f"{name} is UTF-16; save it as UTF-8", path="$.recipients")
    start = len(BOM) if head.startswith(BOM) else 0
    head = head[start:]
    if format is None and head.lstrip().startswith(b"["):
        raise ManifestError(f"{name} is a JSON list; write one object a line (JSON lines)", path="$.recipients")
    if format is None and head.lstrip().startswith(b"{"):
        format = "jsonl"
    if format in ("jsonl", "text"):
        return _Layout(format, start)
    header = _header(head, more)
    if header is not None:
        columns, delimiter, size = header
        _refuse_twins(columns, name)
        return _Layout("csv", start + size, columns, delimiter, head[:size].count(b"\n"))
    if format == "csv":
        raise ManifestError(_no_header(head.split(b"\n", 1)[0].strip(), name), path="$.recipients")
    return _Layout("text", start)


def _header(head: bytes, more: bool) -> tuple[tuple[str, ...], str, int] | None:
    """(columns, delimiter, bytes) of a CSV header that has `email`, in any case; None if there is none."""
    for delimiter in DELIMITERS:
        try:
            fields, size = split_csv(head, delimiter)
        except ValueError:
            continue
        columns = tuple(field.strip() for field in fields)
        emails = [column for column in columns if column.lower() == "email"]
        if emails and (size < len(head) or not more):
            given = "email" if "email" in emails else emails[0]
            return tuple("email" if column == given else column for column in columns), delimiter, size
    return None


def _no_header(first: bytes, name: str) -> str:
    if not first:
        return f'{name} has no header row; expected one with a column "email"'
    try:
        return f'{name} has no column "email" in its header row: {first.decode()[:100]!r}'
    except UnicodeDecodeError:
        return f"{name} is not valid UTF-8 in its header row"


def _refuse_twins(columns: tuple[str, ...], name: str) -> None:
    for i, column in enumerate(columns):
        if column and column in columns[:i]:
            raise ManifestError(f"{name} has the column {column!r} twice in its header row", path="$.recipients")
