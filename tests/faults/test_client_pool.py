"""A Mailer's connections: how many, how long, and what becomes of the messages on one that fails."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bulkmail.errors import (
    AuthError,
    BulkmailError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    EnvelopeRefused,
    InDoubt,
    MessageRefused,
    TimedOut,
    TlsError,
)
from bulkmail.pool.mailer import Mailer
from faults.mails import WELL, mail, send_all, serving, subject
from faults.scripted import (
    ClientGone,
    Peer,
    Scripted,
    always,
    at,
    close,
    expect,
    hang,
    hello,
    late,
    reset,
    scripted,
    send,
    serve,
    wait,
)

SOON = 0.1
LATER = b"421 4.3.2 going down\r\n"


UMLAUT = mail(0, to="ü@example.test")


# ---- how many connections


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_never_more_connections_than_allowed(run, limit):
    async def main():
        slow = always("dot", late(0.002, b"250 ok\r\n"))
        drops, lingers = at("MAIL", reset(), nth=4), always("QUIT", late(0.02, b"221 bye\r\n"))
        async with scripted(serving(slow, drops, lingers)) as server:
            async with Mailer(server.url, connections=limit, messages_per_connection=3) as mailer:
                results = await send_all(mailer, 40)
            return results, server.most, len(server.peers)

    results, most, opened = run(main())
    assert all(getattr(result, "accepted", None) for result in results)
    assert most == limit and opened >= 40 / 3


def test_one_connection_is_enough_for_one_message_at_a_time(run):
    async def main():
        async with scripted(WELL) as server:
            async with Mailer(server.url, connections=10) as mailer:
                for envelope, message in map(mail, range(5)):
                    await mailer.send(message, envelope=envelope)
            return len(server.peers), server.contents()

    assert run(main()) == (1, [subject(n) for n in range(5)])


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("most", [1, 3, 7])
def test_messages_per_connection_is_kept_exactly(run, most, pipelining):
    async def main():
        script = [*hello(*["PIPELINING"] * pipelining), serve()]
        async with scripted(script) as server:
            async with Mailer(server.url, connections=1, messages_per_connection=most) as mailer:
                results = await send_all(mailer, 20)
            said_goodbye = [bytes(peer.said).endswith(b"QUIT\r\n") for peer in server.peers]
            return results, Counter(m.connection for m in server.messages), said_goodbye, server.contents()

    results, per_connection, said_goodbye, contents = run(main())
    full, rest = divmod(20, most)
    assert list(per_connection.values()) == [most] * full + [rest] * bool(rest)
    assert all(said_goodbye) and contents == [subject(n) for n in range(20)]
    assert all(result.accepted for result in results)


def test_without_a_limit_one_connection_carries_all(run):
    async def main():
        async with scripted(WELL) as server:
            async with Mailer(server.url, connections=1, messages_per_connection=0) as mailer:
                await send_all(mailer, 150)
            return len(server.peers), len(server.messages)

    assert run(main()) == (1, 150)


def test_a_relay_that_allows_fewer_is_not_asked_over_and_over(run):
    async def main():
        slow = serving(always("dot", late(0.02, b"250 ok\r\n")))
        async with scripted(slow, slow, [send(b"421 4.7.0 too many connections\r\n"), close()]) as server:
            async with Mailer(server.url, connections=10) as mailer:
                results = await send_all(mailer, 60)
            return results, len(server.peers)

    results, attempts = run(main())
    assert all(getattr(result, "accepted", None) for result in results)
    assert attempts <= 10 + 4  # eight refusals at first, then growing pauses


# ---- idle and stale connections


def test_an_idle_connection_says_goodbye_after_its_time(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, idle_timeout=SOON) as mailer:
            await send_all(mailer, 1)
            begun = asyncio.get_running_loop().time()
            await server.until(lambda s: s.peers[0].ended)
            waited = asyncio.get_running_loop().time() - begun
            await send_all(mailer, 1)  # a further message opens another
            return waited, bytes(server.peers[0].said).endswith(b"QUIT\r\n"), len(server.peers), len(server.messages)

    waited, goodbye, opened, arrived = run(main())
    assert SOON * 0.9 <= waited < 2 and goodbye and (opened, arrived) == (2, 2)


@pytest.mark.parametrize("end", [close(), reset(), send(b"421 4.4.2 idle too long\r\n")], ids=["close", "reset", "421"])
def test_a_connection_that_the_server_ended_while_idle_is_replaced(run, end):
    async def main():
        ends_later = at("dot", [send(b"250 ok\r\n"), wait(ending), end])
        async with scripted(serving(ends_later), WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                first = await send_all(mailer, 1)
                ending.set()
                await asyncio.sleep(0.05)
                second = await send_all(mailer, 3)
            return first + second, server.contents()

    ending = asyncio.Event()
    results, contents = run(main())
    assert all(result.accepted for result in results)
    assert contents == [subject(n) for n in range(3)]  # the first server's message was not counted


def test_a_connection_that_ends_just_as_work_comes_loses_nothing(run):
    """The server hangs up at the same moment as the next message is written: it was not taken, so it goes again."""

    async def main():
        async with scripted(serving(at("MAIL", reset(), nth=2)), WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                results = [(await send_all(mailer, 1))[0] for _ in range(3)]
            return results, len(server.messages)

    results, arrived = run(main())
    assert all(result.accepted for result in results) and arrived == 3


# ---- connections that fail under work


@pytest.mark.parametrize("end", [reset(), close(), [send(LATER), close()]], ids=["reset", "close", "421"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_what_was_certainly_not_taken_is_sent_again_and_arrives_once(run, phase, end, nth):
    async def main():
        async with scripted(serving(at(phase, end, nth=nth)), WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                results = await send_all(mailer, 10)
            return results, server.contents()

    results, contents = run(main())
    assert [getattr(result, "accepted", result) for result in results] == [[f"u{n}@example.test"] for n in range(10)]
    assert sorted(contents) == sorted(subject(n) for n in range(10))


def test_they_keep_their_order(run):
    async def main():
        async with scripted(serving(at("MAIL", [send(LATER), close()], nth=4)), WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                await send_all(mailer, 30)
            return server.contents()

    assert run(main()) == [subject(n) for n in range(30)]


def test_a_server_that_takes_two_messages_a_connection_and_then_says_421(run):
    async def main():
        async with scripted(serving(at("MAIL", [send(LATER), close()], nth=3))) as server:
            async with Mailer(server.url, connections=2) as mailer:
                results = await send_all(mailer, 40)
            return results, server.contents()

    results, contents = run(main())
    assert all(getattr(result, "accepted", None) for result in results)
    assert sorted(contents) == sorted(subject(n) for n in range(40))


def test_silence_in_the_envelope_moves_the_messages_to_another_connection(run):
    async def main():
        async with scripted(serving(at("RCPT", hang(), nth=2)), WELL) as server:
            async with Mailer(server.url, connections=1, command_timeout=SOON) as mailer:
                results = await send_all(mailer, 5)
            return results, server.contents()

    results, contents = run(main())
    assert all(result.accepted for result in results)
    assert sorted(contents) == sorted(subject(n) for n in range(5))


@pytest.mark.parametrize("end", [reset(), close(), hang()], ids=["reset", "close", "silence"])
def test_what_may_have_been_taken_is_never_sent_again(run, end):
    async def main():
        async with scripted(serving(at("dot", end, nth=2)), WELL) as server:
            async with Mailer(server.url, connections=1, data_timeout=SOON) as mailer:
                results = await send_all(mailer, 5)
            heard = b"".join(bytes(peer.said) for peer in server.peers)
            return results, server.contents(), [heard.count(subject(n)) for n in range(5)]

    results, contents, sent = run(main())
    assert [type(result).__name__ for result in results] == ["Receipt", "InDoubt", "Receipt", "Receipt", "Receipt"]
    assert isinstance(results[1], InDoubt) and results[1].scope == "message"
    assert sorted(contents) == [subject(n) for n in (0, 2, 3, 4)] and sent == [1] * 5


def test_421_at_the_dot_is_a_refusal_and_not_sent_again(run):
    async def main():
        async with scripted(serving(at("dot", [send(LATER), close()], nth=1)), WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                results = await send_all(mailer, 3)
            return results, server.contents()

    results, contents = run(main())
    assert type(results[0]) is MessageRefused and results[0].reply.code == 421 and not results[0].permanent
    assert sorted(contents) == [subject(1), subject(2)]


def test_a_server_that_hangs_up_before_any_message_is_as_good_as_down(run):
    async def main():
        async with scripted([*hello("PIPELINING"), close()]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 3), 20)
            return results, len(server.peers)

    results, attempts = run(main())
    assert all(type(result) is ConnectionLost for result in results) and attempts <= 6


@pytest.mark.parametrize("phase", ["MAIL", "RCPT"])
def test_a_server_that_drops_every_message_gives_up_on_it_in_the_end(run, phase):
    async def main():
        async with scripted(serving(always(phase, reset()))) as server:
            async with Mailer(server.url, connections=1) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 5), 20)
            return results, len(server.peers)

    results, attempts = run(main())
    assert all(type(result) is ConnectionLost for result in results)
    assert 3 <= attempts <= 6  # not a hail of connections


def test_one_message_that_kills_connections_does_not_take_the_others_along(run):
    async def answering(peer):
        """RCPT for u3 resets the connection; all else is well."""
        while True:
            line = await peer.line()
            if b"u3@" in line:
                await asyncio.sleep(0.01)
                await reset()(peer)
            if line == b"DATA":
                await peer.send(b"354 go\r\n")
                await peer.content()
                peer.server.messages.append(line)
            await peer.send(b"221 bye\r\n" if line == b"QUIT" else b"250 ok\r\n")

    async def main():
        async with (
            scripted([*hello(), answering]) as server,
            Mailer(server.url, connections=2) as mailer,
        ):
            return await asyncio.wait_for(send_all(mailer, 8), 20), len(server.messages)

    results, arrived = run(main())
    failed = [n for n, result in enumerate(results) if isinstance(result, BulkmailError)]
    assert failed == [3] and type(results[3]) is ConnectionLost and arrived == 7


# ---- no connection to be had


def test_a_relay_that_is_down_fails_at_once_and_may_come_back(run, free_port):
    port = free_port()

    async def main():
        async with Mailer(f"smtp://127.0.0.1:{port}") as mailer:
            first = await asyncio.wait_for(send_all(mailer, 3), 5)
            server = await asyncio.start_server(obliging, "127.0.0.1", port)
            second = await asyncio.wait_for(send_all(mailer, 1), 5)
            server.close()
            return first, second

    first, second = run(main())
    assert [type(result) for result in first] == [ConnectError] * 3
    assert second[0].accepted == ["u0@example.test"]


async def obliging(reader, writer):
    peer = Peer(Scripted([], 0, "smtp"), 0, reader, writer)
    try:
        await peer.play(WELL)
    except ClientGone:
        writer.close()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([send(b"554 5.7.1 go away\r\n"), close()], ConnectError),
        ([send(LATER), close()], ConnectError),
        ([hang()], TimedOut),
        ([*hello()[:2], send(b"554 no\r\n"), close()], ConnectError),
        ([*hello(), expect(rb"STARTTLS"), send(b"454 no\r\n"), close()], TlsError),
    ],
    ids=["554", "421", "silence", "EHLO", "STARTTLS"],
)
def test_a_relay_that_takes_nobody(run, script, kind):
    async def main():
        tls = "require" if kind is TlsError else "auto"
        async with scripted(script) as server, Mailer(server.url, greeting_timeout=SOON, tls=tls) as mailer:
            return await asyncio.wait_for(send_all(mailer, 3), 5)

    assert [type(result) for result in run(main())] == [kind] * 3


@pytest.mark.parametrize("connections", [1, 8])
def test_a_wrong_password_is_tried_once(run, connections):
    async def main():
        script = [*hello("AUTH PLAIN"), expect(rb"AUTH PLAIN .*"), send(b"535 5.7.8 wrong\r\n"), hang()]
        async with scripted(script) as server:
            url = server.url.replace("//", "//ann:secret@")
            async with Mailer(url, connections=connections) as mailer:
                results = await asyncio.wait_for(send_all(mailer, 20), 5)
                with pytest.raises(AuthError):
                    await mailer.send(b"another", envelope=mail(1)[0])
                await asyncio.sleep(0.1)
            return results, len(server.peers)

    results, attempts = run(main())
    assert all(type(result) is AuthError and result.permanent for result in results) and attempts == 1


def test_a_login_that_is_refused_later_lets_the_good_connections_finish_and_leaves_nobody_waiting(run):
    good = [*hello("PIPELINING", "AUTH PLAIN"), expect(rb"AUTH .*"), send(b"235 ok\r\n")]
    good.append(serve(always("dot", late(0.01, b"250 ok\r\n"))))
    bad = [*hello("AUTH PLAIN"), expect(rb"AUTH .*"), send(b"535 5.7.8 too many sessions\r\n"), hang()]

    async def main():
        async with scripted(good, bad) as server:
            url = server.url.replace("//", "//ann:secret@")
            async with Mailer(url, connections=3, messages_per_connection=10) as mailer:
                return await asyncio.wait_for(send_all(mailer, 30), 10), len(server.peers)

    results, opened = run(main())
    assert [type(result).__name__ for result in results[:10]] == ["Receipt"] * 10
    assert all(type(result) is AuthError for result in results[10:]) and opened <= 3


def test_options_that_cannot_be_used_fail_the_messages_instead_of_keeping_them(run, tmp_path):
    async def main(**options):
        async with (
            scripted([*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"), hang()]) as server,
            Mailer(server.url, **options) as mailer,
        ):
            return await asyncio.wait_for(send_all(mailer, 2), 5)

    for options in ({"wire_log": str(tmp_path / "no" / "wire.log")}, {"ca_file": str(tmp_path / "no.pem")}):
        assert [type(result) for result in run(main(**options))] == [ConfigError] * 2


def test_a_fault_of_our_own_while_connecting_fails_the_messages_too(run, monkeypatch):
    async def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    async def main():
        async with Mailer("smtp://127.0.0.1:1") as mailer:
            return await asyncio.wait_for(send_all(mailer, 2), 5)

    monkeypatch.setattr("bulkmail.pool.lane.open_session", broken)
    results = run(main())
    assert all(isinstance(result.__cause__, ZeroDivisionError) for result in results)


# ---- what is settled without the server


def test_a_message_that_is_refused_here_does_not_cost_the_connection(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, connections=1) as mailer:
            await send_all(mailer, 1)
            with pytest.raises(EnvelopeRefused, match="SMTPUTF8"):
                await asyncio.wait_for(mailer.send(UMLAUT[1], envelope=UMLAUT[0]), 5)
            await asyncio.wait_for(send_all(mailer, 2), 5)
            return len(server.peers), len(server.messages)

    assert run(main()) == (1, 3)


def test_a_message_that_is_refused_here_on_a_fresh_connection(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, connections=1, idle_timeout=SOON) as mailer:
            for _ in range(3):
                with pytest.raises(EnvelopeRefused, match="SMTPUTF8"):
                    await asyncio.wait_for(mailer.send(UMLAUT[1], envelope=UMLAUT[0]), 5)
            await server.until(lambda s: s.peers[0].ended)  # idle in time, too
            return len(server.peers)

    assert run(main()) == 1
