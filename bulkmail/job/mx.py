"""Routes by the mail servers of a recipient's domain, which are looked up while the list is read, many at a time.

A domain's mail server is its MX of the lowest preference; of several such, the first by name that a pattern matches. A
domain without MX is its own (RFC 5321 section 5.1). Whatever cannot be told in time goes by the other patterns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final

from bulkmail.address import ascii_domain
from bulkmail.errors import ConfigError
from bulkmail.job.recipients import RowBatch
from bulkmail.pool.domains import ELSEWHERE, DomainMap, LimitMap, joined
from bulkmail.values import parse_dns_server

SECONDS: Final = 4.0  # for one question, to all servers of the system together
AT_ONCE: Final = 32  # questions under way; resolvers of small networks drop more
AHEAD: Final = 32  # batches read before the one whose domains are waited for: a few dead domains hold up nobody
UNDER_WAY: Final = 4000  # domains of those batches, at 2 KB each, and a batch more
MAX_LOOKUPS: Final = 200_000  # domains of one job, at some 150 bytes; where lists have more, most have one recipient
MAX_WAIT: Final = 600.0  # seconds that reading the list waits for answers, in all
SILENT_AFTER: Final = 2 * AT_ONCE  # questions in a row without an answer: there is no DNS now,
SILENT_FOR: Final = 60.0  # and for so many seconds it is not asked
MAX_RECORDS: Final = 100  # of one answer
LOGGER = logging.getLogger("bulkmail.job")

Asked = list[tuple[str, "Future[tuple[str, ...]]"]]


class Unknown(Exception):
    """The DNS gave no answer that means anything; str() says why."""


class MxRoutes:
    """The routes of domains where some limits are by MX. `ahead` looks up what `route` is asked about then.

    routes   by the names of domains: of relays' rules and of limits
    limits   a domain that one of their own patterns names is not looked up
    server   as "192.0.2.53" or "192.0.2.53:5300"; None: those of the system
    raises   ConfigError  where the system names no DNS server
    """

    def __init__(self, routes: DomainMap, limits: LimitMap, server: str | None = None) -> None:
        self.patterns = routes.patterns | limits.patterns
        self._routes, self._limits = routes, limits
        self._lookups = Lookups(server)
        self._threads = ThreadPoolExecutor(AT_ONCE, "bulkmail-mx")
        self._found: dict[str, str | None] = {}  # pattern of limits by domain; None: none, or not known (yet)
        self._waited = 0.0
        self._unknown = 0
        self._why = ""
        self._gave_up = False

    def route(self, domain: str) -> str:
        """By the pattern of limits for it or for its MX, and that of relays' rules."""
        by_name = self._routes.route(domain)
        found = self._found.get(_name(domain))
        return by_name if found is None else joined(found, by_name)

    def ahead(self, batches: Iterator[RowBatch]) -> Ahead:
        """The same batches, each once its domains are looked up."""
        return Ahead(batches, self)

    def ask(self, addresses: Iterable[str]) -> Asked:
        """Begin to look up their domains: those that no earlier call did."""
        asked: Asked = []
        for domain in {address.rpartition("@")[2] for address in addresses}:
            name = _name(domain)
            if not name or name in self._found or self._limits.by_domain.route(name) != ELSEWHERE:
                continue
            if len(self._found) >= MAX_LOOKUPS or self._waited >= MAX_WAIT:
                self._gave_up = True
                continue
            self._found[name] = None
            asked.append((name, self._threads.submit(self._lookups.servers_of, name)))
        return asked

    def wait(self, asked: Asked) -> None:
        """Take up the answers, once they are there."""
        began = time.monotonic()
        wait([future for _, future in asked], self.time_left)
        self.note_waited(time.monotonic() - began)
        for name, future in asked:
            try:
                self._found[name] = self._pattern(future)
            except Unknown as why:
                self._unknown += 1
                self._why = self._why or f"{name}: {why}"

    @property
    def time_left(self) -> float:
        return max(0.0, MAX_WAIT - self._waited)

    def note_waited(self, seconds: float) -> None:
        self._waited += seconds

    def close(self) -> None:
        """Ask no more, and tell of what is not known."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._unknown:
            LOGGER.warning(
                "limits.domains: the MX of %d domains could not be looked up (%s): for them the patterns hold that "
                "are not 'mx:'",
                self._unknown,
                self._why,
            )
        if self._gave_up:
            LOGGER.warning(
                "limits.domains: the MX of %d domains were looked up in %.0f s, and no more: for the others the "
                "patterns hold that are not 'mx:'",
                len(self._found),
                self._waited,
            )
        self._unknown, self._gave_up = 0, False

    def _pattern(self, future: Future[tuple[str, ...]]) -> str | None:
        if future.cancel() or not future.done():
            raise Unknown(f"no answer in {MAX_WAIT:g} s for all of them")
        matched = map(self._limits.of_host, future.result())
        return next((pattern for pattern in matched if pattern is not None), None)


class Ahead(Iterator[RowBatch]):
    """Batches whose domains are looked up."""

    def __init__(self, batches: Iterator[RowBatch], routes: MxRoutes) -> None:
        self._unread, self._routes = batches, routes
        self._read: deque[tuple[RowBatch, Asked]] = deque()
        self._under_way = 0  # domains of `_read`

    def __next__(self) -> RowBatch:
        self._read_on()
        if not self._read:
            raise StopIteration
        batch, asked = self._read.popleft()
        self._under_way -= len(asked)
        self._routes.wait(asked)
        return batch

    async def ready(self, seconds: float) -> bool:
        """Whether the next one is there without waiting. Waits for that, for so long at most."""
        self._read_on()
        asked = self._read[0][1] if self._read else []
        missing = [asyncio.wrap_future(future) for _, future in asked if not future.done()]
        if not missing or not self._routes.time_left:
            return True
        began = time.monotonic()
        _, late = await asyncio.wait(missing, timeout=seconds)
        self._routes.note_waited(time.monotonic() - began)
        return not late

    def _read_on(self) -> None:
        while not self._read or (len(self._read) <= AHEAD and self._under_way < UNDER_WAY):
            batch = next(self._unread, None)
            if batch is None:
                return
            asked = self._routes.ask(batch.addresses)
            self._read.append((batch, asked))
            self._under_way += len(asked)


class Lookups:
    """Questions for MX records, from several threads at once."""

    def __init__(self, server: str | None) -> None:
        import dns.exception
        import dns.resolver

        try:
            self._dns = dns.resolver.Resolver(configure=server is None)
        except (dns.exception.DNSException, OSError) as error:
            raise ConfigError(
                f"limits.domains has 'mx:' patterns, and this machine names no DNS server ({error}): set "
                "limits.dns_server"
            ) from None
        if server is not None:
            host, self._dns.port = parse_dns_server(server)
            self._dns.nameservers = [host]
        self._dns.use_edns(0, 0, 1232)
        self._silent = 0  # questions in a row; threads may lose a count of each other, which does not matter
        self._silent_until = 0.0

    def servers_of(self, domain: str) -> tuple[str, ...]:
        """The hosts that take a domain's mail first, by name; none: there is no such domain, or it takes no mail.

        raises  Unknown
        """
        import dns.exception

        if time.monotonic() < self._silent_until:
            raise Unknown("the DNS does not answer")
        try:
            found = self._asked(domain)
        except dns.exception.Timeout:
            self._silent += 1
            if self._silent >= SILENT_AFTER:
                self._silent_until, self._silent = time.monotonic() + SILENT_FOR, 0
            raise Unknown(f"no answer within {SECONDS:g} s") from None
        except (dns.exception.DNSException, OSError, EOFError, UnicodeError, ValueError) as error:
            # Names that DNS cannot carry, servers that refuse, and answers that are no DNS messages.
            raise Unknown(type(error).__name__) from None
        self._silent = 0
        return found

    def _asked(self, domain: str) -> tuple[str, ...]:
        import dns.name
        import dns.resolver

        whole = dns.name.from_text(domain, dns.name.root)
        try:
            answer = self._dns.resolve(whole, "MX", lifetime=SECONDS, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return ()
        records: list[Any] = list(answer.rrset or ())[:MAX_RECORDS]
        if not records:
            return (domain,)
        best = min(record.preference for record in records)
        names = {
            record.exchange.to_text(omit_final_dot=True).lower() for record in records if record.preference == best
        }
        return tuple(sorted(names - {"."}))  # "." is no server, RFC 7505


def _name(domain: str) -> str:
    """As it is asked for; "" for what has no place in the DNS."""
    if domain.startswith("["):
        return ""
    try:
        return ascii_domain(domain.rstrip(".")).lower()
    except ValueError:
        return ""
