"""The fuzz harness of the reply parser: a short run finds nothing, and finds each of the mistakes put into a copy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "fuzz"
NO_COMPILER = 77

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not SCRIPT.exists(), reason="needs a POSIX shell and the source tree"
)

# What is wrong: (the line as it is, the line with the mistake)
MISTAKES = {
    "a line end beyond the buffer is looked for": ("len - s->scanned);", "len - s->scanned + 1);"),
    "a line of one digit is read as three": ("if (len < 3)", "if (len < 1)"),
    "1xx is a code": ("a < 2", "a < 1"),
    "one byte too long is not": ("end - s->end > BM_REPLY_MAX", "end - s->end > BM_REPLY_MAX + 1"),
    "the length counts only while the end has not come": ("if (end - s->end >", "if (!lf && end - s->end >"),
    "a CR before the line is cut off": ("while (size && line", "while (line"),
    "a code without text goes on": ("if (size > 3 && line[3] == '-')", "if (size <= 3 || line[3] == '-')"),
    "the code begun is forgotten": ("s->begun = code;", ""),
    "bytes are looked at again": ("            s->scanned = len;\n", ""),
    "the place of the line is not moved": ("    s->line -= s->end;\n", ""),
    "a challenge is cut": ("|| reply[0] == '3'", ""),
}  # fmt: skip


def fuzz(count: int, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["sh", SCRIPT, str(count)], env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.strip())
    return done


def test_a_short_run_finds_nothing() -> None:
    done = fuzz(200_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reply_fuzz: 200000 inputs" in done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    right, wrong = MISTAKES[mistake]
    header = (ROOT / "csrc" / "reply.h").read_text()
    assert header.count(right) == 1
    (tmp_path / "reply.h").write_text(header.replace(right, wrong))
    done = fuzz(20_000, CC="gcc", FUZZ_INCLUDE=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "input of" in done.stderr, done.stderr
