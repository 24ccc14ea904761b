"""`report --format html` of a job while it runs and after it, by the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from integration.cli_program import bulkmail, start, write_job
from integration.servers.common import wait_until


def sums(page: str) -> dict[str, int]:
    found = re.search(r'<dl id="sums">(.*?)</dl>', page, re.S)
    assert found is not None
    figures = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", found[1]))
    return {name: int(text.replace(",", "")) for name, text in figures.items() if text.replace(",", "").isdigit()}


def test_the_page_of_a_running_job_and_of_the_finished_one_agree_with_status(
    smtp_sink_factory: Any, tmp_path: Path
) -> None:
    sink = smtp_sink_factory(fault=["data:delay=100ms"])
    write_job(tmp_path, sink.url, 200)
    running = start("send", "news.json", cwd=tmp_path)
    try:
        wait_until(lambda: len(sink.messages) >= 20, "the first messages")
        done = bulkmail("report", "news.journal", "--format", "html", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        early = sums(done.stdout)
        assert "<dd>running</dd>" in done.stdout
        assert early["recipients"] == 200 and 0 < early["delivered"] < 200 and early["in doubt"] == 0
    finally:
        running.communicate(timeout=60)
    assert running.returncode == 0
    done = bulkmail("report", "news.journal", "--format", "html", "--out", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "page.html").read_text("utf-8")
    summary = json.loads(bulkmail("status", "news.journal", "--json", cwd=tmp_path).stdout)
    assert sums(page) | {"in doubt": 0} == sums(page)
    for state in ("recipients", "delivered", "failed", "deferred", "pending", "suppressed", "attempts"):
        assert sums(page)[state] == summary[state]
    assert page.count('<tr class="delivered">') == 200


def test_a_list_that_is_gone_is_one_sentence_and_leaves_the_last_page(smtp_sink: Any, tmp_path: Path) -> None:
    write_job(tmp_path, smtp_sink.url, 3)
    assert bulkmail("send", "news.json", cwd=tmp_path).returncode == 0
    (tmp_path / "page.html").write_text("the last one")
    (tmp_path / "list.jsonl").write_text("")
    done = bulkmail("report", "news.journal", "--format", "html", "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 2 and "list.jsonl" in done.stderr and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "page.html").read_text() == "the last one"
