"""What a lenient sink keeps, and logins by a token, from the socket to the hook."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.errors import AuthError
from bulkmail.sink import Server, Session
from unit.sink.sink_client import HELLO, MAIL, RCPT, Client

Run = Callable[[Any], Any]


@pytest.mark.parametrize("hooks", [None, object()], ids=["plain", "hooked"])
def test_lone_line_ends_are_kept_as_crlf(run: Run, hooks: object) -> None:
    async def main() -> None:
        async with Server(hooks, lenient=True) as server, Client(server) as client:
            await client.say(b"EHLO me\n")
            assert (await client.deliver(b"Subject: x\n\n.\n.\r\n..\rend\r\n")).startswith("250")
            chunk = MAIL + RCPT + b"BDAT 2\na\nBDAT 2 LAST\nb\r"
            assert await client.codes(chunk, 4) == [250] * 4
            first, second = server.messages
            assert first.content == b"Subject: x\r\n\r\n.\r\n.\r\n.\r\nend\r\n"
            assert second.content == b"a\r\nb\r\n"
            assert server.counts["bytes"] == len(first.content) + len(second.content)

    run(main())


class Tokens:
    seen: tuple[str, ...] = ()

    async def on_auth(self, session: Session, mechanism: str, user: str, password: str) -> bool:
        self.seen = (mechanism, user, password)
        return password == "good"


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_our_client_logs_in_with_its_token(run: Run, mechanism: str) -> None:
    from bulkmail import Connection

    async def main() -> None:
        hooks = Tokens()
        async with Server(hooks, discard=True) as server:
            url = server.url.replace("//", "//ann@") + f"?auth={mechanism}"
            async with Connection(url, token="good"):
                assert hooks.seen == (mechanism.upper(), "ann", "good")
            with pytest.raises(AuthError, match=r"535 5\.7\.8.*status"):
                async with Connection(url, token="stale"):
                    pass
            assert hooks.seen[2] == "stale"

    run(main())


def test_a_refused_token_leaves_the_conversation_in_order(run: Run) -> None:
    token = b64encode(b"user=ann\1auth=Bearer stale\1\1")

    async def main() -> None:
        async with Server(Tokens(), discard=True) as server, Client(server) as client:
            await client.say(HELLO)
            # Pipelined, as no client should: what stands for the answer to the challenge is not a command.
            said = await client.say(b"AUTH XOAUTH2 " + token + b"\r\n\r\n" + MAIL, 3)
            assert b64decode(said[0][4:]) == b'{"status":"401","schemes":"bearer"}'
            assert [reply[:3] for reply in said] == ["334", "535", "250"]

    run(main())
