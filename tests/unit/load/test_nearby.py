"""Which hosts may be put under load without --yes."""

from __future__ import annotations

import pytest

from bulkmail.errors import ResolveError
from bulkmail.load import nearby as module
from bulkmail.load.nearby import nearby, private
from bulkmail.net.resolve import Address
from bulkmail.url import parse_endpoint


@pytest.mark.parametrize("address, near", [
    ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("10.1.2.3", True), ("172.16.0.1", True),
    ("192.168.1.1", True), ("169.254.0.9", True), ("fe80::1%eth0", True), ("fd00::1", True), ("198.18.0.1", True),
    ("::ffff:10.0.0.1", True), ("::ffff:8.8.8.8", False), ("8.8.8.8", False), ("172.32.0.1", False),
    ("2606:4700::1", False), ("no address", False),
])  # fmt: skip
def test_addresses(address, near):
    assert private(address) is near


def resolving(monkeypatch, *addresses):
    async def resolve(host, port, *, timeout):
        if not addresses:
            raise ResolveError(f"{host}: the name does not resolve")
        return [Address(2, (address, port)) for address in addresses]

    monkeypatch.setattr(module, "resolve", resolve)


@pytest.mark.parametrize("addresses, near", [
    (["10.0.0.1"], True), (["10.0.0.1", "127.0.0.1"], True), (["10.0.0.1", "93.184.215.14"], False),
])  # fmt: skip
def test_a_name_is_near_if_all_of_its_addresses_are(run, monkeypatch, addresses, near):
    resolving(monkeypatch, *addresses)
    assert run(nearby(parse_endpoint("smtp://staging.test"))) is near


def test_a_socket_of_this_machine_is_near(run):
    assert run(nearby(parse_endpoint("lmtp+unix:///run/lmtp")))


def test_a_name_that_only_the_proxy_knows_is_far(run, monkeypatch):
    resolving(monkeypatch)
    assert not run(nearby(parse_endpoint("smtp://inside.test", proxy="socks5h://127.0.0.1:1")))


def test_a_name_that_nobody_knows_is_an_error(run, monkeypatch):
    resolving(monkeypatch)
    with pytest.raises(ResolveError):
        run(nearby(parse_endpoint("smtp://nowhere.test")))
