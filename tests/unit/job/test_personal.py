"""Messages made straight from the bytes of a list are those made of its decoded rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import JournalError
from bulkmail.job.compose import Composer
from bulkmail.job.ledger import Chunk
from bulkmail.job.packing import pack_rows
from bulkmail.job.recipients import Source
from bulkmail.job.row_blocks import HAVE_PREAD
from bulkmail.job.seeds import FIRST_NUMBER, FIRST_OFFSET, Seeds
from bulkmail.job.settle import Work, personal_transactions
from bulkmail.message.compile import compile_message
from bulkmail.message.compiled import Compiled
from bulkmail.message.spec import ListUnsubscribe, MessageSpec
from bulkmail.wire.transaction import Transaction

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
pytestmark = pytest.mark.skipif(not HAVE_PREAD, reason="rows are always decoded where there is no pread()")


def compiled(text: str = "Dear {{ name }}", **more: Any) -> Compiled:
    given = {"from_": "a@example.net", "to": "{{ name }} <{{ email }}>", "subject": "For {{ name }}", **more}
    return compile_message(MessageSpec(text=text, **given), job="j", defaults={"name": "you"})


def work_of(numbers: Sequence[int], offsets: Sequence[int]) -> Work:
    return Work(Chunk(1, "*", pack_rows(list(numbers), list(offsets)), len(numbers)))


def places_in(data: bytes) -> list[int]:
    """Where each line begins."""
    return [0, *(at + 1 for at, byte in enumerate(data[:-1]) if byte == 10)]


def facts(made: Sequence[Transaction], failed: Sequence[Any]) -> Any:
    return (
        [(tx.sender, tx.rcpts, tx.body, tx.body_size, tx.flags, tx.size, tx.at, tx.tries, tx.positions) for tx in made],
        [(place, address, str(error), error.scope) for place, address, error in failed],
    )


def decoded(message: Compiled, source: Any, work: Work, places: Sequence[int]) -> Any:
    """What the long way makes."""
    rows = source.read([work.offsets[place] for place in places])
    composed = message.compose(rows, [work.numbers[place] for place in places], DATE)
    made, failed = personal_transactions(composed, work, list(places), message.eight_bit)
    return facts(made, [(places[index], rows[index]["email"], error) for index, error in failed])


def check(message: Compiled, source: Any, work: Work, step: int = 1000) -> Any:
    """Both ways, `step` recipients at a time; what they made."""
    composer, found = Composer(message, source, 1), []
    assert composer._personally is not None
    for at in range(0, work.n, step):
        places = list(range(at, min(at + step, work.n)))
        made = facts(composer.compose(work, places, DATE), composer.take_failures())
        assert made == decoded(message, source, work, places)
        found.append(made)
    return found


# ---- any rows, any of the templates that it is for -------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", "<b>&", "é" * 30, ".", "=?utf-8?q?x?=", "x" * 90, "yes", "0", '"', "\\", "\t", "a\nb"]
)
VALUES = TEXTS | st.sampled_from([0, 7, -1, 123456789012345678901, 1.5, 1e22, True, False, None, [1], {"a": "b"}])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"email": st.sampled_from(["ann@example.net", "b.c+d@mail.example.org", " ann@example.net", "ü@example.net"])},
        optional={"name": VALUES, "n": VALUES, "flag": VALUES, "other": VALUES},
    ),
    min_size=1,
    max_size=6,
)
CHUNKS = st.sampled_from(
    [
        "{{ name }}",
        "{{ n }}",
        "{{ email }}",
        "{{ gone|default('x<y') }}",
        "{{ n|default('none', true) }}",
        "{% if flag %}{{ name }}{% else %}.{{ n }}{% endif %}",
        "{% if not n %}no{% endif %}",
        "{% if flag == 'yes' %}\n.{% elif n is defined %}y{% endif %}",
        "{% if name != '' %}!{% endif %}",
        "\n",
        ".",
        "word " * 20,
        "é",
    ]
)
TEMPLATES = st.lists(CHUNKS, max_size=8).map("".join)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, text=TEMPLATES, head=TEMPLATES, html=TEMPLATES, ascii_only=st.booleans(), unicode=st.booleans())
def test_every_message_is_the_one_that_decoded_rows_give(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    text: str,
    head: str,
    html: str,
    ascii_only: bool,
    unicode: bool,
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=(",", ":") if unicode else None) for row in rows]
    data = "\n".join(lines).encode()
    path = tmp_path_factory.mktemp("rows") / "r.jsonl"
    path.write_bytes(data)
    message = compiled(text + "x", subject=head.replace("\n", " "), html=f"<p>{html}</p>")
    with Source(path) as source:
        check(message, source, work_of(range(1, len(rows) + 1), places_in(data)), step=4)


def test_a_sender_and_a_link_of_each_recipients_own(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"email": f"u{n}@example.net", "name": f"Reader {n}", "id": n} for n in range(50)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    message = compiled(
        "Bye: {{ unsubscribe_url }}",
        envelope_from="bounce+{{ id }}@example.net",
        list_unsubscribe=ListUnsubscribe(
            url="https://example.net/u?r={{ id }}", one_click=True, key="a key of its own"
        ),
    )
    with Source(path) as source:
        ((made, failed),) = check(message, source, work_of(range(1, 51), places_in(data)))
    assert made[7][0] == b"bounce+7@example.net" and not failed


# ---- wherever the rows lie -----------------------------------------------------------------------------------------


def test_rows_of_any_length_and_distance(tmp_path: Path) -> None:
    """Long ones are cut by every window's end; the longest fits into none."""
    path = tmp_path / "r.jsonl"
    lengths = [1, 900, 3_000, 40_000, 70_000, 10, 200_000, *[50] * 400, 5_000, *[500] * 300]
    rows = [{"email": f"u{n}@example.net", "name": f"R{n}", "x": "y" * length} for n, length in enumerate(lengths)]
    data = "\r\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(data)
    offsets = places_in(data)
    numbers = list(range(1, len(rows) + 1))
    with Source(path) as source:
        check(compiled(), source, work_of(numbers, offsets), step=37)
        check(compiled(), source, work_of(numbers[::60], offsets[::60]), step=5)  # far from each other
        check(compiled(), source, work_of(numbers, offsets), step=1)


def test_seeds_stand_among_the_rows_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    data = b'{"email":"ann@example.net","name":"Ann"}\n{"email":"bob@example.net","name":"Bob"}\n'
    path.write_bytes(data)
    seeds = Seeds.of(["seed@example.org", {"email": "eve@example.org", "name": "Eve"}])
    offsets = [*places_in(data), *(FIRST_OFFSET + at for at in places_in(seeds.text.encode()))]
    with Source(path) as source:
        ((made, _),) = check(compiled(), seeds.reader(source), work_of([1, 2, FIRST_NUMBER, FIRST_NUMBER + 1], offsets))
    assert [tx[1] for tx in made] == [
        [b"ann@example.net"],
        [b"bob@example.net"],
        [b"seed@example.org"],
        [b"eve@example.org"],
    ]


def test_a_file_that_was_changed_is_refused_although_its_rows_are_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    data = b"".join(b'{"email":"u%d@example.net"}\n' % n for n in range(10))
    path.write_bytes(data)
    with Source(path) as source:
        composer, work = Composer(compiled(), source, 1), work_of(range(1, 11), places_in(data))
        assert len(composer.compose(work, [0, 1], DATE)) == 2
        path.write_bytes(data.replace(b"u9", b"x9"))
        os.utime(path, ns=(1, 1))
        with pytest.raises(JournalError, match="was changed while the job was using it"):
            composer.compose(work, [2, 3], DATE)


def test_a_place_where_no_row_begins_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"email":"ann@example.net"}\n{"email":"bob@example.net"}\n')
    with Source(path) as source:
        composer = Composer(compiled(), source, 1)
        with pytest.raises(JournalError, match="is not the file that the job began with: byte 3: not JSON"):
            composer.compose(work_of([1, 2], [3, 28]), [0, 1], DATE)
        with pytest.raises(JournalError, match="is not the file that the job began with: it ends before byte 999"):
            composer.compose(work_of([1, 2], [0, 999]), [0, 1], DATE)


# ---- a message that is the same for all --------------------------------------------------------------------------

SHARED = compile_message(MessageSpec(from_="a@example.net", to="all@example.net", subject="Hi", text="Hello"), job="j")


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, ascii_only=st.booleans(), size=st.sampled_from([1, 4, 1000]))
def test_a_shared_message_goes_to_the_addresses_of_the_decoded_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], ascii_only: bool, size: int
) -> None:
    data = "\r\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode()
    path = tmp_path_factory.mktemp("rows") / "r.jsonl"
    path.write_bytes(data)
    with Source(path) as source:
        composer, work = Composer(SHARED, source, size), work_of(range(1, len(rows) + 1), places_in(data))
        assert composer._addresses is not None
        made = composer.compose(work, list(range(len(rows))), DATE)
        wanted = [row["email"].encode() for row in source.read(list(work.offsets))]
    assert [rcpt for tx in made for rcpt in tx.rcpts] == wanted
    assert [place for tx in made for place in tx.positions] == list(range(len(rows)))
    assert all(len(tx.rcpts) <= size for tx in made)


def test_a_shared_message_goes_to_seeds_and_to_rows_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"x": "y" * length, "email": f"u{n}@example.net"} for n, length in enumerate([1, 900, 70_000, 5, 40_000])]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(data)
    offsets = [*places_in(data), FIRST_OFFSET]
    with Source(path) as source:
        composer = Composer(SHARED, Seeds.of(["seed@example.org"]).reader(source), 10)
        (tx,) = composer.compose(work_of([*range(1, 6), FIRST_NUMBER], offsets), [0, 1, 2, 3, 4, 5], DATE)
    assert tx.rcpts == [*(b"u%d@example.net" % n for n in range(5)), b"seed@example.org"]


def test_a_shared_message_stops_where_the_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"email":"ann@example.net"}\n{"email":"bob@example.net"}\n')
    with Source(path) as source:
        composer = Composer(SHARED, source, 10)
        with pytest.raises(JournalError, match="is not the file that the job began with: byte 3: not JSON"):
            composer.compose(work_of([1, 2], [3, 28]), [0, 1], DATE)
        os.utime(path, ns=(1, 1))
        with pytest.raises(JournalError, match="was changed while the job was using it"):
            composer.compose(work_of([1, 2], [0, 28]), [0, 1], DATE)
