"""aiosmtpd: a foreign SMTP server in a thread, which records what it is told and can be told what to answer."""

from __future__ import annotations

import asyncio
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .common import HOST, STOP_SECONDS, Server

USER, PASSWORD = "news", "s3cret/ pass"


@dataclass
class Mail:
    """One message as the server took it. `content`: CRLF, dots undone."""

    sender: str
    recipients: list[str]
    content: bytes
    options: list[str]
    tls: bool
    user: str | None
    helo: str


@dataclass
class Recorder:
    """The handler: keeps every message and session; `answers` replaces the reply to a command.

    answers   such as {"RCPT": "550 5.1.1 no such user"}; or a function of the address (RCPT, MAIL) or the number of
              messages so far (DATA, the reply to the final dot) or the content (CONTENT, the same reply) that returns a
              reply, or None for the usual one
    """

    answers: Mapping[str, str | Callable[[Any], str | None]] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    sessions: int = 0

    def _answer(self, command: str, about: Any) -> str | None:
        answer = self.answers.get(command)
        return answer(about) if callable(answer) else answer

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]) -> Any:
        session.host_name = hostname
        self.sessions += 1
        return responses

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        refusal = self._answer("MAIL", address)
        if refusal:
            return refusal
        envelope.mail_from, envelope.mail_options = address, list(options)
        return "250 2.1.0 sender ok"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        refusal = self._answer("RCPT", address)
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        refusal = self._answer("DATA", len(self.mails)) or self._answer("CONTENT", envelope.original_content)
        if refusal:
            return refusal
        user = session.auth_data.login.decode() if session.authenticated and session.auth_data else None
        self.mails.append(
            Mail(
                envelope.mail_from,
                list(envelope.rcpt_tos),
                envelope.original_content,
                list(envelope.mail_options),
                server.transport.get_extra_info("ssl_object") is not None,
                user,
                session.host_name,
            )
        )
        return f"250 2.0.0 kept as {len(self.mails)}"


@dataclass(frozen=True)
class Aiosmtpd(Server):
    """A running aiosmtpd; `recorder` has what it took."""

    recorder: Recorder = field(default_factory=Recorder)

    @property
    def mails(self) -> list[Mail]:
        return self.recorder.mails


def _check_login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
    from aiosmtpd.smtp import AuthResult

    good = data.login == USER.encode() and data.password == PASSWORD.encode()
    return AuthResult(success=good, handled=False, auth_data=data if good else None)


@contextmanager
def aiosmtpd(
    *,
    tls: str | None = None,
    context: ssl.SSLContext | None = None,
    auth: bool = False,
    answers: Mapping[str, str | Callable[[Any], str | None]] | None = None,
    **options: Any,
) -> Iterator[Aiosmtpd]:
    """Run aiosmtpd in a thread with a loop of its own.

    tls       None, "starttls" or "implicit" (then with the server's `context`)
    auth      require a login as USER with PASSWORD (offered in clear too, when tls is None)
    answers   see Recorder
    options   passed to aiosmtpd's SMTP, such as data_size_limit=, require_starttls=True, enable_SMTPUTF8=True
    """
    from aiosmtpd.smtp import SMTP

    recorder = Recorder(answers or {})
    options = {"hostname": "aiosmtpd.example.test", "command_call_limit": 1_000_000} | options
    if auth:
        options |= {"authenticator": _check_login, "auth_required": True, "auth_require_tls": tls is not None}
    if tls == "starttls":
        options["tls_context"] = context

    def session() -> Any:
        with warnings.catch_warnings():
            # It warns of an AUTH offered in clear and of STARTTLS not demanded, both of which tests mean.
            warnings.simplefilter("ignore")
            return SMTP(recorder, loop=loop, **options)

    loop = asyncio.new_event_loop()
    listening = loop.create_server(session, HOST, 0, ssl=context if tls == "implicit" else None)
    server = loop.run_until_complete(listening)
    thread = threading.Thread(target=loop.run_forever, name="aiosmtpd", daemon=True)
    thread.start()
    try:
        yield Aiosmtpd(server.sockets[0].getsockname()[1], tls, recorder=recorder)
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(STOP_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_SECONDS)
        loop.close()


async def _end(server: asyncio.AbstractServer) -> None:
    """Close the listener and end every session that a client left open."""
    server.close()
    sessions = asyncio.all_tasks() - {asyncio.current_task()}
    for session in sessions:
        session.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)
