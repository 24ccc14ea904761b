"""The frame: help, usage errors, what an error looks like, what is imported."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bulkmail.cli import TABLE, main
from bulkmail.cli.trouble import plain, sentences
from bulkmail.errors import ConnectError, JournalError, ManifestError

ROOT = Path(__file__).resolve().parents[3]
HEAVY = (
    "pydantic",
    "jinja2",
    "rich",
    "uvloop",
    "asyncio",
    "sqlite3",
    "bulkmail.job.job",
    "bulkmail.smtp.session",
    "email",
)


def bulkmail(*args: str, **more: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [sys.executable, "-m", "bulkmail", *args], capture_output=True, text=True, env=environ, timeout=60, **more
    )  # type: ignore[call-overload,no-any-return]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom bulkmail.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_help_lists_every_command(call):
    result = call("--help")
    assert result.exit_code == 0
    for name, text in TABLE.items():
        assert f"  {name}" in result.stdout and text.split()[0] in result.stdout


@pytest.mark.parametrize("name", list(TABLE))
def test_every_command_explains_itself_with_an_example(call, name):
    result = call(name, "--help")
    assert result.exit_code == 0, result.stderr
    assert f"Usage: bulkmail {name}" in result.stdout
    assert "Example" in result.stdout and f"bulkmail {name}" in result.stdout.split("Example")[1]
    assert result.stderr == ""


def test_version(call):
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("bulkmail ") and result.stdout[9].isdigit()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["sned"], ["sned", "'send'"]),
        (["send"], ["MANIFEST", "bulkmail send --help"]),
        (["send", "m.json", "--frobnicate"], ["--frobnicate"]),
        (["send", "m.json", "--limit", "0"], ["--limit", "0"]),
        (["send", "m.json", "--in-doubt", "maybe"], ["--in-doubt", "skip"]),
        (["report", "x.journal", "--format", "xml"], ["--format", "jsonl"]),
        (["--wat"], ["--wat"]),
    ],
)
def test_bad_usage_is_one_sentence_on_stderr_and_status_2(call, args, names):
    result = call(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert all(name in result.stderr for name in names), result.stderr


def test_no_command_shows_the_help_on_stderr_and_is_status_2(call):
    result = call()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr and result.stdout == ""


def test_every_problem_of_a_manifest_has_its_line(call, job):
    problems = [
        ("$.relays[0].url", "found 7, expected a URL"),
        ("$.message", "missing"),
        ("$", "m.json: line 3: not JSON"),
    ]
    job.load_error = ManifestError("3 problems", path=problems[0][0], problems=problems)
    result = call("send", "m.json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "bulkmail: $.relays[0].url: found 7, expected a URL",
        "bulkmail: $.message: missing",
        "bulkmail: m.json: line 3: not JSON",
    ]


def test_a_traceback_only_with_the_debug_switch(call, job, monkeypatch):
    job.load_error = KeyError("boo")
    monkeypatch.delenv("BULKMAIL_DEBUG", raising=False)
    quiet = call("send", "m.json")
    assert quiet.exit_code == 2
    assert "KeyError" in quiet.stderr and "BULKMAIL_DEBUG=1" in quiet.stderr and "Traceback" not in quiet.stderr
    monkeypatch.setenv("BULKMAIL_DEBUG", "1")
    assert "Traceback" in call("send", "m.json").stderr


def test_errors_as_sentences():
    assert sentences(JournalError("news.journal: in use by process 7")) == ["news.journal: in use by process 7"]
    assert sentences(ConnectError()) == ["ECONNECTION"]
    assert sentences(FileNotFoundError(2, "No such file or directory", "a.json")) == [
        "a.json: No such file or directory"
    ]
    assert sentences(ManifestError("$.job: missing", path="$.job")) == ["$.job: missing"]
    rows = ManifestError(
        "two bad rows; skip them:\n  row 1: no\n  row 2: no", problems=[("$", "row 1: no"), ("$", "row 2: no")]
    )
    assert sentences(rows) == ["two bad rows; skip them:", "row 1: no", "row 2: no"]


def test_text_from_outside_cannot_drive_the_terminal():
    assert plain("550 \x1b[2Jno\r\nway \x9b\udc80") == r"550 \x1b[2Jno way \x9b\udc80"


def test_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    script = "import click, bulkmail.cli.schema as module\nmodule.schema.callback = lambda: click.echo('x' * 100000)\n"
    script += "from bulkmail.cli import main\nmain(['schema'])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=write,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_standard_output_is_a_sentence(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bulkmail", "init", str(tmp_path)],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "bulkmail: No space left on device\n"


def test_python_m_bulkmail_is_the_same_program():
    done = bulkmail("--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: bulkmail ")
    assert bulkmail("nothing").returncode == 2


def test_main_can_be_called_without_leaving(call, job):
    assert main(["send", "m.json"], standalone_mode=False) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no >&- on Windows")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(closed, tmp_path):
    """What is opened next must not get their numbers: events for standard output would go into it."""
    program = (
        "import os, sys; from bulkmail.cli import commands; commands.open_closed_streams(); "
        f"number = os.open({str(tmp_path / 'journal')!r}, os.O_RDWR | os.O_CREAT); print('x', flush=True); "
        "print('x', file=sys.stderr, flush=True); sys.exit(0 if number > 2 else 9)"
    )
    for arguments in (f"-c {shlex.quote(program)}", "-m bulkmail schema"):
        done = subprocess.run(f"{shlex.quote(sys.executable)} {arguments} {closed}", shell=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "journal").read_bytes() == b""
