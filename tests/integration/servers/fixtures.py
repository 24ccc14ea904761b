"""The servers as pytest fixtures. Each factory may be called several times; everything it started ends with the test.

certificates      a throw-away authority (one a run): ca_file, chain_file, wrong_file
start_postfix     start_postfix(tls=None, sasl=None, settings={}, proxy_header=False) -> Postfix
start_haproxy     start_haproxy(backend_port, tls=False, host="127.0.0.1", passes_on=None) -> HaProxy
start_dovecot     start_dovecot(tls=None, settings={}) -> Dovecot
start_exim        start_exim(tls=None, login=False) -> Exim
start_opensmtpd   start_opensmtpd() -> OpenSmtpd
start_haraka      start_haraka(tls=None, login=False, size=50 << 20) -> Haraka
start_smtp_server start_smtp_server(tls=None, lmtp=False, login=False, **options) -> SmtpServer (npm's)
start_smtp_sink   start_smtp_sink("-r", "RCPT", keep=False) -> SmtpSink
start_aiosmtpd    start_aiosmtpd(tls=None, wrong_name=False, auth=False, answers={}, **options) -> Aiosmtpd
postgres_server   a running Postgres, one a run
proxies           proxies.squid(login=False, tls=False), .tinyproxy(), .dante(), .microsocks(), .ssh(),
                  .tls_front(proxy) -> Proxy; they last for the run, so only the first test to ask for one waits for it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .aiosmtpd_server import Aiosmtpd, aiosmtpd
from .certificates import PROXY_NAMES, Certificates, make_certificates
from .dovecot import Dovecot, dovecot
from .exim import Exim, exim
from .haproxy import HaProxy, haproxy
from .haraka import Haraka, haraka
from .node import SmtpServer, smtp_server
from .opensmtpd import OpenSmtpd, opensmtpd
from .postfix import Postfix, postfix
from .postgres import Postgres, postgres
from .proxies import Proxies
from .smtp_sink import SmtpSink, smtp_sink


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def start_postfix(certificates: Certificates) -> Iterator[Callable[..., Postfix]]:
    with ExitStack() as running:
        yield lambda **options: running.enter_context(postfix(certificates=certificates, **options))


@pytest.fixture
def start_haproxy(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., HaProxy]]:
    with ExitStack() as running:
        count = iter(range(1000))

        def start(backend_port: int, **options: Any) -> HaProxy:
            folder = tmp_path / f"haproxy-{next(count)}"
            return running.enter_context(haproxy(folder, backend_port, certificates=certificates, **options))

        yield start


@pytest.fixture
def start_dovecot(certificates: Certificates) -> Iterator[Callable[..., Dovecot]]:
    with ExitStack() as running:
        yield lambda **options: running.enter_context(dovecot(certificates=certificates, **options))


@pytest.fixture
def start_exim(certificates: Certificates) -> Iterator[Callable[..., Exim]]:
    with ExitStack() as running:
        yield lambda **options: running.enter_context(exim(certificates=certificates, **options))


@pytest.fixture
def start_opensmtpd() -> Iterator[Callable[..., OpenSmtpd]]:
    with ExitStack() as running:
        yield lambda: running.enter_context(opensmtpd())


@pytest.fixture
def start_haraka(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., Haraka]]:
    with ExitStack() as running:
        count = iter(range(1000))

        def start(**options: Any) -> Haraka:
            folder = tmp_path / f"haraka-{next(count)}"
            return running.enter_context(haraka(folder, certificates=certificates, **options))

        yield start


@pytest.fixture
def start_smtp_server(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., SmtpServer]]:
    with ExitStack() as running:
        count = iter(range(1000))

        def start(**options: Any) -> SmtpServer:
            folder = tmp_path / f"smtp-server-{next(count)}"
            return running.enter_context(smtp_server(folder, certificates=certificates, **options))

        yield start


@pytest.fixture
def start_smtp_sink(tmp_path: Path) -> Iterator[Callable[..., SmtpSink]]:
    with ExitStack() as running:
        count = iter(range(1000))

        def start(*options: str, keep: bool = False) -> SmtpSink:
            return running.enter_context(smtp_sink(tmp_path / f"smtp-sink-{next(count)}", *options, keep=keep))

        yield start


@pytest.fixture
def start_aiosmtpd(certificates: Certificates) -> Iterator[Callable[..., Aiosmtpd]]:
    with ExitStack() as running:

        def start(*, tls: str | None = None, wrong_name: bool = False, **options: Any) -> Aiosmtpd:
            context = certificates.server_context(wrong_name=wrong_name) if tls else None
            return running.enter_context(aiosmtpd(tls=tls, context=context, **options))

        yield start


@pytest.fixture(scope="session")
def running_proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    certificates = make_certificates(tmp_path_factory.mktemp("proxy-certificates"), PROXY_NAMES)
    with ExitStack() as running:
        yield Proxies(tmp_path_factory.mktemp("proxies"), certificates, running)


@pytest.fixture
def proxies(running_proxies: Proxies) -> Iterator[Proxies]:
    said = running_proxies.said()
    yield running_proxies
    running_proxies.print_since(said)
