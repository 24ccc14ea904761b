"""Which recipient fields a template needs, and which it can do without."""

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.fields import find_uses
from bulkmail.message.spec import MessageSpec
from bulkmail.message.template import Source, make_environment, parse


def uses(text, folder=None):
    environment = make_environment(folder, html=True)
    source = Source("html", text, html=True)
    found = find_uses(environment, parse(environment, source), source)
    return set(found.required), found.names


@pytest.mark.parametrize(
    ("text", "required", "optional"),
    [
        ("{{ a }}", "a", ""),
        ("{{ a.b }} {{ c['d'] }}", "a c", ""),
        ("{{ a|default('x') }}", "", "a"),
        ("{{ a|d(b) }}", "b", "a"),
        ("{{ a.b|default('x') }}", "a", ""),
        ("{{ (a|default(''))|upper }}", "", "a"),
        ("{% if a is defined %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is defined %}{{ b }}{% else %}{{ a }}{% endif %}", "a b", ""),
        ("{% if a is not defined %}x{% else %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is undefined %}x{% elif a == 1 %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is defined and a.b %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is defined or b %}{{ a }}{% endif %}", "a b", ""),
        ("{% if a is undefined or a > 1 %}x{% endif %}", "", "a"),
        ("{% if not (a is defined and b is defined) %}{{ a }}{% else %}{{ a }}{{ b }}{% endif %}", "a", "b"),
        ("{{ a if a is defined else 'x' }}", "", "a"),
        ("{{ 'x' if a is undefined else a }}", "", "a"),
        ("{% if a %}{{ a }}{% endif %}", "a", ""),
        ("{% for x in xs %}{{ x }}{{ loop.index }}{{ y }}{% else %}{{ z }}{% endfor %}", "xs y z", ""),
        ("{% for k, v in d.items() if v %}{{ k }}{% endfor %}", "d", ""),
        ("{% set x = a %}{{ x }}", "a", ""),
        ("{% set x = x|default('') %}{{ x }}", "", "x"),
        ("{% macro m(p, q=b) %}{{ p }}{{ q }}{{ c }}{% endmacro %}{{ m(a) }}", "a b c", ""),
        ("{% with x = a %}{{ x }}{% endwith %}", "a", ""),
        ("{{ range(3)|list }} {{ namespace(x=a) }}", "a", ""),
        ("{# {{ a }} #}{% raw %}{{ b }}{% endraw %}", "", ""),
        ("{{ 'literal' }}", "", ""),
    ],
)
def test_names(text, required, optional):
    assert uses(text) == (set(required.split()), set(required.split()) | set(optional.split()))


def test_included_and_parent_templates_count(tmp_path):
    (tmp_path / "foot.html").write_text("{{ city }}{% if vip is defined %}{{ vip }}{% endif %}")
    (tmp_path / "base.html").write_text("{{ title }}{% block main %}{{ old }}{% endblock %}")
    assert uses("{{ a }}{% include 'foot.html' %}", tmp_path)[0] == {"a", "city"}
    assert uses("{% if city is defined %}{% include 'foot.html' %}{% endif %}", tmp_path)[0] == set()
    found = uses("{% extends 'base.html' %}{% block main %}{{ b }}{% endblock %}", tmp_path)[0]
    assert {"title", "b"} <= found


@pytest.mark.parametrize("name", ["none.html", "../secret.html", "/etc/hostname"])
def test_what_is_not_in_the_folder_cannot_be_included(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.html").write_text("secret")
    with pytest.raises(MessageError, match="folder"):
        uses("{% include '" + name + "' %}", inside)


def test_a_link_out_of_the_folder_is_no_way_out(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.html").write_text("secret")
    (inside / "link.html").symlink_to(tmp_path / "secret.html")
    with pytest.raises(MessageError, match="outside"):
        uses("{% include 'link.html' %}", inside)


def test_an_error_in_an_included_file_names_that_file_and_line(tmp_path):
    (tmp_path / "foot.html").write_text("fine\n{{ broken ")
    with pytest.raises(MessageError, match=r"foot\.html, line 2"):
        uses("{% include 'foot.html' %}", tmp_path)


def test_a_missing_include_may_be_declared_harmless(tmp_path):
    assert uses("{% include 'none.html' ignore missing %}{{ a }}", tmp_path)[0] == {"a"}


@pytest.mark.parametrize("tag", ["import '{}' as m", "from '{}' import m", "extends '{}'", "include '{}'"])
@pytest.mark.parametrize(
    "name", ["none.html", "../secret.html", "/secret.html", "link.html", "sub", "bad.html", "nul.html"]
)
def test_no_tag_reads_what_is_not_a_text_in_the_folder(tmp_path, tag, name):
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    (inside / "link.html").symlink_to(tmp_path / "secret.html")
    (inside / "bad").write_bytes(b"fine\n\xff")
    (inside / "nul").write_bytes(b"fine\n\0")
    with pytest.raises(MessageError, match=r"folder|line 2"):
        compile_message(
            MessageSpec(from_="n@example.com", html="{% " + tag.format(name) + " %}"), job="j", folder=inside
        )


@pytest.mark.parametrize("tag", ["import 'a' as m", "from 'a' import m", "extends 'a'", "include 'a'"])
def test_without_a_folder_nothing_is_read(tag):
    with pytest.raises(MessageError, match="no folder"):
        compile_message(MessageSpec(from_="n@example.com", html="{% " + tag + " %}"), job="j")


def test_a_computed_name_leads_nowhere_else(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.html").write_text("secret")
    message = compile_message(
        MessageSpec(from_="n@example.com", html="{% include name %}"), job="j", folder=tmp_path / "inside"
    )
    (made,) = message.compose([{"email": "a@example.net", "name": "../secret.html"}], [1], b"")
    assert isinstance(made, MessageError)
