"""The fields of list mail of a job's message, and the recipient's own List-Unsubscribe URL as a name for its templates.

"list_unsubscribe": {"url": "https://example.com/u/{{ id }}"}  and, in html,  <a href="{{ unsubscribe_url }}">
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from markupsafe import escape

from bulkmail.errors import MessageError
from bulkmail.message import headers, listmail
from bulkmail.message.fieldplan import HeaderPlan, check_pieces, text_header, text_of, uri_header
from bulkmail.message.plan import Branch, Piece, Plan, Rendered, Text, Value, merged
from bulkmail.message.spec import ListLink, ListUnsubscribe, MessageSpec
from bulkmail.records import Record

# What templates call the recipient's own List-Unsubscribe URL.
OWN_URL = "unsubscribe_url"


class Planner(Protocol):
    def __call__(self, key: str, text: str) -> Plan: ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OwnUrl(Record):
    """The List-Unsubscribe URL as a name for templates: `finish` makes it of the text of `pieces`.

    finish  raises MessageError (scope recipient)
    plan    its template, where the name is a field of the recipient; None: the URL is the same for everybody
    """

    pieces: list[Piece]
    finish: Callable[[str], str]
    plan: Plan | None = None
    in_header: bool = False  # List-Unsubscribe takes it by its name

    @property
    def constant(self) -> str | None:
        return text_of(self.pieces) if self.plan is None else None


class ListFields:
    """The fields of list mail of a job's message. at: collects the problems of a key; plan: makes a key's plan."""

    def __init__(self, spec: MessageSpec, plan: Planner, at: Callable[[str], AbstractContextManager[None]]) -> None:
        self._spec, self._plan, self._at = spec, plan, at
        self.own_url: OwnUrl | None = None

    def header(self) -> list[HeaderPlan]:
        spec = self._spec
        out: list[HeaderPlan] = []
        with self._at("list_unsubscribe"):
            if spec.list_unsubscribe is not None:
                out += self._unsubscribe(spec.list_unsubscribe)
        with self._at("list_id"):
            if spec.list_id is not None:
                plan = self._plan("list_id", spec.list_id)
                if not plan.constant:
                    raise MessageError("list_id: it is the same for every recipient, template marks are refused")
                out.append(HeaderPlan("fixed", "List-Id", "list_id", [], headers.list_id(plan.text)))
        for name, links in spec.list_fields.items():
            with self._at(f"list_{name}"):
                out.append(self._links(name, links))
        with self._at("feedback_id"):
            if spec.feedback_id is not None:
                out.append(text_header("Feedback-ID", self._plan("feedback_id", spec.feedback_id)))
        for key, (name, _) in listmail.STATED.items():
            with self._at(key):
                if getattr(spec, key) is not None:
                    out.append(HeaderPlan("fixed", name, key, [], listmail.stated(key, getattr(spec, key))))
        return out

    def _unsubscribe(self, given: ListUnsubscribe) -> list[HeaderPlan]:
        listmail.check_unsubscribe(given)
        plans: list[list[Piece]] = []
        if given.url is not None:
            plans.append(self._url(given, self._plan("list_unsubscribe.url", given.url)))
        if given.mailto is not None:
            plan = self._plan("list_unsubscribe.mailto", given.mailto)
            if plan.constant:
                listmail.check_mailto(plan.text)
            plans.append(plan.pieces if _starts_with(plan.pieces, "mailto:") else [Text("mailto:"), *plan.pieces])
        header = [_checked(uri_header("List-Unsubscribe", "list_unsubscribe", plans))]
        if given.one_click:
            header.append(HeaderPlan("fixed", "List-Unsubscribe-Post", "list_unsubscribe", [], listmail.ONE_CLICK))
        return header

    def _url(self, given: ListUnsubscribe, plan: Plan) -> list[Piece]:
        """The pieces of the URL in the header; `own_url` from then on."""
        check_pieces(plan.pieces, "list_unsubscribe")
        begins = plan.pieces[0] if plan.pieces else None
        if isinstance(begins, Text):
            listmail.check_url(begins.text, given.one_click)
        finish = listmail.finisher(given, known=isinstance(begins, Text))
        if plan.constant:
            constant: list[Piece] = [Text(finish(plan.text.strip()))]
            self.own_url = OwnUrl(constant, str)
            return constant
        # A URL that needs nothing done to it goes straight into the header, which costs less.
        by_name = given.key is not None or not isinstance(begins, Text)
        self.own_url = OwnUrl(plan.pieces, finish, plan, by_name)
        return [Value(OWN_URL, "list_unsubscribe.url")] if by_name else plan.pieces

    def _links(self, name: str, links: Sequence[ListLink]) -> HeaderPlan:
        key = f"list_{name}"
        if listmail.closed(name, links):
            return HeaderPlan("fixed", listmail.LIST_FIELDS[name], key, [], listmail.no_posting(links[0]))
        plans = []
        for link in links:
            pieces = self._plan(key, link.url).pieces
            if pieces and isinstance(pieces[0], Text):
                pieces = [Text(listmail.as_uri(pieces[0].text, key, whole=len(pieces) == 1)), *pieces[1:]]
            plans.append(pieces)
        header = uri_header(listmail.LIST_FIELDS[name], key, plans)
        header.comments = [headers.check_value(link.comment, key) for link in links]
        return _checked(header)


# ---- the name in templates


def with_constant_url(pieces: Iterable[Piece], url: str) -> list[Piece]:
    """The pieces with the URL, which is the same for everybody, in the place of its name."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Value) and piece.name == OWN_URL:
            out.append(Text(str(escape(url)) if piece.escape else url))
        elif isinstance(piece, Branch):
            then, orelse = with_constant_url(piece.then, url), with_constant_url(piece.orelse, url)
            out.append(replace(piece, then=then, orelse=orelse))
        else:
            out.append(piece)
    return merged(out)


def without_own_url(plans: Iterable[Plan], own_url: OwnUrl) -> bool:
    """Takes the name out of what the templates ask of a recipient. returns  whether it must be made for each"""
    used = own_url.in_header
    for plan in plans:
        if plan is not own_url.plan:
            used = used or _names_own_url(plan.pieces)
            plan.names.discard(OWN_URL)
            plan.required.pop(OWN_URL, None)
    return used


def _names_own_url(pieces: Iterable[Piece]) -> bool:
    for piece in pieces:
        if isinstance(piece, Branch):
            test = piece.test
            if test.name == OWN_URL or (test.slot is not None and OWN_URL in test.slot.names):
                return True
            if _names_own_url([*piece.then, *piece.orelse]):
                return True
        elif (isinstance(piece, Value) and piece.name == OWN_URL) or (
            isinstance(piece, Rendered) and OWN_URL in piece.slot.names
        ):
            return True
    return False


def _checked(header: HeaderPlan) -> HeaderPlan:
    """raises  MessageError  for constant URLs that no header has room for"""
    if header.constant:
        header.line_of()
    return header


def _starts_with(pieces: list[Piece], prefix: str) -> bool:
    return bool(pieces) and isinstance(pieces[0], Text) and pieces[0].text.lower().startswith(prefix)
