"""The sink's page: what its API tells of the messages that came, in memory and in a Maildir."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Server

pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")

from bulkmail.sink.web import api, reading
from unit.sink.sink_client import until
from unit.sink.web_client import PNG, file, image, mail, page, web

Run = Callable[[Any], Any]
STORES = pytest.mark.parametrize("kept", ["memory", "maildir"])


def options(kept: str, folder: Path) -> dict[str, Any]:
    return {"store": folder / "box"} if kept == "maildir" else {}


# --- lists


@STORES
def test_what_came_is_listed_newest_first_in_pages(kept: str, run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with web(**options(kept, tmp_path)) as page:
            ids = [await page.send(mail(f"number {n}")) for n in range(5)]
            told = await page.json("/api/messages?start=1&limit=2")
            assert [row["subject"] for row in told["messages"]] == ["number 3", "number 2"]
            assert (told["total"], told["start"], told["limit"], told["complete"]) == (5, 1, 2, True)
            assert (told["store"], told["deletes"]) == (kept, kept == "memory")
            row = told["messages"][0]
            assert row["id"] == ids[3]
            assert (row["from"], row["to"], row["recipients"]) == ("a@example.com", ["b@example.com"], 1)
            assert (row["header_from"], row["header_to"]) == ("Ann <ann@example.com>", "bob@example.com")
            assert (row["size"], row["attachments"]) == (len(mail("number 3")), False)
            assert row["received"].endswith("Z")

    run(main())


def test_a_row_is_marked_where_something_is_attached(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            await page_.send(mail("file", file("a.pdf", b"x")))
            await page_.send(mail("shown", page("<img src='cid:i'>"), image("i"), sub="related"))
            await page_.send(mail("far", page("x" * reading.MAX_GLANCE), file("a.pdf", b"x")))
            rows = (await page_.json("/api/messages"))["messages"]
            marked = {row["subject"]: row["attachments"] for row in rows}
            assert marked == {"file": True, "shown": False, "far": True}

    run(main())


@STORES
def test_a_search_finds_senders_recipients_subjects_and_text(kept: str, run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with web(**options(kept, tmp_path)) as page_:
            await page_.send(mail("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", text="a Needle in the hay"), "sam@example.org")
            await page_.send(mail("html", page("<p>nee<b>dle</b> &amp; thread</p><style>.hidden{}</style>")))
            await page_.send(mail("needle"))
            for query, found in {
                "grüße": ["Grüße"],
                "NEEDLE": ["needle", "html", "Grüße"],
                "needle hay": ["Grüße"],
                '"the hay"': ["Grüße"],
                "subject:needle": ["needle"],
                "from:sam": ["Grüße"],
                "from:ann to:bob thread": ["html"],
                "to:b@example.com subject:html": ["html"],
                "from:bob": [],
                "hidden": [],
                "": ["needle", "html", "Grüße"],
                '"': ["needle", "html", "Grüße"],
            }.items():
                asked = query.replace(" ", "+").replace('"', "%22")
                assert await page_.subjects(f"query={asked}") == found, query

    run(main())


def test_a_search_that_takes_too_long_says_that_it_is_not_complete(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkmail.sink.web import search

    async def main() -> None:
        async with web() as page_:
            for n in range(3):
                await page_.send(mail(f"n {n}"))
            monkeypatch.setattr(search, "MAX_SEARCHED", 2)
            told = await page_.json("/api/messages?query=n")
            assert (told["total"], told["complete"]) == (2, False)
            monkeypatch.setattr(search, "MAX_SECONDS", -1.0)
            told = await page_.json("/api/messages?query=n")
            assert (told["total"], told["complete"]) == (0, False)

    run(main())


@pytest.mark.parametrize("query", ["start=-1", "limit=201", "limit=x", "start=99999999999"])
def test_numbers_that_are_none(query: str, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            response = await page_.ask(f"/api/messages?{query}")
            assert response.status == 400
            assert query.split("=")[0] in (await response.json())["error"]

    run(main())


def test_a_page_is_told_when_a_message_comes(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            stream = await page_.client.get(f"{page_.server.web_url}api/events")
            assert stream.content_type == "text/event-stream"
            first = await stream.content.readuntil(b"\n\n")
            await page_.send(mail())
            assert await stream.content.readuntil(b"\n\n") != first
            page_.server.messages.clear()
            assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: ")
            stream.close()

    run(main())


def test_pages_that_watch_do_not_keep_the_server_from_stopping(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            stream = await page_.client.get(f"{page_.server.web_url}api/events")
            await stream.content.readuntil(b"\n\n")
            await asyncio.wait_for(page_.server.stop(), 5)
            assert await stream.content.read() == b""

    run(main())


# --- one message


@STORES
def test_one_message_is_told_whole(kept: str, run: Run, tmp_path: Path) -> None:
    content = mail(
        "=?utf-8?b?w6Q=?=", page("<a href='https://x.test/1'>One</a><a href='javascript:x'>Two</a>"), sub="mixed"
    )

    async def main() -> None:
        async with web(**options(kept, tmp_path)) as page_:
            ident = await page_.send(content)
            told = await page_.json(f"/api/messages/{ident}")
            assert (told["id"], told["subject"], told["helo"]) == (ident, "ä", "client.test")
            assert (told["remote_address"], told["tls"], told["auth"]) == ("127.0.0.1", None, None)
            assert (told["has_html"], told["has_text"], told["attachments"]) == (True, True, [])
            assert told["headers"][2] == ["Subject", "ä"]
            assert told["links"] == [{"url": "https://x.test/1", "text": "One"}]
            assert told["problems"] == []
            assert await page_.bytes(f"/api/messages/{ident}/text") == b"the text"

    run(main())


@STORES
def test_the_source_is_byte_for_byte_what_came(kept: str, run: Run, tmp_path: Path) -> None:
    content = b"Subject: \xff\r\n\r\n.dot \x00\x01 \xe2\x82\r\n<script>\r\n"

    async def main() -> None:
        async with web(**options(kept, tmp_path)) as page_:
            where = f"/api/messages/{await page_.send(content)}/source"
            assert await page_.bytes(where) == content
            assert await page_.bytes(f"{where}?limit=10") == content[:10]
            shown, saved = await page_.ask(where), await page_.ask(f"{where}?download")
            assert shown.headers["Content-Type"] == "text/plain"
            assert saved.headers["Content-Type"] == "application/octet-stream"
            assert saved.headers["Content-Disposition"].startswith("attachment;")
            assert await saved.read() == content

    run(main())


def test_attachments_are_saved_byte_for_byte_under_names_that_lead_nowhere(run: Run) -> None:
    data = bytes(range(256)) * 3
    names = {
        "invoice.pdf": "invoice.pdf",
        "../../etc/passwd": "passwd",
        "..\\\\..\\\\x.exe": "x.exe",
        ".bashrc": "bashrc",
        "a\u202ecod.exe": "a_cod.exe",
        "caf\u00e9 100%.txt": "caf\u00e9 100%.txt",
        "..": "part-7.bin",
        "n" * 300 + ".txt": "n" * 116 + ".txt",
    }

    async def main() -> None:
        async with web() as page_:
            ident = await page_.send(mail("files", *(file(name, data, "application/x-a") for name in names)))
            told = (await page_.json(f"/api/messages/{ident}"))["attachments"]
            assert [one["name"] for one in told] == [*names.values()]
            assert {one["size"] for one in told} == {len(data)}
            for one in told:
                response = await page_.ask(f"/api/messages/{ident}/attachments/{one['index']}")
                assert await response.read() == data
                assert response.headers["Content-Type"] == "application/octet-stream"
                assert response.headers["Content-Disposition"].startswith("attachment; filename=")
            saved = await page_.ask(f"/api/messages/{ident}/attachments/{told[5]['index']}")
            assert saved.headers["Content-Disposition"] == (
                "attachment; filename=\"caf_ 100_.txt\"; filename*=UTF-8''caf%C3%A9%20100%25.txt"
            )

    run(main())


def test_images_of_the_message_are_shown_from_here_and_nothing_else_is(run: Run) -> None:
    html = (
        "<img src=\"cid:logo\"><img src='cid:vector'><p style='background:url(cid:logo)'>cid:logo</p>"
        "<link rel=preconnect href=//evil.test><LINK/rel=stylesheet href=//evil.test><iFrame\nsrc=//evil.test>"
    )
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"

    async def main() -> None:
        async with web() as page_:
            ident = await page_.send(
                mail("shown", page(html), image("logo"), image("vector", svg, "image/svg+xml"), sub="related")
            )
            where = f"/api/messages/{ident}"
            response = await page_.ask(f"{where}/html")
            assert await response.text() == (
                f"{reading.LINKS_OPEN}<img src=\"{where}/inline/2\"><img src='cid:vector'>"
                f"<p style='background:url({where}/inline/2)'>cid:logo</p>"
                "<x-link rel=preconnect href=//evil.test><x-LINK/rel=stylesheet href=//evil.test>"
                "<x-iFrame\r\nsrc=//evil.test>"
            )
            base = str(page_.server.web_url).rstrip("/")
            policy = response.headers["Content-Security-Policy"].split("; ")
            assert f"img-src {base}{where}/inline/ data:" in policy
            assert {"default-src 'none'", "sandbox", "form-action 'none'", "base-uri 'none'"} <= set(policy)
            shown = await page_.ask(f"{where}/inline/2")
            assert (shown.content_type, await shown.read()) == ("image/png", PNG)
            assert (await page_.ask(f"{where}/inline/3")).status == 404  # SVG is a document
            assert (await page_.ask(f"{where}/inline/1")).status == 404  # so is html

    run(main())


@pytest.mark.parametrize("rest", ["", "/html", "/text", "/source", "/attachments/1", "/inline/0"])
def test_a_message_that_is_not_there(rest: str, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            assert (await page_.ask(f"/api/messages/none{rest}")).status == 404
            ident = await page_.send(b"Content-Type: image/gif\r\n\r\n")
            if rest not in ("", "/source", "/inline/0"):
                assert (await page_.ask(f"/api/messages/{ident}{rest}")).status == 404

    run(main())


@STORES
def test_a_message_too_large_to_take_apart_shows_its_header_and_source(
    kept: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MAX_READ", 1000)
    content = mail("large", page("x" * 2000))

    async def main() -> None:
        async with web(**options(kept, tmp_path)) as page_:
            ident = await page_.send(content)
            told = await page_.json(f"/api/messages/{ident}")
            assert (told["subject"], told["has_html"], told["size"]) == ("large", False, len(content))
            assert "more than" in told["problems"][0]
            assert await page_.bytes(f"/api/messages/{ident}/source") == content

    run(main())


def test_messages_are_taken_apart_off_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    for name in ("reading", "summary"):
        real = getattr(api, name)

        def watched(*arguments: Any, real: Any = real) -> Any:
            threads.append(threading.current_thread())
            return real(*arguments)

        monkeypatch.setattr(api, name, watched)

    async def main() -> None:
        async with web() as page_:
            ident = await page_.send(mail())
            await page_.json("/api/messages")
            await page_.json(f"/api/messages/{ident}")
            assert len(threads) == 2 and threading.current_thread() not in threads

    run(main())


def test_the_docs_tell_the_keys_of_a_message(run: Run) -> None:
    page_of_docs = Path(__file__).resolve().parents[3] / "docs/sink-web.md"
    told = json.loads(re.findall(r"```json\n(.*?)\n```", page_of_docs.read_text("utf-8"), re.S)[0])
    more = re.findall(r"One message has besides: (.*?)\n```", page_of_docs.read_text("utf-8"), re.S)[0]

    async def main() -> None:
        async with web() as page_:
            ident = await page_.send(mail("s", file("a.pdf", b"x"), page("<a href=http://x>y</a>")))
            row = (await page_.json("/api/messages"))["messages"][0]
            one = await page_.json(f"/api/messages/{ident}")
            assert told.keys() <= row.keys()
            assert {name: type(value) for name, value in told.items()} == {name: type(row[name]) for name in told}
            for name in one.keys() - row.keys() | one["attachments"][0].keys() | one["links"][0].keys():
                assert name in more, name

    run(main())


def test_a_text_that_is_cut_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkmail.message.lint import parts

    monkeypatch.setattr(parts.Part.content, "__defaults__", (10,))
    monkeypatch.setattr(parts, "MAX_TEXT", 10)

    async def main() -> None:
        async with web() as page_:
            told = await page_.json(f"/api/messages/{await page_.send(mail(text='x' * 20))}")
            assert "longer than what is shown" in told["problems"][0]

    run(main())


# --- the option


def test_a_sink_that_discards_has_nothing_to_show() -> None:
    with pytest.raises(ConfigError, match="'web' and 'discard' exclude each other"):
        Server(web="127.0.0.1:0", discard=True)


def test_without_aiohttp_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("bulkmail.sink.web.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"pip install 'bulkmail\[web\]'"):
        Server(web="127.0.0.1:0")
    Server()


def test_a_sink_without_a_page_loads_nothing_of_it() -> None:
    code = (
        "import sys, bulkmail.sink; bulkmail.sink.Server();"
        "print([name for name in sys.modules if name.startswith(('aiohttp', 'bulkmail.sink.web', 'bulkmail.message'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("place", ["nonsense", "127.0.0.1:99999", "::1:80"])
def test_a_place_that_is_none(place: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        Server(web=place)


def test_a_port_in_use_leaves_nothing_open(run: Run, free_port: Callable[[], int]) -> None:
    async def main() -> None:
        place = f"127.0.0.1:{free_port()}"
        async with web() as page_:
            taken = str(page_.server.web_url).removeprefix("http://").rstrip("/")
            with pytest.raises(ConfigError, match=f"cannot listen on {taken}: Address already in use"):
                await Server(listen=place, web=taken).start()
            async with Server(listen=place):
                pass

    run(main())


def test_a_page_for_everyone_is_warned_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with web(web="0.0.0.0:0") as page_:
            assert str(page_.server.web_url).startswith("http://127.0.0.1:")
            assert await page_.subjects() == []
        async with web():
            pass

    with caplog.at_level(logging.WARNING, "bulkmail.sink"):
        run(main())
    assert ["no login" in record.getMessage() for record in caplog.records] == [True]


def test_the_server_tells_where_it_listens(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            await page_.send(mail())
            await until(lambda: page_.server.counts["connections"] == 1)
            told = await page_.json("/api/server")
            assert told == {"url": page_.server.url, "counts": page_.server.counts, "store": "memory"}

    run(main())


def test_web_url_is_there_once_started() -> None:
    assert Server().web_url is None
    with pytest.raises(RuntimeError, match="not been started"):
        _ = Server(web="127.0.0.1:0").web_url
