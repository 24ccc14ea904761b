"""Recipients from a database: a query's rows as JSON lines. SQLite by Python's own module, PostgreSQL by psycopg.

Only reading: SQLite's file is opened so, PostgreSQL's transaction is. What a column's value becomes in JSON stands in
docs/manifest.md, "Databases".
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import orjson

from bulkmail.errors import ManifestError
from bulkmail.records import Record

AT_ONCE: Final = 1000  # rows fetched and written together
CONNECT_SECONDS: Final = 30  # for a server that does not answer, unless the URL says connect_timeout
INSTALL: Final = "needs the package psycopg: pip install 'bulkmail[postgres]'"
FORMS: Final = "sqlite:///file.db or postgresql://user:password@host/database"

Rows = Iterable[Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Query(Record):
    """A statement and where to run it. url: of PostgreSQL, with its password; path: of SQLite, whole."""

    sql: str
    kind: Literal["sqlite", "postgresql"]
    url: str = field(default="", repr=False)
    path: Path = Path()

    def lines(self) -> Iterator[bytes]:
        """The rows as JSON lines, many in each piece.

        raises  ManifestError  it cannot be run, or has no column "email"
        """
        yield from _sqlite_lines(self) if self.kind == "sqlite" else _postgres_lines(self)


def sqlite_path(url: str) -> str | None:
    """The file that a URL sqlite:///file names, sqlite:////file from the root on; None for another URL."""
    scheme, _, rest = url.strip().partition(":///")
    if scheme.lower() != "sqlite" or not rest:
        return None
    return unquote(rest)


def is_postgres(url: str) -> bool:
    return url.strip().lower().startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """A URL of a database, for a digest: a job goes on with a new password."""
    start, separator, rest = url.partition("://")
    userinfo, at, place = rest.rpartition("@")
    place, question, options = place.partition("?")
    kept = "&".join(
        option for option in options.split("&") if not option.lower().startswith(("password=", "sslpassword="))
    )
    return f"{start}{separator}{userinfo.partition(':')[0]}{at}{place}{question}{kept}"


# ---- the two databases -----------------------------------------------------------------------------------------------


def _sqlite_lines(query: Query) -> Iterator[bytes]:
    try:
        # Names of files are bytes to SQLite's URI too: "?" and "%" in them are theirs.
        with closing(sqlite3.connect(f"file:{quote(str(query.path))}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA query_only = ON")
            db.set_authorizer(_only_reading)
            cursor = db.execute(query.sql)
            cursor.arraysize = AT_ONCE
            yield from _lines([column[0] for column in cursor.description or ()], cursor.fetchmany)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _failed(f"the query of {query.path} failed: {error}") from error


def _only_reading(action: int, *names: str | None) -> int:
    """ATTACH, and VACUUM INTO with it, would make files in spite of all."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _postgres_lines(query: Query) -> Iterator[bytes]:
    try:
        import psycopg
    except ImportError:
        raise ManifestError(f"a query of PostgreSQL {INSTALL}", path="$.recipients.url") from None
    try:
        with _connected(psycopg, query.url) as db:
            db.read_only = True
            # A cursor with a name is the server's: rows come by the portion, however many there are.
            with db.cursor(name="bulkmail") as cursor:
                cursor.execute(query.sql)
                names = [column.name for column in cursor.description or ()]
                yield from _lines(names, lambda: cursor.fetchmany(AT_ONCE))
    except psycopg.Error as error:
        raise _failed(f"the query failed: {_harmless(error, query.url)}") from error


def _connected(psycopg: Any, url: str) -> Any:
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        # Its reason may quote a piece of the password.
        raise ManifestError(
            f"not a URL that PostgreSQL's library reads, expected {FORMS}", path="$.recipients.url"
        ) from None
    try:
        return psycopg.connect(**({"connect_timeout": CONNECT_SECONDS} | given))
    except psycopg.Error as error:
        raise ManifestError(
            f"cannot connect to the database: {_harmless(error, url)}", path="$.recipients.url"
        ) from None


def _harmless(error: Exception, url: str) -> str:
    """The first line of an error, without a password of the URL."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    parts = urlsplit(url)
    secrets = [value for name, value in parse_qsl(parts.query) if "password" in name.lower()]
    if parts.password:
        secrets += [parts.password, unquote(parts.password)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


# ---- rows ------------------------------------------------------------------------------------------------------------


def _lines(names: Sequence[str], fetch: Callable[[], list[Sequence[Any]]]) -> Iterator[bytes]:
    columns = _columns(names)
    while rows := fetch():
        yield b"".join(_line(dict(zip(columns, row, strict=True))) for row in rows)


def _columns(names: Sequence[str]) -> list[str]:
    """The fields' names: "email" in any case is "email", as in a CSV file."""
    if not names:
        raise _failed("the query gives no rows, expected a SELECT with a column 'email'")
    emails = [name for name in names if name.lower() == "email"]
    if not emails:
        raise _failed(f"the query has no column 'email'; it has {', '.join(map(repr, names[:10]))}")
    chosen = "email" if "email" in emails else emails[0]
    columns = ["email" if name == chosen else name for name in names]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise _failed(f"the query has the column {twice!r} twice; name them apart with AS")
    return columns


def _line(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_as_json, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(_without_nan(row), default=_as_json).encode() + b"\n"


def _without_nan(value: Any) -> Any:
    """NaN and infinity are null in JSON, as orjson has them."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, dict):
        return {str(name): _without_nan(held) for name, held in value.items()}
    return [_without_nan(held) for held in value] if isinstance(value, list) else value


def _as_json(value: Any) -> Any:
    """What JSON has no form for. Dates, times and UUIDs are orjson's: ISO 8601 (RFC 3339), and text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else None
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if callable(isoformat) else str(value)


def _failed(text: str) -> ManifestError:
    return ManifestError(text, path="$.recipients.sql")
