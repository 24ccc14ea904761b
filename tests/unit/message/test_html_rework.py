"""Link parameters, style attributes and the text part: made once, with all marks in their places."""

import sys
from email import message_from_bytes

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.html_css import inline_css, split_css
from bulkmail.message.html_links import add_link_parameters, encoded, with_parameters
from bulkmail.message.html_text import html_to_text
from bulkmail.message.message import Message
from bulkmail.message.spec import ListUnsubscribe, MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
UTM = {"utm_source": "news"}


def rendered(html, row=None, folder=None, **fields):
    """(html, text) as they are composed; the reference gives the same."""
    spec = MessageSpec(from_="n@example.com", html=html, **fields)
    compiled = compile_message(spec, job="j", folder=folder)
    row = {"email": "a@example.net", **(row or {})}
    (quick,) = compiled.compose([row], [1], DATE)
    if isinstance(quick, MessageError):
        raise quick
    slow = compiled.render(row, 1, DATE)
    parts = {
        part.get_content_type(): part.get_payload(decode=True).decode().replace("\r\n", "\n")
        for part in message_from_bytes(quick[2].removesuffix(b".\r\n")).walk()
        if not part.is_multipart()
    }
    assert parts["text/html"] == slow.html
    assert parts.get("text/plain") == slow.text
    return slow.html.rstrip("\n"), slow.text


# ---- links


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://e.com", "https://e.com?a=1"),
        ("https://e.com/x?y=2", "https://e.com/x?y=2&a=1"),
        ("HTTP://e.com/x#top", "HTTP://e.com/x?a=1#top"),
        ("https://e.com/?", "https://e.com/?a=1"),
        ("https://e.com/?y=1&#f", "https://e.com/?y=1&a=1#f"),
        ("https://e.com/?a=2", "https://e.com/?a=2"),
        ("https://e.com/?%61=2", "https://e.com/?%61=2"),
        ("https://e.com/unsubscribe/7", "https://e.com/unsubscribe/7"),
        ("https://e.com/opt-out", "https://e.com/opt-out"),
        ("mailto:a@e.com", "mailto:a@e.com"),
        ("tel:+491", "tel:+491"),
        ("#top", "#top"),
        ("cid:logo", "cid:logo"),
        ("/relative", "/relative"),
        ("javascript:x", "javascript:x"),
        ("", ""),
    ],
)
def test_parameters_of_an_address(url, expected):
    assert with_parameters(url, [("a", "1")]) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<a href=https://e.com>x</a>", '<a href="https://e.com?utm_source=news">x</a>'),
        (
            "<A CLASS='b' HREF='https://e.com/?a=1&amp;b=2'>",
            "<A CLASS='b' href=\"https://e.com/?a=1&amp;b=2&amp;utm_source=news\">",
        ),
        ('<map><area href="https://e.com"></map>', '<map><area href="https://e.com?utm_source=news"></map>'),
        ('<a data-no-link-parameters href="https://e.com">', '<a data-no-link-parameters href="https://e.com">'),
        (
            '<link href="https://e.com"><img src="https://e.com">',
            '<link href="https://e.com"><img src="https://e.com">',
        ),
        ('<!--[if mso]><a href="https://e.com"><![endif]-->', '<!--[if mso]><a href="https://e.com"><![endif]-->'),
        ("<a name=x>y</a> 3 < 4 & 5", "<a name=x>y</a> 3 < 4 & 5"),
    ],
)
def test_links_of_a_text(html, expected):
    assert add_link_parameters(html, encoded(tuple(UTM.items()))) == expected
    assert rendered(html, link_parameters=UTM)[0] == expected


@pytest.mark.parametrize(
    ("href", "row", "expected"),
    [
        ("https://e.com/?id={{ id }}", {"id": 7}, "https://e.com/?id=7&amp;utm_source=news"),
        ("https://e.com/{{ id }}#x", {"id": 7}, "https://e.com/7?utm_source=news#x"),
        ("https://e.com/{{ p }}", {"p": "a?b=1#c"}, "https://e.com/a?b=1&amp;utm_source=news#c"),
        ("https://e.com/{{ p|urlencode }}", {"p": "a?b"}, "https://e.com/a%3Fb?utm_source=news"),
        ("{{ url }}", {"url": 'https://e.com/?a=1&b="2"'}, "https://e.com/?a=1&amp;b=&#34;2&#34;&amp;utm_source=news"),
        ("{{ url }}", {"url": "mailto:x@e.com"}, "mailto:x@e.com"),
        ("{{ url|safe }}", {"url": "https://e.com/?a=1&amp;b=2"}, "https://e.com/?a=1&amp;b=2&amp;utm_source=news"),
        ("{{ base }}/x?y=1&amp;z=2", {"base": "https://e.com"}, "https://e.com/x?y=1&amp;z=2&amp;utm_source=news"),
        ("http{{ s }}://e.com", {"s": "s"}, "https://e.com?utm_source=news"),
        ("mailto:{{ m }}", {"m": "x"}, "mailto:x"),
        ("{{ unsubscribe }}", {"unsubscribe": "https://e.com/u"}, "https://e.com/u"),
        ("https://e.com/{% if a %}b{% else %}c{% endif %}", {"a": 1}, "https://e.com/b?utm_source=news"),
        ("https://e.com/u/{{ id }}", {"id": 7}, "https://e.com/u/7"),
    ],
)
def test_links_with_marks(href, row, expected):
    fields = {"list_unsubscribe": ListUnsubscribe("https://e.com/u/{{ id }}")} if "/u/" in href else {}
    html, _ = rendered(f'<p><a href="{href}">x</a></p>', row, link_parameters=UTM, **fields)
    assert html == f'<p><a href="{expected}">x</a></p>'


def test_parameters_may_hold_values():
    html, _ = rendered(
        "{% for p in ps %}<a href='https://e.com/?p={{ p }}'>{{ p }}</a>{% endfor %}<a href='{{ url }}'>u</a>",
        {"ps": [1], "seg": "a b&c", "url": "https://e.com"},
        link_parameters={"utm_content": "seg-{{ seg }}"},
    )
    assert "https://e.com/?p=1&amp;utm_content=seg-a%20b%26c" in html
    assert "https://e.com?utm_content=seg-a%20b%26c" in html


@pytest.mark.parametrize(
    ("html", "parameters", "words"),
    [
        ("\n<a href='https://e.com/{% if a %}?b{% endif %}'>", UTM, "html, line 2: link_parameters"),
        ("\n<a href='{% if a %}https://e.com{% endif %}'>", UTM, "html, line 2: link_parameters"),
        ("<a href='https://e.com'>{% for seg in x %}{% endfor %}", {"a": "{{ seg }}"}, "binds the name 'seg'"),
        ("<a href='https://e.com'>", {"a": "{% if x %}{% endif %}"}, "link_parameters.a"),
        ("{% include name %}", UTM, "needs to know what is included"),
        ("x\ufdd0y", UTM, "U+FDD0"),
    ],
)
def test_links_that_cannot_be_certain_are_an_error(tmp_path, html, parameters, words):
    with pytest.raises(MessageError) as error:
        rendered(html, link_parameters=parameters, folder=tmp_path)
    assert words in str(error.value)


def test_links_in_parents_includes_and_macros(tmp_path):
    (tmp_path / "base.html").write_text("<body>{% block b %}{% endblock %}{% include 'foot.html' %}")
    (tmp_path / "foot.html").write_text("<a href='https://e.com/f'>f</a>")
    html, text = rendered(
        "{% extends 'base.html' %}{% macro m(u) %}<a href='https://e.com/{{ u }}?'>m</a>{% endmacro %}"
        "{% block b %}{{ m('x') }}{% for i in [1] %}{% include 'foot.html' %}{% endfor %}{% endblock %}",
        folder=tmp_path,
        link_parameters=UTM,
        text_from_html=True,
    )
    assert html.count("utm_source=news") == 3 and 'href="https://e.com/x?utm_source=news"' in html
    assert text.count("utm_source=news") == 3


# ---- style sheets


def test_rules_become_style_attributes_and_all_else_stays():
    html = (
        "<html><head><style>p.a { color: red; font-family: 'A b' } td{padding:1px}\n"
        "@media (max-width:9px) { p { color: blue } } a:hover { color: #000 }</style></head>"
        "<body><P class=a id='x'>1</P><p style='margin:0' class=\"a\">2</p><!--[if mso]><p class=a><![endif]-->"
        "<table>{% for x in xs %}<tr><td>{{ x }}{% endfor %}</table></body></html>"
    )
    made, _ = rendered(html, {"xs": ["<", 2]}, inline_css=True)
    assert made == (
        "<html><head><style>\n@media (max-width:9px) { p { color: blue } } a:hover { color: #000 }</style></head>"
        "<body><P class=a id='x' style=\"color: red;font-family: 'A b';\">1</P>"
        '<p style="color: red;font-family: \'A b\';margin:0" class="a">2</p><!--[if mso]><p class=a><![endif]-->'
        '<table><tr><td style="padding:1px;">&lt;<tr><td style="padding:1px;">2</table></body></html>'
    ).replace("padding:1px", "padding: 1px").replace('margin:0"', 'margin: 0"')


def test_values_in_style_sheets_and_attributes():
    html = "<style>p { color: {{ color }}; width: {{ w }}px }</style><p style='{{ own }}; top: 1px'>a</p><p>b</p>"
    made, _ = rendered(html, {"color": "#f00", "w": 3, "own": "left: 2px"}, inline_css=True)
    assert made == (
        '<p style="color: #f00;width: 3px; left: 2px; top: 1px">a</p><p style="color: #f00;width: 3px;">b</p>'
    )


def test_style_sheets_from_the_folder_but_never_from_elsewhere(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.css").write_text("b { color: red }")
    (tmp_path / "secret.css").write_text("b { color: blue }")
    links = '<link rel="stylesheet" href="a.css"><link rel=stylesheet href="https://e.com/x.css">'
    made, _ = rendered(links + "<b>x</b>", folder=tmp_path / "in", inline_css=True)
    assert made == '<link rel=stylesheet href="https://e.com/x.css"><b style="color: red;">x</b>'
    for name in ("../secret.css", "none.css"):
        with pytest.raises(MessageError, match="folder"):
            rendered(f'<link rel=stylesheet href="{name}"><b>x</b>', folder=tmp_path / "in", inline_css=True)
    with pytest.raises(MessageError, match="no folder"):
        rendered('<link rel=stylesheet href="a.css"><b>x</b>', inline_css=True)


def test_a_style_sheet_with_statements_is_an_error_unless_it_is_to_stay():
    sheet = "<style{}>{{% if a %}}b {{ color: red }}{{% endif %}}</style><b>x</b>"
    with pytest.raises(MessageError, match="html, line 2: inline_css"):
        rendered("\n" + sheet.format(""), {"a": 1}, inline_css=True)
    made, _ = rendered(sheet.format(' data-css-inline="ignore"'), {"a": 1}, inline_css=True)
    assert made == '<style data-css-inline="ignore">b { color: red }</style><b>x</b>'


def test_cells_in_macros_get_the_styles_of_the_document():
    html = "{% macro c(v) %}<td>{{ v }}</td>{% endmacro %}<style>td { top: 0 }</style><table><tr>{{ c(1) }}</table>"
    assert rendered(html, inline_css=True)[0] == '<table><tr><td style="top: 0;">1</td></table>'


@pytest.mark.parametrize(
    ("css", "moved", "kept"),
    [
        ("a{b:c}", "a{b:c}", ""),
        ("@import 'x;{';a{b:c}", "a{b:c}", "@import 'x;{';"),
        ("/* } */ a { b: '}' } c:hover{d:e}", " a { b: '}' }", " c:hover{d:e}"),
        ("@media x { a { b: c } } d{e:f}", " d{e:f}", "@media x { a { b: c } }"),
        ("a { b: c", "", "a { b: c"),
        ("a{b:c} }", "", "a{b:c} }"),
        ("", "", ""),
    ],
)
def test_css_is_split_at_its_rules(css, moved, kept):
    assert split_css(css) == (moved, kept)


def test_no_sheet_no_change():
    html = "<p>\n&nbsp;<B>x</b></P>"
    assert inline_css(html, lambda name: "") == html


# ---- text


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>Hello &amp;\n you</p><p>Two</p>", "Hello & you\n\nTwo\n"),
        ("<h1>T</h1>text<br>next", "T\n\ntext\nnext\n"),
        ("a <b> b </b> c", "a b c\n"),
        ('<a href="https://e.com/?a=1&amp;b">Read</a> it', "Read (https://e.com/?a=1&b) it\n"),
        (
            '<a href="https://e.com/">e.com</a> <a href="mailto:a@e.com">a@e.com</a> <a href="#x">x</a>',
            "e.com a@e.com x\n",
        ),
        ('<a href="https://e.com"><img src="x" alt="Shop"></a>', "Shop (https://e.com)\n"),
        ('<a href="https://e.com"><img src="x"></a>', "https://e.com\n"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>d", "- a\n- b\n  - c\n\nd\n"),
        ("<ol><li>a<li>b</ol>", "1. a\n2. b\n"),
        ("<table><tr><td>Tea</td><td>3</td></tr><tr><td>Milk</td><td>4</td></tr></table>", "Tea  3\nMilk  4\n"),
        ("<style>p{}</style><script>x</script><title>t</title><!-- c -->a", "a\n"),
        ('<div style="display: none">pre</div><p hidden>x</p>a', "a\n"),
        ("<pre>  a\n   b</pre>c", "  a\n   b\n\nc\n"),
        ("a<hr>b", "a\n\n" + "-" * 40 + "\n\nb\n"),
        ("\u202bשלום\u202c &lt;b&gt;", "\u202bשלום\u202c <b>\n"),
        ("", ""),
        ("<p>unclosed <b", "unclosed <b\n"),
    ],
)
def test_text_of_html(html, expected):
    assert html_to_text(html) == expected


@pytest.mark.parametrize(
    ("html", "row", "expected"),
    [
        ("{% for x in xs %} {{ x }}{% endfor %}", {"xs": [1, 2]}, " 1 2\n"),
        ("{% for x in xs %}<p>{{ x }}</p>z{% endfor %}y", {"xs": [1, 2]}, "\n\n1\n\nz\n\n2\n\nzy\n"),
        ("<p>{% for x in xs %}{{ x }}, {% endfor %}z</p>", {"xs": [1, 2]}, "1, 2, z\n"),
        (
            "{% for x in xs %}{% if x > 1 %}<p>{{ x }}{% endif %}<p>z{% endfor %}",
            {"xs": [1, 2]},
            "\n\n\n\nz\n\n2\n\nz\n",
        ),
        ("<tr>{% for x in xs %}<td>{{ x }}</td>{% endfor %}</tr>", {"xs": [1, 2]}, "  1  2\n"),
        ("<p>{% if q %}a{% else %}b{% endif %} c</p>", {"q": 0}, "b c\n"),
        ("<p>Hi {{ name }} &amp; co</p>", {"name": "<Ann> & Bob"}, "Hi <Ann> & Bob & co\n"),
        ("<p>a</p>{% if x %}<p>b</p>{% endif %}<p>c</p>", {"x": 1}, "a\n\nb\n\nc\n"),
        ("<p>a</p>{% if x %}<p>b</p>{% endif %}<p>c</p>", {"x": 0}, "a\n\nc\n"),
        ("<p>a{% if x %}b{% endif %}c</p>", {"x": 0}, "ac\n"),
        ("<ul>{% for i in xs %}<li>{{ i }}</li>{% endfor %}</ul>", {"xs": ["a<", 2]}, "- a<\n- 2\n"),
        (
            "<table>{% for i in xs %}<tr><td>{{ i }}</td><td>x</td></tr>{% endfor %}</table>",
            {"xs": [1, 2]},
            "1  x\n2  x\n",
        ),
        ("<a href='{{ url }}'>{{ name }}</a>", {"url": "https://e.com/?a&b", "name": "N"}, "N (https://e.com/?a&b)\n"),
        ("{{ body|safe }}!", {"body": "<p>a &amp; b</p>"}, "a & b!\n"),
        ("{{ v|e }}", {"v": "<"}, "<\n"),
        ("<p {% if x %}class=a{% endif %}>t</p>", {"x": 1}, "t\n"),
        ("<!-- {% if x %}{{ y }}{% endif %} -->t", {"x": 1, "y": 2}, "t\n"),
        (
            "<title>{% if x %}{{ y }}{% endif %}</title><img alt='{% if x %}{% endif %}'>t",
            {"x": 1, "y": 2},
            "t\n",
        ),
        ("{% macro m(v) %}<b>[{{ v }}]</b>{% endmacro %}<p>{{ m('<') }}</p>", {}, "[<]\n"),
        ("{% set c = '&' %}<p>{{ c }}</p>", {}, "&\n"),
    ],
)
def test_text_of_a_template(html, row, expected):
    _, text = rendered(html, row, text_from_html=True)
    assert text.rstrip() + "\n" == expected


def test_a_text_that_is_given_stays():
    assert rendered("<p>html</p>", text="given", text_from_html=True)[1] == "given\n"


def test_marks_that_text_cannot_keep_are_an_error_with_their_place():
    with pytest.raises(MessageError, match="html, line 2: "):
        rendered("\n</p {% if x %}{% endif %}>", {"x": 1}, text_from_html=True)


# ---- a program's own message, which is no template


def parts_of(message):
    return {
        part.get_content_type(): part.get_payload(decode=True).decode().replace("\r\n", "\n")
        for part in message_from_bytes(message.as_bytes()).walk()
        if not part.is_multipart()
    }


def test_a_message_of_a_program_has_the_same(tmp_path):
    (tmp_path / "a.css").write_text("a { color: red }")
    html = (
        '<link rel=stylesheet href=a.css><p>{{ x }} <a href="https://e.com">y</a> <a href="https://e.com/u">z</a></p>'
    )
    made = parts_of(
        Message(
            "n@example.com",
            "a@example.net",
            html=html,
            text_from_html=True,
            inline_css=tmp_path,
            link_parameters=UTM,
            list_unsubscribe="https://e.com/u",
        )
    )
    assert made["text/plain"] == "{{ x }} y (https://e.com?utm_source=news) z (https://e.com/u)\n"
    assert made["text/html"] == (
        '<p>{{ x }} <a href="https://e.com?utm_source=news" style="color: red;">y</a>'
        ' <a href="https://e.com/u" style="color: red;">z</a></p>\n'
    )


def test_a_message_reads_no_style_sheet_where_files_are_off(tmp_path):
    (tmp_path / "a.css").write_text("a { color: red }")
    message = Message("n@example.com", html="<link rel=stylesheet href=a.css><p>x", inline_css=tmp_path)
    with pytest.raises(MessageError, match="no folder"):
        message.as_bytes(allow_files=False)


def test_without_css_inline_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "css_inline", None)
    with pytest.raises(MessageError, match=r"pip install 'bulkmail\[html\]'"):
        rendered("<style>b{top:0}</style><b>x</b>", inline_css=True)
    assert rendered("<b>x</b>", inline_css=True)[0] == "<b>x</b>"


def test_defaults_of_a_mailer_reach_the_message():
    message = Message("n@example.com", html="<p>x</p>").with_defaults({"text_from_html": True})
    assert parts_of(message)["text/plain"] == "x\n"
