"""What a command loads: no feature that it does not use. Each user waits for the start of each job.

The bounds are counts of modules, with some room: who adds a feature loads it where it is used, and these stay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkmail.sink.threaded import SmtpSink

ROOT = Path(__file__).resolve().parents[3]

# modules beyond those of a bare interpreter, and of them ours
MOST = {"import": (20, 1), "help": (125, 8), "send": (475, 205)}

# What only some jobs have a use for.
FEATURES = [
    "bulkmail.bounces",
    "bulkmail.load",
    "bulkmail.sink",
    "bulkmail.message.lint",
    "bulkmail.pool.mailer",
    "bulkmail.smtp.connection",
    "bulkmail.smtp.auth",
    "bulkmail.smtp.login",
    "bulkmail.smtp.verify",
    "bulkmail.message.message",
    "bulkmail.message.attach",
    "bulkmail.message.embed",
    "bulkmail.message.fetch",
    "bulkmail.message.rework",
    "bulkmail.message.html_tags",
    "bulkmail.message.dkim_sign",
    "bulkmail.message.signing",
    "bulkmail.message.by_email",
    "bulkmail.job.webhook",
    "bulkmail.job.event_file",
    "bulkmail.job.lint",
    "bulkmail.job.check",
    "bulkmail.job.rehearsal",
    "bulkmail.job.report",
    "bulkmail.job.where",
    "aiohttp",
    "babel",
    "cryptography",
    "css_inline",
    "dkim",
    "dns",
    "filelock",
    "idna",
    "psycopg",
    "publicsuffixlist",
    "rich",
    "http.client",
    "urllib.request",
    "html",
    "mimetypes",
    "tomllib",
]

# What some interpreters have loaded before the first line, and others have not: editable installs do.
REPORT = """
import contextlib, functools, importlib.util, re, sys, typing, warnings
before = set(sys.modules)
try:
    {code}
except SystemExit:
    pass
sys.stderr.write(' '.join(sorted(set(sys.modules) - before)))
"""


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter loads for this code."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(code=code)], capture_output=True, text=True, env=environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def command(*arguments: str) -> set[str]:
    return loaded(f"from bulkmail.cli import main; main({list(arguments)!r})")


def check(kind: str, modules: set[str]) -> None:
    ours = {name for name in modules if name.partition(".")[0] == "bulkmail"}
    most, most_ours = MOST[kind]
    assert len(modules) <= most, f"{len(modules)} modules: {' '.join(sorted(modules))}"
    assert len(ours) <= most_ours, f"{len(ours)} of ours: {' '.join(sorted(ours))}"


@pytest.fixture
def job(tmp_path: Path, smtp_sink: SmtpSink) -> Path:
    manifest = {
        "message": {"from": "News <news@example.com>", "to": "{{ name }} <{{ email }}>", "subject": "Hello {{ name }}",
                    "text": "Dear {{ name }},\n\nall is well.\n"},
        "recipients": "recipients.csv",
        "relays": f"smtp://127.0.0.1:{smtp_sink.port}",
    }  # fmt: skip
    (tmp_path / "recipients.csv").write_text("email,name\nann@example.com,Ann\nbob@example.net,Bob\n")
    path = tmp_path / "job.json"
    path.write_text(json.dumps(manifest))
    return path


def test_importing_the_package_loads_nothing_of_it():
    check("import", loaded("import bulkmail"))


def test_help_loads_the_command_line_alone():
    modules = command("--help")
    check("help", modules)
    assert not modules & {"asyncio", "jinja2", "orjson", "sqlite3", "ssl", "uvloop", *FEATURES}


def test_a_plain_job_loads_no_feature_that_it_does_not_use(job, smtp_sink):
    modules = command("send", str(job), "--json", "--no-progress")
    assert len(smtp_sink.messages) == 2
    check("send", modules)
    assert " ".join(sorted(modules & set(FEATURES))) == ""


# Functions that are compiled from text while a job starts, 0.06 ms each: those of dataclasses, see bulkmail/records.py.
MOST_COMPILED = 475
COUNT_COMPILED = """
import sys
texts = []
def hook(event, given):
    if event == "compile" and given[1] == "<string>" and bytes(given[0] or b"").startswith(b"def "):
        texts.append(given[0])
sys.addaudithook(hook)
{code}
sys.stderr.write(str(len(texts)))
"""


def test_few_functions_are_compiled_at_the_start_of_a_job(job):
    arguments = ["send", str(job), "--json", "--no-progress"]
    code = f"from bulkmail.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_COMPILED.format(code=code)],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stderr) <= MOST_COMPILED


def test_a_job_loads_what_its_manifest_asks_for(job, smtp_sink):
    manifest = json.loads(job.read_text())
    manifest["message"]["attachments"] = [{"content": "notes", "name": "notes.txt"}]
    job.write_text(json.dumps(manifest))
    modules = command("send", str(job), "--json", "--no-progress")
    assert "bulkmail.message.attach" in modules
