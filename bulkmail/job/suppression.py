"""Who gets nothing: those whom suppression lists name, and an address that came before."""

from __future__ import annotations

import codecs
import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from bulkmail.address import check_address
from bulkmail.errors import ManifestError
from bulkmail.job.compressed import blocks
from bulkmail.job.csv_records import split_csv
from bulkmail.job.seen import AddressSet
from bulkmail.job.suppress_lines import LineTaker

MAX_LINE = 1 << 12  # bytes of a line: an address has 254 at most
DELIMITERS = ",;\t"
HEADERS = ("email", "domain", "md5", "sha1", "sha256")  # of lists with one column
REMEMBERED = 1 << 14  # domains of recipients that were looked up, some 100 bytes each
DUPLICATE = "suppressed: duplicate"

# By the size of the digest. Exchanges of suppression lists use MD5 most; nothing here has to be safe from collisions.
HASHES: dict[int, Callable[[bytes], bytes]] = {
    16: lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    20: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    32: lambda data: hashlib.sha256(data).digest(),
}


class RecipientFilter:
    """Says of each recipient, in the order of the source, whether it is left out.

    deduplicate  True ignores case in the whole address, "exact" in the domain only
    suppress     lists, which may be compressed, read as docs/manifest.md ("Suppression lists") says
    raises       ManifestError  a file cannot be read, or a line names nobody: who it meant would get mail

    Holds 10 to 13 bytes for each address. A recipient is left out by mistake with a chance of n * n / 2**65.
    """

    def __init__(self, *, deduplicate: bool | Literal["exact"] = False, suppress: Sequence[Path] = ()) -> None:
        self._seen = AddressSet(exact=deduplicate == "exact") if deduplicate else None
        self._lists = [_List(path, f"$.recipients.suppress[{i}]") for i, path in enumerate(suppress)]

    def __bool__(self) -> bool:
        """False: it lets everyone through."""
        return self._seen is not None or bool(self._lists)

    def filter(self, address: str) -> str | None:
        """Why this recipient is left out, or None. address: a checked one."""
        found = self.filter_all([address])
        return found[0][1] if found else None

    def filter_all(self, addresses: list[str]) -> list[tuple[int, str]]:
        """(index, reason) of those of these recipients that are left out."""
        if not self._lists:
            return [] if self._seen is None else [(i, DUPLICATE) for i in self._seen.add_all(addresses)]
        out: dict[int, str] = {}
        for one in self._lists:
            for i in one.places_of(addresses):
                out.setdefault(i, one.reason)
        if self._seen is not None:
            rest = [i for i in range(len(addresses)) if i not in out]
            out |= {rest[i]: DUPLICATE for i in self._seen.add_all([addresses[i] for i in rest])}
        return sorted(out.items())


class _List:
    """One suppression list."""

    def __init__(self, path: Path, where: str) -> None:
        self.reason = f"suppressed: listed in {path.name}"
        self._path, self._where = path, where
        self._taker = LineTaker()
        self._domains = AddressSet()
        self._above = AddressSet()  # domains whose subdomains are listed
        self._found: dict[str, bool] = {}  # domains of recipients
        self._comments = 0  # lines
        try:
            with open(path, "rb") as file:
                self._read(blocks(file.read, str(path), where))
        except OSError as error:
            raise ManifestError(f"cannot read the suppression file {path}: {error.strerror}", path=where) from error

    # -- reading

    def _read(self, content: Iterator[bytes]) -> None:
        first = next(content, b"").removeprefix(codecs.BOM_UTF8)
        table = _table(first)
        if table is not None:
            self._take_csv(first, content, *table)
            return
        data = first
        for block in content:
            data = self._take_lines(data, final=False) + block
        self._take_lines(data, final=True)

    def _take_lines(self, data: bytes, *, final: bool) -> bytes:
        """What is left: the beginning of a line."""
        odd: list[tuple[int, bytes]] = []
        rest = data[self._taker.take(data, 0, final, odd) :]
        for number, line in odd:
            self._take_odd(number, line)
        self._refuse_long(rest, self._taker.line + 1)
        return rest

    def _take_odd(self, number: int, line: bytes) -> None:
        text = self._text_of(line, number)
        if text.startswith("#"):
            self._comments += 1
        # "md5" is a header where nothing but comments stands above it.
        if not (number == self._comments + 1 and text.lower() in HEADERS):
            self._take(number, text)

    def _take_csv(self, first: bytes, content: Iterator[bytes], column: int, delimiter: str) -> None:
        rows = csv.reader(self._decoded(first, content), delimiter=delimiter, strict=True)
        try:
            next(rows)
            for row in rows:
                if len(row) > column:
                    self._take_field(rows.line_num, row[column].strip())
                elif row:
                    raise self._refused(rows.line_num, delimiter.join(row))
        except csv.Error as error:
            raise ManifestError(f"{self._path}, line {rows.line_num}: {error}", path=self._where) from error

    def _take_field(self, number: int, text: str) -> None:
        odd: list[tuple[int, bytes]] = []
        self._taker.take(text.encode(), 0, True, odd)
        if odd:
            self._take(number, text)

    def _decoded(self, first: bytes, content: Iterator[bytes]) -> Iterator[str]:
        """Lines with their ends."""
        rest, number = b"", 0
        for block in _chain(first, content):
            lines = (rest + block).splitlines(keepends=True)
            # a CR may be half of a CRLF
            rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            for line in lines:
                number += 1
                yield self._text_of(line, number)
            self._refuse_long(rest, number + 1)
        if rest:
            yield self._text_of(rest, number + 1)

    def _refuse_long(self, rest: bytes, number: int) -> None:
        if len(rest) > MAX_LINE:
            raise self._refused(number, rest[:100].decode(errors="replace"))

    def _text_of(self, line: bytes, number: int) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise ManifestError(f"{self._path} is not valid UTF-8 in line {number}", path=self._where) from error

    def _take(self, number: int, text: str) -> None:
        """An entry that is no plain address and no hash."""
        kind, entry = _entry(text)
        if kind == "address":
            self._taker.addresses.add(entry)
        elif kind == "domain":
            self._domains.add(entry)
        elif kind == "below":
            self._above.add(entry)
        elif kind == "neither":
            raise self._refused(number, text)

    def _refused(self, number: int, text: str) -> ManifestError:
        return ManifestError(
            f"{self._path}, line {number}: {text[:80]!r} is neither an address, a domain nor a hash; "
            "a suppression file has one of them a line",
            path=self._where,
        )

    # -- asking

    def places_of(self, addresses: list[str]) -> list[int]:
        """Those of these recipients that are listed."""
        found = self._taker.addresses.places_of(addresses)
        if self._taker.kinds:
            found += self._hashed_places(addresses)
        if len(self._domains) or len(self._above):
            is_listed = self._is_listed
            found += [i for i, address in enumerate(addresses) if is_listed(address.rpartition("@")[2])]
        return found

    def _hashed_places(self, addresses: list[str]) -> Iterable[int]:
        kinds, digests = [HASHES[size] for size in self._taker.kinds], self._taker.digests
        for i, address in enumerate(addresses):
            data = address.lower().encode()
            if any(digests.has_digest(kind(data)) for kind in kinds):
                yield i

    def _is_listed(self, domain: str) -> bool:
        known = self._found.get(domain)
        if known is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            known = self._found[domain] = domain in self._domains or any(
                above in self._above for above in _domains_above(domain)
            )
        return known


def _domains_above(domain: str) -> Iterator[str]:
    while domain := domain.partition(".")[2]:
        yield domain


def _table(head: bytes) -> tuple[int, str] | None:
    """(index of the column "email", delimiter) of a CSV with several columns; None for another file."""
    for delimiter in DELIMITERS:
        try:
            columns = [column.strip().lower() for column in split_csv(head[: 1 << 16], delimiter)[0]]
        except ValueError:
            continue
        if len(columns) > 1 and "email" in columns:
            return columns.index("email"), delimiter
    return None


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _entry(line: str) -> tuple[Literal["address", "domain", "below", "blank", "neither"], str]:
    if not line:
        return "blank", ""
    try:
        return "address", check_address(line)
    except ValueError:
        pass
    if line.startswith("#"):
        return "blank", ""
    if "." not in line and not line.startswith("@"):
        return "neither", ""
    kind: Literal["domain", "below"] = "below" if line.startswith("*.") else "domain"
    name = line.removeprefix("*.") if kind == "below" else line.removeprefix("@")
    try:
        return kind, check_address(f"a@{name}")[2:]  # a domain is what may stand behind an "@"
    except ValueError:
        return "neither", ""
