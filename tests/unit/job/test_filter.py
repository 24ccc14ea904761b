"""Duplicates are left out, and nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulkmail.job.seen import AddressSet, siphash
from bulkmail.job.suppression import DUPLICATE, RecipientFilter


def verdicts(found: RecipientFilter, *addresses: str) -> list[str | None]:
    return [found.filter(address) for address in addresses]


def test_a_duplicate_is_the_second_of_its_kind_in_any_case() -> None:
    found = RecipientFilter(deduplicate=True)
    assert verdicts(found, "Ann@x.org", "b@x.org", "ann@X.ORG") == [None, None, DUPLICATE]


def test_exact_keeps_the_case_of_the_local_part() -> None:
    found = RecipientFilter(deduplicate="exact")
    assert verdicts(found, "Ann@x.org", "ann@x.org", "Ann@X.ORG") == [None, None, DUPLICATE]


def test_other_scripts_are_compared_without_case_too() -> None:
    assert verdicts(RecipientFilter(deduplicate=True), "ÄNN@x.org", "änn@x.org")[1] == DUPLICATE
    exact = RecipientFilter(deduplicate="exact")
    assert verdicts(exact, "ÄNN@x.org", "änn@x.org", "ÄNN@X.org") == [None, None, DUPLICATE]


def test_without_deduplicate_nothing_is_a_duplicate() -> None:
    found = RecipientFilter()
    assert not found
    assert verdicts(found, "a@x.org", "a@x.org") == [None, None]


def test_a_batch_is_filtered_as_its_rows_one_by_one() -> None:
    addresses = ["a@x.org", "b@x.org", "A@x.org", "c@x.org", "b@x.org"]
    assert RecipientFilter(deduplicate=True).filter_all(addresses) == [(2, DUPLICATE), (4, DUPLICATE)]
    assert RecipientFilter().filter_all(addresses) == []


def test_siphash_gives_the_papers_vectors() -> None:
    key = bytes(range(16))
    vectors = {0: 0x726FDB47DD0E0E31, 1: 0x74F839C593DC67FD, 8: 0x93F5F5799A932462, 15: 0xA129CA6149BE45E5}
    assert {size: siphash(bytes(range(size)), key) for size in vectors} == vectors


@given(st.lists(st.emails(), max_size=60))
def test_a_set_knows_exactly_what_was_added(addresses: list[str]) -> None:
    found, model = AddressSet(), set[str]()
    for address in addresses:
        assert found.add(address) == (address.lower() not in model)
        model.add(address.lower())
        assert address in found and address.swapcase() in found
        assert len(found) == len(model)


def test_a_large_set_holds_everyone_in_sixteen_bytes_each() -> None:
    found = AddressSet()
    for count, i in enumerate(range(60_000), 1):
        assert found.add(f"r{i}@x.org")
        if count % 5000 == 0:
            assert found.nbytes <= 16 * count
    assert not any(found.add(f"r{i}@x.org") for i in range(60_000))
    assert not any(f"s{i}@x.org" in found for i in range(60_000))
