"""What of a template is the same for everybody is a constant of the plan, whatever files and statements it is in."""

import pytest

from bulkmail.message.plan import Branch, Rendered, Text, Value, make_plan
from bulkmail.message.template import Source, make_environment


def shape(text, folder=None, html=True):
    """The plan as a list: constant text, "{name}" for a value, "<slot>" for what Jinja2 evaluates."""
    plan = make_plan(make_environment(folder, html=html), Source("html", text, "news.html", html))
    assert not plan.whole
    return [told(piece) for piece in plan.pieces]


def told(piece):
    if isinstance(piece, Text):
        return piece.text
    if isinstance(piece, Value):
        return "{" + piece.name + "}"
    if isinstance(piece, Branch):
        return {"then": [told(p) for p in piece.then], "else": [told(p) for p in piece.orelse]}
    assert isinstance(piece, Rendered)
    return "<slot>"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "layout.html").write_text(
        "<html>{% block title %}News{% endblock %}<body>{% block main %}{% endblock %}"
        "{% include 'foot.html' %}</body>{{ city }}"
    )
    (tmp_path / "foot.html").write_text("<hr>{{ id }}")
    (tmp_path / "late.html").write_text("{% filter upper %}{{ z }}{% endfilter %}{% set z = 2 %}")
    (tmp_path / "m.html").write_text("{% set m = a %}{{ m() }}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a{% set c = '#036' %}b{{ c }}d{{ c }}", ["ab#036d#036"]),
        ("{% set c = '<' %}{{ c }}", ["&lt;"]),
        ("{% set n = name %}Hi {{ n }}!", ["Hi ", "{name}", "!"]),
        ("{% set n = name|default('you') %}Hi {{ n }}!", ["Hi ", "{name}", "!"]),
        ("{% set n = name %}{% if n %}Hi {{ n }}{% endif %}", [{"then": ["Hi ", "{name}"], "else": []}]),
        ("{% set n = name|upper %}Hi {{ n }}!", ["<slot>", "Hi ", "<slot>", "!"]),
        ("a{% for x in xs %}{{ x }}{% endfor %}b{{ n }}", ["a", "<slot>", "b", "{n}"]),
        ("{% macro m(v) %}[{{ v }}]{% endmacro %}a{{ m(n) }}b{{ n }}", ["a", "<slot>", "b", "{n}"]),
        ("{{ 'abc'|upper }}{{ 1.5 * 2 }}x", ["ABC", "<slot>", "x"]),
        ("{% if true %}a{% else %}{{ b }}{% endif %}", ["a"]),
        ("{% if a %}1{% elif false %}2{% else %}3{% endif %}", [{"then": ["1"], "else": ["3"]}]),
        ("{% if a > 3 and b %}big {{ c }}{% endif %}", [{"then": ["big ", "{c}"], "else": []}]),
        ("{% raw %}{{ a }}{% endraw %}{# b #}", ["{{ a }}"]),
    ],
)
def test_statements(text, expected):
    assert shape(text) == expected


def test_a_parent_is_put_in_place(folder):
    text = "{% extends 'layout.html' %}{% block main %}Hello {{ name }}{% endblock %}"
    assert shape(text, folder) == ["<html>News<body>Hello ", "{name}", "<hr>", "{id}", "</body>", "{city}"]


def test_super_and_a_block_that_stands_twice(folder):
    text = "{% extends 'layout.html' %}{% block title %}{{ super() }}!{% endblock %}"
    text += "{% block main %}{{ self.title() }}{% endblock %}"
    assert shape(text, folder) == ["<html>News!<body>News!<hr>", "{id}", "</body>", "{city}"]


def test_a_constant_of_the_child_is_one_in_the_parent(folder):
    (folder / "base.html").write_text("<p style='color: {{ color }}'>{% block a %}{% endblock %}")
    text = "{% extends 'base.html' %}{% set color = 'red' %}{% block a %}{{ color }}{% endblock %}"
    assert shape(text, folder) == ["<p style='color: red'>red"]


def test_fields_of_a_block_that_is_replaced_are_not_needed(folder):
    (folder / "base.html").write_text("{% block a %}{{ old }}{% endblock %}")
    plan = make_plan(
        make_environment(folder, html=True),
        Source("html", "{% extends 'base.html' %}{% block a %}{{ new }}{% endblock %}"),
    )
    assert set(plan.required) == {"new"}


@pytest.mark.parametrize(
    "text",
    [
        "{% extends parent %}",
        "{% if a %}{% extends 'layout.html' %}{% endif %}",
        "{% for x in xs %}{% set y = x %}{% endfor %}{% macro m() %}{{ z }}{% endmacro %}{{ m() }}{% set z = 1 %}",
        "{% set x = a %}{% set x %}{{ x }}!{% endset %}{{ x }}",
        "{% set x = a %}{% macro m() %}{{ x }}{% endmacro %}{% set x = m() %}{{ x }}",
        "{% macro m() %}1{% endmacro %}{% include 'm.html' %}",
        "{% extends 'late.html' %}{% set z = 1 %}",
        "{% if a %}{% macro m() %}1{% endmacro %}{% endif %}{{ m() }}",
        "{% extends 'layout.html' %}{% block main %}{% for x in xs %}{{ super() }}{% endfor %}{% endblock %}",
        "{% for x in xs %}{% block b %}{% endblock %}{% endfor %}",
    ],
)
def test_what_is_not_certain_is_one_slot(folder, text):
    assert make_plan(make_environment(folder, html=True), Source("html", text)).whole


def test_includes_that_multiply_do_not_fill_the_memory(tmp_path):
    for n in range(30):
        (tmp_path / f"{n}.html").write_text(f"{{% include '{n + 1}.html' %}}" * 2)
    (tmp_path / "30.html").write_text("x")
    plan = make_plan(make_environment(tmp_path, html=True), Source("html", "{% include '0.html' %}"))
    assert plan.whole
