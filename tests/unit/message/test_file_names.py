"""File names and parameters in any script: what a reader gets is what was given, and no value ends its field."""

from email import message_from_bytes
from email.policy import SMTP

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.attach import load_attachment
from bulkmail.message.parameters import content_type, disposition, split_type
from bulkmail.message.spec import AttachmentSpec

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=120)
SCRIPTS = st.sampled_from(
    [
        "Übersicht (neu).pdf",
        "отчёт за ноябрь.xlsx",
        "2026年11月の報告書.docx",
        "تقرير نوفمبر.pdf",
        'a "quoted" \\ name.txt',
        "semi;colon=equals,comma.txt",
        "=?utf-8?q?x?=.txt",
        "100% of it.txt",
        "' or '*.txt",
        " blanks around ",
        "👩‍👩‍👧‍👦.png",
        "x" * 200 + ".bin",
        "é" * 200,
        "../../etc/passwd",
    ]
)


def parsed(lines):
    assert lines.isascii() and lines.endswith(b"\r\n")
    fields = lines.removesuffix(b"\r\n").split(b"\r\n")
    assert all(len(line) <= 78 for line in fields)
    assert all(line.startswith(b" ") and line.strip() for line in fields[1:])
    return message_from_bytes(lines + b"\r\n", policy=SMTP)


@settings(max_examples=400, deadline=None)
@given(NAMES | SCRIPTS)
@example("a")
@example('"')
@example("\\")
@example("?=")
@example("a\u2028b")
def test_a_file_name_comes_back(name):
    assert parsed(disposition("attachment", name))["Content-Disposition"].params["filename"] == name


@settings(max_examples=400, deadline=None)
@given(NAMES | SCRIPTS)
def test_the_name_for_older_readers_never_ends_its_field(name):
    found = parsed(content_type("application/pdf", {}, name))
    assert found.get_content_type() == "application/pdf" and list(found.keys()) == ["Content-Type"]
    assert {key for key, _ in found.get_params()} <= {"application/pdf", "name"}


@settings(max_examples=300, deadline=None)
@given(NAMES | SCRIPTS)
def test_a_parameter_of_a_type_comes_back(value):
    found = parsed(content_type("text/plain", {"charset": "utf-8", "x-note": value}))
    assert found["Content-Type"].params["x-note"] == value


def test_characters_are_whole_in_each_piece_of_a_long_name():
    lines = disposition("attachment", "日" * 100).decode().split("\r\n ")[1:]
    assert len(lines) > 5 and all("%" not in line.rstrip(";\r\n")[-2:] for line in lines)
    for line in lines:
        coded = line.rstrip(";\r\n").partition("=")[2].removeprefix("utf-8''")
        assert len(coded) % 9 == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "a\r\nBcc: x"}, "the name .* has a line break"),
        ({"name": "a\0"}, "the name"),
        ({"name": "a\ud800"}, "lone surrogate"),
        ({"name": "x" * 1001}, "1001 characters, at most 1000"),
        ({"type": "text/plain; x=" + "y" * 1001}, "'x' of the type has 1001 characters"),
        ({"type": 'text/plain; x="a\x01"'}, "the parameter 'x' of the type"),
        ({"type": "text/plain; charset=klingon"}, "the charset 'klingon' is unknown"),
        ({"type": "text/plain; charset=rot13"}, "the charset 'rot13' is unknown"),
        ({"type": "a" * 128 + "/b"}, "expected a content type"),
        ({"type": "text/plain; x"}, "expected a content type"),
        ({"type": "text/plain\r\n; x=y"}, "expected a content type"),
        ({"cid": "x" * 501}, "cid"),
        ({"cid": "ü"}, "cid"),
        ({"headers": (("Content-ID", "x"),)}, "'Content-ID' is made from"),
        ({"headers": (("X A", "x"),)}, "not a header name"),
        ({"headers": (("X-A", "x\ny"),)}, "headers.X-A: a line break"),
    ],
)
def test_what_would_break_a_part_is_refused(spec, words):
    with pytest.raises(MessageError, match=words) as caught:
        load_attachment(AttachmentSpec(**{"content": b"x", **spec}), "attachments[1]")
    assert str(caught.value).startswith(("attachments[1]", "headers:"))


def test_types_are_taken_apart():
    assert split_type('Text/CSV ; Charset="x y";header=present', "") == (
        "text/csv",
        {"charset": "x y", "header": "present"},
    )
    made = load_attachment(AttachmentSpec(content="näh", type="text/csv; charset=latin1; header=present"))
    assert made.parameters == {"charset": "utf-8", "header": "present"}
    assert load_attachment(AttachmentSpec(content=b"x", type="text/x; charset=ISO-8859-8-I")).type == "text/x"


def test_a_part_has_its_own_headers():
    made = load_attachment(AttachmentSpec(content=b"x", name="a", headers=(("X-A", "1"), ("X-A", "ü"))))
    assert message_from_bytes(made.head, policy=SMTP).get_all("X-A") == ["1", "ü"]
