"""A short crash campaign: some of everything that `scripts/campaign` does by the thousand.

Incident it answers: a mailer whose tests killed it where its author had thought of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from campaign import shim

pytestmark = pytest.mark.skipif(not shim.can_be_made(), reason="needs Linux and a C compiler")

ROOT = Path(__file__).parents[2]
SECONDS = 300  # some ten where nothing else runs


def campaign(*options: str) -> dict[str, Any]:
    """The tally by kind; nothing may be wrong."""
    done = subprocess.run(
        [ROOT / "scripts" / "campaign", "--json", *options],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    return dict(result["tally"])


def test_kills_lose_nobody_and_send_to_nobody_twice() -> None:
    tally = campaign("--kind", "kill", "--kills", "20")["kill"]
    assert tally["kills"] >= 20
    assert tally["delivered"] > 0


def test_disks_that_fill_and_clocks_that_jump() -> None:
    tally = campaign("--kind", "disk-full", "--disk-full", "3")
    assert sum(count for name, count in tally["disk-full"].items() if name.startswith("disk: ")) >= 3
    assert campaign("--kind", "clock", "--clock", "1")["clock"]["delivered"] > 0


def test_who_stands_still_for_a_while() -> None:
    assert campaign("--kind", "stop", "--stop", "1", "--stop-seconds", "0.5")["stop"]["delivered"] > 0


def test_the_power_goes_at_both_levels() -> None:
    tally = campaign("--kind", "power", "--power", "50")["power"]
    assert tally["power cuts at level power"] == tally["power cuts at level process"] == 25


def test_a_wrong_journal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that says `power` and does as `process`: the campaign has to see it."""
    monkeypatch.setenv("BULKMAIL_CAMPAIGN_MUTANT", "power-is-process")
    with pytest.raises(AssertionError, match=r"would be sent to twice|there is no journal|has no recipients"):
        campaign("--kind", "power", "--power", "75")
