"""The proxies of a whole run: each is started when it is first asked for and ends with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .certificates import Certificates
from .common import HOST
from .dante import dante
from .haproxy import haproxy
from .microsocks import microsocks
from .openssh import ssh_proxy
from .proxy import Proxy
from .squid import squid
from .tinyproxy import tinyproxy


@contextmanager
def _tls_front(folder: Path, behind: Proxy, certificates: Certificates) -> Iterator[Proxy]:
    with haproxy(folder, behind.port, certificates=certificates, tls=True, accept_proxy=False) as front:
        yield Proxy(front.port, front.log_file, front.pid, password=behind.password)


class Proxies:
    """The same arguments give the same proxy. A program that is missing skips the test that asks for it.

    certificates   of the proxies that speak TLS, from an authority of their own
    """

    def __init__(self, folder: Path, certificates: Certificates, running: ExitStack) -> None:
        self.certificates = certificates
        self._folder, self._running = folder, running
        self._started: dict[str, Proxy] = {}

    def squid(self, *, login: bool = False, tls: bool = False, host: str = HOST) -> Proxy:
        """It refuses targets on port 9, as Dante does."""
        certificate = self.certificates.chain_file if tls else None
        return self._one(f"squid-{login}-{tls}-{host}", squid, login=login, certificate=certificate, host=host)

    def tinyproxy(self, *more: str, login: bool = False, host: str = HOST) -> Proxy:
        return self._in_folder(f"tinyproxy-{login}-{host}-{'+'.join(more)}", tinyproxy, *more, login=login, host=host)

    def microsocks(self, *, login: bool = False, host: str = HOST) -> Proxy:
        return self._in_folder(f"microsocks-{login}-{host}", microsocks, login=login, host=host)

    def dante(self, *, login: bool = False, host: str = HOST) -> Proxy:
        return self._in_folder(f"dante-{login}-{host}", dante, login=login, host=host)

    def ssh(self, *, host: str = HOST) -> Proxy:
        return self._in_folder(f"ssh-{host}", ssh_proxy, host=host)

    def tls_front(self, behind: Proxy) -> Proxy:
        """HAProxy that takes TLS off before another proxy."""
        return self._in_folder(f"front-{behind.port}", _tls_front, behind, self.certificates)

    def said(self) -> dict[str, int]:
        """How long the log of each proxy is by now."""
        return {name: proxy.log.stat().st_size for name, proxy in self._started.items() if proxy.log.exists()}

    def print_since(self, said: dict[str, int]) -> None:
        """What they have logged since; pytest shows it with a test that failed."""
        for name, proxy in self._started.items():
            with proxy.log.open("rb") as file:
                file.seek(said.get(name, 0))
                text = file.read(20_000).decode(errors="replace").rstrip()
            if text:
                print(f"--- {name} ({proxy.place})\n{text}")

    def _in_folder(self, name: str, start: Callable[..., AbstractContextManager[Proxy]], *a: Any, **k: Any) -> Proxy:
        return self._one(name, start, self._folder / f"{len(self._started)}", *a, **k)

    def _one(self, name: str, start: Callable[..., AbstractContextManager[Proxy]], *a: Any, **k: Any) -> Proxy:
        if name not in self._started:
            self._started[name] = self._running.enter_context(start(*a, **k))
        return self._started[name]
