"""No message costs more instructions than it did: what a profile would show as time, without a clock."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from counts import bounds, measuring
from integration.servers.common import require

pytestmark = [
    pytest.mark.usefixtures("measured_python"),
    pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="the figures are of x86-64"),
]
WHOLES = [name for name, cost in bounds.WHOLES.items() if cost.instructions is not None]


@pytest.fixture(scope="module")
def pieces(folder):
    return measuring.instructions([*bounds.PIECES, "a list for each"], folder)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory, sinks):
    return measuring.instructions(WHOLES, tmp_path_factory.mktemp("wholes"), **sinks)


def told(file):
    """Where the instructions went, by callgrind_annotate."""
    done = subprocess.run(
        [require("callgrind_annotate"), "--auto=no", "--threshold=90", file], capture_output=True, text=True, timeout=60
    )
    return f"callgrind_annotate {file}\n{done.stdout[:6000]}{done.stderr}"


def check(found, cost):
    ((file, count),) = found.items()
    most = cost.instructions * bounds.INSTRUCTIONS
    if count > most:
        pytest.fail(f"{count:.0f} instructions a message, at most {most:.0f}\n{told(file)}")


@pytest.mark.parametrize("name", bounds.PIECES)
def test_a_piece_needs_no_more_instructions_for_a_message(name, pieces):
    check(pieces[name], bounds.PIECES[name])


@pytest.mark.parametrize("name", WHOLES)
def test_a_whole_run_needs_no_more_instructions_for_a_message(name, wholes):
    check(wholes[name], bounds.WHOLES[name])


def test_a_list_for_each_message_is_seen(pieces):
    ((_, count),) = pieces["a list for each"].items()
    assert 50 < count < 2000
