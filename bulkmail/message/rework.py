"""What is done to the HTML part once, before it is cut into a plan: link parameters, style attributes, a text part."""

from __future__ import annotations

from collections.abc import Mapping
from html import unescape
from typing import Any
from urllib.parse import quote

from jinja2 import nodes

from bulkmail.errors import MessageError
from bulkmail.message.flatten import clone, loads
from bulkmail.message.html_css import inline_css, moved_css
from bulkmail.message.html_links import add_link_parameters, leaves, with_parameters
from bulkmail.message.html_text import html_to_text
from bulkmail.message.marked import Marks, check_text, value_token
from bulkmail.message.plan import Plan, flat_tree, make_plan, plan_of
from bulkmail.message.template import Sandbox, Source, load_sheet, parse

# Filters that make HTML of a value, and what they are in the text part.
_IN_TEXT = {"e": None, "escape": None, "forceescape": None, "urlize": None, "safe": "html_to_text"}


class Work:
    """The plans of an HTML part and of the text that is made from it.

    text             whether there is one
    inlined          whether style sheets become attributes
    link_parameters  templates by name
    unsubscribe      the template of the address that gets none
    """

    def __init__(
        self,
        marked_up: Sandbox,
        plain: Sandbox,
        *,
        text: bool,
        inlined: bool,
        link_parameters: Mapping[str, str],
        unsubscribe: str | None,
    ) -> None:
        self._marked_up, self._plain = marked_up, plain
        self._text, self._inlined = text, inlined
        self._parameters, self._unsubscribe = link_parameters, unsubscribe
        marked_up.add_filters({"with_link_parameters": _with_parameters})
        plain.add_filters({"html_to_text": _to_text, "with_link_parameters": _with_parameters})

    def plans(self, source: Source) -> tuple[Plan, Plan | None]:
        """(html, text). raises  MessageError"""
        keys = {"link_parameters": self._parameters, "inline_css": self._inlined, "a text made from html": self._text}
        flat = flat_tree(self._marked_up, source, next(key for key, wanted in keys.items() if wanted))
        if self._parameters:
            self._link(flat, source)
        text = self._text_plan(clone(flat), source) if self._text else None
        if not (self._inlined or self._parameters):
            return make_plan(self._marked_up, source), text
        if self._inlined:
            self._inline(flat, source)
        return plan_of(self._marked_up, source, flat), text

    # ---- style sheets

    def _inline(self, flat: nodes.Template, source: Source) -> None:
        marks = Marks(self._marked_up, source)
        sheet = ""

        def note(html: str) -> str:
            nonlocal sheet
            sheet = moved_css(html, load, marks.where)
            return html

        def load(name: str) -> str:
            return load_sheet(self._marked_up.loader, name, source.label)

        marks.rework(flat.body, note, str)
        marks.rework(
            flat.body,
            lambda html: inline_css(html, load, where=marks.where),
            lambda html: inline_css(html, load, where=marks.where, css=sheet),
        )

    # ---- links

    def _link(self, flat: nodes.Template, source: Source) -> None:
        marks = Marks(self._marked_up, source)
        bound = {name.name for name in flat.find_all(nodes.Name) if name.ctx != "load"}
        pairs = [(quote(name, safe=""), self._parameter(marks, name, bound)) for name in self._parameters]
        same = self._spelled(Source("list_unsubscribe.url", self._unsubscribe)) if self._unsubscribe else None

        def spelled(address: str) -> str:
            return value_token.sub(lambda match: repr(marks.node(match[0])), address)

        def computed(raw: str) -> str:
            value = _joined(marks.parts(raw, unescape))
            named = [[nodes.Const(name), _joined(marks.parts(text, str))] for name, text in pairs]
            added = nodes.List([nodes.Tuple(pair, "load") for pair in named])
            node = nodes.Filter(value, "with_link_parameters", [added], [], None, None, lineno=_line(value))
            return marks.value(node, marks.home(raw))

        def plain(raw: str) -> bool:
            values = [marks.node(match[0]) for match in value_token.finditer(raw)]
            return all(isinstance(node, nodes.Filter) and node.name == "urlencode" for node in values)

        marks.rework(
            flat.body,
            lambda html: add_link_parameters(
                html,
                pairs,
                skip=lambda address: spelled(address) == same or leaves(spelled(address)) is not None,
                computed=computed,
                plain=plain,
                where=marks.where,
            ),
        )

    def _parameter(self, marks: Marks, name: str, bound: set[str]) -> str:
        """The value of a parameter as it stands in a query, its values as tokens."""
        source = Source(f"link_parameters.{name}", self._parameters[name])
        out = []
        for expression in self._expressions(source):
            if isinstance(expression, nodes.TemplateData):
                check_text(expression.data, source.label)
                out.append(quote(expression.data, safe=""))
                continue
            taken = loads(nodes.Output([expression])) & bound
            if taken:
                raise MessageError(f"{source.label}: the HTML part binds the name {min(taken)!r} itself")
            out.append(marks.value(nodes.Filter(expression, "urlencode", [], [], None, None, lineno=1)))
        return "".join(out)

    def _spelled(self, source: Source) -> str:
        return "".join(
            node.data if isinstance(node, nodes.TemplateData) else repr(node) for node in self._expressions(source)
        )

    def _expressions(self, source: Source) -> list[nodes.Expr]:
        body = parse(self._plain, source).body
        if not all(isinstance(node, nodes.Output) for node in body):
            raise MessageError(f"{source.label}: values ({{{{ }}}}) only, statements are refused here")
        return [expression for node in body for expression in node.nodes]  # type: ignore[attr-defined]

    # ---- text

    def _text_plan(self, flat: nodes.Template, html: Source) -> Plan:
        source = Source("text", "", html.file)
        marks = Marks(self._marked_up, html)
        marks.rework(flat.body, lambda text: html_to_text(text, marks.kind))
        _without_markup(flat)
        return plan_of(self._plain, source, flat)


def _joined(parts: list[nodes.Expr]) -> nodes.Expr:
    if len(parts) == 1:
        return parts[0]
    return nodes.Concat(parts, lineno=_line(*parts)) if parts else nodes.Const("", lineno=1)


def _line(*parts: nodes.Expr) -> int:
    return next((part.lineno for part in parts if not isinstance(part, nodes.Const) and part.lineno), 1)


def _with_parameters(url: Any, pairs: Any) -> str:
    text = url.unescape() if hasattr(url, "unescape") else str(url)
    return with_parameters(text.strip(), pairs)


def _to_text(value: Any) -> str:
    return html_to_text(str(value)).rstrip("\n")


def _without_markup(node: nodes.Node) -> None:
    """Values as they are: no escapes, and those that are HTML as text."""
    for name, item in node.iter_fields():
        if isinstance(item, list):
            for i, part in enumerate(item):
                if isinstance(part, nodes.Node):
                    _without_markup(part)
                    item[i] = _as_text(part)
        elif isinstance(item, nodes.Node):
            _without_markup(item)
            setattr(node, name, _as_text(item))


def _as_text(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Filter) and node.name in _IN_TEXT and node.node is not None:
        name = _IN_TEXT[node.name]
        return node.node if name is None else nodes.Filter(node.node, name, [], [], None, None, lineno=node.lineno)
    return node
