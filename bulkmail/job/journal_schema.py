"""The journal's SQL: tables, the views promised to users of sqlite3 (docs/journal.md), and the commit of an advance."""

from __future__ import annotations

from bulkmail.job.ledger import OUTCOMES, STATE_NAMES

APPLICATION_ID = 0x424D4A31  # "BMJ1", in bytes 68-71 of the file
SCHEMA_VERSION = 1

PLACE = "place"  # the setting (job.meta) that says where filling goes on, while it is not at its end

# Chunk states
OPEN, HELD, DONE = 0, 1, 2

# What `advance` rewrites is a row of about 1,040 bytes; the packed rows, which never change, have their own table.
TABLES = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    job TEXT NOT NULL,
    manifest_digest TEXT NOT NULL,
    state TEXT NOT NULL,
    why TEXT,
    created REAL NOT NULL,
    filled INTEGER NOT NULL DEFAULT 0,
    src_path TEXT NOT NULL, src_format TEXT NOT NULL, src_size INTEGER NOT NULL, src_mtime_ns INTEGER NOT NULL,
    src_digest TEXT,
    meta TEXT NOT NULL
);
CREATE TABLE run (
    fence INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    started REAL NOT NULL,
    seen_at REAL NOT NULL,
    ended REAL,
    state TEXT NOT NULL,
    why TEXT,
    serial INTEGER NOT NULL DEFAULT 0,
    progress TEXT
);
CREATE TABLE route (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE chunk (
    no INTEGER PRIMARY KEY,
    route INTEGER NOT NULL,
    n INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    not_before REAL NOT NULL,
    origin INTEGER,
    note TEXT,
    state INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    outcome BLOB NOT NULL CHECK (typeof(outcome) = 'blob' AND length(outcome) = n),
    CHECK (claimed BETWEEN 0 AND n)
);
CREATE TABLE chunk_rows (no INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE detail (id INTEGER PRIMARY KEY, blob BLOB NOT NULL);
CREATE TABLE detail_chunk (chunk INTEGER NOT NULL, detail INTEGER NOT NULL, PRIMARY KEY (chunk, detail)) WITHOUT ROWID;
CREATE TABLE trouble (
    id INTEGER PRIMARY KEY,
    recipient TEXT NOT NULL,
    number INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    position INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    class TEXT, code INTEGER, enhanced TEXT, reply TEXT,
    relay INTEGER NOT NULL, egress INTEGER NOT NULL,
    time REAL NOT NULL
);
CREATE INDEX trouble_number ON trouble (number);
"""


def _word(column: str) -> str:
    """SQL: the word for an outcome byte (an integer)."""
    words = STATE_NAMES | {ord("m"): "moved", ord("r"): "resent"}
    return f"CASE {column} {' '.join(f'WHEN {byte} THEN {word!r}' for byte, word in words.items())} END"


def _count(byte: str, text: str) -> str:
    return f"length({text}) - length(replace({text}, '{byte}', ''))"


def _time(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {column}, 'unixepoch')"


_WORDS = ("pending", "delivered", "failed", "deferred", "moved", "suppressed", "in_doubt", "resent")
_LETTERS = dict(zip(_WORDS, OUTCOMES.decode(), strict=True))
_PER_CHUNK = ",\n        ".join(f"{_count(_LETTERS[word], 'o')} AS {word}" for word in _WORDS if word != "pending")
_SUMS = ", ".join(f"coalesce(sum({word}), 0) AS {word}" for word in ("delivered", "failed", "in_doubt", "suppressed"))

# in_flight: claimed, no outcome yet; in doubt if no run is alive. pending and deferred as `bulkmail status` has them.
_TOTALS = f"""{_SUMS},
        coalesce(sum(in_flight), 0) AS in_flight,
        coalesce(sum(CASE attempt WHEN 0 THEN pending ELSE 0 END), 0) AS pending,
        coalesce(sum(deferred + CASE attempt WHEN 0 THEN 0 ELSE pending END), 0) AS deferred,
        coalesce(sum(n - moved - resent), 0) AS recipients"""

VIEWS = f"""
CREATE VIEW chunks AS
    SELECT no, route, n, attempt, CASE not_before WHEN 0 THEN NULL ELSE {_time("not_before")} END AS not_before,
        origin, note, CASE state WHEN 0 THEN 'open' WHEN 1 THEN 'held' ELSE 'done' END AS state, fence, claimed,
        {_count(".", "substr(o, claimed + 1)")} AS pending,
        {_count(".", "substr(o, 1, claimed)")} AS in_flight,
        {_PER_CHUNK},
        o AS outcome
    FROM (SELECT no, name AS route, n, attempt, not_before, origin, note, state, fence, claimed,
              CAST(outcome AS TEXT) AS o
          FROM chunk JOIN route ON route.id = chunk.route);
CREATE VIEW summary AS
    SELECT (SELECT job FROM job) AS job, (SELECT state FROM job) AS state, {_TOTALS} FROM chunks;
CREATE VIEW routes AS SELECT route, {_TOTALS} FROM chunks GROUP BY route;
CREATE VIEW outcomes AS
    WITH RECURSIVE place(no, position, n, outcome) AS (
        SELECT no, 0, n, outcome FROM chunk
        UNION ALL SELECT no, position + 1, n, outcome FROM place WHERE position + 1 < n)
    SELECT no AS chunk, position, CAST(substr(outcome, position + 1, 1) AS TEXT) AS outcome FROM place;
CREATE VIEW troubles AS
    SELECT trouble.id AS id, recipient, number, {_word("outcome")} AS state, class, code, enhanced, reply, attempt,
        relay.name AS relay, egress.name AS egress, {_time("time")} AS time, chunk, position
    FROM trouble
        LEFT JOIN name AS relay ON relay.id = trouble.relay
        LEFT JOIN name AS egress ON egress.id = trouble.egress;
CREATE VIEW runs AS
    SELECT fence, pid, host, {_time("started")} AS started, {_time("seen_at")} AS seen_at, {_time("ended")} AS ended,
        state, why, progress FROM run;
"""

INSERT_CHUNK = """INSERT INTO chunk
    (no, route, n, attempt, not_before, origin, note, state, fence, claimed, outcome)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
INSERT_ROWS = "INSERT INTO chunk_rows (no, packed) VALUES (?, ?)"
# {}: a JSON list of lists, in the order of ledger.Trouble
INSERT_TROUBLES = f"""INSERT INTO trouble
    (recipient, number, chunk, position, attempt, outcome, class, code, enhanced, reply, relay, egress, time)
    SELECT {", ".join(f"json_extract(value, '$[{i}]')" for i in range(13))} FROM json_each({{}})"""

# One advance is one statement, an INSERT of several rows into this view: sqlite3 gives up the GIL around every step of
# every statement, and taking it back from a busy loop costs up to the switch interval, 5 ms. Beside callbacks of 200 us
# a commit of separate BEGIN, UPDATE, INSERT and COMMIT takes 20 ms and more; this one takes half a millisecond.
# An abort in any row undoes the whole statement.
ROW_RUN, ROW_CHUNK, ROW_DETAIL, ROW_TROUBLE, ROW_RETRY, ROW_PART, ROW_PLACE = 1, 2, 3, 4, 5, 6, 7

ADVANCE = f"""
CREATE TEMP VIEW advance AS SELECT 0 AS kind, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, x'' AS x, '' AS y;
CREATE TEMP TRIGGER advance_run INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_RUN} BEGIN
    SELECT RAISE(ABORT, 'fenced') WHERE new.a IS NOT (SELECT max(fence) FROM run);
    UPDATE run SET serial = new.b, seen_at = new.c, progress = coalesce(new.y, progress) WHERE fence = new.a;
END;
CREATE TEMP TRIGGER advance_chunk INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_CHUNK} BEGIN
    UPDATE chunk SET fence = new.b, claimed = new.c, state = new.d, outcome = new.x
        WHERE no = new.a AND fence <= new.b AND claimed <= new.c AND n = length(new.x);
    SELECT RAISE(ABORT, 'fenced') WHERE changes() = 0;
END;
CREATE TEMP TRIGGER advance_detail INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_DETAIL} BEGIN
    INSERT INTO detail (id, blob) VALUES (new.a, new.x);
    INSERT INTO detail_chunk (chunk, detail) SELECT value, new.a FROM json_each(new.y);
END;
CREATE TEMP TRIGGER advance_trouble INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_TROUBLE} BEGIN
    {INSERT_TROUBLES.format("new.y")};
END;
CREATE TEMP TRIGGER advance_retry INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_RETRY} BEGIN
    INSERT INTO chunk (no, route, n, attempt, not_before, origin, note, state, fence, claimed, outcome)
        VALUES (new.a, new.b, new.c, new.d, new.e, nullif(new.y, 0), NULL, {OPEN}, 0, 0,
                CAST(replace(hex(zeroblob(new.c)), '00', '.') AS BLOB));
    INSERT INTO chunk_rows (no, packed) VALUES (new.a, new.x);
END;
CREATE TEMP TRIGGER advance_part INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_PART} BEGIN
    INSERT INTO chunk (no, route, n, attempt, not_before, origin, note, state, fence, claimed, outcome)
        VALUES (new.a, new.b, new.c, 0, 0, NULL, new.y, new.d, 0, 0,
                CAST(replace(hex(zeroblob(new.c)), '00', char(new.e)) AS BLOB));
    INSERT INTO chunk_rows (no, packed) VALUES (new.a, new.x);
END;
CREATE TEMP TRIGGER advance_place INSTEAD OF INSERT ON advance WHEN new.kind = {ROW_PLACE} BEGIN
    SELECT RAISE(ABORT, 'fenced') WHERE new.a IS NOT (SELECT max(fence) FROM run);
    UPDATE job SET filled = new.b, src_digest = coalesce(CAST(new.x AS TEXT), src_digest),
        meta = CASE new.b WHEN 0 THEN json_set(meta, '$.{PLACE}', new.y) ELSE json_remove(meta, '$.{PLACE}') END;
END;
"""


def advance_sql(rows: int) -> str:
    """The INSERT of an advance of that many rows: eight values each."""
    return "INSERT INTO advance VALUES " + ",".join(["(?,?,?,?,?,?,?,?)"] * rows)
