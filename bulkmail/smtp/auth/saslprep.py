"""SASLprep (RFC 4013): the same password, typed on two machines, becomes the same bytes."""

from __future__ import annotations

import stringprep
import unicodedata

from bulkmail.errors import AuthUnavailable

_PROHIBITED = (  # RFC 4013 section 2.3; a name or password to be compared may hold unassigned characters (2.5)
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, what: str) -> str:
    """The prepared text. AuthUnavailable, which shows none of it, if the mechanism cannot carry it; what: its name."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.normalize("NFKC", mapped)
    if any(prohibited(c) for c in prepared for prohibited in _PROHIBITED):
        raise AuthUnavailable(f"the {what} has a character that SCRAM cannot carry (RFC 4013 section 2.3)")
    if not _one_direction(prepared):
        raise AuthUnavailable(f"the {what} mixes writing directions, which SCRAM cannot carry (RFC 4013 section 2.4)")
    if not prepared:
        raise AuthUnavailable(f"the {what} is empty, and SCRAM cannot carry it")
    return prepared


def _one_direction(text: str) -> bool:
    """RFC 3454 section 6."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
