"""Limits by the MX of recipients' domains: which route a domain gets, and what is asked of whom."""

from __future__ import annotations

import logging

import pytest

from bulkmail.errors import ConfigError
from bulkmail.job import mx
from bulkmail.job.mx import MxRoutes
from bulkmail.job.recipients import RowBatch
from bulkmail.pool.domains import DomainMap, LimitMap, Pins, parse_patterns
from unit.message.dns_server import GARBAGE, LARGE, REFUSED, SERVFAIL, SILENT, serving

ZONE = {
    "one.test": {"MX": ["10 aspmx.l.google.com.", "20 backup.test."]},
    "second.test": {"MX": ["5 mail.test.", "10 aspmx.l.google.com."]},
    "same.test": {"MX": ["10 a.elsewhere.test.", "10 ASPMX.L.Google.com.", "10 z.test."]},
    "itself.test": {"MX": ["10 google.com."]},
    "like.test": {"MX": ["10 notgoogle.com."]},
    "special.test": {"MX": ["10 a.special.google.com."]},
    "nomx.google.com": {"A": ["192.0.2.1"]},
    "null.test": {"MX": ["0 ."]},
    "large.test": {"MX": [LARGE, "10 mx.google.com."]},
    "xn--bcher-kva.test": {"MX": ["10 mx.google.com."]},
    "named.test": {"MX": ["10 mx.google.com."]},
    "x.below.test": {"MX": ["10 mx.google.com."]},
    "pinned.test": {"MX": ["10 mx.google.com."]},
    "servfail.test": {"MX": SERVFAIL},
    "refused.test": {"MX": REFUSED},
    "garbage.test": {"MX": GARBAGE},
    "silent.test": {"MX": SILENT},
}
LIMITS = ("mx:google.com", "mx:special.google.com", "named.test", "*.below.test", "*")


def routes_of(addresses, server, pins=(), batch=1000):
    """address -> route, as filling asks for them."""
    names = [pattern for pattern in LIMITS if not pattern.startswith("mx:")]
    routes = MxRoutes(DomainMap([*names, *pins]), LimitMap(LIMITS), server)
    batches = [RowBatch(addresses=list(addresses[at : at + batch])) for at in range(0, len(addresses), batch)]
    try:
        found = {}
        for one in routes.ahead(iter(batches)):
            found |= {address: routes.route(address.rpartition("@")[2]) for address in one.addresses}
        return found
    finally:
        routes.close()


@pytest.fixture(autouse=True)
def not_long(monkeypatch):
    monkeypatch.setattr(mx, "SECONDS", 1.0)


@pytest.mark.parametrize(
    ("domain", "route"),
    [
        ("one.test", "mx:google.com"),
        ("ONE.Test", "mx:google.com"),
        ("second.test", "*"),  # the best preference is who takes it
        ("same.test", "mx:google.com"),
        ("itself.test", "mx:google.com"),
        ("like.test", "*"),
        ("special.test", "mx:special.google.com"),
        ("nomx.google.com", "mx:google.com"),
        ("null.test", "*"),
        ("large.test", "mx:google.com"),
        ("b\u00fccher.test", "mx:google.com"),
        ("named.test", "named.test"),
        ("x.below.test", "*.below.test"),
        ("nowhere.test", "*"),
        ("[192.0.2.1]", "*"),
        ("servfail.test", "*"),
        ("refused.test", "*"),
        ("garbage.test", "*"),
        ("silent.test", "*"),
    ],
)
def test_the_route_of_a_domain(domain, route):
    with serving(ZONE) as server:
        assert routes_of([f"ann@{domain}"], server.address) == {f"ann@{domain}": route}


def test_each_domain_is_asked_for_once_and_those_with_a_pattern_of_their_own_never():
    addresses = [
        f"r{n}@{domain}" for n in range(50) for domain in ("one.test", "ONE.test", "named.test", "x.below.test")
    ]
    with serving(ZONE) as server:
        found = routes_of(addresses, server.address, batch=7)
        assert server.asked == [("one.test", "MX", "udp")]
    assert {found[f"r{n}@one.test"] for n in range(50)} == {"mx:google.com"}


def test_who_is_not_known_is_counted_and_told(caplog):
    with serving(ZONE) as server, caplog.at_level(logging.WARNING):
        routes_of(["a@servfail.test", "b@refused.test", "c@nowhere.test", "d@one.test"], server.address)
    [told] = caplog.messages
    assert told.startswith("limits.domains: the MX of 2 domains could not be looked up (")


def test_without_a_dns_the_list_is_read_all_the_same(caplog, monkeypatch):
    monkeypatch.setattr(mx, "SECONDS", 0.2)
    monkeypatch.setattr(mx, "SILENT_AFTER", 5)
    addresses = [f"a@d{n}.test" for n in range(500)]
    with serving({f"d{n}.test": {"MX": SILENT} for n in range(500)}) as server:
        assert set(routes_of(addresses, server.address).values()) == {"*"}
        assert len({name for name, _, _ in server.asked}) <= 5 + 2 * mx.AT_ONCE
    assert "the MX of 500 domains could not be looked up" in caplog.text


def test_no_more_domains_are_looked_up_than_may_be(caplog, monkeypatch):
    monkeypatch.setattr(mx, "MAX_LOOKUPS", 3)
    zone = {f"d{n}.test": {"MX": ["1 mx.google.com."]} for n in range(6)}
    with serving(zone) as server:
        found = routes_of([f"a@d{n}.test" for n in range(6)], server.address, batch=1)
    assert list(found.values()) == 3 * ["mx:google.com"] + 3 * ["*"]
    assert "the MX of 3 domains were looked up in" in caplog.text


def test_what_is_read_ahead_is_bounded(monkeypatch):
    monkeypatch.setattr(mx, "UNDER_WAY", 10)
    read = []

    def batches(domain):
        for number in range(100):
            read.append(number)
            yield RowBatch(addresses=[f"a@{domain.format(number, n)}" for n in range(5)])

    with serving({}) as server:
        routes = MxRoutes(DomainMap(()), LimitMap(LIMITS), server.address)
        next(routes.ahead(batches("d{}-{}.test")))
        assert len(read) == 2, "their domains are as many as may be under way"
        read.clear()
        next(routes.ahead(batches("named.test")))
        assert len(read) == mx.AHEAD + 1
        routes.close()


def test_the_list_waits_no_longer_than_it_may(caplog, monkeypatch):
    monkeypatch.setattr(mx, "SECONDS", 5.0)
    monkeypatch.setattr(mx, "MAX_WAIT", 0.5)
    zone = {"quick.test": ZONE["one.test"], "silent.test": {"MX": SILENT}}
    with serving(zone) as server:
        found = routes_of(["a@quick.test", "a@silent.test"], server.address)
    assert found == {"a@quick.test": "mx:google.com", "a@silent.test": "*"}
    assert "the MX of 1 domains could not be looked up (silent.test: no answer" in caplog.text


def test_a_server_that_is_no_address_is_refused():
    with pytest.raises(ConfigError, match="expected an address such as"):
        routes_of([], "somewhere")


# -- limits by MX, and relays' rules for domains


def test_where_relays_name_the_domain_too_the_route_says_both():
    with serving(ZONE) as server:
        found = routes_of(["a@pinned.test", "a@one.test", "a@x.test"], server.address, pins=["pinned.test", "*"])
    assert found == {
        "a@pinned.test": "mx:google.com/pinned.test",
        "a@one.test": "mx:google.com",
        "a@x.test": "*",
    }


@pytest.mark.parametrize(
    ("route", "names"),
    [("mx:google.com/a.test", "a"), ("mx:google.com/*.test", "b"), ("mx:google.com", "c"), ("a.test", "a")],
)
def test_relays_rules_hold_for_such_routes(route, names):
    pins = Pins({"a.test": ("a",), "*.test": ("b",), "*": ("c",)})
    assert "".join(name for name in "abc" if pins.allows(route, name)) == names


@pytest.mark.parametrize(
    ("route", "pattern"),
    [
        ("mx:google.com", "mx:google.com"),
        ("mx:aspmx.google.com", "mx:google.com"),  # of a run that had a limit for it
        ("mx:google.com/pinned.test", "mx:google.com"),
        ("mx:google.com/named.test", "named.test"),  # a limit that is new: of a name that relays' rules had
        ("mx:google.com/y.below.test", "*.below.test"),
        ("mx:yahoo.test", "*"),
        ("named.test", "named.test"),
        ("*", "*"),
    ],
)
def test_the_limit_of_a_route(route, pattern):
    assert LimitMap(LIMITS).covering(route) == pattern


# -- as users write them


def test_a_key_may_mix_both():
    assert parse_patterns("Gmail.com, mx:Google.COM. ,MX:bücher.test", "x", mx=True) == [
        "gmail.com",
        "mx:google.com",
        "mx:xn--bcher-kva.test",
    ]


@pytest.mark.parametrize(
    "text", ["mx:", "mx:*", "mx:*.google.com", "mx:[192.0.2.1]", "mx:a b", "mx:a/b", "mx:mx:a.test"]
)
def test_what_is_no_mail_server_is_refused(text):
    with pytest.raises(ConfigError, match="expected a mail server's name or what is above it: 'mx:"):
        parse_patterns(text, "the key", mx=True)


def test_relays_rules_do_not_know_them():
    with pytest.raises(ConfigError, match="expected a domain"):
        parse_patterns("mx:google.com", "domains")
