"""What replies of real servers mean: whose fault it is, and in one word which kind."""

from __future__ import annotations

import pytest

from bulkmail.job.classify import LOGIN_CODES, classify
from bulkmail.wire.reply import Reply


def meaning(text, command="RCPT"):
    return tuple(classify(Reply(int(text[:3]), [text[4:]]), command))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("550 5.1.1 <x@gmail.com>: The email account that you tried to reach does not exist", "bad_recipient"),
        ("550 5.1.2 Host or domain name not found", "bad_recipient"),
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found", "bad_recipient"),
        ("550 No such user here", "bad_recipient"),
        ("450 4.2.1 The user you are trying to contact is receiving mail too quickly", "inactive"),
        ("452 4.2.2 The email account that you tried to reach is over quota", "mailbox_full"),
        ("552 5.2.2 Mailbox full", "mailbox_full"),
        ("452 Requested action not taken: insufficient system storage", "mailbox_full"),
        ("450 4.2.0 <x>: Recipient address rejected: Greylisted, see http://postgrey", "greylisted"),
        ("451 4.7.1 Greylisting in action, please come back later", "greylisted"),
        ("552 5.3.4 Message size exceeds fixed limit", "too_large"),
        ("550 5.7.1 Message rejected due to policy", "policy"),
        ("421 4.7.0 Try again later, closing connection", "policy"),
        ("451 4.3.0 Error: queue file write error", "system"),
        ("550 no enhanced code, no hint", "bad_recipient"),
        ("450 no enhanced code, no hint", "mailbox"),
    ],
)
def test_a_recipients_trouble(text, kind):
    assert meaning(text) == (kind, False)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("554 5.7.1 <x@example.com>: Relay access denied", "RCPT"),
        ("550 relay not permitted", "RCPT"),
        ("550 5.7.1 Unable to relay", "RCPT"),
        ("530 5.7.0 Must issue a STARTTLS command first", "MAIL"),
        ("530 5.7.0 Authentication required", "MAIL"),
        ("535 5.7.8 bad credentials", "MAIL"),
        ("553 5.7.1 <a@b>: Sender address rejected: not owned by user", "MAIL"),
        ("501 5.1.7 Bad sender address syntax", "MAIL"),
    ],
)
def test_our_own_trouble(text, command):
    assert meaning(text, command)[1]


@pytest.mark.parametrize("code", LOGIN_CODES)
def test_a_missing_login_is_ours_wherever_it_is_said(code):
    assert meaning(f"{code} log in first", "RCPT") == ("auth", True)


def test_what_passes_is_never_ours():
    """A 4xx to MAIL may be a full disk or a look-up that failed: the relay is not to be given up for it."""
    assert not meaning("451 4.1.8 cannot look up the sender's domain", "MAIL")[1]
    assert not meaning("450 4.7.1 relay access denied for now", "RCPT")[1]


def test_a_lost_connection_is_nobodys_refusal():
    assert tuple(classify(None, None)) == ("connection", False)


def test_the_content_is_what_is_refused_at_the_end_of_data():
    assert meaning("554 rejected", "end of data") == ("content", False)
    assert meaning("554 5.6.0 bad MIME", "end of data") == ("content", False)
