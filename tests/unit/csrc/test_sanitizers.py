"""The C kernels' own test program, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shutil
import subprocess
import sys
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


@pytest.mark.skipif(sys.platform != "linux", reason="runs programs of another CPU by qemu-user")
def test_the_rows_of_arm64_are_right_before_a_page_that_cannot_be_touched(tmp_path: Path) -> None:
    """Debian: gcc-aarch64-linux-gnu, qemu-user. AddressSanitizer does not run there."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None or not (ROOT / "csrc").exists():
        pytest.skip("needs the source tree, aarch64-linux-gnu-gcc and qemu-aarch64")
    program = tmp_path / "kernel_test"
    flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Werror", "-DGUARD_PAGES", "-static", f"-I{ROOT / 'csrc'}"]
    sources = [*(ROOT / "csrc").glob("*.c"), ROOT / "tests" / "csrc" / "kernel_test.c"]
    subprocess.run([compiler, *flags, "-o", program, *sources], check=True)
    done = subprocess.run([emulator, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row neon: " in done.stdout
