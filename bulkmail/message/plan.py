"""A template cut into what is the same for everybody and what is not.

    "Hello {{ name }}!{% if vip %} Welcome back.{% endif %}"
        ->  Text("Hello "), Value("name"), Text("!"), Branch(Test("vip"), [Text(" Welcome back.")], [])

Only forms whose meaning is certain are taken apart: names, `default`, `safe` and `escape` on names, `if` by them.
Whatever else is evaluated by Jinja2 itself as a `RenderedSlot`, so correctness never depends on the cutting; a template
that assigns names, or extends another, is one slot as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

from jinja2 import Template, nodes
from markupsafe import escape

from bulkmail.message.fields import find_uses
from bulkmail.message.template import RenderedSlot, Sandbox, Source, load, parse

# What acts beyond its own place in the template: a part of the tree with one of these cannot be rendered alone.
_NOT_LOCAL = (
    nodes.Assign,
    nodes.AssignBlock,
    nodes.Macro,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.CallBlock,
    nodes.EvalContextModifier,
)
# Names that Jinja2 gives a meaning of its own.
_RESERVED = frozenset({"self", "super", "loop", "caller", "varargs", "kwargs"})


MISSING: Any = object()


@dataclass(slots=True)
class Text:
    """Text as it stands, newlines "\\n"."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(slots=True)
class Value:
    """A recipient's value, in its text form.

    default  given by `default(...)`; with `falsy` it also stands for empty values
    escape   the value becomes HTML text
    where    "news.html, line 3"
    """

    kind: ClassVar[str] = "value"
    name: str
    where: str = ""
    default: Any = MISSING
    falsy: bool = False
    escape: bool = False

    @property
    def has_default(self) -> bool:
        return self.default is not MISSING


@dataclass(slots=True)
class Rendered:
    """A piece that Jinja2 evaluates."""

    kind: ClassVar[str] = "rendered"
    slot: RenderedSlot


@dataclass(slots=True)
class Test:
    """A condition: a name is true, `defined`, or `equal` to a constant; or a slot that renders to nothing."""

    name: str = ""
    kind: str = "true"
    other: Any = None
    negate: bool = False
    where: str = ""
    slot: RenderedSlot | None = None


@dataclass(slots=True)
class Branch:
    """`if`: one of two plans."""

    kind: ClassVar[str] = "branch"
    test: Test
    then: list[Piece]
    orelse: list[Piece]


Piece: TypeAlias = Text | Value | Rendered | Branch


@dataclass(slots=True)
class Plan:
    """A whole template.

    names     every name it may take from a recipient; required: those without which it fails, and the line of first use
    whole     it is one slot as a whole
    template  all of it for Jinja2, as the reference renders it
    """

    source: Source
    pieces: list[Piece]
    template: Template
    names: set[str] = field(default_factory=set)
    required: dict[str, int] = field(default_factory=dict)
    whole: bool = False

    @property
    def constant(self) -> bool:
        """Whether it is the same for every recipient (no marks that take something from one)."""
        return all(isinstance(piece, Text) for piece in self.pieces)

    @property
    def text(self) -> str:
        """The text as far as it is the same for everybody, conditions aside; all of a constant plan."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Text))

    @property
    def tail(self) -> str:
        """What makes a body part end with a newline ("" where it already does, whatever the values are)."""
        last = self.pieces[-1] if self.pieces else None
        ends = self.whole or (isinstance(last, Text) and last.text.endswith("\n"))
        return "" if ends else "\n"


def make_plan(environment: Sandbox, source: Source) -> Plan:
    """raises  MessageError  for a template that cannot be used, with file and line"""
    tree = parse(environment, source)
    template = load(environment, source, source)
    uses = find_uses(environment, tree, source)
    if any(True for kind in _NOT_LOCAL for _ in tree.find_all(kind)):
        slot = RenderedSlot(template, source, frozenset(uses.names), whole=True)
        return Plan(source, [Rendered(slot)], template, uses.names, uses.required, whole=True)
    pieces = merged(_Cutter(environment, source).statements(tree.body))
    return Plan(source, pieces, template, uses.names, uses.required)


class _Cutter:
    def __init__(self, environment: Sandbox, source: Source) -> None:
        self._environment = environment
        self._source = source

    def statements(self, body: Sequence[nodes.Node]) -> Iterator[Piece]:
        for node in body:
            if isinstance(node, nodes.Output):
                for expression in node.nodes:
                    yield self._expression(expression)
            elif isinstance(node, nodes.If):
                yield self._branch(node)
            else:
                yield Rendered(self._slot(node))

    def _branch(self, node: nodes.If) -> Branch:
        orelse: list[Piece]
        if node.elif_:
            first, *others = node.elif_
            nested = nodes.If(first.test, first.body, others, node.else_, lineno=first.lineno)
            orelse = [self._branch(nested)]
        else:
            orelse = merged(self.statements(node.else_))
        return Branch(self._test(node.test), merged(self.statements(node.body)), orelse)

    def _expression(self, node: nodes.Expr) -> Piece:
        if isinstance(node, nodes.TemplateData):
            return Text(node.data)
        if isinstance(node, nodes.Const):
            value = self._environment.finalize(node.value)  # type: ignore[misc]
            return Text(str(escape(value) if self._source.html else value))
        return self._value(node) or Rendered(self._slot(nodes.Output([node], lineno=node.lineno)))

    def _value(self, node: nodes.Expr) -> Value | None:
        """A name, alone or with filters whose meaning is known here; None for everything else."""
        if self._is_field(node):
            return Value(node.name, self._where(node), escape=self._source.html)  # type: ignore[attr-defined]
        if not isinstance(node, nodes.Filter) or node.node is None or node.dyn_args or node.dyn_kwargs:
            return None
        if node.name in ("safe", "e", "escape") and not node.args and not node.kwargs:
            # Escaping twice or taking it back is left to Jinja2: only the first such filter on a name is certain.
            inner = self._plain_or_default(node.node)
            return replace(inner, escape=node.name != "safe") if inner else None
        return self._plain_or_default(node)

    def _plain_or_default(self, node: nodes.Expr) -> Value | None:
        if self._is_field(node):
            return self._value(node)
        if not isinstance(node, nodes.Filter) or node.name not in ("default", "d") or not self._is_field(node.node):
            return None
        given = {"default_value": "", "boolean": False}
        arguments = [*zip(given, node.args, strict=False), *((pair.key, pair.value) for pair in node.kwargs)]
        if len(node.args) > len(given) or node.dyn_args or node.dyn_kwargs:
            return None
        for name, value in arguments:
            if name not in given or not isinstance(value, nodes.Const):
                return None
            given[name] = value.value
        plain = self._value(node.node)  # type: ignore[arg-type]
        return replace(plain, default=given["default_value"], falsy=bool(given["boolean"])) if plain else None

    def _is_field(self, node: nodes.Node | None) -> bool:
        if not isinstance(node, nodes.Name) or node.ctx != "load":
            return False
        return node.name not in _RESERVED and node.name not in self._environment.globals

    def _test(self, node: nodes.Node) -> Test:
        if isinstance(node, nodes.Not):
            test = self._test(node.node)
            return replace(test, negate=not test.negate)
        return self._name_test(node) or self._rendered_test(node)

    def _name_test(self, node: nodes.Node) -> Test | None:
        if self._is_field(node):
            return Test(node.name, where=self._where(node))  # type: ignore[attr-defined]
        if isinstance(node, nodes.Test) and node.name in ("defined", "undefined") and self._is_field(node.node):
            return Test(node.node.name, "defined", negate=node.name == "undefined", where=self._where(node))  # type: ignore[attr-defined]
        if isinstance(node, nodes.Compare) and len(node.ops) == 1 and self._is_field(node.expr):
            (op,) = node.ops
            if op.op in ("eq", "ne") and isinstance(op.expr, nodes.Const):
                name = node.expr.name  # type: ignore[attr-defined]
                return Test(name, "equal", op.expr.value, negate=op.op == "ne", where=self._where(node))
        return None

    def _rendered_test(self, node: nodes.Node) -> Test:
        yes = nodes.Output([nodes.TemplateData("1")], lineno=node.lineno)
        return Test(slot=self._slot(nodes.If(node, [yes], [], [], lineno=node.lineno)))

    def _slot(self, node: nodes.Node) -> RenderedSlot:
        tree = nodes.Template([node], lineno=1)
        tree.set_environment(self._environment)
        uses = find_uses(self._environment, tree, self._source)
        return RenderedSlot(load(self._environment, tree, self._source), self._source, frozenset(uses.names))

    def _where(self, node: nodes.Node) -> str:
        return f"{self._source.label}, line {node.lineno}"


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbouring texts as one."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + piece.text)
        elif not isinstance(piece, Text) or piece.text:
            out.append(piece)
    return out
