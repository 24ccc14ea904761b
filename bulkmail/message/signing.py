"""Signing on all cores without stopping the event loop: `SigningPool`.

What is to be signed is worked out here (some 10 us a message); the signatures themselves are made by processes, which
get 32 bytes for each and have nothing to do with our GIL. Threads have to take it back after every signature: beside a
loop that computes for 250 us between system calls they made 130 a second, processes 4,700 (docs/dkim.md).
Keys that exist only in a function sign in threads all the same: there the time goes elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bulkmail.errors import MessageError
from bulkmail.message.dkim_field import Unsigned
from bulkmail.message.dkim_keys import RSA, Key
from bulkmail.message.dkim_sign import Body, Signer, signed
from bulkmail.message.signing_worker import COUNT, READY, REQUEST

logger = logging.getLogger("bulkmail.dkim")

# Signatures in one request to a process: at most 8 ms of RSA-2048, 1 of Ed25519. A process has DEPTH of them in hand:
# it does not run dry while the loop is busy, and nobody waits long behind them. Of RSA many processes have smaller
# ones, so that who waits for a signature stays within what may be claimed ahead (docs/architecture.md).
RSA_2048_REQUEST, ED25519_REQUEST = 32, 32
RSA_2048_REQUESTS, LEAST_REQUEST = 128, 8  # of one size for each process
DEPTH = 3
# Bytes submitted at once that are hashed on the loop, in a millisecond. More is hashed in a thread.
LARGE = 1 << 20
# Messages that wait in the pool at most; of each some 1.5 KB are held.
MAX_WAITING = 4096
# Messages that are handed back at a time, while others are being signed, and how long the first of them waits for that.
# One by one each would cost its sender and the server a wake-up, on cores that are busy with signatures (docs/dkim.md).
TOGETHER, TOGETHER_SECONDS = 128, 0.02
MAX_DEATHS = 3  # processes that ended by themselves, with nothing signed in between: then threads have to do
THREADS = 8  # for keys that are functions: what they wait for is an HSM or a network
END_SECONDS = 5.0  # a process that was told to end is killed after that


class _Batch:
    """What was submitted together: signatures come in one by one, in any order."""

    def __init__(
        self, messages: list[list[Unsigned]], future: asyncio.Future[list[bytes]], done: Callable[[_Batch], None]
    ) -> None:
        self.messages, self.future, self._done = messages, future, done
        self.missing = sum(map(len, messages))
        self.fields: list[list[bytes]] = [[b""] * len(specs) for specs in messages]

    def put(self, spec: int, first: int, signatures: Sequence[bytes]) -> None:
        """Those of a range of its messages."""
        last = first + len(signatures)
        for fields, specs, signature in zip(
            self.fields[first:last], self.messages[first:last], signatures, strict=True
        ):
            fields[spec] = specs[spec].field(signature)
        self.missing -= len(signatures)
        if self.missing == 0:
            self._done(self)

    def hand_back(self) -> None:
        if not self.future.done():
            self.future.set_result([b"".join(fields) for fields in self.fields])


class _Request:
    """Signatures by one key, of one batch: a range of its messages."""

    __slots__ = ("batch", "first", "last", "spec")

    def __init__(self, batch: _Batch, spec: int, first: int, last: int) -> None:
        self.batch, self.spec, self.first, self.last = batch, spec, first, last

    def data(self) -> list[bytes]:
        return [specs[self.spec].data for specs in self.batch.messages[self.first : self.last]]

    def answer(self, signatures: Sequence[bytes]) -> None:
        self.batch.put(self.spec, self.first, signatures)

    def fail(self, error: BaseException) -> None:
        if not self.batch.future.done():
            self.batch.future.set_exception(error)


class SigningPool:
    """Signs batches of messages, on one event loop.

    signer   its keys and specs
    workers  processes at most; default: one for each core that is ours. They are started when there is work for them

    batch    messages to submit at a time: what is one piece of work
    ahead    messages that keep all of its processes busy

    Used by one event loop at a time; `async with` or close() ends the processes.
    """

    def __init__(self, signer: Signer, workers: int | None = None) -> None:
        self._signer = signer
        self._most = max(1, workers or _cores())
        self._sizes = [_request_size(key, self._most) for key in signer.keys]
        self.batch = max(self._sizes, default=1)
        self._local = [key.der is not None for key in signer.keys]
        self.ahead = self._most * DEPTH * self.batch
        self.ahead = self.ahead + 2 * TOGETHER if all(self._local) else max(self.ahead, 2 * THREADS)
        self._workers: list[_Worker] = []
        self._starting = 0
        self._queue: deque[_Request] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._waiting = 0
        self._finished: list[_Batch] = []
        self._held = 0  # messages of these
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._deaths = 0
        self._closed = False

    async def __aenter__(self) -> SigningPool:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def waiting(self) -> int:
        """Messages that were submitted and are not signed yet; submit() takes any number, MAX_WAITING is fair."""
        return self._waiting

    def submit(self, bodies: Sequence[Body], now: float | None = None) -> asyncio.Future[list[bytes]]:
        """For each message the signature fields that go before it: see Signer.sign.

        The bodies are not kept. The future raises MessageError where a key that is a function fails; a message that
        cannot be signed raises here, or there if it is large. Cancelling it forgets what has not begun.
        """
        if self._closed:
            raise RuntimeError("the SigningPool is closed")
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        count = len(bodies)
        messages = [self._signer.prepare(body, now) for body in bodies] if sum(map(_size, bodies)) <= LARGE else None
        self._waiting += count
        future.add_done_callback(lambda _: self._left(count))
        if messages is not None:
            self._begin(_Batch(messages, future, self._signed))
        else:
            self._keep(self._prepare_aside(list(bodies), now, future))
        return future

    async def _prepare_aside(self, bodies: list[Body], now: float | None, future: asyncio.Future[list[bytes]]) -> None:
        def prepare() -> list[list[Unsigned]]:
            return [self._signer.prepare(body, now, large=True) for body in bodies]

        try:
            messages = await asyncio.to_thread(prepare)
        except MessageError as error:
            if not future.done():
                future.set_exception(error)
        else:
            self._begin(_Batch(messages, future, self._signed))

    def _begin(self, batch: _Batch) -> None:
        count = len(batch.messages)
        for spec, size in enumerate(self._sizes):
            for first in range(0, count, size):
                self._add(_Request(batch, spec, first, min(first + size, count)))
        if batch.missing == 0:
            self._signed(batch)
        self._deal()

    async def sign(self, bodies: Sequence[Body], now: float | None = None) -> list[bytes]:
        """The same, and waits: first for room, then for the signatures."""
        while self._waiting >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        return await self.submit(bodies, now)

    async def close(self) -> None:
        """End the processes. What has not been signed is cancelled."""
        self._closed = True
        self._hand_back()
        workers, self._workers = self._workers, []
        for request in [*self._queue, *(request for worker in workers for request in worker.asked)]:
            request.batch.future.cancel()
        self._queue.clear()
        for worker in workers:
            worker.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(asyncio.to_thread(worker.reap) for worker in workers))

    # ---- dealing out

    def _left(self, count: int) -> None:
        self._waiting -= count
        if self._waiting < MAX_WAITING:
            self._room.set()

    def _signed(self, batch: _Batch) -> None:
        """Hand it back together with others, if some are being signed."""
        self._finished.append(batch)
        self._held += len(batch.messages)
        if self._held >= min(TOGETHER, self._waiting):
            self._hand_back()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._hand_back)

    def _hand_back(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        finished, self._finished, self._held = self._finished, [], 0
        for batch in finished:
            batch.hand_back()

    def _add(self, request: _Request) -> None:
        if self._local[request.spec] and self._deaths < MAX_DEATHS:
            self._queue.append(request)
        else:
            self._keep(self._in_thread(request))

    def _deal(self) -> None:
        """Give each process its share of the queue, and start more of them if some is left."""
        while self._queue and self._workers:
            worker = min(self._workers, key=lambda one: len(one.asked))
            if len(worker.asked) >= DEPTH:
                break
            request = self._queue.popleft()
            if not request.batch.future.done():
                worker.ask(request)
        if self._queue:
            # Twice as many each time: a short job is not kept by the start of what it does not need. What waits may be
            # enough to keep more of them busy for longer than they take to start.
            have = len(self._workers) + self._starting
            wanted = max(0 if self._starting else max(1, have), len(self._queue) // (2 * DEPTH) - have)
            more = min(wanted, self._most - have, len(self._queue))
            for _ in range(more):
                self._starting += 1
                self._keep(self._start())

    def _keep(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        worker = _Worker(self, self._signer.keys)
        try:
            await worker.start()
        except OSError as error:
            self._keep(asyncio.to_thread(worker.reap))
            self._died(worker, f"{error.strerror or error}")
        except asyncio.CancelledError:
            worker.close()
            await asyncio.to_thread(worker.reap)
            raise
        else:
            self._workers.append(worker)
        finally:
            self._starting -= 1
        self._deal()

    def _lost(self, worker: _Worker) -> None:
        """A process has ended by itself: what it had in hand goes to the others. Signing twice does no harm."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        self._queue.extendleft(reversed(worker.asked))
        self._keep(asyncio.to_thread(worker.reap))
        self._died(worker, "it ended")
        self._deal()

    def _died(self, worker: _Worker, why: str) -> None:
        self._deaths = 1 if worker.useful else self._deaths + 1
        if self._deaths < MAX_DEATHS:
            return
        logger.warning("DKIM: no process can be kept that signs (%s): threads do it, which is slower", why)
        waiting, self._queue = self._queue, deque()
        for request in waiting:
            self._add(request)

    # ---- threads

    async def _in_thread(self, request: _Request) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max(self._most, THREADS), "bulkmail-dkim")
        key, data = self._signer.keys[request.spec], request.data()
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: [signed(key, one) for one in data])
        try:
            request.answer(await work)
        except Exception as error:
            request.fail(error)


class _Worker(asyncio.Protocol):
    """One process and the line to it."""

    def __init__(self, pool: SigningPool, keys: Sequence[Key]) -> None:
        self._pool, self._keys = pool, keys
        self._sizes = [64 if key.algorithm != RSA else (key.bits + 7) // 8 for key in keys]
        self._process: subprocess.Popen[bytes] | None = None
        self._line: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] | None = None
        self._got = bytearray()
        self.asked: deque[_Request] = deque()
        self.useful = False  # it has signed something

    async def start(self) -> None:
        """raises  OSError  if it cannot be started"""
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        spawning = asyncio.ensure_future(asyncio.to_thread(self._spawn))
        try:
            ours = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            (await spawning).close()  # which ends the process
            raise
        self._line, _ = await loop.create_connection(lambda: self, sock=ours)
        ders = [key.der or b"" for key in self._keys if key.der is not None]
        self._line.write(COUNT.pack(len(ders)) + b"".join(COUNT.pack(len(der)) + der for der in ders))
        await self._ready

    def _spawn(self) -> socket.socket:
        if sys.platform == "win32":
            raise OSError("a socket cannot be handed to a process on Windows")
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("there is no Python interpreter to start")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            # A session of its own: Ctrl-C at the terminal is for us. Keys go by the line: others see arguments.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bulkmail.message.signing_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,
            )
        return ours

    def ask(self, request: _Request) -> None:
        data = request.data()
        assert self._line is not None
        place = sum(key.der is not None for key in self._keys[: request.spec])
        self._line.write(REQUEST.pack(place, len(data)) + b"".join(data))
        self.asked.append(request)

    def data_received(self, data: bytes) -> None:
        assert self._ready is not None
        self._got += data
        if not self._ready.done():
            if not self._got.startswith(READY):
                return
            del self._got[: len(READY)]
            self._ready.set_result(None)
        while self.asked:
            request = self.asked[0]
            size = self._sizes[request.spec]
            count = request.last - request.first
            if len(self._got) < count * size:
                break
            got = bytes(memoryview(self._got)[: count * size])
            signatures = [got[at : at + size] for at in range(0, count * size, size)]
            del self._got[: count * size]
            self.asked.popleft()
            self.useful = True
            request.answer(signatures)
        self._pool._deal()

    def connection_lost(self, error: Exception | None) -> None:
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_exception(OSError("the process ended before it was ready"))
        self._pool._lost(self)

    def close(self) -> None:
        if self._line is not None:
            self._line.abort()

    def reap(self) -> None:
        """Wait for the end of the process, which comes with that of the line. Blocks."""
        if self._process is None:
            return
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size(body: Body) -> int:
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


def _request_size(key: Key, processes: int) -> int:
    """By the time they take: that of RSA grows with the third power of the bits."""
    if key.der is None:
        return 1
    if key.algorithm != RSA:
        return ED25519_REQUEST
    size = min(RSA_2048_REQUEST, max(LEAST_REQUEST, RSA_2048_REQUESTS // processes))
    return max(1, size * 2048**3 // key.bits**3)
