"""No text that an envelope accepts can be anything but the parameter or address that it was meant to be.

The command lines are read back with the grammar of the standards, written down here a second time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from bulkmail.errors import ConfigError, EnvelopeRefused
from bulkmail.smtp.envelope import DeliverBy, Dsn, Envelope, Recipient, wire_envelope
from bulkmail.smtp.parameters import mail_asks, rcpt_parameters

# RFC 5321 section 4.1.2, with UTF8-non-ascii of RFC 6531 section 3.3; C1 controls have no business in either.
UTF8 = "\u00a0-\ud7ff\ue000-\U0010ffff"
ATOM = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{UTF8}]+"
QUOTED = rf'"(?:[ !#-\[\]-~{UTF8}]|\\[ -~{UTF8}])*"'
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
LITERAL = r"\[(?:\d{1,3}(?:\.\d{1,3}){3}|[Ii][Pp][Vv]6:[0-9A-Fa-f:.]+)\]"
MAILBOX = rf"(?:{ATOM}(?:\.{ATOM})*|{QUOTED})@(?:{LABEL}(?:\.{LABEL})*|{LITERAL})"
# Sections 4.1.2 and 4.1.1.11 again: a keyword, and a value without "=", space or control.
PARAMETERS = r"(?: [A-Z0-9][A-Z0-9-]*(?:=[!-<>-~]+)?)*"
mail_line = re.compile(rf"MAIL FROM:<(?:{MAILBOX})?>{PARAMETERS}\r\n").fullmatch
rcpt_line = re.compile(rf"RCPT TO:<(?:{MAILBOX}|[Pp][Oo][Ss][Tt][Mm][Aa][Ss][Tt][Ee][Rr])>{PARAMETERS}\r\n").fullmatch

nasty = st.text(alphabet='ab1.-_@+=;,:"\\ <>[]()%\r\n\0\t\x7f\x85é用\u200b\u2028\ud800{}', max_size=30)
anything = st.one_of(nasty, st.text(max_size=40), st.text(max_size=600))
address = st.one_of(
    anything,
    st.builds("{}@{}".format, anything, st.sampled_from(["b.c", "[192.0.2.1]", "bücher.example"])),
    st.builds('"{}"@{}'.format, nasty, st.sampled_from(["b.c", "b>c", "b c"])),
    st.builds("a@{}".format, nasty),
)


@given(address, address)
@example("", "postmaster")
@example('"a>\r\nDATA"@b', "a@b")
@example("a@b> SIZE=1", "a@b")
def test_an_address_that_is_sent_is_one_path_and_nothing_more(sender, recipient):
    try:
        wire_sender, (rcpt,) = wire_envelope(sender, [recipient])
    except EnvelopeRefused as refused:
        assert str(refused).isprintable()
        return
    assert mail_line(f"MAIL FROM:<{wire_sender.decode()}>\r\n")
    assert rcpt_line(f"RCPT TO:<{rcpt.decode()}>\r\n")


@given(address)
def test_a_path_is_only_ascii_beyond_its_local_part(recipient):
    try:
        _, (rcpt,) = wire_envelope("", [recipient])
    except EnvelopeRefused:
        return
    assert rcpt.rpartition(b"@")[2].isascii() and len(rcpt) <= 254


@given(anything)
@example("a\r\nRCPT TO:<x@y>")
@example("+2B")
def test_an_envelope_id_is_one_parameter_and_comes_back(envid):
    try:
        (ask,) = mail_asks(Envelope("", [], dsn=Dsn("full", envid)))
    except ConfigError as refused:
        assert str(refused).isprintable()
        return
    line = f"MAIL FROM:<>{ask.parameter.decode('ascii')}\r\n"
    assert mail_line(line) and line.count(" ") == 3
    value = ask.parameter.split(b" ENVID=")[1]
    assert re.sub(rb"\+([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), value).decode() == envid


@given(st.one_of(anything, address, st.builds("{};{}".format, st.sampled_from(["rfc822", "utf-8", "x-y"]), anything)))
@example("utf-8;\\x{41}")
@example("rfc822;a@b NOTIFY=NEVER")
@example("utf-8;ü@b NOTIFY=NEVER")
def test_an_original_recipient_is_one_parameter_and_comes_back(orcpt):
    try:
        (parameter,) = rcpt_parameters(Envelope("", [Recipient("a@b", "never", orcpt)]))
    except ConfigError as refused:
        assert str(refused).isprintable()
        return
    line = f"RCPT TO:<a@b>{parameter.decode('ascii')}\r\n"
    assert rcpt_line(line) and line.count(" ") == 3
    kind, _, value = parameter.decode().split(" ORCPT=")[1].partition(";")
    assert len(kind) + 1 + len(value) <= 500
    decode = r"\\x\{([0-9A-F]{2,6})\}" if kind.lower() == "utf-8" else r"\+([0-9A-F]{2})"
    original = re.sub(decode, lambda found: chr(int(found[1], 16)), value)
    if orcpt.startswith(f"{kind};"):
        assert f"{kind};{original}" == orcpt
    else:
        assert wire_envelope("", [orcpt]) == (b"", [original.encode()])


@given(
    st.builds(
        Envelope,
        st.just("a@b"),
        st.just([]),
        require_tls=st.booleans(),
        deliver_by=st.none()
        | st.builds(DeliverBy, st.integers(1, 10**9 - 1), st.sampled_from(["return", "notify"]), st.booleans()),
        mt_priority=st.none() | st.integers(-9, 9),
        hold_until=st.none() | st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),
    )
)
def test_everything_else_is_parameters_too(envelope):
    parameters = b"".join(ask.parameter for ask in mail_asks(envelope) or ())
    assert mail_line(f"MAIL FROM:<a@b>{parameters.decode('ascii')}\r\n")


@given(anything)
def test_whatever_a_server_announces_the_checks_answer(announced):
    for options in ({"deliver_by": DeliverBy(5)}, {"hold_for": 5}, {"hold_until": "2030-01-01T00:00:00Z"}):
        (ask,) = mail_asks(Envelope("", [], **options))
        problem = ask.check(announced)
        assert problem is None or problem.isprintable()
