"""Shares by address: the same wherever and whenever they are asked for, and as large as they say."""

from __future__ import annotations

import pytest

from bulkmail.job.shares import Shares

PEOPLE = [f"person{i}@{('example.com', 'mail.example')[i % 2]}" for i in range(20_000)]


def drawn(share: float, job: str = "news", purpose: str = "sample") -> set[str]:
    shares = Shares(purpose, job, [int(share * 2**64)])
    return {address for address, out in zip(PEOPLE, shares.of_all(PEOPLE), strict=True) if not out}


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_a_share_is_as_large_as_chance_makes_it(share: float) -> None:
    sigma = (len(PEOPLE) * share * (1 - share)) ** 0.5
    assert abs(len(drawn(share)) - share * len(PEOPLE)) < 5 * sigma


def test_a_larger_share_contains_the_smaller_one() -> None:
    assert drawn(0.01) < drawn(0.011) < drawn(0.3) < drawn(0.31)


def test_another_job_or_purpose_deals_anew() -> None:
    first = drawn(0.5)
    for other in (drawn(0.5, job="news2"), drawn(0.5, purpose="variants")):
        assert abs(len(first & other) - len(PEOPLE) / 4) < 5 * (len(PEOPLE) * 3 / 16) ** 0.5


def test_case_does_not_matter_in_any_script() -> None:
    shares = Shares("sample", "news", [1 << 62, 1 << 63])
    for address in ("Ann@Example.COM", "ÄNN@x.org", "a" * 240 + "@x.org", "B" * 300 + "@X.ORG"):
        assert shares.of(address) == shares.of(address.lower()) == shares.of(address.swapcase())


def test_these_shares_never_change() -> None:
    """A job that is resumed by a later version sends the same variant to the same recipient."""
    shares = Shares("variants", "news", [i << 60 for i in range(1, 16)])
    addresses = ["ann@example.com", "bob@example.org", "carla@mail.example", "dörte@x.org", "x" * 260 + "@example.com"]
    assert [shares.of(address) for address in addresses] == KNOWN
    assert list(shares.of_all(addresses)) == KNOWN


# Computed from the definition of SipHash-2-4 and BLAKE2b, in Python.
KNOWN = [3, 8, 5, 12, 6]


def test_the_last_share_is_for_all_others() -> None:
    assert Shares("p", "j", []).of("a@x.org") == 0
    assert Shares("p", "j", [0]).of("a@x.org") == 1
    assert Shares("p", "j", [2**64 - 1]).of("a@x.org") == 0


@pytest.mark.parametrize("bounds", [[2, 1], [-1], [2**64], range(65)])
def test_bounds_that_are_none_are_refused(bounds: list[int]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Shares("p", "j", bounds)
