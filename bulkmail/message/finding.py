"""What a check has to say."""

from __future__ import annotations

from dataclasses import dataclass

from bulkmail.records import Record


@dataclass(frozen=True, eq=False, repr=False)
class Finding(Record):
    """One thing that check() or lint() has to say.

    severity  "error": it cannot be sent or breaks a standard; "warning": big receivers ask otherwise; "note"
    path      where: a JSON path of the manifest, or an argument of Message
    remedy    what to do; source: who asks for it, an RFC with its section or a receiver's page
    """

    id: str
    severity: str
    path: str
    text: str
    remedy: str = ""
    source: str = ""

    def as_dict(self) -> dict[str, str]:
        return dict(vars(self))
