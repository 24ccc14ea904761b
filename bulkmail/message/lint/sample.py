"""One composed message as the rules see it, and what is known besides its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bulkmail.message.lint import fields, page, parts
from bulkmail.message.lint.fields import Field, Mailbox

# Fields whose content a manifest key or an argument gives; other fields are custom headers.
PLACES = {
    "from": "from",
    "sender": "sender",
    "reply-to": "reply_to",
    "to": "to",
    "cc": "cc",
    "subject": "subject",
    "date": "date",
    "message-id": "message_id",
    "list-unsubscribe": "list_unsubscribe",
    "list-unsubscribe-post": "list_unsubscribe",
    "list-id": "list_id",
    "feedback-id": "feedback_id",
    "dkim-signature": "dkim",
}


@dataclass(frozen=True, slots=True)
class Signing:
    """A DKIM signature that the message has or will have.

    headers  the fields it covers, lower case; None: not known
    bits     of an RSA key; None: not known, or no RSA key
    exposed  why its key is not safe, if it is not
    """

    domain: str
    selector: str
    algorithm: str = "rsa-sha256"
    headers: frozenset[str] | None = None
    bits: int | None = None
    place: str = "dkim"
    exposed: str = ""


@dataclass(frozen=True)
class Sample:
    """eml       the message; newlines CRLF unless that is what is wrong with it
    where     turns a place ("subject", "attachments[0]", "") into a finding's path
    sender    the envelope's; None: not known
    smtputf8  whether the envelope makes it a message for servers with SMTPUTF8
    bulk      whether it goes to many: what is asked of newsletters only is then asked
    given     signatures that are still to be made
    shared    one message goes to many recipients
    attached  names of the attachments, in the order of the manifest or the argument
    label     whose copy it is
    relays    hosts of the servers that it goes by, where they are known
    now       seconds since the epoch
    """

    eml: bytes
    where: Callable[[str], str]
    now: float
    sender: str | None = None
    smtputf8: bool = False
    bulk: bool = True
    given: Sequence[Signing] = ()
    shared: bool = False
    attached: Sequence[str | None] = ()
    label: str = ""
    relays: Sequence[str] = ()

    @cached_property
    def halves(self) -> tuple[bytes, bytes]:
        return fields.split(self.eml)

    @cached_property
    def _parsed(self) -> tuple[list[Field], list[bytes]]:
        return fields.parse(self.halves[0])

    @property
    def fields(self) -> list[Field]:
        return self._parsed[0]

    @property
    def strays(self) -> list[bytes]:
        return self._parsed[1]

    @cached_property
    def _by_key(self) -> dict[str, list[Field]]:
        found: dict[str, list[Field]] = {}
        for one in self.fields:
            found.setdefault(one.key, []).append(one)
        return found

    def all(self, key: str) -> list[Field]:
        return self._by_key.get(key, [])

    def value(self, key: str) -> str | None:
        """Of the first field with that name (lower case)."""
        found = self.all(key)
        return found[0].value if found else None

    @cached_property
    def subject(self) -> str:
        return fields.decoded(self.value("subject") or "")[0]

    @cached_property
    def authors(self) -> list[Mailbox]:
        return fields.mailboxes(self.value("from") or "")

    @property
    def from_domain(self) -> str:
        """ "" where there is no usable From."""
        return self.authors[0].domain if self.authors else ""

    @property
    def sender_domain(self) -> str:
        return (self.sender or "").rpartition("@")[2].lower()

    @cached_property
    def tree(self) -> parts.Tree:
        return parts.walk(self.fields, self.halves[1])

    def _part(self, kind: str) -> parts.Part | None:
        shown = (one for one in self.tree.parts if one.type == kind and one.disposition != "attachment")
        return next(shown, None)

    @cached_property
    def html_part(self) -> parts.Part | None:
        return self._part("text/html")

    @cached_property
    def text_part(self) -> parts.Part | None:
        return self._part("text/plain")

    @cached_property
    def html(self) -> str | None:
        return None if self.html_part is None else self.html_part.text[0]

    @cached_property
    def text(self) -> str | None:
        return None if self.text_part is None else self.text_part.text[0]

    @cached_property
    def page(self) -> page.Page:
        return page.read(self.html or "")

    @cached_property
    def signatures(self) -> list[Signing]:
        """Those of the message and those to be made; one that was made by a key that is given counts as that key's."""
        ours = {(one.domain, one.selector) for one in self.given}
        there = [_signature(one.value) for one in self.all("dkim-signature")]
        return [*(one for one in there if (one.domain, one.selector) not in ours), *self.given]

    def attachment(self, name: str | None) -> str:
        """The path of an attachment by its name; inline ones stand elsewhere in the message than in the manifest."""
        number = self.attached.index(name) if name in self.attached else None
        return self.where("attachments" if number is None else f"attachments[{number}]")

    def place_of(self, field: Field) -> str:
        return self.where(PLACES.get(field.key) or f"headers.{field.name}")


def _signature(value: str) -> Signing:
    """Of a DKIM-Signature field (RFC 6376 section 3.5); what is missing in it is empty."""
    tags = {name.strip(): "".join(text.split()) for name, _, text in (tag.partition("=") for tag in value.split(";"))}
    headers = frozenset(name.lower() for name in tags.get("h", "").split(":") if name)
    return Signing(tags.get("d", "").lower(), tags.get("s", ""), tags.get("a", "").lower(), headers)
