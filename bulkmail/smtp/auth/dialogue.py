"""The dialogue of AUTH (RFC 4954 section 4): responses and challenges, until the server has decided."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from bulkmail.errors import AuthError, BulkmailError, ConnectionLost, ProtocolError
from bulkmail.smtp.auth.mechanism import Credentials, Explained, Mechanism
from bulkmail.smtp.wirelog import redacted, spoken
from bulkmail.wire.reply import Reply

MAX_ROUNDS = 16  # a server that challenges for ever is not authenticating anybody
MAX_COMMAND = 512  # octets with the CRLF, RFC 5321 section 4.5.3.1.4; a longer initial response waits for a 334
MAX_RESPONSE = 12288  # octets with the CRLF, RFC 4954 section 4.5


async def authenticate(session: Any, name: str, mechanism: Mechanism, credentials: Credentials) -> None:
    """Run the dialogue. Raises AuthError with the server's reply; nothing of the credentials is in it.

    A dialogue that ends before its last reply ends the connection: the server would take what comes for a response.
    """
    exchange = _Exchange(session, name, mechanism, credentials)
    lines = _opening(name, await exchange.step(None))
    first = session.call(exchange.checked(lines[0]), "AUTH")
    try:
        reply = await exchange.run(first, lines[1:])
        if 200 <= reply.code < 300:
            exchange.accepted()
    except BaseException as error:
        exchange.drop()
        exchange.mask(error)
        session.abort(error if isinstance(error, BulkmailError) else ConnectionLost("the login was abandoned"))
        raise
    exchange.drop()
    if reply.code == 421:
        parting = session.error or session.wire.parting()
        exchange.mask(parting)
        raise parting
    if not 200 <= reply.code < 300:
        raise exchange.refusal(reply)


def _opening(name: str, initial: Any) -> list[bytes]:
    """The command, and the initial response on a line of its own where the command would be too long with it."""
    command = b"AUTH " + name.encode()
    if initial is None:
        return [command]
    response = base64.b64encode(initial)
    whole = command + b" " + (response or b"=")
    return [whole] if len(whole) + 2 <= MAX_COMMAND else [command, response]


class _Exchange:
    """said: what of our responses no text may show, should the server repeat it."""

    def __init__(self, session: Any, name: str, mechanism: Mechanism, credentials: Credentials) -> None:
        self.session, self.name, self.user = session, name, credentials.user
        self.steps = mechanism(credentials)
        self.said = {secret for secret in (credentials.password, credentials.token) if secret}
        self.explanation = ""
        self.deadline = asyncio.get_running_loop().time() + session.command_timeout  # for all of it

    async def step(self, challenge: bytes | None) -> bytes | None:
        """The mechanism's answer to a challenge; None: it has no more to say (or no initial response)."""
        answer = self._next(challenge)
        while callable(answer):
            answer = self._next(await asyncio.get_running_loop().run_in_executor(None, answer))
        if isinstance(answer, Explained):
            self.explanation = answer.text
        if answer is not None and not isinstance(answer, bytes):
            raise AuthError(
                f"the mechanism {self.name} yielded {type(answer).__name__}, expected bytes", permanent=True
            )
        return answer

    def _next(self, sent: Any) -> Any:
        try:
            return self.steps.send(sent)
        except StopIteration:
            return None
        except BulkmailError as error:
            error.command = "AUTH"
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> AuthError:
        return AuthError(f"the mechanism {self.name} failed: {type(error).__name__}", command="AUTH", permanent=True)

    def checked(self, line: bytes) -> bytes:
        if len(line) + 2 > MAX_RESPONSE:
            raise AuthError(
                f"AUTH {self.name} needs a line of {len(line) + 2} octets, more than the {MAX_RESPONSE} that servers "
                "have to take (RFC 4954)",
                command="AUTH",
                permanent=True,
            )
        self.said |= spoken(line.decode("ascii")) - {self.user}
        return line + b"\r\n"

    async def run(self, first: Awaitable[Reply], waiting: list[bytes]) -> Reply:
        reply = await first
        for _ in range(MAX_ROUNDS):
            if reply.code != 334:
                return reply
            line = waiting.pop() if waiting else await self._response(reply)
            left = max(self.deadline - asyncio.get_running_loop().time(), 0.001)
            reply = await self.session.call(self.checked(line), "AUTH", left)
        if reply.code == 334:
            raise AuthError(
                f"the server did not end AUTH {self.name} within {MAX_ROUNDS} challenges",
                command="AUTH",
                permanent=True,
            )
        return reply

    async def _response(self, reply: Reply) -> bytes:
        try:
            challenge = base64.b64decode(reply.lines[0].strip(), validate=True)
        except (binascii.Error, ValueError):
            shown = self._masked(reply)
            raise ProtocolError(
                f"the server's AUTH challenge is not base64: {shown}", reply=shown, command="AUTH"
            ) from None
        answer = await self.step(challenge)
        return b"*" if answer is None else base64.b64encode(answer)  # RFC 4954 section 4: "*" cancels

    def accepted(self) -> None:
        """Raises AuthError if the mechanism still waits for the server's proof."""
        try:
            self.steps.close()
        except AuthError as error:
            error.command = "AUTH"
            raise
        except Exception as error:
            raise self._failed(error) from error

    def drop(self) -> None:
        with suppress(Exception):  # such as that the server, which refused, has not proved itself either
            self.steps.close()

    def refusal(self, reply: Reply) -> AuthError:
        shown = self._masked(reply)
        explanation = f" ({redacted(self.explanation, self.said)})" if self.explanation else ""
        who = f" of {self.user!r}" if self.user else ""
        return AuthError(f"the server refused the login{who}: {shown}{explanation}", reply=shown, command="AUTH")

    def mask(self, error: BaseException) -> None:
        """What the wire says of a reply may hold what that repeats."""
        if isinstance(error, BulkmailError):
            error.args = tuple(redacted(str(text), self.said) for text in error.args)
            error.reply = self._masked(error.reply) if error.reply is not None else None

    def _masked(self, reply: Reply) -> Reply:
        return Reply(reply.code, [redacted(line, self.said) for line in reply.lines])
