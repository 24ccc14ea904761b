"""`bench`: what its options come to, what it refuses, what it prints; nothing is sent here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bulkmail.errors import ConnectError, ResolveError
from bulkmail.load import bench as engine
from bulkmail.load import nearby

URL = "smtp://127.0.0.1:2525"
KEYS = [
    "messages", "seconds", "messages_per_second", "bytes_per_second", "p50_ms", "p99_ms", "cpu_us_per_message",
    "max_rss_mb", "failed",
]  # fmt: skip
REPORT = engine.BenchReport(
    messages=1999, failed=1, in_doubt=1, refused=0, opening=0.25, seconds=2.0, cpu_seconds=0.02, size=2048,
    p50=0.0012345, p99=0.25, max_rss_mb=31.26, connections=3, asked=4, connect_failures=1,
    last_failure=ConnectError("no \x1b[1m more"),
    reasons=[("in doubt: gone \x1b[31m", 1)], error=None, stopped=False,
)  # fmt: skip


PLAIN = replace(REPORT, failed=0, in_doubt=0, reasons=[], connect_failures=0, last_failure=None)


class Runs(list):
    """The runs that were begun; each ends with `report`."""

    report = PLAIN


@pytest.fixture
def began(monkeypatch):
    runs = Runs()

    class Begun(engine.Bench):
        async def run(self):
            runs.append(self)
            return runs.report

    monkeypatch.setattr(engine, "Bench", Begun)
    return runs


def test_defaults(call, began):
    assert call("bench", URL).exit_code == 0
    (run,) = began
    assert (run.messages, run.duration, run.load.size, run.load.each) == (10_000, None, 2048, 1)
    options = run.endpoint.options
    assert (options.connections, options.messages_per_connection, options.tls, options.verify) == (10, 0, "auto", True)
    assert (run.load.sender, run.load.rcpts) == (b"bench@example.test", (b"user1@example.test",))


def test_what_the_url_says_stands(call, began):
    assert call("bench", f"{URL}?connections=3&messages_per_connection=7&tls=never&rate=5/s").exit_code == 0
    options = began[0].endpoint.options
    assert (options.connections, options.messages_per_connection, options.tls) == (3, 7, "never")
    assert options.rate.per_second == 5


def test_options_win_over_the_url(call, began):
    flags = ["--connections", "4", "--tls", "require", "--insecure", "--rate", "9/s", "--proxy", "socks5://127.0.0.1:9"]
    assert call("bench", f"{URL}?connections=3&tls=never&rate=5/s", *flags).exit_code == 0
    options = began[0].endpoint.options
    assert (options.connections, options.tls, options.verify, options.rate.per_second) == (4, "require", False, 9)
    assert str(options.proxy) == "socks5://127.0.0.1:9"


@pytest.mark.parametrize("flags, messages, duration", [
    (["--messages", "5"], 5, None), (["--duration", "2s"], None, 2.0), (["--duration=1m", "--messages=5"], 5, 60.0),
])  # fmt: skip
def test_how_long(call, began, flags, messages, duration):
    assert call("bench", URL, *flags).exit_code == 0
    assert (began[0].messages, began[0].duration) == (messages, duration)


def test_the_message_and_the_envelope(call, began, tmp_path):
    file = tmp_path / "m.eml"
    file.write_bytes(b"Subject: x\n\n.y\n")
    flags = ["--message", file, "--from", "", "--to", "a@x.test", "--to", "b@x.test", "--recipients-per-message", "3"]
    assert call("bench", URL, *flags).exit_code == 0
    load = began[0].load
    assert (load.sender, load.rcpts, load.each) == (b"", (b"a@x.test", b"b@x.test"), 3)
    assert load.body == b"Subject: x\r\n\r\n..y\r\n.\r\n" and load.size == 18


def test_auth_is_a_user_and_password_and_shown_to_nobody(call, began):
    assert call("bench", URL, "--auth", "a@b:s3c:r/t%").exit_code == 0
    endpoint = began[0].endpoint
    assert (endpoint.user, endpoint.password) == ("a@b", "s3c:r/t%")
    assert "s3c" not in repr(endpoint) + str(endpoint)


@pytest.mark.parametrize("flags, words", [
    (["--auth", "s3cret"], ["USER:PASSWORD"]),
    (["--auth", ":s3cret"], ["USER:PASSWORD"]),
    (["--size", "10"], ["--size 10", "take 69"]),
    (["--size", "-1"], ["--size is -1"]),
    (["--size", "9999999999"], ["--size is 9999999999"]),
    (["--size", "x"], ["--size"]),
    (["--size", "100", "--message", "x"], ["--size and --message exclude each other"]),
    (["--message", "nowhere.eml"], ["nowhere.eml: No such file or directory"]),
    (["--connections", "0"], ["--connections", "0"]),
    (["--connections", "9999999"], ["connections", "9999999"]),
    (["--messages", "0"], ["--messages", "0"]),
    (["--duration", "soon"], ["--duration", "'soon'"]),
    (["--duration", "0"], ["--duration"]),
    (["--recipients-per-message", "0"], ["--recipients-per-message"]),
    (["--rate", "fast"], ["'rate'", "'fast'", "'300/s'"]),
    (["--tls", "maybe"], ["--tls", "maybe"]),
    (["--proxy", "ftp://h"], ["ftp"]),
    (["--proxy", "env", "--proxy", "http://h:1"], ["--proxy env stands alone"]),
    (["--from", "nobody"], ["--from", "'nobody'"]),
    (["--to", "nobody"], ["--to", "'nobody'"]),
])  # fmt: skip
def test_bad_arguments(call, began, flags, words):
    result = call("bench", URL, *flags)
    assert (result.exit_code, result.stdout, began) == (2, "", [])
    assert result.stderr.startswith("bulkmail: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize("url, words", [
    ("ftp://h", ["ftp"]), ("smtp://127.0.0.1?tsl=never", ["'tsl'", "tls"]), ("127.0.0.1:25", ["relay URL"]),
])  # fmt: skip
def test_bad_urls(call, began, url, words):
    result = call("bench", url)
    assert (result.exit_code, result.stdout, began) == (2, "", [])
    assert all(word in result.stderr for word in words), result.stderr


def test_a_user_in_the_url_and_auth_exclude_each_other(call, began):
    result = call("bench", "smtp://ann:s3cret@127.0.0.1", "--auth", "bob:s3cret")
    assert result.exit_code == 2 and "exclude each other" in result.stderr and "s3cret" not in result.stderr


# ---- where it may be pointed


def test_a_host_elsewhere_needs_yes(call, began):
    result = call("bench", "smtp://8.8.8.8")
    assert (result.exit_code, result.stdout, began) == (2, "", [])
    assert "8.8.8.8:587" in result.stderr and "--yes" in result.stderr
    assert call("bench", "smtp://8.8.8.8", "--yes").exit_code == 0
    assert len(began) == 1


def test_a_name_that_does_not_resolve_cannot_be_run(call, began, monkeypatch):
    async def resolve(host, port, *, timeout):
        raise ResolveError(f"{host}: the name does not resolve")

    monkeypatch.setattr(nearby, "resolve", resolve)
    result = call("bench", "smtp://nowhere.test")
    assert (result.exit_code, result.stdout, began) == (3, "", [])
    assert result.stderr == "bulkmail: nowhere.test: the name does not resolve\n"


# ---- what it prints


def test_the_json_has_these_keys_and_no_others(call, began):
    result = call("bench", URL, "--json")
    assert result.exit_code == 0 and result.stderr == ""
    figures = json.loads(result.stdout)
    assert list(figures) == KEYS
    assert figures == {
        "messages": 1999, "seconds": 2.0, "messages_per_second": 999.5, "bytes_per_second": 2046976, "p50_ms": 1.234,
        "p99_ms": 250.0, "cpu_us_per_message": 10.01, "max_rss_mb": 31.3, "failed": 0,
    }  # fmt: skip


def test_for_people(call, began):
    began.report = replace(PLAIN, failed=1, in_doubt=1, refused=4, reasons=REPORT.reasons)
    result = call("bench", URL)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "1,999 messages of 2,048 bytes in 2.0 s: 1,000/s, 2.0 MB/s",
        "  latency      p50 1.23 ms, p99 250 ms",
        "  CPU          10.0 µs a message",
        "  connections  3 at most, of 4 asked for, open after 0.2 s",
        "  memory       31.3 MB at most",
        "  failed       1, 1 of them in doubt",
        "  refused      4 recipients of messages that were taken",
    ]
    assert result.stderr == "bulkmail: 1 × in doubt: gone \\x1b[31m\n"


@pytest.mark.parametrize("changes, status, words", [
    ({"failed": 3, "reasons": [("RCPT: 550 no", 3)]}, 1, "3 × RCPT: 550 no"),
    ({"refused": 3, "reasons": [("RCPT: 550 no", 3)]}, 1, "3 × RCPT: 550 no"),
    ({"reasons": [(f"MAIL: 45{n} x", 1) for n in range(7)], "failed": 7}, 1, "and 2 other reasons"),
    ({"connect_failures": 2, "last_failure": REPORT.last_failure}, 0, "the last error: no \\x1b[1m more"),
    ({"error": ConnectError("connection refused")}, 3, "connection refused"),
    ({"stopped": True}, 3, "stopped before the end"),
])  # fmt: skip
def test_the_exit_status_and_what_is_said_of_it(call, began, changes, status, words):
    began.report = replace(PLAIN, **changes)
    result = call("bench", URL, "--json")
    assert result.exit_code == status and words in result.stderr
    assert list(json.loads(result.stdout)) == KEYS


def test_what_measured_nothing_has_no_figures_for_people_and_nulls_in_json(call, began):
    began.report = replace(PLAIN, messages=0, seconds=0.0, p50=None, p99=None, error=ConnectError("connection refused"))
    assert call("bench", URL).stdout == ""
    figures = json.loads(call("bench", URL, "--json").stdout)
    assert (figures["messages"], figures["messages_per_second"], figures["p50_ms"]) == (0, 0.0, None)


def test_help_has_an_example(call):
    assert "bulkmail bench smtp://127.0.0.1:2525 --connections 20" in call("bench", "--help").stdout
