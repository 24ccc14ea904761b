"""A DNS server with the records that a test gives it, on a UDP and a TCP port of the same number of 127.0.0.1."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

# In place of records: what the server does instead of answering. LARGE: over TCP only, as a truncated answer asks for.
SERVFAIL, REFUSED, SILENT, GARBAGE = "SERVFAIL", "REFUSED", "SILENT", "GARBAGE"
LARGE = "LARGE"

Zone = Mapping[str, Mapping[str, Any]]  # name -> type -> records as text, or one of the above


class Server:
    """address: "127.0.0.1:PORT"; asked: (name, type, "udp" or "tcp") of every question."""

    def __init__(self, zone: Zone) -> None:
        self.zone = {name.lower(): records for name, records in zone.items()}
        self.asked: list[tuple[str, str, str]] = []

    def reply(self, data: bytes, by: str) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip(".").lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, by))
        answer = dns.message.make_response(query, recursion_available=True)
        records = {"": {"NS": ["a.root-servers.net."]}, **self.zone}.get(name)
        if records is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            return answer.to_wire()
        given = records.get(kind, [])
        if given in (SERVFAIL, REFUSED):
            answer.set_rcode(dns.rcode.from_text(given))
        elif given == SILENT:
            return None
        elif given == GARBAGE:
            return data[:2] + b"\xff" * 40
        elif given[:1] == [LARGE] and by == "udp":
            answer.flags |= dns.flags.TC
        elif records.get("CNAME"):
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", *records["CNAME"]))
        elif given:
            texts = given[1:] if given[0] == LARGE else given
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *texts))
        return answer.to_wire(max_size=65535)


def _on_one_port(
    over_tcp: type[socketserver.BaseRequestHandler], over_udp: type[socketserver.BaseRequestHandler]
) -> tuple[socketserver.ThreadingTCPServer, socketserver.ThreadingUDPServer]:
    """A port that is free for the one may be somebody's for the other."""
    while True:
        tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), over_tcp)
        try:
            return tcp, socketserver.ThreadingUDPServer(tcp.server_address, over_udp)  # type: ignore[arg-type]
        except OSError as error:
            tcp.server_close()
            if error.errno != errno.EADDRINUSE:
                raise


@contextmanager
def serving(zone: Zone) -> Iterator[Server]:
    server = Server(zone)

    class OverUdp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, out = self.request
            made = server.reply(data, "udp")
            if made is not None:
                out.sendto(made, self.client_address)

    class OverTcp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            size = self.request.recv(2, socket.MSG_WAITALL)
            made = server.reply(self.request.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL), "tcp")
            if made is not None:
                self.request.sendall(len(made).to_bytes(2, "big") + made)

    tcp, udp = _on_one_port(OverTcp, OverUdp)
    with tcp, udp:
        server.address = f"127.0.0.1:{tcp.server_address[1]}"  # type: ignore[attr-defined]
        threads = [threading.Thread(target=one.serve_forever, args=(0.01,)) for one in (tcp, udp)]
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            for one in (tcp, udp):
                one.shutdown()
            for thread in threads:
                thread.join()
