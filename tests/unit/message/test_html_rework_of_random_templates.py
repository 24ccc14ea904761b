"""Reworked and then rendered is the same as rendered and then reworked, for random templates and values."""

from email import message_from_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.html_css import inline_css
from bulkmail.message.html_links import add_link_parameters, encoded
from bulkmail.message.html_tags import start_tags
from bulkmail.message.html_text import html_to_text
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
UTM = {"utm_source": "a b"}
SHEET = (
    "<style>p { color: red } .c { top: {{ n }}px; font-family: 'A' } td.c { left: 0 } @media x { p { y: z } }</style>"
)

HREFS = st.sampled_from(
    [
        "https://e.com",
        "https://e.com/?a=1&amp;b=2#f",
        "https://e.com/{{ a }}",
        "https://e.com/{{ a|urlencode }}/x",
        "https://e.com/?q={{ n }}",
        "{{ url }}",
        "{{ url }}#top",
        "mailto:{{ n }}@e.com",
        "#x",
        "https://e.com/{% if flag %}x{% else %}y{% endif %}",
    ]
)
LEAVES = st.one_of(
    st.sampled_from(
        [
            "word ",
            "{{ a }}",
            "{{ n }}",
            " &amp; ",
            "<br>",
            "<img src=x alt='pic'>",
            "<!-- {{ a }} -->",
            "<hr>",
            "&nbsp;é",
            "{% set k = a %}",
            "<!--[if mso]><p class=c>x</p><![endif]-->",
        ]
    ),
    st.tuples(HREFS, st.sampled_from(["x", "{{ n }}", "<b>y</b>"])).map(lambda t: f'<a href="{t[0]}">{t[1]}</a>'),
)
ATTRIBUTES = st.sampled_from(
    ["", " class=c", ' class="c"', " id='i' class='c d'", ' style="margin: 0"', " style='margin: {{ n }}px' class=c"]
)


@st.composite
def elements(draw, inner):
    body = "".join(draw(st.lists(inner, max_size=3)))
    kind = draw(st.sampled_from(["p", "div", "ul", "table", "if", "for", "span", "h1"]))
    attributes = draw(ATTRIBUTES)
    if kind == "if":
        other = draw(inner)
        return "{% if flag %}" + body + "{% else %}" + other + "{% endif %}"
    if kind == "for":
        return "{% for x in xs %}" + body + "{{ x }}{% endfor %}"
    if kind == "ul":
        return f"<ul><li{attributes}>{body}</li></ul>"
    if kind == "table":
        return (
            "<table>{% for x in xs %}<tr><td"
            + attributes
            + ">"
            + body
            + "</td><td>{{ x }}</td></tr>{% endfor %}</table>"
        )
    return f"<{kind}{attributes}>{body}</{kind}>"


DOCUMENTS = st.lists(st.recursive(LEAVES, elements, max_leaves=6), max_size=5).map("".join)
ROWS = st.fixed_dictionaries(
    {
        "a": st.sampled_from(["x", "<&>", "a b", "q?r", "é"]),
        "n": st.sampled_from([1, 25]),
        # none that a value may say too: a template cannot know that a link says only itself
        "url": st.sampled_from(
            ["https://e.com", "https://e.com/?utm_source=z&y=1", "http://e.com/optout", "tel:+4930"]
        ),
        "flag": st.booleans(),
        "xs": st.sampled_from([[], [1], ["u", "v"]]),
    }
)


def rendered(html, row, **fields):
    """(html, text) as composed, which is what the reference gives."""
    compiled = compile_message(MessageSpec(from_="n@example.com", html=html, **fields), job="j")
    row = {"email": "a@example.net", **row}
    (quick,) = compiled.compose([row], [1], DATE)
    assert not isinstance(quick, MessageError), quick
    parts = {
        part.get_content_type(): part.get_payload(decode=True).decode().replace("\r\n", "\n")
        for part in message_from_bytes(quick[2].removesuffix(b".\r\n")).walk()
        if not part.is_multipart()
    }
    slow = compiled.render(row, 1, DATE)
    assert (parts["text/html"], parts.get("text/plain")) == (slow.html, slow.text)
    return slow.html, slow.text


def shape(html):
    return [(tag.name, [(one.name, one.value) for one in tag.attributes]) for tag in start_tags(html)]


@settings(max_examples=50, deadline=None)
@given(html=DOCUMENTS, row=ROWS)
def test_link_parameters(html, row):
    made, _ = rendered(html, row, link_parameters=UTM)
    assert shape(made) == shape(add_link_parameters(rendered(html, row)[0], encoded(tuple(UTM.items()))))


@settings(max_examples=50, deadline=None)
@given(html=DOCUMENTS, row=ROWS)
def test_text(html, row):
    plain, text = rendered(html, row, text_from_html=True)
    assert plain == rendered(html, row)[0]
    # What a condition or loop shows decides about blanks and empty lines; no two words may become one.
    expected, found = html_to_text(plain).split(), (text or "").split()
    assert "".join(found) == "".join(expected) and len(found) >= len(expected)


@settings(max_examples=50, deadline=None)
@given(html=DOCUMENTS, row=ROWS)
def test_style_attributes(html, row):
    made, _ = rendered(SHEET + html, row, inline_css=True)
    plain, _ = rendered(SHEET + html, row)
    once = inline_css(plain, lambda name: "")
    assert shape(inline_css(made, lambda name: "")) == shape(made)
    assert [words(tag) for tag in shape(made)] == [words(tag) for tag in shape(once)]


def words(tag):
    """A tag whose declarations are in any order: with values in its own it keeps them behind those of the sheet."""
    name, attributes = tag
    return name, [(key, sorted(declarations(value)) if key == "style" else value) for key, value in attributes]


def declarations(style):
    return [part.replace(" ", "") for part in style.split(";") if part.strip()]
