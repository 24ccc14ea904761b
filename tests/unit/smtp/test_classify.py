"""What replies of real servers mean: kind, scope, permanence, whose fault; hostile ones; what becomes of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.errors import CONNECTION, JOB, MESSAGE, RECIPIENT, RELAY, BulkmailError, EnvelopeRefused, MessageRefused
from bulkmail.smtp import classify as module
from bulkmail.smtp.classify import LONGEST_WAIT, MAX_TEXT, SHORTEST_WAIT, classify, refused, retry_after, rules
from bulkmail.wire.reply import Reply, ReplyReader

SEEN = Path(__file__).with_name("replies_seen.txt")
COMMANDS = [None, "greeting", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "end of data", "?"]


def reply(text):
    """A reply from its code and text, "\\n" between lines."""
    return Reply(int(text[:3]), text[4:].split("\\n"))


def meaning(text, command="RCPT"):
    return classify(reply(text), command)


def seen():
    for line in SEEN.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, scope, command, text = line.split(" ", 3)
            yield kind, scope, command.replace("-", " "), text


def test_a_hundred_and_more_replies_were_seen_and_they_are_no_examples_of_rules():
    texts = [(command, text) for *_, command, text in seen()]
    assert len(texts) == len(set(texts)) > 100
    examples = {example.split("> ")[-1] for rule in rules() for example in rule.examples}
    assert not examples & {text.replace("\\n", "\n") for _, text in texts}


@pytest.mark.parametrize(("kind", "scope", "command", "text"), list(seen()))
def test_a_reply_of_a_real_server(kind, scope, command, text):
    found = meaning(text, command)
    assert (found.kind, found.scope) == (kind, scope), found.rule


@pytest.mark.parametrize(
    ("text", "command", "kind"),
    [
        ("452 Requested action not taken: insufficient system storage", "RCPT", "system"),
        ("451 4.3.0 Error: queue file write error", "RCPT", "system"),
        ("550 5.7.1 Message rejected due to policy", "RCPT", "policy"),
        ("554 5.6.0 bad MIME", "end of data", "content"),
        ("554 rejected", "end of data", "content"),
        ("550 no enhanced code, no hint", "RCPT", "bad_recipient"),
        ("450 no enhanced code, no hint", "RCPT", "mailbox"),
        ("451 4.1.8 cannot look up the sender's domain", "MAIL", "sender"),
    ],
)
def test_a_reply_without_a_rule_of_its_own_is_told_by_its_codes(text, command, kind):
    assert meaning(text, command).kind == kind


# ---- whose fault, and for how long


@pytest.mark.parametrize(
    "text",
    [
        "554 5.7.1 <x@example.com>: Relay access denied",
        "550 relay not permitted",
        "550 5.7.1 Unable to relay",
        "530 5.7.0 Must issue a STARTTLS command first",
        "535 5.7.8 bad credentials",
        "550 5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy",
        "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus",
        "421 4.7.28 Our system has detected an unusual rate of unsolicited mail",
        "550 5.7.1 Daily sending quota exceeded",
        "554 5.7.1 Spam message rejected",
    ],
)
def test_what_is_about_us_is_never_held_against_the_recipient(text):
    assert meaning(text).ours


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 <x@example.com>: User unknown",
        "552 5.2.2 Mailbox full",
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly",
        "450 4.2.0 <x@example.com>: Recipient address rejected: Greylisted",
        "451 4.3.0 later",
    ],
)
def test_what_is_about_the_recipient_or_the_server_is_not_ours(text):
    assert not meaning(text).ours


@pytest.mark.parametrize("code", [530, 534, 535, 538])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "end of data"])
def test_a_missing_login_is_ours_wherever_it_is_said(code, command):
    found = meaning(f"{code} log in first", command)
    assert (found.kind, found.scope, found.ours) == ("auth", RELAY, True)


@pytest.mark.parametrize(
    ("text", "permanent"),
    [
        ("550 5.1.1 no", True),
        ("552 5.2.2 mailbox full", True),
        ("452 4.2.2 mailbox full", False),
        ("550 5.7.1 messages weren't sent, your network is on our block list", True),
        ("421 4.7.0 very low reputation of the sending IP", False),
        ("421 5.7.32 Your email was blocked because the From: header isn't aligned", False),
        ("421 4.7.1 [TS03] All messages will be permanently deferred; Retrying will NOT succeed", True),
        ("550 5.2.1 The user is receiving email at a rate that prevents additional messages", False),
        ("550 5.4.5 Daily user sending limit exceeded", False),
        ("552 5.5.3 too many recipients", False),
        ("550 5.7.1 Graylisted, try again in 5 minutes", False),
        ("550 5.1.1 no such user, see http://greylist.example/why", True),
    ],
)
def test_the_code_says_whether_it_is_permanent_except_for_what_passes(text, permanent):
    assert meaning(text).permanent is permanent


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("550 5.1.1 unknown", RECIPIENT),
        ("450 4.2.1 The user is receiving mail too quickly", RECIPIENT),
        ("553 5.7.1 Sender address rejected: not owned by user ann", MESSAGE),
        ("421 Max message per connection reached", CONNECTION),
        ("421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred", RELAY),
        ("550 5.7.1 [192.0.2.1] very low reputation of the sending IP address", RELAY),
        ("550 5.7.1 [192.0.2.1] very low reputation of the sending domain", JOB),
        ("550 5.7.515 sending domain does not meet the required authentication level", JOB),
    ],
)
def test_the_scope_is_what_the_reply_blames(text, scope):
    assert meaning(text).scope == scope


@pytest.mark.parametrize(
    ("command", "scope"),
    [
        ("RCPT", RECIPIENT),
        ("MAIL", MESSAGE),
        ("DATA", MESSAGE),
        ("end of data", MESSAGE),
        ("greeting", RELAY),
        (None, MESSAGE),
    ],
)
def test_a_reply_that_blames_nothing_ends_what_the_command_was_about(command, scope):
    assert meaning("451 4.3.0 later", command).scope == scope


# ---- how long to wait


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("450 4.7.1 Greylisted for 5 minutes", 300),
        ("451 4.7.1 Greylisting in action, please come back in 00:04:59", 299),
        ("450 Greylisted, try again in 90 seconds", 90),
        ("451 4.7.1 too many messages, please retry after 2 hours", 7200),
        ("450 4.7.1 greylisted, wait 1h", 3600),
        ("450 4.2.0 Greylisted, see http://postgrey.example/5m", 300),
        ("454 Throttling failure: Daily message quota exceeded", 600),
        ("450 4.7.1 Greylisted for 0 seconds", SHORTEST_WAIT),
        ("450 4.7.1 Greylisted for 999999 hours", LONGEST_WAIT),
        ("451 4.3.0 try again later", None),
        ("451 4.3.0 waited for 192.0.2.1 s", None),
        ("421 4.7.28 unusual rate", 600),
        ("550 5.1.1 unknown, try again in 5 minutes", None),
    ],
)
def test_a_time_that_the_server_names_goes_before_the_rules_and_is_bounded(text, seconds):
    assert meaning(text).retry_after == seconds
    assert retry_after(reply(text), "RCPT") == seconds


# ---- texts that mislead


@pytest.mark.parametrize(
    "address", ["spam@greylist.example", "dmarc-spf-dkim@rate.limit", "mailbox.full@blacklist.test"]
)
def test_an_address_in_the_text_decides_nothing(address):
    assert meaning(f"550 5.1.1 <{address}>: Recipient address rejected: User unknown").kind == "bad_recipient"
    assert meaning(f"450 4.1.1 <{address}> not now").kind == "bad_recipient"


def test_a_sentence_that_is_cut_by_enhanced_codes_is_read_as_one():
    text = "421-4.7.0 It is suspicious due to the very low\\n4.7.0 reputation of the\\n4.7.0   sending IP address."
    assert meaning(text).rule == "gmail-reputation-ip"


@pytest.mark.parametrize("text", ["550 #5.1.1 sorry", "550 [5.1.1] sorry", "550 (#5.1.1) sorry", "550 5.1.1: sorry"])
def test_an_enhanced_code_is_seen_in_its_disguises(text):
    assert meaning(text, "end of data").rule == "x.1-recipient"


# ---- hostile replies

FLOODS = [
    "a", " ", "-", "@", "<@>", ".", "5.1.1 ", "spf ", "your ip ", "daily ", "exceeded ", "sender ", "mailbox ", "\t",
    "account ", "rate ", "user account mailbox recipient ", "daily limit ", "greylisted for ", "again ", "wait 1",
    "\u0130", "\ufffd", "ip address ", "as an ", "not ", "client host ", "listed at ",
]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_reply_as_long_as_can_be_is_judged_by_its_beginning(flood):
    text = (flood * 65536)[:65536]
    for code in (421, 450, 550, 554):
        for command in ("MAIL", "RCPT"):
            whole = classify(Reply(code, [text]), command)
            assert whole == classify(Reply(code, [text[: 2 * MAX_TEXT]]), command)


def test_what_stands_behind_the_bound_is_not_looked_at():
    near, far = "x " * 20, "x " * MAX_TEXT
    assert meaning(f"550 {near} user unknown", "end of data").kind == "bad_recipient"
    assert meaning(f"550 {far} user unknown", "end of data").kind == "content"
    assert meaning("550 " + "\\n".join([far, "user unknown"]), "end of data").kind == "content"


def test_a_flood_of_replies_leaves_nothing_behind():
    for number in range(2000):
        meaning(f"550 5.{number % 1000}.{number // 2} {number} {'x' * 900}")
    for remembering in (module._meaning, module._candidates):
        info = remembering.cache_info()
        assert info.currsize <= info.maxsize == module.REMEMBERED


lines = st.lists(st.text(max_size=80), max_size=5)
words = st.lists(
    st.sampled_from(sorted({text for rule in rules() for text in rule.text} | {"5.7.1", "4.2.2", "#5.1.0", "x@y"})),
    max_size=4,
).map(" ".join)


@given(code=st.integers(200, 399), lines=lines, command=st.sampled_from(COMMANDS))
def test_a_reply_that_refuses_nothing_is_never_classified(code, lines, command):
    assert classify(Reply(code, lines), command) is None


@given(code=st.integers(400, 599), lines=lines | words.map(lambda text: [text]), command=st.sampled_from(COMMANDS))
def test_every_refusal_means_something(code, lines, command):
    found = classify(Reply(code, lines), command)
    assert found.kind in {rule.kind for rule in rules()}
    assert found.scope in {RECIPIENT, MESSAGE, CONNECTION, RELAY, JOB}
    assert found.retry_after is None or (SHORTEST_WAIT <= found.retry_after <= LONGEST_WAIT and not found.permanent)
    if found.permanent != (code >= 500):
        rule = next(rule for rule in rules() if rule.id == found.rule)
        assert rule.permanent is found.permanent


@given(data=st.binary(max_size=300), code=st.sampled_from([b"421", b"450", b"550", b"554"]))
def test_no_bytes_of_a_server_break_it(data, code):
    (parsed,) = ReplyReader().replies(code + b" " + data.replace(b"\n", b" ") + b"\r\n")
    assert classify(parsed, "RCPT") is not None


# ---- errors


@pytest.mark.parametrize(
    ("text", "command", "kind", "scope", "permanent"),
    [
        ("550 5.1.1 unknown", "RCPT", "bad_recipient", RECIPIENT, True),
        ("450 4.7.1 greylisted", "RCPT", "greylisted", RECIPIENT, False),
        ("550 5.7.1 client host [192.0.2.1] blocked using spamhaus", "RCPT", "blocked", RELAY, True),
        ("530 5.7.0 Authentication required", "MAIL", "auth", RELAY, True),
        ("450 later", "MAIL", "sender", MESSAGE, False),
    ],
)
def test_an_error_says_what_its_reply_means(text, command, kind, scope, permanent):
    error = refused(EnvelopeRefused, "no", reply(text), command)
    assert (type(error), str(error), error.command, str(error.reply)) == (EnvelopeRefused, "no", command, text)
    assert (error.kind, error.scope, error.permanent) == (kind, scope, permanent)


@pytest.mark.parametrize(
    ("text", "scope"),
    [("552 5.2.2 mailbox full", RECIPIENT), ("554 5.7.1 virus found", RECIPIENT), ("530 log in first", RELAY)],
)
def test_a_verdict_on_one_copy_ends_no_more_than_that_copy_unless_it_blames_more(text, scope):
    """LMTP answers the end of data once for each recipient."""
    error = refused(MessageRefused, "no", reply(text), "end of data", message=RECIPIENT)
    assert (type(error), error.scope) == (MessageRefused, scope)


def test_an_error_for_a_reply_that_refuses_nothing_is_as_its_class_is():
    error = refused(MessageRefused, "no", Reply(354, ["go on"]), "end of data")
    assert (error.kind, error.scope, error.permanent) == (None, MESSAGE, False)


def test_an_error_without_a_reply_has_no_kind():
    assert BulkmailError("x").kind is None and EnvelopeRefused("x").kind is None
