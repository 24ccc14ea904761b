"""Templates that loop, multiply or never end fail the recipient in hand, soon, and say where."""

import pytest

from bulkmail.errors import RECIPIENT, MessageError
from bulkmail.message import limits
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
BIG = "x" * 600_000
GROW = "{% set ns = namespace(v=v) %}{% for i in range(99) %}{% set ns.v = "


@pytest.fixture(autouse=True)
def less_time(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.3)


def both(text, html=False, folder=None, **row):
    """What a template makes for a row: composed, and by the reference."""
    spec = MessageSpec(from_="n@example.com", **{"html" if html else "text": text})
    message = compile_message(spec, job="j", folder=folder)
    row = {"email": "a@example.net", **row}
    (made,) = message.compose([row], [1], DATE)
    try:
        return made, message.render(row, 1, DATE)
    except MessageError as error:
        return made, error


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ range(100000)|map('upper')|list|length }}{% endfor %}",
        "{{ ([range(100000)] * 20000)|map('sum')|list|length }}",
        "{{ range(100000)|select('in', range(99999)|list)|list|length }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        GROW + "ns.v ~ ns.v %}{% endfor %}{{ ns.v }}",
        GROW + "ns.v + ns.v %}{% endfor %}{{ ns.v }}",
        GROW + "[ns.v, ns.v] %}{% endfor %}{{ ns.v }}",
        GROW + "[ns.v, ns.v] %}{% endfor %}{{ ns.v|string|length }}",
        GROW + "[ns.v, ns.v] %}{% endfor %}{{ ns.v ~ '' }}",
        GROW + "[ns.v, ns.v] %}{% endfor %}{{ '%s'|format(ns.v) }}",
        GROW + "[ns.v, ns.v] %}{% endfor %}{{ ns }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + [big ~ i] %}{% endfor %}x",
        "{% set x %}{% for i in range(99999) %}{{ big }}{% endfor %}{% endset %}x",
        "{% macro m() %}{% for i in range(99999) %}{{ big }}{% endfor %}{% endmacro %}{{ m()|length }}",
        "{% filter upper %}{% for i in range(99999) %}{{ big }}{% endfor %}{% endfilter %}",
        "{{ v|center(10**9) }}",
        "{{ v.center(10**9) }}",
        "{{ v.ljust(10**9)|length }}",
        "{{ v.zfill(10**9)|length }}",
        "{{ v|indent(10**9, true) }}",
        "{{ (v ~ '\n' * 1000)|indent(big, true)|length }}",
        "{{ big|replace('x', big)|length }}",
        "{{ big.replace('x', big)|length }}",
        "{{ range(90000)|join(big)|length }}",
        "{{ big.join(range(90000)|map('string'))|length }}",
        "{{ big|wordwrap(1, wrapstring=big)|length }}",
        "{{ range(9)|batch(10**9, 'x')|list|length }}",
        "{{ range(9)|slice(10**9)|list|length }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.999999999f'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ ('{0}' * 9000).format(big)|length }}",
        "{{ '\t'.expandtabs(1000000000)|length }}",
        "{{ big.translate({120: big})|length }}",
        "{{ (5).to_bytes(1000000000, 'big')|length }}",
        "{{ 1|round(1000000000) }}",
        "{{ [[v]]|tojson(indent=1000000000) }}",
        "{{ ([[v]] * 90000)|sum(start=[])|length }}",
        "{{ ('<!---->' * 90000)|striptags }}",
        "{{ ('example.com ' * 9)|urlize(rel=big)|length }}",
    ],
)
def test_a_template_without_end_is_stopped_with_file_and_line(text):
    for made in both("first line\n" + text, v="x", big=BIG):
        assert isinstance(made, MessageError)
        assert made.scope == RECIPIENT
        assert str(made).startswith("text, line "), str(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for i in range(50000) %}{% if i == 49999 %}{{ i }}{% endif %}{% endfor %}", "49999"),
        ("{{ v|center(9) }}|{{ v.rjust(3) }}", "    x    |  x"),
        ("{{ 'a b c'|replace(' ', '--') }}", "a--b--c"),
        ("{{ 'one two three four'|wordwrap(9) }}", "one two\nthree\nfour"),
        ("{{ '%05.1f|%s'|format(2.25, v) }}", "002.2|x"),
        ("{{ '{:>5}|{}'.format(1, v) }}", "    1|x"),
        ("{{ [1, 2, 3]|batch(2, 0)|list }}", "[[1, 2], [3, 0]]"),
        ("{{ [1, 2, 3]|map('string')|join(', ') }}", "1, 2, 3"),
        ("{{ 2.567|round(1) }} {{ 1234|filesizeformat }}", "2.6 1.2 kB"),
        ("{{ big|length }} {{ big|truncate(5) }}", "600000 xx..."),
        ("{{ {'a': [1, 2]}|tojson(indent=1) }}", '{\n "a": [\n  1,\n  2\n ]\n}'),
        ("{{ 'a' ~ 1 ~ none }} {{ 'a' + 'b' }} {{ 7 % 4 }}", "a1None ab 3"),
        ("{{ 'see https://example.com'|urlize(rel='x') }}", "see <a href="),
        ("{% for n in [1, 2, 3] if n != 2 %}{{ loop.index }}:{{ n }} {% endfor %}", "1:1 2:3"),
    ],
)
def test_ordinary_templates_do_not_feel_the_limits(text, expected):
    made, slow = both(text, v="x", big=BIG)
    assert not isinstance(made, MessageError), made
    assert slow.text.strip().startswith(expected.strip())


def test_a_template_that_is_slow_in_few_steps_runs_out_of_time(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.0)
    made, slow = both("\n{% for i in range(99) %}{{ i }}{% endfor %}")
    assert str(made).startswith("text, line 2: more than 0 seconds")
    assert str(slow).startswith("text, line 2: more than 0 seconds")


def test_one_recipient_that_needs_too_much_leaves_the_others_alone():
    spec = MessageSpec(
        from_="n@example.com", text="{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}"
    )
    message = compile_message(spec, job="j")
    made = message.compose([{"email": "a@example.net", "n": n} for n in (3, 20000, 3)], [1, 2, 3], DATE)
    assert [isinstance(item, MessageError) for item in made] == [False, True, False]


def test_steps_are_counted_for_each_recipient_anew(monkeypatch):
    monkeypatch.setattr(limits, "MAX_STEPS", 120)
    message = compile_message(
        MessageSpec(
            from_="n@example.com", text="{% for i in range(50) %}x{% endfor %}{% for i in range(n) %}y{% endfor %}"
        ),
        job="j",
    )
    made = message.compose([{"email": "a@example.net", "n": n} for n in (60, 60, 80)], [1, 2, 3], DATE)
    assert [isinstance(item, MessageError) for item in made] == [False, False, True]


def test_an_include_that_includes_itself_is_stopped(tmp_path):
    (tmp_path / "self.txt").write_text("{% include 'self.txt' %}")
    for made in both("\n{% include 'self.txt' %}", folder=tmp_path):
        assert isinstance(made, MessageError) and "self.txt" in str(made)


@pytest.mark.parametrize(
    "text", ["{{ " + "(" * 5000 + "v" + ")" * 5000 + " }}", "{% for i in v %}" * 30 + "{% endfor %}" * 30]
)
def test_what_is_nested_too_deeply_is_a_sentence_when_compiled(text):
    with pytest.raises(MessageError, match="text"):
        compile_message(MessageSpec(from_="n@example.com", text=text), job="j")


def test_a_constant_that_would_be_too_long_is_not_made_when_compiled():
    made, _ = both("{{ 'x'|center(1000000000) }}")
    assert isinstance(made, MessageError)


def test_values_repeated_everywhere_do_not_fill_the_memory():
    message = compile_message(MessageSpec(from_="n@example.com", text="{{ big }}" * 300), job="j")
    (made,) = message.compose([{"email": "a@example.net", "big": BIG}], [1], DATE)
    assert isinstance(made, MessageError) and "text" in str(made) and made.scope == RECIPIENT


def test_a_constant_that_cannot_be_worked_out_is_an_error_and_no_traceback(tmp_path):
    for made in both("{{ 'top'.y ~ a }}", a=""):
        assert isinstance(made, MessageError) and "'y'" in str(made)
    (tmp_path / "layout.html").write_text("{% set y = x.y ~ a %}")
    made, slow = both("{% set x = 'top' %}{% extends 'layout.html' %}", folder=tmp_path, a="")
    assert isinstance(made, MessageError) and isinstance(slow, MessageError)
