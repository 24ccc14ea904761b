"""Each rule of the lint has a message that breaks it and no other rule, and what is right breaks none."""

from __future__ import annotations

import pytest

from bulkmail.message.lint import RULES, domains, lint
from bulkmail.message.lint.rule import SEVERITIES
from unit.message.lint_examples import EXAMPLES, PAGE, URL, Example, page, table

BY_ID = {rule.id: rule for rule in RULES}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_an_example_breaks_its_rule_and_no_other(rule, monkeypatch):
    if rule == "alignment-unknown":
        monkeypatch.setattr(domains, "_suffixes", lambda: None)
    (found,) = lint(EXAMPLES[rule].samples())
    assert (found.id, found.severity) == (rule, BY_ID[rule].severity)
    assert found.text and "{" not in found.text.replace("{{", "")
    assert found.remedy == BY_ID[rule].remedy
    assert found.source


def test_every_rule_has_an_example_and_an_id_of_its_own():
    assert sorted(rule.id for rule in RULES) == sorted(EXAMPLES)
    assert all(rule.severity in SEVERITIES for rule in RULES)


def test_a_rule_that_is_broken_everywhere_is_told_of_a_few_times():
    found = lint(Example("", lines=b"".join(b"X-%d: K\xc3\xb6ln\r\n" % n for n in range(100))).samples())
    assert [one.id for one in found] == ["header-8bit"] * 21
    assert found[-1].text == "and 80 more of the same kind"


def test_a_good_message_has_no_findings():
    assert lint(Example("").samples()) == []


def test_the_page_has_every_rule_with_its_example():
    assert table() in PAGE.read_text(encoding="utf-8"), "run python tests/unit/message/lint_examples.py"


@pytest.mark.parametrize(
    "change",
    [
        {"html": '<p>To unsubscribe <a href="https://example.com/x">click here</a>.</p>'},
        {"html": '<p>No more news? <a href="https://example.com/unsubscribe?x">Click</a>.</p>'},
        {"html": f'<p>No more news? <a href="{URL}">Click</a>.</p>'},
        {"html": '<p>Wer nichts mehr lesen will: <a href="https://example.com/x">abmelden</a>.</p>'},
        {"html": '<p>To unsubscribe, write to stop@example.com.</p>'},
        {"html": None, "text": f"No more news: {URL}"},
        {"html": None, "text": "To unsubscribe: https://example.com/x"},
    ],
)  # fmt: skip
def test_ways_to_leave_that_readers_see(change):
    assert "unsubscribe-link" not in {one.id for one in lint(Example("", **change).samples())}


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://example.com/u?m=ann%40example.net", True),
        ("https://example.com/u/unsubscribe-from-list?m=ann@example.net", True),
        ("https://example.com/u?m=ann%40example.net&sig=XSJxikjo4r8HI46PNAwTP8ki", False),
        ("https://example.com/u/k3v9", False),
        ("mailto:u@example.com?subject=ann@example.net", False),
    ],
)
def test_an_address_in_the_unsubscribe_url_needs_a_signature(uri, told):
    headers = {"List-Unsubscribe": f"<{URL}>, <{uri}>"}
    assert ("unsubscribe-address" in {one.id for one in lint(Example("", headers).samples())}) == told


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Date": "Sun, 15 Nov 2026 20:26:40 +0000 (UTC)"}, False),
        ({"Date": "15 Nov 2026 20:26 +0100"}, False),
        ({"Date": "Sun, 31 Feb 2026 20:26:40 +0000"}, True),
        ({"Date": "Sun, 15 Nov 26 20:26:40 GMT"}, True),
        ({"Message-ID": "<a@[192.0.2.1]>"}, False),
        ({"Message-ID": "<a b@c>"}, True),
        ({"List-Id": "=?utf-8?Q?K=C3=B6ln?= <k.example.com>"}, False),
        ({"From": '"News, daily" <news@example.com>'}, False),
        ({"From": "news@example.com (The News)"}, False),
        ({"From": "News <news@bücher.example>"}, True),
        ({"Subject": "Reply cards are back"}, False),
        ({"Subject": "NASA & ESA"}, False),
        ({"Subject": "Re: order", "In-Reply-To": "<1@example.net>"}, False),
        ({"Subject": "新しいニュース"}, True),
        ({"X-A": "=?utf-8?Q?a?= b =? c"}, False),
    ],
)
def test_forms_of_headers(headers, told):
    assert bool(lint(Example("", headers).samples())) == told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('<a href="https://www.example.com/a">example.com</a>', set()),
        ('<a href="https://news.example.com/">https://example.com/x</a>', set()),
        ('<a href="https://example.com/">Read more at our site.</a>', set()),
        ('<a href="mailto:a@example.com?subject=x">write</a> <a href="tel:+49123">call</a>', set()),
        ('<a href="#top">up</a>', set()),
        ('<a href="HTTPS://EXAMPLE.COM/">x</a>', set()),
        ('<a href="//example.com/">x</a>', {"link-relative"}),
        ('<a href="https://10.0.0.1/">x</a>', {"link-local"}),
        ('<a href="https://intranet/">x</a>', {"link-local"}),
        ('<a href="{{ url }}">x</a>', {"template-marks"}),
        ('<img src="https://example.com/p.gif" width="1" height="1">', set()),
        ('<div style="display:none">News of November: what is new, and more</div>', set()),
        ('<p hidden>x</p>', set()),
        ('<style>@import url("https://fonts.example.com/css?family=A");</style>', set()),
        ('<style>@import url("https://example.com/all.css");</style>', {"html-remote-css"}),
        ("<p>one<p>two<ul><li>x</ul><br>", set()),
        ("50 % off, 100%% sure", set()),
        ("Dear Ann, hello", set()),
    ],
)  # fmt: skip
def test_forms_of_pages(body, told):
    assert {one.id for one in lint(Example("", html=page(body)).samples())} == told
