"""The client's dialogue, bytes against bytes: what is written when, and what each reply, or none, means."""

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused, InDoubt, ProtocolError
from bulkmail.wire.client import Client
from bulkmail.wire.flight import COMMAND, NOTHING, VERDICT
from bulkmail.wire.transaction import DONE, IN_DOUBT, NOT_TAKEN, WAITING, Transaction

BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"
OK_ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n"
QUEUED = b"250 2.0.0 queued as 1\r\n"
LOST = ConnectionLost("gone")


def tx(number=0, rcpts=1, body=BODY, flags=0, sender=b"news@example.test"):
    return Transaction(sender, [b"u%d-%d@example.test" % (number, i) for i in range(rcpts)], body, flags, None, number)


def envelope(number=0, rcpts=1, sender=b"news@example.test"):
    lines = [
        b"MAIL FROM:<%s>" % sender,
        *(b"RCPT TO:<u%d-%d@example.test>" % (number, i) for i in range(rcpts)),
        b"DATA",
        b"",
    ]
    return b"\r\n".join(lines)


def out(client):
    """What is written now, as one bytes."""
    written = client.take_output()
    if written is None:
        return b""
    return written if isinstance(written, bytes) else b"".join(written)


def pipelined(*transactions):
    client = Client(True)
    for transaction in transactions:
        client.push(transaction, 0.0)
    return client


def done(client):
    finished, client.done = client.done, []
    return finished


# -- the steady state


def test_an_envelope_is_one_write_that_ends_with_data():
    assert out(pipelined(tx(0, rcpts=3))) == envelope(0, rcpts=3)


def test_body_dot_and_the_next_envelope_are_one_write():
    client = pipelined(tx(0), tx(1), tx(2))
    assert out(client) == envelope(0)
    client.feed(OK_ENVELOPE, 1.0)
    assert out(client) == BODY + envelope(1)
    client.feed(QUEUED + OK_ENVELOPE, 2.0)
    assert out(client) == BODY + envelope(2)
    client.feed(QUEUED + OK_ENVELOPE, 3.0)
    assert out(client) == BODY
    client.feed(QUEUED, 4.0)
    finished = done(client)
    assert [t.at for t in finished] == [0, 1, 2]
    assert all(t.state == DONE and t.judged and t.reply.code == 250 for t in finished)
    assert (finished[1].mail_at, finished[1].data_at, finished[1].done_at) == (1.0, 2.0, 3.0)
    assert client.waiting() == NOTHING


def test_the_verdict_alone_writes_nothing_until_the_envelope_is_answered():
    client = pipelined(tx(0), tx(1))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    out(client)
    client.feed(QUEUED, 2.0)
    assert out(client) == b""
    assert client.waiting() == COMMAND
    client.feed(OK_ENVELOPE, 3.0)
    assert out(client) == BODY


def test_a_transaction_pushed_while_a_verdict_is_awaited_goes_out_at_once():
    client = pipelined(tx(0))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    assert out(client) == BODY
    assert client.waiting() == VERDICT
    assert client.begins_at_once()
    client.push(tx(1), 1.5)
    assert out(client) == envelope(1)
    assert not client.begins_at_once()


def test_the_dialogue_does_not_depend_on_how_the_replies_are_cut():
    refused = b"250 Ok\r\n550 5.1.1 no\r\n554 5.5.1 no\r\n"
    turns = [OK_ENVELOPE, QUEUED + refused, b"250 reset\r\n" + OK_ENVELOPE, b"451 4.3.0 later\r\n"]

    def run(chunks):
        client = pipelined(tx(0), tx(1), tx(2))
        written = out(client)
        for chunk in chunks:
            client.feed(chunk, 1.0)
            written += out(client)
        return written, [(t.at, t.state, t.reply, t.command, t.rejected) for t in client.done]

    whole = run(turns)
    assert [(t[0], t[3]) for t in whole[1]] == [(0, "end of data"), (1, None), (2, "end of data")]
    stream = b"".join(turns)
    assert run([stream[i : i + 1] for i in range(len(stream))]) == whole
    for n, turn in enumerate(turns):
        for cut in range(len(turn)):
            assert run([*turns[:n], turn[:cut], turn[cut:], *turns[n + 1 :]]) == whole, (n, cut)


# -- refusals inside a group


def test_a_refused_recipient_is_rejected_and_the_others_go_on():
    client = pipelined(tx(0, rcpts=3))
    out(client)
    client.feed(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n", 1.0)
    assert out(client) == BODY
    client.feed(QUEUED, 2.0)
    (one,) = done(client)
    assert one.state == DONE
    assert list(one.rejected) == [1]
    assert one.rejected[1].code == 550
    assert one.reply.code == 250


def test_nobody_accepted_and_data_refused_needs_a_reset_before_the_next_mail():
    client = pipelined(tx(0, rcpts=2), tx(1))
    out(client)
    client.feed(b"250 ok\r\n550 a\r\n452 b\r\n554 no valid recipients\r\n", 1.0)
    (one,) = done(client)
    assert {place: reply.code for place, reply in one.rejected.items()} == {0: 550, 1: 452}
    assert one.reply is None
    assert out(client) == b"RSET\r\n" + envelope(1)
    client.feed(b"250 reset\r\n" + OK_ENVELOPE, 2.0)
    assert out(client) == BODY


def test_nobody_accepted_but_354_gets_a_lone_dot_whose_reply_decides_nothing():
    for verdict in (b"554 5.5.1 no valid recipients\r\n", b"250 taken anyway\r\n"):
        client = pipelined(tx(0), tx(1))
        out(client)
        client.feed(b"250 ok\r\n550 5.1.1 no\r\n354 go\r\n", 1.0)
        assert out(client) == b".\r\n" + envelope(1)
        client.feed(verdict + OK_ENVELOPE, 2.0)
        (one,) = done(client)
        assert one.state == DONE
        assert not one.judged
        assert one.rejected[0].code == 550
        assert out(client) == BODY


def test_mail_refused_decides_for_all_recipients_and_needs_no_reset():
    client = pipelined(tx(0, rcpts=2), tx(1))
    out(client)
    client.feed(b"550 5.7.1 not you\r\n503 mail?\r\n503 mail?\r\n503 mail?\r\n", 1.0)
    (one,) = done(client)
    assert (one.state, one.command, one.reply.code, one.rejected) == (DONE, "MAIL", 550, None)
    assert out(client) == envelope(1)


def test_mail_refused_but_354_gets_a_lone_dot():
    client = pipelined(tx(0))
    out(client)
    client.feed(b"550 not you\r\n503 mail?\r\n354 go on\r\n", 1.0)
    assert out(client) == b".\r\n"
    client.feed(b"250 thanks\r\n", 1.0)
    (one,) = done(client)
    assert (one.command, one.reply.code, one.judged) == ("MAIL", 550, False)


def test_data_refused_decides_for_those_accepted():
    client = pipelined(tx(0, rcpts=2), tx(1))
    out(client)
    client.feed(b"250 ok\r\n250 ok\r\n550 no\r\n451 4.3.0 later\r\n", 1.0)
    (one,) = done(client)
    assert (one.state, one.command, one.reply.code) == (DONE, "DATA", 451)
    assert list(one.rejected) == [1]
    assert out(client) == b"RSET\r\n" + envelope(1)


def test_a_refusal_at_the_dot_does_not_touch_the_next_transaction():
    client = pipelined(tx(0), tx(1))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    out(client)
    client.feed(b"554 5.7.1 spam\r\n" + OK_ENVELOPE, 2.0)
    (one,) = done(client)
    assert (one.command, one.reply.code, one.judged) == ("end of data", 554, True)
    assert out(client) == BODY
    client.feed(QUEUED, 3.0)
    assert done(client)[0].reply.code == 250


# -- 421, losses, and peers that break SMTP


@pytest.mark.parametrize(
    "replies",
    [b"421 4.3.2 bye\r\n", b"250 ok\r\n421 4.3.2 bye\r\n", b"250 ok\r\n250 ok\r\n421 4.3.2 bye\r\n"],
    ids=["MAIL", "RCPT", "DATA"],
)
def test_421_in_an_envelope_means_that_it_and_all_behind_it_were_not_taken(replies):
    client = pipelined(tx(0), tx(1), tx(2))
    out(client)
    client.feed(replies, 1.0)
    assert client.closing
    assert out(client) == b""
    client.lost(LOST, 0, 2.0)
    finished = done(client)
    assert [(t.at, t.state, t.reply.code) for t in finished] == [(n, NOT_TAKEN, 421) for n in range(3)]
    assert isinstance(finished[0].error, ConnectionLost)


def test_421_at_the_dot_refuses_that_message_and_takes_nothing_behind_it():
    client = pipelined(tx(0), tx(1), tx(2))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    out(client)
    client.feed(b"421 4.7.0 too many\r\n", 2.0)
    client.lost(LOST, 0, 2.0)
    finished = done(client)
    assert [(t.at, t.state) for t in finished] == [(0, DONE), (1, NOT_TAKEN), (2, NOT_TAKEN)]
    assert finished[0].reply.code == 421


def test_421_out_of_the_blue_closes_without_blame():
    client = Client(True)
    client.feed(b"421 4.4.2 idle too long\r\n", 1.0)
    assert client.closing
    assert client.farewell.code == 421


def test_lost_in_an_envelope_is_not_taken():
    for got in (b"", b"250 ok\r\n", b"250 ok\r\n250 ok\r\n", b"250 ok\r\n550 no\r\n"):
        client = pipelined(tx(0), tx(1))
        out(client)
        client.feed(got, 1.0)
        client.lost(LOST, 0, 1.0)
        assert [t.state for t in done(client)] == [NOT_TAKEN, NOT_TAKEN]


def test_lost_after_the_dot_was_written_is_in_doubt_and_the_next_not_taken():
    client = pipelined(tx(0), tx(1))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    out(client)
    client.lost(LOST, 0, 2.0)
    first, second = done(client)
    assert first.state == IN_DOUBT
    assert isinstance(first.error, InDoubt)
    assert first.error.__cause__ is LOST
    assert second.state == NOT_TAKEN


def test_lost_while_the_dot_was_still_in_our_buffer_is_not_taken():
    behind = len(envelope(1))
    for unsent, state in ((0, IN_DOUBT), (behind, IN_DOUBT), (behind + 1, NOT_TAKEN), (behind + len(BODY), NOT_TAKEN)):
        client = pipelined(tx(0), tx(1))
        out(client)
        client.feed(OK_ENVELOPE, 1.0)
        out(client)
        client.lost(LOST, unsent, 2.0)
        assert done(client)[0].state == state, unsent


def test_lost_after_a_lone_dot_leaves_the_refusals_standing():
    client = pipelined(tx(0))
    out(client)
    client.feed(b"250 ok\r\n550 no\r\n354 go\r\n", 1.0)
    out(client)
    client.lost(LOST, 0, 1.0)
    (one,) = done(client)
    assert one.state == DONE
    assert one.rejected[0].code == 550


@pytest.mark.parametrize(
    ("before", "bad"),
    [
        (OK_ENVELOPE, b"354 again\r\n"),
        (b"250 ok\r\n250 ok\r\n", b"250 data?\r\n"),
        (b"250 ok\r\n250 ok\r\n550 no\r\n", b"250 and another\r\n"),
        (b"250 ok\r\n250 ok\r\n", b"354 go\r\n250 taken before it was sent\r\n"),
        (b"", b"\xff\xfe\r\n"),
    ],
    ids=["354 at the dot", "250 to DATA", "reply to nothing", "verdict before the message", "no reply at all"],
)
def test_a_peer_that_breaks_smtp_is_a_protocol_error(before, bad):
    client = pipelined(tx(0))
    out(client)
    client.feed(before, 1.0)
    with pytest.raises(ProtocolError):
        client.feed(bad, 1.0)


# -- one command at a time


def test_without_pipelining_there_is_one_command_at_a_time():
    client = Client(False)
    client.push(tx(0, rcpts=2), 0.0)
    client.push(tx(1), 0.0)
    written = [out(client)]
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"550 no\r\n", b"354 go\r\n", QUEUED):
        client.feed(reply, 1.0)
        written.append(out(client))
    mail = b"MAIL FROM:<news@example.test>\r\n"
    assert written == [
        mail,
        b"RCPT TO:<u0-0@example.test>\r\n",
        b"RCPT TO:<u0-1@example.test>\r\n",
        b"DATA\r\n",
        BODY,
        mail,
    ]
    (one,) = done(client)
    assert one.reply.code == 250
    assert list(one.rejected) == [1]


def test_without_pipelining_a_refused_mail_asks_nothing_more_of_that_transaction():
    client = Client(False)
    client.push(tx(0), 0.0)
    client.push(tx(1), 0.0)
    out(client)
    client.feed(b"550 not you\r\n", 1.0)
    assert out(client) == b"MAIL FROM:<news@example.test>\r\n"
    assert done(client)[0].command == "MAIL"


def test_without_pipelining_no_data_is_sent_when_nobody_was_accepted():
    client = Client(False)
    client.push(tx(0), 0.0)
    client.push(tx(1), 0.0)
    out(client)
    client.feed(b"250 ok\r\n", 1.0)
    out(client)
    client.feed(b"550 no\r\n", 1.0)
    assert out(client) == b"RSET\r\n"
    client.feed(b"250 reset\r\n", 1.0)
    assert out(client) == b"MAIL FROM:<news@example.test>\r\n"


# -- single commands, parameters, streams


def test_replies_to_single_commands_come_in_order():
    client = Client(False)
    client.expect("greeting")
    client.feed(b"220 hi\r\n", 0.0)
    client.command(b"EHLO me\r\n", "EHLO")
    assert out(client) == b"EHLO me\r\n"
    client.feed(b"250-hi\r\n250 PIPELINING\r\n", 0.0)
    assert [r.code for r in client.replies] == [220, 250]


def test_a_single_command_amid_a_message_is_refused_as_our_own_mistake():
    client = pipelined(tx(0))
    with pytest.raises(RuntimeError):
        client.command(b"NOOP\r\n", "NOOP")


def test_parameters_are_asked_for_only_where_offered():
    client = pipelined()
    client.push(tx(0, flags=1), 0.0)
    assert b"BODY=" not in out(client)
    client = pipelined()
    client.extensions = {"8BITMIME": "", "SMTPUTF8": ""}
    client.push(tx(0, flags=3), 0.0)
    assert out(client).startswith(b"MAIL FROM:<news@example.test> BODY=8BITMIME SMTPUTF8\r\n")


def test_smtputf8_that_is_not_offered_is_refused_before_anything_is_sent():
    client = pipelined(tx(0, flags=2))
    assert out(client) == b""
    (one,) = done(client)
    assert one.state == DONE
    assert isinstance(one.error, EnvelopeRefused)


def test_the_null_sender_and_eight_bit_addresses_go_out_as_they_are():
    assert out(pipelined(tx(0, sender=b""))).startswith(b"MAIL FROM:<>\r\n")
    client = pipelined()
    client.extensions = {"SMTPUTF8": ""}
    client.push(Transaction("jös@example.test".encode(), ["ü@example.test".encode()], BODY, 2), 0.0)
    assert out(client) == "MAIL FROM:<jös@example.test> SMTPUTF8\r\nRCPT TO:<ü@example.test>\r\nDATA\r\n".encode()


def test_a_streamed_body_holds_the_next_envelope_back_until_its_end():
    client = pipelined(tx(0, body=None), tx(1))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    assert client.streaming is not None
    assert out(client) == b""
    client.write_content(b"first\r\n")
    assert out(client) == b"first\r\n"
    client.end_content(2.0)
    assert out(client) == b".\r\n" + envelope(1)
    client.feed(QUEUED + OK_ENVELOPE, 3.0)
    assert done(client)[0].reply.code == 250


def test_lost_in_the_middle_of_a_stream_is_not_taken():
    client = pipelined(tx(0, body=None))
    out(client)
    client.feed(OK_ENVELOPE, 1.0)
    client.write_content(b"first\r\n")
    client.lost(LOST, 0, 2.0)
    assert done(client)[0].state == NOT_TAKEN


def test_what_was_not_begun_can_be_taken_back_and_sent_elsewhere():
    client = pipelined(tx(0), tx(1), tx(2))
    assert [t.at for t in client.take_back()] == [1, 2]
    assert client.load() == 1
    client.lost(LOST, 0, 1.0)
    (one,) = done(client)
    again = one.again()
    assert (again.state, again.tries, again.error) == (WAITING, 1, None)


def test_a_transaction_needs_a_recipient():
    with pytest.raises(ValueError):
        Transaction(b"a@b", [], BODY)


def test_the_trace_shows_commands_and_replies_but_no_message():
    seen = []
    client = Client(True, lambda who, data: seen.append((who, data)))
    client.push(tx(0), 0.0)
    client.feed(OK_ENVELOPE, 1.0)
    client.feed(QUEUED, 1.0)
    text = b"".join(data for _, data in seen)
    assert b"hello" not in text
    assert b"RCPT TO:<u0-0@example.test>" in text
    assert b"queued as 1" in text
