"""Details of deliveries: what goes in comes out, in few bytes, and damage is an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.job.blobs import SQUEEZED, pack_details, squeeze, unpack_details, unsqueeze
from bulkmail.job.detail import MAX_RECORDS, MAX_REPLY_KEPT, Detail, DetailBuffer, bad_step, decode, tally
from bulkmail.job.ledger import OUTCOMES

D = ord("D")

times = st.floats(0, 4e9).map(lambda seconds: round(seconds, 3))
replies = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"250 ok", b"250 ok 1", b"250 1 ok", b"ok 1 250 ok"]))
details = st.builds(
    Detail,
    position=st.integers(0, 2**31 - 1),
    attempt=st.integers(0, 50),
    relay=st.integers(0, 2**31 - 1),
    egress=st.integers(0, 3),
    started=times,
    ended=times,
    code=st.sampled_from([0, 250, 251, 450, 599]),
    reply=replies,
    outcome=st.sampled_from(list(OUTCOMES)),
)


@given(st.lists(st.tuples(st.integers(1, 2**62), details), max_size=60), st.integers(1, 5))
def test_every_record_comes_back_in_order_by_chunk(records: list[tuple[int, Detail]], chunks: int) -> None:
    records = [(no % chunks if chunks < 5 else no, record) for no, record in records]
    buffer = DetailBuffer()
    expected: dict[int, list[Detail]] = {}
    for no, record in records:
        assert buffer.add(no, *record)
        expected.setdefault(no, []).append(record)
    assert len(buffer) == len(records)
    flushed = buffer.flush()
    assert {no: list(decode(section)) for no, section in flushed} == expected
    assert [no for no, _ in flushed] == list(expected)
    assert (len(buffer), buffer.flush()) == (0, [])


def test_a_buffer_is_empty_after_flush_and_goes_on() -> None:
    buffer = DetailBuffer()
    for text in (b"one", b"two", b"two"):
        buffer.add(1, 0, 1, 1, 0, 1.0, 2.0, 250, text, D)
        ((no, section),) = buffer.flush()
        assert (no, [record.reply for record in decode(section)]) == (1, [text])


def test_times_get_the_clocks_offset() -> None:
    buffer = DetailBuffer(1_700_000_000.0)
    buffer.add(1, 0, 1, 1, 0, 12.25, 12.5, 250, b"ok", D)
    (record,) = decode(buffer.flush()[0][1])
    assert (record.started, record.ended) == (1_700_000_012.25, 1_700_000_012.5)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_impossible_times_do_no_harm(seconds: float) -> None:
    buffer = DetailBuffer()
    buffer.add(1, 0, 1, 1, 0, seconds, 5.0, 250, b"ok", D)
    (record,) = decode(buffer.flush()[0][1])
    assert (record.started, record.ended) == (0.0, 5.0)


def test_long_replies_are_cut_and_the_buffer_is_bounded() -> None:
    buffer = DetailBuffer()
    added = 0
    while buffer.add(1, added, 1, 1, 0, 1.0, 2.0, 250, added.to_bytes(4, "big") + b"x" * 5000, D):
        added += 1
    assert 10_000 < added < MAX_RECORDS  # its text is full
    ((_, section),) = buffer.flush()
    found = list(decode(section))
    assert len(found) == added
    assert {len(record.reply) for record in found} == {MAX_REPLY_KEPT}
    while buffer.add(1, 0, 1, 1, 0, 1.0, 2.0, 250, b"same", D):
        added += 1
    assert len(buffer) == MAX_RECORDS


def test_a_delivery_takes_about_as_many_bytes_as_its_queue_id() -> None:
    buffer = DetailBuffer()
    for i in range(512):
        reply = b"250 2.0.0 Ok: queued as %011X\r\n" % (i * 2654435761 * 40503 % 2**44)
        buffer.add(1, i, 1, 1, 1, 100 + i / 5000, 100.05 + i / 5000, 250, reply, D)
    ((no, section),) = buffer.flush()
    assert len(section) < 512 * 20
    assert len(pack_details([(no, section)])) < 512 * 13


def test_the_same_reply_is_written_once() -> None:
    buffer = DetailBuffer()
    for i in range(1000):
        buffer.add(1, i, 1, 1, 1, 100.0, 100.0, 250, b"250 2.0.0 Ok\r\n", D)
    ((_, section),) = buffer.flush()
    assert len(section) < 1000 * 4 + 100


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_damaged_records_are_a_value_error_or_read(data: bytes) -> None:
    try:
        list(decode(data))
    except ValueError as exc:
        assert "damaged" in str(exc)


@given(st.lists(details, min_size=1, max_size=5), st.data())
def test_cut_records_are_a_value_error_or_fewer(records: list[Detail], data: st.DataObject) -> None:
    buffer = DetailBuffer()
    for record in records:
        buffer.add(1, *record)
    ((_, section),) = buffer.flush()
    cut = section[: data.draw(st.integers(0, len(section) - 1))]
    try:
        assert list(decode(cut)) == records[: len(list(decode(cut)))]
    except ValueError as exc:
        assert "damaged" in str(exc)


# ---- blobs -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300).flatmap(lambda data: st.sampled_from([data, data * 5])))
def test_what_is_squeezed_comes_back(data: bytes) -> None:
    blob = squeeze(data)
    assert unsqueeze(blob) == data
    assert len(blob) <= len(data) + 1


def test_sections_of_a_chunk_are_kept_apart() -> None:
    blob = pack_details([(7, b"a" * 100), (2**40, b""), (7, b"b")])
    assert unpack_details(blob) == {7: [b"a" * 100, b"b"], 2**40: [b""]}


@pytest.mark.parametrize(
    "blob",
    [b"", b"\x02abc", SQUEEZED + b"abc", squeeze(b"a" * 500)[:-4], b"\0" + b"1" * 11, pack_details([(1, b"abc")])[:-1]],
)
def test_damaged_blobs_are_a_value_error(blob: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack_details(blob)


def test_a_blob_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkmail.job.blobs.MAX_BLOB", 1000)
    with pytest.raises(ValueError, match="too long"):
        unsqueeze(squeeze(bytes(1001)))
    assert unsqueeze(squeeze(bytes(1000))) == bytes(1000)


# ---- outcome bytes ---------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(list(OUTCOMES)), max_size=50).map(bytes), st.integers(0, 60))
def test_tally_counts_every_byte_once(outcome: bytes, claimed: int) -> None:
    counts = tally(outcome, claimed)
    assert counts[1:8] == tuple(outcome.count(byte) for byte in OUTCOMES[1:])
    assert counts[8] == outcome[:claimed].count(b".")
    assert sum(counts) == len(outcome)


def test_a_byte_that_is_no_outcome_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="1 of 3 bytes"):
        tally(b"D.x", 1)


ALWAYS = {".": "FSm", "d": "mF", "?": "DFdm"}
CLAIMED = {".": "Dd?"}


@pytest.mark.parametrize("claimed", [0, 1])
def test_steps_are_those_of_the_ledgers_table(claimed: int) -> None:
    for old in range(256):
        for new in range(256):
            a, b = chr(old), chr(new)
            after = a + ALWAYS.get(a, "") + (CLAIMED.get(a, "") if claimed else "")
            allowed = a in OUTCOMES.decode() and b in after
            assert bad_step(bytes([old]), bytes([new]), claimed) == (-1 if allowed else 0), (a, b)


def test_the_first_bad_step_is_named() -> None:
    assert bad_step(b"....D.", b"D..DD.", 2) == 3
    assert bad_step(b"....D.", b"DD..D.", 2) == -1
