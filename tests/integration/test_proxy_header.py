"""The PROXY header against those that read it: HAProxy (accept-proxy), Postfix, and Postfix behind HAProxy."""

from __future__ import annotations

import re
import socket

import pytest

import bulkmail
from bulkmail.errors import BulkmailError
from integration.servers.common import wait_until

US = "127.0.0.5"  # not the address that a connection to 127.0.0.1 comes from by itself
ENVELOPE = bulkmail.Envelope("news@example.test", ["ann@example.test"])
MESSAGE = b"From: news@example.test\r\nTo: ann@example.test\r\nSubject: x\r\n\r\nhello\r\n"

versions = pytest.mark.parametrize("version", ["v1", "v2"])


async def deliver(url, **options):
    async with bulkmail.Connection(url, **options) as connection:
        await connection.send(ENVELOPE, MESSAGE)
        return connection.peer


@versions
@pytest.mark.parametrize("tls", [None, "starttls"])
def test_postfix_takes_the_client_from_the_header(run, start_postfix, certificates, version, tls):
    server = start_postfix(tls=tls, proxy_header=True)
    options = {"proxy_protocol": version, "local_address": US, "ca_file": str(certificates.ca_file)}
    run(deliver(f"smtp://127.0.0.1:{server.header_port}", **options))
    (content,) = server.wait_for(1)
    assert re.search(rb"^Received: from [^\n]*\[127\.0\.0\.5\]", content, re.MULTILINE)
    assert re.search(rf"smtpd\[\d+\]: connect from \S+\[{re.escape(US)}\]", server.log())


@versions
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_haproxy_takes_the_header(run, start_aiosmtpd, start_haproxy, certificates, version, tls, host):
    front = start_haproxy(start_aiosmtpd().port, tls=tls, host=host)
    ours = socket.create_connection((host, front.port), 10, source_address=(US if host == "127.0.0.1" else host, 0))
    address, port = ours.getsockname()[:2]
    trusting = {"ca_file": str(certificates.ca_file), "server_name": "localhost"}
    run(deliver(front.url, socket=ours, proxy_protocol=version, **trusting))
    line = f"client {address}:{port} for {host}:{front.port} "
    wait_until(lambda: line in front.log(), f"{line!r} in the log of HAProxy")


@versions
@pytest.mark.parametrize("passes_on", ["send-proxy", "send-proxy-v2"])
def test_haproxy_passes_our_address_on_to_postfix(run, start_postfix, start_haproxy, version, passes_on):
    server = start_postfix(proxy_header=True)
    front = start_haproxy(server.header_port, passes_on=passes_on)
    run(deliver(front.url, proxy_protocol=version, local_address=US))
    (content,) = server.wait_for(1)
    assert re.search(rb"^Received: from [^\n]*\[127\.0\.0\.5\]", content, re.MULTILINE)


def test_without_the_header_haproxy_lets_nobody_in_and_verify_says_what_it_may_want(run, start_aiosmtpd, start_haproxy):
    front = start_haproxy(start_aiosmtpd().port)
    with pytest.raises(BulkmailError):
        run(deliver(front.url, greeting_timeout="500ms"))
    report = run(bulkmail.probe(front.url, greeting_timeout="500ms"))
    assert report.failed.name == "greeting" and "proxy_protocol=v2" in report.failed.remedy


@versions
def test_a_postfix_that_expects_no_header_gets_no_message_and_verify_says_why(run, start_postfix, version):
    server = start_postfix()
    with pytest.raises(BulkmailError):
        run(deliver(server.url, proxy_protocol=version))
    report = run(bulkmail.probe(server.url, proxy_protocol=version))
    assert report.failed.name in ("greeting", "ehlo") and f"proxy_protocol={version}" in report.failed.remedy
    assert server.settled() and not server.contents()


def test_a_postfix_that_waits_for_a_header_is_one_that_verify_knows(run, start_postfix):
    server = start_postfix(proxy_header=True)
    report = run(bulkmail.probe(f"smtp://127.0.0.1:{server.header_port}"))
    assert report.failed.name == "greeting" and "proxy_protocol=v2" in report.failed.remedy
