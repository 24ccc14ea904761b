"""What keeps strangers' sites away from the sink's page, and what every answer forbids a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")

from bulkmail.sink.web import page as page_module
from bulkmail.sink.web.guard import host_of, is_ours
from unit.sink.web_client import file, image, mail, page, web

Run = Callable[[Any], Any]


@pytest.mark.parametrize("path, policy", [
    ("/", ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'",
           "form-action 'none'", "require-trusted-types-for 'script'"]),
    ("/app.js", ["default-src 'none'"]), ("/style.css", ["default-src 'none'"]), ("/icon.svg", ["default-src 'none'"]),
    ("/none", ["default-src 'none'", "sandbox", "frame-ancestors 'none'"]),
    ("/api/messages", ["default-src 'none'", "sandbox"]), ("/api/messages/none", ["default-src 'none'", "sandbox"]),
    ("/api/messages?limit=x", ["default-src 'none'"]),
    ("/api/messages/ID", ["default-src 'none'", "sandbox"]),
    ("/api/messages/ID/html", ["default-src 'none'", "sandbox", "frame-ancestors 'self'", "base-uri 'none'",
                               "form-action 'none'", "style-src 'unsafe-inline'"]),
    ("/api/messages/ID/text", ["default-src 'none'", "sandbox"]),
    ("/api/messages/ID/source", ["default-src 'none'", "sandbox"]),
    ("/api/messages/ID/attachments/2", ["default-src 'none'", "sandbox"]),
    ("/api/messages/ID/inline/3", ["default-src 'none'", "sandbox"]),
])  # fmt: skip
def test_every_answer_has_a_policy(path: str, policy: list[str], run: Run, tmp_path: Any) -> None:
    content = mail("all", page("<p>x"), file("a.html", b"<script>"), image("i"))

    async def main() -> None:
        for options in ({}, {"store": tmp_path}):
            async with web(**options) as page_:
                ident = await page_.send(content)
                response = await page_.ask(path.replace("ID", ident))
                found = response.headers["Content-Security-Policy"].split("; ")
                assert set(policy) <= set(found)
                assert not any("unsafe" in part for part in found if not part.startswith("style-src"))
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert response.headers["X-DNS-Prefetch-Control"] == "off"
                assert response.headers["Cache-Control"] == "no-store"
                assert "Server" not in response.headers
                assert "Access-Control-Allow-Origin" not in response.headers
                cross = response.headers["Cross-Origin-Resource-Policy"]
                assert cross == ("cross-origin" if "/inline/" in path else "same-origin")

    run(main())


@pytest.mark.parametrize("host, taken", [
    ("127.0.0.1", True), ("127.0.0.1:8025", True), ("localhost:1", True), ("LOCALHOST", True), ("[::1]:8025", True),
    ("192.0.2.7:80", True), ("app.localhost", True),
    ("evil.test", False), ("evil.test:8025", False), ("127.0.0.1.evil.test", False), ("localhost.evil.test", False),
    ("", False), ("127.0.0.1:80;x", False), ("a@127.0.0.1", False), ("[evil]", False), ("[::1", False),
])  # fmt: skip
def test_a_name_that_a_stranger_can_have_is_not_answered(host: str, taken: bool, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            ident = await page_.send(mail("secret"))
            for path in ("/", "/api/messages", f"/api/messages/{ident}/source"):
                response = await page_.ask(path, Host=host)
                assert response.status == (200 if taken else 403)
                assert taken or b"secret" not in await response.read()

    run(main())


def test_the_name_that_the_page_listens_on_is_answered() -> None:
    assert is_ours(host_of("devbox:8025"), "devbox")
    assert is_ours(host_of("DevBox"), "devbox")
    assert not is_ours(host_of("devbox.evil.test"), "devbox")


@pytest.mark.parametrize("fields, status", [
    ({}, 204),  # a program
    ({"Sec_Fetch_Site": "same-origin", "Origin": "OWN"}, 204),
    ({"Origin": "OWN"}, 204),
    ({"Sec_Fetch_Site": "none"}, 204),
    ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Sec_Fetch_Site": "same-site"}, 403),
    ({"Origin": "http://evil.test"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Sec_Fetch_Site": "cross-site", "Origin": "OWN"}, 403),
])  # fmt: skip
def test_only_the_page_itself_and_programs_may_delete(fields: dict[str, str], status: int, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            own = str(page_.server.web_url).rstrip("/")
            given = {name: value.replace("OWN", own) for name, value in fields.items()}
            for path in (f"/api/messages/{await page_.send(mail())}", "/api/messages"):
                await page_.send(mail())
                response = await page_.ask(path, "DELETE", **given)
                assert response.status == status
            assert len(page_.server.messages) == (0 if status == 204 else 3)

    run(main())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_do_nothing(method: str, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            await page_.send(mail())
            assert (await page_.ask("/api/messages", method)).status == 405
            assert len(page_.server.messages) == 1

    run(main())


def test_a_path_cannot_leave_the_static_files(run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            for path in ("/../page.py", "/%2e%2e/page.py", "/static/app.js", "/style.css/../../page.py"):
                assert (await page_.ask(path)).status == 404

    run(main())


def test_connections_have_a_bound(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_CONNECTIONS", 3)

    async def main() -> None:
        async with web() as page_:
            port = int(str(page_.server.web_url).rstrip("/").rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            held[0][1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200")  # so all three have been taken
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            for _, open_writer in [*held, (reader, writer)]:
                open_writer.close()

    run(main())


@pytest.mark.parametrize("request_", [
    b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"DELETE /api/messages HTTP/1.0\r\n\r\n",
])  # fmt: skip
def test_requests_that_are_none_are_refused_and_the_page_goes_on(request_: bytes, run: Run) -> None:
    async def main() -> None:
        async with web() as page_:
            await page_.send(mail())
            port = int(str(page_.server.web_url).rstrip("/").rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_)
            assert (await reader.readline())[9:12] in (b"400", b"403", b"414")
            writer.close()
            assert await page_.subjects() == ["Hello"]

    run(main())
