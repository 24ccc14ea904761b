"""The sink's page in Chromium: it shows what came, and no message can do anything there."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bulkmail.sink import Server
from integration.chromium import SECONDS, chromium
from unit.sink.web_client import file, image, mail, page

QUIET_SECONDS = 0.5  # in which what a page would fetch by itself comes; with nothing in its way it takes a few ms

# What web_attacks.html fetches where it may.
ATTACKS = {
    "/refresh", "/link.css", "/import.css", "/background", "/fetch", "/script.js", "/img", "/base/relative", "/onerror",
    "/iframe", "/srcdoc", "/object", "/video", "/svg-image", "/style", "/input",
}  # fmt: skip


class Canary:
    """A web server that hears whatever a browser tries: it counts connections, too, that ask for nothing.

    pages   path -> html that is served there
    """

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.heard: list[str] = []
        self._news = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._hear("a connection")
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            request = peer.recv(65536)
            if not request:
                return
            path = request.split(b" ", 2)[1].decode()
            self._hear(path)
            body = self.pages.get(path, b"")
            kind = b"text/css" if path.endswith("css") else b"text/html"
            peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: %s\r\n\r\n%s" % (kind, body))

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self._news.set()

    def stays_quiet(self) -> list[str]:
        """What was heard, once nothing came for a while."""
        while self._news.wait(QUIET_SECONDS):
            self._news.clear()
        return self.heard

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def attacks(url: str) -> str:
    """A page that fetches from `url` in every way there is, and renames the page that it stands in."""
    return (Path(__file__).parent / "web_attacks.html").read_text().replace("URL", url)


class Sink:
    """A server in a thread, as a program that is tested beside a browser has it."""

    def __init__(self, **options: Any) -> None:
        self._options = {"web": "127.0.0.1:0", "max_recipients": 10} | options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Server(**self._options) as self.server:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Sink:
        self._thread.start()
        assert self._ready.wait(SECONDS)
        self.url = str(self.server.web_url)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(SECONDS)

    def send(self, *contents: bytes) -> list[str]:
        """Their ids."""
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=SECONDS) as client:
            for content in contents:
                client.sendmail("a@example.com", ["b@example.com"], content)
        return [message.id for message in self.server.messages[-len(contents) :]]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    with chromium(str(downloads)) as driver:
        yield driver


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture
def see(browser: Any, sink: Sink) -> See:
    browser.set_window_size(1200, 800)
    return See(browser, sink)


class See:
    """What a person does and sees."""

    def __init__(self, browser: Any, sink: Sink) -> None:
        self.browser, self.sink = browser, sink

    def open(self, rest: str = "") -> None:
        self.browser.get("about:blank")
        self.browser.get(self.sink.url + rest)

    def wait(self, check: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, SECONDS, 0.02, [Exception]).until(lambda _: check())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script("return " + script, *arguments)

    def subjects(self) -> list[str]:
        return self.run("[...document.querySelectorAll('#rows .what')].map((e) => e.textContent)")

    def shows(self, *subjects: str) -> None:
        self.wait(lambda: self.subjects() == [*subjects])

    def text(self, selector: str) -> str:
        return self.run("document.querySelector(arguments[0])?.innerText", selector)

    def click(self, selector: str) -> None:
        self.wait(lambda: self.browser.find_element(By.CSS_SELECTOR, selector).click() is None)

    def press(self, keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(keys)

    @contextmanager
    def frame(self) -> Iterator[None]:
        frame = self.wait(lambda: self.browser.find_element(By.CSS_SELECTOR, "#panel iframe"))
        self.browser.switch_to.frame(frame)
        yield
        self.browser.switch_to.default_content()

    def in_frame(self, text: str) -> None:
        """Waits until the frame shows it."""
        with self.frame():
            self.wait(lambda: text in self.browser.find_element(By.TAG_NAME, "body").text)


def test_it_shows_what_came_and_its_html(see: See) -> None:
    see.sink.send(mail("first"), mail("second", page("<p style='color:red'>dear <b>reader</b></p>")))
    see.open()
    see.shows("second", "first")
    assert see.text("#count") == "2 messages"
    see.click("#rows a")
    see.in_frame("dear reader")
    assert see.text("#subject") == "second"
    assert "Ann <ann@example.com>" in see.text("#people")
    for tab, words in {"text": "the text", "headers": "Ann <ann@example.com>", "source": "Subject: second"}.items():
        see.click(f"#tab-{tab}")
        see.wait(lambda words=words: words in see.text("#panel"))
    see.browser.back()
    see.wait(lambda: see.text("#welcome h1") == "No message is open")


def test_the_attacks_work_where_nothing_forbids_them(browser: Any, canary: Canary) -> None:
    canary.pages["/attacks"] = attacks(canary.url).replace("top.location", "top.nothing").encode()
    browser.get(f"{canary.url}/attacks")
    heard = set(canary.stays_quiet())
    browser.get("about:blank")
    assert heard >= ATTACKS


def test_no_message_can_run_or_fetch_anything(see: See, canary: Canary) -> None:
    see.sink.send(mail("evil", page(attacks(canary.url)), image("own"), sub="related"))
    see.open()
    title = see.browser.title
    see.click("#rows a")
    see.in_frame("the end of the page is shown")
    assert canary.stays_quiet() == []
    for link in ("#web", "#top", "#new", "#js", "form button"):
        with see.frame():
            see.browser.find_element(By.CSS_SELECTOR, link).click()
        see.in_frame("the end of the page is shown")
        # Chromium connects as soon as a link is pressed, before it looks at what forbids it; it asks for nothing.
        assert set(canary.stays_quiet()) <= {"a connection"}, link
        assert len(see.browser.window_handles) == 1
    assert (see.browser.title, see.text("#subject")) == (title, "evil")
    assert see.browser.current_url.startswith(see.sink.url)


def test_a_message_opened_without_its_frame_is_as_harmless(see: See, canary: Canary) -> None:
    (ident,) = see.sink.send(mail("evil", page(attacks(canary.url)), image("own"), sub="related"))
    for rest in ("html", "source", "text"):
        see.open(f"api/messages/{ident}/{rest}")
        assert canary.stays_quiet() == []
        assert see.browser.current_url == f"{see.sink.url}api/messages/{ident}/{rest}"


def test_images_of_the_message_itself_are_shown(see: See, canary: Canary) -> None:
    html = f"<p>here</p><img id=own src='cid:own'><img id=far src='{canary.url}/x'>"
    see.sink.send(mail("images", page(html), image("own"), sub="related"))
    see.open()
    see.click("#rows a")
    see.in_frame("here")
    with see.frame():
        sizes = {name: see.browser.find_element(By.ID, name).get_property("naturalWidth") for name in ("own", "far")}
    assert sizes == {"own": 1, "far": 0}
    assert canary.stays_quiet() == []


def test_markup_in_fields_and_names_is_text(see: See, canary: Canary) -> None:
    evil = f"<img src={canary.url}/x onerror=\"document.title='hacked'\">"
    content = mail(evil, file("<b>x.pdf", b"x")).replace(
        b"From: Ann", b"From: <script>top.x=1</script> \xe2\x80\xae Ann"
    )
    see.sink.send(content.replace(b"To: ", b"X-<b>: <i>no</i>\r\nTo: "))
    see.open()
    see.click("#rows a")
    see.wait(lambda: see.text("#subject") == evil)
    for tab in ("headers", "text", "source"):
        see.click(f"#tab-{tab}")
        see.wait(lambda tab=tab: see.run("document.querySelector('#panel').dataset.tab") == tab)
    assert see.text("#files span") == "_b_x.pdf"
    assert see.run("document.querySelectorAll('main img, main b, main i, main script').length") == 0
    assert (see.browser.title, see.run("window.x")) == ("bulkmail sink", None)
    assert canary.stays_quiet() == []


def test_a_search_shows_what_it_finds(see: See) -> None:
    see.sink.send(mail("apples"), mail("pears", text="not apples"), mail("plums"))
    see.open()
    see.shows("plums", "pears", "apples")
    see.press("/")
    see.press("apples")
    see.shows("pears", "apples")
    see.press(Keys.CONTROL + "a")
    see.press("subject:apples")
    see.shows("apples")
    assert see.text("#count") == "1 message found"
    see.press(Keys.ESCAPE)
    see.shows("plums", "pears", "apples")
    see.press("nowhere")
    see.wait(lambda: see.text("#none") == "No message has all these words.")


def test_messages_that_come_are_shown_at_once(see: See) -> None:
    see.open()
    see.wait(lambda: see.sink.server.url in see.text("#welcome"))
    see.sink.send(mail("one"))
    see.shows("one")
    see.click("#rows a")
    see.wait(lambda: see.text("#subject") == "one")
    see.sink.send(*(mail(f"n{n}") for n in range(60)))
    see.wait(lambda: see.text("#count") == "1–50 of 61 messages")
    assert see.text("#subject") == "one"
    see.click("#older")
    see.shows(*(f"n{n}" for n in range(9, -1, -1)), "one")
    assert see.run("document.querySelector('#rows [aria-current] .what').textContent") == "one"


def test_the_page_says_when_the_sink_has_gone(browser: Any) -> None:
    with Sink() as sink:
        see = See(browser, sink)
        see.open()
        see.wait(lambda: see.text("#live") == "live")
    see.wait(lambda: see.text("#live") == "not connected")


def test_attachments_are_saved_byte_for_byte(see: See, downloads: Path) -> None:
    data = bytes(range(256)) * 2000
    (ident,) = see.sink.send(mail("files", file("\u00fcber alles.bin", data, "text/html"), image("i")))
    see.open()
    see.click("#rows a")
    see.wait(lambda: "512 KB" in see.text("#files"))
    see.click("#files a")
    saved = downloads / "über alles.bin"
    see.wait(lambda: saved.exists() and saved.stat().st_size == len(data))
    assert saved.read_bytes() == data
    see.click("#save")
    source = downloads / f"{ident}.eml"
    see.wait(lambda: source.exists() and source.stat().st_size > len(data))
    assert source.read_bytes() == see.sink.server.messages[0].content


def test_the_keyboard_is_enough(see: See) -> None:
    see.sink.send(mail("one"), mail("two"), mail("three"))
    see.open()
    see.shows("three", "two", "one")
    for keys, subject in (("j", "three"), ("j", "two"), ("j", "one"), ("j", "one"), ("k", "two")):
        see.press(keys)
        see.wait(lambda subject=subject: see.text("#subject") == subject)
    see.press(Keys.ESCAPE)
    see.wait(lambda: see.run("document.activeElement.querySelector('.what')?.textContent") == "two")
    assert not see.browser.find_element(By.ID, "message").is_displayed()
    see.press(Keys.ENTER)
    see.wait(lambda: see.text("#subject") == "two")
    see.wait(lambda: see.run("document.querySelector('#tab-text').ariaSelected") == "true")
    see.run("document.querySelector('#tab-text').focus()")
    see.press(Keys.ARROW_RIGHT)
    see.wait(lambda: "Ann <ann@example.com>" in see.text("#panel"))


def test_messages_are_deleted_when_one_is_sure(see: See) -> None:
    see.sink.send(mail("one"), mail("two"), mail("three"))
    see.open()
    see.click("#rows a")
    see.click("#delete")
    see.shows("two", "one")
    see.wait(lambda: see.text("#subject") == "two")
    see.click("#clear")
    see.click("#sure [value=no]")
    see.click("#clear")
    assert len(see.sink.server.messages) == 2
    see.click("#sure [value=yes]")
    see.shows()
    see.wait(lambda: see.text("#welcome h1") == "Waiting for mail")
    assert see.sink.server.messages == []


def test_it_fits_a_phone(see: See) -> None:
    see.browser.set_window_size(400, 800)
    see.sink.send(mail("a subject " * 20, page("<p>wide</p>"), *(file(f"{n * 12}.pdf", b"x") for n in "abc")))
    see.open()
    see.shows("a subject " * 19 + "a subject")
    assert see.run("document.documentElement.scrollWidth <= innerWidth")
    assert not see.browser.find_element(By.ID, "welcome").is_displayed()
    see.click("#rows a")
    see.in_frame("wide")
    assert see.run("document.documentElement.scrollWidth <= innerWidth")
    assert not see.browser.find_element(By.ID, "rows").is_displayed()
    see.click("#back")
    see.wait(lambda: see.browser.find_element(By.ID, "rows").is_displayed())


def test_the_page_breaks_none_of_its_own_rules(see: See) -> None:
    see.browser.get_log("browser")
    see.sink.send(mail("one", page("<p>plain</p>"), file("a.pdf", b"x")), mail("two"))
    see.open()
    see.shows("two", "one")
    for _ in range(2):
        see.press("j")
    see.in_frame("plain")
    for tab in ("text", "headers", "source"):
        see.click(f"#tab-{tab}")
    see.wait(lambda: see.text("#live") == "live")
    assert see.browser.get_log("browser") == []
    names = "[...document.querySelectorAll('button, a[href], input')].filter((e) => !(e.innerText || e.ariaLabel))"
    assert see.run(names + ".map((e) => e.outerHTML)") == []
