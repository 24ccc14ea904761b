"""Faults on command: every phase with every action, combined, pipelined, in TLS, LMTP and chunks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.errors import MessageRefused
from bulkmail.sink import Refuse, Server, Session
from bulkmail.sink.faulty import FaultyConnection
from unit.sink.fault_talk import AUTH, CHUNK, END, NO, OK, PHASES, Raw
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
every_phase = pytest.mark.parametrize("phase", PHASES)


def faulty(*rules: str, hooks: object = None, **options: Any) -> Server:
    return Server(hooks, fault=rules, auth="ann:right", **options)


def suffering(connection: object) -> bool:
    return isinstance(connection, FaultyConnection) and connection._suffering


def deaf(server: Server) -> bool:
    """Whether its only connection hangs."""
    return any(isinstance(one, FaultyConnection) and one._deaf for one in server.connections)


# --- every action at every phase


@every_phase
def test_a_reply_is_said_word_for_word(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:{NO}", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.reply() == NO
            if phase in ("connect", "greeting"):
                assert await client.all() == b""
            else:
                assert await client.codes(b"NOOP\r\n") == [250]
            assert server.messages == []
            assert server.counts["refused"] == 1

    run(main())


@every_phase
def test_a_421_closes_too(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:421 Gone", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.all() == b"421 Gone\r\n"

    run(main())


@every_phase
def test_drop_ends_the_connection_in_order_and_without_a_word(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:drop", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            await client.reach(phase)
            assert await client.all() == b""  # a RST would be a ConnectionResetError
            assert server.messages == []

    run(main())


@every_phase
def test_reset_is_a_rst(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:reset", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            with pytest.raises(ConnectionResetError):
                await client.reach(phase)
                await client.all()
            assert server.messages == []

    run(main())


@every_phase
def test_hang_says_nothing_until_the_client_goes(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:hang", tls_cert=certificates.chain_file) as server:
            async with Raw(server) as client:
                await client.reach(phase)
                await until(lambda: deaf(server))
                server.sweep()
                server.sweep()  # silence is what it is for
                client.writer.write(b"NOOP\r\n" * 100_000)
                await client.writer.drain()  # what it says is read and forgotten
                client.writer.write_eof()
                assert await client.all() == b""
            await until(lambda: not server.connections)
            assert server.messages == []

    run(main())


@every_phase
def test_hang_ends_when_the_server_stops(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        server = faulty(f"{phase}:hang", tls_cert=certificates.chain_file)
        await server.start()
        async with Raw(server) as client:
            await client.reach(phase)
            await until(lambda: deaf(server))
            await server.stop()
            assert await client.all() == b""
            assert not server.connections

    run(main())


@every_phase
def test_a_delay_is_the_usual_answer_later(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:delay=80ms", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            before = asyncio.get_running_loop().time()
            await client.reach(phase)
            assert (await client.reply()).startswith(PHASES[phase][2])
            assert asyncio.get_running_loop().time() - before > 0.075

    run(main())


@every_phase
def test_a_drip_is_the_usual_answer_slowly(run: Run, phase: str, certificates: Any) -> None:
    async def main() -> None:
        async with faulty(f"{phase}:drip=500/s", tls_cert=certificates.chain_file) as server, Raw(server) as client:
            await client.reach(phase)
            before, pieces = asyncio.get_running_loop().time(), []
            while b"".join(pieces).rpartition(b"\n")[0].rpartition(b"\n")[2][3:4] != b" ":
                pieces.append(await client.reader.read(4096))
            reply = b"".join(pieces)
            assert reply.startswith(PHASES[phase][2].encode())
            assert reply.endswith(b"\r\n")
            assert len(pieces) >= len(reply) / 5 / 4  # five bytes a piece; a slow machine may join some
            assert asyncio.get_running_loop().time() - before > (len(reply) - 10) / 500
            if phase not in ("starttls", "data", "quit"):
                assert (await client.say(b"RSET\r\n"))[0][:3] in ("250", "503")

    run(main())


# --- together


def test_a_delay_and_a_drip_hold_for_what_else_strikes(run: Run) -> None:
    async def main() -> None:
        rules = ["rcpt:drip=1000/s", "rcpt:451 Slow and no@1/2", "rcpt:delay=50ms"]
        async with faulty(*rules) as server, Client(server) as client:
            loop = asyncio.get_running_loop()
            await client.say(HELLO + AUTH + MAIL, 3)
            for reply in ("250 2.1.5 Ok", "451 Slow and no"):
                before = loop.time()
                assert await client.say(RCPT) == [reply]
                assert loop.time() - before > 0.05

    run(main())


def test_what_is_pipelined_is_answered_in_order_and_waits_for_a_delay(run: Run) -> None:
    async def main() -> None:
        async with faulty("rcpt:delay=100ms@*@slow.test", "rcpt:550 no@*@no.test") as server, Client(server) as client:
            loop = asyncio.get_running_loop()
            await client.say(HELLO + AUTH, 2)
            rcpts = b"".join(b"RCPT TO:<a@%s>\r\n" % host for host in (b"x.test", b"SLOW.test", b"no.test", b"x.test"))
            client.writer.write(MAIL + rcpts + b"DATA\r\n")
            before = loop.time()
            assert [(await client.reply())[:3] for _ in range(2)] == ["250", "250"]
            assert loop.time() - before < 0.09  # nothing ahead of the delay waits for it
            assert [(await client.reply())[:3] for _ in range(4)] == ["250", "550", "250", "354"]
            assert loop.time() - before > 0.095
            assert (await client.say(END))[0].startswith("250")
            assert server.messages[0].recipients == ["a@x.test", "a@SLOW.test", "a@x.test"]

    run(main())


def test_a_drip_is_of_one_answer_only(run: Run) -> None:
    async def main() -> None:
        async with faulty("ehlo:drip=2000/s") as server, Client(server) as client:
            replies = await client.say(HELLO + b"NOOP\r\n" * 3 + b"QUIT\r\n", 5)
            assert [reply[:4] for reply in replies] == ["250-", "250 ", "250 ", "250 ", "221 "]
            assert "|250-PIPELINING|" in replies[0]
            assert await client.closed()

    run(main())


def test_a_drop_lets_the_answers_before_it_out(run: Run) -> None:
    async def main() -> None:
        for action in ("drop", "reset"):
            async with faulty(f"data:{action}") as server, Client(server) as client:
                replies = await client.codes(HELLO + AUTH + ENVELOPE + b"ignored\r\n" * 1000, 4)
                assert replies == [250, 235, 250, 250]
                assert await client.closed()

    run(main())


def test_others_go_on_while_one_hangs_and_one_waits(run: Run) -> None:
    async def main() -> None:
        async with Server(fault=["mail:hang@1/2", "ehlo:delay=1h@1/3"]) as server, Client(server) as first:
            await first.say(HELLO)
            assert (await first.deliver()).startswith("250")
            async with Client(server) as hanging, Client(server) as waiting:
                hanging.writer.write(HELLO + MAIL)
                await until(lambda: deaf(server))
                waiting.writer.write(HELLO)
                await until(lambda: sum(suffering(one) for one in server.connections) == 2)
                assert (await first.say(MAIL + RCPT, 2)) == OK

    run(main())


def test_a_delay_ends_with_the_client_or_the_server(run: Run) -> None:
    async def main() -> None:
        server = Server(fault=["ehlo:delay=1h"])
        await server.start()
        async with Client(server) as client:
            client.writer.write(HELLO + MAIL)
            await until(lambda: any(suffering(one) for one in server.connections))
            server.sweep()
            server.sweep()  # it is not the client's silence
            await server.stop()
            assert await client.reply() == "421 4.3.2 Server shutting down"
            assert await client.reply() == ""

    run(main())


def test_a_message_that_a_delay_holds_back_is_taken_before_the_server_stops(run: Run) -> None:
    async def main() -> None:
        server = Server(fault=["body:delay=300ms"])
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO + ENVELOPE, 4)
            client.writer.write(END)
            await until(lambda: any(suffering(one) for one in server.connections))
            await server.stop()
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "421", ""]
            assert len(server.messages) == 1

    run(main())


# --- with hooks


def test_a_fault_comes_before_the_hook_and_hooks_hear_what_passes(run: Run) -> None:
    calls: list[Any] = []

    class Hooks:
        def on_connect(self, session: Session) -> None:
            calls.append("connect")

        def on_auth(self, session: Session, mechanism: str, user: str, password: str) -> bool:
            calls.append(("auth", user))
            return password == "right"

        async def on_rcpt(self, session: Session, address: str, parameters: Any) -> None:
            calls.append(("rcpt", address))
            if address == "hook@x":
                raise Refuse(550, "the hook")

        async def on_data(self, session: Session, stream: Any) -> str:
            try:
                return f"took {len(await stream.read())}"
            except MessageRefused as error:
                calls.append(str(error))
                raise

        def on_close(self, session: Session) -> None:
            calls.append("close")

    async def main() -> None:
        rules = ["auth:454 no@1/2", "auth:drip=2000/s", "connect:drop@>1"]
        rules += ["rcpt:551 the fault@fault@x", "body:452 full@1/2"]
        async with Server(Hooks(), fault=rules) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                assert await client.codes(AUTH + MAIL, 2) == [235, 250]
                rcpts = b"RCPT TO:<fault@x>\r\nRCPT TO:<hook@x>\r\nRCPT TO:<ok@x>\r\n"
                assert await client.say(rcpts, 3) == ["551 the fault", "550 5.0.0 the hook", "250 2.1.5 Ok"]
                assert (await client.say(b"DATA\r\n" + END, 2))[1] == "250 2.0.0 took 3"
                assert (await client.say(ENVELOPE + END, 4))[3] == "452 full"
            async with Raw(server) as client:
                assert await client.all() == b""
            await until(lambda: calls.count("close") == 2)
            assert len(server.messages) == 1
        assert calls == [
            "connect", ("auth", "ann"), ("rcpt", "hook@x"), ("rcpt", "ok@x"), ("rcpt", "b@example.com"),
            "a fault refused the message", "close", "close",
        ]  # fmt: skip

    run(main())


# --- chunks, LMTP, TLS


def test_chunks_the_first_is_data_and_the_last_is_body(run: Run) -> None:
    async def main() -> None:
        async with Server(fault=["data:451 data@1/3", "body:452 body@1/2"]) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(MAIL + RCPT + CHUNK, 3) == [250, 250, 250]
            assert await client.codes(MAIL + RCPT + b"BDAT 3\r\nx\r\n" + CHUNK, 4) == [250, 250, 250, 452]
            refused = b"BDAT 6\r\nNOOP\r\n" + b"BDAT 6 LAST\r\nRSET\r\n"  # and not obeyed
            assert await client.say(MAIL + RCPT + refused, 4) == [*OK, "451 data", "451 data"]
            assert await client.codes(MAIL + RCPT + CHUNK + b"QUIT\r\n", 4) == [250, 250, 250, 221]
            assert len(server.messages) == 2

    run(main())


LHLO = b"LHLO client.test\r\n"
THREE = b"".join(b"RCPT TO:<%s@x>\r\n" % name for name in (b"ann", b"ben", b"cid"))


def test_lmtp_has_a_verdict_for_each_recipient(run: Run) -> None:
    async def main() -> None:
        rules = ["body:450 4.2.1 Later@ben@x", "body:delay=50ms@cid@x", "body:drip=1000/s@cid@x"]
        async with Server(lmtp=True, fault=rules) as server, Client(server) as client:
            await client.say(LHLO + MAIL + THREE + b"DATA\r\n", 6)
            replies = await client.say(END + b"NOOP\r\n", 4)
            assert [reply[:4] for reply in replies] == ["250 ", "450 ", "250 ", "250 "]
            assert server.messages[0].recipients == ["ann@x", "cid@x"]
            assert server.counts == {"connections": 1, "messages": 1, "recipients": 2, "bytes": 3, "refused": 1}
            server.fail_next("body", "552 5.2.2 Full", 3)
            assert await client.codes(MAIL + THREE + b"DATA\r\n" + END, 8) == [250, 250, 250, 250, 354, 552, 552, 552]
            assert len(server.messages) == 1

    run(main())


@pytest.mark.parametrize("action", ["drop", "reset", "hang", "421 Gone"])
def test_an_lmtp_connection_that_ends_between_two_verdicts_keeps_what_was_told(run: Run, action: str) -> None:
    async def main() -> None:
        async with Server(lmtp=True, fault=[f"body:{action}@ben@x"]) as server, Client(server) as client:
            await client.say(LHLO + MAIL + THREE + b"DATA\r\n", 6)
            assert (await client.say(END))[0].startswith("250 2.0.0 Ok: queued as ")
            if action == "hang":
                await until(lambda: deaf(server))
            else:
                assert await client.closed()
            assert [message.recipients for message in server.messages] == [["ann@x"]] if "421" not in action else True

    run(main())


def test_a_hook_that_refuses_in_lmtp_refuses_those_whom_no_fault_did(run: Run) -> None:
    class Hooks:
        def on_data(self, session: Session, stream: Any) -> None:
            assert session.envelope is not None
            raise Refuse(554, f"not {len(session.envelope.recipients)}")

    async def main() -> None:
        async with Server(Hooks(), lmtp=True, fault="body:450 later@ben@x") as server, Client(server) as client:
            await client.say(LHLO + MAIL + THREE + b"DATA\r\n", 6)
            assert await client.say(END, 3) == ["554 5.0.0 not 2", "450 later", "554 5.0.0 not 2"]
            assert server.messages == []

    run(main())


@pytest.mark.parametrize("action", [NO, "drop", "reset", "delay=50ms", "drip=1000/s"])
def test_faults_in_tls(run: Run, certificates: Any, action: str) -> None:
    context: ssl.SSLContext = certificates.client_context()

    async def main() -> None:
        options = {"tls_cert": certificates.chain_file, "tls_implicit": True, "fault": [f"mail:{action}@>1"]}
        async with Server(**options) as server, Client(server, context, "localhost") as client:
            await client.say(HELLO)
            await client.deliver()
            assert len(server.messages) == 1
            if action == "reset":
                with pytest.raises(ConnectionResetError):
                    await client.say(MAIL)
                    await client.say(MAIL)
            else:
                answer = (await client.say(MAIL))[0]
                assert answer == {"drop": "", NO: NO}.get(action, "250 2.1.0 Ok")

    run(main())


def test_starttls_slowly_and_faults_behind_it(run: Run, certificates: Any) -> None:
    async def main() -> None:
        rules = ["starttls:drip=1000/s", "starttls:delay=20ms", "mail:451 in TLS"]
        async with Server(tls_cert=certificates.chain_file, fault=rules) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(b"STARTTLS\r\n" + MAIL) == [220]  # what is behind it is thrown away
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            assert [reply[:6] for reply in await client.say(HELLO + MAIL, 2)] == ["250-" + reply_name(server), "451 in"]

    run(main())


def reply_name(server: Server) -> str:
    return server.settings.name[:2]


def test_faults_are_repeated_by_the_seed(run: Run) -> None:
    async def replies(seed: int) -> list[str]:
        async with Server(fault=["rcpt:451 a@30%", "mail:452 b@30%"], seed=seed) as server, Client(server) as client:
            await client.say(HELLO)
            return await client.say((MAIL + RCPT + b"RSET\r\n") * 40, 120)

    async def main() -> None:
        first, again, other = [await replies(seed) for seed in (5, 5, 6)]
        assert first == again != other
        assert "451 a" in first and "452 b" in first

    run(main())


def test_a_farewell_that_drips_is_not_cut_short(run: Run) -> None:
    async def main() -> None:
        async with Server(fault=["quit:drip=200/s"]) as server, Client(server) as client:
            client.writer.write(b"QUIT\r\n")
            assert await client.reader.readexactly(1) == b"2"
            for _ in range(4):
                server.sweep()
            assert await client.reply() == "21 2.0.0 Bye"
            assert await client.closed()
            await until(lambda: not server.connections)

    run(main())


def test_clients_that_are_ignored_suffer_no_faults_and_do_not_count(run: Run) -> None:
    async def main() -> None:
        async with Server(ignore="127.0.0.1", fault=["mail:drop", "connect:drop"]) as server, Client(server) as client:
            assert await client.codes(HELLO + MAIL, 2) == [250, 250]
            server.fail_next("rcpt", NO)
            assert await client.say(RCPT) == ["250 2.1.5 Ok"]

    run(main())


def test_a_fault_behind_a_proxy_header(run: Run) -> None:
    async def main() -> None:
        async with Server(proxy_from="*", fault=["connect:421 Busy@1/2", "rcpt:drop@*@x"]) as server:
            async with Raw(server) as client:
                client.writer.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n" + HELLO + MAIL + b"RCPT TO:<a@x>\r\n")
                assert [(await client.reply())[:3] for _ in range(4)] == ["220", "250", "250", ""]
            async with Raw(server) as client:
                client.writer.write(b"PROXY UNKNOWN\r\n")
                assert await client.all() == b"421 Busy\r\n"

    run(main())


def test_each_fault_is_a_log_record(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bulkmail.sink")

    async def main() -> None:
        async with Server(fault=["rcpt:delay=1ms", "rcpt:451 No"]) as server, Client(server) as client:
            await client.say(HELLO + MAIL + RCPT, 3)
            records = [
                record for record in caplog.records if record.getMessage() == "fault at rcpt: delay=0.001s, 451 No"
            ]
            assert [record.cid for record in records] == [client.greeting.split()[-1]]  # type: ignore[attr-defined]

    run(main())
