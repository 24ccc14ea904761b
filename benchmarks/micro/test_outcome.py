"""What it costs to tell how a job went: the HTML report, and bounces read and matched.

Figures are for one page of a job of RECIPIENTS, for one message, or for NOTICES matched to that job.
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from bulkmail.bounces.matching import JobRecord  # noqa: E402
from bulkmail.bounces.meaning import judge  # noqa: E402
from bulkmail.bounces.notice import Notice, read_notices  # noqa: E402
from bulkmail.job.report import iter_report, write_report  # noqa: E402
from integration.report_example import write_example  # noqa: E402

RECIPIENTS = 200_000
NOTICES = 1000
CORPUS = ROOT / "tests/unit/bounces/corpus"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("report"), RECIPIENTS, random.Random(1))


def test_html_report(benchmark: Any, journal: Path) -> None:
    benchmark.extra_info["recipients"] = RECIPIENTS
    benchmark.pedantic(lambda: write_report(journal, "html", io.StringIO()), rounds=3)


def test_jsonl_report(benchmark: Any, journal: Path) -> None:
    benchmark.extra_info["recipients"] = RECIPIENTS
    assert benchmark.pedantic(lambda: write_report(journal, "jsonl", io.StringIO()), rounds=3) == RECIPIENTS


@pytest.mark.parametrize("name", ["postfix-unknown-user", "gmail", "qmail", "arf-yahoo"])
def test_read_a_notice(benchmark: Any, name: str) -> None:
    data = (CORPUS / f"{name}.eml").read_bytes()
    benchmark(lambda: [judge(one) for one in read_notices(data)])


@pytest.mark.parametrize("by", ["message_id", "address"])
def test_match_notices(benchmark: Any, journal: Path, by: str) -> None:
    record = JobRecord(journal)
    lines = [line for line in iter_report(journal, "delivered") if line["message_id"]][:: RECIPIENTS // NOTICES]
    wanted = {
        i: Notice("bounce", [line["recipient"]], message_ids=[line["message_id"]] if by == "message_id" else [])
        for i, line in enumerate(lines)
    }
    ask = record.by_ids if by == "message_id" else record.by_addresses
    found = benchmark.pedantic(lambda: ask(wanted), rounds=3)
    assert len(found) == len(wanted)
