"""The C kernels' own test program, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NO_COMPILER = 77


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_kernels_stay_inside_exact_allocations(compiler: str) -> None:
    script = ROOT / "scripts" / "sanitize"
    if not script.exists() or shutil.which(compiler) is None:
        pytest.skip(f"needs the source tree and {compiler}")
    done = subprocess.run(
        ["sh", script], env={**os.environ, "CC": compiler}, capture_output=True, text=True, timeout=300
    )
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row scalar: " in done.stdout
