"""The HTML report in Chromium: it draws what the journal says, and nothing that strangers wrote does anything."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By

from bulkmail.job.detail import DetailBuffer
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import FAILED, Advance, Trouble
from bulkmail.job.report import status, write_report
from integration.chromium import chromium
from integration.report_example import write_example
from unit.job.journal_tools import FakePin, read, rows

RUN = 'document.title="run"'
HOSTILE = f"</td><script>{RUN}</script><img src=x onerror={RUN}><svg onload={RUN}>"
BEGAN = 1_795_600_800.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        yield driver


def show(browser: Any, journal: Path, **options: Any) -> None:
    page = journal.with_suffix(".html")
    with page.open("w", encoding="utf-8") as out:
        write_report(journal, "html", out, **options)
    browser.get_log("browser")
    browser.get(page.as_uri())


def loaded(browser: Any) -> list[str]:
    """What the page fetched besides itself."""
    return list(browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)"))


def small_journal(path: Path, job: str = "news", reply: str = "no") -> Path:
    """12 recipients: 6 delivered in one minute, 3 in the next, 2 failed by `reply`, 1 in doubt."""
    journal = Journal.create(path, job=job, manifest_digest="", pin=FakePin(), now=BEGAN)
    with journal, journal.fill() as filler:
        filler.add_chunk("*", rows(1, 12), 12)
    with Journal.open(path, now=BEGAN) as journal:
        journal.recover()
        (chunk,) = journal.lease(1, BEGAN)
        main = journal.name_id(f"main {reply}")
        buffer = DetailBuffer()
        for place in range(9):
            when = BEGAN + 5 + (60 if place >= 6 else 0)
            buffer.add(1, place, 1, main, 0, when - 0.1, when, 250, b"250 ok\r\n", ord("D"))
        troubles = [
            Trouble(f"user{n + 1}@example.com", n + 1, 1, n, 1, FAILED, reply, 550, None, reply, main, 0, BEGAN + 65)
            for n in (9, 10)
        ]
        journal.advance(Advance([(1, chunk.fence, 12, b"DDDDDDDDDFF?")], buffer.flush(), troubles))
        journal.finish("stopped", reply)
    return path


def test_the_chart_has_a_column_for_each_minute_as_high_as_its_number(browser: Any, tmp_path: Path) -> None:
    show(browser, small_journal(tmp_path / "news.journal"), read=read)
    rects = browser.find_elements(By.CSS_SELECTOR, "#time svg.columns rect")
    found = [(one.get_attribute("class"), float(one.get_attribute("height"))) for one in rects]
    assert [name for name, _ in found] == ["delivered", "delivered", "failed"]
    six, three, two = (height for _, height in found)
    assert six == pytest.approx(2 * three, rel=0.01) and three == pytest.approx(1.5 * two, rel=0.01)
    drawn = [one.rect for one in rects]
    assert drawn[0]["height"] == pytest.approx(2 * drawn[1]["height"], rel=0.02)
    assert drawn[1]["y"] == pytest.approx(drawn[2]["y"] + drawn[2]["height"], abs=1.5)
    shares = browser.find_elements(By.CSS_SELECTOR, "#totals svg.bar rect")
    assert [one.get_attribute("class") for one in shares] == ["delivered", "failed", "in_doubt"]
    assert [float(one.get_attribute("width")) for one in shares] == [750.0, pytest.approx(166.7), pytest.approx(83.3)]
    assert browser.get_log("browser") == [] and loaded(browser) == []


def test_charts_have_names_and_the_same_numbers_as_tables(browser: Any, tmp_path: Path) -> None:
    show(browser, small_journal(tmp_path / "news.journal"), read=read)
    charts = browser.find_elements(By.CSS_SELECTOR, "svg")
    assert charts and all(one.get_attribute("role") == "img" and one.get_attribute("aria-label") for one in charts)
    cells = browser.execute_script(
        "return [...document.querySelectorAll('#time tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert [row[1:] for row in cells] == [["6", "0", "0", "0"], ["3", "0", "2", "0"]]


def test_a_realistic_report_is_quiet_and_agrees_with_status(browser: Any, tmp_path: Path) -> None:
    journal = write_example(tmp_path, 20_000, random.Random(4))
    show(browser, journal)
    assert browser.get_log("browser") == [] and loaded(browser) == []
    said = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#sums div')].map("
        "one => [one.querySelector('dt').textContent, one.querySelector('dd').textContent]))"
    )
    summary = status(journal)
    for state in ("recipients", "delivered", "failed", "deferred", "pending", "suppressed"):
        assert said[state] == f"{summary[state]:,}"
    domains = browser.find_elements(By.CSS_SELECTOR, "#domains tbody tr")
    assert len(domains) == 31 and domains[0].text.startswith("gmail.com") and domains[-1].text.startswith("all others")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#reasons table")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "#list-failed tbody tr")) == min(summary["failed"], 500)


def test_strangers_words_are_shown_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    show(browser, small_journal(tmp_path / "news.journal", job=HOSTILE, reply=HOSTILE), read=read)
    assert browser.title == f"{HOSTILE}: report"
    assert browser.find_elements(By.CSS_SELECTOR, "script, img") == []
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, "#reasons").text
    assert browser.get_log("browser") == [] and loaded(browser) == []


def test_the_policy_stops_what_escaping_might_miss(browser: Any, tmp_path: Path) -> None:
    journal = small_journal(tmp_path / "news.journal")
    show(browser, journal, read=read)
    page = journal.with_suffix(".html")
    attack = "<script>document.title='run'</script><style>h1{display:none}</style><img src='http://127.0.0.1:9/x'>"
    page.write_text(page.read_text("utf-8").replace("<main>", f"<main>{attack}", 1), encoding="utf-8")
    browser.get(page.as_uri())
    assert browser.title == "news: report"
    assert browser.find_element(By.TAG_NAME, "h1").is_displayed()
    assert sum("Content Security Policy" in line["message"] for line in browser.get_log("browser")) == 3


def brightness(browser: Any, element: str, what: str) -> float:
    colour = browser.execute_script(f"return getComputedStyle(document.querySelector('{element}')).{what}")
    red, green, blue = (int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def media(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_it_is_dark_where_the_reader_wants_that(browser: Any, tmp_path: Path) -> None:
    show(browser, small_journal(tmp_path / "news.journal"), read=read)
    try:
        for scheme, dark in (("dark", True), ("light", False)):
            media(browser, scheme)
            paper, ink = brightness(browser, "body", "backgroundColor"), brightness(browser, "body", "color")
            assert (paper < 60 < 180 < ink) if dark else (ink < 60 < 180 < paper)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_prints_on_paper_of_a4_without_what_is_only_for_screens(browser: Any, tmp_path: Path) -> None:
    journal = write_example(tmp_path, 3000, random.Random(1))
    show(browser, journal)
    media(browser, "dark")  # paper is white all the same
    try:
        options = {"preferCSSPageSize": True, "printBackground": True}
        pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert pdf.startswith(b"%PDF")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in pdf or b"/MediaBox [0 0 595" in pdf or b"/MediaBox [0 0 594" in pdf
    assert 2 <= pdf.count(b"/Type /Page\n") <= 12


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Any, tmp_path: Path) -> None:
    show(browser, write_example(tmp_path, 3000, random.Random(1)))
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        wide = "return [...document.querySelectorAll('.wide')].some(one => one.scrollWidth > one.clientWidth)"
        assert browser.execute_script(wide)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
