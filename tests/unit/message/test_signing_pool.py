"""The signing pool: what it makes is what a Signer makes, whatever becomes of its processes; the loop goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from bulkmail.errors import MessageError
from bulkmail.message import signing
from bulkmail.message.dkim import Dkim
from bulkmail.message.dkim_keys import load_key
from bulkmail.message.dkim_sign import Signer
from bulkmail.message.signing import SigningPool
from bulkmail.wire.body import encode_message
from unit.message.dkim_corpus import both, rsa_key

NOW = 1_790_000_000
posix = pytest.mark.skipif(sys.platform == "win32", reason="processes that sign get a socket")


def messages(count: int) -> list[bytes]:
    return [
        encode_message(b"From: a@example.com\r\nTo: b%d@example.net\r\nSubject: %d\r\n\r\nHello %d\r\n" % (n, n, n))
        for n in range(count)
    ]


def in_thread(spec: Dkim) -> Dkim:
    """The same signature by a function."""
    key = load_key(spec.key or "")

    def sign(data: bytes) -> bytes:
        from hashlib import sha256

        return key.sign(data if key.algorithm == "ed25519-sha256" else sha256(data).digest())

    return Dkim(
        spec.domain, spec.selector, sign=sign, algorithm=key.algorithm, bits=None if key.bits == 256 else key.bits
    )


RSA, ED = both()
SPECS = {
    "RSA": (RSA,),
    "Ed25519": (ED,),
    "both": (RSA, ED),
    "a function": (in_thread(ED),),
    "a function and a key": (in_thread(RSA), ED),
    "a key and a function": (RSA, in_thread(ED)),
}


@pytest.mark.parametrize("name", SPECS)
def test_what_the_pool_makes_is_what_a_signer_makes(name, run):
    bodies = messages(150)
    expected = Signer(SPECS[name]).sign(bodies, NOW)

    async def go():
        async with SigningPool(Signer(SPECS[name]), 2) as pool:
            together = [pool.submit(bodies[at : at + size], NOW) for at, size in ((0, 100), (100, 1), (101, 49))]
            made = [fields for part in together for fields in await part]
            assert await pool.sign([], NOW) == []
            await asyncio.sleep(0)  # it counts in callbacks
            assert pool.waiting == 0
            return made

    assert run(go()) == expected


def processes(pool: SigningPool) -> list[int]:
    return [worker._process.pid for worker in pool._workers]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@posix
def test_a_process_that_is_killed_loses_nothing(run):
    bodies = messages(400)
    expected = Signer([RSA]).sign(bodies, NOW)

    async def go():
        async with SigningPool(Signer([RSA]), 2) as pool:
            await pool.sign(bodies[:50])
            part = asyncio.ensure_future(pool.sign(bodies, NOW))
            for _ in range(3):
                while not pool._workers and not part.done():
                    await asyncio.sleep(0.001)
                for pid in processes(pool)[:1]:
                    os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.002)
            return await part

    assert run(go()) == expected


@posix
@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false", ""])
def test_where_no_process_can_be_kept_threads_sign(program, run, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", program)
    bodies = messages(40)

    async def go():
        async with SigningPool(Signer([RSA]), 2) as pool:
            return await pool.sign(bodies, NOW), await pool.sign(bodies[:3], NOW)

    expected = Signer([RSA]).sign(bodies, NOW)
    assert run(go()) == (expected, expected[:3])
    assert [record.name for record in caplog.records if "threads do it" in record.getMessage()] == ["bulkmail.dkim"]


@posix
def test_no_process_is_left_over(run):
    async def go():
        async with SigningPool(Signer([ED]), 2) as pool:
            await pool.sign(messages(300))
            found = processes(pool)
            assert found and all(map(alive, found))
        return found

    assert not any(map(alive, run(go())))


@posix
def test_processes_outlive_neither_their_parent_nor_its_interrupts(run):
    """Ctrl-C and SIGTERM are for the parent, which may still have messages to sign."""

    async def go():
        async with SigningPool(Signer([ED]), 1) as pool:
            await pool.sign(messages(1))
            (pid,) = processes(pool)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
            assert os.getsid(pid) == pid != os.getsid(0)
            made = await pool.sign(messages(5), NOW)
            assert processes(pool) == [pid]
            return made

    assert run(go()) == Signer([ED]).sign(messages(5), NOW)


@posix
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_no_argument_and_no_variable_of_a_process_holds_a_key(run):
    async def go():
        async with SigningPool(Signer([Dkim("example.com", "s", key=rsa_key())]), 1) as pool:
            await pool.sign(messages(1))
            (pid,) = processes(pool)
            return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))

    shown = run(go())
    assert b"signing_worker" in shown and rsa_key()[40:80].encode() not in shown


@posix
def test_processes_are_started_as_they_are_needed(run):
    async def go():
        async with SigningPool(Signer([ED]), 4) as pool:
            assert not pool._workers
            await pool.sign(messages(1))
            assert len(pool._workers) <= 1
            work = messages(200)
            while len(pool._workers) < 2:
                await asyncio.gather(*(pool.sign(work) for _ in range(4)))
            assert len(pool._workers) <= 4

    run(go())


def test_much_work_has_all_processes_started_at_once(run):
    async def go():
        async with SigningPool(Signer([RSA]), 3) as pool:
            few = pool.submit(messages(pool.batch))
            assert pool._starting == 1
            few.cancel()
        async with SigningPool(Signer([RSA]), 3) as pool:
            parts = [pool.submit(messages(pool.batch)) for _ in range(6 * signing.DEPTH)]
            assert pool._starting == 3
            for part in parts:
                part.cancel()

    run(go())


def slow(data: bytes) -> bytes:
    time.sleep(0.05)
    return b"x" * 256


def test_the_loop_goes_on_while_a_function_signs(run):
    async def go():
        async with SigningPool(Signer([Dkim("example.com", "s", sign=slow)]), 1) as pool:
            part, ticks = pool.submit(messages(8)), 0
            while not part.done():
                await asyncio.sleep(0.001)
                ticks += 1
            return ticks, len(await part)

    ticks, count = run(go())
    assert ticks >= 5 and count == 8


def failing(data: bytes) -> bytes:
    raise ValueError("no token")


def test_a_function_that_fails_fails_its_batch_and_no_other(run):
    async def go():
        async with SigningPool(Signer([Dkim("example.com", "s", sign=failing)]), 1) as pool:
            for _ in range(2):
                with pytest.raises(MessageError, match="no token"):
                    await pool.sign(messages(3))
            assert pool.waiting == 0

    run(go())


def test_a_message_that_cannot_be_signed_is_an_error_at_once(run):
    async def go():
        async with SigningPool(Signer([ED]), 1) as pool:
            with pytest.raises(MessageError, match="final dot"):
                pool.submit([*messages(2), b"From: a@example.com\r\n"])
            assert pool.waiting == 0 and len(await pool.sign(messages(2))) == 2

    run(go())


@pytest.mark.parametrize("pieces", [False, True], ids=["bytes", "pieces"])
def test_large_messages_are_hashed_beside_the_loop(pieces, run, monkeypatch):
    """The loop goes on, and signs small ones meanwhile."""
    end = b"x" * 76 + b"\r\n"
    large = [messages(1)[0][:-3] + end * 20_000 + b".\r\n"] * 2
    signer, asked, go_on = Signer([ED]), threading.Event(), threading.Event()
    expected = Signer([ED]).sign(large, NOW)
    plain = signer.prepare

    def prepare(body, now=None, **options):
        if options.get("large"):
            asked.set()
            assert go_on.wait(60)
        return plain(body, now, **options)

    monkeypatch.setattr(signer, "prepare", prepare)

    async def go():
        async with SigningPool(signer, 1) as pool:
            cut = len(large[0]) // 2
            part = pool.submit([(one[:cut], one[cut:]) for one in large] if pieces else large, NOW)
            await asyncio.to_thread(asked.wait, 60)
            assert await pool.sign(messages(2), NOW) == Signer([ED]).sign(messages(2), NOW)
            assert not part.done() and pool.waiting == 2
            go_on.set()
            return await part

    assert run(go()) == expected


def test_a_large_message_that_cannot_be_signed_is_an_error_of_its_batch(run):
    async def go():
        async with SigningPool(Signer([ED]), 1) as pool:
            part = pool.submit([b"From: a@example.com\r\n\r\n" + b"x" * (2 << 20)])
            with pytest.raises(MessageError, match="final dot"):
                await part
            assert pool.waiting == 0

    run(go())


def test_a_batch_that_is_cancelled_is_forgotten(run):
    async def go():
        async with SigningPool(Signer([RSA]), 1) as pool:
            cancelled = pool.submit(messages(300))
            kept = pool.submit(messages(20), NOW)
            cancelled.cancel()
            return await kept

    assert run(go()) == Signer([RSA]).sign(messages(20), NOW)


def test_closing_cancels_what_is_not_signed(run):
    async def go():
        pool = SigningPool(Signer([RSA]), 1)
        part = pool.submit(messages(3000))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(asyncio.CancelledError):
            await part
        with pytest.raises(RuntimeError, match="closed"):
            pool.submit(messages(1))

    run(go())


def test_who_waits_for_room_waits_until_something_is_signed(run, monkeypatch):
    monkeypatch.setattr(signing, "MAX_WAITING", 10)

    async def go():
        async with SigningPool(Signer([ED]), 1) as pool:
            most = 0

            async def feed():
                nonlocal most
                for _ in range(10):
                    made = await pool.sign(messages(8))
                    most = max(most, pool.waiting)
                    assert len(made) == 8

            await asyncio.gather(*(feed() for _ in range(6)))
            return most

    assert run(go()) < 10 + 8


class Held:
    """A function that signs, and waits with messages to `slow@` until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.signer = Signer([Dkim("example.com", "s1", sign=self.sign, algorithm="rsa-sha256", bits=2048)])

    def sign(self, data: bytes) -> bytes:
        if b"slow@" in data:
            self.let_go.wait(30)
        return bytes(256)


QUICK, SLOW = messages(1)[0], messages(1)[0].replace(b"To: b0@", b"To: slow@")


def test_what_is_signed_waits_for_what_is_being_signed_and_both_come_back_in_one_turn(run, monkeypatch):
    monkeypatch.setattr(signing, "TOGETHER_SECONDS", 3600.0)

    async def go():
        held, turns = Held(), []
        async with SigningPool(held.signer, 2) as pool:
            quick, slow = pool.submit([QUICK]), pool.submit([SLOW])
            for future in (quick, slow):
                future.add_done_callback(lambda _: turns.append(quick.done() and slow.done()))
            await asyncio.sleep(0.05)
            assert not quick.done()
            held.let_go.set()
            async with asyncio.timeout(30):
                await asyncio.gather(quick, slow)
        assert turns == [True, True]

    run(go())


def test_enough_that_is_signed_waits_for_nothing(run, monkeypatch):
    monkeypatch.setattr(signing, "TOGETHER_SECONDS", 3600.0)
    monkeypatch.setattr(signing, "TOGETHER", 2)

    async def go():
        held = Held()
        async with SigningPool(held.signer, 2) as pool:
            slow, quick = pool.submit([SLOW]), [pool.submit([QUICK]) for _ in range(2)]
            async with asyncio.timeout(30):
                await asyncio.gather(*quick)
            assert not slow.done()
            held.let_go.set()

    run(go())


def test_what_is_signed_waits_no_longer_than_the_bound(run):
    async def go():
        held = Held()
        async with SigningPool(held.signer, 2) as pool:
            slow, quick = pool.submit([SLOW]), pool.submit([QUICK])
            async with asyncio.timeout(30):
                await quick
            assert not slow.done()
            held.let_go.set()

    run(go())


@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_many_processes_have_no_more_in_hand_than_may_be_claimed_ahead(bits):
    from bulkmail.job.stock import COMMIT_RECIPIENTS

    specs = (Dkim("example.com", "s1", key=rsa_key(bits)),)
    for processes in (1, 2, 4, 8, 16):
        pool = SigningPool(Signer(specs), processes)
        assert pool.batch >= 1 and processes * signing.DEPTH * pool.batch <= pool.ahead
        if bits == 2048:
            assert processes * signing.DEPTH * pool.batch <= COMMIT_RECIPIENTS
