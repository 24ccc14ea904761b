"""What is shown of a message: any bytes can be read, in bounded time and memory."""

from __future__ import annotations

import os
import time
import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")

from bulkmail.sink.web.reading import LINKS_OPEN, MAX_HTML, Reading, reading, summary
from unit.sink.web_client import file, image, mail, page

EXAMPLES = int(os.environ.get("BULKMAIL_FUZZ_EXAMPLES", "60"))
WHOLE = mail("=?utf-8?b?w6Q=?=", page("<a href='http://x'>y</a><img src=cid:i>"), file("é.pdf", b"x"), image("i"))
PIECES = st.sampled_from([
    b"\r\n", b"\n", b"\r\n\r\n", b"--=b\r\n", b"--=b--", b"Content-Type: ", b"multipart/mixed; boundary==b",
    b"text/html", b"; charset=utf-7", b"; charset*=x'y'z", b"Content-Transfer-Encoding: base64\r\n", b"=?utf-8?q?=?=",
    b"<img src=cid:", b"Content-ID: <i>", b"\xff\xfe", b"Content-Disposition: attachment; filename*0*=%", b"\0", b": ",
    b" ", b"message/rfc822",
])  # fmt: skip


def look(data: bytes) -> None:
    """All that the page asks of a message."""
    summary(data, len(data))
    seen = reading(data, len(data))
    # orjson refuses lone surrogates, and so does HTTP.
    orjson.dumps([seen.headers(), seen.attachments(), seen.links(), seen.all_problems(), seen.shown("subject")])
    for text in (seen.text, seen.html("/x/"), seen.searched()):
        (text or "").encode()


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=500) | st.lists(PIECES | st.binary(max_size=8), max_size=60).map(b"".join))
def test_any_bytes_can_be_shown(data: bytes) -> None:
    look(data)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_a_message_that_is_cut_or_damaged_can_be_shown(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(WHOLE)))
    gone = data.draw(st.integers(0, 200))
    look(WHOLE[:at] + data.draw(PIECES | st.binary(max_size=9)) + WHOLE[at + gone :])


def nested(depth: int, size: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth))
    return head + b"\r\n" + b"x" * size


HOSTILE = {
    "deep": nested(400, 2_000_000),
    "parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n\r\n" * 100_000,
    "fields of parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + (b"--b\r\n" + b"a:\n" * 4000) * 50,
    "fields": b"a:\r\n" * 500_000,
    "lines": b"a\n" * 1_000_000,
    "folds": b"Subject: x\r\n" + b" \r\n" * 100_000,
    "words": b"Subject: " + b"=?utf-8?q?a?= " * 100_000,
    "tags": b"Content-Type: text/html\r\n\r\n" + b"<" * 100_000,
    "spaces": b"Content-Type: text/html\r\n\r\n=" + b" " * 300_000,
    "links": b"Content-Type: text/html\r\n\r\n" + b"<a href=http://x" * 20_000,
    "comments": b"Content-Type: text/html\r\n\r\n" + b"<!---->" * 30_000 + b"<!--" * 30_000,
    "images": mail("i", page("<img src=cid:i>" * 8_000), image("i")),
    "parameters": b"Content-Type: multipart/mixed" + b"; a*0*=b" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_takes_seconds_and_megabytes_at_most(name: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    look(HOSTILE[name])
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What is quadratic takes minutes here; tracing makes everything some times slower.
    assert spent < 20
    assert peak < 50_000_000 + 4 * len(HOSTILE[name])


def test_many_references_to_an_image_do_not_make_a_page_of_any_size() -> None:
    seen = Reading(HOSTILE["images"])
    assert len(seen.html("/" + "x" * 500) or "") == MAX_HTML + len(LINKS_OPEN)


@pytest.mark.parametrize("top", ["", "<!doctype html>", " <!-- a --> <!-- b -->\n<!DOCTYPE html public 'x'>"])
def test_what_is_put_into_a_page_leaves_its_doctype_first(top: str) -> None:
    shown = Reading(mail("x", page(top + "<html><p>x"))).html("/") or ""
    assert shown.replace("\r\n", "\n").startswith(f"{top}{LINKS_OPEN}<html>")
