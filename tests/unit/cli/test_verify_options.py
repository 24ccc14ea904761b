"""`verify --proxy`: one, several as a chain, or what the environment names; the relay is not asked here."""

from __future__ import annotations

import pytest

from bulkmail.smtp import verify as verify_module


@pytest.fixture
def probed(monkeypatch):
    """The options that the relay was to be reached by."""
    found = []

    async def probe(url, *, sender, **options):
        found.append(options)
        return verify_module.VerifyReport(url, [])

    monkeypatch.setattr(verify_module, "probe", probe)
    return found


@pytest.mark.parametrize(
    ("given", "proxy"),
    [
        (["http://a:1"], "http://a:1"),
        (["env"], "env"),
        (["http://a:1", "socks5h://u:p@b:2", "socks5://c"], ["http://a:1", "socks5h://u:p@b:2", "socks5://c"]),
    ],
)
def test_proxies_in_the_order_given(call, probed, given, proxy):
    assert call("verify", "smtp://relay.test", *(part for one in given for part in ("--proxy", one))).exit_code == 0
    assert probed == [{"log": False, "proxy": proxy}]


def test_without_the_option_that_of_the_url_stands(call, probed):
    assert call("verify", "smtp://relay.test?proxy=http://a:1").exit_code == 0
    assert probed == [{"log": False}]


def test_the_environment_is_no_part_of_a_chain(call, probed):
    done = call("verify", "smtp://relay.test", "--proxy", "env", "--proxy", "http://u:secret@a:1")
    assert (done.exit_code, probed, done.stdout) == (2, [], "")
    assert done.stderr.startswith("bulkmail: --proxy env stands alone")


@pytest.mark.parametrize(
    "proxy",
    ["socks5h://u:secret@", "gopher://u:secret@a:1", "http://u:secret@a:99999", "http://u:sec%00ret@a:1", "secret@a b"],
)
def test_a_proxy_that_cannot_be_shows_no_password(call, proxy):
    done = call("verify", "smtp://127.0.0.1:1", "--proxy", proxy)
    assert done.exit_code == 2 and done.stderr.startswith("bulkmail: ") and done.stdout == ""
    assert "proxy" in done.stderr and "Traceback" not in done.stderr
    assert "u:sec" not in done.stderr and "secret@a:" not in done.stderr and "ret@" not in done.stderr
