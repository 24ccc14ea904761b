"""The report's sums: they agree with `status`, and no stranger can make them large."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.job import report_charts, report_page
from bulkmail.job.detail import DetailBuffer, decode, sum_deliveries, took_bounds
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import STATES
from bulkmail.job.report import iter_report, status, write_report
from bulkmail.job.report_totals import KINDS, WIDTHS, Bounded, Reason, TimeLine, Totals, gather, pattern
from integration.report_example import write_example
from unit.job.journal_tools import new_journal, read, rows

FAILED, DELIVERED = ord("F"), ord("D")


# ---- in bulk, as one by one --------------------------------------------------------------------------------------

deliveries = st.tuples(
    st.integers(0, 2000),  # position
    st.integers(1, 3),  # attempt
    st.integers(0, 2),  # relay
    st.integers(0, 2),  # egress
    st.floats(1.6e9, 1.6e9 + 100),
    st.floats(0, 3000),
    st.sampled_from([b"250 Ok", b"250 2.0.0 queued as 1", b""]),
    st.sampled_from(b"DDDFd"),
)


@given(st.lists(deliveries, max_size=30))
def test_sums_in_bulk_are_those_of_the_records(given: list[Any]) -> None:
    buffer = DetailBuffer()
    for position, attempt, relay, egress, start, took, reply, outcome in given:
        assert buffer.add(1, position, attempt, relay, egress, start, start + took, 250, reply, outcome)
    seconds: dict[int, int] = {}
    ways: dict[tuple[int, int], int] = {}
    took_slots = [0] * len(took_bounds())
    known = []
    for _, records in buffer.flush():
        sum_deliveries(records, seconds, ways, took_slots)
        known += [detail for detail in decode(records) if detail.outcome == DELIVERED]
    assert seconds == Counter(round(one.ended * 1000) // 1000 for one in known)
    assert ways == Counter((one.relay, one.egress) for one in known)
    assert sum(took_slots) == len(known)
    bounds = took_bounds()
    for one in known:
        spent = round(one.ended * 1000) - round(one.started * 1000)
        slot = max(i for i, bound in enumerate(bounds) if bound <= spent)
        assert took_slots[slot] and bounds[slot] <= spent and (spent < 16 or bounds[slot] > spent * 0.88)


def test_damaged_records_are_refused_in_bulk_too() -> None:
    buffer = DetailBuffer()
    for place in range(3):
        buffer.add(1, place, 1, 1, 1, 1.0, 2.0, 250, b"250 queued as %d" % place, DELIVERED)
    ((_, records),) = buffer.flush()
    for cut in range(1, len(records)):
        try:
            sum_deliveries(records[:cut], {}, {}, [0] * len(took_bounds()))
            whole = list(decode(records[:cut]))  # cut between two records
            assert whole
        except ValueError:
            with pytest.raises(ValueError):
                list(decode(records[:cut]))


def test_slots_of_time_ascend_without_a_gap() -> None:
    bounds = took_bounds()
    assert bounds[:18] == [*range(16), 16, 18]
    assert bounds == sorted(set(bounds))


# ---- agreement -------------------------------------------------------------------------------------------------------


def sums_of(path: Path) -> Totals:
    from bulkmail.job.journal_file import reading
    from bulkmail.job.report import _Reporter

    with reading(path) as db:
        reporter = _Reporter(db, path, None, None)
        try:
            return gather(db, reporter.live, reporter.read)
        finally:
            reporter.close()


def test_the_sums_agree_with_status_and_with_the_lines(tmp_path: Path) -> None:
    path = write_example(tmp_path, 3000, random.Random(1))
    totals, summary, lines = sums_of(path), status(path), list(iter_report(path))
    assert {state: totals.states[state] for state in STATES} == {state: summary[state] for state in STATES}
    assert summary["pending"] == 50 and summary["failed"] > 10
    by_domain = Counter((line["recipient"].rpartition("@")[2], line["state"]) for line in lines)
    found = {
        (name, state): count
        for name, row in totals.domains.rows.items()
        for state, count in zip(STATES, row, strict=True)
        if count
    }
    assert found == by_domain
    delivered = Counter((line["relay"], line["egress"]) for line in lines if line["state"] == "delivered")
    assert {way: row[0] for way, row in totals.ways.items()} == delivered
    assert sum(row[0] for _, row in totals.line.shown(60)) == summary["delivered"] == sum(totals.took)
    attempts = sum(sum(row) for _, row in totals.line.shown(60))
    assert attempts == summary["attempts"] == sum(map(sum, totals.ways.values()))
    assert sum(sum(row) for row in totals.reasons.rows.values()) == attempts - summary["delivered"]
    assert {reason.class_ for reason in totals.reasons.rows} == {
        "bad_recipient", "mailbox_full", "blocked", "greylisted", "throttled",
    }  # fmt: skip
    assert len(totals.reasons.rows) == 5  # a reply differs from the next in its address and its id alone


def test_those_decided_before_sending_are_counted_with_their_reasons(tmp_path: Path) -> None:
    from bulkmail.job.ledger import Trouble

    path = tmp_path / "news.journal"
    with new_journal(path) as journal, journal.fill() as filler:
        filler.add_chunk("*", rows(1, 2), 2, b"SS", "duplicate")
        bad = filler.add_chunk("*", rows(3, 3), 3, b"F.F")
        filler.add_trouble(Trouble("", 3, bad, 0, 0, FAILED, "bad_row", reply="no email"))
        filler.add_trouble(Trouble("ann@Other.example", 5, bad, 2, 0, FAILED, "message", reply="a line break"))
    from bulkmail.job.journal_file import reading

    with reading(path) as db:
        totals = gather(db, False, lambda offsets: read([one for one in offsets if one // 100 not in (3, 5)]))
    assert totals.states == {"suppressed": 2, "failed": 2, "pending": 1}
    assert set(totals.domains.rows) == {"", "other.example", "example.com"}
    assert totals.reasons.rows[Reason("duplicate", None, "")][-1] == 2
    assert totals.reasons.rows[Reason("bad_row", None, "no email")][KINDS.index("failed")] == 1
    assert not totals.line.bins and not totals.ways  # nothing was sent


def test_a_dead_runs_claims_are_in_doubt_in_the_sums_too(tmp_path: Path) -> None:
    path = tmp_path / "news.journal"
    journal = new_journal(path)
    with journal.fill() as filler:
        filler.add_chunk("*", rows(1, 10), 10)
    from bulkmail.job.journal_file import reading
    from unit.job.journal_tools import settle

    (chunk,) = journal.lease(1, 0)
    journal.advance(settle(chunk, b"D", 4))
    with reading(path) as db:
        assert gather(db, True, read).states == {"delivered": 1, "pending": 9}
    journal.close()
    with reading(path) as db:
        assert gather(db, False, read).states == {"delivered": 1, "in_doubt": 3, "pending": 6}


def test_variants_are_counted_as_the_lines_have_them(tmp_path: Path) -> None:
    meta = {
        "message_id_shared": "0",
        "variants": '[{"name": "a <b>", "weight": 1, "domain": "example.com"}, '
        '{"name": "b", "weight": 2, "domain": "example.com"}]',
    }
    path = tmp_path / "news.journal"
    with new_journal(path, meta=meta) as journal, journal.fill() as filler:
        filler.add_chunk("*", rows(1, 300), 300, b"S" * 10 + b"." * 290)
    lines = list(iter_report(path, read=read))
    page = tmp_path / "page.html"
    with page.open("w", encoding="utf-8") as out:
        write_report(path, "html", out, read=read)
    section = page.read_text("utf-8").partition('id="variants"')[2].partition("</section>")[0]
    for name, shown in (("a <b>", "a &lt;b&gt;"), ("b", "b")):
        count = sum(line["variant"] == name for line in lines)
        assert count > 50 and f'<td class="w">{shown}</td><td class="n">{count}</td>' in section


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_many_keys_keep_the_largest_and_lose_no_count() -> None:
    bounded: Bounded[str] = Bounded(100, 1)
    for i in range(50_000):
        bounded.add(f"rare{i}", 0)
        bounded.add(f"often{i % 10}", 0)
    assert len(bounded.rows) <= 200
    top, rest, more = bounded.top(10)
    assert {key for key, _ in top} == {f"often{i}" for i in range(10)}
    assert all(row == [5000] for _, row in top)
    assert sum(row[0] for _, row in top) + rest[0] == 100_000
    assert more > 90


def test_a_time_line_of_years_is_of_few_columns_and_loses_nothing() -> None:
    line = TimeLine()
    for i in range(20_000):
        line.add(1_700_000_000 + 3_571 * i, i % len(KINDS))
    assert len(line.bins) <= 5000
    shown = line.shown(60)
    assert len(shown) <= 60
    line = TimeLine()
    for day in range(50):
        line.add(1_700_000_000 + 86_400 * day, 0, 7)
    shown = line.shown(60)
    assert sum(row[0] for _, row in shown) == 350
    assert len(shown) <= 60 and shown[1][0] - shown[0][0] == line.width


def test_each_width_divides_the_next() -> None:
    assert all(wide % narrow == 0 for narrow, wide in pairwise(WIDTHS))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("5.1.1 <a@x.example> unknown", "5.1.1 <b@y.example> unknown", "5.1.1 ‹address› unknown"),
        ("4.2.0 again in 300 s, id 4f2ab9", "4.2.0 again in 120 s, id 99ffe1", "4.2.0 again in ‹…› s, id ‹…›"),
        ("see https://x.example/q?1", "see https://x.example/q?2", "see ‹url›"),
    ],
)
def test_what_differs_from_one_reply_to_the_next_is_left_out(one: str, other: str, expected: str) -> None:
    assert pattern(one) == pattern(other) == expected


# ---- charts and words ------------------------------------------------------------------------------------------------


def test_columns_are_as_high_as_their_numbers() -> None:
    import re

    chart = str(report_charts.columns([("delivered", [10, 40]), ("failed", [0, 40])], ["a", "b"], ["x", "y"], "name"))
    found = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', chart)
    heights = [float(height) for *_, height in found]
    assert [name for name, *_ in found] == ["delivered", "delivered", "failed"]
    assert heights[1] == heights[2] == pytest.approx(4 * heights[0], rel=0.02)
    assert float(found[2][2]) == pytest.approx(float(found[1][2]) - heights[2], abs=0.2)  # upon the other


def test_chart_names_are_escaped() -> None:
    hostile = '"><script>'
    for chart in (
        report_charts.share_bar([("failed", 1)], hostile),
        report_charts.columns([("failed", [1])], [hostile], [hostile], hostile),
    ):
        assert "<script" not in chart


@pytest.mark.parametrize(
    ("largest", "step"), [(0, 1), (3, 1), (5, 2), (39, 10), (41, 20), (100_001, 50_000), (10**7, 5 * 10**6)]
)
def test_scales_have_round_numbers(largest: int, step: int) -> None:
    assert report_charts.nice_step(largest) == step


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 5, "0.0 %"), (5, 5, "100.0 %"), (1, 10**6, "< 0.1 %"),
     (10**6 - 1, 10**6, "> 99.9 %"), (1, 8, "12.5 %")],
)  # fmt: skip
def test_nobody_is_rounded_away(part: int, whole: int, text: str) -> None:
    assert report_page.share(part, whole) == text


def test_sizes_and_times_are_readable() -> None:
    assert [report_page.size(n) for n in (0, 999, 1000, 2_140_000_000, 10**18)] == [
        "0 bytes", "999 bytes", "1.0 kB", "2.1 GB", "1.0 EB",
    ]  # fmt: skip
    assert [report_page.lasting(n) for n in (0, 59.96, 185, 93_785)] == ["0.0 s", "60.0 s", "3:05 min", "26:03:05 h"]
    assert [report_page.moment(n) for n in (None, 0.0, 1e300)] == ["–", "1970-01-01 00:00:00", "–"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_a_large_jobs_page_lists_some_and_says_how_to_get_all(tmp_path: Path) -> None:
    path = tmp_path / "news.journal"
    with new_journal(path) as journal, journal.fill() as filler:
        for i in range(2):
            filler.add_chunk("*", rows(1 + 1000 * i, 1000), 1000)
    with Journal.open(path) as journal:
        journal.recover()
        (chunk, _) = journal.lease(2, 0)
        from unit.job.journal_tools import settle

        journal.advance(settle(chunk, b"?" * 1000))
        journal.finish("stopped")
    page = tmp_path / "page.html"
    with page.open("w", encoding="utf-8") as out:
        assert write_report(path, "html", out, read=read) == report_page.LISTED
    text = page.read_text("utf-8")
    assert (
        f"The first 500 of 1,000. All of them: <code>bulkmail report {path} --state in_doubt --format csv</code>"
        in text
    )
    assert "user501@" not in text and "user500@" in text
    assert len(text) < 400_000
