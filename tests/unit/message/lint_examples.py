"""A message that no rule has anything against, and for each rule one that breaks it and no other.

docs/lint.md shows them beside the rules; `python tests/unit/message/lint_examples.py` writes its table anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from bulkmail.job import lint as job
from bulkmail.message.lint import RULES, Sample, Signing, dns

PAGE = Path(__file__).parents[3] / "docs" / "lint.md"

NOW = 1_795_000_000.0
URL = "https://example.com/u/k3vNUMBER"
SIGNED = "from:subject:date:list-unsubscribe:list-unsubscribe-post"
SIGNATURE = f"v=1; a=rsa-sha256; d=example.com; s=s1; h={SIGNED};\r\n bh=; b="
HEADERS = {
    "DKIM-Signature": SIGNATURE,
    "From": "Example News <news@example.com>",
    "To": "Ann <ann@example.net>",
    "Subject": "What is new in November",
    "Date": formatdate(NOW),
    "Message-ID": "<NUMBER.k3@example.com>",
    "List-Unsubscribe": f"<{URL}>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    "List-Id": "<news.example.com>",
    "MIME-Version": "1.0",
    "Content-Type": 'multipart/alternative; boundary="=_b"',
}
TEXT = f"Hello Ann,\r\nread it: https://example.com/12\r\nUnsubscribe: {URL}\r\n"
HTML = (
    '<html><body><p>Hello Ann, <a href="https://example.com/12">read the news of November</a>.'
    f' <a href="{URL}">Unsubscribe</a></p></body></html>\r\n'
)
PNG = ("Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n", "iVBORw0KGgo=\r\n")


@dataclass(frozen=True)
class Example:
    """shown: what the page says; the rest changes the clean message.

    headers  name: value, or None to leave it out; lines: added to the header as they are
    text, html   None: no such part; parts: further ones, (header, body), behind those two; body: instead of all
    sample   arguments of Sample; raw: instead of the whole message
    copies   for how many recipients; NUMBER in it is the recipient's
    """

    shown: str
    headers: dict[str, str | None] = field(default_factory=dict)
    lines: bytes = b""
    text: str | None = TEXT
    html: str | None = HTML
    parts: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    raw: bytes | None = None
    sample: dict[str, Any] = field(default_factory=dict)
    copies: int = 1

    def eml(self) -> bytes:
        """Of the first recipient."""
        return self._made().replace(b"NUMBER", b"1")

    def _made(self) -> bytes:
        if self.raw is not None:
            return self.raw
        fields = [(name, value) for name, value in {**HEADERS, **self.headers}.items() if value is not None]
        head = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)
        return head + self.lines + b"\r\n" + (self._body() if self.body is None else self.body)

    def _body(self) -> bytes:
        typed = (("plain", self.text), ("html", self.html))
        parts = [(f"Content-Type: text/{kind}; charset=utf-8\r\n", text) for kind, text in typed if text is not None]
        made = "".join(f"--=_b\r\n{head}\r\n{body}\r\n" for head, body in [*parts, *self.parts])
        return (made + "--=_b--\r\n").encode()

    def samples(self) -> list[Sample]:
        given = {"sender": "bounce@example.com", **self.sample}
        made = self._made()
        return [Sample(made.replace(b"NUMBER", b"%d" % n), str, NOW, **given) for n in range(1, self.copies + 1)]


def page(body: str) -> str:
    """The clean html with something more in it."""
    return HTML.replace("</body>", body + "</body>")


def attached(head: str, body: str = "JVBERi0=\r\n") -> tuple[str, str]:
    return f"{head}\r\nContent-Transfer-Encoding: base64\r\n", body


WORDS = "what the people of the town said of it,\r\n" * 60

EXAMPLES: dict[str, Example] = {
    # ---- the header
    "date-missing": Example("no `Date:`", {"Date": None}),
    "date": Example("`Date: tomorrow`", {"Date": "tomorrow"}),
    "date-far": Example("`Date: Mon, 06 Jan 2020 10:00:00 +0000`", {"Date": "Mon, 06 Jan 2020 10:00:00 +0000"}),
    "message-id-missing": Example("no `Message-ID:`", {"Message-ID": None}),
    "message-id": Example("`Message-ID: 12`", {"Message-ID": "12"}),
    "message-id-long": Example("`Message-ID: <xxx…@example.com>`", {"Message-ID": f"<{'x' * 600}@example.com>"}),
    "header-twice": Example("`Subject:` and `Subject:`", lines=b"Subject: What is new\r\n"),
    "header-syntax": Example("`Hello there`", lines=b"Hello there\r\n"),
    "mime-version": Example("no `MIME-Version:`", {"MIME-Version": None}),
    "header-8bit": Example("`X-Town: Köln`", {"X-Town": "Köln"}),
    "encoded-word": Example("`X-Town: =?x-unknown?Q?K=F6ln?=`", {"X-Town": "=?x-unknown?Q?K=F6ln?="}),
    "encoded-word-long": Example("`X-Town: =?utf-8?Q?KKK…?=`", {"X-Town": f"=?utf-8?Q?{'K' * 70}?="}),
    "encoded-word-place": Example("`References: =?utf-8?Q?1?=`", {"References": "=?utf-8?Q?1?="}),
    "header-line": Example("`X-Note: xxx…` of 1,200 bytes", {"X-Note": "x" * 1200}),
    "header-line-long": Example("`X-Note: word word…` on one line", {"X-Note": "word " * 30 + "word"}),
    "header-size": Example("`X-Note:` of 40 KB", {"X-Note": "\r\n ".join(["x" * 70] * 600)}),
    "return-path": Example("`Return-Path: <news@example.com>`", {"Return-Path": "<news@example.com>"}),
    # ---- who it is from
    "from-missing": Example("no `From:`", {"From": None}),
    "from": Example("`From: Example News`", {"From": "Example News"}),
    "from-several": Example(
        "`From: a@example.com, b@example.com`",
        {"From": "a@example.com, b@example.com", "Sender": "a@example.com"},
    ),
    "sender-missing": Example("the same without `Sender:`", {"From": "a@example.com, b@example.com"}),
    "from-domain": Example(
        "`From: news@server.local`",
        {"From": "news@server.local", "DKIM-Signature": SIGNATURE.replace("example.com", "server.local")},
        sample={"sender": "news@server.local"},
    ),
    "from-freemail": Example(
        "`From: me@gmail.com`",
        {"From": "me@gmail.com", "DKIM-Signature": SIGNATURE.replace("example.com", "gmail.com")},
        sample={"sender": "me@gmail.com"},
    ),
    "from-name-address": Example(
        '`From: "support@bank.example" <news@example.com>`', {"From": '"support@bank.example" <news@example.com>'}
    ),
    "from-name-emoji": Example(
        "`From: ✅ News <news@example.com>`", {"From": "=?utf-8?Q?=E2=9C=85_News?= <news@example.com>"}
    ),
    "from-name-subject": Example(
        "the subject as display name", {"From": "What is new in November <news@example.com>"}
    ),
    "from-name-recipient": Example("`From: Ann <news@example.com>`, to Ann", {"From": "Ann <news@example.com>"}),
    "reply-to": Example("`Reply-To: nobody`", {"Reply-To": "nobody"}),
    "no-reply": Example("`Reply-To: no-reply@example.com`", {"Reply-To": "no-reply@example.com"}),
    # ---- lists
    "one-click": Example("no `List-Unsubscribe-Post:`", {"List-Unsubscribe-Post": None}),
    "list-unsubscribe": Example(
        f"`List-Unsubscribe: {URL}`", {"List-Unsubscribe": URL, "List-Unsubscribe-Post": None}, sample={"bulk": False}
    ),
    "list-unsubscribe-post": Example("`List-Unsubscribe-Post: yes`", {"List-Unsubscribe-Post": "yes"}),
    "one-click-https": Example(
        "`List-Unsubscribe: <mailto:u@example.com>` with `-Post`", {"List-Unsubscribe": "<mailto:u@example.com>"}
    ),
    "one-click-signed": Example(
        "`DKIM-Signature: … h=from:subject:date`",
        {"DKIM-Signature": "v=1; a=rsa-sha256; d=example.com; s=s1; h=from:subject:date; bh=; b="},
    ),
    "unsubscribe-constant": Example(
        "`<https://example.com/u>` for everybody", {"List-Unsubscribe": "<https://example.com/u>"}, copies=2
    ),
    "unsubscribe-address": Example(
        "`<https://example.com/u?e=ann@example.net>`", {"List-Unsubscribe": "<https://example.com/u?e=ann@example.net>"}
    ),
    "unsubscribe-link": Example("html without a link to unsubscribe", html=HTML.replace(URL, "https://example.com/1")
                                .replace("Unsubscribe", "More")),
    "list-id": Example("`List-Id: Our news`", {"List-Id": "Our news"}),
    "feedback-id": Example("`Feedback-ID: november`", {"Feedback-ID": "november"}),
    "priority": Example("`X-Priority: 1`", {"X-Priority": "1 (Highest)"}),
    "precedence": Example("`Precedence: first-class`", {"Precedence": "first-class"}),
    "auto-submitted": Example("`Auto-Submitted: yes`", {"Auto-Submitted": "yes"}),
    "auto-replied": Example("`Auto-Submitted: auto-replied`", {"Auto-Submitted": "auto-replied"}),
    "message-id-shared": Example(
        "`Message-ID: <news@example.com>` for everybody", {"Message-ID": "<news@example.com>"}, copies=2
    ),
    # ---- who vouches for it
    "dkim-missing": Example("no DKIM key", {"DKIM-Signature": None}),
    "dkim-unaligned": Example(
        "`DKIM-Signature: … d=mailer.net`",
        {"DKIM-Signature": SIGNATURE.replace("example.com", "mailer.net")},
    ),
    "envelope-unaligned": Example("envelope from `bounce@mailer.net`", sample={"sender": "bounce@mailer.net"}),
    "from-unaligned": Example(
        "both of `mailer.net`",
        {"DKIM-Signature": SIGNATURE.replace("example.com", "mailer.net")},
        sample={"sender": "bounce@mailer.net"},
    ),
    "alignment-unknown": Example(
        "envelope from `b.example.co.uk`, From at `a.example.co.uk`, without the Public Suffix List",
        {
            "From": "news@a.example.co.uk",
            "DKIM-Signature": SIGNATURE.replace("example.com", "a.example.co.uk"),
        },
        sample={"sender": "bounce@b.example.co.uk"},
    ),
    "dkim-from": Example(
        "`DKIM-Signature: … h=subject:date:…`",
        {"DKIM-Signature": SIGNATURE.replace("from:", "")},
    ),
    "dkim-weak": Example(
        "an RSA key of 1024 bits", {"DKIM-Signature": None},
        sample={"given": [Signing("example.com", "s1", "rsa-sha256", bits=1024)]},
    ),
    "dkim-sha1": Example(
        "`DKIM-Signature: … a=rsa-sha1`", {"DKIM-Signature": SIGNATURE.replace("sha256", "sha1")}
    ),
    "dkim-ed25519": Example(
        "`DKIM-Signature: … a=ed25519-sha256` alone",
        {"DKIM-Signature": SIGNATURE.replace("rsa-", "ed25519-")},
    ),
    "dkim-key-open": Example(
        "`dkim.pem` that everybody may read",
        {"DKIM-Signature": None},
        sample={"given": [Signing("example.com", "s1", exposed="dkim.pem can be read by everybody: chmod 600")]},
    ),
    # ---- words
    "subject": Example("`Subject:`", {"Subject": " "}),
    "subject-long": Example(
        "`Subject:` of 1,200 characters", {"Subject": "\r\n ".join(["all the news of the town"] * 50)}
    ),
    "subject-wide": Example(
        "`Subject:` of 120 characters", {"Subject": "\r\n ".join(["all the news of the town"] * 5)}
    ),
    "subject-reply": Example("`Subject: Re: your order`", {"Subject": "Re: your order"}),
    "subject-caps": Example("`Subject: THE NEWS OF NOVEMBER`", {"Subject": "THE NEWS OF NOVEMBER"}),
    "subject-marks": Example("`Subject: News!!!`", {"Subject": "News!!!"}),
    "spam-phrase": Example("`Subject: Make money fast`", {"Subject": "Make money fast"}),
    "template-marks": Example("`Hello [[FIRSTNAME]],`", html=page("<p>Hello [[FIRSTNAME]],</p>")),
    "template-empty": Example("`Dear None,`", html=page("<p>Dear None, good day</p>")),
    # ---- parts
    "mime-structure": Example("no `--boundary--` at the end", body=Example("")._body().removesuffix(b"--=_b--\r\n")),
    "charset": Example(
        "`Content-Type: text/plain; charset=x-unknown`",
        body=Example("")._body().replace(b"plain; charset=utf-8", b"plain; charset=x-unknown"),
    ),
    "transfer-encoding": Example(
        "`Content-Transfer-Encoding: uuencode`",
        parts=(("Content-Type: application/x-a\r\nContent-Transfer-Encoding: uuencode\r\n", "x\r\n"),),
    ),
    "text-part": Example("html without text", text=None),
    "text-empty": Example("an empty text part", text="\r\n"),
    "html-empty": Example("`<html></html>`", html="<html></html>", sample={"bulk": False}),
    "text-placeholder": Example(
        "`Please view this message in HTML.`", text="Please view this message in HTML.\r\n"
    ),
    "text-short": Example("a line of text beside a long html", html=page(f"<p>{WORDS}</p>"), text="Hello\r\n"),
    "alternative-order": Example(
        "html first, then text", text=None, parts=(("Content-Type: text/plain; charset=utf-8\r\n", TEXT),)
    ),
    "attachment-type": Example(
        "`setup.exe` attached",
        parts=(attached('Content-Type: application/x-a\r\nContent-Disposition: attachment; filename="setup.exe"'),),
    ),
    "attachment-empty": Example(
        "an empty `terms.pdf`",
        parts=(attached('Content-Type: application/pdf\r\nContent-Disposition: attachment; filename="t.pdf"', "\r\n"),),
    ),
    "attachment-name": Example(
        "`Content-Disposition: attachment`",
        parts=(attached("Content-Type: application/pdf\r\nContent-Disposition: attachment"),),
    ),
    "cid-missing": Example('`<img src="cid:logo">`', html=page('<img src="cid:logo" alt="">')),
    "cid-unused": Example(
        "an inline image that nothing shows",
        {"Content-Type": 'multipart/related; boundary="=_b"'},
        parts=((PNG[0] + "Content-ID: <logo>\r\nContent-Disposition: inline; filename=l.png\r\n", PNG[1]),),
    ),
    # ---- html
    "html-script": Example("`<script>`", html=page("<script>go()</script>")),
    "html-handler": Example('`<p onclick="go()">`', html=page('<p onclick="go()">x</p>')),
    "html-form": Example("`<form>`", html=page("<form></form>")),
    "html-frame": Example("`<iframe>`", html=page("<iframe></iframe>")),
    "html-remote-css": Example(
        '`<link rel="stylesheet" href="https://…">`', html=page('<link rel="stylesheet" href="https://example.com/a.css">')
    ),
    "html-hidden": Example(
        '`<div style="display:none">` around an article', html=page(f'<div style="display: none">{WORDS[:500]}</div>')
    ),
    "html-unclosed": Example("`<table>` without `</table>`", html=page("<table><tr><td>x")),
    "html-base": Example('`<base href="https://…">`', html=page('<base href="https://example.com/">')),
    "img-alt": Example('`<img src="https://…">`', html=page('<img src="https://example.com/a.png">')),
    "img-only": Example(
        "one large image as the whole page",
        html=f'<a href="{URL}"><img src="https://example.com/unsubscribe.png" alt="All the news"></a>',
    ),
    "img-ratio": Example(
        "ten images beside a sentence", html=page('<img src="https://example.com/a.png" alt="">' * 10)
    ),
    "img-src": Example("`<img>`", html=page('<img alt="x">')),
    "img-data": Example('`<img src="data:image/png;…">`', html=page('<img src="data:image/png;base64,AA" alt="">')),
    # ---- links
    "link-empty": Example('`<a href="#">`', html=page('<a href="#">x</a>')),
    "link-relative": Example('`<a href="/news">`', html=page('<a href="/news">x</a>')),
    "link-broken": Example('`<a href="https://[">`', html=page('<a href="https://[">x</a>')),
    "link-local": Example('`<a href="http://localhost/">`', html=page('<a href="http://localhost:8000/">x</a>')),
    "link-script": Example('`<a href="javascript:go()">`', html=page('<a href="javascript:go()">x</a>')),
    "link-http": Example('`<a href="http://example.com/">`', html=page('<a href="http://example.com/">x</a>')),
    "img-http": Example('`<img src="http://…">`', html=page('<img src="http://example.com/a.png" alt="">')),
    "link-ip": Example('`<a href="https://8.8.8.8/">`', html=page('<a href="https://8.8.8.8/">x</a>')),
    "link-shortener": Example('`<a href="https://bit.ly/x">`', html=page('<a href="https://bit.ly/x">x</a>')),
    "link-disguised": Example(
        '`<a href="https://example.com/">www.bank.net</a>`', html=page('<a href="https://example.com/">www.bank.net</a>')
    ),
    "link-credentials": Example(
        '`<a href="https://bank.net@example.com/">`', html=page('<a href="https://bank.net@example.com/">x</a>')
    ),
    "link-many": Example("more than 100 links", html=page('<a href="https://example.com/1">x</a>\r\n' * 101)),
    # ---- bytes
    "line-long": Example("a line of 2,000 letters", text=TEXT + "x" * 2000 + "\r\n"),
    "line-bare": Example("a line feed without carriage return", text=TEXT + "a\nb\r\n"),
    "nul": Example("a NUL", text=TEXT + "\0\r\n"),
    "body-8bit": Example("`Köln` in a 7bit part", text=TEXT + "Köln\r\n"),
    "html-clipped": Example(
        "150 KB of html", html=page("<!--" + ("x" * 70 + "\r\n") * 2100 + "-->")
    ),
    "html-large": Example("90 KB of html", html=page("<!--" + ("x" * 70 + "\r\n") * 1280 + "-->")),
    "size": Example("a message of 12 MB", parts=((PNG[0] + "Content-Disposition: attachment; filename=a.png\r\n",
                                                  ("A" * 76 + "\r\n") * 154_000),)),
}  # fmt: skip


# What tests/unit/message/test_lint_dns.py has a server answer.
IN_THE_DNS = {
    "dns-unknown": "a server that answers `SERVFAIL`",
    "spf-missing": "no TXT record that begins with `v=spf1`",
    "spf-several": "`v=spf1 -all` and `v=spf1 mx -all`",
    "spf-syntax": "`v=spf1 ip4:9.9.9.300 -all`",
    "spf-lookups": "`v=spf1 mx mx mx mx mx mx mx mx mx mx mx -all`",
    "spf-open": "`v=spf1 +all`",
    "spf-end": "`v=spf1 mx`",
    "spf-address": '`v=spf1 ip4:9.9.9.11 -all`, `"local_address": "9.9.9.10"`',
    "dkim-record": "nothing at `s1._domainkey.brand.shop`, or another key",
    "dkim-testing": "`v=DKIM1; t=y; p=MIIB…`",
    "dmarc-missing": "nothing at `_dmarc.brand.shop`",
    "dmarc-several": "`v=DMARC1; p=none` and `v=DMARC1; p=reject`",
    "dmarc-syntax": "`v=DMARC1; rua=mailto:d@brand.shop`",
    "dmarc-rua": "`v=DMARC1; p=none`",
    "dmarc-policy": "`v=DMARC1; p=reject`, signed and sent by `mailer.net`",
    "domain-missing": "From at a domain that does not exist",
    "mx-missing": "neither MX, A nor AAAA",
    "mx-null": "`MX 0 .`",
    "ptr-missing": "no PTR for 9.9.9.10",
    "ptr-forward": "9.9.9.10 is `mta.brand.shop`, which is 9.9.9.99",
    "ptr-generic": "9.9.9.10 is `static-9-9-9-10.isp.net`",
    "ehlo-name": "`?name=elsewhere.brand.shop`, which is not 9.9.9.10",
}
OF_THE_JOB = {"tls": '`"relays": "smtp://mx.brand.shop?tls=never"`'}


def table() -> str:
    """The rules as docs/lint.md has them."""
    shown = {rule: example.shown for rule, example in EXAMPLES.items()} | IN_THE_DNS | OF_THE_JOB
    rows = ["| id | severity | what | failing example | remedy | source |", "|---|---|---|---|---|---|"]
    for rule in (*RULES, *dns.RULES, *job.RULES):
        cells = [
            f"`{rule.id}`",
            rule.severity,
            _plain(rule.text),
            shown[rule.id],
            _plain(rule.remedy),
            rule.source,
        ]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _plain(text: str) -> str:
    """A template of a rule, safe in Markdown: {name!r} without the mark, "<" no tag."""
    return text.replace("!r}", "}").replace("{{", "{").replace("}}", "}").replace("<", "&lt;").replace("*", "&#42;")


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- rules -->\n")
    after = rest.partition("<!-- end -->\n")[2]
    PAGE.write_text(f"{before}<!-- rules -->\n{table()}<!-- end -->\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
