"""What a newcomer meets first keeps its word: the README's manifest and code, links, the choice of a Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "benchmarks/README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
OLD_PYTHON = '#!/bin/sh\necho "is Python 3.9; 3.11 or newer is needed" >&2\nexit 1\n'


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_readme_has_a_manifest_of_ten_lines_that_is_accepted(tmp_path):
    from bulkmail.job.manifest import load_manifest

    (manifest,) = blocks("json")
    assert len(manifest.splitlines()) <= 10
    (tmp_path / "news.json").write_text(manifest)
    (tmp_path / "subscribers.csv").write_text("email,name\nann@example.com,Ann\n")
    loaded = load_manifest(tmp_path / "news.json", environ={"SMTP_PASSWORD": "secret"})
    assert loaded.job == "november-news"


def test_the_readme_has_code_that_compiles_and_names_that_exist():
    import bulkmail

    for code in blocks("python"):
        compile(code, "README.md", "exec")
        for name in re.findall(r"bulkmail\.(\w+)", code):
            assert hasattr(bulkmail, name), name


@pytest.mark.parametrize("page", PAGES)
def test_a_link_within_the_documents_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert "://" in target or ((ROOT / page).parent / target).exists(), target


def test_the_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", README)) <= targets


def find_python(**environment):
    done = subprocess.run(
        [ROOT / "scripts" / "find-python"], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_python_that_is_named_is_taken_or_refused_with_the_reason(tmp_path):
    assert find_python(PYTHON=sys._base_executable)[0] == 0
    old = tmp_path / "python3.9"
    old.write_text(OLD_PYTHON)
    old.chmod(0o755)
    status, _, errors = find_python(PYTHON=str(old))
    assert status == 1 and f"{old}: is Python 3.9; 3.11 or newer is needed" in errors
    assert "nowhere: not found" in find_python(PYTHON="nowhere")[2]
