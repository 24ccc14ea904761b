"""Attachments by URL: only where allowed, bounded, by http, https and data: only, and errors show no secret."""

import asyncio
import base64
import threading
from contextlib import contextmanager, suppress
from email import message_from_bytes
from email.policy import SMTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from bulkmail.errors import MessageError
from bulkmail.message import fetch as fetching
from bulkmail.message.attach import load_attachment
from bulkmail.message.fetch import fetch, masked
from bulkmail.message.message import Attachment, Message
from bulkmail.message.spec import Access, AttachmentSpec
from bulkmail.pool.mailer import Mailer
from bulkmail.sink import Server

URLS = Access(urls=True)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


class Answers(BaseHTTPRequestHandler):
    """What each path is answered with; `asked` keeps the requests."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        if path == "/logo.png":
            self.answer(200, PNG, **{"Content-Type": "image/png; x=y", "Content-Length": str(len(PNG))})
        elif path == "/report":
            self.answer(200, b"%PDF", **{"Content-Type": "application/pdf"})
        elif path == "/odd":
            self.answer(200, b"x", **{"Content-Type": "<nonsense>"})
        elif path.startswith("/to/"):
            self.answer(302, b"", Location=self.path[4:])
        elif path == "/loop":
            self.answer(301, b"", Location="/loop")
        elif path == "/short":
            self.answer(200, b"x" * 10, **{"Content-Length": "20"})
        elif path == "/gzip":
            self.answer(200, b"x", **{"Content-Encoding": "gzip"})
        elif path == "/large":
            self.answer(200, b"x" * 5000)
        elif path == "/silent":
            self.server.released.wait(30)
        elif path == "/drip":
            self.answer(200, b"")
            while not self.server.released.wait(0.02):
                self.wfile.write(b"x")
        elif path == "/nonsense":
            self.wfile.write(b"what is this?\r\n\r\n")
        else:
            self.answer(404, b"secret words of the server")

    def answer(self, status, content, **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle(self):
        with suppress(OSError):  # the client has enough
            super().handle()

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.released, server.daemon_threads = threading.Event(), True
        Answers.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site():
    with serving() as url:
        yield url


def test_what_a_url_stands_for_is_attached_with_its_name_and_type(site):
    made = load_attachment(AttachmentSpec(url=f"{site}/logo.png?v=2"), access=URLS)
    assert (made.data, made.type, made.name) == (PNG, "image/png", "logo.png")
    made = load_attachment(AttachmentSpec(url=f"{site}/report"), access=URLS)
    assert (made.data, made.type, made.name) == (b"%PDF", "application/pdf", "report")
    made = load_attachment(AttachmentSpec(url=f"{site}/odd", name="a.csv", type="text/x-own"), access=URLS)
    assert (made.type, made.name) == ("text/x-own", "a.csv")
    assert load_attachment(AttachmentSpec(url=f"{site}/odd"), access=URLS).type == "application/octet-stream"


def test_redirects_are_followed_and_users_are_told_only_where_they_are_named(site):
    with serving() as other:
        named = site.replace("//", "//user:p%40ss@")
        assert fetch(f"{named}/to/{other}/logo.png", "a").data == PNG
        login = "Basic " + base64.b64encode(b"user:p@ss").decode()
        assert Answers.asked[-2:] == [(f"/to/{other}/logo.png", login), ("/logo.png", None)]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nothing", "answered with status 404"),
        ("/loop", "redirected more than 5 times"),
        ("/to/file:///etc/passwd", "redirected from http to file"),
        ("/to/ftp://example.com/x", "redirected from http to ftp"),
        ("/to/data:,x", "redirected from http to data"),
        ("/short", "ended after 10 of 20 bytes"),
        ("/gzip", "compressed it"),
        ("/nonsense", "no proper HTTP"),
        ("/a b", "no legal URL"),
        ("/a\r\nX: y", "no legal URL"),
    ],
)
def test_what_does_not_come_is_an_error_that_names_the_url(site, path, words):
    with pytest.raises(MessageError, match=words) as caught:
        fetch(f"{site.replace('//', '//user:secret@')}{path}?token=secret#secret", "attachments[0]")
    assert str(caught.value).startswith("attachments[0]: http://***@127.0.0.1:") and "secret" not in str(caught.value)


def test_a_redirect_never_leaves_encryption():
    with pytest.raises(fetching._Refused, match="from https to http"):
        fetching._next("https://a.example/", "http://a.example/x")
    assert fetching._next("https://a.example/b/c", "d") == "https://a.example/b/d"


def test_size_and_time_are_bounded(site, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_FETCH", 4999)
    with pytest.raises(MessageError, match="more than 4999 bytes"):
        fetch(f"{site}/large", "a")
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.2)
    for path in ("/silent", "/drip"):
        with pytest.raises(MessageError, match=r"within 0.2 seconds|took too long|timed out"):
            fetch(site + path, "a")


def test_nobody_listens_and_no_host():
    with pytest.raises(MessageError, match=r"http://127.0.0.1:1/x cannot be fetched: Connection refused"):
        fetch("http://127.0.0.1:1/x", "a")
    with pytest.raises(MessageError, match="no legal URL"):
        fetch("http:///x", "a")
    with pytest.raises(MessageError, match="cannot be fetched"):
        fetch("http://127.0.0.1:99999/x", "a")


@pytest.mark.parametrize(
    ("url", "data", "kind"),
    [
        ("data:image/png;base64," + base64.b64encode(PNG).decode(), PNG, "image/png"),
        ("data:,a%20b", b"a b", "text/plain"),
        ("DATA:text/html;charset=utf-8,%C3%BC", "ü".encode(), "text/html;charset=utf-8"),
        ("data:;base64,eHk=", b"xy", "text/plain"),
    ],
)
def test_data_urls(url, data, kind):
    found = fetch(url, "a")
    assert (found.data, found.type, found.name) == (data, kind, None)


def test_a_data_url_is_an_attachment_with_an_ending_to_its_name():
    made = load_attachment(AttachmentSpec(url="data:image/png;base64," + base64.b64encode(PNG).decode()), access=URLS)
    assert (made.data, made.type, made.name) == (PNG, "image/png", "attachment.png")


@pytest.mark.parametrize("url", ["data:x", "data:;base64,****", "ftp://example.com/x", "file:///etc/passwd", "", "x"])
def test_what_is_no_url_of_ours(url):
    with pytest.raises(MessageError, match="attachments"):
        fetch(url, "attachments[0]")


def test_urls_are_off_unless_allowed_and_files_can_be(site, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("x")
    for url in (f"{site}/logo.png", "data:,x"):
        with pytest.raises(MessageError, match=r"attachments\[0\]: URLs, data: included, are off"):
            Message("n@example.com", text="t", attachments=[url]).as_bytes()
    for fields in (
        {"attachments": [file]},
        {"attachments": [{"file": str(file)}]},
        {"text": file},
        {"html": {"file": str(file)}},
        {"calendar": file},
        {"alternatives": [("text/x", file)]},
        {"html": "<img src='a.png'>", "embed_images": tmp_path},
    ):
        with pytest.raises(MessageError, match="is a file, and files are off"):
            Message("n@example.com", **fields).as_bytes(allow_files=False)


def test_a_mailer_holds_to_its_options_and_fetches_beside_the_loop(site, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("x")

    async def main():
        async with Server() as server:
            message = Message("n@example.com", "a@example.net", text="t", attachments=[f"{site}/logo.png", file])
            async with Mailer(f"{server.url}?allow_urls=true") as mailer:
                await mailer.send(message)
                assert [receipt.error async for receipt in mailer.send_many([message])] == [None]
            for options in ({}, {"allow_urls": True, "allow_files": False}):
                async with Mailer(server.url, **options) as mailer:
                    with pytest.raises(MessageError, match="are off"):
                        await mailer.send(message)
                    (receipt,) = [receipt async for receipt in mailer.send_many([message])]
                    assert "are off" in str(receipt.error)
            return [message.content for message in server.messages], message

    stored, message = asyncio.run(main())
    parsed = [message_from_bytes(data, policy=SMTP) for data in stored]
    assert [len(list(one.iter_attachments())) for one in parsed] == [2, 2]
    assert {one["Message-ID"] for one in parsed} == {message.message_id}


def test_masked_urls():
    assert masked("https://user:pw@h.example/a/b?c=d#e") == "https://***@h.example/a/b?…"
    assert masked("data:" + "x" * 100) == "data:" + "x" * 35 + "…"


def test_a_string_that_is_a_url_is_one_and_a_path_is_a_path():
    assert Attachment("https://h.example/a").spec.url and Attachment("data:image/png;base64,eA==").spec.url
    assert str(Attachment("data/a.txt").spec.file) == "data/a.txt"
