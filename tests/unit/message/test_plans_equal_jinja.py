"""Random templates over several files, with everything that Jinja2 has: the plan gives what Jinja2 gives of the whole.

The slow run makes thousands: python -m pytest tests/unit/message/test_plans_equal_jinja.py -m slow
"""

import tempfile
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.limits import MAX_OUTPUT
from bulkmail.message.reference import RenderedMessage
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"

# a, b: text; n: a number; flag: true or not; xs: a list; gone: not there. x, y, z are bound by templates, or fields.
NAMES = st.sampled_from(["a", "b", "n", "x", "y", "z", "a", "b", "x", "xs"])
TEXT = st.sampled_from(
    [
        "plain ",
        "<p>",
        "\n",
        "\r\n",
        "\r",
        "\n.",
        ".",
        " \n",
        "é",
        "田中",
        "=",
        "x" * 75,
        "word " * 30,
        "  ",
        "\t",
        "&amp;",
        "y" * 1200,
        "{# a comment #}",
        "{#- trimmed -#}",
        "{% raw %}{{ a }}{% endraw %}",
        "",
    ]
)
ATOMS = st.one_of(
    NAMES,
    st.sampled_from(["'<lit>'", "3", "none", "true", "[1, a]", "x.y", "b[0]", "a|default('d<')", "gone|d(b)"]),
)
FILTERS = st.sampled_from(
    [
        "upper",
        "e",
        "safe",
        "default('q&')",
        "default('q', true)",
        "trim",
        "length",
        "string",
        "replace('e', '<')",
        "title",
    ]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, FILTERS).map(lambda t: f"({t[0]})|{t[1]}"),
        st.tuples(inner, st.sampled_from(["~", "~", "and", "or", "==", "+"]), inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]} if flag else {t[1]})"),
        inner.map(lambda e: f"(m({e}) if m is defined else {e})"),
    ),
    max_leaves=3,
)
TESTS = st.one_of(
    st.sampled_from(["flag", "not flag", "a", "x", "a == 'x'", "gone is defined", "x is defined", "1"]),
    EXPRESSIONS,
    st.tuples(NAMES, NAMES).map(" and ".join),
)


@st.composite
def marks(draw, inside):
    """`{% tag %}`, now and then trimmed on either side."""
    left, right = draw(st.sampled_from(["", "", "-", "+"])), draw(st.sampled_from(["", "", "-"]))
    return "{%" + left + " " + inside + " " + right + "%}"


@st.composite
def statement(draw, inner, files=()):
    def tag(text):
        return draw(marks(text))

    def expression():
        return draw(EXPRESSIONS)

    kind = draw(
        st.sampled_from(["if", "if", "for", "set", "set", "with", "filter", "include", "setblock", "scope", "ns"])
    )
    body = draw(inner)
    name = draw(st.sampled_from("xyz"))
    if kind == "if":
        middle = draw(st.sampled_from(["", "else", "elif"]))
        other = {"": "", "else": tag("else"), "elif": tag("elif " + draw(TESTS))}[middle]
        return tag("if " + draw(TESTS)) + body + other + (draw(inner) if middle else "") + tag("endif")
    if kind == "for":
        head = draw(st.sampled_from(["x in xs", "c in b", "x in xs if x != a", "i in range(2)"]))
        extra = draw(st.sampled_from(["", "{{ loop.index }}", "{{ x }}"]))
        return tag("for " + head) + extra + body + tag("endfor")
    if kind == "set":
        value = draw(st.one_of(EXPRESSIONS, st.sampled_from(["'const'", "a", "a|default('d<')", "x|default('')"])))
        return tag(f"set {name} = {value}")
    if kind == "setblock":
        return tag(f"set {name}") + body + tag("endset")
    if kind == "with":
        return tag(f"with {name} = {expression()}") + body + tag("endwith")
    if kind == "filter":
        return tag("filter upper") + body + tag("endfilter")
    if kind == "scope":
        return tag("autoescape false") + body + tag("endautoescape")
    if kind == "ns":
        return "{% set ns = namespace(v=1) %}{% for i in xs %}{% set ns.v = ns.v + 1 %}{% endfor %}{{ ns.v }}"
    if not files:
        return body
    missing = draw(st.sampled_from(["", "", " ignore missing", " without context"]))
    return tag(f"include '{draw(st.sampled_from(files))}'{missing}")


def bodies(files=(), extra=None):
    leaf = st.one_of(TEXT, EXPRESSIONS.map(lambda e: "{{ " + e + " }}"), NAMES.map(lambda name: "{{ " + name + " }}"))
    if extra is not None:
        leaf = st.one_of(leaf, extra)
    one = st.recursive(leaf, lambda inner: statement(st.lists(inner, max_size=3).map("".join), files), max_leaves=5)
    return st.lists(one, max_size=6).map("".join)


MACROS = st.sampled_from(
    [
        "",
        "{% macro m(v) %}[{{ v }}]{% endmacro %}",
        "{% macro m(v='d') -%} <{{ v }}{{ x }}> {%- endmacro %}",
        "{% macro k(v) %}{{ v }}{{ a }}{% endmacro %}{% macro m(v) %}{{ k(v) }}{% endmacro %}",
        "{% import 'lib.html' as lib %}{% set m = lib.m %}",
        "{% from 'lib.html' import m %}",
        "{% from 'lib.html' import m as k, m %}",
    ]
)


@st.composite
def templates(draw):
    """{file: text}; main.html is the one that is sent."""
    files = {"lib.html": "{% macro m(v) %}({{ v }}){% endmacro %}"}
    files["foot.html"] = draw(MACROS) + draw(bodies())
    files["mid.html"] = draw(bodies(["foot.html", "none.html"]))
    includes = ["foot.html", "mid.html"]
    blocks = st.sampled_from(["one", "two"])
    layout = draw(bodies(includes))
    for name in draw(st.lists(blocks, unique=True)):
        layout += "{% block " + name + " %}" + draw(bodies(includes)) + "{% endblock %}" + draw(bodies(includes))
    files["layout.html"] = layout
    main = draw(MACROS) + draw(bodies(includes))
    if draw(st.booleans()):
        main = draw(st.sampled_from(["", "\n", "{% set x = 'top' %}", "before"])) + "{% extends 'layout.html' %}"
        main += draw(MACROS) + draw(st.sampled_from(["", "dropped", "{% set y = a %}", "{% set z = 'const' %}"]))
        own = st.sampled_from(["{{ super() }}", "{{ self.two() }}", "{{ super()|upper }}"])
        for name in draw(st.lists(blocks, unique=True, min_size=1)):
            main += "{% block " + name + " %}" + draw(bodies(includes, own)) + "{% endblock %}\n"
    files["main.html"] = main
    return files


VALUES = st.sampled_from(["", "x", "<b>&'\"", "é田🙂", "a\nb", "\r\n.\r", "word " * 20, "{{ a }}"])
ROWS = st.fixed_dictionaries(
    {name: VALUES for name in "abxy"}
    | {"n": st.sampled_from([0, 1, 2.5]), "flag": st.booleans(), "xs": st.sampled_from([[], [1], [1, "<", 3]])},
    optional={"z": VALUES},
)


def outcome(make):
    try:
        return make()
    except MessageError as error:
        return error


def check(files, row, html):
    row = {"email": "ann@example.net", **row}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8", newline="")
        text = files["main.html"]
        part = {"html": text, "html_file": "main.html"} if html else {"text": text, "text_file": "main.html"}
        compiled = outcome(lambda: compile_message(MessageSpec(from_="n@example.com", **part), job="j", folder=folder))
        if isinstance(compiled, MessageError):
            assert str(compiled).partition(":")[0].split(",")[0] in {*files, "main.html"}, compiled
            return
        (quick,) = compiled.compose([row], [7], DATE)
        slow = outcome(lambda: compiled.render(row, 7, DATE))
    if (
        isinstance(quick, MessageError)
        and "characters come out of it" in str(quick)
        and isinstance(slow, RenderedMessage)
    ):
        assert len(slow.eml) > MAX_OUTPUT  # which bounds a slot of the one, and nothing of the other
        return
    if isinstance(slow, MessageError) or isinstance(quick, MessageError):
        assert isinstance(slow, MessageError) and isinstance(quick, MessageError), (quick, slow)
        return
    body = quick[2] if isinstance(quick[2], bytes) else b"".join(quick[2])
    lines = body.removesuffix(b".\r\n").split(b"\r\n")
    stored = b"\r\n".join(line[1:] if line.startswith(b"..") else line for line in lines)
    made = message_from_bytes(stored, policy=SMTP).get_payload(decode=True).decode()
    assert made == (slow.html if html else slow.text).replace("\n", "\r\n")


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=templates(), row=ROWS, html=st.booleans())
def test_what_is_composed_is_what_jinja_renders(files, row, html):
    check(files, row, html)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=templates(), row=ROWS, html=st.booleans())
def test_what_is_composed_is_what_jinja_renders_thousands(files, row, html):
    check(files, row, html)
