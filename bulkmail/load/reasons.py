"""Why messages failed, counted: replies of a kind together, in bounded memory whatever servers say."""

from __future__ import annotations

from bulkmail.errors import BulkmailError
from bulkmail.smtp.outcome import refusal
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import IN_DOUBT, NOT_TAKEN, Transaction

# A server can make up enhanced codes without end; a person reads the first few.
MOST = 100
MAX_TEXT = 200
OTHERS = "other reasons"


class Reasons:
    """Replies count together by what they answered, code and enhanced code: texts hold queue ids and the like."""

    def __init__(self) -> None:
        self._counts: dict[tuple[object, ...], int] = {}
        self._texts: dict[tuple[object, ...], str] = {}

    def note_reply(self, command: str | None, reply: Reply) -> None:
        self._note((command, reply.code, reply.enhanced), f"{command or 'the server'}: {reply}")

    def note_error(self, what: str, error: BaseException | None) -> None:
        """An end that no reply decided. what: a word to put before it, or ""."""
        text = f"{what}: {error}" if what else str(error)
        self._note((what, type(error).__name__, getattr(error, "command", None)), text)

    def note(self, tx: Transaction) -> None:
        """Why a transaction that is not tried again was taken for nobody."""
        if tx.state == NOT_TAKEN:
            self.note_error("not sent", tx.error)
        elif tx.state == IN_DOUBT:
            self.note_error("in doubt", tx.error)
        elif tx.rejected and len(tx.rejected) == len(tx.rcpts):
            first = min(tx.rejected)
            self.note_reply("end of data" if first in (tx.late or ()) else "RCPT", tx.rejected[first])
        else:
            why = refusal(tx)
            if isinstance(why, BulkmailError) and why.reply is not None:
                self.note_reply(tx.command, why.reply)
            else:
                self.note_error("", why)

    def _note(self, key: tuple[object, ...], text: str) -> None:
        if key not in self._counts and len(self._counts) >= MOST:
            key, text = (OTHERS,), OTHERS
        self._counts[key] = self._counts.get(key, 0) + 1
        self._texts.setdefault(key, text[:MAX_TEXT])

    def most_common(self) -> list[tuple[str, int]]:
        """(one text of the kind, how often), the most frequent first."""
        return [
            (self._texts[key], self._counts[key]) for key in sorted(self._counts, key=lambda key: -self._counts[key])
        ]
