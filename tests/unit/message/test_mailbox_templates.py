"""`to` and its like as templates: the template, never a value, decides what is the name and what the address."""

from email import message_from_bytes
from email.utils import getaddresses

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"


def to_header(to, **row):
    message = compile_message(MessageSpec(from_="n@example.com", to=to, text="t"), job="j")
    (made,) = message.compose([{"email": "ann@example.net", **row}], [1], DATE)
    if isinstance(made, MessageError):
        raise made
    return getaddresses([message_from_bytes(made[2])["To"]])


@pytest.mark.parametrize(
    ("to", "row", "expected"),
    [
        ("{{ n }} <{{ email }}>", {"n": "Ann"}, [("Ann", "ann@example.net")]),
        ("{{ n }} <{{ email }}>", {"n": "Smith, Ann"}, [("Smith, Ann", "ann@example.net")]),
        (
            "{{ n }} <{{ email }}>",
            {"n": "x@y.example, <z@y.example>"},
            [("x@y.example, <z@y.example>", "ann@example.net")],
        ),
        ("{{ n }} <{{ email }}>", {"n": 'a"b\\c'}, [('a"b\\c', "ann@example.net")]),
        ("{{ n }} <{{ email }}>", {"n": ""}, [("", "ann@example.net")]),
        ('"{{ a }}, {{ n }}" <{{ email }}>', {"n": "Ann", "a": "Lee"}, [("Lee, Ann", "ann@example.net")]),
        ('"Say \\"{{ n }}\\"" <{{ email }}>', {"n": "hi"}, [('Say "hi"', "ann@example.net")]),
        ("Dr. {{ n }} <{{ email }}>", {"n": "Who"}, [("Dr. Who", "ann@example.net")]),
        ("{{ email }}", {}, [("", "ann@example.net")]),
        ("<{{ email }}>", {}, [("", "ann@example.net")]),
        ("{{ whole }}", {"whole": "Ann <a@example.org>"}, [("Ann", "a@example.org")]),
        ("{{ u }}@example.com", {"u": "bo"}, [("", "bo@example.com")]),
        (
            "{{ n }} <{{ email }}>, Bo <b@example.com>",
            {"n": "A, B"},
            [("A, B", "ann@example.net"), ("Bo", "b@example.com")],
        ),
        ("{% if n %}{{ n }} <{{ email }}>{% else %}{{ email }}{% endif %}", {"n": "Ann"}, [("Ann", "ann@example.net")]),
        ("{{ n }} <{{ email }}>", {"n": "A" * 300}, [("A" * 300, "ann@example.net")]),
    ],
)
def test_names_and_addresses(to, row, expected):
    from email.header import decode_header, make_header

    assert [(str(make_header(decode_header(name))), address) for name, address in to_header(to, **row)] == expected


@pytest.mark.parametrize(
    ("to", "row"),
    [
        ("{{ n }} <{{ other }}>", {"n": "A", "other": "x> , <evil@example.org"}),
        ("{{ n }} <{{ other }}>", {"n": "A", "other": ""}),
        ("{{ whole }}", {"whole": "a@example.org, b@example.org"}),
        ("{{ whole }}", {"whole": "x <evil@example.org>, Ann <a@example.org>"}),
        ("{{ whole }}", {"whole": ""}),
        ("{{ u }}@example.com", {"u": "a b"}),
    ],
)
def test_an_address_that_is_none_fails_the_recipient(to, row):
    with pytest.raises(MessageError, match=r"^to: "):
        to_header(to, **row)


@pytest.mark.parametrize(
    "to", ["a <b@example.com> {{ c }}", "{{ a }} > <{{ email }}>", "<<{{ email }}>>", "{{ a }} <b@c"]
)
def test_a_template_that_can_be_no_address_is_refused(to):
    with pytest.raises(CompileError, match="to: "):
        compile_message(MessageSpec(from_="n@example.com", to=to, text="t"), job="j")


def test_an_empty_group_stands_as_it_is():
    message = compile_message(MessageSpec(from_="n@example.com", to="friends:;", text="t"), job="j")
    assert b"To: friends:;\r\n" in message.compose_shared(DATE)[1]
