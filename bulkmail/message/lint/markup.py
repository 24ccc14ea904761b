"""HTML cut into tags and text, any input in linear time.

The standard library's html.parser takes minutes for half a megabyte of "<!--". This follows the tokenizer of the HTML
standard (section 13.2.5) as far as the rules need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

_name = re.compile(r"[A-Za-z][^\s/>]*+").match
# No quote that is never closed is looked for twice: there is none of its kind behind it.
_attribute = re.compile(
    r"[\s/]*+([^\s/>=][^\s/>=]*+)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>\"'][^\s>]*+|(?=>))))?+"
).match
_tag_end = re.compile(r"[\s/]*+>").match
# Elements whose content is text up to their end tag. textarea and title have references in it, which nobody asks for.
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search for name in ("script", "style", "title", "textarea")
}


@dataclass(frozen=True, slots=True)
class Tag:
    """name: lower case; end: an end tag; given: attributes, names in lower case; at: where it begins."""

    name: str
    at: int
    end: bool = False
    given: dict[str, str] | None = None


def tokens(source: str) -> Iterator[Tag | str]:
    """Tags and the text between them; comments and what is no tag are left out, what is never closed is the end."""
    at, size = 0, len(source)
    while at < size:
        start = source.find("<", at)
        if start < 0:
            yield _text(source[at:])
            return
        if start > at:
            yield _text(source[at:start])
        tag, at = _markup(source, start)
        if tag is not None:
            yield tag
            if not tag.end and tag.name in _RAW:
                found = _RAW[tag.name](source, at)
                end = found.start() if found is not None else size
                yield source[at:end]
                at = end
        elif at == start:
            yield "<"
            at += 1


def _markup(source: str, start: int) -> tuple[Tag | None, int]:
    """(a tag, where it ends); (None, start) where a "<" is text, (None, the end) of a comment."""
    following = source[start + 1 : start + 2]
    if following.isascii() and following.isalpha():
        return _start_tag(source, start)
    if source.startswith("<!--", start):
        return None, _behind(source, "-->", start + 4)
    if following in ("!", "?"):
        return None, _behind(source, ">", start)
    if following == "/":
        name = _name(source, start + 2)
        end = _behind(source, ">", start)
        return (Tag(name[0].lower(), start, end=True) if name is not None else None), end
    return None, start


def _behind(source: str, mark: str, at: int) -> int:
    found = source.find(mark, at)
    return len(source) if found < 0 else found + len(mark)


def _start_tag(source: str, start: int) -> tuple[Tag | None, int]:
    name = _name(source, start + 1)
    assert name is not None
    given: dict[str, str] = {}
    at = name.end()
    while (found := _attribute(source, at)) is not None:
        value = next((text for text in found.groups()[1:] if text is not None), "")
        given.setdefault(found[1].lower(), _text(value))
        at = found.end()
    end = _tag_end(source, at)
    if end is None:
        # A quote that is never closed, or the end of the page: browsers drop the rest as well.
        return None, _behind(source, ">", at)
    return Tag(name[0].lower(), start, given=given), end.end()


def _text(source: str) -> str:
    try:
        return unescape(source)
    except ValueError:  # a reference of thousands of digits
        return source
