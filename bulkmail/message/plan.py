"""A template cut into what is the same for everybody and what is not.

    "Hello {{ name }}!{% if vip %} Welcome back.{% endif %}"
        ->  Text("Hello "), Value("name"), Text("!"), Branch(Test("vip"), [Text(" Welcome back.")], [])

Only forms whose meaning is certain are taken apart: names, `default`, `safe` and `escape` on names, `if` by them, what
`flatten` puts in place. Whatever else is evaluated by Jinja2 itself as a `RenderedSlot`, so correctness never depends
on the cutting. A `set` is a slot that gives no text and leaves its name in a scope; macros and imports go into each
slot that uses them. A template that is not flat, or where a name may mean two things, is one slot as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

from jinja2 import Template, nodes
from markupsafe import escape

from bulkmail.errors import MessageError
from bulkmail.message.bindings import check_bindings, propagate
from bulkmail.message.fields import bound_by, find_uses
from bulkmail.message.flatten import NotFlat, bound_in, flatten, loads, origin
from bulkmail.message.template import RenderedSlot, Sandbox, Scope, Source, load, parse

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
    try:
        return _cut(environment, source, flatten(environment, tree, source), template)
    except (NotFlat, MessageError):  # a constant in the place of its name may be an error that nobody would reach
        slot = RenderedSlot(template, source, frozenset(uses.names), Scope(), whole=True)
        return Plan(source, [Rendered(slot)], template, uses.names, uses.required, whole=True)


def flat_tree(environment: Sandbox, source: Source, why: str) -> nodes.Template:
    """All of a template in one tree, includes in loops too, for those who change it.

    why     what needs it, for the error
    raises  MessageError  for a template that cannot be used or is not flat
    """
    tree = parse(environment, source)
    load(environment, source, source)
    find_uses(environment, tree, source)
    try:
        flat = flatten(environment, tree, source, deep=True)
        propagate(flat)
    except NotFlat as error:
        raise MessageError(f"{source.label}: {why} is not possible in a template with {error}") from None
    left = next(flat.find_all(nodes.Include), None)
    if left is not None:
        raise MessageError(
            f"{source.label}, line {left.lineno}: {why} needs to know what is included: a constant name, with context"
        )
    return flat


def plan_of(environment: Sandbox, source: Source, flat: nodes.Template) -> Plan:
    """The plan of a tree that was changed. raises  MessageError"""
    flat.set_environment(environment)
    template = load(environment, flat, source)
    try:
        return _cut(environment, source, flat, template)
    except (NotFlat, MessageError):
        uses = find_uses(environment, flat, source)
        slot = RenderedSlot(template, source, frozenset(uses.names), Scope(), whole=True)
        return Plan(source, [Rendered(slot)], template, uses.names, uses.required, whole=True)


def _cut(environment: Sandbox, source: Source, flat: nodes.Template, template: Template) -> Plan:
    uses = find_uses(environment, flat, source)
    propagate(flat)
    pieces = merged(_Cutter(environment, source, None).frame(flat.body))
    return Plan(source, pieces, template, uses.names, uses.required)


class _Cutter:
    """Cuts the statements of one scope.

    scope        None: nothing is bound, names are the recipient's
    bound        names that are not the recipient's here
    definitions  macros and imports that slots may need, in order
    """

    def __init__(
        self,
        environment: Sandbox,
        source: Source,
        scope: Scope | None,
        bound: frozenset[str] = frozenset(),
        definitions: Sequence[nodes.Node] = (),
    ) -> None:
        self._environment = environment
        self._source = source
        self._scope = scope
        self._html = bool(environment.autoescape)
        self._bound = bound
        self._definitions = list(definitions)

    def frame(self, body: Sequence[nodes.Node]) -> Iterator[Piece]:
        """The statements of the scope, all of them. raises  NotFlat"""
        names = check_bindings(body)
        if names:
            if any(names & loads(definition) for definition in self._definitions):
                raise NotFlat("a macro that may mean another name than the one in its own scope")
            if any(names & bound_by(definition) for definition in self._definitions):
                raise NotFlat("a macro with another meaning in a scope inside of its own")
            self._scope = Scope(self._scope)
            self._bound |= names
        yield from self.statements(body)

    def statements(self, body: Sequence[nodes.Node]) -> Iterator[Piece]:
        for node in body:
            outer = self._source
            self._source = origin(node) or outer
            yield from self._statement(node)
            self._source = outer

    def _statement(self, node: nodes.Node) -> Iterator[Piece]:
        if isinstance(node, nodes.Output):
            for expression in node.nodes:
                yield self._expression(expression)
        elif isinstance(node, nodes.If):
            yield from self._branch(node)
        elif isinstance(node, nodes.Scope):
            inner = _Cutter(self._environment, self._source, self._scope, self._bound, self._definitions)
            yield from inner.frame(node.body)
        elif isinstance(node, (nodes.Macro, nodes.Import, nodes.FromImport)):
            self._definitions.append(node)
        else:
            yield Rendered(self._slot(node))

    def _branch(self, node: nodes.If) -> Iterator[Piece]:
        known, outcome = self._constant(node.test)
        if known and outcome:
            yield from self.statements(node.body)
        elif node.elif_:
            first, *others = node.elif_
            nested = nodes.If(first.test, first.body, others, node.else_, lineno=first.lineno)
            orelse = self._branch(nested)
            if known:
                yield from orelse
            else:
                yield Branch(self._test(node.test), merged(self.statements(node.body)), merged(orelse))
        elif known:
            yield from self.statements(node.else_)
        else:
            yield Branch(self._test(node.test), merged(self.statements(node.body)), merged(self.statements(node.else_)))

    def _expression(self, node: nodes.Expr) -> Piece:
        if isinstance(node, nodes.TemplateData):
            return Text(node.data)
        known, value = self._constant(node)
        if known:
            try:
                value = self._environment.finalize(value)  # type: ignore[misc]
                return Text(str(escape(value) if self._html else value))
            except Exception:  # an undefined attribute of a constant: an error for each recipient, as Jinja2 has it
                pass
        return self._value(node) or Rendered(self._slot(nodes.Output([node], lineno=node.lineno)))

    def _constant(self, node: Any) -> tuple[bool, Any]:
        """(whether it is the same for everybody, what it is then)"""
        try:
            return True, node.as_const(nodes.EvalContext(self._environment))
        except Exception:  # Impossible, and whatever constants raise that do not go together
            return False, None

    def _value(self, node: nodes.Expr) -> Value | None:
        """A name, alone or with filters whose meaning is known here; None for everything else."""
        if self._is_field(node):
            return Value(node.name, self._where(node), escape=self._html)  # type: ignore[attr-defined]
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
        return not (node.name in _RESERVED or node.name in self._bound or node.name in self._environment.globals)

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
        needed = self._needed(node)
        if any(loads(definition) & {name for name, _ in bound_in([node])} for definition in needed):
            raise NotFlat("a macro that uses a name which is set by it")
        tree = nodes.Template([*needed, node], lineno=1)
        tree.set_environment(self._environment)
        names = find_uses(self._environment, tree, self._source).names - self._bound
        template = load(self._environment, tree, self._source)
        return RenderedSlot(template, self._source, frozenset(names), self._scope)

    def _needed(self, node: nodes.Node) -> list[nodes.Node]:
        """The macros and imports that it uses, and those that these use."""
        if isinstance(node, nodes.Include) or node.find(nodes.Include):
            return self._definitions  # who knows what is in it
        used: list[nodes.Node] = []
        wanted = loads(node)
        for definition in reversed(self._definitions * len(self._definitions)):
            if definition not in used and wanted & bound_by(definition):
                used.append(definition)
                wanted |= loads(definition)
        return [definition for definition in self._definitions if definition in used]

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
