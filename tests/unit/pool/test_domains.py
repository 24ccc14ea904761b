"""Recipients' domains and the egresses that may carry mail to them."""

from __future__ import annotations

import pytest

from bulkmail.errors import ConfigError
from bulkmail.pool.domains import ELSEWHERE, MAX_PATTERNS, REMEMBERED, DomainMap, Pins, parse_patterns, parse_pins

PATTERNS = ("gmail.com", "*.example.com", "mail.example.com", "*.mail.example.com", "xn--bcher-kva.example", "*.de")


@pytest.mark.parametrize(
    "domain, pattern",
    [
        ("gmail.com", "gmail.com"),
        ("GMail.COM", "gmail.com"),
        ("gmail.com.", "gmail.com"),
        ("mail.gmail.com", "*"),
        ("notgmail.com", "*"),
        ("gmail.com.evil.test", "*"),
        ("com", "*"),
        ("", "*"),
        (".", "*"),
        ("example.com", "*"),  # what is below it, not itself
        ("a.example.com", "*.example.com"),
        ("a.b.example.com", "*.example.com"),
        ("A.Example.Com.", "*.example.com"),
        ("badexample.com", "*"),
        ("mail.example.com", "mail.example.com"),
        ("x.mail.example.com", "*.mail.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("b\u00fccher\u3002example", "xn--bcher-kva.example"),  # the ideographic full stop is a dot, RFC 3490
        ("faß.de", "*.de"),
        ("[192.0.2.1]", "*"),
        ("[IPv6:2001:db8::1]", "*"),
        ("\u2603\u0000.example", "*"),  # no domain at all
        ("*.example.com", "*.example.com"),
    ],
)
def test_the_most_specific_pattern_is_the_route(domain, pattern):
    routes = DomainMap(PATTERNS)
    assert routes.route(domain) == pattern
    assert routes.route(domain) == pattern, "also when it is remembered"


def test_without_patterns_there_is_one_route():
    assert DomainMap(()).route("gmail.com") == ELSEWHERE


def test_of_many_domains_few_are_remembered():
    routes = DomainMap(PATTERNS)
    for number in range(3 * REMEMBERED):
        assert routes.route(f"{number}.example.com") == "*.example.com"
    assert len(routes._found) <= REMEMBERED


@pytest.mark.parametrize(
    "pattern, covering",
    [
        ("*", "*"),
        ("gmail.com", "gmail.com"),
        ("yahoo.com", "*"),
        ("*.gmail.com", "*"),
        ("a.example.com", "*.example.com"),
        ("*.a.example.com", "*.example.com"),
        ("*.example.com", "*.example.com"),
        ("*.com", "*"),  # some of what it matches is *.example.com, not all
        ("mail.example.com", "mail.example.com"),
        ("*.mail.example.com", "*.mail.example.com"),
        ("example.com", "*"),
    ],
)
def test_what_covers_a_pattern_of_other_rules(pattern, covering):
    assert DomainMap(PATTERNS).covering(pattern) == covering


@pytest.mark.parametrize(
    "rules, route, allowed",
    [
        ({}, "gmail.com", "ab-"),
        ({}, "*", "ab-"),
        ({"gmail.com": ("a",)}, "gmail.com", "a"),
        ({"gmail.com": ("a",)}, "*", "ab-"),
        ({"gmail.com": ("a",)}, "yahoo.com", "ab-"),
        ({"gmail.com": ("a",), "*": ("b",)}, "gmail.com", "a"),
        ({"gmail.com": ("a",), "*": ("b",)}, "yahoo.com", "b"),
        ({"gmail.com": ("a",), "*": ("b",)}, "*", "b"),
        ({"*.example.com": ("a",)}, "x.example.com", "a"),  # a pattern of another relay's rules
        ({"*.example.com": ("a",)}, "*.x.example.com", "a"),
        ({"*.example.com": ("a",)}, "example.com", "ab-"),
        ({"x.example.com": ("a",)}, "*.example.com", "ab-"),
    ],
)
def test_who_may_carry_a_route(rules, route, allowed):
    pins = Pins(rules)
    assert "".join(name or "-" for name in ("a", "b", None) if pins.allows(route, name)) == allowed


def test_a_recipients_route_comes_from_its_domain():
    pins = Pins({"gmail.com": ("a",), "xn--bcher-kva.example": ("b",)})
    assert pins.route(b"ann@gmail.com") == pins.route(b'"x@yahoo.com"@GMAIL.com') == "gmail.com"
    assert pins.route("jörg@xn--bcher-kva.example".encode()) == "xn--bcher-kva.example"
    assert pins.route(b"ann@yahoo.com") == pins.route(b"postmaster") == ELSEWHERE


# -- as users write them


def parsed(value, egresses=("a", "b")):
    return {pattern: "".join(sorted(names)) for pattern, names in parse_pins(value, "domains", egresses).rules.items()}


@pytest.mark.parametrize(
    "value, rules",
    [
        ({}, {}),
        ({"gmail.com": "a"}, {"gmail.com": "a"}),
        ({"gmail.com": ["a", "b"]}, {"gmail.com": "ab"}),
        ({"gmail.com": ("a", "a")}, {"gmail.com": "a"}),
        ({" Gmail.com , GOOGLEMAIL.com.": ["a"]}, {"gmail.com": "a", "googlemail.com": "a"}),
        ({"*.Example.com": ["b"], "*": ["a"]}, {"*.example.com": "b", "*": "a"}),
        ({"Bücher.example": ["a"]}, {"xn--bcher-kva.example": "a"}),
        ({"*.bücher.example": ["a"]}, {"*.xn--bcher-kva.example": "a"}),
    ],
)
def test_domains_as_they_are_written(value, rules):
    assert parsed(value) == rules


@pytest.mark.parametrize(
    "value, said",
    [
        (["gmail.com"], 'domains is [\'gmail.com\'], expected an object such as {"gmail.com": ["a"]}'),
        ("gmail.com", 'domains is \'gmail.com\', expected an object such as {"gmail.com": ["a"]}'),
        ({"gmail.com": []}, "domains 'gmail.com' is [], expected names of egresses"),
        ({"gmail.com": None}, "domains 'gmail.com' is None, expected names of egresses"),
        ({"gmail.com": 5}, "domains 'gmail.com' is 5, expected names of egresses"),
        ({"gmail.com": ["c"]}, "domains 'gmail.com': there is no egress 'c' here ('a' or 'b')"),
        ({"gmail.com": [["a"]]}, "domains 'gmail.com': there is no egress ['a'] here ('a' or 'b')"),
        ({"gmail.com": "a", "GMAIL.com.": "b"}, "domains: 'gmail.com' is named twice"),
        ({"gmail.com,gmail.com": "a"}, "domains: 'gmail.com' is named twice"),
        ({"": "a"}, "domains: '', expected a domain, '*.example.com' or '*'"),
        ({"gmail.com,": "a"}, "domains: '', expected a domain, '*.example.com' or '*'"),
        ({"*.": "a"}, "domains: '*.', expected a domain, '*.example.com' or '*'"),
        ({"*example.com": "a"}, "domains: '*example.com', expected a domain, '*.example.com' or '*'"),
        ({"a.*.com": "a"}, "domains: 'a.*.com', expected a domain, '*.example.com' or '*'"),
        ({"ann@gmail.com": "a"}, "domains: 'ann@gmail.com', expected a domain, '*.example.com' or '*'"),
        ({".example.com": "a"}, "domains: '.example.com', expected a domain, '*.example.com' or '*'"),
        ({"a b.com": "a"}, "domains: 'a b.com', expected a domain, '*.example.com' or '*'"),
        ({"bad\n.com": "a"}, "domains: 'bad\\n.com', expected a domain, '*.example.com' or '*'"),
        ({"-x.com": "a"}, "domains: '-x.com', expected a domain, '*.example.com' or '*'"),
        ({"a..com": "a"}, "domains: 'a..com', expected a domain, '*.example.com' or '*'"),
        ({5: "a"}, "domains has the key 5, expected domains such as 'gmail.com' or '*.example.com'"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(value, said):
    with pytest.raises(ConfigError) as raised:
        parsed(value)
    assert str(raised.value) == said


def test_names_of_egresses_where_there_are_none():
    with pytest.raises(ConfigError, match=r"there is no egress 'a' here \(none\)"):
        parsed({"gmail.com": "a"}, ())


def test_too_many_domains_are_refused():
    with pytest.raises(ConfigError, match=f"has {MAX_PATTERNS + 1} domains, expected at most {MAX_PATTERNS}"):
        parsed({f"d{n}.test": "a" for n in range(MAX_PATTERNS + 1)})


def test_a_key_is_a_list_of_patterns():
    assert parse_patterns("a.test, *.b.test,*", "x") == ["a.test", "*.b.test", "*"]
