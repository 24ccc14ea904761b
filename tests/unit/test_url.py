"""URLs of relays and proxies and their options: what is understood, what is refused and how, and that nothing leaks."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bulkmail.errors import ConfigError
from bulkmail.noproxy import NoProxy, parse_no_proxy
from bulkmail.proxyurl import ProxyUrl, parse_proxy
from bulkmail.url import OPTIONS, Endpoint, Options, parse_endpoint, parse_options
from bulkmail.urlparts import masked
from bulkmail.values import Rate, parse_rate, parse_seconds


def refusal(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ---- relays


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "user", "password"),
    [
        ("smtp://relay.example", "smtp", "relay.example", 587, None, None),
        ("smtps://relay.example", "smtps", "relay.example", 465, None, None),
        ("SMTP://Relay.Example:25", "smtp", "relay.example", 25, None, None),
        ("smtp://relay.example/", "smtp", "relay.example", 587, None, None),
        ("smtp://relay.example:", "smtp", "relay.example", 587, None, None),
        ("smtp://", "smtp", "localhost", 587, None, None),
        ("smtp://:2525", "smtp", "localhost", 2525, None, None),
        ("smtp://u:p@", "smtp", "localhost", 587, "u", "p"),
        ("smtp://192.0.2.1:25", "smtp", "192.0.2.1", 25, None, None),
        ("smtp://[2001:db8::1]", "smtp", "2001:db8::1", 587, None, None),
        ("smtp://[::1]:25", "smtp", "::1", 25, None, None),
        ("smtp://[fe80::1%25eth0]:25", "smtp", "fe80::1%eth0", 25, None, None),
        ("smtp://bücher.example", "smtp", "xn--bcher-kva.example", 587, None, None),
        ("smtp://b%C3%BCcher.example", "smtp", "xn--bcher-kva.example", 587, None, None),
        ("smtp://mail_1.internal.", "smtp", "mail_1.internal.", 587, None, None),
        ("smtp://us%40er:p%3Aa%2Fs%25s@relay.example", "smtp", "relay.example", 587, "us@er", "p:a/s%s"),
        ("smtp://us@er:p@ss@relay.example", "smtp", "relay.example", 587, "us@er", "p@ss"),
        ("smtp://user:p:w@relay.example", "smtp", "relay.example", 587, "user", "p:w"),
        ("smtp://user:@relay.example", "smtp", "relay.example", 587, "user", ""),
        ("smtp://%C3%BC:%E2%82%AC@relay.example", "smtp", "relay.example", 587, "ü", "€"),
        ("  smtp://relay.example\n", "smtp", "relay.example", 587, None, None),
    ],
)
def test_a_relay_url(url, scheme, host, port, user, password):
    found = parse_endpoint(url)
    assert (found.scheme, found.host, found.port, found.user, found.password) == (scheme, host, port, user, password)
    assert found.options == Options()
    assert found.implicit_tls is (scheme == "smtps")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("relay:587", "relay URL relay:587: expected a URL such as smtp://user:password@host:587"),
        ("", "relay URL : expected a URL such as smtp://user:password@host:587"),
        ("smpt://relay", "did you mean 'smtp://'?"),
        ("http://relay", "unknown scheme, expected smtp://, smtps://, lmtp:// or lmtp+unix://"),
        ("lmtp+unix://host/run/lmtp", "after three slashes"),
        ("lmtp+unix:///", "after three slashes"),
        ("lmtp+unix:///run/%00", "NUL"),
        ("smtp://relay:0", "not a number from 1 to 65535"),
        ("smtp://relay:65536", "not a number from 1 to 65535"),
        ("smtp://relay:smtp", "not a number from 1 to 65535"),
        ("smtp://relay:٢٥", "not a number from 1 to 65535"),
        ("smtp://::1:25", "an IPv6 address stands in brackets"),
        ("smtp://[::1", "an IPv6 address stands in brackets"),
        ("smtp://[relay]:25", "not an IPv6 address"),
        ("smtp://[192.0.2.1]", "not an IPv6 address"),
        ("smtp://re..lay", "the host is 're..lay', expected a host name or an IP address"),
        ("smtp://-relay", "expected a host name"),
        ("smtp://" + "x" * 64, "expected a host name"),
        ("smtp://a%0D%0Ab", "expected a host name"),
        ("smtp://☃", "not a domain name"),
        ("smtp://relay/path", "nothing but options"),
        ("smtp://user@relay", "a user without a password"),
        ("smtp://:pw@relay", "a password without a user"),
        ("smtp://user:p%00w@relay", "NUL"),
        ("smtp://user:50%off@relay", "a percent sign itself is written %25"),
        ("smtp://user:%ff@relay", "not UTF-8"),
        ("smtp://user:p w@relay", "must be percent-encoded"),
        ("smtp://relay#x", "must be percent-encoded"),
    ],
)
def test_a_bad_relay_url_is_refused_in_one_sentence(url, sentence):
    text = refusal(parse_endpoint, url)
    assert sentence in text and text.isprintable()


@pytest.mark.parametrize("url", [None, 25, b"smtp://relay", ["smtp://relay"]])
def test_a_url_that_is_no_text_is_refused(url):
    assert "must be text" in refusal(parse_endpoint, url)


def test_an_endpoint_is_a_value():
    one, other = (parse_endpoint("smtp://u:p@relay?rate=5/s&proxy=socks5://p:1080") for _ in range(2))
    assert one == other and hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.host = "x"


# ---- options


def test_the_defaults_are_those_of_the_documentation():
    assert dataclasses.asdict(Options()) == {
        "tls": "auto", "server_name": None, "ca_file": None, "cert_file": None, "key_file": None, "verify": True,
        "tls_min": "1.2", "name": None, "local_address": None, "connect_timeout": 120.0, "greeting_timeout": 30.0,
        "dns_timeout": 30.0, "command_timeout": 300.0, "data_timeout": 600.0, "auth": "auto",
        "allow_plaintext_auth": False, "token": None, "token_command": None, "oauth2": None, "connections": 5,
        "messages_per_connection": 100, "idle_timeout": 30.0, "rate": None, "batch": 100, "pipelining": True,
        "chunking": True, "proxy": None, "no_proxy": None, "proxy_protocol": None, "wire_log": None, "log": None,
        "allow_files": True, "allow_urls": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "typed", "value"),
    [
        ("tls", "Require", "require", "require"),
        ("server_name", "Mail.Example", "mail.example", "mail.example"),
        ("server_name", "[::1]", "::1", "::1"),
        ("ca_file", "/etc/ca+1.pem", "/etc/ca+1.pem", "/etc/ca+1.pem"),
        ("verify", "no", False, False),
        ("tls_min", "TLSv1.3", 1.3, "1.3"),
        ("name", "Mail.Example", "mail.example", "mail.example"),
        ("name", "192.0.2.1", "[192.0.2.1]", "[192.0.2.1]"),
        ("name", "[::1]", "[IPv6:::1]", "[IPv6:::1]"),
        ("local_address", "192.0.2.4", "192.0.2.4", "192.0.2.4"),
        ("local_address", "[2001:db8::4]", "2001:db8::4", "2001:db8::4"),
        ("local_address", "eth0.100", "eth0.100", "eth0.100"),
        ("connect_timeout", "90s", 90, 90.0),
        ("greeting_timeout", "250ms", 0.25, 0.25),
        ("auth", "PLAIN", "plain", "plain"),
        ("auth", "SCRAM-SHA-256-PLUS", "scram-sha-256-plus", "scram-sha-256-plus"),
        ("token", "ya29.a+b/c==", "ya29.a+b/c==", "ya29.a+b/c=="),
        ("token_command", "get%20-u%20'a%20b'", ["get", "-u", "a b"], ("get", "-u", "a b")),
        ("allow_plaintext_auth", "true", True, True),
        ("connections", "20", 20, 20),
        ("messages_per_connection", "0", 0, 0),
        ("rate", "300/s", "300/s", Rate(300.0, 1.0, "300/s")),
        ("chunking", "off", False, False),
        ("proxy", "http://p:3128", "http://p:3128", (ProxyUrl("http", "p", 3128),)),
        ("proxy_protocol", "v1", "V1", "v1"),
        ("proxy_protocol", "v2", "v2", "v2"),
        ("wire_log", "true", True, True),
        ("wire_log", "wire.log", "wire.log", "wire.log"),
        ("log", "1", True, True),
        ("no_proxy", "", [], NoProxy()),
        (
            "no_proxy",
            ".Example.com|[::1]:25",
            [".example.com", "[::1]:25"],
            parse_no_proxy(".example.com,[::1]:25", ""),
        ),
        ("allow_urls", "false", False, False),
        ("allow_urls", "yes", True, True),
    ],
)
def test_query_and_keyword_are_the_same_option(name, text, typed, value):
    by_query = parse_endpoint(f"smtp://relay?{name}={text}").options
    by_keyword = parse_endpoint("smtp://relay", **{name: typed}).options
    assert getattr(by_query, name) == getattr(by_keyword, name) == value


def test_keywords_win_and_none_is_not_given():
    url = "smtp://relay?connections=7&tls=never"
    found = parse_endpoint(url, connections=9, tls=None).options
    assert (found.connections, found.tls) == (9, "never")


def test_a_path_object_is_a_file_name(tmp_path):
    assert parse_options({"ca_file": tmp_path}) == {"ca_file": str(tmp_path)}


@pytest.mark.parametrize(
    ("url", "options", "sentence"),
    [
        ("smtp://u@relay", {}, "a user without a password"),
        ("smtp://u@relay", {"auth": "scram-sha-256"}, "a user without a password"),
        ("smtp://u@relay", {"auth": "xoauth2"}, "auth=xoauth2 needs a token"),
        ("smtp://u:p@relay", {"token": "t"}, "a password and token are given"),
        ("smtp://u@relay", {"token": "t", "token_command": "x"}, "the options token and token_command are given"),
        ("smtp://u@relay", {"token": "t", "auth": "plain"}, "auth=plain has no use for token"),
        ("smtp://u@relay", {"token_command": "x", "auth": "external"}, "auth=external has no use for token_command"),
        ("smtp://u:p@relay", {"auth": "external"}, "auth=external has no use for a password"),
        ("smtp://relay", {"token": "t", "auth": "xoauth2"}, "auth=xoauth2 needs the user"),
    ],
)
def test_credentials_that_do_not_fit_together(url, options, sentence):
    assert sentence in refusal(parse_endpoint, url, **options)


@pytest.mark.parametrize(
    ("url", "options", "logs_in"),
    [
        ("smtp://relay", {}, False),
        ("smtp://relay", {"auth": "plain"}, False),
        ("smtp://u:p@relay", {}, True),
        ("smtp://u:token@relay", {"auth": "xoauth2"}, True),
        ("smtp://u@relay?token=t", {}, True),
        ("smtp://relay", {"token_command": "x"}, True),
        ("smtp://relay", {"auth": "external"}, True),
        ("smtp://u@relay", {"auth": "external"}, True),
    ],
)
def test_whether_there_is_a_login(url, options, logs_in):
    assert parse_endpoint(url, **options).logs_in is logs_in


def test_no_secret_of_an_option_is_shown():
    token = parse_endpoint("smtp://u@relay?token=hidden-1")
    command = parse_endpoint("smtp://u@relay", token_command=["get", "hidden-2"])
    shown = repr(token) + str(token) + repr(command) + repr(token.options) + repr(command.options)
    assert "hidden" not in shown and len({hash(token), hash(command)}) == 2


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("tls", "requre", "option 'tls' is 'requre', expected auto, require, never or opportunistic, did you mean 're"),
        ("tls", True, "expected auto"),
        ("server_name", "a b", "expected a host name or an IP address"),
        ("server_name", 5, "expected a host name or an IP address"),
        ("ca_file", "", "expected the name of a file"),
        ("ca_file", "a\0b", "expected the name of a file"),
        ("ca_file", True, "expected the name of a file"),
        ("verify", "maybe", "expected true or false"),
        ("verify", 2, "expected true or false"),
        ("verify", [], "expected true or false"),
        ("tls_min", "1.1", "expected 1.2 or 1.3"),
        ("name", "a b", "expected a host name"),
        ("name", "[192.0.2.1", "expected a domain name, [192.0.2.1] or [IPv6:2001:db8::1]"),
        ("name", "x\r\nMAIL FROM:<>", "expected"),
        ("local_address", "192.0.2.300", "expected an IP address or the name of a network interface"),
        ("local_address", "interface-name-too-long", "expected an IP address"),
        ("connect_timeout", 0, "expected more than 0 seconds"),
        ("connect_timeout", float("nan"), "expected a time such as"),
        ("dns_timeout", float("inf"), "expected a time such as"),
        ("dns_timeout", -1, "expected a time such as"),
        ("data_timeout", "5 minutes", "expected a time such as"),
        ("data_timeout", True, "expected a time such as"),
        ("data_timeout", "4000d", "at most ten years"),
        ("auth", "plane", "did you mean 'plain'?"),
        ("connections", 0, "expected a whole number from 1 to"),
        ("connections", True, "expected a whole number"),
        ("connections", 2.5, "expected a whole number"),
        ("connections", "1_0", "expected a whole number"),
        ("connections", "٥", "expected a whole number"),
        ("messages_per_connection", -1, "expected a whole number from 0"),
        ("batch", 0, "expected a whole number from 1"),
        ("batch", 10**9, "expected a whole number"),
        ("rate", "300", "expected a rate such as '300/s'"),
        ("rate", 300, "expected a rate such as '300/s'"),
        ("rate", "0/s", "nothing could ever be sent"),
        ("rate", "-1/s", "expected a rate"),
        ("rate", "1e3/s", "expected a rate"),
        ("proxy", "", "expected a URL such as socks5h://"),
        ("proxy", [], "is an empty list"),
        ("proxy", {"proxy": "http://a", "porxy": 1}, "unknown key 'porxy'"),
        ("proxy", 5, "expected a URL such as"),
        ("token", "secret-token\n", "not an access token"),
        ("token", ["secret-token"], "not an access token"),
        ("token_command", [], "expected a program and its arguments"),
        ("token_command", ["", "secret-token"], "expected a program and its arguments"),
        ("token_command", ["x", 5], "expected a program and its arguments"),
        ("token_command", ["x\0y"], "expected a program and its arguments"),
        ("token_command", "", "expected a program and its arguments"),
        ("token_command", "x 'secret-token", "leaves it unfinished"),
        ("oauth2", {"client_id": "x"}, "'refresh_token' is missing"),
        ("no_proxy", "http://bob:secret-token@relay", "looks like a URL; expected a name"),
        ("no_proxy", ["relay", "relay:x"], "entry 2 is 'relay:x', expected a port from 1 to 65535"),
        ("no_proxy", False, "expected a list of hosts"),
        ("proxy_protocol", "v3", "'v3', expected v1 or v2"),
        ("allow_urls", "perhaps", "expected true or false"),
        ("key_file", "key.pem", "without 'cert_file'"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_expected(name, value, sentence):
    text = refusal(parse_endpoint, "smtp://relay", **{name: value})
    assert sentence in text and f"'{name}'" in text and "secret-token" not in text and text.isprintable()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tsl", "did you mean 'tls'?"),
        ("conections", "did you mean 'connections'?"),
        ("requireTLS", "use tls=require"),
        ("ignoreTLS", "use tls=never"),
        ("opportunisticTLS", "use tls=opportunistic"),
        ("secure", "use an smtps:// URL"),
        ("maxConnections", "use connections"),
        ("maxMessages", "use messages_per_connection"),
        ("connectionTimeout", "use connect_timeout (seconds)"),
        ("greetingTimeout", "use greeting_timeout"),
        ("dnsTimeout", "use dns_timeout"),
        ("socketTimeout", "use command_timeout and data_timeout (seconds)"),
        ("localAddress", "use local_address"),
        ("authMethod", "use auth"),
        ("rateLimit", 'use rate, such as "10/s"'),
        ("rateDelta", 'use rate, such as "10/s"'),
        ("transactionLog", "use wire_log"),
        ("debug", "use wire_log"),
        ("logger", "use log"),
        ("disableFileAccess", "use allow_files=false"),
        ("disableUrlAccess", "use allow_urls"),
        ("tls.rejectUnauthorized", "use verify"),
        ("servername", "use server_name"),
        ("minVersion", "use tls_min"),
        ("use_tls", "use an smtps:// URL"),
        ("validate_certs", "use verify"),
        ("local_hostname", "use name"),
        ("password", "it belongs into the URL"),
        ("xyzzy", "unknown option 'xyzzy'"),
    ],
)
def test_an_unknown_option_is_answered_with_ours(name, hint):
    for text in (
        refusal(parse_endpoint, "smtp://relay", **{name: "1"}),
        refusal(parse_endpoint, f"smtp://relay?{name}=1"),
    ):
        assert text.startswith(f"unknown option '{name}'") and hint in text


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("tls", "option 'tls' has no value"),
        ("xyzzy", "unknown option 'xyzzy'"),
        ("tls=auto&tls=never", "option 'tls' is given twice"),
        ("tls=%zz", "hexadecimal"),
        ("%0d%0a=1", "its name is not a word"),
    ],
)
def test_a_query_that_cannot_be_read(query, sentence):
    assert sentence in refusal(parse_endpoint, f"smtp://relay?{query}")


@pytest.mark.parametrize("tls", ["never", "opportunistic"])
def test_tls_from_the_start_cannot_be_left_out(tls):
    assert f"tls={tls} is for smtp://" in refusal(parse_endpoint, f"smtps://relay?tls={tls}")


def test_every_option_says_how_it_is_parsed():
    assert all(callable(option.metadata["parse"]) for option in OPTIONS.values())
    hash(Options())


def test_manifest_keys_are_called_what_the_caller_says():
    assert "relay key 'tls' is 'x'" in refusal(parse_options, {"tls": "x"}, "relay key")


# ---- times and rates


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90.0), (1.5, 1.5), (0, 0.0), ("90", 90.0), ("90s", 90.0), ("250ms", 0.25), ("5m", 300.0), ("2h", 7200.0),
     ("1d", 86400.0), ("0.5h", 1800.0), (" 5 m ", 300.0)],
)  # fmt: skip
def test_times(value, seconds):
    assert parse_seconds(value, "delay") == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "m", "5x", "1h30m", "-5s", "1e3", "inf", "5M", None, [], True, float("nan"), -1])
def test_what_is_no_time(value):
    assert refusal(parse_seconds, value, "the delay").startswith("the delay is ")


@pytest.mark.parametrize(
    ("text", "per_second"), [("300/s", 300), ("6000/m", 100), ("36000/h", 10), ("864000/d", 10), ("0.5/s", 0.5)]
)
def test_rates(text, per_second):
    rate = parse_rate(text, "rate")
    assert rate.per_second == pytest.approx(per_second) and str(rate) == text
    assert parse_rate(rate, "rate") is rate


# ---- proxies


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://p.example", ProxyUrl("http", "p.example", 80)),
        ("socks://p.example", ProxyUrl("socks", "p.example", 1080)),
        ("socks5://u:p%40@[::1]:9", ProxyUrl("socks5", "::1", 9, "u", "p@")),
        ("socks5h://u:@p.example/", ProxyUrl("socks5h", "p.example", 1080, "u", "")),
        ("SOCKS5H://u@p.example", ProxyUrl("socks5h", "p.example", 1080, "u", None)),
    ],
)
def test_a_proxy_url(url, proxy):
    assert parse_proxy(url, "proxy") == (proxy,)
    assert parse_proxy(proxy, "proxy") == (proxy,)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("p.example:3128", "expected a URL such as socks5h://"),
        ("sock5://p", "did you mean 'socks"),
        ("http://", "host is missing"),
        ("http://p?x=1", "no options after"),
        ("http://a%0d%0ab", "expected a host name"),
        ("http://u%0d%0a:p@h", "line break"),
        ("http://u:p%0aX@h", "line break"),
        ("socks5://u:p%00@h", "control character"),
        ("http://u%3A:p@h", "RFC 7617"),
        ("socks5://" + "u" * 256 + ":p@h", "255 bytes"),
        ("socks5h://u:" + "%C3%BC" * 128 + "@h", "255 bytes"),
    ],
)
def test_a_bad_proxy_url_is_refused(url, sentence):
    assert sentence in refusal(parse_proxy, url, "proxy")


def test_a_proxy_made_by_hand_is_checked_too():
    with pytest.raises(ConfigError, match="line break"):
        ProxyUrl("http", "h", 1, "u\r\n", "p")


# ---- nothing leaks


SECRETS = [
    "hunter2", "hun/ter2", "hun?ter2", "hun#ter2", "hun@ter2", "hun:ter2", "hun&ter2", "12/hunter2", "12?hunter2=1",
    "12?tls=hunter2", "12#hunter2", "hun%ter2", "hun ter2", "hun\x1bter2",
]  # fmt: skip
PLACES = [
    "smtp://ann:{}@relay.example:x",
    "smtp://ann:{}@relay.example?connections=0",
    "smtp://ann:{}@relay.example/path",
    "smtps://ann:{}@relay.example?tls=never",
    "xmtp://ann:{}@relay.example",
    "ann:{}@relay.example",
    "smtp://relay.example?proxy=http://ann:{}@p.example:x",
]
HOST_FORGOTTEN = [
    ("smtp://ann:{}", "hunter2"),
    ("smtp://ann:{}", "hun/ter2"),
    ("ann:{}", "hunter2"),
    ("ann:{}", "hun#ter2"),
]


@pytest.mark.parametrize(
    ("place", "secret"), [(place, secret) for secret in SECRETS for place in PLACES] + HOST_FORGOTTEN
)
def test_no_error_shows_a_piece_of_a_password(place, secret):
    url = place.format(secret)
    pieces = re.findall("hun|ter2", secret)
    texts = [masked(url)]
    try:
        parse_endpoint(url)
    except ConfigError as error:
        texts.append(str(error))
    for text in texts:
        assert text.isprintable()
        assert not [piece for piece in pieces if piece in text], text


def test_str_and_repr_mask_passwords():
    found = parse_endpoint("smtp://ann:hunter2@relay?proxy=socks5://bob:hunter3@p")
    for text in (str(found), repr(found), repr(found.options), repr(found.options.proxy), f"{found.options.proxy}"):
        assert "hunter" not in text
    assert str(found) == "smtp://ann:***@relay:587"
    assert str(found.options.proxy) == "socks5://bob:***@p:1080"
    assert str(Endpoint("smtp", "::1", 25, None, "a\r\nb", "x")) == "smtp://a%0D%0Ab:***@[::1]:25"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://relay:587", "smtp://relay:587"),
        ("smtp://u:p@relay:587?tls=require", "smtp://u:***@relay:587?tls=require"),
        ("smtp://u@relay", "smtp://u@relay"),
        ("smtp://[::1]:25", "smtp://[::1]:25"),
        ("smtp://relay?token=abc&password=def&tls=auto", "smtp://relay?token=***&password=***&tls=auto"),
        ("smtp://relay?proxy=http%3A%2F%2Fu%3Ap%40h", "smtp://relay?proxy=http://u:***@h"),
        ("smtp://u:pa/ss@relay:25", "smtp://***@relay:25"),
    ],
)
def test_masking_keeps_what_is_no_secret(url, shown):
    assert masked(url) == shown
