"""Composing a recipient's message: microseconds a message at the sizes of the main benchmark.

    python -m pytest benchmarks/micro/test_compose.py

Each case composes a batch of 100 recipients and checks the result; `us_per_message` is in the extra info. At 20 KB the
pages that malloc gives back between rounds cost more than the composing: MALLOC_TRIM_THRESHOLD_=100000000 shows it.
"""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path

import pytest

from bulkmail.message.compile import compile_message
from bulkmail.message.spec import ListUnsubscribe, MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
BATCH = 100
NAMES = ["Ann", "Bob O'Hara", "Carol <3", "Dan", "Eve & Co"]
NAMES_BEYOND_ASCII = ["José", "Zoë Ünal", "Łukasz", "田中", "Анна"]
FILLER = "<p>The quick brown fox jumps over the lazy dog, and a newsletter goes on for quite a while.</p>\n"


def make_spec(size: int, slots: int, **fields: object) -> MessageSpec:
    """A message of about `size` bytes whose HTML has `slots` values spread over it."""
    marks = ["{{ name }}", "{{ city }}", "{{ id }}"]
    step = (size - 700) // slots
    html = "".join(
        (FILLER * (step // len(FILLER) + 1))[:step] + "<b>" + marks[number % len(marks)] + "</b>\n"
        for number in range(slots)
    )
    given: dict[str, object] = {
        "from_": "Example News <news@example.com>",
        "to": "{{ name }} <{{ email }}>",
        "subject": "Hello {{ name }}",
        "html": html,
        "list_unsubscribe": ListUnsubscribe("https://example.com/u/{{ id }}", one_click=True),
        "envelope_from": "bounce+{{ id }}@bounces.example.com",
    }
    return MessageSpec(**{**given, **fields})  # type: ignore[arg-type]


def make_rows(names: list[str]) -> list[dict[str, object]]:
    return [
        {
            "email": f"user{n}@example.net",
            "name": names[n % len(names)],
            "city": "Springfield",
            "id": n,
            "vip": n % 3 == 0,
            "items": ["Tea & cake", "Coffee", n],
        }
        for n in range(BATCH)
    ]


def make_extending(folder: Path) -> MessageSpec:
    """20 KB and 10 values, spread over a layout, what it includes, and the newsletter that extends it."""
    whole = make_spec(20000, 10).html
    assert whole is not None
    parts = whole.split("</b>\n")
    (folder / "foot.html").write_text("</b>\n".join(parts[7:]))
    (folder / "layout.html").write_text(
        "{% set color = '#036' %}"
        + "</b>\n".join(parts[:3])
        + "</b>{% block main %}{% endblock %}{% include 'foot.html' %}"
    )
    html = "{% extends 'layout.html' %}{% block main %}" + "</b>\n".join(parts[3:7]) + "</b>{% endblock %}"
    return make_spec(20000, 10, html=html)


ITEMS = "{% for item in items %}<li>{{ item }}</li>{% endfor %}"
CASES = {
    "2KB, 3 slots": (make_spec(2000, 3), NAMES),
    "20KB, 10 slots": (make_spec(20000, 10), NAMES),
    "2KB, 3 slots, names beyond ASCII": (make_spec(2000, 3), NAMES_BEYOND_ASCII),
    "20KB, 10 slots, names beyond ASCII": (make_spec(20000, 10), NAMES_BEYOND_ASCII),
    "2KB, subject beyond ASCII": (
        make_spec(2000, 3, subject="Grüße, {{ name }}, und viele schöne Sachen im November"),
        NAMES,
    ),
    "an if taken apart": (make_spec(2000, 3, text="Hi {% if vip %}dear {{ name }}{% else %}there{% endif %}"), NAMES),
    "one slot that Jinja2 evaluates": (make_spec(2000, 3, text="Hi {{ name|upper }}"), NAMES),
    "a set that Jinja2 evaluates": (make_spec(2000, 3, text="{% set greeting = 'Hi ' ~ name %}{{ greeting }}"), NAMES),
    "20KB, 10 slots, extends a layout": (make_extending, NAMES),
    "20KB, 10 slots, and a for over 3 items": (make_spec(20000, 10, html=make_spec(20000, 10).html + ITEMS), NAMES),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_compose(benchmark, case, tmp_path):
    spec, names = CASES[case]
    spec = spec if isinstance(spec, MessageSpec) else spec(tmp_path)
    compiled = compile_message(spec, job="bench", folder=tmp_path)
    rows, numbers = make_rows(names), list(range(1, BATCH + 1))

    made = benchmark(compiled.compose, rows, numbers, DATE)

    assert len(made) == BATCH and all(isinstance(item, tuple) for item in made)
    sender, recipient, body = made[7]
    message = message_from_bytes(body)
    assert (sender, recipient) == (b"bounce+7@bounces.example.com", b"user7@example.net")
    assert message["List-Unsubscribe"] == "<https://example.com/u/7>" and body.endswith(b"\r\n.\r\n")
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.median / BATCH * 1e6, 2)
    benchmark.extra_info["bytes"] = len(body)


def test_email_package_for_comparison(benchmark):
    """The reference: Jinja2 renders, the standard library encodes."""
    compiled = compile_message(CASES["2KB, 3 slots"][0], job="bench")
    row = make_rows(NAMES)[7]

    made = benchmark(compiled.render, row, 7, DATE)

    assert b"Hello Carol" in made.eml
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.median * 1e6, 2)
