"""Who is let in: the ready-made policies of a server. They look at the real client's address, behind a proxy too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkmail.sink.networks import Networks, Number, number_of
from bulkmail.sink.refuse import Refuse

if TYPE_CHECKING:
    from bulkmail.sink.options import SinkOptions
    from bulkmail.sink.session import Ends

WINDOW_SECONDS: Final = 60.0
# Connections of the last minute that `Rate` remembers, all clients together: 1,700 a second, at most some 30 MB. Past
# it the clients that have been quiet for longest are forgotten, which lets them in anew.
MAX_REMEMBERED: Final = 100_000
# Whoever has one address of IPv6 has 2**64 of them (RFC 6177): limits count such a network as one client.
IPV6_CLIENT_BITS: Final = 64

Key = Number | str


def client_of(address: str) -> Key:
    """What limits count by: an IPv4 address, a /64 of IPv6."""
    number = number_of(address)
    if number is None:
        return address
    return number if number[0] == 4 else (6, number[1] >> IPV6_CLIENT_BITS)


class Rate:
    """At most `most` connections of a client within any WINDOW_SECONDS; those refused do not count."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._times: dict[Key, list[float]] = {}  # of those let in; the client that came last is last
        self._remembered = 0

    def admit(self, client: Key, now: float) -> bool:
        """`now`: monotonic seconds."""
        self._forget(now)
        times = self._times.pop(client, [])
        old = next((at for at, time in enumerate(times) if time > now - WINDOW_SECONDS), len(times))
        del times[:old]
        fits = len(times) < self.most
        if fits:
            times.append(now)
        self._remembered += fits - old
        self._times[client] = times
        return fits

    def _forget(self, now: float) -> None:
        """Clients whose last connection is out of the window; then as many as there is no room for."""
        while self._times:
            client, times = next(iter(self._times.items()))
            if times[-1] > now - WINDOW_SECONDS and self._remembered < MAX_REMEMBERED:
                return
            self._remembered -= len(self._times.pop(client))


class Admission:
    """A server's policies. It keeps who is connected, so each enter() that says yes has its leave()."""

    def __init__(self, options: SinkOptions) -> None:
        self.deny = Networks(options.deny, "deny")
        self.ignore = Networks(options.ignore, "ignore")
        self.proxies = Networks(options.proxy_from, "proxy_from")
        self._rate = None if options.connections_per_minute is None else Rate(options.connections_per_minute)
        self._most_open = options.connections_per_address
        self._open: dict[Key, int] = {}

    def __bool__(self) -> bool:
        """Whether there is any policy at all."""
        return bool(self.deny or self.ignore or self.proxies or self._rate or self._most_open)

    def enter(self, ends: Ends, now: float, *, ignored: bool) -> Key | Refuse:
        """Yes: what leave() is to be called with. No: the reply in place of the greeting.

        No limit holds for clients that are ignored, nor for a proxy that looks after us (LOCAL).
        """
        if ends.remote[0] in self.deny:
            return Refuse(554, "Access denied", "5.7.1")
        if ignored or (ends.header is not None and ends.header.local):
            return ""
        client = client_of(ends.remote[0])
        if self._most_open is not None and self._open.get(client, 0) >= self._most_open:
            return Refuse(421, "Too many connections from your address", "4.7.0")
        if self._rate is not None and not self._rate.admit(client, now):
            return Refuse(421, "Too many connections from your address within a minute", "4.7.0")
        if self._most_open is not None:
            self._open[client] = self._open.get(client, 0) + 1
        return client

    def leave(self, client: Key) -> None:
        count = self._open.get(client, 0)
        if count > 1:
            self._open[client] = count - 1
        elif count:
            del self._open[client]
