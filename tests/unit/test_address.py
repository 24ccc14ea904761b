"""Addresses: what may stand in an envelope, what may not, and that the quick way never disagrees with the full one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail import address
from bulkmail.address import address_bytes, ascii_domain, check_address, domain_of, parse_mailbox

LABEL_63 = "x" * 63
LOCAL_64 = "l" * 64


@pytest.mark.parametrize(
    "good",
    [
        "ann@example.com",
        "a@b",
        "first.last+tag@mail.some-company.co.uk",
        "!#$%&'*+-/=?^_`{|}~@example.com",
        "ANN@EXAMPLE.COM",
        "1@2.example",
        "-@example.com",
        f"{LOCAL_64}@example.com",
        f"a@{LABEL_63}.example",
        "a@xn--bcher-kva.example",
        '"john doe"@example.com',
        '"a@b"@example.com',
        '"a\\"b"@example.com',
        '""@example.com',
        '"<>,;:()[]"@example.com',
        "ann%example.org@example.com",
        "ann!bob@example.com",
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "müller@example.com",
        "用户@example.com",
    ],
)
def test_a_good_address_stays_as_it_is(good):
    assert check_address(good) == good


@pytest.mark.parametrize(
    ("given_text", "result"),
    [
        (" ann@example.com\r\n", "ann@example.com"),
        ("\tann@example.com", "ann@example.com"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@Bücher.Example", "a@xn--bcher-kva.example"),
        ("a@faß.de", "a@xn--fa-hia.de"),  # IDNA 2003 would send this to fass.de
        ("a@例え。jp", "a@xn--r8jz45g.jp"),
    ],
)
def test_white_space_goes_and_domains_become_a_labels(given_text, result):
    assert check_address(given_text) == result


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "empty"),
        ("  \r\n", "empty"),
        ("ann", "no @"),
        ("ann@", "nothing stands after"),
        ("@example.com", "nothing stands before"),
        ("a@b@c", "more than one @"),
        ("<a@b>", "'<' is not allowed"),
        ("Ann <a@b>", "a space is not allowed"),
        ("a b@c", "a space is not allowed"),
        ("a,b@c", "',' is not allowed"),
        (".a@b", "a dot"),
        ("a.@b", "a dot"),
        ("a..b@c", "a dot"),
        ("a@b..c", "a dot of its domain"),
        ("a@.b", "a dot of its domain"),
        ("a@b.", "a dot of its domain"),
        ("a@例え。jp。", "a dot of its domain"),
        ("a@-b.c", "hyphen"),
        ("a@b-.c", "hyphen"),
        ("a@b_c.d", "letters, digits and hyphens"),
        ("a@b c", "letters, digits and hyphens"),
        ("a@192.0.2.1", "brackets"),
        ("a@[192.0.2.256]", "literal"),
        ("a@[192.0.2.1", "literal"),
        ("a@[IPv6:192.0.2.1]", "literal"),
        ("a@[IPv6:fe80::1%eth0]", "literal"),
        ("a@[x:y]", "literal"),
        ("@a,@b:c@d", "source routes"),
        ("@a:b@c", "source routes"),
        ("<@a,@b:c@d>", "more than one @"),
        ("a:b@c", "':' is not allowed"),
        ("(comment)a@b", "'(' is not allowed"),
        ("a(comment)@b", "'(' is not allowed"),
        ("a@(comment)b", "letters, digits and hyphens"),
        ("a@b>", "letters, digits and hyphens"),
        ("a@b> SIZE=1", "letters, digits and hyphens"),
        ("postmaster", "no @"),
        ("a@[ 192.0.2.1]", "literal"),
        ("a@[192.0.2.1]b", "literal"),
        ("a@[192.0.2.01]", "literal"),
        ("a@[IPv6:2001:db8::1] x", "literal"),
        ('"a@b', "never closed"),
        ('"a"b@c', "after the closing quote"),
        (f"{LOCAL_64}l@b", "64 bytes"),
        ("ü" * 33 + "@b", "64 bytes"),
        (f"a@{LABEL_63}x.example", "63 characters"),
        (f"{LOCAL_64}@{'.'.join([LABEL_63] * 3)}", "at most 254"),
        ("a" * 5000, "at most 254"),
        ("a@" + "ü" * 250, "not a domain name"),
        ("a@☃.example", "not a domain name"),
        ("a\r\nRCPT TO:<x@y>@b", "line break"),
        ("a@b\ndata", "line break"),
        ("a\x00@b", "control character"),
        ('"a\x00"@b', "control character"),
        ("a\x7f@b", "control character"),
        ("\u200bann@b", "U+200B"),
        ("a\u00a0b@c", "U+00A0"),
        ("a\u202e@b", "U+202E"),
        ("a\u2066@b", "U+2066"),
        ("a\u200d@b", "U+200D"),
        ("a\ufeff@b", "U+FEFF"),
        ("a@b\u200b.c", "U+200B"),
        ('"\u200f"@b', "U+200F"),
        ("a@b＠c", "not a domain name"),
        ("a\u2028b@c", "U+2028"),
        ("a\x85b@c", "U+0085"),
        ("a\ud800@b", "surrogate"),
        (None, "must be text, not NoneType"),
        (b"a@b", "must be text, not bytes"),
        (5, "must be text, not int"),
    ],
)
def test_a_bad_address_is_refused_with_the_reason(bad, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        check_address(bad)
    assert str(caught.value).isprintable(), "an error must not carry control characters to a terminal"


def test_an_address_of_exactly_254_bytes_passes_and_255_does_not():
    domain = ".".join(["d" * 63, "d" * 63, "d" * 61])  # 189
    assert len(f"{LOCAL_64}@{domain}") == 254
    assert check_address(f"{LOCAL_64}@{domain}")
    with pytest.raises(ValueError, match="255 bytes"):
        check_address(f"{LOCAL_64}@{domain}d")


@given(st.text(alphabet='a1.-_@+"\\ []:é\n', max_size=20))
def test_the_quick_way_and_the_full_one_agree(text):
    try:
        full = address._check_fully(text)
    except ValueError:
        with pytest.raises(ValueError):
            check_address(text)
    else:
        assert check_address(text) == full


def test_every_ascii_character_is_atext_or_not_by_the_standard():
    """RFC 5322 section 3.2.3."""
    atext = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~")
    for character in map(chr, range(128)):
        text = f"a{character}é@b"  # é: the full check decides
        if character in atext | {"."}:
            assert check_address(text) == text
        else:
            with pytest.raises(ValueError):
                check_address(text)


@given(st.text(max_size=40))
def test_whatever_passes_cannot_break_the_command_line_it_stands_in(text):
    try:
        passed = check_address(text)
    except ValueError:
        return
    wire = address_bytes(passed)
    assert not any(byte < 32 or byte == 127 for byte in wire)
    assert check_address(passed) == passed
    assert domain_of(passed) == domain_of(passed).lower() and domain_of(passed).isascii()


@pytest.mark.parametrize(
    ("text", "name", "addr"),
    [
        ("ann@example.com", "", "ann@example.com"),
        ("<ann@example.com>", "", "ann@example.com"),
        ("Ann <ann@example.com>", "Ann", "ann@example.com"),
        ("  Ann   Lee\t<ann@example.com> ", "Ann Lee", "ann@example.com"),
        ('"Lee, Ann" <ann@example.com>', "Lee, Ann", "ann@example.com"),
        ('"Ann \\"A\\" Lee" <ann@example.com>', 'Ann "A" Lee', "ann@example.com"),
        ("Example, Inc. <news@example.com>", "Example, Inc.", "news@example.com"),
        ("ann@work <ann@example.com>", "ann@work", "ann@example.com"),
        ("Änne <a@bücher.example>", "Änne", "a@xn--bcher-kva.example"),
        ('"<" <"a<b>c"@example.com>', "<", '"a<b>c"@example.com'),
    ],
)
def test_a_name_and_its_address(text, name, addr):
    assert parse_mailbox(text) == (name, addr)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Ann", "no @"),
        ("Ann <ann>", "no @"),
        ("Ann <>", "empty"),
        ("Ann <a@b", "a space is not allowed"),
        ("Ann a@b>", "expected: Name <address>"),
        ("<a@b> <c@d>", "expected: Name <address>"),
        ('"Ann <a@b>', "expected: Name <address>"),
        ("a@b, Bob <c@d>", "several"),
        ("Ann\r\nBcc: x@y <a@b>", "line break"),
        ('"Ann\n" <a@b>', "line break"),
        ("Ann\x00 <a@b>", "control character"),
        ("Ann\ud800 <a@b>", "surrogate"),
        ("x" * 5000 + " <a@b>", "at most 4096"),
        (7, "must be text, not int"),
    ],
)
def test_what_is_not_one_mailbox_is_refused(text, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_mailbox(text)


def test_bytes_for_the_wire_are_ascii_or_utf8():
    assert address_bytes("ann@example.com") == b"ann@example.com"
    assert address_bytes("müller@example.com") == "müller@example.com".encode()


@pytest.mark.parametrize(
    ("addr", "domain"),
    [("Ann@Example.COM", "example.com"), ('"a@b"@C.de', "c.de"), ("a@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]")],
)
def test_the_domain_is_in_lower_case(addr, domain):
    assert domain_of(addr) == domain


def test_a_hostile_length_costs_no_time():
    """Each of these took seconds with a pattern that backtracks."""
    hostile = ("a" * 100_000 + "@", "a." * 50_000, '"' + "\\a" * 50_000, "a@" + "b-" * 50_000, '"a" ' * 1000 + "<a@b")
    for text in hostile:
        with pytest.raises(ValueError):
            check_address(text)
        with pytest.raises(ValueError):
            parse_mailbox(text)


def test_plain_addresses_load_no_tables():
    """The tables of IDNA and Unicode are paid for by lists that need them."""
    code = (
        "import sys; from bulkmail.address import *; check_address(' a@b.example'); parse_mailbox('A <a@b.c>');"
        "print([m for m in ('idna', 'unicodedata', 'ipaddress', 'email') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_ascii_domain_is_returned_as_it_is():
    assert ascii_domain("Example.COM") == "Example.COM"
