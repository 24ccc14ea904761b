"""Compiled messages: envelope, ids, who shares one body, what fails one recipient, what stops the compiling."""

from email import message_from_bytes
from email.policy import SMTP

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.compiled import make_message_id
from bulkmail.message.raw import from_wire, wire_ready
from bulkmail.message.spec import AttachmentSpec, ListUnsubscribe, MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"


def compiled(job="job", defaults=None, variables=None, folder=None, personal=False, **fields):
    given = {"from_": "News <news@example.com>", "text": "Hi"}
    return compile_message(
        MessageSpec(**{**given, **fields}),
        job=job,
        defaults=defaults or {},
        variables=variables or {},
        folder=folder,
        personal=personal,
    )


def one(message, row=None, number=1):
    (made,) = message.compose([{"email": "ann@example.net", **(row or {})}], [number], DATE)
    return made


def parsed(made):
    assert not isinstance(made, MessageError), made
    return message_from_bytes(made[2].removesuffix(b".\r\n"), policy=SMTP)


def refused(row=None, **fields):
    made = one(compiled(**fields), row)
    assert isinstance(made, MessageError) and made.scope == "recipient"
    return str(made)


# ---- the envelope


def test_the_envelope_sender_is_stated_or_sender_or_from():
    assert one(compiled())[0] == b"news@example.com"
    assert one(compiled(sender="Robot <robot@example.com>"))[0] == b"robot@example.com"
    assert one(compiled(envelope_from="b@example.org"))[0] == b"b@example.org"
    assert one(compiled(envelope_from="<>"))[0] == b""
    assert one(compiled(from_="{{ me }}@example.com"), {"me": "bo"})[0] == b"bo@example.com"


def test_a_templated_envelope_sender_is_checked_for_each_recipient():
    message = compiled(envelope_from="bounce+{{ id }}@b.example.com")
    assert one(message, {"id": 7})[0] == b"bounce+7@b.example.com"
    assert one(message, {"id": "a.b"})[0] == b"bounce+a.b@b.example.com"
    for bad in ("a b", "a@b", "a>\r\nRCPT TO:<x@y", "", ".", "x" * 70, "a\0"):
        made = one(message, {"id": bad})
        assert (made[0] == b"bounce+@b.example.com") if bad == "" else isinstance(made, MessageError)


def test_the_recipient_is_the_rows_email():
    assert one(compiled())[1] == b"ann@example.net"
    assert "email" in str(compiled().compose([{}], [1], DATE)[0])


# ---- ids


def test_message_ids_are_unique_per_copy_and_the_same_again():
    message = compiled(text="{{ email }}")
    rows = [{"email": f"u{n % 5}@example.net"} for n in range(100)]
    made = message.compose(rows, list(range(1, 101)), DATE)
    ids = [message_from_bytes(body)["Message-ID"] for _, _, body in made]
    assert len(set(ids)) == 100
    assert ids == [message.message_id(n, row["email"]) for n, row in enumerate(rows, 1)]
    again = compiled(text="{{ email }} changed")
    assert [again.message_id(n, row["email"]) for n, row in enumerate(rows, 1)] == ids
    assert compiled(job="other", text="{{ email }}").message_id(1, "u0@example.net") != ids[0]
    assert make_message_id("job", 1, "u0@example.net", message.domain) == message.message_id(1, "u0@example.net")
    assert all(i.endswith("@example.com>") and "example.net" not in i and len(i) < 100 for i in ids)


@pytest.mark.parametrize(
    ("fields", "domain"),
    [
        ({"from_": "a@Bücher.example"}, "xn--bcher-kva.example"),
        ({"from_": "{{ me }} <news-{{ me }}@example.org>"}, "example.org"),
        ({"from_": "{{ me }}", "sender": "x@example.com"}, "example.com"),
        ({"from_": "{{ me }}", "envelope_from": "b+{{ me }}@example.com"}, "example.com"),
        ({"from_": "{{ me }}"}, "bulkmail.invalid"),
    ],
)
def test_the_domain_of_message_ids(fields, domain):
    assert compiled(**fields).domain == domain


# ---- shared and personal


def test_a_message_without_marks_is_shared():
    message = compiled(html="<p>Hi</p>\n.dot\n", subject="Grüße", headers={"X-A": "b"})
    assert message.shared and message.fields == frozenset()
    sender, body = message.compose_shared(DATE)
    found = message_from_bytes(body.replace(b"\r\n..", b"\r\n."), policy=SMTP)
    assert (sender, found["To"], found["Subject"]) == (b"news@example.com", "undisclosed-recipients:;", "Grüße")
    assert found["Message-ID"] == message.message_id(0, "") == message.message_id(9, "x@y.example")
    assert found["Date"] == DATE.decode() and body.endswith(b"\r\n.\r\n")
    assert compiled(to="All <all@example.com>").compose_shared(DATE)[1].count(b"To: All <all@example.com>\r\n") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "{{ name }}"},
        {"subject": "{{ name }}"},
        {"to": "{{ email }}"},
        {"headers": {"X-A": "{{ name }}"}},
        {"list_unsubscribe": ListUnsubscribe("https://example.com/{{ name }}")},
        {"envelope_from": "b+{{ name }}@example.com"},
        {"html": "{% for i in [1] %}x{% endfor %}"},
        {"personal": True},
    ],
)
def test_a_mark_anywhere_makes_it_personal(fields):
    message = compiled(**fields)
    assert not message.shared
    with pytest.raises(MessageError, match="differs from recipient to recipient"):
        message.compose_shared(DATE)


def test_comments_and_raw_text_are_no_marks_of_a_recipient():
    message = compiled(text="a{# comment #}b{% raw %}{{ x }}{% endraw %}")
    assert message.shared
    assert b"ab{{ x }}" in message.compose_shared(DATE)[1]


def test_without_to_each_personal_copy_names_its_recipient():
    assert str(parsed(one(compiled(text="{{ email }}")))["To"]) == "ann@example.net"


# ---- fields


def test_fields_are_what_rows_must_have():
    message = compiled(
        defaults={"city": "x"},
        variables={"season": "y"},
        subject="{{ name }} {{ season }}",
        to="{{ name }} <{{ email }}>",
        html="{{ city }} {{ points }} {{ gone|default('') }}",
        envelope_from="b+{{ id }}@example.com",
    )
    assert message.fields == {"name", "email", "points", "id"}
    assert message.header_fields == {"name", "email", "id", "season"}
    assert message.names == {"name", "season", "email", "city", "points", "gone", "id"}
    assert message.places["points"] == [("html, line 1", True)]
    assert message.places["name"] == [("to, line 1", True), ("subject, line 1", True)]
    assert message.places["gone"] == [("html", False)]


def test_a_rows_value_wins_over_a_variable_and_that_over_a_default():
    message = compiled(defaults={"a": 1, "b": 1, "c": 1}, variables={"a": 2, "b": 2}, text="{{ a }}{{ b }}{{ c }}")
    assert parsed(one(message, {"a": 3})).get_content().strip() == "321"


# ---- one bad row


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\r\nBcc: evil@example.org", "a\0b", "x\n"])
@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"subject": "Hi {{ v }}"}, "subject"),
        ({"subject": "Hi {{ v|upper }}"}, "subject"),
        ({"to": "{{ v }} <{{ email }}>"}, "to"),
        ({"to": '"{{ v }}" <{{ email }}>'}, "to"),
        ({"from_": "{{ v }} <news@example.com>"}, "from"),
        ({"headers": {"X-A": "{{ v }}"}}, "headers.X-A"),
        ({"list_unsubscribe": ListUnsubscribe("https://example.com/{{ v }}")}, "list_unsubscribe"),
        ({"envelope_from": "b+{{ v }}@example.com"}, "envelope_from"),
        ({"feedback_id": "{{ v }}:b"}, "feedback_id"),
    ],
)
def test_a_line_break_that_reaches_a_header_fails_that_recipient(fields, key, bad):
    message = refused({"v": bad}, **fields)
    assert message.startswith(f"{key}: ") and "'v'" in message


def test_a_bad_row_leaves_the_others_alone():
    message = compiled(subject="{{ name }}", text="{{ 6 // n }}")
    rows = [
        {"email": "a@example.net", "name": "A", "n": 1},
        {"email": "b@example.net", "name": "B\n", "n": 1},
        {"email": "c@example.net", "n": 1},
        {"email": "d@example.net", "name": "D", "n": 0},
        {"email": "e@example.net", "name": "\ud800", "n": 1},
        {"email": "f@example.net", "name": "F", "n": 3},
    ]
    made = message.compose(rows, [1, 2, 3, 4, 5, 6], DATE)
    assert [isinstance(item, tuple) for item in made] == [True, False, False, False, False, True]
    assert b"Subject: F\r\n" in made[5][2]
    assert "'name' is undefined" in str(made[2]) and str(made[2]).startswith("subject, line 1")
    assert "text, line 1" in str(made[3]) and "zero" in str(made[3])
    assert all(item.__traceback__ is None and item.__cause__ is None for item in made[1:5])


def test_an_error_names_the_templates_file_and_line():
    message = compiled(html="<p>\n{{ user.name }}</p>", html_file="news.html")
    assert str(one(message, {"user": {}})).startswith("news.html, line 2: ")
    assert str(one(compiled(text="\n\n{{ x }}", text_file="news.txt"))).startswith("news.txt, line 3: 'x' is undefined")


def test_a_header_value_has_a_bound():
    assert "at most 30000" in refused({"v": "x" * 30001}, subject="{{ v }}")


def test_a_long_value_in_the_body_and_short_ones_after_it():
    message = compiled(text="{{ v }}")
    for size in (10, 100_000, 10, 3_000_000, 10):
        body = parsed(one(message, {"v": "é&" * size})).get_content()
        assert body == "é&" * size + "\r\n"


def test_recipients_in_another_script_get_their_address_as_it_is():
    (made,) = compiled(text="{{ email }}").compose([{"email": "ünï@example.net"}], [1], DATE)
    assert made[1] == "ünï@example.net".encode() and "To: ünï@example.net\r\n".encode() in made[2]
    assert "beyond ASCII" in refused({"v": "ünï@example.org"}, to="{{ v }}")


# ---- what cannot be compiled


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"from_": None}, "$.message.from", "missing"),
        ({"from_": "nobody"}, "$.message.from", "no @"),
        ({"from_": "a@example.com, b@example.com"}, "$.message.from", "one address"),
        ({"reply_to": "a@example.com, b"}, "$.message.reply_to", "no @"),
        ({"to": "{{ name }} <{{ email }}"}, "$.message.to", "never closed"),
        ({"to": '"{{ name }} <{{ email }}>'}, "$.message.to", "quote"),
        ({"subject": "a\nb"}, "$.message.subject", "line break"),
        ({"subject": "{% if x %}a\nb{% endif %}"}, "$.message.subject", "line break"),
        ({"subject": "{{ 'a\nb' }}"}, "$.message.subject", "line break"),
        ({"subject": "{{ x "}, "$.message.subject", "subject, line 1"),
        ({"html": "<p>\n{{ x|nosuch }}", "html_file": "n.html"}, "$.message.html", "n.html, line 2"),
        ({"html": "{% if x %}"}, "$.message.html", "line 1"),
        ({"text": "{% include 'x' %}"}, "$.message.text", "no folder"),
        ({"headers": {"Subject": "x"}}, "$.message.headers.Subject", "use 'subject'"),
        ({"headers": {"X-A": "a\rb"}}, "$.message.headers.X-A", "line break"),
        ({"list_unsubscribe": ListUnsubscribe()}, "$.message.list_unsubscribe", "neither"),
        ({"list_unsubscribe": ListUnsubscribe("http://e.com", None, True)}, "$.message.list_unsubscribe", "https://"),
        ({"list_unsubscribe": ListUnsubscribe(None, "u@e.com", True)}, "$.message.list_unsubscribe", "https"),
        ({"list_unsubscribe": ListUnsubscribe("example.com/u")}, "$.message.list_unsubscribe", "scheme"),
        ({"list_id": "{{ x }}"}, "$.message.list_id", "the same for every recipient"),
        ({"envelope_from": "nobody"}, "$.message.envelope_from", "no @"),
        ({"charset": "latin-1"}, "$.message.charset", "expected utf-8"),
        ({"attachments": (AttachmentSpec(),)}, "$.message.attachments[0]", "one of 'file'"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_path(fields, path, words):
    with pytest.raises(CompileError) as caught:
        compiled(**fields)
    (problem,) = caught.value.problems
    assert problem[0] == path and words in problem[1]


def test_all_problems_come_at_once():
    with pytest.raises(CompileError) as caught:
        compiled(from_="x", subject="{{", html="{% if %}", headers={"To": "x", "X\n": "y"}, list_id="a b")
    assert [path for path, _ in caught.value.problems] == [
        "$.message.from",
        "$.message.subject",
        "$.message.list_id",
        "$.message.headers.To",
        "$.message.headers.X\n",
        "$.message.html",
    ]


# ---- previews


def test_a_preview_is_what_is_sent_with_its_parts_as_text():
    message = compiled(html="<p>{{ name }}</p>", text=".{{ name }}")
    row = {"email": "ann@example.net", "name": "A & B"}
    seen, (sender, body) = message.render(row, 3, DATE), message.signed_copy(row, 3, DATE)
    (made,) = message.compose([row], [3], DATE)
    assert (made[0], made[2]) == (sender, from_wire(body) + b".\r\n")
    assert (seen.html, seen.text) == ("<p>A &amp; B</p>\n", ".A & B\n")
    shared = compiled(text=".x")
    assert wire_ready(from_wire(shared.signed_copy(row, 3, DATE)[1])) == shared.compose_shared(DATE)[1]
    with pytest.raises(MessageError, match="'name'"):
        message.signed_copy({"email": "a@example.net"}, 1, DATE)
