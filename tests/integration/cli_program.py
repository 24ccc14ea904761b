"""`bulkmail` as a program, for tests that want its exit status and output as a shell would see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # no command of a test takes as long; a hung one fails instead of stopping the run

Finished = subprocess.CompletedProcess


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "BULKMAIL_DEBUG": "", **more}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "bulkmail", *map(str, args)]


def bulkmail(*args: object, cwd: Path, stdin: str | None = None, **environ: str) -> Finished[str]:
    """Run `bulkmail ARGS` to its end in the folder `cwd`."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=environment(**environ),
        timeout=SECONDS,
    )


def start(*args: object, cwd: Path) -> subprocess.Popen[str]:
    """Start `bulkmail ARGS`; the caller ends it."""
    return subprocess.Popen(
        command(*args),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    )


def write_job(folder: Path, relay: str, rows: int | str = 3, **keys: Any) -> Path:
    """A personalised job for so many `rows` (or with this text as its list), with these `keys` in its manifest."""
    if isinstance(rows, int):
        rows = "".join(f'{{"email":"r{n}@example.com","name":"R{n}"}}\n' for n in range(1, rows + 1))
    (folder / "list.jsonl").write_text(rows, encoding="utf-8")
    manifest = {
        "job": "news",
        "message": {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }}"},
        "recipients": "list.jsonl",
        "relays": relay,
        "journal": "news.journal",
        **keys,
    }
    path = folder / "news.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def refused(done: Finished[str], *names: str) -> None:
    """Assert that a command refused its input: status 2, plain sentences with `names` on standard error, no results."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(line.startswith("bulkmail: ") for line in done.stderr.splitlines()), done.stderr
    for name in names:
        assert name in done.stderr
