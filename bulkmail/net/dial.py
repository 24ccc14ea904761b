"""A connected line to a host, directly or through a chain of proxies, within deadlines.

Every way out of here gives the caller a line or leaves none open: a refusal, a deadline, a cancellation at any await.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from bulkmail.errors import BulkmailError, ConnectError, ProxyError, ResolveError, TimedOut
from bulkmail.net import proxies
from bulkmail.net.bridge import plain_socket
from bulkmail.net.direct import connect, look_up, reason
from bulkmail.net.line import Line, SocketLine, TlsLine
from bulkmail.net.race import race
from bulkmail.net.steps import OnStep, unwatched
from bulkmail.proxyurl import ProxyUrl
from bulkmail.url import Options
from bulkmail.urlparts import host_and_port


async def reach(host: str, port: int, *, options: Options, on_step: OnStep = unwatched) -> Line:
    """A line to the host, through the proxies of options.proxy if there are any.

    What the host says first is still unread, also behind a proxy.

    raises  ResolveError, ConnectError  naming every address that was tried and why it failed
            TimedOut(phase="dns" | "connect"), after options.dns_timeout and options.connect_timeout
            ProxyError, TimedOut(phase="proxy")  whatever goes wrong with a proxy; connect_timeout is for all of the way
            ConfigError  a local_address or ca_file that cannot be used
    """
    loop = asyncio.get_running_loop()
    if options.proxy is not None:
        way = _Way(options.proxy, options, loop.time() + options.connect_timeout, loop)
        return await way.tunnel(len(options.proxy), host, port, on_step)
    addresses = await look_up(host, port, options.dns_timeout, on_step)
    deadline = loop.time() + options.connect_timeout
    sock = await connect(host_and_port(host, port), addresses, options.local_address, deadline, loop, on_step)
    return SocketLine(sock, loop)


async def dial_unix(path: str, *, options: Options, on_step: OnStep = unwatched) -> socket.socket:
    """A non-blocking socket, connected to the Unix socket at `path`. Raises ConnectError, TimedOut(phase="connect")."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise ConnectError(f"{path}: this system has no Unix sockets", permanent=True)
    on_step("connect", None)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(options.connect_timeout):
            await asyncio.get_running_loop().sock_connect(sock, path)
    except TimeoutError:
        sock.close()
        raise TimedOut(f"{path}: no connection within {options.connect_timeout:g} s", phase="connect") from None
    except OSError as error:
        sock.close()
        raise ConnectError(f"{path}: cannot connect: {reason(error)}") from error
    except BaseException:
        sock.close()
        raise
    on_step("connect", {"socket": sock, "failures": []})
    return sock


class _Way:
    """One dial through a chain. A tunnel through n proxies is a tunnel to the n-th through the n - 1 before it, then
    that proxy's handshake; through none it is a connection.

    deadline  loop.time() when all of it ends
    """

    def __init__(
        self, hops: Sequence[ProxyUrl], options: Options, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._hops, self._options, self._deadline, self._loop = hops, options, deadline, loop

    async def tunnel(self, count: int, host: str, port: int, on_step: OnStep) -> Line:
        """To host:port through the first `count` proxies, at least one."""
        hop = self._hops[count - 1]
        if proxies.is_custom(hop):
            return await self._by_handler(count, host, port, on_step)
        targets = await self._targets(hop, host, port, on_step)
        # The first attempt is told step by step; another one only begins when the proxy is known to answer.
        line, deadline = await self._to_proxy(count, on_step)
        on_step(self._step(count), None)
        line = await proxies.enter(hop, line, deadline, self._loop)
        spare = [(line, deadline)]
        refusals: list[tuple[str, proxies.TargetRefused]] = []

        async def attempt(target: str) -> Line:
            line, deadline = spare.pop() if spare else await self._entered(count)
            try:
                await proxies.handshake(hop, target, port, line, deadline=deadline, loop=self._loop)
            except BaseException:
                line.close()
                raise
            return line

        try:
            won = await race(targets, attempt, proxies.TargetRefused, refusals)
        finally:
            for unused, _ in spare:
                unused.close()
        if won is None:
            raise _all_refused(hop, [refusal for _, refusal in refusals])
        reached = targets[0] if len(targets) == 1 else host
        self._arrived(count, reached, port, won, [refusal for _, refusal in refusals], on_step)
        return won

    async def _entered(self, count: int) -> tuple[Line, float]:
        line, deadline = await self._to_proxy(count, unwatched)
        return await proxies.enter(self._hops[count - 1], line, deadline, self._loop), deadline

    async def _to_proxy(self, count: int, on_step: OnStep) -> tuple[Line, float]:
        """A line to the count-th proxy, and when the time is over that is allowed to it."""
        hop = self._hops[count - 1]
        deadline = self._deadline_of(hop)
        line = await self._before(count, hop.host, hop.port, deadline, on_step)
        # The way to a later one is its predecessor's work, and is on the predecessor's time.
        return line, deadline if count == 1 else self._deadline_of(hop)

    async def _before(self, count: int, host: str, port: int, deadline: float, on_step: OnStep) -> Line:
        """A line to host:port, where the count-th proxy is; what fails is a proxy's failure."""
        hop = self._hops[count - 1]
        try:
            if count > 1:
                return await self.tunnel(count - 1, host, port, on_step)
            addresses = await look_up(host, port, self._dns_timeout(deadline), on_step)
            local = self._options.local_address
            sock = await connect(f"proxy {hop}", addresses, local, deadline, self._loop, on_step)
            return SocketLine(sock, self._loop)
        except TimedOut as error:
            raise TimedOut(_for_proxy(hop, error), phase="proxy") from error
        except (ResolveError, ConnectError) as error:
            raise ProxyError(_for_proxy(hop, error), proxy=str(hop)) from error

    async def _by_handler(self, count: int, host: str, port: int, on_step: OnStep) -> Line:
        hop, step = self._hops[count - 1], self._step(count)
        deadline = self._deadline_of(hop)

        async def dial(host: str, port: int) -> socket.socket:
            line = await self._before(count, host, port, deadline, on_step)
            on_step(step, None)
            return await plain_socket(line)

        on_step(step, None)
        local, behind = self._options.local_address, count > 1
        target = proxies.Target(host, port, local, deadline, dial, self._loop)
        line = await proxies.by_handler(hop, target, must_dial=behind, last=count == len(self._hops), loop=self._loop)
        self._arrived(count, host, port, line, [], on_step)
        return line

    async def _targets(self, hop: ProxyUrl, host: str, port: int, on_step: OnStep) -> list[str]:
        """What to ask a proxy for: the name, or the addresses to try."""
        if not proxies.resolves_here(hop):
            return [host]
        addresses = await look_up(host, port, self._dns_timeout(self._deadline), on_step)
        return proxies.reachable(hop, host, addresses)

    def _dns_timeout(self, deadline: float) -> float:
        return max(0.0, min(self._options.dns_timeout, deadline - self._loop.time()))

    def _deadline_of(self, hop: ProxyUrl) -> float:
        return self._deadline if hop.timeout is None else min(self._deadline, self._loop.time() + hop.timeout)

    def _step(self, count: int) -> str:
        return f"proxy {count}" if len(self._hops) > 1 else "proxy"

    def _arrived(
        self, count: int, host: str, port: int, line: Line, refusals: Sequence[ProxyError], on_step: OnStep
    ) -> None:
        hop = self._hops[count - 1]
        found: dict[str, Any] = {"proxy": str(hop), "target": host_and_port(host, port), "refusals": refusals}
        if hop.scheme == "https" and isinstance(line, TlsLine):
            found["tls"] = line.version
        on_step(self._step(count), found)


def _all_refused(proxy: ProxyUrl, refusals: Sequence[ProxyError]) -> ProxyError:
    if len(refusals) == 1:
        return refusals[0]
    every = "; ".join(str(refusal) for refusal in refusals)
    error = ProxyError(every, proxy=str(proxy), reply_code=refusals[-1].reply_code)
    error.__cause__ = refusals[-1]
    return error


def _for_proxy(proxy: ProxyUrl, error: BulkmailError) -> str:
    text = str(error)
    return text if text.startswith("proxy ") else f"proxy {proxy}: {text}"
