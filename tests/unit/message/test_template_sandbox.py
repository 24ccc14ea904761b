"""What a template may not do, and how much may come out of it."""

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.limits import MAX_OUTPUT
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"


def outcome(text, **row):
    message = compile_message(MessageSpec(from_="n@example.com", text=text), job="j")
    (made,) = message.compose([{"email": "a@example.net", **row}], [1], DATE)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ v.__init__ }}",
        "{{ v|attr('__class__') }}",
        "{{ '{0.__class__}'.format(v) }}",
        "{% set x = v.append(1) %}",
        "{{ v.clear() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ range(10**7)|list }}",
        "{{ lipsum() }}",
        "{{ 'a' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{{ 10 ** 10000000 }}",
        "{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "{{ v.nothing }}",
        "{{ nothing }}",
        "{{ v + 'x' }}",
    ],
)
def test_it_fails_that_recipient_and_says_where(text):
    made = outcome(text, v=[1])
    assert isinstance(made, MessageError) and str(made).startswith("text")


def test_output_below_the_bound_passes():
    made = outcome("{% for i in range(1000) %}{{ v }}{% endfor %}", v="x" * (MAX_OUTPUT // 1000))
    assert len(made[2]) > MAX_OUTPUT - 1000


def test_arithmetic_of_ordinary_size_works():
    made = outcome("{{ 2 ** 10 }} {{ v * 3 }} {{ '-' * 10 }} {{ 19.5 * 2 }}", v=7)
    assert b"1024 21 ---------- 39.0" in made[2]


def test_values_are_never_templates():
    assert b"{{ 7 * 6 }}" in outcome("{{ v }}{{ v|trim }}", v="{{ 7 * 6 }}")[2]
