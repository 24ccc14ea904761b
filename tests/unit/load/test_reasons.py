"""Why messages failed: alike together, and never more than a few."""

from __future__ import annotations

from bulkmail.errors import ConnectionLost
from bulkmail.load.reasons import MAX_TEXT, MOST, OTHERS, Reasons
from bulkmail.wire.reply import Reply


def test_replies_count_together_whatever_their_text():
    reasons = Reasons()
    for number in range(3):
        reasons.note_reply("RCPT", Reply(451, f"4.7.1 greylisted, id {number}"))
    reasons.note_reply("MAIL", Reply(451, "4.7.1 greylisted"))
    reasons.note_error("in doubt", ConnectionLost("gone"))
    assert reasons.most_common() == [
        ("RCPT: 451 4.7.1 greylisted, id 0", 3), ("MAIL: 451 4.7.1 greylisted", 1), ("in doubt: gone", 1),
    ]  # fmt: skip


def test_a_server_that_says_something_else_each_time_takes_no_more_memory():
    reasons = Reasons()
    for number in range(10 * MOST):
        reasons.note_reply("RCPT", Reply(550, f"5.{number % 1000}.{number // 1000} " + "x" * 1000))
    found = reasons.most_common()
    assert len(found) == MOST + 1 and sum(count for _, count in found) == 10 * MOST
    assert found[0] == (OTHERS, 9 * MOST) and max(len(text) for text, _ in found) == MAX_TEXT
