"""proxy="env": which variable counts, what a value means, what is never read, and that no password is shown."""

from __future__ import annotations

import itertools
import logging

import pytest

from bulkmail.errors import ConfigError
from bulkmail.noproxy import MAX_RULES
from bulkmail.proxyenv import no_proxy_from, proxy_from
from bulkmail.url import parse_endpoint

SMTP, ALL, HTTPS, HTTP = "socks5h://smtp:1", "socks5h://all:1", "socks5h://https:1", "socks5h://http:1"


@pytest.fixture
def unlike():
    """A text that no other test has in its NO_PROXY: what is wrong with one is told once."""
    return f"t{next(_numbers)}.example"


_numbers = itertools.count()


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"PROXY": SMTP, "FTP_PROXY": SMTP, "NO_PROXY": "*", "SMTPS_PROXY": SMTP}, None),
        ({"SMTP_PROXY": SMTP, "ALL_PROXY": ALL, "HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP}, SMTP),
        ({"ALL_PROXY": ALL, "HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP}, ALL),
        ({"HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP}, HTTPS),
        ({"HTTP_PROXY": HTTP}, HTTP),
        ({"smtp_proxy": SMTP, "all_proxy": ALL, "https_proxy": HTTPS, "http_proxy": HTTP}, SMTP),
        ({"all_proxy": ALL, "HTTPS_PROXY": HTTPS}, ALL),
        ({"ALL_PROXY": ALL, "https_proxy": HTTPS}, ALL),
        ({"https_proxy": HTTPS, "HTTP_PROXY": HTTP}, HTTPS),
        ({"http_proxy": HTTP}, HTTP),
        # lower case wins, as in curl
        ({"smtp_proxy": SMTP, "SMTP_PROXY": ALL}, SMTP),
        ({"http_proxy": HTTP, "HTTP_PROXY": ALL}, HTTP),
        # empty is not set
        ({"smtp_proxy": "", "SMTP_PROXY": SMTP}, SMTP),
        ({"SMTP_PROXY": "", "ALL_PROXY": " ", "HTTPS_PROXY": HTTPS}, HTTPS),
        ({"SMTP_PROXY": "", "ALL_PROXY": ""}, None),
        # a CGI program's HTTP_PROXY is a visitor's
        ({"HTTP_PROXY": HTTP, "REQUEST_METHOD": "GET"}, None),
        ({"HTTP_PROXY": ALL, "http_proxy": HTTP, "REQUEST_METHOD": "GET"}, HTTP),
        ({"HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP, "REQUEST_METHOD": "GET"}, HTTPS),
        ({"HTTP_PROXY": HTTP, "REQUEST_METHOD": ""}, None),
    ],
)
def test_which_variable_counts(environ, proxy):
    found = proxy_from(environ)
    assert (found and str(found)) == proxy
    assert parse_endpoint("smtp://relay", environ, proxy="env").options.proxy == found


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example", "http://proxy.example:80"),
        ("ann:s%40cret@proxy:3128", "http://ann:***@proxy:3128"),
        ("[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        (" http://proxy:3128/ ", "http://proxy:3128"),
        ("SOCKS5H://proxy", "socks5h://proxy:1080"),
    ],
)
def test_what_a_value_means(value, proxy):
    assert str(proxy_from({"ALL_PROXY": value})) == proxy


def test_user_and_password_are_decoded():
    (proxy,) = proxy_from({"ALL_PROXY": "a%2Fnn:s%40cret@proxy:3128"})
    assert (proxy.user, proxy.password) == ("a/nn", "s@cret")


@pytest.mark.parametrize("name", ["SMTP_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        "ftp://ann:hidden-1@proxy:1",
        "ann:hidden-1@proxy:port",
        "http://ann:hidden-1@",
        "ann:hidden-1:x://y@proxy",
        "ann:hidden-1://y@proxy",
        "http://ann:hidden-1/x@proxy:1",
        "http://ann:hidden-1@proxy/path",
        "http://ann:50%hidden-1@proxy",
        "http://ann:hidden-1@proxy?token=hidden-1",
        "env:hidden-1",
    ],
)
def test_a_bad_value_names_its_variable_and_shows_no_password(name, value):
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("smtp://relay", {name: value}, proxy="env")
    assert str(caught.value).startswith(f"environment variable {name}") and "hidden-1" not in str(caught.value)


# ---- NO_PROXY


@pytest.mark.parametrize(
    ("text", "host", "covered"),
    [
        ("relay.example", "relay.example", True),
        ("relay.example", "mx.relay.example", True),
        ("relay.example", "myrelay.example", False),
        ("relay.example:25", "mx.relay.example", True),
        ("relay.example:26", "mx.relay.example", False),
        (".relay.example", "relay.example", True),
        ("*.relay.example", "relay.example", False),
        ("*.relay.example", "mx.relay.example", True),
        ("localhost", "mx.localhost", True),
        ("a.example,relay.example", "relay.example", True),
        ("a.example relay.example", "relay.example", True),
        (" a.example , ,\trelay.example ,", "relay.example", True),
        ("a.example|relay.example", "relay.example", False),
        ("*", "relay.example", True),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1,::1", "127.0.0.1", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "relay.example", None),
        ("", "relay.example", False),
    ],
)
def test_what_no_proxy_covers(text, host, covered):
    assert no_proxy_from({"NO_PROXY": text}).covers(host, 25) is covered
    assert no_proxy_from({"no_proxy": text}).covers(host, 25) is covered


def test_no_proxy_in_lower_case_wins_unless_it_is_empty():
    assert str(no_proxy_from({"no_proxy": "a.example", "NO_PROXY": "b.example"})) == ".a.example"
    assert str(no_proxy_from({"no_proxy": "", "NO_PROXY": "b.example"})) == ".b.example"


def test_entries_that_mean_nothing_are_passed_over_with_one_warning(caplog, unlike):
    text = f"http://ann:hidden-1@p,{unlike},;x,relay:smtp,[::1"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert str(no_proxy_from({"NO_PROXY": text})) == f".{unlike}"
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("environment variable NO_PROXY: entry 1 is ") and "(and 3 more)" in message
    assert "hidden-1" not in message and message.isprintable()


def test_an_endless_no_proxy_is_cut(caplog, unlike):
    text = ",".join(f"{number}.{unlike}" for number in range(MAX_RULES + 5))
    with caplog.at_level(logging.WARNING):
        assert len(no_proxy_from({"NO_PROXY": text}).rules) == MAX_RULES
    assert f"only the first {MAX_RULES} count" in caplog.text


# ---- as an option


def test_no_proxy_of_the_environment_comes_to_the_given_one():
    environ = {"ALL_PROXY": ALL, "NO_PROXY": "b.example,a.example"}
    given = parse_endpoint("smtp://relay?no_proxy=a.example", environ, proxy="env").options
    assert str(given.no_proxy) == "a.example, .b.example, .a.example"
    assert str(parse_endpoint("smtp://relay?proxy=env", environ).options.no_proxy) == ".b.example, .a.example"


def test_an_empty_environment_is_a_direct_connection():
    assert parse_endpoint("smtp://relay", {}, proxy="env").options.proxy is None
    assert parse_endpoint("smtp://relay", {"NO_PROXY": "x"}, proxy="env") == parse_endpoint("smtp://relay")


def test_without_the_word_nothing_of_the_environment_is_read():
    environ = {"ALL_PROXY": ALL, "NO_PROXY": "*"}
    assert parse_endpoint("smtp://relay", environ) == parse_endpoint("smtp://relay", {})
    found = parse_endpoint("smtp://relay", environ, proxy="http://p:1").options
    assert str(found.proxy) == "http://p:1" and found.no_proxy is None


def test_the_process_is_asked_when_the_option_is_parsed(monkeypatch):
    for name in ("SMTP_PROXY", "smtp_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SMTP_PROXY", SMTP)
    first = parse_endpoint("smtp://relay", proxy="env")
    monkeypatch.setenv("SMTP_PROXY", ALL)
    assert str(first.options.proxy) == SMTP
    assert str(parse_endpoint("smtp://relay", proxy="env").options.proxy) == ALL


def test_a_socket_of_this_machine_has_no_proxy_of_the_environment():
    assert parse_endpoint("lmtp+unix:///run/lmtp", {"ALL_PROXY": ALL}, proxy="env").options.proxy is None


def test_a_keyword_wins_over_the_word_in_the_url():
    found = parse_endpoint("smtp://relay?proxy=env", {"ALL_PROXY": ALL}, proxy="http://p:1").options
    assert str(found.proxy) == "http://p:1"


def test_an_option_cannot_be_taken_for_the_environment():
    with pytest.raises(ConfigError, match="unknown option 'environ'"):
        parse_endpoint("smtp://relay", environ={"ALL_PROXY": ALL}, proxy="env")


@pytest.mark.parametrize("value", ["ENV", "environment", " "])
def test_what_is_not_quite_the_word(value):
    with pytest.raises(ConfigError, match="option 'proxy'"):
        parse_endpoint("smtp://relay", {"ALL_PROXY": ALL}, proxy=value)


@pytest.mark.parametrize("value", [["env"], ["http://p:1", "env"], {"proxy": "env"}])
def test_the_word_stands_alone(value):
    with pytest.raises(ConfigError):
        parse_endpoint("smtp://relay", {"ALL_PROXY": ALL}, proxy=value)
