"""A receiver of webhooks on a real socket that does what it is told, and writes down what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["data"]["events"]
        return events


# What is answered to the n-th request (from 1): a status, (status, headers), or a function of the handler.
Answer = int | tuple[int, dict[str, str]] | Callable[[BaseHTTPRequestHandler], None]


class HookServer:
    """requests: all that came; answer: called with the number of each."""

    def __init__(self, answer: Callable[[int], Answer] = lambda number: 204, context: Any = None) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.connections = 0
        self.ending = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                owner.connections += 1
                self.number = owner.connections
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                owner.requests.append(Request(self.path, headers, body, self.number, time.time()))
                answer = owner.answer(len(owner.requests))
                if callable(answer):
                    answer(self)
                    return
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"" if status == 204 else b"ok")

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.port}/hook?token=sesame"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> HookServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def events(self) -> list[dict[str, Any]]:
        """Of each request once, by its id."""
        by_id = {request.id: request.events for request in self.requests}
        return [event for events in by_id.values() for event in events]
