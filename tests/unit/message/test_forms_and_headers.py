"""Forms of a message (AMP, watch, events) and custom headers: the library and the manifest's messages agree on them."""

from email import message_from_bytes
from email.policy import SMTP

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.items import Calendar
from bulkmail.message.message import Attachment, Message
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import AlternativeSpec, AttachmentSpec, CalendarSpec, MessageSpec, PreparedValue

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
EVENT = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:{{ what }}\nEND:VEVENT\nEND:VCALENDAR\n"
ROW = {"email": "ann@example.net", "what": "Käse & <b>", "id": 7}


def shape(message):
    if not message.is_multipart() or message.get_content_type() == "message/rfc822":
        return message.get_content_type()
    return [message.get_content_type().removeprefix("multipart/"), *(shape(part) for part in message.iter_parts())]


def parts(message):
    return {part.get_content_type(): part for part in message.walk() if not part.is_multipart()}


def compiled(**fields):
    return compile_message(MessageSpec(**{"from_": "n@example.com", "to": "a@example.net", **fields}), job="j")


def composed(message, row=ROW):
    (made,) = message.compose([row], [1], DATE)
    assert not isinstance(made, MessageError), made
    return message_from_bytes(from_wire(made[2]), policy=SMTP)


def by_library(**fields):
    data = Message(**{"from_": "n@example.com", "to": "a@example.net", **fields}).as_bytes()
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    return message_from_bytes(data, policy=SMTP)


EVERYTHING = {
    "text": "t {{ what }}\n",
    "html": "<p>{{ what }} <img src='cid:logo'></p>\n",
    "amp": "<html amp4email>{{ what }}</html>\n",
    "watch": "<b>{{ what }}</b>\n",
}
TREE = [
    "mixed",
    [
        "alternative",
        "text/plain",
        "text/watch-html",
        "text/x-amp-html",
        ["related", "text/html", "image/png"],
        "text/calendar",
        "text/markdown",
    ],
    "application/ics",
    "application/pdf",
]


def test_every_form_stands_in_its_place_in_the_manifests_message():
    message = compiled(
        **EVERYTHING,
        calendar=CalendarSpec(EVENT, name="invite.ics"),
        alternatives=(AlternativeSpec("text/markdown", "# {{ what }}\n"),),
        attachments=(
            AttachmentSpec(content=b"%PDF", name="a.pdf"),
            AttachmentSpec(content=b"\x89PNG", name="logo.png", cid="logo"),
        ),
    )
    found = composed(message)
    slow = message_from_bytes(message.render(ROW, 1, DATE).eml, policy=SMTP)
    assert shape(found) == shape(slow) == TREE
    texts = {kind: part.get_payload(decode=True).decode() for kind, part in parts(found).items() if "image" not in kind}
    assert texts == {
        kind: part.get_payload(decode=True).decode() for kind, part in parts(slow).items() if "image" not in kind
    }
    assert texts["text/plain"] == "t Käse & <b>\r\n" and texts["text/markdown"] == "# Käse & <b>\r\n"
    for kind in ("text/html", "text/x-amp-html", "text/watch-html"):
        assert "Käse &amp; &lt;b&gt;" in texts[kind]
    event = parts(found)["text/calendar"]
    assert (event.get_param("method"), event.get_content_charset()) == ("REQUEST", "utf-8")
    assert (
        texts["text/calendar"]
        == texts["application/ics"]
        == EVENT.replace("{{ what }}", "Käse & <b>").replace("\n", "\r\n")
    )
    assert parts(found)["application/ics"].get_filename() == "invite.ics"


def test_every_form_stands_in_its_place_in_the_librarys_message():
    found = by_library(
        **EVERYTHING,
        calendar=Calendar(EVENT, name="invite.ics"),
        alternatives=[("text/markdown", "# {{ what }}")],
        attachments=[Attachment(b"%PDF", name="a.pdf"), Attachment(b"\x89PNG", name="logo.png", cid="logo")],
    )
    assert shape(found) == TREE
    assert parts(found)["text/markdown"].get_content() == "# {{ what }}\r\n"
    related = next(part for part in found.walk() if part.get_content_type() == "multipart/related")
    assert related.get_param("type") == "text/html"


def test_an_event_alone_and_its_forms(tmp_path):
    file = tmp_path / "e.ics"
    file.write_text(EVENT)
    for given in (Calendar(file), {"file": str(file)}, {"method": "request", "text": EVENT}, EVENT, file):
        found = by_library(calendar=given)
        assert (found.get_content_type(), found.get_param("method")) == ("text/calendar", "REQUEST")
        assert found.get_content() == EVENT.replace("\n", "\r\n")
    assert by_library(calendar="BEGIN:VCALENDAR").get_param("method") == "PUBLISH"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"calendar": {"method": "REQUEST\r\nX: y", "text": "x"}}, "calendar: the method"),
        ({"calendar": {"method": "INVITE", "text": "x"}}, "'INVITE', expected one of PUBLISH, REQUEST"),
        ({"calendar": {"method": "CANCEL", "text": EVENT}}, "CANCEL, and the event itself says METHOD:REQUEST"),
        ({"calendar": Calendar("x", name="a\r\nb")}, "calendar: the name"),
        ({"calendar": {"file": "/nonexistent/e.ics"}}, r"calendar: /nonexistent/e.ics cannot be read"),
        ({"alternatives": [("text", "x")]}, r"alternatives\[0\]: type 'text'"),
        ({"alternatives": [("multipart/mixed", "x")]}, r"alternatives\[0\]: type"),
        ({"alternatives": [("text/x\r\nBcc: y", "x")]}, r"alternatives\[0\]: type"),
        ({"alternatives": [("text/x; charset=latin1", "x")]}, "charset 'latin1', expected utf-8"),
        ({"alternatives": ["x"]}, r"alternatives\[0\]: expected \(type, content\)"),
        ({"html": {"path": "x"}}, "html: expected a text, a path"),
        ({"amp": {"file": "/nonexistent/a.html"}}, "amp: /nonexistent/a.html cannot be read"),
        ({"charset": "latin1"}, "charset: 'latin1', expected utf-8"),
        ({"encoding": "uuencode"}, "encoding: 'uuencode', expected one of"),
        ({"encoding": "7bit", "text": "ü"}, "text: .* beyond ASCII"),
        ({"encoding": "8bit", "html": "é" * 500}, "html: line 1 has more than 998 bytes"),
        ({"priority": "urgent"}, "priority: 'urgent', expected high, normal or low"),
        ({"in_reply_to": "no id"}, "in_reply_to: '<no>', expected message ids"),
        ({"references": ["<a@b>", "<c@d>\r\nX: y"]}, "references: a line break"),
        ({"headers": {"X-A": {"prepared": True, "value": "a\r\nBcc: x"}}}, "headers.X-A: a prepared value"),
        ({"headers": {"X-A": {"prepared": True, "value": "a\n \nb"}}}, "headers.X-A: a prepared value"),
        ({"headers": {"X-A": PreparedValue("ü")}}, "headers.X-A: a prepared value is ASCII"),
        ({"headers": {"X-A": PreparedValue("x" * 998)}}, "headers.X-A: a line .* more than 998"),
        ({"headers": {"X-A": PreparedValue("a\r b")}}, "headers.X-A: a prepared value"),
        (
            {"headers": {"References": "<a@b>"}, "references": "<a@b>"},
            "'References' cannot be set here, use 'references'",
        ),
        ({"headers": {"importance": "High"}, "priority": "low"}, "'importance' cannot be set here, use 'priority'"),
    ],
)
def test_what_cannot_be_composed_is_refused_naming_the_key(fields, words):
    with pytest.raises(MessageError, match=words):
        by_library(**fields)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"calendar": CalendarSpec("x", "INVITE")}, "$.message.calendar", "the method 'INVITE'"),
        ({"alternatives": (AlternativeSpec("x", "y"),)}, "$.message.alternatives[0]", "type 'x'"),
        ({"priority": "no"}, "$.message.priority", "'no', expected high"),
        ({"in_reply_to": "x"}, "$.message.in_reply_to", "expected message ids"),
        ({"headers": {"X-A": PreparedValue("a\nb")}}, "$.message.headers.X-A", "a prepared value"),
        ({"headers": {"X-Priority": "1"}, "priority": "low"}, "$.message.headers.X-Priority", "use 'priority'"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_its_path(fields, path, words):
    with pytest.raises(CompileError, match=words) as caught:
        compiled(**{"text": "t", **fields})
    assert [place for place, _ in caught.value.problems] == [path]


PAIRS = {"X-A": ["1", PreparedValue("=?utf-8?q?=C3=BC?=\r\n two")], "X-B": "Käse", "x-a": "3"}


def test_headers_repeat_in_their_order_and_prepared_ones_go_as_they_are():
    given = {
        "X-A": ["1", {"prepared": True, "value": "=?utf-8?q?=C3=BC?=\n two"}],
        "X-B": {"value": "Käse"},
        "x-a": "3",
    }
    library = by_library(text="t", headers=given)
    message = compiled(text="t {{ id }}", headers=PAIRS)
    quick, slow = composed(message), message_from_bytes(message.render(ROW, 1, DATE).eml, policy=SMTP)
    for found in (library, quick, slow):
        custom = [(name, str(value)) for name, value in found.items() if name.lower().startswith("x-")]
        assert custom == [("X-A", "1"), ("X-A", "ü two"), ("X-B", "Käse"), ("x-a", "3")]
    (made,) = message.compose([ROW], [1], DATE)
    assert b"\r\nX-A: =?utf-8?q?=C3=BC?=\r\n two\r\n" in made[2]


def test_a_prepared_header_of_a_template_is_checked_for_each_recipient():
    message = compiled(text="t", headers={"X-A": PreparedValue("a\n {{ what }}")})
    assert composed(message, {**ROW, "what": "b"})["X-A"] == "a b"
    for bad in ("ü", "b\r\nBcc: evil@example.org", "b\n\nbody", "x" * 999):
        (made,) = message.compose([{**ROW, "what": bad}], [1], DATE)
        assert isinstance(made, MessageError) and made.scope == "recipient" and "X-A" in str(made)


def test_threads_and_importance():
    given = {"in_reply_to": "1@example.com", "references": "<1@example.com> <2@example.com>", "priority": "high"}
    message = compiled(text="t {{ id }}", **given)
    slow = message_from_bytes(message.render(ROW, 1, DATE).eml, policy=SMTP)
    for found in (by_library(text="t", **given), composed(message), slow):
        assert (found["In-Reply-To"], found["References"]) == ("<1@example.com>", "<1@example.com> <2@example.com>")
        assert found["X-Priority"] == "1 (Highest)" and found["Importance"] == found["X-MSMail-Priority"] == "High"
    ids = [f"<{n}@mail.example.com>" for n in range(200)]
    found = by_library(text="t", references=ids)
    assert found["References"].split() == ids
    own = compiled(text="t", in_reply_to="<{{ id }}@example.com>")
    assert composed(own)["In-Reply-To"] == "<7@example.com>"
    (made,) = own.compose([{**ROW, "id": "a b"}], [1], DATE)
    assert isinstance(made, MessageError) and "in_reply_to" in str(made)


def test_texts_get_the_encoding_that_fits_and_a_stated_one_wins():
    message = compiled(text="constant\n.dot\n", html="<p>{{ id }}</p>", amp="Привет, как дела?", watch="x" * 100)
    encodings = {kind: part["Content-Transfer-Encoding"] for kind, part in parts(composed(message)).items()}
    assert encodings == {
        "text/plain": "7bit",
        "text/watch-html": "quoted-printable",
        "text/x-amp-html": "base64",
        "text/html": "quoted-printable",
    }
    assert parts(composed(message))["text/plain"].get_content() == "constant\r\n.dot\r\n"
    assert parts(composed(message))["text/x-amp-html"].get_content() == "Привет, как дела?\r\n"
    for encoding in ("7bit", "8bit", "quoted-printable", "base64"):
        found = by_library(text="plain", html="<p>plain", encoding=encoding)
        assert {part["Content-Transfer-Encoding"] for part in parts(found).values()} == {encoding}
    eight = by_library(text="Käse\n", encoding="8bit")
    assert eight.get_payload(decode=True) == "Käse\r\n".encode()


def test_a_template_in_another_script_is_base64_with_its_values_in_it():
    message = compiled(text="Здравствуйте, {{ what }}!\n.\n", html="<p>Привет, друг, {{ what }}", subject="{{ id }}")
    found = composed(message)
    assert {part["Content-Transfer-Encoding"] for part in parts(found).values()} == {"base64"}
    assert parts(found)["text/plain"].get_content() == "Здравствуйте, Käse & <b>!\r\n.\r\n"
    assert parts(found)["text/html"].get_content() == "<p>Привет, друг, Käse &amp; &lt;b&gt;\r\n"
    slow = message_from_bytes(message.render(ROW, 1, DATE).eml, policy=SMTP)
    assert [part.get_content() for part in parts(slow).values()] == [p.get_content() for p in parts(found).values()]


def test_a_stated_encoding_that_cannot_carry_a_value_fails_that_recipient():
    message = compiled(text="{{ what }}\n", encoding="7bit")
    assert composed(message, {**ROW, "what": "a"}).get_content() == "a\r\n"
    for bad in ("ü", "x" * 999):
        (made,) = message.compose([{**ROW, "what": bad}], [1], DATE)
        assert isinstance(made, MessageError) and made.scope == "recipient"
    assert composed(compiled(text="{{ what }}\n", encoding="8bit")).get_content() == "Käse & <b>\r\n"


def test_a_boundary_in_a_text_that_is_not_encoded_is_not_that_of_the_message():
    first = by_library(text="x", html="y", encoding="8bit")
    nested = f"--{first.get_boundary()}--\n"
    assert shape(by_library(text=nested, html="y", encoding="8bit")) == ["alternative", "text/plain", "text/html"]
    assert parts(by_library(text=nested, html="y"))["text/plain"].get_content() == nested.replace("\n", "\r\n")
