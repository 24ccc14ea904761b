"""no_proxy: which rule covers which host, what is no rule, and when a name is looked up for it."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import ConfigError, ResolveError, TimedOut
from bulkmail.net import bypass
from bulkmail.net.bypass import bypassed, routed
from bulkmail.net.resolve import Address
from bulkmail.noproxy import MAX_RULES, NoProxy, parse_no_proxy
from bulkmail.url import parse_endpoint
from bulkmail.urlparts import parse_host

ONLY_ITS_ADDRESSES = None

# rules, host, port, covered
TABLE = {
    # names
    "a name covers itself": ("relay.example", "relay.example", 25, True),
    "a name covers itself on any port": ("relay.example", "relay.example", 465, True),
    "a name does not cover what is below": ("relay.example", "mx.relay.example", 25, False),
    "a name does not cover what is above": ("mx.relay.example", "relay.example", 25, False),
    "a name does not cover what ends like it": ("relay.example", "myrelay.example", 25, False),
    "a name does not cover what begins like it": ("relay.example", "relay.example.com", 25, False),
    "a name without a dot": ("relay", "relay", 25, True),
    "a name without a dot is not a suffix": ("example", "relay.example", 25, False),
    "a name does not cover an address": ("relay.example", "192.0.2.1", 25, False),
    "a name with an underscore": ("smtp_1.example", "smtp_1.example", 25, True),
    "localhost covers itself": ("localhost", "localhost", 25, True),
    "localhost does not cover 127.0.0.1": ("localhost", "127.0.0.1", 25, False),
    "localhost does not cover ::1": ("localhost", "::1", 25, False),
    # a dot before the name
    "a dot: the name itself": (".example.com", "example.com", 25, True),
    "a dot: below": (".example.com", "mx.example.com", 25, True),
    "a dot: far below": (".example.com", "a.b.c.example.com", 25, True),
    "a dot: not what only ends like it": (".example.com", "badexample.com", 25, False),
    "a dot: not above": (".example.com", "com", 25, False),
    "a dot: a whole top-level domain": (".local", "printer.local", 25, True),
    # a star before the name
    "a star: below": ("*.example.com", "mx.example.com", 25, True),
    "a star: far below": ("*.example.com", "a.b.example.com", 25, True),
    "a star: not the name itself": ("*.example.com", "example.com", 25, False),
    "a star: not what only ends like it": ("*.example.com", "badexample.com", 25, False),
    "a star: no address": ("*.example.com", "192.0.2.1", 25, False),
    # other patterns
    "a pattern: its star is something": ("smtp*.example.com", "smtp12.example.com", 25, True),
    "a pattern: its star is nothing": ("smtp*.example.com", "smtp.example.com", 25, True),
    "a pattern: its star is more than a label": ("smtp*.example.com", "smtp.a.b.example.com", 25, True),
    "a pattern: not another beginning": ("smtp*.example.com", "mx.example.com", 25, False),
    "a pattern: not another end": ("smtp*.example.com", "smtp1.example.org", 25, False),
    "a pattern: a dot is a dot": ("smtp*.example.com", "smtp1.exampleXcom", 25, False),
    "a pattern at the end": ("mail.*", "mail.example.org", 25, True),
    "a pattern in the middle": ("mx.*.example.com", "mx.eu.example.com", 25, True),
    "a pattern in the middle, two labels missing": ("mx.*.example.com", "mx.example.com", 25, False),
    "a pattern without a dot": ("*example.com", "badexample.com", 25, True),
    "a pattern with two stars": ("*mx*.example", "a.mx3.example", 25, True),
    "a pattern of names covers no address": ("a*", "192.0.2.1", 25, False),
    # everything
    "everything: a name": ("*", "relay.example", 25, True),
    "everything: an IPv4 address": ("*", "192.0.2.1", 25, True),
    "everything: an IPv6 address": ("*", "2001:db8::1", 25, True),
    "everything on its port": ("*:25", "relay.example", 25, True),
    "everything, not on other ports": ("*:25", "relay.example", 587, False),
    "everything with a dot": ("*.", "relay", 25, True),
    "everything twice": ("**", "192.0.2.1", 25, True),
    # local
    "local: a name without a dot": ("<local>", "relay", 25, True),
    "local: localhost": ("<local>", "localhost", 25, True),
    "local: below localhost": ("<local>", "mx.localhost", 25, True),
    "local: the first loopback address": ("<local>", "127.0.0.1", 25, True),
    "local: another loopback address": ("<local>", "127.200.3.4", 25, True),
    "local: the IPv6 loopback address": ("<local>", "::1", 25, True),
    "local: a mapped loopback address": ("<local>", "::ffff:127.0.0.1", 25, True),
    "local: no name with a dot": ("<local>", "relay.example", 25, False),
    "local: no private address": ("<local>", "10.0.0.1", 25, False),
    "local: no other IPv6 address, which has no dots either": ("<local>", "fd00::1", 25, False),
    "local: upper case": ("<LOCAL>", "relay", 25, True),
    "local on its port": ("<local>:25", "relay", 25, True),
    "local, not on other ports": ("<local>:25", "relay", 587, False),
    # ports
    "a name on its port": ("relay.example:25", "relay.example", 25, True),
    "a name, not on other ports": ("relay.example:25", "relay.example", 587, False),
    "a dot on its port": (".example.com:465", "mx.example.com", 465, True),
    "a dot, not on other ports": (".example.com:465", "mx.example.com", 25, False),
    "a star on its port": ("*.example.com:465", "mx.example.com", 465, True),
    "a star, not on other ports": ("*.example.com:465", "mx.example.com", 25, False),
    "a pattern, not on other ports": ("smtp*.example:25", "smtp1.example", 26, False),
    "an address on its port": ("192.0.2.1:25", "192.0.2.1", 25, True),
    "an address, not on other ports": ("192.0.2.1:25", "192.0.2.1", 2525, False),
    "the last port": ("relay.example:65535", "relay.example", 65535, True),
    "one rule for each of two ports": ("relay:25,relay:587", "relay", 587, True),
    # trailing dots and case
    "a trailing dot of the host": ("relay.example", "relay.example.", 25, True),
    "a trailing dot of the rule": ("relay.example.", "relay.example", 25, True),
    "a trailing dot of both": ("relay.example.", "relay.example.", 25, True),
    "a trailing dot before a port": ("relay.example.:25", "relay.example", 25, True),
    "a trailing dot of a dot rule": (".example.com.", "mx.example.com", 25, True),
    "a trailing dot of a star's host": ("*.example.com", "mx.example.com.", 25, True),
    "a trailing dot of a pattern's host": ("mx*.example", "mx1.example.", 25, True),
    "a trailing dot of a local name": ("<local>", "relay.", 25, True),
    "a trailing dot of an address": ("127.0.0.1.", "127.0.0.1", 25, True),
    "case of the host": ("relay.example", "Relay.EXAMPLE", 25, True),
    "case of the rule": ("RELAY.Example", "relay.example", 25, True),
    "case of a pattern": ("SMTP*.Example", "smtp1.EXAMPLE", 25, True),
    "case of an IPv6 address": ("[FD00::A]", "fd00::a", 25, True),
    # other scripts
    "IDN: both in their script": ("bücher.example", "bücher.example", 25, True),
    "IDN: the rule in A-labels": ("xn--bcher-kva.example", "bücher.example", 25, True),
    "IDN: the host in A-labels": ("bücher.example", "xn--bcher-kva.example", 25, True),
    "IDN: capitals": ("BÜCHER.example", "xn--bcher-kva.example", 25, True),
    "IDN: capitals of A-labels": ("bücher.example", "XN--BCHER-KVA.EXAMPLE", 25, True),
    "IDN: below a dot rule": (".bücher.example", "mx.xn--bcher-kva.example", 25, True),
    "IDN: below a star": ("*.bücher.example", "mx.xn--bcher-kva.example", 25, True),
    "IDN: in a pattern": ("mx*.bücher.example", "mx1.xn--bcher-kva.example", 25, True),
    "IDN: by IDNA 2008, in which ß is a letter": ("faß.example", "fass.example", 25, False),
    # addresses
    "an IPv4 address": ("192.0.2.1", "192.0.2.1", 25, True),
    "another IPv4 address": ("192.0.2.1", "192.0.2.10", 25, False),
    "an address does not make a name be looked up": ("192.0.2.1", "relay.example", 25, False),
    "an IPv6 address in brackets": ("[::1]", "::1", 25, True),
    "an IPv6 address without brackets": ("::1", "::1", 25, True),
    "an IPv6 host in brackets": ("::1", "[::1]", 25, True),
    "an IPv6 address written at length": ("0:0:0:0:0:0:0:1", "::1", 25, True),
    "an IPv6 address and its port": ("[::1]:25", "::1", 25, True),
    "an IPv6 address, not on other ports": ("[::1]:25", "::1", 587, False),
    "an IPv6 address without brackets has no port": ("fd00::1:25", "fd00::1", 25, False),
    "another IPv6 address": ("[::1]", "::2", 25, False),
    "a zone of the host": ("fe80::1", "fe80::1%eth0", 25, True),
    "a zone of the rule": ("[fe80::1%eth0]", "fe80::1", 25, True),
    "two zones": ("fe80::1%eth0", "fe80::1%eth1", 25, True),
    "a mapped host": ("10.0.0.1", "::ffff:10.0.0.1", 25, True),
    "a mapped host in hexadecimal": ("10.0.0.1", "::ffff:a00:1", 25, True),
    "a mapped rule": ("::ffff:10.0.0.1", "10.0.0.1", 25, True),
    "a mapped rule and its port": ("[::ffff:10.0.0.1]:25", "10.0.0.1", 25, True),
    # ranges
    "IPv4 range: inside": ("10.0.0.0/8", "10.200.0.1", 25, True),
    "IPv4 range: outside": ("10.0.0.0/8", "11.0.0.1", 25, False),
    "IPv4 range: its first": ("192.0.2.16/28", "192.0.2.16", 25, True),
    "IPv4 range: its last": ("192.0.2.16/28", "192.0.2.31", 25, True),
    "IPv4 range: one after its last": ("192.0.2.16/28", "192.0.2.32", 25, False),
    "IPv4 range: all": ("0.0.0.0/0", "192.0.2.1", 25, True),
    "IPv4 range: no IPv6": ("0.0.0.0/0", "2001:db8::1", 25, False),
    "IPv4 range: one address": ("192.0.2.1/32", "192.0.2.1", 25, True),
    "IPv4 range: host bits are ignored": ("192.168.1.1/16", "192.168.200.2", 25, True),
    "IPv4 range: zeros left out": ("169.254/16", "169.254.7.7", 25, True),
    "IPv4 range: on its port": ("10.0.0.0/8:25", "10.1.1.1", 25, True),
    "IPv4 range: not on other ports": ("10.0.0.0/8:25", "10.1.1.1", 587, False),
    "IPv4 range: a mapped host": ("10.0.0.0/8", "::ffff:10.1.1.1", 25, True),
    "IPv6 range: inside": ("fd00::/8", "fd12:3456::1", 25, True),
    "IPv6 range: outside": ("fd00::/8", "2001:db8::1", 25, False),
    "IPv6 range: brackets around the address": ("[fd00::]/8", "fd12::1", 25, True),
    "IPv6 range: brackets around all": ("[fd00::/8]", "fd12::1", 25, True),
    "IPv6 range: on its port": ("[fd00::]/8:25", "fd12::1", 25, True),
    "IPv6 range: not on other ports": ("[fd00::]/8:25", "fd12::1", 587, False),
    "IPv6 range: one address": ("::1/128", "::1", 25, True),
    "IPv6 range: one address in brackets": ("[::1]/128", "::1", 25, True),
    "IPv6 range: not the next": ("[::1]/128", "::2", 25, False),
    "IPv6 range: all": ("::/0", "2001:db8::1", 25, True),
    "IPv6 range: no IPv4": ("::/0", "192.0.2.1", 25, False),
    "IPv6 range: a zone of the host": ("fe80::/10", "fe80::1%eth0", 25, True),
    "a mapped range: inside": ("::ffff:10.0.0.0/104", "10.200.0.1", 25, True),
    "a mapped range: outside": ("::ffff:10.0.0.0/104", "11.0.0.1", 25, False),
    "a mapped range: all of IPv4": ("::ffff:0:0/96", "192.0.2.1", 25, True),
    "a mapped range: no IPv6": ("::ffff:0:0/96", "2001:db8::1", 25, False),
    # ranges and names
    "a range and a name": ("10.0.0.0/8", "relay.example", 25, ONLY_ITS_ADDRESSES),
    "a range and localhost": ("127.0.0.0/8", "localhost", 25, ONLY_ITS_ADDRESSES),
    "a range of the other port and a name": ("10.0.0.0/8:25", "relay.example", 587, False),
    "a range, and a rule that knows the name": ("10.0.0.0/8,relay.example", "relay.example", 25, True),
    "a range, and a rule for another name": ("10.0.0.0/8,other.example", "relay.example", 25, ONLY_ITS_ADDRESSES),
    "a range of one address and a name": ("192.0.2.1/32", "relay.example", 25, ONLY_ITS_ADDRESSES),
    # beginnings of addresses
    "127.*: inside": ("127.*", "127.0.0.1", 25, True),
    "127.*: outside": ("127.*", "128.0.0.1", 25, False),
    "127.*: no name that begins so": ("127.*", "127.example.com", 25, False),
    "127.*: no name is looked up": ("127.*", "localhost", 25, False),
    "127.*: a mapped host": ("127.*", "::ffff:127.0.0.1", 25, True),
    "127.*: on its port": ("127.*:25", "127.0.0.1", 25, True),
    "127.*: not on other ports": ("127.*:25", "127.0.0.1", 587, False),
    "192.168.*: inside": ("192.168.*", "192.168.7.1", 25, True),
    "192.168.*: outside": ("192.168.*", "192.169.0.1", 25, False),
    "10.*.*.*: inside": ("10.*.*.*", "10.1.2.3", 25, True),
    "10.*.0.1: inside": ("10.*.0.1", "10.9.0.1", 25, True),
    "*.0.0.1: inside": ("*.0.0.1", "127.0.0.1", 25, True),
    # several, and none
    "the second of two rules": ("other.example|relay.example", "relay.example", 25, True),
    "neither of two rules": ("other.example|third.example", "relay.example", 25, False),
    "separated by | and , with spaces": (" a.example | b.example , c.example ", "c.example", 25, True),
    "what javax.mail is given": ("localhost|127.0.0.0/8|[::1]|10.0.0.0/8|*.domain.com", "mx.domain.com", 25, True),
    "no rule": ("", "relay.example", 25, False),
    "only separators": (" , | ,", "relay.example", 25, False),
}


@pytest.mark.parametrize(("rules", "host", "port", "covered"), TABLE.values(), ids=TABLE.keys())
def test_what_a_rule_covers(rules, host, port, covered):
    no_proxy = parse_no_proxy(rules, "no_proxy")
    assert no_proxy.covers(host, port) is covered
    assert parse_no_proxy(str(no_proxy), "no_proxy") == no_proxy  # what str() shows means the same


def test_a_list_is_the_same_as_a_string():
    text, rules = "relay:25|*.example.com, [::1]", ["relay:25", " *.example.com ", "[::1]"]
    by_text, by_list = parse_no_proxy(text, ""), parse_no_proxy(rules, "")
    assert by_text == by_list == parse_no_proxy(tuple(rules), "") and hash(by_text) == hash(by_list)
    assert str(by_text) == "relay:25, *.example.com, [::1]" and repr(by_text) == f"NoProxy({str(by_text)!r})"
    assert parse_no_proxy(by_text, "") is by_text
    assert by_text and not parse_no_proxy([], "") and not parse_no_proxy(["", " "], "")


def test_rules_of_both_and_none_twice():
    both = parse_no_proxy("a.example, b.example", "") | parse_no_proxy("B.example., c.example", "")
    assert str(both) == "a.example, b.example, c.example"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("http://relay.example", "which looks like a URL; expected a name"),
        ("smtp://relay.example:25/", "which looks like a URL"),
        ("bob@relay.example", "which looks like a URL"),
        ("relay.example/path", "expected a range such as 10.0.0.0/8"),
        ("relay.example/24", "expected a range such as 10.0.0.0/8"),
        ("10.0.0.0/33", "a prefix length of at most 32 for IPv4"),
        ("fd00::/129", "128 for IPv6"),
        ("10.0.0.0/255.0.0.0", "expected a range such as"),
        ("10.0.0.0/", "expected a range such as"),
        ("10.0.0.0/-1", "expected a range such as"),
        ("10.0.0/8/8", "expected a range such as"),
        ("10.300.0.0/16", "expected a range such as"),
        ("relay.example:", "expected a port from 1 to 65535"),
        ("relay.example:0", "expected a port from 1 to 65535"),
        ("relay.example:65536", "expected a port from 1 to 65535"),
        ("relay.example:smtp", "expected a port from 1 to 65535"),
        ("relay.example:*", "expected a port from 1 to 65535"),
        ("relay.example:٢٥", "expected a port from 1 to 65535"),
        ("[::1]:", "expected a port from 1 to 65535"),
        ("[::1]:99999", "expected a port from 1 to 65535"),
        ("[::1", "expected a name"),
        ("[::1]x", "expected a name"),
        ("[127.0.0.1]", "only an IPv6 address stands in brackets"),
        ("[relay.example]", "only an IPv6 address stands in brackets"),
        ("[::g]", "expected a name"),
        ("1:2:3", "expected a name"),
        ("192.168.1", "may be a part of an address; a range is written 10.* or 10.0.0.0/8"),
        ("10.", "may be a part of an address"),
        ("256.1.1.1", "may be a part of an address"),
        (".5", "may be a part of an address"),
        (".", "expected a name"),
        ("..example", "expected a name"),
        ("a..example", "expected a name"),
        ("a*..example", "expected a name"),
        ("-a.example", "expected a name"),
        ("a b.example", "expected a name"),
        ("a\nb.example", "expected a name"),
        ("a\0.example", "expected a name"),
        ("*.a b", "expected a name"),
        ("a*b c", "expected a name"),
        ("~all", "expected a name"),
        ("<local", "expected a name"),
        ("<loopback>", "expected a name"),
        ("smtp[0-9].example", "expected a name"),
        ("smtp?.example", "expected a name"),
        ("smtp*.☃️.example", "expected a name"),
        ("xn--\u0301.example", "expected a name"),
        (f"{'a' * 64}.example", "expected a name"),
        ("a." * 150 + "example", "which has 307 characters"),
        (5, "entry 2 is 5, expected a name"),
        (None, "entry 2 is None"),
        (b"relay", "entry 2 is b'relay'"),
        (["relay"], "entry 2 is ['relay']"),
    ],
)
def test_what_is_no_rule(entry, sentence):
    with pytest.raises(ConfigError) as caught:
        parse_no_proxy(["relay.example", entry], "option 'no_proxy'")
    text = str(caught.value)
    assert text.startswith("option 'no_proxy': entry 2 is ") and sentence in text and text.isprintable()


@pytest.mark.parametrize("value", [None, 5, True, {}, {"relay"}, b"relay", iter([])])
def test_what_is_no_list_of_rules(value):
    with pytest.raises(ConfigError, match="expected a list of hosts"):
        parse_no_proxy(value, "option 'no_proxy'")


@pytest.mark.parametrize(
    "entry", ["http://ann:hidden-1@p", "ann:hidden-1@p:1", "http://ann:hidden-1/x@p", "x://ann:hidden-1@"]
)
def test_a_password_in_an_entry_is_not_shown(entry):
    with pytest.raises(ConfigError) as caught:
        parse_no_proxy([entry], "option 'no_proxy'")
    assert "hidden-1" not in str(caught.value)


def test_the_number_of_rules_is_bounded():
    rules = [f"relay{number}.example" for number in range(MAX_RULES)]
    assert parse_no_proxy(rules, "").covers(f"relay{MAX_RULES - 1}.example", 25)
    with pytest.raises(ConfigError, match=f"has {MAX_RULES + 1} entries, expected at most {MAX_RULES}"):
        parse_no_proxy([*rules, "x"], "option 'no_proxy'")


def test_a_hostile_pattern_takes_no_exponential_time():
    rule = parse_no_proxy("*a" * 100 + "b.example", "")
    assert rule.covers("a" * 63 + ".example", 25) is False


HOSTS = st.one_of(
    st.text(max_size=80),
    st.ip_addresses().map(str),
    st.from_regex(r"[a-zA-Z0-9_ü.-]{1,40}", fullmatch=True),
    st.from_regex(r"\[?[0-9a-f:]{2,12}(%[a-z0-9]{1,3})?\]?", fullmatch=True),
)
ALL_FORMS = (
    "relay, .example.com, *.example.org, smtp*.x, 10.*, 192.0.2.1, [::1]:25, fd00::/8, <local>:5, *:7, bücher.example"
)


@given(HOSTS, st.integers(1, 65535))
def test_every_host_has_an_answer(host, port):
    rules = parse_no_proxy(ALL_FORMS, "")
    assert rules.covers(host, port) in (True, False, None)
    rules.covers_addresses([host], port)
    try:
        parsed = parse_host(host, "host")
    except ConfigError:
        return
    assert parse_no_proxy("*", "").covers(parsed, port) is True
    assert rules.covers(parsed, port) is rules.covers(host, port)


@given(HOSTS)
def test_a_host_that_is_a_rule_covers_itself(host):
    try:
        rules = parse_no_proxy([host], "")
        parsed = parse_host(host, "host")
    except ConfigError:
        return
    if rules:
        assert rules.covers(parsed, 25) is True


@given(st.one_of(HOSTS, st.text(alphabet="a1.*:/[]%<>lo-", max_size=20)))
def test_a_rule_is_parsed_or_refused_and_shown_as_it_is_meant(text):
    try:
        rules = parse_no_proxy([text], "")
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert parse_no_proxy(str(rules), "") == rules


# ---- when a name is looked up


@pytest.fixture
def answers(monkeypatch):
    """answers(...) -> the list of hosts that are looked up; each look-up has the addresses, or raises the error."""

    def install(found):
        asked = []

        async def resolve(host, port, *, timeout):
            asked.append((host, port, timeout))
            if isinstance(found, Exception):
                raise found
            return [Address(socket.AF_INET6 if ":" in one else socket.AF_INET, (one, port)) for one in found]

        monkeypatch.setattr(bypass, "resolve", resolve)
        return asked

    return install


FORBIDDEN = AssertionError("a name was looked up")


@pytest.mark.parametrize(
    "rules",
    [
        "other",
        ".example.com",
        "*.example.com",
        "s*.x",
        "192.0.2.1",
        "[::1]",
        "127.*",
        "<local>",
        "10.0.0.0/8:26",
        "*:26",
        "",
    ],
)
def test_no_name_is_looked_up_for_it(run, answers, rules):
    answers(FORBIDDEN)
    assert run(bypassed(parse_no_proxy(rules, ""), "relay.example", 25, 30)) is False


def test_no_name_is_looked_up_that_another_rule_covers(run, answers):
    answers(FORBIDDEN)
    assert run(bypassed(parse_no_proxy("10.0.0.0/8,relay.example", ""), "relay.example", 25, 30)) is True


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "192.0.2.1"])
def test_no_address_is_looked_up(run, answers, host):
    answers(FORBIDDEN)
    assert run(bypassed(parse_no_proxy("10.0.0.0/8", ""), host, 25, 30)) is (host == "10.0.0.1")


@pytest.mark.parametrize(
    ("rules", "addresses", "covered"),
    [
        ("10.0.0.0/8", ["10.0.0.1"], True),
        ("10.0.0.0/8", ["192.0.2.1"], False),
        ("10.0.0.0/8", ["2001:db8::1", "10.0.0.1"], True),
        ("10.0.0.0/8", ["::ffff:10.0.0.1"], True),
        ("fe80::/10", ["fe80::1%eth0"], True),
        ("10.0.0.0/8:25", ["10.0.0.1"], True),
        ("10.0.0.0/8,fd00::/8:26", ["fd00::1"], False),
        ("10.0.0.0/8,192.0.2.1", ["192.0.2.1"], False),  # the address alone would not have made anyone look
        ("10.0.0.0/8,127.*", ["127.0.0.1"], False),
        ("10.0.0.0/8,<local>", ["127.0.0.1"], False),
    ],
)
def test_a_range_makes_a_name_be_looked_up(run, answers, rules, addresses, covered):
    asked = answers(addresses)
    assert run(bypassed(parse_no_proxy(rules, ""), "relay.example", 25, 7)) is covered
    assert asked == [("relay.example", 25, 7)]


@pytest.mark.parametrize("error", [ResolveError("relay.example: no"), TimedOut("relay.example: late", phase="dns")])
def test_a_name_that_does_not_resolve_here_is_left_to_the_proxy(run, answers, error):
    steps = []
    answers(error)
    no_proxy = parse_no_proxy("0.0.0.0/0", "")
    assert run(bypassed(no_proxy, "relay.example", 25, 30, lambda *step: steps.append(step))) is False
    assert steps == [("dns", None), ("dns", {"host": "relay.example", "addresses": []})]


def test_a_covered_relay_is_the_same_without_its_proxy(run, answers):
    answers(FORBIDDEN)
    options = {"no_proxy": "10.*", "proxy": "socks5h://p:1080", "tls": "never"}
    there = parse_endpoint("smtp://ann:pass@192.0.2.1", **options)
    here = parse_endpoint("smtp://ann:pass@10.0.0.1", **options)
    assert run(routed(there)) is there
    assert run(routed(here)) == parse_endpoint("smtp://ann:pass@10.0.0.1", no_proxy="10.*", tls="never")


def test_without_a_proxy_no_rule_is_asked(run, answers):
    answers(FORBIDDEN)
    for options in ({"no_proxy": "0.0.0.0/0"}, {"proxy": "http://p"}, {"proxy": "http://p", "no_proxy": []}):
        endpoint = parse_endpoint("smtp://relay.example", **options)
        assert run(routed(endpoint)) is endpoint


def test_a_rule_is_a_value():
    one, other = (parse_endpoint("smtp://relay", proxy="http://p", no_proxy=ALL_FORMS) for _ in range(2))
    assert one == other and hash(one) == hash(other) and isinstance(one.options.no_proxy, NoProxy)
    assert "smtp*.x" in repr(one)
