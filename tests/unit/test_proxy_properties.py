"""javax.mail's properties for proxies, made options of ours."""

from __future__ import annotations

import pytest

import bulkmail
from bulkmail import ConfigError, proxies_from_properties
from bulkmail.url import parse_endpoint

NONE = {"proxy": None, "no_proxy": []}


@pytest.mark.parametrize(
    ("properties", "smtp", "smtps"),
    [
        ({}, None, None),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": "3128"}, "http://p:3128", None),
        ({"mail.smtps.proxy.host": "p", "mail.smtps.proxy.port": 3128}, None, "http://p:3128"),
        ({"mail.smtp.proxy.host": "p"}, "http://p:80", None),
        ({"mail.smtp.proxy.host": " P.Example "}, "http://p.example:80", None),
        ({"mail.smtp.proxy.host": "p", "mail.smtps.proxy.host": "q"}, "http://p:80", "http://q:80"),
        ({"mail.smtp.proxy.host": "2001:db8::1"}, "http://[2001:db8::1]:80", None),
        ({"mail.smtp.proxy.host": "[2001:db8::1]"}, "http://[2001:db8::1]:80", None),
        # SocketFetcher: a port in the host's property, over which the port's own wins; the web proxy before SOCKS
        ({"mail.smtp.proxy.host": "p:8080"}, "http://p:8080", None),
        ({"mail.smtp.proxy.host": "[::1]:8080"}, "http://[::1]:8080", None),
        ({"mail.smtp.proxy.host": "p:8080", "mail.smtp.proxy.port": "3128"}, "http://p:3128", None),
        ({"mail.smtp.socks.host": "s:9050"}, "socks5://s:9050", None),
        ({"mail.smtp.socks.host": "s"}, "socks5://s:1080", None),
        ({"mail.smtps.socks.host": "s", "mail.smtps.socks.port": 9050}, None, "socks5://s:9050"),
        ({"mail.smtp.socks.host": "s", "mail.smtp.proxy.host": "p"}, "http://p:80", None),
        ({"mail.smtp.proxy.host": "", "mail.smtp.socks.host": "s"}, "socks5://s:1080", None),
        ({"mail.smtp.proxy.host": None, "mail.smtp.proxy.port": "3128"}, None, None),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.user": "ann"}, "http://ann@p:80", None),
        # none of ours
        ({"mail.smtp.host": "relay", "mail.smtp.port": 25, "mail.smtp.auth": True, "mail.debug": "true",
          "mail.imap.proxy.host": "p", "mail.smtp.proxy": "p", "http.proxyHost": "p", 5: "p",
          "MAIL.SMTP.PROXY.HOST": "p"}, None, None),
    ],
)  # fmt: skip
def test_which_proxy_they_name(properties, smtp, smtps):
    found = proxies_from_properties(properties)
    assert found == {"smtp": NONE | {"proxy": smtp}, "smtps": NONE | {"proxy": smtps}}


def test_user_and_password_arrive_as_they_were():
    user, password = "a:n/n@ ü", "p:w/d@%#? €"
    found = proxies_from_properties(
        {
            "mail.smtps.proxy.host": "p",
            "mail.smtps.proxy.user": user.replace(":", ""),
            "mail.smtps.proxy.password": password,
        }
    )
    (proxy,) = parse_endpoint("smtps://relay", **found["smtps"]).options.proxy
    assert (proxy.user, proxy.password) == (user.replace(":", ""), password)


HOSTS = "localhost|127.0.0.0/8| [::1] ||10.0.0.0/8|*.domain.com"
LIST = ["localhost", "127.0.0.0/8", "[::1]", "10.0.0.0/8", "*.domain.com"]


@pytest.mark.parametrize("protocol", ["smtp", "smtps"])
def test_non_proxy_hosts_are_given_once_for_plain_and_tls(protocol):
    found = proxies_from_properties(
        {f"mail.{protocol}.proxy.nonProxyHosts": HOSTS, "mail.smtp.proxy.host": "p", "mail.smtps.proxy.host": "q"}
    )
    assert found["smtp"] == {"proxy": "http://p:80", "no_proxy": LIST}
    assert found["smtps"] == {"proxy": "http://q:80", "no_proxy": LIST}


def test_each_protocol_may_have_its_own_non_proxy_hosts():
    properties = {"mail.smtp.proxy.nonProxyHosts": "a", "mail.smtps.proxy.nonProxyHosts": "b|c"}
    found = proxies_from_properties(properties)
    assert (found["smtp"]["no_proxy"], found["smtps"]["no_proxy"]) == (["a"], ["b", "c"])


def test_what_is_returned_is_the_callers_own():
    found = proxies_from_properties({"mail.smtp.proxy.nonProxyHosts": "a"})
    found["smtp"]["no_proxy"].append("b")
    assert found["smtps"]["no_proxy"] == ["a"]


def test_a_name_covers_itself_only():
    found = proxies_from_properties({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.nonProxyHosts": "relay.example"})
    rules = parse_endpoint("smtp://relay.example", **found["smtp"]).options.no_proxy
    assert rules.covers("relay.example", 25) and not rules.covers("mx.relay.example", 25)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("kind", ["Mailer", "Connection"])
def test_they_are_keyword_options(scheme, kind):
    found = proxies_from_properties({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.nonProxyHosts": HOSTS})
    getattr(bulkmail, kind)(f"{scheme}://relay.example", **found[scheme])


@pytest.mark.parametrize(
    ("properties", "name", "sentence"),
    [
        ({"mail.smtp.proxy.host": 5}, "mail.smtp.proxy.host", "is of type int, expected text"),
        ({"mail.smtp.proxy.host": "a b"}, "mail.smtp.proxy.host", "expected a host name"),
        ({"mail.smtp.proxy.host": "http://ann:hidden-1@p:1"}, "mail.smtp.proxy.host", "expected a host name"),
        ({"mail.smtp.proxy.host": "ann:hidden-1@p"}, "mail.smtp.proxy.host", "expected a host name"),
        ({"mail.smtp.proxy.host": "p:x"}, "mail.smtp.proxy.host", "expected a port"),
        ({"mail.smtp.proxy.host": "p:"}, "mail.smtp.proxy.host", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": "x"}, "mail.smtp.proxy.port", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": 0}, "mail.smtp.proxy.port", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": True}, "mail.smtp.proxy.port", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": 80.0}, "mail.smtp.proxy.port", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.port": "٨٠"}, "mail.smtp.proxy.port", "expected a port"),
        ({"mail.smtps.socks.host": "s", "mail.smtps.socks.port": 65536}, "mail.smtps.socks.port", "expected a port"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.password": "hidden-1"}, "mail.smtp.proxy.password",
         "is given without 'mail.smtp.proxy.user'"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.user": "a", "mail.smtp.proxy.password": ["hidden-1"]},
         "mail.smtp.proxy.password", "is of type list, expected text"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.user": "a:b", "mail.smtp.proxy.password": "hidden-1"},
         "proxy", "the user has a ':'"),
        ({"mail.smtp.proxy.host": "p", "mail.smtp.proxy.user": "a", "mail.smtp.proxy.password": "hidden-1\n"},
         "proxy", "control character"),
        ({"mail.smtp.proxy.nonProxyHosts": "relay|relay:x"}, "mail.smtp.proxy.nonProxyHosts", "entry 2 is 'relay:x'"),
        ({"mail.smtps.proxy.nonProxyHosts": ["relay"]}, "mail.smtps.proxy.nonProxyHosts", "expected text"),
        ({"mail.smtp.proxy.hots": "p"}, "mail.smtp.proxy.hots", "did you mean 'mail.smtp.proxy.host'?"),
        ({"mail.smtps.proxy.nonproxyhosts": "p"}, "mail.smtps.proxy.nonproxyhosts", "mail.smtps.proxy.nonProxyHosts"),
        ({"mail.smtp.socks.user": "p"}, "mail.smtp.socks.user", "unknown property"),
    ],
)  # fmt: skip
def test_what_is_refused(properties, name, sentence):
    with pytest.raises(ConfigError) as caught:
        proxies_from_properties(properties)
    text = str(caught.value)
    assert name in text and sentence in text and "hidden-1" not in text and text.isprintable()


@pytest.mark.parametrize("properties", [None, [], "mail.smtp.proxy.host=p"])
def test_what_are_no_properties(properties):
    with pytest.raises(ConfigError, match="expected a mapping"):
        proxies_from_properties(properties)
