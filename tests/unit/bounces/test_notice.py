"""What comes back, read: the forms of the servers that write them, and whatever a stranger sends.

The samples in corpus/ have the form in which Postfix, Exim, sendmail, qmail (cr.yp.to/proto/qsbmf.txt), OpenSMTPD,
Postal, Exchange, Exchange Online, Gmail, Yahoo and Amazon SES write, and that of RFC 5965's reports by Yahoo, Comcast's
feedback loop and abusix; all names in them are made up. What Postfix and Exim write today is tested with the servers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.bounces import words
from bulkmail.bounces.meaning import judge
from bulkmail.bounces.notice import bare_address, read_notices, typed_address

CORPUS = Path(__file__).with_name("corpus")
FILES = sorted(CORPUS.glob("*.eml"))
ANN = ["ann@example.net"]

# file -> (kind, class, what it means, recipients, status) of each notice
EXPECTED = {
    "amazon-ses": [("bounce", "hard", "bad_recipient", ANN, "5.1.1")],
    "arf-abusix-8bit": [("complaint", None, None, ANN, None)],
    "arf-comcast-redacted": [("complaint", None, None, ["5b0c4b7f8d2e@comcast.example"], None)],
    "arf-not-spam": [("other", None, None, ANN, None)],
    "arf-yahoo": [("complaint", None, None, ["ann@yahoo.example"], None)],
    "exchange-2019": [("bounce", "hard", "bad_recipient", ANN, "5.1.10")],
    "exim-3-words": [
        ("bounce", "hard", "bad_recipient", ANN, "5.1.1"),
        ("bounce", "soft", "mailbox_full", ["bob@example.net"], None),
    ],
    "exim-4.96": [("bounce", "hard", "bad_recipient", ANN, "5.0.0")],
    "gmail": [("bounce", "hard", "bad_recipient", ANN, "5.1.1")],
    "human": [("other", None, None, [], None)],
    "office365-access-denied": [("bounce", "hard", "bad_recipient", ANN, "5.4.1")],
    "opensmtpd": [("bounce", "hard", "bad_recipient", ANN, "5.1.1")],
    "out-of-office-exchange": [("auto_reply", None, None, [], None)],
    "outlook-blocked": [("bounce", "blocked", "blocked", ["ann@hotmail.example"], "5.7.1")],
    "postal": [("bounce", "hard", "bad_recipient", ANN, "5.1.1")],
    "postfix-delayed": [("delayed", "soft", "network", ANN, "4.4.1")],
    "postfix-no-domain": [("bounce", "hard", "bad_recipient", ["ann@no-such-domain.example"], "5.4.4")],
    "postfix-success": [("delivered", None, None, ANN, "2.0.0")],
    "postfix-unknown-user": [
        ("bounce", "hard", "bad_recipient", ["ann+news@example.net", "ann+2Bnews@example.net", *ANN], "5.1.1")
    ],
    "postfix-utf8": [("bounce", "hard", "bad_recipient", ["jürgen@example.net"], "5.1.1")],
    "qmail": [
        ("bounce", "hard", "bad_recipient", ANN, "5.1.1"),
        ("bounce", "soft", "network", ["bob@example.net"], "5.4.6"),
    ],
    "sendmail-8": [("bounce", "soft", "mailbox_full", ANN, "5.2.2")],
    "vacation-sieve": [("auto_reply", None, None, [], None)],
    "yahoo": [("bounce", "hard", "inactive", ANN, "5.0.0")],
}  # fmt: skip
BY_LIBRARY = {"exchange-5.5-words": [("bounce", "hard", "bad_recipient", ANN, None)]}


def shape(data: bytes) -> list[tuple[object, ...]]:
    return [(one.kind, *judge(one), one.recipients, one.status) for one in read_notices(data)]


def test_every_sample_is_expected() -> None:
    assert {file.stem for file in FILES} == EXPECTED.keys() | BY_LIBRARY.keys()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", EXPECTED)
def test_each_servers_form_is_understood(name: str, newline: bytes) -> None:
    data = (CORPUS / f"{name}.eml").read_bytes().replace(b"\n", newline)
    assert shape(data) == EXPECTED[name]


@pytest.mark.parametrize("name", BY_LIBRARY)
def test_forms_in_words_are_left_to_the_library(name: str) -> None:
    pytest.importorskip("flufl.bounce", reason="the extra bulkmail[bounces] is not installed")
    assert shape((CORPUS / f"{name}.eml").read_bytes()) == BY_LIBRARY[name]


def test_what_finds_the_recipient_comes_along() -> None:
    (notice,) = read_notices((CORPUS / "postfix-unknown-user.eml").read_bytes())
    assert notice.envid == "1a2b3c.4d5e6f.42"
    assert notice.message_ids == ["<sample.aaaa.16@example.com>"]
    assert notice.sent_to == ["bounce+42@bounces.example.com"]
    assert notice.remote == "mail.example.net"
    assert notice.code == 550 and notice.reply is not None and notice.reply.startswith("5.1.1 <ann@example.net>: Rec")
    (answer,) = read_notices((CORPUS / "out-of-office-exchange.eml").read_bytes())
    assert answer.message_ids == ["<sample.aaaa.16@example.com>"]


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"arf-not-spam", "human", "amazon-ses", "vacation-sieve"}))
def test_the_returned_messages_id_is_found_in_every_form(name: str) -> None:
    for notice in read_notices((CORPUS / f"{name}.eml").read_bytes()):
        assert notice.message_ids == ["<sample.aaaa.16@example.com>"]


@pytest.mark.parametrize(
    ("value", "encoded", "address"),
    [
        ("rfc822; ann@example.net", False, "ann@example.net"),
        ("rfc822;ann+42@example.net", False, "ann+42@example.net"),
        ("rfc822;ann+2B42@example.net", True, "ann+42@example.net"),
        ("RFC822; <ann@example.net> (Ann)", False, "ann@example.net"),
        (r"utf-8; j\x{FC}rgen@example.net", False, "jürgen@example.net"),
        (r"utf-8; \x{110000}\x{D800}@example.net", False, "\N{REPLACEMENT CHARACTER}" * 2 + "@example.net"),
        ("ann@example.net", False, "ann@example.net"),
        ("X400; /c=us/o=x", False, None),
        ("rfc822; ann", False, None),
        ("rfc822; ann\x1b[31m@example.net", False, None),
        ("rfc822; a b@example.net", False, None),
        ("", False, None),
    ],
)
def test_typed_addresses(value: str, encoded: bool, address: str | None) -> None:
    assert typed_address(value, encoded) == address


def test_addresses_with_names_around() -> None:
    assert bare_address('"Ann <x>" <ann@example.net>') == "ann@example.net"
    assert bare_address("mailto:ann@example.net") == "ann@example.net"
    assert bare_address("a@b, c@d") is None


# ---- what is no proof -------------------------------------------------------------------------------------------


def dsn(**group: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in group.items())
    return (
        "From: MAILER-DAEMON@x.example\nContent-Type: multipart/report; boundary=b\n\n"
        "--b\nContent-Type: text/plain\n\nno\n--b\nContent-Type: message/delivery-status\n\n"
        f"Reporting-MTA: dns; x\n\nFinal-Recipient: rfc822; ann@example.net\n{lines}\n--b--\n"
    ).encode()


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({"Action": "failed"}, "soft"),  # nothing is told
        ({"Action": "failed", "Status": "5.0.0"}, "soft"),
        ({"Action": "failed", "Diagnostic_Code": "smtp; 550 no"}, "soft"),
        ({"Action": "failed", "Status": "5.1.1"}, "hard"),
        ({"Action": "failed", "Status": "5.1.2"}, "hard"),
        ({"Action": "failed", "Status": "5.4.7", "Diagnostic_Code": "smtp; 450 4.2.0 greylisted"}, "soft"),
        ({"Action": "failed", "Status": "4.4.7"}, "soft"),
        ({"Action": "failed", "Status": "5.2.2"}, "soft"),
        ({"Action": "failed", "Status": "5.7.1", "Diagnostic_Code": "smtp; 554 5.7.1 spam rejected"}, "blocked"),
        ({"Action": "failed", "Status": "5.7.26"}, "blocked"),
        ({"Action": "failed", "Status": "5.7.1"}, "blocked"),
        ({"Action": "delayed", "Status": "5.1.1"}, "soft"),
        ({"Status": "5.1.1"}, "hard"),  # no Action: the status says it
        ({"Action": "failed (nondelivery)", "Status": "5.1.1 (bad destination mailbox address)"}, "hard"),
    ],
)  # fmt: skip
def test_only_what_proves_that_nobody_is_there_is_hard(group: dict[str, str], expected: str) -> None:
    (notice,) = read_notices(dsn(**group))
    assert judge(notice)[0] == expected


def test_a_person_who_quotes_a_bounce_is_no_bounce() -> None:
    text = (CORPUS / "qmail.eml").read_bytes().partition(b"\n\n")[2]
    quoted = b"".join(b"> " + line for line in text.splitlines(keepends=True))
    data = b"From: ann@example.net\nTo: news@example.com\nSubject: what is this?\n\nI got this:\n" + quoted
    assert [one.kind for one in read_notices(data)] == ["other"]


def test_a_bounce_that_was_forwarded_is_not_read_as_one() -> None:
    inner = (CORPUS / "sendmail-8.eml").read_bytes()
    data = b"From: ann@example.net\nContent-Type: message/rfc822\n\n" + inner
    assert [one.kind for one in read_notices(data)] == ["other"]


# ---- hostile -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cut_anywhere_it_is_read_without_an_error(file: Path) -> None:
    data = file.read_bytes()
    for at in range(0, len(data), 7):
        assert read_notices(data[:at])
        assert read_notices(data[at:])


@given(st.binary(max_size=400), st.sampled_from(FILES), st.integers(0, 3000))
@settings(max_examples=60)
def test_garbage_anywhere_is_no_error(garbage: bytes, file: Path, at: int) -> None:
    data = file.read_bytes()
    for one in read_notices(data[:at] + garbage + data[at:]):
        assert one.kind and all(text.isprintable() for text in one.recipients)
        judge(one)


def test_multiparts_without_end_are_read_quickly() -> None:
    deep = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (n, n) for n in range(20_000))
    wide = (
        b"Content-Type: multipart/report; boundary=b\n\n"
        + b"--b\nContent-Type: message/delivery-status\n\na: b\n" * 20_000
    )
    many = dsn().replace(b"--b--", b"\nFinal-Recipient: rfc822; a@b.example\nAction: failed\n" * 20_000 + b"--b--")
    for data in (deep, wide, many):
        assert 1 <= len(read_notices(data)) <= 1000


@pytest.mark.parametrize("filler", [b"\n", b"=\n", b"  \n", b"a@\n", b"-\n"])
def test_lines_without_end_are_not_all_shown_to_the_library(monkeypatch: pytest.MonkeyPatch, filler: bytes) -> None:
    shown: list[int] = []

    def all_failures(message: Any) -> tuple[set[bytes], set[bytes]]:
        shown.append(message.as_bytes().count(b"\n"))
        return set(), set()

    monkeypatch.setitem(sys.modules, "flufl.bounce", SimpleNamespace(all_failures=all_failures))
    assert [one.kind for one in read_notices(b"From: MAILER-DAEMON@a.example\n\n" + filler * 100_000)] == ["other"]
    assert len(shown) == 1 and shown[0] <= words.MAX_LINES_FOR_LIBRARY


def test_control_characters_do_not_come_through() -> None:
    (notice,) = read_notices(dsn(Action="failed", Diagnostic_Code="smtp; 550 \x1b[2J\x00 =cmd"))
    assert notice.reply is not None and notice.reply.isprintable()
