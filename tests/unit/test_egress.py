"""Egresses as users write them: every form, what is refused and in which words, names, and the way to a relay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.egress import MAX_EGRESSES, MAX_NAME, Egress, check_ways, parse_egress, parse_egresses
from bulkmail.errors import ConfigError
from bulkmail.proxyurl import Chain, ProxyUrl
from bulkmail.url import parse_endpoint
from bulkmail.values import parse_rate

URL = "socks5h://user:secret@10.0.0.1:1080"
CHAIN = Chain((ProxyUrl("socks5h", "10.0.0.1", 1080, "user", "secret"),))
SHOWN = str(CHAIN)


@pytest.mark.parametrize(
    "value, egress",
    [
        (URL, Egress(SHOWN, CHAIN)),
        ("direct", Egress("direct")),
        ({"proxy": "direct"}, Egress("direct")),
        ({"proxy": URL}, Egress(SHOWN, CHAIN)),
        ({"proxy": URL, "name": "a"}, Egress("a", CHAIN)),
        (CHAIN, Egress(SHOWN, CHAIN)),
        (CHAIN[0], Egress(SHOWN, CHAIN)),
        ({"local_address": "192.0.2.4"}, Egress("192.0.2.4", None, "192.0.2.4")),
        ({"local_address": "[2001:db8::4]"}, Egress("2001:db8::4", None, "2001:db8::4")),
        ({"local_address": "eth1"}, Egress("eth1", None, "eth1")),
        (
            {"proxy": URL, "local_address": "192.0.2.4"},
            Egress(f"{SHOWN} from 192.0.2.4", CHAIN, "192.0.2.4"),
        ),
        ({"weight": 3}, Egress("direct", weight=3)),
        ({"weight": "3", "max_connections": "4"}, Egress("direct", weight=3, max_connections=4)),
        ({"rate": "5/m", "name": "slow"}, Egress("slow", rate=parse_rate("5/m", ""))),
        ({"weight": None, "rate": None, "max_connections": None, "name": None}, Egress("direct")),
        ({"proxy": "direct", "local_address": "192.0.2.4", "name": "four"}, Egress("four", None, "192.0.2.4")),
        ({}, Egress("direct")),
        (Egress("x", CHAIN, weight=2), Egress("x", CHAIN, weight=2)),
    ],
)
def test_every_form_of_one(value, egress):
    assert parse_egress(value, "egress") == egress
    assert parse_egress(value, "egress", "given").name == "given"


@pytest.mark.parametrize(
    "value, said",
    [
        (None, "egress is None, expected a URL such as socks5h://user:password@host:1080"),
        (5, "egress is 5, expected a URL such as socks5h://user:password@host:1080"),
        ("", "egress is empty, expected a URL such as socks5h://user:password@host:1080"),
        ({"proxy": None, "weight": 2}, "egress is None, expected a URL such as socks5h://user:password@host:1080"),
        ({"weigth": 2}, "egress: unknown key 'weigth', did you mean 'weight'?"),
        ({"proxi": URL}, "egress: unknown key 'proxi', did you mean 'proxy'?"),
        ({"ca_file": "x.pem"}, "egress: 'ca_file' is given without 'proxy'"),
        ({"timeout": 5, "weight": 1}, "egress: 'timeout' is given without 'proxy'"),
        ({"weight": 0}, "egress: 'weight' is 0, expected a whole number from 1 to 1000000"),
        ({"weight": True}, "egress: 'weight' is True, expected a whole number from 1 to 1000000"),
        ({"weight": 1.5}, "egress: 'weight' is 1.5, expected a whole number from 1 to 1000000"),
        ({"max_connections": 0}, "egress: 'max_connections' is 0, expected a whole number from 1 to 1000000"),
        ({"max_connections": "x"}, "egress: 'max_connections' is 'x', expected a whole number from 1 to 1000000"),
        ({"rate": 5}, "egress: 'rate' is 5, expected a rate such as '300/s', '5000/m', '100000/h', '9000/d'"),
        ({"rate": "0/s"}, "egress: 'rate' is '0/s': nothing could ever be sent, expected more than 0"),
        (
            {"local_address": "nowhere.test!"},
            "egress: 'local_address' is 'nowhere.test!', expected an IP address or the name of a network interface",
        ),
        ({"name": ""}, f"egress: the name '', expected 1 to {MAX_NAME} printable characters"),
        ({"name": 5}, f"egress: the name 5, expected 1 to {MAX_NAME} printable characters"),
        ({"name": "a\nb"}, f"egress: the name 'a\\nb', expected 1 to {MAX_NAME} printable characters"),
        ({5: 6}, "egress: unknown key 5"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(value, said):
    with pytest.raises(ConfigError) as raised:
        parse_egress(value, "egress")
    assert str(raised.value) == said


def test_a_name_is_no_longer_than_events_should_be():
    assert parse_egress({"name": "n" * MAX_NAME}, "egress").name == "n" * MAX_NAME
    with pytest.raises(ConfigError, match="expected 1 to"):
        parse_egress({"name": "n" * (MAX_NAME + 1)}, "egress")


# -- several


def names(value):
    return [egress.name for egress in parse_egresses(value, "egress")]


@pytest.mark.parametrize(
    "value, expected",
    [
        ("direct", ["direct"]),
        (URL, [SHOWN]),
        ([URL, "direct"], [SHOWN, "direct"]),
        ((URL, {"local_address": "192.0.2.4"}), [SHOWN, "192.0.2.4"]),
        ({"a": URL, "b": {"local_address": "192.0.2.4"}, "c": "direct"}, ["a", "b", "c"]),
        ({"a": {"proxy": URL, "name": "ours"}}, ["a"]),  # the key is the name
        ({"proxy": URL, "weight": 2}, [SHOWN]),  # the object of one
        ({"local_address": "192.0.2.4"}, ["192.0.2.4"]),
        (CHAIN, [SHOWN]),  # a tuple by its type, one egress all the same
        ([Egress("x"), Egress("y", CHAIN)], ["x", "y"]),
        ([{"proxy": URL, "name": "a"}, {"proxy": URL, "name": "b"}], ["a", "b"]),
    ],
)
def test_every_form_of_several(value, expected):
    assert names(value) == expected


@pytest.mark.parametrize(
    "value, said",
    [
        ([], f"egress has 0 egresses, expected 1 to {MAX_EGRESSES}"),
        ({}, f"egress has 0 egresses, expected 1 to {MAX_EGRESSES}"),
        (["direct", "direct"], "egress: two are called 'direct', expected a name of its own for each"),
        ([URL, "direct", 5], "egress 3 is 5, expected a URL such as socks5h://user:password@host:1080"),
        ({"a": 5}, "egress 'a' is 5, expected a URL such as socks5h://user:password@host:1080"),
        ({"a": {"rate": "x"}}, "egress 'a': 'rate' is 'x', expected a rate such as '300/s', '5000/m', '100000/h', '9"),
        ({"": "direct"}, f"egress: the name '', expected 1 to {MAX_NAME} printable characters"),
        (["direct", {"name": "direct"}], "egress: two are called 'direct', expected a name of its own for each"),
    ],
)
def test_what_are_none_is_refused_with_its_place(value, said):
    with pytest.raises(ConfigError) as raised:
        parse_egresses(value, "egress")
    assert str(raised.value).startswith(said)


def test_there_is_a_bound():
    assert len(names({f"e{n}": "direct" for n in range(MAX_EGRESSES)})) == MAX_EGRESSES
    with pytest.raises(ConfigError, match=f"has {MAX_EGRESSES + 1} egresses"):
        names({f"e{n}": "direct" for n in range(MAX_EGRESSES + 1)})


def test_one_proxy_with_two_logins_needs_names_and_no_password_is_told():
    with pytest.raises(ConfigError) as raised:
        names(["socks5://user:one@10.0.0.1", "socks5://user:two@10.0.0.1"])
    assert "two are called" in str(raised.value)
    assert "one@" not in str(raised.value) and "two@" not in str(raised.value)


@pytest.mark.parametrize("value", [URL, {"proxy": URL}, {"proxy": URL, "weight": 5, "name": "a"}, CHAIN])
def test_a_password_is_in_no_text(value):
    egress = parse_egress(value, "egress")
    assert egress.proxy == CHAIN
    assert "secret" not in f"{egress} {egress!r} {egress.name} {[egress]}"


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"nonsense": 1}, {"rate": "x"}, {"name": ""}])
def test_a_password_is_in_no_refusal(wrong):
    with pytest.raises(ConfigError) as raised:
        parse_egresses([{"proxy": URL, **wrong}], "egress")
    assert "secret" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["direct", URL]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["proxy", "weight", "rate", "name", "local_address", "max_connections", "a", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_anything_is_egresses_or_a_sentence(value):
    try:
        found = parse_egresses(value, "egress")
    except ConfigError as error:
        assert "egress" in str(error) and "\n" not in str(error)
    else:
        assert len({egress.name for egress in found}) == len(found) >= 1
        assert hash(found) is not None and all(egress.weight >= 1 for egress in found)


# -- the way


def test_the_way_takes_the_place_of_the_relays_proxy_and_address():
    relay = parse_endpoint("smtp://relay.test?local_address=192.0.2.1&connections=7")
    way = Egress("a", CHAIN, "192.0.2.4").way_to(relay)
    assert (way.options.proxy, way.options.local_address, way.options.connections) == (CHAIN, "192.0.2.4", 7)
    assert (way.host, way.port) == (relay.host, relay.port)
    assert relay.options.proxy is None and relay.options.local_address == "192.0.2.1"


def test_a_proxys_way_keeps_the_relays_own_address():
    relay = parse_endpoint("smtp://relay.test?local_address=192.0.2.1")
    assert Egress("a", CHAIN).way_to(relay).options.local_address == "192.0.2.1"
    assert Egress("direct").way_to(relay).options == relay.options


def test_a_relay_with_a_proxy_of_its_own_has_no_egresses():
    with pytest.raises(ConfigError, match=r"'proxy' and 'egress' are given, expected one of them") as raised:
        check_ways(parse_endpoint("smtp://u:hidden@relay.test", proxy=URL), (Egress("a"),))
    assert "secret" not in str(raised.value) and "hidden" not in str(raised.value)
    check_ways(parse_endpoint("smtp://relay.test", proxy=URL), ())


def test_a_socket_of_this_machine_has_no_egresses():
    with pytest.raises(ConfigError, match="a socket of this machine has no egress"):
        check_ways(parse_endpoint("lmtp+unix:///run/lmtp.sock"), (Egress("a"),))


def test_a_proxy_with_keys_of_an_egress_is_the_relays_one_egress(tmp_path):
    """The object form of section "Proxies" may say weight and limits as well."""
    import json

    from bulkmail.job.manifest import load_manifest
    from bulkmail.pool.mailer import Mailer

    value = {"proxy": "http://gate.test:3128", "weight": 2, "max_connections": 3, "ca_file": None}
    assert Mailer("smtp://relay.test", proxy=value)._egresses == (parse_egress(value, "proxy"),)
    manifest = tmp_path / "news.json"
    relay = {"url": "smtp://relay.test", "proxy": {"proxy": "http://gate.test:3128", "max_connections": 3}}
    message = {"from": "news@example.com", "subject": "x", "text": "x"}
    manifest.write_text(json.dumps({"message": message, "recipients": ["a@example.com"], "relays": relay}))
    (way,) = load_manifest(manifest).relays[0].egresses
    assert (way.name, way.max_connections) == ("http://gate.test:3128", 3)
