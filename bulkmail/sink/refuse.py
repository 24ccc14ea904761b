"""How a hook or a store says no to a client."""

from __future__ import annotations

import re

_enhanced = re.compile(r"[45]\.\d{1,3}\.\d{1,3}").fullmatch
MAX_TEXT = 400  # RFC 5321 section 4.5.3.1.5: a reply line has 512 bytes, code and CR LF included


class Refuse(Exception):
    """Raised by a hook: the reply that the client gets instead of an acceptance.

    code      400 to 599; 421 also closes the connection
    text      one line, what a person should read
    enhanced  RFC 3463, such as "5.7.1"; of the same class as the code. Default "4.0.0" or "5.0.0"
    raises    ValueError for what cannot be a reply
    """

    def __init__(self, code: int = 550, text: str = "Refused", enhanced: str | None = None) -> None:
        super().__init__(f"{code} {text}")
        if not isinstance(code, int) or not 400 <= code <= 599:
            raise ValueError(f"a refusal has a code of 400 to 599, not {code!r}")
        self.code = code
        self.text = reply_text(text)
        self.enhanced = enhanced or f"{code // 100}.0.0"
        if not _enhanced(str(self.enhanced)) or self.enhanced[0] != str(code)[0]:
            raise ValueError(f"an enhanced code for {code} looks like {code // 100}.7.1, not {self.enhanced!r}")


def reply_text(text: str) -> str:
    """`text` if it can stand in a reply; ValueError for a line break or control character, or too long a text."""
    if not isinstance(text, str):
        raise ValueError(f"the text of a reply is a str, not {text!r}")
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(f"the text of a reply is one line without control characters, not {text!r}")
    if len(text.encode("utf-8")) > MAX_TEXT:
        raise ValueError(f"the text of a reply has at most {MAX_TEXT} bytes: {text[:40]!r}…")
    return text
