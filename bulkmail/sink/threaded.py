"""`SmtpSink`: a server in a thread of its own, for tests whose own code blocks, or runs whatever loop it likes."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkmail.errors import ConfigError
from bulkmail.net.loop import run
from bulkmail.sink.server import STOP_SECONDS, Server
from bulkmail.sink.session import Message
from bulkmail.sink.store import Kept

if TYPE_CHECKING:
    import ssl

MAX_REFUSALS = 50  # the last ones, for the words of a test that fails
MAX_SHOWN = 10  # lines of each kind in those words
_refusals = re.compile(rb"^[45]\d\d [^\r\n]*", re.M)  # the last line of a reply is the one with the space


class SmtpSink:
    """A running sink: `with SmtpSink() as sink`, then `.url`, `.messages`, `.wait_for(2)`. Any thread may use it.

    hooks, listen, options   as of `Server`, but `grace` is 0; what comes is kept: no `store`, no `mbox`, no `discard`
    ca_file                  of the authority that signed `tls_cert`, for clients; None where nobody said
    raises                   ConfigError from the constructor and from start()
    """

    def __init__(
        self,
        hooks: object = None,
        listen: str = "127.0.0.1:0",
        *,
        ca_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        for name in ("store", "mbox", "discard"):
            if options.pop(name, None):
                raise ConfigError(f"an SmtpSink keeps its messages in a list: there is no option {name!r}")
        self.ca_file = None if ca_file is None else str(ca_file)
        self._watchers: set[Callable[[], object]] = set()
        self._lock = threading.Lock()
        self._refused: deque[str] = deque(maxlen=MAX_REFUSALS)
        # What a test has left in the middle is not waited for when it ends.
        self._server = Server(hooks, listen, **{"grace": 0.0, **options})
        self._server.store = Kept(self._changed)
        self._server.listener = self._hear
        self._thread: threading.Thread | None = None

    # --- what tests ask

    @property
    def url(self) -> str:
        """Where to send to: "smtp://127.0.0.1:PORT", or smtps:// or lmtp://. A password is not in it."""
        return self._server.url

    @property
    def web_url(self) -> str | None:
        """Of the page that shows the messages; None without `web`."""
        return self._server.web_url

    @property
    def host(self) -> str:
        return self._server.addresses[0][0]

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def messages(self) -> list[Message]:
        """Those accepted so far, oldest first. A client has its `250` only after its message is here."""
        return self._server.messages

    @property
    def counts(self) -> dict[str, int]:
        """connections, messages, recipients, bytes, refused: since the start, clear() or not."""
        return self._server.counts

    @property
    def refused(self) -> list[str]:
        """The last 4xx and 5xx replies that clients got, oldest first: at most MAX_REFUSALS."""
        return list(self._refused)

    def ssl_context(self) -> ssl.SSLContext:
        """For a client that is to trust this sink's certificate."""
        import ssl

        if self.ca_file is None:
            raise ConfigError("whom to trust is not known: the sink has no TLS, or no 'ca_file' was given")
        return ssl.create_default_context(cafile=self.ca_file)

    def wait_for(self, count: int, timeout: float = 5.0) -> list[Message]:
        """The messages, once there are `count` of them or more. In a coroutine: `await wait_for_async(count)`.

        timeout  seconds
        raises   AssertionError when they do not come in time; it tells what came and what was refused
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        event = threading.Event()
        with self._watch(event.set):
            while len(self.messages) < count:
                if not event.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(self._what_came(count, timeout) + blocked_loop())
                event.clear()
        return list(self.messages)

    async def wait_for_async(self, count: int, timeout: float = 5.0) -> list[Message]:
        """`wait_for` that lets the caller's asyncio loop run meanwhile."""
        __tracebackhide__ = True
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._watch(lambda: loop.call_soon_threadsafe(event.set)):
            try:
                async with asyncio.timeout(timeout):
                    while len(self.messages) < count:
                        await event.wait()
                        event.clear()
            except TimeoutError:
                raise AssertionError(self._what_came(count, timeout)) from None
        return list(self.messages)

    def fail_next(self, phase: str, reply: str, times: int = 1) -> None:
        """Answer the next `phase` with `reply`, once or `times` times: fail_next("rcpt", "451 4.7.1 Later").

        phase   connect, greeting, ehlo, starttls, auth, mail, rcpt, data, body or quit
        reply   or another action of `--fault`, such as drop, reset, hang, delay=2s
        raises  ConfigError for what is neither
        """
        self._server.fail_next(phase, reply, times)

    def clear(self) -> None:
        """Forget the messages and refusals so far."""
        self.messages.clear()
        self._refused.clear()

    # --- starting and stopping

    def __enter__(self) -> SmtpSink:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, in a new thread; once only. On an error nothing is left running."""
        if self._thread is not None:
            raise RuntimeError("the sink has been started")
        started: Future[None] = Future()
        # A daemon: an interpreter that ends without having stopped the sink does not wait for it.
        self._thread = threading.Thread(target=self._main, args=(started,), name="smtp_sink", daemon=True)
        self._thread.start()
        try:
            started.result()
        except Exception:
            self._join()
            raise

    def stop(self) -> None:
        """Hang up on whoever is there and end the thread. What came can still be looked at."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._join()

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(3 * STOP_SECONDS)
        if thread.is_alive():
            raise RuntimeError("the sink's thread does not end: one of its hooks still runs")

    def _main(self, started: Future[None]) -> None:
        try:
            run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._server:
            started.set_result(None)
            await self._stop.wait()

    # --- what the server's thread tells

    def _changed(self) -> None:
        with self._lock:
            for wake in self._watchers:
                wake()

    def _hear(self, out: bytes) -> None:
        for line in _refusals.findall(out):
            self._refused.append(line.decode("utf-8", "replace"))

    @contextmanager
    def _watch(self, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._watchers.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.discard(wake)

    def _what_came(self, count: int, timeout: float) -> str:
        messages, refused = list(self.messages), self.refused
        lines = [f"expected {count} messages within {timeout:g} s, got {len(messages)} ({self._told()})"]
        lines += [f"  came: {outline(message)}" for message in messages[-MAX_SHOWN:]]
        lines += [f"  refused: {reply}" for reply in refused[-MAX_SHOWN:]]
        return "\n".join(lines)

    def _told(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.counts.items())


def outline(message: Message) -> str:
    """One line that tells it from others."""
    recipients = ", ".join(message.recipients[:3]) + (", …" if len(message.recipients) > 3 else "")
    return f"<{message.sender}> to {recipients}: {subject_of(message)}"


def subject_of(message: Message) -> str:
    try:
        return message["Subject"] or "no subject"
    except Exception:  # the standard library's parser fails on some header fields with whatever it happens to be
        return "a subject that cannot be read"


def blocked_loop() -> str:
    """A hint, where somebody waited for what could not happen meanwhile."""
    if asyncio._get_running_loop() is None:
        return ""
    return "\n  wait_for() kept this test's event loop from running: write `await smtp_sink.wait_for_async(...)`"
