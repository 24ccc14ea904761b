"""What docs/features.md promises of the job, its message and its recipients."""

from __future__ import annotations

import json

from bulkmail.unsubscribe import verify_url
from integration.feature_page import PIXEL, Ran
from integration.feature_promises import ALL, everybody, row

# ---- the job


@row("job")
def job(ran: Ran) -> None:
    everybody(ran)
    assert ran.summary["job"] == "november"
    assert (ran.folder / "november.journal").exists()


@row("defaults")
def defaults(ran: Ran) -> None:
    assert ran.text() == "Berlin"


@row("mode personal")
def personal(ran: Ran) -> None:
    everybody(ran)
    assert [ran.header("To", to) for to in ALL] == ALL


@row("mode shared")
def shared(ran: Ran) -> None:
    everybody(ran)
    (mail,) = ran.sink.messages
    assert "undisclosed" in mail.email["To"]


@row("journal")
def journal(ran: Ran) -> None:
    assert (ran.folder / "kept.journal").exists()


@row("durability")
def durability(ran: Ran) -> None:
    everybody(ran)
    assert ran.job.manifest.durability == "power"


@row("workers")
def workers(ran: Ran) -> None:
    everybody(ran)
    assert ran.job.manifest.workers == 2


@row("start_at")
def start_at(ran: Ran) -> None:
    everybody(ran)
    assert all(mail.received.timestamp() >= ran.around.start for mail in ran.sink.messages)


@row("dsn")
def dsn(ran: Ran) -> None:
    everybody(ran)
    assert ran.ann.parameters["RET"] == "HDRS"
    assert ran.ann.parameters["ENVID"] in ran.header("Message-ID")
    assert "NOTIFY=FAILURE,DELAY ORCPT=rfc822;ann@example.com" in ran.log


@row("events a file")
def events_file(ran: Ran) -> None:
    told = [json.loads(line) for line in (ran.folder / "events.jsonl").read_text().splitlines()]
    assert sorted(event["recipient"] for event in told if event["event"] == "delivered") == ALL


@row("events webhook")
def events_webhook(ran: Ran) -> None:
    assert all(path == "/hook" and header["webhook-signature"] for path, header, _ in ran.around.posted)
    assert sum(body.count(b'"event":"delivered"') for _, _, body in ran.around.posted) == 3


@row("$schema")
def schema(ran: Ran) -> None:
    everybody(ran)


@row("${NAME}")
def environment(ran: Ran) -> None:
    assert ran.header("Subject") == "News of November"


# ---- the message


@row("message.from")
def from_(ran: Ran) -> None:
    assert ran.header("From") == "Zoë Ünal <zoe@example.com>"


@row("message.to")
def to(ran: Ran) -> None:
    assert ran.header("To", ALL[1]) == "Bob <bob@example.org>"


@row("message.sender")
def sender(ran: Ran) -> None:
    assert ran.header("Sender") == ran.ann.sender == "agency@example.net"


@row("message.reply_to")
def reply_to(ran: Ran) -> None:
    assert ran.header("Reply-To") == "help@example.com, Ann <ann@example.com>"


@row("message.subject")
def subject(ran: Ran) -> None:
    assert ran.header("Subject", ALL[2]) == "Grüße, Carla"


@row("message.envelope_from")
def envelope_from(ran: Ran) -> None:
    assert [ran.mails[to].sender for to in ALL] == [f"bounce+{n}@bounces.example.com" for n in (1, 2, 3)]


@row("message.text from a file")
def text_file(ran: Ran) -> None:
    assert ran.text() == "From a file, Ann"


@row("message.text from html")
def text_from_html(ran: Ran) -> None:
    assert "Dear Ann" in ran.text()
    assert "<b>" not in ran.text()


@row("message.html")
def html(ran: Ran) -> None:
    assert "&lt;Ann" in ran.text("text/html")


@row("message.html from a file")
def html_file(ran: Ran) -> None:
    assert ran.text("text/html") == "<html><body><p>Ann</p></body></html>"


@row("message.amp")
def amp(ran: Ran) -> None:
    types = [part.get_content_type() for part in ran.ann.email.walk()]
    assert types.index("text/x-amp-html") < types.index("text/html")


@row("message.watch")
def watch(ran: Ran) -> None:
    assert ran.text("text/watch-html") == "<b>Ann</b>"


@row("message.calendar")
def calendar(ran: Ran) -> None:
    part = ran.part("text/calendar")
    assert part.get_param("method") == "REQUEST"
    assert "ATTENDEE:mailto:ann@example.com" in part.get_content()


@row("message.alternatives")
def alternatives(ran: Ran) -> None:
    assert ran.text("text/markdown") == "*Ann*"


@row("message.attachments file")
def attachment_file(ran: Ran) -> None:
    assert ran.part("application/pdf").get_filename() == "terms.pdf"


@row("message.attachments content")
def attachment_content(ran: Ran) -> None:
    assert ran.text("text/csv") == "a;b"


@row("message.attachments base64")
def attachment_base64(ran: Ran) -> None:
    assert ran.part("application/octet-stream").get_content() == b"\0\1\2"


@row("message.attachments url")
def attachment_url(ran: Ran) -> None:
    part = next(part for part in ran.ann.email.walk() if part.get_filename() == "hi.txt")
    assert part.get_content().strip() == "hi"


@row("message.attachments part")
def attachment_part(ran: Ran) -> None:
    assert ran.text("text/x-own") == "own"


@row("message.attachments cid")
def attachment_cid(ran: Ran) -> None:
    assert ran.part("image/png")["Content-ID"] == "<logo>"
    assert ran.part("image/png").get_content() == PIXEL


@row("message.embed_images")
def embed_images(ran: Ran) -> None:
    assert f"cid:{ran.part('image/png')['Content-ID'][1:-1]}" in ran.text("text/html")


@row("message.inline_css", needs="css_inline")
def inline_css(ran: Ran) -> None:
    assert "<b style=" in ran.text("text/html")


@row("message.link_parameters")
def link_parameters(ran: Ran) -> None:
    assert "https://example.com/?utm_source=news" in ran.text("text/html")


@row("message.locale", needs="babel")
def locale(ran: Ran) -> None:
    assert ran.text() == "1.234,5"


@row("message.headers")
def headers(ran: Ran) -> None:
    assert ran.header("X-Campaign", ALL[1]) == "november 2"


@row("message.headers repeated")
def headers_repeated(ran: Ran) -> None:
    assert ran.ann.email.get_all("X-Tag") == ["one", "two"]


@row("message.headers prepared")
def headers_prepared(ran: Ran) -> None:
    assert b"X-Raw: a\r\n b\r\n" in ran.ann.content


@row("message.priority")
def priority(ran: Ran) -> None:
    assert ran.header("X-Priority").startswith("1")
    assert ran.header("Importance").lower() == "high"


@row("message.in_reply_to")
def in_reply_to(ran: Ran) -> None:
    assert ran.header("In-Reply-To") == "<1@example.com>"


@row("message.references")
def references(ran: Ran) -> None:
    assert ran.header("References") == "<1@example.com> <2@example.com>"


@row("message.encoding")
def encoding(ran: Ran) -> None:
    assert ran.part("text/plain")["Content-Transfer-Encoding"] == "base64"
    assert ran.text() == "Hello Ann"


@row("message.list_unsubscribe")
def list_unsubscribe(ran: Ran) -> None:
    url = ran.header("List-Unsubscribe").strip("<>")
    assert verify_url(url, "0123456789abcdef")
    assert url.startswith("https://example.com/u/1?sig=")
    assert ran.header("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"


@row("message.list_unsubscribe by mail")
def list_unsubscribe_mailto(ran: Ran) -> None:
    assert ran.header("List-Unsubscribe", ALL[2]) == "<mailto:leave+3@example.com>"


LISTS = {
    "list_id": ("List-Id", "Example News <news.example.com>"),
    "list_help": ("List-Help", "<mailto:help@example.com>"),
    "list_subscribe": ("List-Subscribe", "<https://example.com/join>"),
    "list_post": ("List-Post", "NO"),
    "list_owner": ("List-Owner", "<mailto:owner@example.com> (Ann)"),
    "list_archive": ("List-Archive", "<https://example.com/archive>, <https://example.org/archive>"),
    "precedence": ("Precedence", "list"),
    "auto_submitted": ("Auto-Submitted", "auto-generated"),
    "feedback_id": ("Feedback-ID", "november:example"),
}
for _key, (_field, _value) in LISTS.items():

    @row(f"message.{_key}")
    def list_field(ran: Ran, field: str = _field, value: str = _value) -> None:
        assert ran.header(field) == value


@row("message.dkim")
def dkim(ran: Ran) -> None:
    signatures = [ran.header("DKIM-Signature", to) for to in ALL]
    assert all("d=example.com" in one and "s=s1" in one for one in signatures)
    assert len(set(signatures)) == 3


@row("message.raw")
def raw(ran: Ran) -> None:
    everybody(ran)
    ready = (ran.folder / "ready.eml").read_bytes().replace(b"\n", b"\r\n")
    assert ran.ann.content == ready
    assert ran.ann.sender == "ready@example.com"


@row("message.variants")
def variants(ran: Ran) -> None:
    everybody(ran)
    for address, line in ran.lines.items():
        name = {"Ann": "ann", "Bob": "bob", "Carla": "carla"}
        own = next(word for word, start in name.items() if address.startswith(start))
        assert ran.header("Subject", address) == {"A": "News", "long": f"{own}, your news"}[line["variant"]]


# ---- recipients


@row("recipients a list")
def recipients_list(ran: Ran) -> None:
    assert list(ran.mails) == ["dora@example.com"]


@row("recipients.file JSON lines", "recipients.file gzip", "recipients.file standard input")
def recipients_file(ran: Ran) -> None:
    assert sorted(ran.mails) == sorted(f"person{n}@example.com" for n in range(200))
    assert ran.mails["person7@example.com"].text.strip() == "Hello P7"


@row("recipients.format")
def recipients_format(ran: Ran) -> None:
    assert sorted(ran.mails) == ["one@example.com", "two@example.com"]


@row("recipients.validate")
@row("recipients.bad_rows")
def bad_rows(ran: Ran) -> None:
    assert sorted(ran.mails) == ["person1@example.com", "person2@example.com"]
    assert (ran.summary["failed"], ran.report.exit_code) == (1, 1)


@row("recipients.deduplicate")
def deduplicate(ran: Ran) -> None:
    assert sorted(ran.mails) == ["person1@example.com", "person2@example.com"]
    assert len(ran.sink.messages) == 2
    assert ran.summary["suppressed"] == 1


@row("recipients.suppress")
def suppress(ran: Ran) -> None:
    assert list(ran.mails) == ["ann@example.com"]
    assert ran.lines["bob@example.org"]["class"] == "suppressed: listed in unsubscribed.txt"


@row("recipients.where")
def where(ran: Ran) -> None:
    assert sorted(ran.mails) == ["ann@example.com", "carla@example.net"]
    assert ran.lines["bob@example.org"]["class"] == "suppressed: where"


@row("recipients.sample")
def sample(ran: Ran) -> None:
    assert 5 <= len(ran.mails) <= 40
    assert len(ran.mails) + ran.summary["suppressed"] == 200


@row("recipients.always_include")
def always_include(ran: Ran) -> None:
    assert list(ran.mails) == ["boss@example.com"]
    assert ran.summary["suppressed"] == 3


@row("recipients.suppress hashes")
def suppress_hashes(ran: Ran) -> None:
    assert sorted(ran.mails) == ["bob@example.org", "carla@example.net"]


@row("recipients.sql", "recipients.url")
def sql(ran: Ran) -> None:
    assert list(ran.mails) == ["erik@example.com"]
    assert ran.mails["erik@example.com"].text.strip() == "Hello Erik"
