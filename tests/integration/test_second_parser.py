"""npm's mailparser, which shares no code with us or the standard library, reads what we composed."""

from __future__ import annotations

import pytest

from integration.messages import Sample, samples
from integration.servers.mail_parser import parse_mails

# Forms that mailparser knows as attachments only; they have no name.
FORMS = {"text/watch-html", "text/x-amp-html", "text/calendar", "text/markdown"}


@pytest.fixture(scope="module")
def read() -> dict[str, tuple[Sample, dict]]:
    given = samples()
    return {
        sample.name: (sample, mail) for sample, mail in zip(given, parse_mails([s.content for s in given]), strict=True)
    }


def without_end(text: str | None) -> str | None:
    return text.removesuffix("\n") if text else None


@pytest.mark.parametrize("name", [sample.name for sample in samples()])
def test_it_finds_what_was_composed(read, name):
    sample, mail = read[name]
    expected = sample.expected
    assert mail["subject"] == expected.subject
    assert (without_end(mail["text"]), without_end(mail["html"])) == (expected.text, expected.html)
    assert [tuple(box) for box in mail["sender"]] == [expected.sender]
    assert [tuple(box) for box in mail["to"]] == [(name, readable(address)) for name, address in expected.to]
    found = [(p["name"], p["type"], p["cid"], p["content"]) for p in mail["attachments"] if p["type"] not in FORMS]
    assert found == expected.parts


def readable(address: str) -> str:
    """mailparser shows A-labels as what they stand for."""
    return address.replace("xn--bcher-kva", "bücher")


def test_it_finds_threads_importance_headers_and_the_page_of_an_image(read):
    _, mail = read["everything"]
    assert (mail["in_reply_to"], mail["references"]) == ("<1@example.com>", ["<0@example.com>", "<1@example.com>"])
    assert mail["priority"] == "high"
    custom = [line for line in mail["lines"] if line.startswith(("X-A", "X-B"))]
    assert custom == ["X-A: 1", "X-A: =?utf-8?b?w7w=?=", "X-B: a\r\n b"]
    related = {part["name"]: part["related"] for part in mail["attachments"] if part["name"]}
    assert related == {"logo.png": True, "invite.ics": False, "empty.txt": False, "m.eml": False, "part.bin": False}
    assert {part["type"] for part in mail["attachments"]} >= FORMS - {"text/markdown"}
