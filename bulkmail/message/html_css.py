"""Style sheets into style attributes, for readers that know no <style>.

`css_inline` says which declarations each element gets; they are then written into the text that we have, which stays as
it is otherwise: what browsers would put right (tags in tables, comments for Outlook) is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bulkmail.errors import MessageError
from bulkmail.message.html_tags import Element, Tag, attribute, edited, start_tags, styles
from bulkmail.message.marked import STATEMENT, statement_token, token

# As css_inline and others have it: with "ignore" a <style> or element stays as it is.
OPT_OUT = "data-css-inline"
_NUMBER = "data-bulkmail-number"
_HIDDEN = "data-bulkmail-style"
# Elements that are not shown.
_HEAD = frozenset({"head", "meta", "title", "link", "style", "script", "base", "html"})
_part = re.compile(r"""/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|[^"'/{};]+|.""", re.S)

INSTALL = "inline_css needs the package css_inline: pip install 'bulkmail[html]'"


def inline_css(
    html: str, load: Callable[[str], str], *, where: Callable[[str], str] = lambda text: "html", css: str = ""
) -> str:
    """The same text with style attributes; what cannot be in one (media queries, :hover) stays in <style>.

    load    the style sheet that a <link> names; raises MessageError
    css     more of it, from outside of the text
    raises  MessageError  for a style sheet with statements in it
    """
    sheets = list(_sheets(html, load, where))
    inlined, edits = [css], []
    for start, end, element, text in sheets:
        moved, kept = split_css(text)
        inlined.append(moved)
        if element is not None and kept.strip():
            edits.append((element.tag.end, element.tag.end + len(element.content), kept))
        elif kept.strip():
            edits.append((start, end, f"<style>{kept}</style>"))
        else:
            edits.append((start, end, ""))
    rules = "\n".join(inlined)
    if rules.strip():
        gone = [(start, end) for start, end, *_ in sheets]
        edits += _style_attributes(html, gone, rules, where)
    return edited(html, edits)


def moved_css(html: str, load: Callable[[str], str], where: Callable[[str], str] = lambda text: "html") -> str:
    """The rules of a text that style attributes can have."""
    return "\n".join(split_css(text)[0] for _, _, _, text in _sheets(html, load, where))


def _sheets(
    html: str, load: Callable[[str], str], where: Callable[[str], str]
) -> Iterator[tuple[int, int, Element | None, str]]:
    """(start, end, <style> or None for a <link>, text) of the style sheets that are for all screens."""
    for element in styles(html):
        if _wanted(element.tag):
            if STATEMENT in element.content:
                raise MessageError(
                    f"{where(element.content)}: inline_css cannot take a <style> with statements ({{% %}}) in it apart;"
                    f' give it {OPT_OUT}="ignore" and it stays'
                )
            yield element.start, element.end, element, element.content
    for tag in start_tags(html):
        link = tag.get("href")
        relation = tag.get("rel")
        if tag.name != "link" or link is None or relation is None or "stylesheet" not in relation.value.lower().split():
            continue
        # What is on the network stays there.
        if _wanted(tag) and not token.search(link.raw) and not re.match(r"[a-z][a-z0-9+.-]*:|//", link.value, re.I):
            yield tag.start, tag.end, None, load(link.value)


def _wanted(tag: Tag) -> bool:
    media, mode = tag.get("media"), tag.get(OPT_OUT)
    return (media is None or media.value.strip().lower() in ("", "all", "screen")) and (
        mode is None or mode.value.lower() not in ("ignore", "keep")
    )


def split_css(text: str) -> tuple[str, str]:
    """(rules for style attributes, the rest: at-rules and selectors of states and pseudo-elements).

    What has no end is all rest.
    """
    moved: list[str] = []
    kept: list[str] = []
    rule: list[str] = []
    depth = 0
    for piece in _part.findall(text):
        if piece.startswith("/*") and depth == 0:
            continue
        rule.append(piece)
        depth += (piece == "{") - (piece == "}")
        whole = depth == 0 and (piece == "}" or (piece == ";" and "".join(rule).lstrip().startswith("@")))
        if whole:
            written = "".join(rule)
            selector = written.partition("{")[0]
            fixed = selector.lstrip().startswith("@") or ":" in selector or token.search(selector)
            (kept if fixed else moved).append(written)
            rule = []
    rest = "".join(rule)
    if rest.strip():
        return ("", text) if depth else ("".join(moved), "".join(kept) + rest)
    return "".join(moved), "".join(kept)


def _style_attributes(
    html: str, gone: list[tuple[int, int]], rules: str, where: Callable[[str], str]
) -> Iterator[tuple[int, int, str]]:
    tags = [tag for tag in start_tags(html) if tag.name not in _HEAD]
    tags = [tag for tag in tags if _wanted(tag) and not any(start <= tag.start < end for start, end in gone)]
    for number, style in _declarations(html, tags, gone, rules, where).items():
        tag = tags[number]
        own = tag.get("style")
        if own is None:
            yield tag.insert, tag.insert, " " + attribute("style", style)
        elif token.search(own.raw):
            # What the values will be nobody knows: they come last, and so win over the sheet.
            yield own.start, own.end, attribute("style", style.rstrip("; ") + "; " + own.value.strip())
        elif style != own.value:
            yield own.start, own.end, attribute("style", style)


def _declarations(
    html: str, tags: list[Tag], gone: list[tuple[int, int]], rules: str, where: Callable[[str], str]
) -> dict[int, str]:
    """What each element's style attribute is, by the element's place in `tags`."""
    try:
        import css_inline
    except ImportError:
        raise MessageError(INSTALL) from None
    edits = [(start, end, "") for start, end in gone]
    for number, tag in enumerate(tags):
        place = tag.start + 1 + len(tag.name)
        edits.append((place, place, f' {_NUMBER}="{number}"'))
        own = tag.get("style")
        if own is not None and token.search(own.raw):
            edits.append((own.start, own.start + len("style"), _HIDDEN))
    # Cells and rows are nothing to an HTML parser outside of a table.
    around = {"td": "<table><tr>", "th": "<table><tr>", "tr": "<table>"}.get(tags[0].name, "") if tags else ""
    numbered = around + statement_token.sub("", edited(html, edits))
    inliner = css_inline.CSSInliner(inline_style_tags=False, load_remote_stylesheets=False, extra_css=rules)
    try:
        made = inliner.inline(numbered)
    except ValueError as error:  # css_inline.InlineError
        raise MessageError(f"{where('')}: the style sheet cannot be used: {error}") from None
    found: dict[int, str] = {}
    for tag in start_tags(made):
        place_of, style = tag.get(_NUMBER), tag.get("style")
        if place_of is not None and style is not None:
            found.setdefault(int(place_of.value), style.value)
    return found
