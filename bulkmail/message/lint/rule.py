"""A rule of the lint: data. The checks beside each table say when it is broken."""

from __future__ import annotations

from dataclasses import dataclass

from bulkmail.message.finding import Finding

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)

# Characters of a value, which may be a megabyte from somewhere; of a part that is a sentence of ours.
SHOWN = 80
SENTENCE = 240

# Whose pages the rules quote.
GMAIL = "Google, Email sender guidelines"
GMAIL_CODES = "Google, Gmail SMTP errors and codes"
GMAIL_HEADERS = "Google, Gmail message header limits"
GMAIL_TYPES = "Google, File types blocked in Gmail"
YAHOO = "Yahoo, Sender best practices"
OUTLOOK = "Microsoft, Policies, practices and guidelines"
PRACTICE = "common practice"


@dataclass(frozen=True, slots=True)
class Rule:
    """text: a sentence without a full stop, with {names} for what was found; {name!r} is in quotes."""

    id: str
    severity: str
    text: str
    remedy: str
    source: str

    def at(self, path: str, **values: object) -> Finding:
        shown = {name: _Shown(value) if isinstance(value, str) else value for name, value in values.items()}
        return Finding(self.id, self.severity, path, self.text.format_map(shown), self.remedy, self.source)


class _Shown(str):
    """A value from anywhere as a sentence may have it: on one line, not too long; {name!r} puts it in quotes."""

    def __format__(self, spec: str) -> str:
        return "".join(c if c.isprintable() else "\ufffd" for c in _short(self, SENTENCE))

    def __repr__(self) -> str:
        return repr(_short(self, SHOWN))


def _short(text: str, most: int) -> str:
    return str(text) if len(text) <= most else text[: most - 1] + "…"
