"""Recipients from PostgreSQL: rows by the portion, types as documented, and no password in any error."""

from __future__ import annotations

import json

import pytest

from bulkmail import Job
from bulkmail.errors import ManifestError
from bulkmail.job.query import Query
from integration.servers.common import free_port
from integration.servers.postgres import PASSWORD

TYPES = """SELECT 'Ann@x.org'::varchar AS "EMail", 1::int8 AS big, 19.90::numeric AS amount, 0.5::float8 AS half,
    'NaN'::numeric AS nan, true AS yes, NULL AS nothing, date '2024-02-29' AS day, time '09:05' AS hour,
    timestamptz '2024-02-29 12:30+00' AS at, interval '26 hours' AS span, '\\xff00'::bytea AS bytes,
    '{"a": [1]}'::jsonb AS json, ARRAY[1, 2] AS list, '00000000-0000-0000-0000-000000000001'::uuid AS id"""


def query(server, sql, **other):
    return Query(sql, "postgresql", other.get("url", server.url))


def rows(server, sql):
    return [json.loads(line) for piece in query(server, sql).lines() for line in piece.splitlines()]


def test_types_become_json(postgres_server):
    server = postgres_server
    server.run("ALTER ROLE news SET timezone = 'UTC'")
    assert rows(server, TYPES) == [
        {
            "email": "Ann@x.org",
            "big": 1,
            "amount": "19.90",
            "half": 0.5,
            "nan": None,
            "yes": True,
            "nothing": None,
            "day": "2024-02-29",
            "hour": "09:05:00",
            "at": "2024-02-29T12:30:00+00:00",
            "span": "1 day, 2:00:00",
            "bytes": "/wA=",
            "json": {"a": [1]},
            "list": [1, 2],
            "id": "00000000-0000-0000-0000-000000000001",
        }
    ]


def test_many_rows_come_by_the_portion(postgres_server):
    sql = "SELECT 'r' || i || '@x.org' AS email, repeat('%', 100) AS note FROM generate_series(1, 5500) AS i ORDER BY i"
    pieces = list(query(postgres_server, sql).lines())
    assert [piece.count(b"\n") for piece in pieces] == [1000] * 5 + [500]
    assert json.loads(pieces[5].splitlines()[-1]) == {"email": "r5500@x.org", "note": "%" * 100}


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT name FROM nobody", 'relation "nobody" does not exist'),
        ("SELECT 1 AS id", "no column 'email'; it has 'id'"),
        ("SELEKT", "syntax error"),
        ("SELECT 1; SELECT 2", "the query failed"),
        ("CREATE TABLE email (email text)", "syntax error"),
        ("SELECT nextval('counter') AS email", "read-only transaction"),
        ("SELECT 1 / (3 - i) AS email FROM generate_series(1, 5) AS i", "division by zero"),
    ],
)
def test_a_query_that_fails_is_told_by_its_place(postgres_server, sql, words):
    postgres_server.run("CREATE SEQUENCE IF NOT EXISTS counter")
    with pytest.raises(ManifestError) as refused:
        list(query(postgres_server, sql).lines())
    assert words in str(refused.value) and refused.value.path == "$.recipients.sql"
    assert "\n" not in str(refused.value) and PASSWORD not in str(refused.value)


def test_no_error_shows_a_password(postgres_server):
    server = postgres_server
    closed = f"postgresql://news:s3cret@127.0.0.1:{free_port()}/x"
    for url in (server.url_with("s3cret"), closed, "postgresql://news:s3cret%zz@127.0.0.1/x", "postgresql://[s3cret"):
        with pytest.raises(ManifestError) as refused:
            list(query(server, "SELECT 1", url=url).lines())
        assert refused.value.path == "$.recipients.url"
        assert "s3cret" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_job_is_sent_to_the_rows_of_a_table(postgres_server, smtp_sink, tmp_path, monkeypatch):
    server = postgres_server
    server.run(
        "CREATE TABLE people (email text, name text, paid numeric)",
        "INSERT INTO people VALUES ('ann@x.org', 'Ann', 19.90), ('bob@x.org', 'Bob', NULL)",
    )
    monkeypatch.setenv("DATABASE", server.url)
    manifest = {
        "message": {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "{{ paid | default('-') }}"},
        "recipients": {"sql": "SELECT name, paid, email FROM people ORDER BY email", "url": "${DATABASE}"},
        "relays": smtp_sink.url,
    }
    (tmp_path / "job.json").write_text(json.dumps(manifest))
    report = Job.load(tmp_path / "job.json").run()
    assert report.exit_code == 0
    texts = {message.recipients[0]: message.email.get_content().strip() for message in smtp_sink.messages}
    assert texts == {"ann@x.org": "19.90", "bob@x.org": "-"}
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert PASSWORD.encode() not in left and b"s3cret" not in left
