"""docs/parity.md cannot rot: every test that it names exists, and its rows stand for as many cases as it says."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "parity.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE)))
SECTIONS = re.findall(r"^### ([^\n]+): (\d+) cases?\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def tests():
    """{name of a file: names of the tests in the files of this name}"""
    found = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        found[path.name] |= set(re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.M))
    return found


def rows(section):
    """(cases, ours, tests) of each row."""
    cells = [line.strip().strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert all(len(row) in (3, 4) for row in cells), cells
    return [(int(row[1]), row[2].strip(), row[3] if len(row) > 3 else "") for row in cells if row[1].isdigit()]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(tests, file, name):
    assert name in tests[file]


@pytest.mark.parametrize(("title", "cases", "section"), SECTIONS, ids=[title for title, _, _ in SECTIONS])
def test_the_rows_add_up_and_each_has_a_test_or_says_that_there_is_none(title, cases, section):
    found = rows(section)
    assert sum(number for number, _, _ in found) == int(cases)
    for _, ours, named in found:
        assert ours and ("::" in named) != (ours == "none")


def test_the_page_was_read_as_it_is_meant():
    cases = [int(cases) for _, cases, _ in SECTIONS]
    assert (sum(cases[:6]), sum(cases[6:])) == (136, 306)  # the tests that Nodemailer and aiosmtplib have
    assert len(NAMED) > 200
