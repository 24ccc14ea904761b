"""Through real proxies (Debian's danted and tinyproxy) to a real SMTP server: greetings whole, refusals named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from bulkmail.errors import ConnectError, ProxyError
from bulkmail.net.dial import dial
from bulkmail.url import Options, parse_options
from integration.servers.common import HOST, STOP_SECONDS, wait_until

DANTED = """
logoutput: stderr
internal: 127.0.0.1 port = {port}
external: lo
clientmethod: none
socksmethod: {method}
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks block {{ from: 0.0.0.0/0 to: 0.0.0.0/0 port = {forbidden} }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
"""
TINYPROXY = """
Port {port}
Listen 127.0.0.1
Allow 127.0.0.1
MaxClients 20
Timeout 60
LogLevel Info
{more}
"""


def accepts(port):
    try:
        socket.create_connection((HOST, port), timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def running(command, port, log):
    """A proxy as a child process in a group of its own (danted forks), up when it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def died():
        return (
            None
            if process.poll() is None
            else f"status {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
        )

    try:
        wait_until(lambda: accepts(port), command[0], died)
        yield port
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


@pytest.fixture
def start_danted(require, free_port, tmp_path):
    """start_danted(method="none", forbidden=9) -> port. `forbidden`: a target port that its rules refuse."""
    program = require("danted")
    with ExitStack() as stack:

        def start(method="none", forbidden=9):
            port = free_port()
            config = tmp_path / f"danted-{port}.conf"
            config.write_text(DANTED.format(port=port, method=method, forbidden=forbidden))
            return stack.enter_context(running([program, "-f", str(config)], port, config.with_suffix(".log")))

        yield start


@pytest.fixture
def start_tinyproxy(require, free_port, tmp_path):
    """start_tinyproxy("BasicAuth user password", ...) -> port"""
    program = require("tinyproxy")
    with ExitStack() as stack:

        def start(*more):
            port = free_port()
            config = tmp_path / f"tinyproxy-{port}.conf"
            config.write_text(TINYPROXY.format(port=port, more="\n".join(more)))
            return stack.enter_context(running([program, "-d", "-c", str(config)], port, config.with_suffix(".log")))

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
