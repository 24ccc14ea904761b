"""The answers of the page's JSON API."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from aiohttp import web

from bulkmail.sink.session import Message
from bulkmail.sink.web.guard import COMMON, html_policy
from bulkmail.sink.web.inbox import Entry, Gone, Inbox, KeptInbox
from bulkmail.sink.web.reading import IMAGES, MAX_GLANCE, MAX_READ, Reading, Summary, file_name, reading, summary
from bulkmail.sink.web.search import Query, Search, read_query

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
# Rows of lists that were made; a page is made again at every message that comes. Each has 1 KB, 2 KB at most.
MAX_SUMMARIES = 2000
# Pages that are told of what comes, and how often at most.
MAX_WATCHERS = 32
WATCH_SECONDS = 0.3
ALIVE_SECONDS = 15.0  # a watcher that has gone is noticed by writing to it

T = TypeVar("T")


class Api:
    """Messages are read and taken apart in a thread, one at a time, and searched in another: the loop receives mail."""

    def __init__(self, inbox: Inbox, about: Callable[[], dict[str, object]]) -> None:
        self.inbox, self.about = inbox, about
        self.stopping = asyncio.Event()
        self._reader = ThreadPoolExecutor(1, "sink-web-read")
        self._searcher = ThreadPoolExecutor(1, "sink-web-search")
        self._summaries: OrderedDict[str, Summary] = OrderedDict()
        self._last: tuple[str, Reading] | None = None
        self._watchers = 0

    def routes(self) -> list[web.RouteDef]:
        one = "/api/messages/{id}"
        return [
            web.get("/api/messages", self.listing, allow_head=False),
            web.delete("/api/messages", self.delete_all),
            web.get("/api/server", self.server),
            web.get("/api/events", self.events, allow_head=False),
            web.get(one, self.message),
            web.delete(one, self.delete),
            web.get(one + "/html", self.html),
            web.get(one + "/text", self.text),
            web.get(one + "/source", self.source),
            web.get(one + r"/attachments/{index:\d{1,4}}", self.attachment),
            web.get(one + r"/inline/{index:\d{1,4}}", self.inline),
        ]

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._searcher.shutdown(wait=False, cancel_futures=True)

    async def server(self, request: web.Request) -> web.Response:
        return reply(self.about() | {"store": self.inbox.kind})

    # --- lists

    async def listing(self, request: web.Request) -> web.Response:
        start, limit = number(request, "start", 0, 1 << 31), number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        version = self.inbox.version()
        entries, complete = await self._found(request.query.get("query", ""))
        rows = await self._read(lambda: self._rows(entries, start, limit))
        return reply(
            {
                "version": version,
                "store": self.inbox.kind,
                "deletes": self.inbox.deletes,
                "total": len(entries),
                "complete": complete,
                "start": start,
                "limit": limit,
                "messages": rows,
            }
        )

    async def _found(self, text: str) -> tuple[Sequence[Entry], bool]:
        query = read_query(text)
        if not query.words:
            entries, older = await self._read(self.inbox.entries)
            return entries, not older
        search = Search()
        try:
            return await self._run(self._searcher, lambda: self._search(search, query))
        finally:
            search.stopped = True

    def _search(self, search: Search, query: Query) -> tuple[Sequence[Entry], bool]:
        entries, older = self.inbox.entries()
        found, complete = search.run(query, entries)
        return found, complete and not older

    def _rows(self, entries: Sequence[Entry], start: int, limit: int) -> list[dict[str, Any]]:
        rows = []
        for entry in entries[start : start + limit]:
            try:
                rows.append(entry.envelope() | asdict(self._summary(entry)))
            except Gone:
                self.inbox.drop(entry)
        return rows

    def _summary(self, entry: Entry) -> Summary:
        made = self._summaries.get(entry.id)
        if made is None:
            made = self._summaries[entry.id] = summary(*entry.read(MAX_GLANCE))
            if len(self._summaries) > MAX_SUMMARIES:
                self._summaries.popitem(last=False)
        return made

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: a line whenever the list has changed (https://html.spec.whatwg.org/#server-sent-events)."""
        if self._watchers >= MAX_WATCHERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_WATCHERS} pages are told of new messages already")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._watchers += 1
        try:
            await response.prepare(request)
            await self._watch(response)
        except (ConnectionError, asyncio.CancelledError):
            pass  # it has gone
        finally:
            self._watchers -= 1
        return response

    async def _watch(self, response: web.StreamResponse) -> None:
        told, silent = "", 0.0
        while not self.stopping.is_set():
            version = self.inbox.version()
            if version != told or silent >= ALIVE_SECONDS:
                await response.write(b"data: %s\n\n" % version.encode())
                told, silent = version, 0.0
            try:
                await asyncio.wait_for(self.stopping.wait(), WATCH_SECONDS)
            except TimeoutError:
                silent += WATCH_SECONDS

    # --- one message

    async def message(self, request: web.Request) -> web.Response:
        return reply(await self._of(request, self._told))

    def _told(self, entry: Entry) -> dict[str, Any]:
        told, seen = entry.full_envelope(), self._reading(entry)
        return told | {
            **asdict(self._summary(entry)),
            "attachments": seen.attachments(),
            "headers": seen.headers(),
            "has_html": seen.html_part is not None,
            "has_text": seen.text_part is not None,
            "links": seen.links(),
            "problems": seen.all_problems(),
        }

    async def html(self, request: web.Request) -> web.Response:
        base = f"/api/messages/{request.match_info['id']}/inline/"
        page = await self._of(request, lambda entry: self._reading(entry).html(base))
        if page is None:
            raise web.HTTPNotFound(text="the message has no html part")
        policy = html_policy(f"http://{request.headers['Host']}{base}")
        return web.Response(
            body=page.encode(), headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
        )

    async def text(self, request: web.Request) -> web.Response:
        text = await self._of(request, lambda entry: self._reading(entry).text)
        if text is None:
            raise web.HTTPNotFound(text="the message has no text part")
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})

    async def source(self, request: web.Request) -> web.StreamResponse:
        """`limit` bytes of it, all without; with `download` as a file."""
        limit = number(request, "limit", 0, MAX_READ)
        headers = {"Content-Type": "text/plain"}
        if "download" in request.query:
            headers = as_file(f"{request.match_info['id']}.eml")
        path = await self._of(request, lambda entry: entry.path())
        if path is not None and not limit:
            return web.FileResponse(path, headers=headers)
        most = limit or 1 << 62
        return web.Response(body=await self._of(request, lambda entry: entry.read(most)[0]), headers=headers)

    async def attachment(self, request: web.Request) -> web.Response:
        at = int(request.match_info["index"])

        def told(entry: Entry) -> tuple[str, bytes] | None:
            seen = self._reading(entry)
            part = seen.part(at)
            return None if part is None else (file_name(part, at), part.content(MAX_READ))

        found = await self._of(request, told)
        if found is None:
            raise web.HTTPNotFound(text=f"the message has no part {at}")
        return web.Response(body=found[1], headers=as_file(found[0]))

    async def inline(self, request: web.Request) -> web.Response:
        """An image that the html of the message shows. Its frame has no origin, so it is "cross-origin" to us."""
        at = int(request.match_info["index"])

        def told(entry: Entry) -> tuple[str, bytes] | None:
            part = self._reading(entry).part(at)
            return None if part is None or part.type not in IMAGES else (part.type, part.content(MAX_READ))

        found = await self._of(request, told)
        if found is None:
            raise web.HTTPNotFound(text=f"part {at} of the message is no image that is shown")
        headers = {"Content-Type": found[0], "Cross-Origin-Resource-Policy": "cross-origin"}
        return web.Response(body=found[1], headers=headers)

    # --- deleting: in the loop, where messages are added

    async def delete(self, request: web.Request) -> web.Response:
        messages, ident = self._messages(), request.match_info["id"]
        at = next((at for at, message in enumerate(messages) if message.id == ident), None)
        if at is None:
            raise web.HTTPNotFound(text="there is no such message")
        del messages[at]
        return web.Response(status=204)

    async def delete_all(self, request: web.Request) -> web.Response:
        self._messages().clear()
        self._last = None
        return web.Response(status=204)

    def _messages(self) -> list[Message]:
        if not isinstance(self.inbox, KeptInbox):
            raise web.HTTPMethodNotAllowed("DELETE", ["GET"], text="messages of a Maildir are files: delete them there")
        return self.inbox.kept.messages

    # --- threads

    async def _of(self, request: web.Request, work: Callable[[Entry], T]) -> T:
        ident = request.match_info["id"]

        def find() -> T:
            entry = self.inbox.find(ident)
            if entry is None:
                raise Gone(ident)
            return work(entry)

        try:
            return await self._read(find)
        except Gone:
            raise web.HTTPNotFound(text="there is no such message") from None

    def _reading(self, entry: Entry) -> Reading:
        """Kept for the next request: a page asks for several parts of one message."""
        last = self._last  # which the loop forgets when all messages are deleted
        if last is None or last[0] != entry.id:
            self._last = last = None  # before another is read: one at a time in memory
            self._last = last = (entry.id, reading(*entry.read(MAX_READ)))
        return last[1]

    async def _read(self, work: Callable[[], T]) -> T:
        return await self._run(self._reader, work)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= most):
        raise web.HTTPBadRequest(text=f"{name!r} is a number of 0 to {most}, not {text[:40]!r}")
    return int(text)


def reply(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def as_file(name: str) -> dict[str, str]:
    """Never shown, always saved; the name in both forms of RFC 6266 section 4.3."""
    plain = "".join(c if c.isascii() and c not in '%"\\' else "_" for c in name)
    return COMMON | {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
    }
