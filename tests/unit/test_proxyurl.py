"""Proxies as values: every form, what none may hold, and nothing secret in any text."""

from __future__ import annotations

import pytest

from bulkmail.errors import ConfigError
from bulkmail.proxyurl import MAX_HOPS, Chain, ProxyUrl, parse_proxy

LONG = "%C3%BC" * 128  # 256 bytes in 128 characters


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("https://p.example", [ProxyUrl("https", "p.example", 443)]),
        ("socks4://p", [ProxyUrl("socks4", "p", 1080)]),
        ("SOCKS4A://%C3%BC%3A%40%2F%25@[2001:db8::1]:9", [ProxyUrl("socks4a", "2001:db8::1", 9, "ü:@/%")]),
        ("socks4://id:@p", [ProxyUrl("socks4", "p", 1080, "id", "")]),
        (["http://a", "socks5://b"], [ProxyUrl("http", "a", 80), ProxyUrl("socks5", "b", 1080)]),
        (("http://a", ProxyUrl("http", "b", 1)), [ProxyUrl("http", "a", 80), ProxyUrl("http", "b", 1)]),
        (
            ["http://a", Chain((ProxyUrl("http", "b", 1),)), "http://c"],
            [ProxyUrl("http", "a", 80), ProxyUrl("http", "b", 1), ProxyUrl("http", "c", 80)],
        ),
        ({"proxy": "http://a"}, [ProxyUrl("http", "a", 80)]),
        ({"proxy": ["http://a", "http://b"]}, [ProxyUrl("http", "a", 80), ProxyUrl("http", "b", 80)]),
        (
            {"proxy": "https://a", "ca_file": "ca.pem", "server_name": "P.Example", "timeout": "5s"},
            [ProxyUrl("https", "a", 443, ca_file="ca.pem", server_name="p.example", timeout=5.0)],
        ),
        (
            [{"proxy": "http://a", "headers": {"X-Tenant": "news é\t1"}, "timeout": None}],
            [ProxyUrl("http", "a", 80, headers=(("X-Tenant", "news é\t1"),))],
        ),
        ({"proxy": ProxyUrl("http", "a", 1), "timeout": 2}, [ProxyUrl("http", "a", 1, timeout=2.0)]),
    ],
)
def test_every_form(value, hops):
    found = parse_proxy(value, "proxy")
    assert isinstance(found, Chain) and list(found) == hops
    assert parse_proxy(found, "proxy") is found and hash(found) == hash(Chain(hops))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "is an empty list"),
        ([["http://a"]], "proxy[0] is a list"),
        (["http://a", "env"], "proxy[1] is 'env'"),
        (["http://a", None], "proxy[1] is None, expected a URL"),
        (["http://a"] * (MAX_HOPS + 1), "has 17 proxies, expected at most 16"),
        ("http://a,http://b", "nothing but options"),
        (b"http://ann:s3cret@a", "proxy is bytes, expected a URL"),
        ({}, "'proxy' is missing"),
        ({"ca_file": "x"}, "'proxy' is missing"),
        ({"proxy": ["http://s3cret:s3cret@a"], "timeout": 1}, "'proxy' is list, expected the URL of one proxy"),
        ({"proxy": 5}, "is 5, expected a URL"),
        ({"proxy": "http://a", "timout": 1}, "unknown key 'timout', expected proxy, ca_file"),
        ({"proxy": "http://a", "timout": 1}, "did you mean 'timeout'"),
        ({"proxy": "http://a", "weight": 1}, "'weight' is of an egress"),
        ({"proxy": "http://a", "local_address": "::1"}, "'local_address' is of an egress"),
        ({"proxy": "http://a", "ca_file": "x"}, "'ca_file' is for https://"),
        ({"proxy": "socks5://a", "server_name": "x"}, "'server_name' is for https://"),
        ({"proxy": "socks5://a", "headers": {"X": "y"}}, "'headers' are for http://"),
        ({"proxy": "http://a", "headers": ["X: y"]}, "not an object of names and texts"),
        ({"proxy": "http://a", "headers": {"X": 1}}, "not an object of names and texts"),
        ({"proxy": "http://a", "headers": {"X Y": "z"}}, "has the name 'X Y'"),
        ({"proxy": "http://a", "headers": {"": "z"}}, "has the name ''"),
        ({"proxy": "http://a", "headers": {"X": "s3cret\r\nY: z"}}, "header X has a line break"),
        ({"proxy": "http://a", "headers": {"X": "s3cret\0"}}, "header X has a line break"),
        ({"proxy": "http://a", "headers": {"X": "\ud800"}}, "header X has"),
        ({"proxy": "http://a", "headers": {"HOST": "z"}}, "not yours to give"),
        ({"proxy": "http://a", "headers": {"Proxy-Authorization": "s3cret"}}, "put user and password into the URL"),
        ({"proxy": "http://a", "headers": {"Content-Length": "5"}}, "not yours to give"),
        ({"proxy": "http://a", "timeout": 0}, "expected more than 0"),
        ("socks4://ann:s3cret@a", "SOCKS4 has a user id and no password"),
        ("socks4a://%00@a", "control character"),
        (f"socks4://{LONG}@a", "more than 255 bytes"),
        (f"socks5://ann:{LONG}@a", "more than 255 bytes (RFC 1929)"),
        ("https://ann%3A:s3cret@a", "RFC 7617"),
        ("https://ann:s3cret%0a@a", "line break"),
        ("http://:s3cret@a", "a password without a user"),
    ],
)  # fmt: skip
def test_what_is_refused(value, sentence):
    with pytest.raises(ConfigError) as caught:
        parse_proxy(value, "proxy")
    assert sentence in str(caught.value) and "s3cret" not in str(caught.value) and str(caught.value).isprintable()


def test_what_a_url_cannot_say_is_refused_of_a_value_too():
    for user, password in (("", None), ("", "x"), ("\ud800", None)):
        with pytest.raises(ConfigError):
            ProxyUrl("socks5", "h", 1, user, password)


def test_a_chain_in_a_relays_url_is_one_proxy():
    from bulkmail.url import parse_endpoint

    assert len(parse_endpoint("smtp://r?proxy=https%3A%2F%2Fu%3Ap%2540%40h").options.proxy) == 1
    assert len(parse_endpoint("smtp://r", proxy=["http://a", {"proxy": "https://b"}]).options.proxy) == 2


def test_files_of_a_chain_are_made_whole():
    chain = parse_proxy(["http://a", {"proxy": "https://b", "ca_file": "ca.pem"}], "proxy").with_files_in("/etc/jobs")
    assert [hop.ca_file for hop in chain] == [None, "/etc/jobs/ca.pem"]


def test_no_text_of_a_proxy_shows_password_headers_or_a_handlers_query():
    one = ProxyUrl("https", "h", 1, "ann", "s3cret", headers=(("X", "s3cret"),))
    other = ProxyUrl("corp", "h", 0, path="/a", query="key=s3cret")
    for text in (str(one), repr(one), repr(Chain((one, other))), f"{other}"):
        assert "s3cret" not in text
    assert str(Chain((one, other))) == "https://ann:***@h:1 > corp://h/a?***"
