"""Through real proxies (Debian's danted and tinyproxy) to a real SMTP server: greetings whole, refusals named."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from bulkmail.errors import ConnectError, ProxyError
from bulkmail.url import Options, parse_options
from dialling import dial
from integration.servers.dante import dante
from integration.servers.tinyproxy import tinyproxy


@pytest.fixture
def start_danted(tmp_path, free_port):
    """start_danted(method="none", forbidden=9) -> port. `forbidden`: a target port that its rules refuse."""
    with ExitStack() as stack:

        def start(method="none", forbidden=9):
            folder = tmp_path / f"danted-{free_port()}"
            return stack.enter_context(dante(folder, login=method == "username", forbidden=forbidden)).port

        yield start


@pytest.fixture
def start_tinyproxy(tmp_path, free_port):
    """start_tinyproxy("BasicAuth user password", ...) -> port"""
    with ExitStack() as stack:

        def start(*more):
            return stack.enter_context(tinyproxy(tmp_path / f"tinyproxy-{free_port()}", *more)).port

        yield start


async def talk(host, port, proxy, **values):
    """Greeting and answer to QUIT of the SMTP server behind the proxy."""
    sock = await dial(host, port, options=Options(**parse_options({"proxy": proxy, "connect_timeout": 30, **values})))
    reader, writer = await asyncio.open_connection(sock=sock)
    greeting = await reader.readline()
    writer.write(b"QUIT\r\n")
    answer = await reader.readline()
    writer.close()
    return greeting[:4] + answer[:4]


def refused(run, *args):
    with pytest.raises(ProxyError) as caught:
        run(talk(*args))
    assert "s3cret" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_smtp_server_behind_danted(run, start_danted, start_aiosmtpd, scheme, host):
    target = start_aiosmtpd()
    assert run(talk(host, target.port, f"{scheme}://127.0.0.1:{start_danted()}")) == b"220 221 "


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_smtp_server_behind_tinyproxy(run, start_tinyproxy, start_aiosmtpd, host):
    target = start_aiosmtpd()
    assert run(talk(host, target.port, f"http://127.0.0.1:{start_tinyproxy()}")) == b"220 221 "


def test_tinyproxy_with_a_login(run, start_tinyproxy, start_aiosmtpd):
    target, proxy = start_aiosmtpd(), start_tinyproxy("BasicAuth ann s3cret")
    assert run(talk("127.0.0.1", target.port, f"http://ann:s3cret@127.0.0.1:{proxy}")) == b"220 221 "
    error = refused(run, "127.0.0.1", target.port, f"http://ann:s3cret-not@127.0.0.1:{proxy}")
    assert "it refused the user or password" in str(error) and "ann:***@" in error.proxy
    error = refused(run, "127.0.0.1", target.port, f"http://127.0.0.1:{proxy}")
    assert error.reply_code == 407 and "it wants a user and password" in str(error)


def test_danted_with_a_login_that_it_refuses(run, start_danted):
    proxy = start_danted(method="username")
    error = refused(run, "127.0.0.1", 25, f"socks5h://nobody-such:s3cret@127.0.0.1:{proxy}")
    assert "logging in: it refused the user or password" in str(error)
    error = refused(run, "127.0.0.1", 25, f"socks5h://127.0.0.1:{proxy}")
    assert "it wants a user and password" in str(error) and error.reply_code == 255


def test_a_target_port_that_the_proxy_forbids(run, start_danted, start_tinyproxy, free_port):
    target = free_port()
    error = refused(run, "127.0.0.1", target, f"socks5h://127.0.0.1:{start_danted(forbidden=target)}")
    assert error.reply_code == 2
    error = refused(run, "127.0.0.1", target, f"http://127.0.0.1:{start_tinyproxy('ConnectPort 25')}")
    assert error.reply_code == 403


def test_a_target_that_refuses_the_proxy(run, start_danted, start_tinyproxy, free_port):
    target = free_port()
    error = refused(run, "127.0.0.1", target, f"socks5h://127.0.0.1:{start_danted()}")
    assert error.reply_code == 5
    error = refused(run, "127.0.0.1", target, f"http://127.0.0.1:{start_tinyproxy()}")
    assert error.reply_code in (500, 502, 503)


def test_a_proxy_that_is_down(run, free_port):
    error = refused(run, "127.0.0.1", 25, f"socks5h://127.0.0.1:{free_port()}")
    assert "Connection refused" in str(error) and isinstance(error.__cause__, ConnectError)
