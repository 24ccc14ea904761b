"""Who gets nothing: addresses and domains of suppression files, and an address that came before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from bulkmail.address import check_address
from bulkmail.errors import ManifestError
from bulkmail.job.seen import AddressSet

MAX_LINE = 1 << 12  # characters of a suppression file's line: an address has 254 at most
DUPLICATE = "suppressed: duplicate"


class RecipientFilter:
    """Says of each recipient, in the order of the source, whether it is left out.

    deduplicate  True ignores case in the whole address, "exact" in the domain only
    suppress     text files: an address a line, or a domain ("example.com" or "@example.com") for all its addresses;
                 blank lines, lines that begin with "#" and a header "email" are passed over; case is ignored
    raises       ManifestError  a file cannot be read, or a line is neither: who it meant would get mail

    Holds 10 to 15 bytes for each address. A recipient is left out by mistake with a chance of n * n / 2**65.
    """

    def __init__(self, *, deduplicate: bool | Literal["exact"] = False, suppress: Sequence[Path] = ()) -> None:
        self._seen = AddressSet(exact=deduplicate == "exact") if deduplicate else None
        self._lists = [_Suppressed(path, f"$.recipients.suppress[{i}]") for i, path in enumerate(suppress)]

    def __bool__(self) -> bool:
        """False: it lets everyone through."""
        return self._seen is not None or bool(self._lists)

    def filter(self, row: dict[str, Any]) -> str | None:
        """Why this recipient is left out, or None. row["email"] is a checked address."""
        address: str = row["email"]
        for listed in self._lists:
            if address in listed:
                return listed.reason
        if self._seen is not None and not self._seen.add(address):
            return DUPLICATE
        return None

    def filter_rows(self, rows: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
        """(index, reason) of those of these recipients that are left out."""
        if self._lists:
            return [(i, reason) for i, row in enumerate(rows) if (reason := self.filter(row)) is not None]
        if self._seen is None:
            return []
        add = self._seen.add
        return [(i, DUPLICATE) for i, row in enumerate(rows) if not add(row["email"])]


class _Suppressed:
    """One suppression file."""

    def __init__(self, path: Path, where: str) -> None:
        self.reason = f"suppressed: listed in {path.name}"
        self._addresses, self._domains = AddressSet(), AddressSet()
        for number, line in _lines(path, where):
            kind, entry = _entry(line)
            if kind == "address":
                self._addresses.add(entry)
            elif kind == "domain":
                self._domains.add(entry)
            elif kind == "neither":
                raise ManifestError(
                    f"{path}, line {number}: {line[:80]!r} is neither an address nor a domain; "
                    "a suppression file has one of them a line",
                    path=where,
                )

    def __contains__(self, address: str) -> bool:
        if address in self._addresses:
            return True
        return bool(len(self._domains)) and address.rpartition("@")[2] in self._domains


def _lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            while line := file.readline(MAX_LINE):
                number += 1
                line = line.strip()
                if number > 1 or line.lower() != "email":  # the header of a list with one column
                    yield number, line
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not valid UTF-8 after line {number}", path=where) from error
    except OSError as error:
        raise ManifestError(f"cannot read the suppression file {path}: {error.strerror}", path=where) from error


def _entry(line: str) -> tuple[Literal["address", "domain", "blank", "neither"], str]:
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
    try:
        # a domain is what may stand behind an "@"
        return "domain", check_address("a@" + line.removeprefix("@"))[2:]
    except ValueError:
        return "neither", ""
