"""Nothing that is put anywhere into a message begins a header, a part or a line of its own: it is refused, or is text.

Every key of the manifest's message, every argument of `Message` and every place for a recipient's value, each with
every character that some program takes for the end of a line.
"""

from __future__ import annotations

import base64
import json
import re
from email import message_from_bytes
from email.message import EmailMessage
from email.message import Message as PlainMessage
from email.policy import SMTP

import pytest

from bulkmail import Attachment, Message
from bulkmail.cli.trouble import sentences
from bulkmail.errors import BulkmailError, ManifestError, MessageError
from bulkmail.job.check import opened_source
from bulkmail.job.job import Job
from bulkmail.job.manifest import manifest_schema
from bulkmail.message.message import to_wire
from bulkmail.message.raw import from_wire

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
EVIL = "Bcc: evil@example.org"
PAYLOADS = {
    "CR": f"x\r{EVIL}",
    "LF": f"x\n{EVIL}",
    "CRLF": f"x\r\n{EVIL}",
    "folded": f"x\r\n {EVIL}\r\n{EVIL}",
    "empty line": f"x\r\n\r\n{EVIL}",
    "end": "x\r\n.\r\nMAIL FROM:<evil@example.org>\r\n",
    "NUL": f"x\0{EVIL}",
    "surrogate": f"x\ud800{EVIL}",
    "surrogates": "x\ud83d\ude00",
    "U+2028": f"x\u2028{EVIL}",
    "U+2029": f"x\u2029{EVIL}",
    "U+0085": f"x\x85{EVIL}",
    "VT": f"x\x0b{EVIL}",
    "FF": f"x\x0c{EVIL}",
    "FS": f"x\x1c{EVIL}",
    "ESC": "x\x1b[2J",
    "bidi": "x\u202etxt.exe",
    "word": "=?utf-8?q?x=0D=0ABcc:_evil@example.org?=",
    "boundary": "x\r\n--=_0\r\nContent-Type: text/html\r\n\r\n<p>",
    "quote": 'x"; name="y',
    "angle": "x>\r\nBcc: <evil@example.org",
    "comma": "x, evil@example.org",
    "long": "x" * 8_000,
    "long words": "word " * 1_500,
    "long script": "田" * 2_000,
}
OURS = {
    "from", "sender", "to", "cc", "reply-to", "subject", "date", "message-id", "mime-version", "content-type",
    "content-transfer-encoding", "content-disposition", "content-id", "list-unsubscribe", "list-unsubscribe-post",
    "list-id", "list-help", "list-subscribe", "list-post", "list-owner", "list-archive", "feedback-id", "precedence",
    "auto-submitted", "x-priority", "x-msmail-priority", "importance", "in-reply-to", "references", "x-a",
    "dkim-signature",
}  # fmt: skip


def every_payload(check):
    """Runs the check with each of them; all that go wrong are told together."""
    wrong = {}
    for name, payload in PAYLOADS.items():
        try:
            check(payload)
        except Exception as error:  # the assertions of a check, and what should have been refused as ours
            wrong[name] = f"{type(error).__name__}: {error}"[:400]
    assert wrong == {}


def fields_of(eml):
    """(name in lower case, value unfolded) of each field; what is none fails the test."""
    head = eml.partition(b"\r\n\r\n")[0]
    fields = []
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            assert fields, head[:200]
            fields[-1][1] += line
            continue
        found = re.match(rb"([!-9;-~]+): ?(.*)\Z", line, re.DOTALL)
        assert found, line[:200]
        fields.append([found[1].decode().lower(), found[2]])
    return fields


def whole(eml, prepared=False):
    """Asserts that a message is one, with our fields and no others; the types of its parts.

    prepared: its custom header is the user's own encoding, in which a line break is text
    """
    assert b"\0" not in eml
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", eml)
    assert max(map(len, eml.split(b"\r\n"))) <= 998
    eml.decode()
    names = [name for name, _ in fields_of(eml)]
    assert set(names) <= OURS, names
    assert len(set(names)) == len(names)
    parsed = message_from_bytes(eml, policy=SMTP)
    for part in parsed.walk():
        assert not part.defects, part.defects
        assert {name.lower() for name, _ in part.items()} <= OURS
    for name in ("subject", "feedback-id") if prepared else ("subject", "feedback-id", "x-a"):
        assert not re.search(r"[\r\n]", str(parsed[name] or ""))
    return [part.get_content_type() for part in parsed.walk()]


def clean_envelope(sender, recipients):
    for address in (sender, *recipients):
        assert not re.search(rb"[\r\n\0<>]", address), address
        address.decode()


def told(error, longest=2000):
    """Asserts that an error can be shown: lines of a bounded length that do not drive a terminal."""
    lines = sentences(error)
    assert lines and all(0 < len(line) < longest and "\x1b" not in line for line in lines), lines


# ---- the manifest


def job_of(tmp_path, message, rows=({"email": "a@example.net"},), **keys):
    path = tmp_path / "news.json"
    path.write_text(json.dumps({"message": message, "recipients": list(rows), "relays": "smtp://h", **keys}))
    (tmp_path / "pixel.png").write_bytes(b"\x89PNG")
    return Job.load(path, environ={})


BASE = {"from": "News <news@example.com>", "subject": "s", "text": "t"}
EVENT = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
HTML = {"html": "<p>x"}


def attached(**keys):
    return {"attachments": [{"content": "x", **keys}]}


def signature(**keys):
    return {"dkim": {"domain": "example.com", "selector": "s", "key": "k", **keys}}


# Path in the manifest -> the message with a value there.
LINK = '<p><a href="https://example.com/?a=b#c">here</a>'
KEYS = {
    "from": lambda v: {"from": v},
    "from name": lambda v: {"from": f"{v} <news@example.com>"},
    "from quoted": lambda v: {"from": f'"{v}" <news@example.com>'},
    "sender": lambda v: {"sender": v},
    "sender name": lambda v: {"sender": f"{v} <a@example.com>"},
    "to": lambda v: {"to": v},
    "to name": lambda v: {"to": f"{v} <a@example.com>"},
    "reply_to": lambda v: {"reply_to": v},
    "reply_to name": lambda v: {"reply_to": f"a@example.com, {v} <b@example.com>"},
    "subject": lambda v: {"subject": v},
    "html": lambda v: {"html": v},
    "text": lambda v: {"text": v},
    "amp": lambda v: {**HTML, "amp": v},
    "watch": lambda v: {**HTML, "watch": v},
    "calendar.text": lambda v: {"calendar": {"text": EVENT + v}},
    "calendar.method": lambda v: {"calendar": {"text": EVENT, "method": v}},
    "calendar.name": lambda v: {"calendar": {"text": EVENT, "name": v}},
    "calendar.file": lambda v: {"calendar": {"file": v}},
    "alternatives.type": lambda v: {"alternatives": [{"type": f"text/{v}", "content": "x"}]},
    "alternatives.content": lambda v: {"alternatives": [{"type": "text/markdown", "content": v}]},
    "alternatives.file": lambda v: {"alternatives": [{"type": "text/markdown", "file": v}]},
    "attachments.file": lambda v: {"attachments": [{"file": v}]},
    "attachments.content": lambda v: attached(content=v),
    "attachments.base64": lambda v: {"attachments": [{"base64": v}]},
    "attachments.url": lambda v: {"attachments": [{"url": f"data:text/plain,{v}"}]},
    "attachments.url type": lambda v: {"attachments": [{"url": f"data:{v};base64,eA=="}]},
    "attachments.part body": lambda v: {"attachments": [{"part": f"Content-Type: text/plain\r\n\r\n{v}"}]},
    "attachments.name": lambda v: attached(name=v),
    "attachments.type": lambda v: attached(type=v),
    "attachments.type parameter": lambda v: attached(type=f"application/pdf; x={v}"),
    "attachments.type quoted": lambda v: attached(type=f'application/pdf; x="{v}"'),
    "attachments.cid": lambda v: {**HTML, **attached(cid=v)},
    "headers": lambda v: {"headers": {"X-A": v}},
    "headers name": lambda v: {"headers": {v: "x"}},
    "headers value": lambda v: {"headers": {"X-A": {"value": v, "prepared": False}}},
    "headers prepared": lambda v: {"headers": {"X-A": {"value": v, "prepared": True}}},
    "priority": lambda v: {"priority": v},
    "in_reply_to": lambda v: {"in_reply_to": v},
    "in_reply_to id": lambda v: {"in_reply_to": f"<{v}@example.com>"},
    "references": lambda v: {"references": v},
    "references id": lambda v: {"references": f"<a@example.com> <{v}@example.com>"},
    "encoding": lambda v: {"encoding": v},
    "locale": lambda v: {"locale": v},
    "link_parameters": lambda v: {"html": LINK, "link_parameters": {"utm_source": v}},
    "link_parameters name": lambda v: {"html": LINK, "link_parameters": {v: "x"}},
    "inline_css": lambda v: {"html": f"<style>p {{ color: {v} }}</style><p>x", "inline_css": True},
    "list_unsubscribe.url": lambda v: {"list_unsubscribe": {"url": v}},
    "list_unsubscribe.url path": lambda v: {"list_unsubscribe": {"url": f"https://example.com/{v}", "one_click": True}},
    "list_unsubscribe.url signed": lambda v: {"list_unsubscribe": {"url": f"https://example.com/{v}", "key": "k" * 16}},
    "list_unsubscribe.mailto": lambda v: {"list_unsubscribe": {"mailto": v}},
    "list_unsubscribe.mailto subject": lambda v: {"list_unsubscribe": {"mailto": f"u@example.com?subject={v}"}},
    "list_unsubscribe.key": lambda v: {"list_unsubscribe": {"url": "https://example.com/u", "key": v}},
    "list_id": lambda v: {"list_id": v},
    "list_id name": lambda v: {"list_id": f"{v} <news.example.com>"},
    "list_help": lambda v: {"list_help": v},
    "list_help url": lambda v: {"list_help": f"https://example.com/{v}"},
    "list_help comment": lambda v: {"list_help": {"url": "https://example.com/", "comment": v}},
    "list_subscribe": lambda v: {"list_subscribe": f"a@example.com?subject={v}"},
    "list_post": lambda v: {"list_post": {"url": "NO", "comment": v}},
    "list_owner": lambda v: {"list_owner": ["a@example.com", f"b@example.com?subject={v}"]},
    "list_archive": lambda v: {"list_archive": f"https://example.com/{v}"},
    "precedence": lambda v: {"precedence": v},
    "auto_submitted": lambda v: {"auto_submitted": v},
    "feedback_id": lambda v: {"feedback_id": v},
    "envelope_from": lambda v: {"envelope_from": v},
    "envelope_from local": lambda v: {"envelope_from": f"{v}@example.com"},
    "raw": lambda v: {"raw": v},
    "dkim.domain": lambda v: signature(domain=v),
    "dkim.selector": lambda v: signature(selector=v),
    "dkim.key": lambda v: signature(key=v),
    "dkim.key_file": lambda v: signature(key_file=v),
    "dkim.headers": lambda v: signature(headers=[v]),
    "dkim.oversign": lambda v: signature(oversign=[v]),
    "dkim.canonicalization": lambda v: signature(canonicalization=v),
    "dkim.identity": lambda v: signature(identity=v),
    "dkim.expires": lambda v: signature(expires=v),
    "variants subject": lambda v: {"text": "{{ email }}", "variants": [{"subject": v}, {"subject": v + "b"}]},
    "variants name": lambda v: {"subject": "{{ variant }}", "variants": [{"name": v}, {"name": v * 2, "text": "b"}]},
}  # fmt: skip
# What a value of these cannot reach: switches, and what is itself an object of the table.
NO_TEXT = {"embed_images", "attachments.inline", "list_unsubscribe.one_click", "headers prepared"}


def test_the_table_has_every_key_of_the_manifests_message():
    shapes = manifest_schema()["$defs"]
    objects = {"Message": "", "Calendar": "calendar.", "Alternative": "alternatives.", "Attachment": "attachments.",
               "ListUnsubscribe": "list_unsubscribe.", "Signature": "dkim."}  # fmt: skip
    wanted = {prefix + name for shape, prefix in objects.items() for name in shapes[shape]["properties"]}
    covered = {key.partition(" ")[0] for key in KEYS}
    containers = {prefix.rstrip(".") for prefix in objects.values()}
    assert wanted - covered - containers - NO_TEXT == set()


@pytest.mark.parametrize("key", KEYS)
def test_a_constant_of_the_manifest(tmp_path, key):
    def check(payload):
        try:
            job = job_of(tmp_path, BASE | KEYS[key](payload))
        except ManifestError as error:
            assert "$.message" in str(error) or "$.message" in error.path
            told(error, longest=20_000 if "file" in key or key == "raw" else 2000)
            return
        whole(from_wire(job.compiled.signed_copy({"email": "a@example.net"}, 1, DATE)[1]), prepared="prepared" in key)
        if job.compiled.shared:
            clean_envelope(job.compiled.compose_shared(DATE)[0], [])

    every_payload(check)


@pytest.mark.parametrize("where", ["job", "email", "defaults", "field name"])
def test_a_constant_beside_the_message(tmp_path, where):
    message = BASE | {"subject": "{{ v }}", "to": "{{ v }} <{{ email }}>"}

    def check(payload):
        rows, keys = [{"email": "a@example.net"}], {"defaults": {"v": "x"}}
        if where == "job":
            keys["job"] = payload
        elif where == "email":
            rows = [{"email": payload}, {"email": f"{payload}@example.net"}, {"email": f"a@{payload}"}]
        elif where == "field name":
            rows = [{"email": "a@example.net", payload: payload}]
        else:
            keys = {"defaults": {"v": payload}}
        try:
            job = job_of(tmp_path, message, rows, **keys)
        except ManifestError:
            return
        with opened_source(job.manifest) as source:
            batches = list(source.scan(required=job.compiled.fields, header_fields=job.compiled.header_fields))
        good = [row for batch in batches for place, row in enumerate(batch.rows) if place not in dict(batch.failed)]
        for made in job.compiled.compose(good, list(range(1, len(good) + 1)), DATE):
            if not isinstance(made, MessageError):
                clean_envelope(made[0], [made[1]])
                whole(stored(made[2]))

    every_payload(check)


def stored(body):
    body = b"".join(body) if isinstance(body, tuple) else body
    assert body.endswith(b"\r\n.\r\n")
    assert not re.search(rb"^\.(?!\.)", body[:-3], re.M)
    return re.sub(rb"(?m)^\.\.", b".", body[:-3])


# ---- a recipient's value


# Keys where a template mark is refused, or is text.
CONSTANT = ("attachments", "calendar.method", "calendar.name", "calendar.file", "alternatives.type",
            "alternatives.file", "headers name", "priority", "encoding", "locale", "link_parameters name",
            "list_unsubscribe.key", "list_id", "list_post",
            "list_help comment", "precedence", "auto_submitted", "raw", "dkim", "variants name")  # fmt: skip
VALUES = {key: make for key, make in KEYS.items() if not key.startswith(CONSTANT)}
VALUES_ONLY = ("link_parameters", "inline_css")  # statements are refused there
FORMS = ["{{ v }}", "{% if v %}{{ (v ~ '') | safe }}{% endif %}"]  # in C, and by Jinja2


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(key, form) -> the message with this form of the value there; the same for all payloads."""
    made = {}

    def compiled(key, form):
        if (key, form) not in made:
            made[key, form] = job_of(tmp_path_factory.mktemp("job"), BASE | VALUES[key](form)).compiled
        return made[key, form]

    return compiled


@pytest.mark.parametrize("key", VALUES)
def test_a_recipients_value(compiled, key):
    good = {"email": "a@example.net", "v": "x"}

    def check(payload):
        for form in FORMS[:1] if key.startswith(VALUES_ONLY) else FORMS:
            first, made, last = compiled(key, form).compose([good, {**good, "v": payload}, good], [1, 2, 3], DATE)
            assert isinstance(first, tuple) == isinstance(last, tuple)  # a bad row leaves the others alone
            if isinstance(made, MessageError):
                assert made.scope == "recipient"
                told(made)
                continue
            clean_envelope(made[0], [made[1]])
            parts = whole(stored(made[2]), prepared="prepared" in key)
            assert not isinstance(first, tuple) or parts == whole(stored(first[2]))

    every_payload(check)


# ---- a program's message


def own(**arguments):
    return {"from_": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t", **arguments}


ARGUMENTS = {
    "from_": lambda v: {"from_": v},
    "from_ name": lambda v: {"from_": f"{v} <a@example.com>"},
    "to": lambda v: {"to": v},
    "to name": lambda v: {"to": [f"{v} <a@example.com>"]},
    "cc": lambda v: {"cc": [v]},
    "cc name": lambda v: {"cc": f'"{v}" <a@example.com>'},
    "bcc": lambda v: {"bcc": [v]},
    "bcc name": lambda v: {"bcc": [f"{v} <a@example.com>"]},
    "reply_to": lambda v: {"reply_to": v},
    "reply_to name": lambda v: {"reply_to": f"{v} <a@example.com>"},
    "sender": lambda v: {"sender": v},
    "subject": lambda v: {"subject": v},
    "text": lambda v: {"text": v},
    "html": lambda v: {"html": v},
    "amp": lambda v: {"html": "x", "amp": v},
    "watch": lambda v: {"html": "x", "watch": v},
    "calendar": lambda v: {"calendar": EVENT + v},
    "calendar method": lambda v: {"calendar": {"text": EVENT, "method": v}},
    "calendar name": lambda v: {"calendar": {"text": EVENT, "name": v}},
    "alternatives": lambda v: {"alternatives": [("text/markdown", v)]},
    "alternatives type": lambda v: {"alternatives": [(f"text/{v}", "x")]},
    "attachments": lambda v: {"attachments": [v]},
    "attachments name": lambda v: {"attachments": [Attachment(b"x", name=v)]},
    "attachments type": lambda v: {"attachments": [Attachment(b"x", type=v)]},
    "attachments parameter": lambda v: {"attachments": [Attachment(b"x", type=f'a/b; c="{v}"')]},
    "attachments cid": lambda v: {"html": "x", "attachments": [Attachment(b"x", cid=v)]},
    "attachments content": lambda v: {"attachments": [Attachment(content=v)]},
    "attachments headers": lambda v: {"attachments": [Attachment(b"x", headers={"X-A": v})]},
    "attachments headers name": lambda v: {"attachments": [Attachment(b"x", headers={v: "x"})]},
    "attachments headers prepared": lambda v: {
        "attachments": [Attachment(b"x", headers={"X-A": {"value": v, "prepared": True}})]
    },
    "headers": lambda v: {"headers": {"X-A": v}},
    "headers name": lambda v: {"headers": [(v, "x")]},
    "headers prepared": lambda v: {"headers": {"X-A": {"value": v, "prepared": True}}},
    "date": lambda v: {"date": v},
    "message_id": lambda v: {"message_id": v},
    "message_id local": lambda v: {"message_id": f"<{v}@example.com>"},
    "envelope_from": lambda v: {"envelope_from": v},
    "list_unsubscribe": lambda v: {"list_unsubscribe": f"https://example.com/{v}"},
    "list_unsubscribe mailto": lambda v: {"list_unsubscribe": {"mailto": f"u@example.com?subject={v}"}},
    "list_unsubscribe key": lambda v: {"list_unsubscribe": {"url": f"https://example.com/{v}", "key": "k" * 16}},
    "list_id": lambda v: {"list_id": f"{v} <news.example.com>"},
    "list_help": lambda v: {"list_help": v},
    "list_subscribe": lambda v: {"list_subscribe": f"https://example.com/{v}"},
    "list_post": lambda v: {"list_post": {"url": "NO", "comment": v}},
    "list_owner": lambda v: {"list_owner": [f"a@example.com?subject={v}"]},
    "list_archive": lambda v: {"list_archive": {"url": "https://example.com", "comment": v}},
    "feedback_id": lambda v: {"feedback_id": v},
    "priority": lambda v: {"priority": v},
    "in_reply_to": lambda v: {"in_reply_to": f"<{v}@example.com>"},
    "references": lambda v: {"references": ["<a@example.com>", v]},
    "encoding": lambda v: {"encoding": v},
    "charset": lambda v: {"charset": v},
    "embed_images": lambda v: {"html": f"<img src='{v}.png'>", "embed_images": True},
    "text_from_html": lambda v: {"text": None, "html": f"<p>{v}", "text_from_html": True},
    "inline_css": lambda v: {"html": f"<style>p {{ color: {v} }}</style><p>x", "inline_css": True},
    "link_parameters": lambda v: {"html": LINK, "link_parameters": {"utm_source": v, v: "x"}},
    "precedence": lambda v: {"precedence": v},
    "auto_submitted": lambda v: {"auto_submitted": v},
    "dkim": lambda v: {"dkim": {"domain": v, "selector": v, "key": v}},
}


def test_the_table_has_every_argument_of_a_message():
    import inspect

    known = set(inspect.signature(Message.__init__).parameters) - {"self", "later"}
    assert known - {key.partition(" ")[0] for key in ARGUMENTS} == set()


@pytest.mark.parametrize("key", ARGUMENTS)
def test_an_argument_of_a_message(key):
    def check(payload):
        try:
            message = Message(**own(**ARGUMENTS[key](payload)))
            eml = message.as_bytes()
            sender, recipients = message.envelope()
        except BulkmailError as error:
            assert isinstance(error, ValueError)
            told(error, longest=20_000)
            return
        whole(eml, prepared="prepared" in key)
        clean_envelope(sender.encode(), [address.encode() for address in recipients])

    every_payload(check)


# ---- ready messages


@pytest.mark.parametrize("kind", [PlainMessage, EmailMessage])
@pytest.mark.parametrize("name", ["Subject", "To", "From", "X-A", "Reply-To", "Message-ID"])
def test_a_header_of_an_email_message(name, kind):
    def check(payload):
        if len(payload) > 1000:
            return  # the package takes seconds for these
        message = kind()
        message["From" if name != "From" else "Sender"] = "a@example.com"
        message.set_payload("x\r\n")
        try:
            message[name] = payload
            content, _, _ = to_wire(message)
        except ValueError:  # the package's own refusal, or ours
            return
        assert not any(field == "bcc" for field, _ in fields_of(content))
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)

    every_payload(check)


def test_bytes_of_a_ready_message_have_no_bcc_however_it_is_folded():
    for bcc in (b"Bcc: e@example.org", b"BCC:\r\n e@example.org", b"Bcc : e@example.org", b"Resent-Bcc: e@example.org"):
        for newline in (b"\n", b"\r", b"\r\n"):
            raw = (b"From: a@example.com\r\n" + bcc + b"\r\nTo: b@example.com\r\n\r\nx\r\n").replace(b"\r\n", newline)
            content, _, _ = to_wire(raw)
            assert b"e@example.org" not in content and content.count(b"\r\n") == content.count(b"\n")


def test_base64_that_is_none_is_refused_with_its_place(tmp_path):
    for text in ("x", "eA=", "=eA=", "eA==eA==", "é", base64.b64encode(b"x").decode() + "!"):
        with pytest.raises(ManifestError, match=r"attachments\[0\]"):
            job_of(tmp_path, BASE | {"attachments": [{"base64": text}]})
