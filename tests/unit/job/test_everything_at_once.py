"""Jobs with everything at once, from numbers: whatever goes wrong, everybody is accounted for and every limit holds."""

from __future__ import annotations

import pytest

from unit.job.everything import Case, Runs


@pytest.mark.parametrize("seed", range(40))
def test_everybody_is_accounted_for_every_limit_is_held_and_the_run_ends(seed):
    Runs(Case(seed)).check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_the_same_of_many_more(seed):
    Runs(Case(seed)).check()
