"""HTML is taken apart as the standard's tokenizer does it, and in linear time for any input."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkmail.message.lint import markup, page
from bulkmail.message.lint.markup import Tag


def cut(source):
    """(kind, name or text, attributes) of each token, texts joined."""
    out = []
    for token in markup.tokens(source):
        if isinstance(token, Tag):
            out.append(("end" if token.end else "start", token.name, token.given or {}))
        elif out and out[-1][0] == "text":
            out[-1] = ("text", out[-1][1] + token, {})
        else:
            out.append(("text", token, {}))
    return out


class Standard(HTMLParser):
    """The same by html.parser."""

    def __init__(self):
        super().__init__()
        self.out = []

    def handle_starttag(self, tag, attrs):
        self.out.append(("start", tag, {name: value or "" for name, value in reversed(attrs)}))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)  # in HTML the slash means nothing

    def handle_endtag(self, tag):
        self.out.append(("end", tag, {}))

    def handle_data(self, data):
        if self.out and self.out[-1][0] == "text":
            self.out[-1] = ("text", self.out[-1][1] + data, {})
        else:
            self.out.append(("text", data, {}))


names = st.sampled_from(["a", "img", "p", "TABLE", "td", "h1", "x-y"])
values = st.text("abc <>&;=/é1", max_size=8)
attributes = st.lists(
    st.one_of(
        st.builds("{}=\"{}\"".format, st.sampled_from(["href", "SRC", "alt", "data-x"]), values),
        st.builds("{} = '{}'".format, st.sampled_from(["href", "style"]), values),
        st.builds("{}={}".format, st.sampled_from(["width", "id"]), st.sampled_from(["1", "a-b", "x&amp;y"])),
        st.sampled_from(["hidden", "CHECKED"]),
    ),
    max_size=3,
).map(" ".join)  # fmt: skip
pieces = st.one_of(
    st.builds("<{} {}>".format, names, attributes),
    st.builds("</{}>".format, names),
    st.text("abc é&;1>\n", max_size=10),
    st.sampled_from(["&amp;", "&#233;", "&nbsp;", "<br/>", "<!-- <a href=x> -->", "<!doctype html>", "a < b"]),
    st.just("<script>a<b</script>"),
)  # fmt: skip


@given(st.lists(pieces, max_size=20).map("".join))
def test_well_formed_pages_are_read_as_by_html_parser(source):
    standard = Standard()
    # A text that ends in what may become a reference or a tag is held back by html.parser.
    standard.feed(source + "<p>")
    standard.close()
    assert cut(source + "<p>") == standard.out


@pytest.mark.parametrize(
    ("source", "tokens"),
    [
        ("<A HREF=x>", [("start", "a", {"href": "x"})]),
        ("<a href=/x/>y", [("start", "a", {"href": "/x/"}), ("text", "y", {})]),
        ("<a href='1' HREF='2'>", [("start", "a", {"href": "1"})]),
        ("<a href>", [("start", "a", {"href": ""})]),
        ("<a href= >", [("start", "a", {"href": ""})]),
        ("<br/ >", [("start", "br", {})]),
        ("<a\nhref\n=\n'x\ny'>", [("start", "a", {"href": "x\ny"})]),
        ("a<b", [("text", "a", {})]),
        ("a < b", [("text", "a < b", {})]),
        ("<3", [("text", "<3", {})]),
        ("<a href='x", []),
        ("<!-- a > b -->c", [("text", "c", {})]),
        ("<!-- never closed", []),
        ("</>a</ b>c<?x?>d", [("text", "acd", {})]),
        (
            "<style>a<b</STYLE >c",
            [("start", "style", {}), ("text", "a<b", {}), ("end", "style", {}), ("text", "c", {})],
        ),
        ("<script>a</scriptx>", [("start", "script", {}), ("text", "a</scriptx>", {})]),
        ("&#" + "9" * 9000 + ";", [("text", "&#" + "9" * 9000 + ";", {})]),
    ],
)
def test_odd_forms(source, tokens):
    assert cut(source) == tokens


@given(st.text(st.sampled_from("<>!-[]/=\"' &#;abhrefimgscpt\n\0é"), max_size=300))
def test_any_text_is_read(source):
    assert page.read(source).text is not None


HARD = [
    "<!--",
    "<!",
    "<![",
    "</",
    "<a ",
    "<a",
    "<a x='",
    '<a x="',
    "&#",
    "<?",
    "<script>",
    "<style></",
    "<a =",
    "<a x= ",
]


@pytest.mark.parametrize("piece", HARD)
def test_hostile_pages_come_to_an_end(piece):
    """Quadratic time would be minutes, as html.parser takes for most of these."""
    assert page.read(piece * (800_000 // len(piece))).images == []


def test_what_a_page_has():
    read = page.read(
        '<body background="http://example.com/b.png"><p>Hello '
        '<a href="https://a.example/?x=1&amp;y=2">Click <b>me</b></a></p>'
        '<a href="#"><img src=logo.png alt=""></a><div style="DISPLAY : none">secret<div>too</div></div>after'
        "<td>one</td><td>two</td><table><tr></table><div>\n</div><ul>"
    )
    assert [(link.href, link.text, link.image) for link in read.links] == [
        ("https://a.example/?x=1&y=2", "Click me", False),
        ("#", "", True),
    ]
    assert [(image.src, image.alt) for image in read.images] == [("logo.png", "")]
    assert read.hidden == ["secret too"]
    assert read.resources == ["http://example.com/b.png"]
    assert read.unclosed == [("ul", 2)]
    assert read.text.endswith("after one two")
