"""A `MessageSpec` becomes a `Compiled`: templates parsed and cut up, headers planned, the MIME frame made, all once.

Names in templates are looked up in the recipient's row, then among the variables (`--set`), then in the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulkmail.address import domain_of, parse_mailbox
from bulkmail.errors import MessageError
from bulkmail.message import headers, mime, raw
from bulkmail.message.compiled import Compiled, in_pieces
from bulkmail.message.encodings import check_encoding, encode_whole
from bulkmail.message.fieldplan import (
    HeaderPlan,
    address_header,
    check_pieces,
    ids_header,
    prepared_header,
    text_header,
    text_of,
)
from bulkmail.message.listplan import OWN_URL, ListFields, OwnUrl, with_constant_url, without_own_url
from bulkmail.message.localised import check_locale
from bulkmail.message.plan import Piece, Plan, Text, Value, make_plan
from bulkmail.message.reference import Reference, Texts
from bulkmail.message.spec import Attached, AttachmentSpec, MessageSpec, PreparedValue
from bulkmail.message.template import Row, Source, make_environment
from bulkmail.message.textparts import Form, forms_of, part_of, template_encoding
from bulkmail.wire.transaction import Body

UNDISCLOSED = b"To: undisclosed-recipients:;\r\n"  # RFC 5322 section 3.6.3: an empty group
# Of a Message-ID where no address says which domain is ours (RFC 2606 section 2: nobody can own it).
NO_DOMAIN = "bulkmail.invalid"


class CompileError(MessageError):
    """A message that cannot be compiled.

    problems  all of them, each (JSON path such as "$.message.subject", sentence)
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(sentence for _, sentence in problems))
        self.problems = tuple(problems)


def compile_message(
    spec: MessageSpec,
    *,
    job: str,
    defaults: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    personal: bool = False,
    copy: int = 0,
) -> Compiled:
    """The message for any number of recipients.

    job       its name: part of the Message-IDs
    folder    where templates may be included from; None: nowhere
    copy      which of several messages of the job it is
    personal  each recipient gets a copy of their own even if the message is the same for everybody
    raises    CompileError (a MessageError) with every problem of the message at once
    """
    base = {**(defaults or {}), **(variables or {})}
    return _Compiler(spec, job, base, folder, personal, copy).compiled()


class _Compiler:
    def __init__(
        self, spec: MessageSpec, job: str, base: dict[str, Any], folder: Path | None, personal: bool, copy: int
    ) -> None:
        self._spec, self._job, self._base, self._personal, self._copy = spec, job, base, personal, copy
        folder = self._folder = folder if spec.access.files else None
        self._problems: list[tuple[str, str]] = []
        locale = None
        with self._at("locale"):
            if spec.locale is not None:
                check_locale(spec.locale, "locale")
            locale = spec.locale
        self._plain = make_environment(folder, html=False, locale=locale)
        self._marked_up = make_environment(folder, html=True, locale=locale)
        self._plans: list[Plan] = []  # every template, in the order of reading
        self._header_plans: list[Plan] = []  # those that reach a header or the envelope
        self._own_url: OwnUrl | None = None

    def compiled(self) -> Compiled:
        return self._raw() if self._spec.raw is not None else self._composed()

    # ---- both kinds

    @contextmanager
    def _at(self, key: str) -> Iterator[None]:
        """Collects the problems of one key of the message."""
        try:
            yield
        except MessageError as error:
            self._problems.append((f"$.message.{key}", str(error)))

    def _plan(self, key: str, text: str, file: str | None = None, *, html: bool = False, body: bool = False) -> Plan:
        plan = make_plan(self._marked_up if html else self._plain, Source(key, text, file, html))
        return self._noted(plan, body)

    def _noted(self, plan: Plan, body: bool) -> Plan:
        if self._own_url is not None and self._own_url.constant is not None:
            plan.pieces = with_constant_url(plan.pieces, self._own_url.constant)
        self._plans.append(plan)
        if not body:
            self._header_plans.append(plan)
        return plan

    def _finish(
        self,
        fields: list[Any],
        sender: bytes | list[Piece],
        domain: str,
        reference: Reference,
        shared_body: Callable[[bytes, bytes], Body] | None,
        own_id: str | None = None,
    ) -> Compiled:
        signer = self._signer()
        if self._problems:
            raise CompileError(self._problems)
        own_url = reference.own_url = self._own_url
        if own_url is not None and not without_own_url(self._plans, own_url):
            own_url = None
        names = frozenset().union(*(plan.names for plan in self._plans))
        places: dict[str, list[tuple[str, bool]]] = {}
        for plan in self._plans:
            for name in sorted(plan.names):
                line = plan.required.get(name)
                place = f"{plan.source.label}, line {line}" if line else plan.source.label
                places.setdefault(name, []).append((place, line is not None))
        return Compiled(
            fields=fields,
            sender=sender,
            check_sender=_checked_sender,
            job=self._job,
            domain=domain,
            base=self._base,
            row_class=Row,
            reference=reference,
            shared_body=None if self._personal else shared_body,
            own_id=own_id,
            required=frozenset().union(*(plan.required for plan in self._plans)) - frozenset(self._base),
            header_fields=frozenset({"email"}).union(*(plan.names for plan in self._header_plans)),
            names=names,
            places=places,
            signer=signer,
            copy=self._copy,
            own_url=(OWN_URL, own_url.pieces, own_url.finish) if own_url is not None else None,
        )

    def _signer(self) -> Any:
        if not self._spec.dkim:
            return None
        from bulkmail.message.dkim_sign import Signer  # only what is signed pays for the library

        with self._at("dkim"):
            return Signer(self._spec.dkim)

    def _envelope_sender(self, fallback: list[Piece]) -> bytes | list[Piece]:
        """Constant bytes, or the plan of each recipient's sender."""
        pieces = fallback
        if self._spec.envelope_from is not None:
            plan = self._plan("envelope_from", self._spec.envelope_from)
            check_pieces(plan.pieces, "envelope_from")
            pieces = plan.pieces
        if not all(isinstance(piece, Text) for piece in pieces):
            return pieces
        text = text_of(pieces).strip()
        if self._spec.envelope_from is not None and text in ("", "<>"):
            return b""
        return _checked_sender(text)

    # ---- ready messages

    def _raw(self) -> Compiled:
        content, sender = b"", None
        with self._at("raw"):
            content = raw.prepare(self._spec.raw or b"")
            sender = raw.envelope_of(content)[0]
            if sender is None and self._spec.envelope_from is None:
                raise MessageError("raw: it has neither Sender nor From, so 'envelope_from' is needed")
        pieces: bytes | list[Piece] = b""
        with self._at("envelope_from"):
            if not self._problems:
                pieces = self._envelope_sender([Text(sender or "")])
        body = raw.wire_ready(content).removesuffix(b".\r\n")
        fields: list[Any] = [("const", body, [], None, "raw")]
        shared = (lambda date, message_id: in_pieces([body, b".\r\n"])) if isinstance(pieces, bytes) else None
        reference = Reference([], Texts(), self._base, content)
        return self._finish(fields, pieces, NO_DOMAIN, reference, shared, raw.message_id_of(content))

    # ---- composed messages

    def _composed(self) -> Compiled:
        spec = self._spec
        with self._at("encoding"):
            if spec.encoding is not None:
                check_encoding(spec.encoding, "encoding")
        with self._at("charset"):
            if spec.charset.lower() not in ("utf-8", "utf8"):
                raise MessageError(f"charset: {spec.charset!r}, expected utf-8")
        with self._at("html"):
            self._spec = self._with_images()
        header = self._header()
        texts = self._texts()
        attached = self._attached()
        sender: bytes | list[Piece] = b""
        with self._at("envelope_from"):
            sender = self._envelope_sender(self._own_address(header))
        if self._problems:
            raise CompileError(self._problems)
        tail = self._content(texts, attached)
        personal = [plan.for_compiled() for plan in header]
        shared = self._shared(header, tail, sender)
        reference = Reference(header, Texts(texts, attached), self._base)
        return self._finish([*personal, *tail], sender, self._domain(header, sender), reference, shared)

    def _with_images(self) -> MessageSpec:
        spec = self._spec
        if not spec.embed_images or spec.html is None:
            return spec
        from bulkmail.message.embed import embed_images

        html, images = embed_images(spec.html, "html", [self._folder or Path()], spec.access)
        parts = [AttachmentSpec(name=image.name, cid=image.cid, loaded=image) for image in images]
        return replace(spec, html=html, attachments=(*spec.attachments, *parts), embed_images=False)

    def _texts(self) -> list[tuple[mime.TextPart, Plan]]:
        """The forms of the message in their order, then those that are files as well."""
        out: list[tuple[mime.TextPart, Plan]] = []
        files: list[tuple[mime.TextPart, Plan]] = []
        for form in forms_of(self._spec):
            with self._at(form.key):
                if form.key == "html":
                    plan, text = self._html_plans(form)
                    if text is not None:
                        out.insert(0, (self._part(Form("text", "text/plain", ""), text), text))
                else:
                    plan = self._plan(form.key, form.source, form.file, html=form.html, body=True)
                part = self._part(form, plan)
                out.append((part, plan))
                if form.name is not None:
                    files.append((mime.as_file(part, form.name), plan))
        return out + files

    def _part(self, form: Form, plan: Plan) -> mime.TextPart:
        return part_of(form, plan.text, template_encoding(plan, self._spec.encoding))

    def _html_plans(self, form: Form) -> tuple[Plan, Plan | None]:
        """That of the HTML part, and that of the text that is made of it, where one is wanted."""
        spec, source = self._spec, Source(form.key, form.source, form.file, html=True)
        text = spec.text_from_html and spec.text is None
        if not (text or spec.inline_css or spec.link_parameters):
            return self._noted(make_plan(self._marked_up, source), body=True), None
        from bulkmail.message.rework import Work

        work = Work(
            self._marked_up,
            self._plain,
            text=text,
            inlined=spec.inline_css,
            link_parameters=spec.link_parameters,
            unsubscribe=spec.list_unsubscribe.url if spec.list_unsubscribe is not None else None,
        )
        html, made = work.plans(source)
        return self._noted(html, body=True), self._noted(made, body=True) if made is not None else None

    def _header(self) -> list[HeaderPlan]:
        spec = self._spec
        header: list[HeaderPlan] = []
        utf8 = self._utf8_sender()
        for key, name in (("from", "From"), ("sender", "Sender"), ("reply_to", "Reply-To")):
            text = spec.from_ if key == "from" else getattr(spec, key)
            with self._at(key):
                if text is not None:
                    header.append(address_header(name, self._plan(key, text), one=key != "reply_to", utf8=utf8))
                elif key == "from":
                    raise MessageError("from: it is missing, expected an address such as News <news@example.com>")
        with self._at("to"):
            if spec.to is None:
                header.append(HeaderPlan("mailboxes", "To", "to", [[], [Value("email", "to")]]))
            else:
                header.append(address_header("To", self._plan("to", spec.to)))
        with self._at("subject"):
            header.append(text_header("Subject", self._plan("subject", spec.subject)))
        header += [HeaderPlan("date", "Date"), HeaderPlan("message_id", "Message-ID")]
        fields = ListFields(spec, self._plan, self._at)
        header += [*self._thread(), *self._importance(), *fields.header()]
        self._own_url = fields.own_url
        return header + self._custom(header)

    def _utf8_sender(self) -> bool:
        """Whether the envelope's sender is known and makes every transaction ask for SMTPUTF8 (RFC 6531)."""
        text = next((t for t in (self._spec.envelope_from, self._spec.sender, self._spec.from_) if t is not None), "")
        try:
            return not parse_mailbox(text)[1].isascii()
        except ValueError:  # a template, or what is refused elsewhere
            return False

    def _thread(self) -> list[HeaderPlan]:
        out = []
        for key, name in (("in_reply_to", "In-Reply-To"), ("references", "References")):
            text = getattr(self._spec, key)
            with self._at(key):
                if text is not None:
                    out.append(ids_header(name, self._plan(key, text)))
        return [plan for plan in out if plan.plans[0]]

    def _importance(self) -> list[HeaderPlan]:
        given, out = self._spec.priority, []
        with self._at("priority"):
            if given is not None:
                fields = headers.priority_fields(given, "priority")
                out += [HeaderPlan("fixed", name, "priority", [], line) for name, line in fields]
        return out

    def _custom(self, made: list[HeaderPlan]) -> list[HeaderPlan]:
        out = []
        refused = headers.refused_names(plan.name for plan in made)
        for name, value in self._spec.header_pairs():
            with self._at(f"headers.{name}"):
                headers.check_name(name, refused)
                ready = isinstance(value, PreparedValue)
                plan = self._plan(f"headers.{name}", value.value if isinstance(value, PreparedValue) else value)
                out.append((prepared_header if ready else text_header)(name, plan))
        return out

    def _attached(self) -> list[Attached]:
        out = []
        for number, attachment in enumerate(self._spec.attachments):
            from bulkmail.message.attach import load_attachment

            with self._at(f"attachments[{number}]"):
                out.append(load_attachment(attachment, f"attachments[{number}]", self._spec.access))
        return out

    def _own_address(self, header: list[HeaderPlan]) -> list[Piece]:
        """The address of Sender, else From: the envelope's sender where none is stated."""
        named = {plan.name: plan for plan in header}
        plan = named.get("Sender") or named.get("From")
        return plan.plans[1] if plan is not None else [Text("nobody@example.com")]  # a problem already

    def _content(self, texts: list[tuple[mime.TextPart, Plan]], attached: list[Attached]) -> list[Any]:
        """The fields from the content's own headers to the end of the message."""
        out: list[Any] = []
        for piece in mime.frame([part for part, _ in texts], attached, dots=True):
            if isinstance(piece, bytes):
                out.append(("const", piece, [], None, ""))
                continue
            part, plan = texts[piece]
            if plan.constant:
                whole = encode_whole(plan.text, part.encoding, part.key)
                out.append(("const", mime.escape_dots(whole), [], None, part.key))
            else:
                kind = "body" if part.encoding == "quoted-printable" else f"body-{part.encoding}"
                out.append((kind, b"", [[*plan.pieces, Text(plan.tail)]], None, part.key))
        return out

    def _shared(
        self, header: list[HeaderPlan], tail: list[Any], sender: bytes | list[Piece]
    ) -> Callable[[bytes, bytes], Body] | None:
        """What makes the one body of a message that is the same for everybody; None if it is not."""
        given = [plan for plan in self._plans if not plan.constant]
        if given or not isinstance(sender, bytes):
            return None
        lines = [UNDISCLOSED if plan.name == "To" and not plan.constant else plan for plan in header]
        content = [constant for _, constant, _, _, _ in tail]

        def body(date: bytes, message_id: bytes) -> Body:
            made = {"date": b"Date: " + date + b"\r\n", "message_id": b"Message-ID: " + message_id + b"\r\n"}
            top = (line if isinstance(line, bytes) else made.get(line.kind) or line.line_of() for line in lines)
            return in_pieces([b"".join(top), *content, b".\r\n"])

        return body

    def _domain(self, header: list[HeaderPlan], sender: bytes | list[Piece]) -> str:
        """The domain of Message-IDs: that of From, of Sender, of the envelope, whichever is the same for everybody."""
        named = {plan.name: plan.plans[1] for plan in header if plan.name in ("From", "Sender")}
        for pieces in (
            named.get("From"),
            named.get("Sender"),
            [Text(sender.decode())] if isinstance(sender, bytes) else sender,
        ):
            last = pieces[-1] if pieces else None
            if isinstance(last, Text) and "@" in last.text:
                try:
                    return domain_of(headers.checked_address("x" + last.text[last.text.rindex("@") :], "from"))
                except MessageError:
                    continue
        return NO_DOMAIN


def _checked_sender(text: str) -> bytes:
    """The envelope's sender from a mailbox. raises  MessageError"""
    _, address = headers.parse_one(headers.check_value(text, "envelope_from"), "envelope_from")
    return address.encode()
