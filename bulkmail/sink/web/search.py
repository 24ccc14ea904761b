"""The search of the page: words that must all be there, `from:`, `to:` and `subject:` in front of a word say where."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bulkmail.sink.web.inbox import Entry, Gone
from bulkmail.sink.web.reading import MAX_GLANCE, Reading

# What one search may look at; what it found by then is shown, and that there may be more.
MAX_SEARCHED = 10_000
MAX_SECONDS = 2.0
MAX_QUERY = 500
MAX_WORDS = 20

PLACES = ("from", "to", "subject")
_word = re.compile(r"""(?:(from|to|subject):)?(?:"([^"]*)"?|(\S+))""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Query:
    """(place or "", text in lower case) of each word."""

    words: tuple[tuple[str, str], ...]

    def matches(self, entry: Entry) -> bool:
        """Gone"""
        told = entry.envelope()
        seen = Reading(entry.read(MAX_GLANCE)[0])
        texts = {
            "from": f"{told['from']} {seen.shown('from')}".lower(),
            "to": f"{' '.join(told['to'])} {seen.shown('to')} {seen.shown('cc')}".lower(),
            "subject": seen.shown("subject").lower(),
        }
        missing = [(place, word) for place, word in self.words if not _stands(texts, place, word)]
        if not missing or any(place for place, _ in missing):
            return not missing
        texts["text"] = seen.searched().lower()
        return all(_stands(texts, "", word) for _, word in missing)


def _stands(texts: dict[str, str], place: str, word: str) -> bool:
    return word in texts[place] if place else any(word in text for text in texts.values())


def read_query(text: str) -> Query:
    found = [(m[1] or "", m[2] if m[3] is None else m[3]) for m in _word.finditer(text[:MAX_QUERY])]
    return Query(tuple((place.lower(), word.lower()) for place, word in found if word)[:MAX_WORDS])


class Search:
    """`stopped`: nobody waits for the result any more."""

    stopped = False

    def run(self, query: Query, entries: Sequence[Entry]) -> tuple[list[Entry], bool]:
        """(what matches, whether all were looked at)."""
        found: list[Entry] = []
        end = time.monotonic() + MAX_SECONDS
        for entry in entries[:MAX_SEARCHED]:
            if self.stopped or time.monotonic() > end:
                return found, False
            try:
                if query.matches(entry):
                    found.append(entry)
            except Gone:
                continue
            time.sleep(0)  # the loop that receives mail waits for this thread's turn to end
        return found, len(entries) <= MAX_SEARCHED
