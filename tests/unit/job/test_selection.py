"""Who gets the message: everybody whom nothing leaves out, each left out for a reason that is told."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.fill import Filling
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.recipients import open_source
from bulkmail.job.seeds import FIRST_NUMBER, FIRST_OFFSET, MAX_SEEDS, Seeds, number_of, seed_of
from bulkmail.job.selection import NOT_DRAWN, NOT_MEANT, SEED, Selection
from bulkmail.job.specs import RecipientsSpec
from bulkmail.job.suppression import DUPLICATE
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec

MESSAGE = compile_message(MessageSpec(from_="n@example.com", subject="Hello {{ name }}", text="t"), job="job")
Verdicts = dict[str, str]


def person(number: int, **more: Any) -> dict[str, Any]:
    return {"email": f"r{number}@example.com", "name": f"N{number}", **more}


def choose(folder: Path, rows: list[dict[str, Any]], names: Any = None, **spec: Any) -> Verdicts:
    """Address (the second time: row) -> why it is left out, "" or what is bad. The ledger's counts must agree."""
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found: Verdicts = {}
    given = RecipientsSpec(path, **spec)
    selection = Selection(given, MESSAGE, "job", names)
    with open_source(given, spool_dir=folder, stem="journal") as source:
        for batch in selection.scan(source, rows=True):
            out = selection.decide(batch)
            for i, row in enumerate(batch.rows):
                key = row["email"] if row["email"] not in found else f"row {batch.numbers[i]}"
                found[key] = out.get(i, "")
            for problem in batch.problems:
                found[f"row {problem.number}"] = f"bad: {problem.reason}"
    ledger = MemoryLedger()
    with open_source(given, spool_dir=folder, stem="journal") as source, ledger.fill() as filler:
        Filling(source, given, MESSAGE, None, selection=Selection(given, MESSAGE, "job", names)).run(filler)
    counts = ledger.counts()
    assert counts.suppressed == sum(bool(why) and not why.startswith("bad") for why in found.values())
    assert counts.recipients == len(found)
    return found


def test_where_leaves_out_and_what_it_leaves_out_need_not_be_whole(tmp_path: Path) -> None:
    rows = [person(1, age=18), person(2, age=17), {"email": "r3@example.com", "age": 3}]
    assert choose(tmp_path, rows, where="age >= 18") == {
        "r1@example.com": "",
        "r2@example.com": NOT_MEANT,
        "r3@example.com": NOT_MEANT,
    }


def test_a_row_that_where_lets_through_must_be_whole(tmp_path: Path) -> None:
    rows = [person(1, age=18), {"email": "r2@example.com", "age": 18}]
    found = choose(tmp_path, rows, where="age >= 18", bad_rows="skip")
    assert found["row 2"] == 'bad: no "name", which the message uses; add it, or give it in `defaults`'
    with pytest.raises(ManifestError, match='row 2: no "name", which the message uses'):
        choose(tmp_path, rows, where="age >= 18")


def test_rows_that_where_fails_for_are_bad_ones_and_the_others_keep_their_verdict(tmp_path: Path) -> None:
    rows = [person(1, age="x"), person(2, age=3), person(3), person(4, age=20), person(5, age=4), person(4, age=20)]
    found = choose(tmp_path, rows, where="age >= 18", bad_rows="skip", deduplicate=True)
    assert found == {
        "r2@example.com": NOT_MEANT,
        "r4@example.com": "",
        "r5@example.com": NOT_MEANT,
        "row 6": DUPLICATE,
        "row 1": "bad: where, line 1: '>=' not supported between instances of 'str' and 'int' "
        "(a text is no number: FIELD | int makes one of it)",
        "row 3": "bad: where, line 1: 'age' is undefined",
    }


def test_defaults_and_variables_stand_in_for_fields(tmp_path: Path) -> None:
    rows = [person(1), person(2, age=17)]
    assert list(choose(tmp_path, rows, names={"age": 30}, where="age >= 18").values()) == ["", NOT_MEANT]


def test_who_is_left_out_first_is_no_first_of_duplicates(tmp_path: Path) -> None:
    rows = [person(1, age=1), person(1, age=20), person(1, age=21)]
    found = choose(tmp_path, rows, where="age >= 18", deduplicate=True)
    assert list(found.values()) == [NOT_MEANT, "", DUPLICATE]


def test_an_expression_that_is_none_is_refused_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        choose(tmp_path, [person(1)], where="age >=")
    assert caught.value.path == "$.recipients.where"


def test_a_sample_is_the_same_in_any_order_and_grows(tmp_path: Path) -> None:
    rows = [person(number) for number in range(1000)]
    small, again, large = (
        {address for address, why in choose(tmp_path, order, sample=Fraction(share, 100)).items() if not why}
        for order, share in ((rows, 10), (rows[::-1], 10), (rows, 20))
    )
    assert small == again < large
    assert 60 < len(small) < 140
    counted = Counter(choose(tmp_path, rows, sample=Fraction(10, 100)).values())
    assert counted == {"": len(small), NOT_DRAWN: 1000 - len(small)}


def test_a_sample_of_all_is_everybody(tmp_path: Path) -> None:
    assert set(choose(tmp_path, [person(1), person(2)], sample=Fraction(1)).values()) == {""}


def test_seeds_pass_everything_but_suppression(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("left@seeds.test\n")
    seeds = [person(0) | {"email": "boss@seeds.test"}, person(0) | {"email": "left@seeds.test"}, person(2)]
    rows = [person(1, age=20), person(2, age=20), person(3, age=20), person(1, age=20) | {"email": "BOSS@seeds.test"}]
    found = choose(
        tmp_path,
        rows,
        where="age == 20 and email != 'r3@example.com'",
        deduplicate=True,
        suppress=(tmp_path / "gone.txt",),
        always_include=tuple(seeds),
    )
    assert found == {
        "boss@seeds.test": "",
        "left@seeds.test": "suppressed: listed in gone.txt",
        "r2@example.com": "",
        "r1@example.com": "",
        "row 2": SEED,
        "r3@example.com": NOT_MEANT,
        "BOSS@seeds.test": SEED,
    }


def test_a_seed_that_lacks_a_field_is_an_error_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        choose(tmp_path, [person(1)], always_include=(person(2), "bare@seeds.test"), bad_rows="skip")
    assert caught.value.path == "$.recipients.always_include[1]"
    assert 'no "name", which the message uses' in str(caught.value)


def test_a_list_without_rows_is_no_job_even_with_seeds(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no recipients"):
        choose(tmp_path, [], always_include=(person(1),))


def test_the_limit_counts_seeds_and_who_is_left_out(tmp_path: Path) -> None:
    given = RecipientsSpec(tmp_path / "list.jsonl", where="age == 1", always_include=(person(8), person(9)))
    given.source.write_text("".join(json.dumps(person(i, age=i % 2)) + "\n" for i in range(10)))  # type: ignore[union-attr]
    for limit, pending, suppressed in ((1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (99, 6, 6)):
        ledger = MemoryLedger()
        with open_source(given, spool_dir=tmp_path, stem="journal") as source, ledger.fill() as filler:
            Filling(source, given, MESSAGE, limit).run(filler)
        assert (ledger.counts().pending, ledger.counts().suppressed) == (pending, suppressed), limit


def test_rows_of_seeds_and_list_are_read_by_their_offsets_in_any_order(tmp_path: Path) -> None:
    seeds = Seeds.of([person(7), "bare@seeds.test", person(8)])

    class File:
        def read(self, offsets: Any) -> list[dict[str, Any]]:
            return [{"email": f"at{offset}"} for offset in offsets]

    class Batch:
        def __init__(self) -> None:
            self.numbers, self.offsets, self.addresses, self.rows, self.problems, self.failed = ([] for _ in range(6))  # type: ignore[var-annotated]
            self.cut = 0

    batch = Batch()
    seeds.parse(batch)
    first, second, third = (FIRST_OFFSET + offset for offset in batch.offsets)
    read = seeds.reader(File()).read
    assert [row["email"] for row in read([third, 5, first, second, 9])] == [
        "r8@example.com",
        "at5",
        "r7@example.com",
        "bare@seeds.test",
        "at9",
    ]
    assert read([]) == []
    assert [row["email"] for row in read([3])] == ["at3"]


def test_numbers_of_seeds_say_which_seed_and_which_variant() -> None:
    for seed, variant in ((0, 0), (MAX_SEEDS - 1, 0), (0, 25), (7, 3)):
        assert seed_of(number_of(seed, variant)) == (seed, variant)
        assert number_of(seed, variant) >= FIRST_NUMBER
