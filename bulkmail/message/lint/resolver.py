"""Questions to the DNS, by dnspython (the extra `dns`): bounded in time, number and size; what fails is told."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bulkmail.values import parse_dns_server

QUESTION_SECONDS = 4.0  # for one question, to all servers of the system together
# The first question shows whether a resolver is there; whoever has none should not wait long.
FIRST_SECONDS = 2.0
MAX_QUESTIONS = 200  # of one check; an SPF record asks for ten more at most, but hostile ones can name many
AT_ONCE = 10  # questions under way; resolvers of small networks drop more
MAX_RECORDS = 100  # of one answer
MAX_TEXT = 8192  # bytes of one TXT record; keys of 4096 bits have 700


class Unknown(Exception):
    """The DNS could not be asked or gave no answer that means anything; str() says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """records: as text, TXT strings joined; exists: whether there is such a name."""

    records: tuple[str, ...]
    exists: bool = True


Ask = Callable[[str, str], Awaitable[Answer]]  # (name, type such as "TXT"); raises Unknown


def is_installed() -> bool:
    return importlib.util.find_spec("dns") is not None


class Resolver:
    """Asks the system's servers, or the one that is given. For one event loop and one check; answers are kept."""

    def __init__(self, server: str | None = None) -> None:
        """server: "192.0.2.53", "192.0.2.53:5300" or "[2001:db8::53]:5300"

        raises  Unknown  if the system names no server; ConfigError for a server that is no address
        """
        import dns.asyncresolver
        import dns.exception

        try:
            self._dns = dns.asyncresolver.Resolver(configure=server is None)
        except (dns.exception.DNSException, OSError) as error:
            raise Unknown(f"this machine names no DNS server: {error}") from None
        if server is not None:
            host, self._dns.port = parse_dns_server(server)
            self._dns.nameservers = [host]
        self._dns.use_edns(0, 0, 1232)
        self._kept: dict[tuple[str, str], asyncio.Future[Answer]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def probe(self) -> None:
        """raises  Unknown  if it does not know even the root of the DNS: its "no such name" then means nothing."""
        if not (await self._limited(".", "NS", FIRST_SECONDS)).records:
            raise Unknown("the DNS server does not know the public DNS")

    async def ask(self, name: str, kind: str) -> Answer:
        """Of each name and type once. raises  Unknown"""
        key = (name.rstrip(".").lower(), kind)
        if key not in self._kept:
            if len(self._kept) >= MAX_QUESTIONS:
                raise Unknown(f"more than {MAX_QUESTIONS} questions would be needed")
            self._kept[key] = asyncio.ensure_future(self._limited(*key, QUESTION_SECONDS))
        return await asyncio.shield(self._kept[key])

    async def _limited(self, name: str, kind: str, seconds: float) -> Answer:
        async with self._turn:
            return await self._asked(name, kind, seconds)

    async def _asked(self, name: str, kind: str, seconds: float) -> Answer:
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            whole = dns.name.from_text(name, dns.name.root)
            found = await self._dns.resolve(whole, kind, lifetime=seconds, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return Answer((), exists=False)
        except dns.resolver.NoNameservers as error:
            raise Unknown(f"{name}, {kind}: {_refusal(error)}") from None
        except dns.exception.Timeout:
            raise Unknown(f"{name}, {kind}: no answer within {seconds:g} s") from None
        except (dns.exception.DNSException, OSError, EOFError, UnicodeError, ValueError) as error:
            # Names that DNS cannot carry, and answers that are no DNS messages.
            raise Unknown(f"{name}, {kind}: {type(error).__name__}") from None
        records = list(found.rrset or ())[:MAX_RECORDS]
        return Answer(tuple(_text(record, kind) for record in records))

    def close(self) -> None:
        for future in self._kept.values():
            if not future.cancel() and not future.cancelled():
                future.exception()  # whoever waited for it is gone; asyncio would complain


def _refusal(error: object) -> str:
    """What the servers said: SERVFAIL, REFUSED..., where dnspython tells."""
    errors = getattr(error, "kwargs", {}).get("errors") or ()
    said = [str(item[3]) for item in errors if len(item) > 3]
    return f"the DNS server answers {said[0][:60]}" if said else "no DNS server gives an answer"


def _text(record: object, kind: str) -> str:
    if kind == "TXT":
        return b"".join(record.strings)[:MAX_TEXT].decode("utf-8", "replace")  # type: ignore[attr-defined]
    if kind == "MX":
        return str(record.exchange)  # type: ignore[attr-defined]
    return str(record)
