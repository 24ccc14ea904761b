"""Which names a template takes from its recipient, and which of them it can do without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2 import TemplateSyntaxError as SyntaxProblem

from bulkmail.errors import MessageError
from bulkmail.message import localised
from bulkmail.message.template import Source

NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class Uses:
    """names: all that are looked up in the recipient's values; required: those that must exist, with a line number."""

    names: set[str] = field(default_factory=set)
    required: dict[str, int] = field(default_factory=dict)


def find_uses(environment: Environment, tree: nodes.Template, source: Source) -> Uses:
    """The names of a template and of the templates that it includes or extends.

    A name that is read only under `is defined`, `default()` or such a condition is not required.
    raises  MessageError  for an included template that is missing or has a syntax error
    """
    walk = _Walk(environment, source)
    walk.block([tree], NONE)
    names = walk.undeclared - set(environment.globals)
    return Uses(names, {name: line for name, line in walk.bare.items() if name in names})


class _Walk:
    """Visits each node with the set of names known to exist there: bound by the template, or guarded by a condition.

    bare        name -> line, for names read where nothing says that they exist
    undeclared  names that Jinja2 itself would look up in the context
    """

    def __init__(self, environment: Environment, source: Source) -> None:
        self._environment = environment
        self._source = source
        self._files: set[tuple[str, frozenset[str], bool]] = set()
        self.bare: dict[str, int] = {}
        self.undeclared: set[str] = set()

    def block(self, body: Iterable[nodes.Node], known: frozenset[str]) -> None:
        """A sequence of nodes, where what one assigns is known to those behind it."""
        for node in body:
            self.visit(node, known)
            known |= bound_by(node)

    def visit(self, node: nodes.Node, known: frozenset[str]) -> None:
        method = getattr(self, "visit_" + type(node).__name__.lower(), None)
        if method is not None:
            method(node, known)
        else:
            self.block(node.iter_child_nodes(), known)

    def visit_template(self, node: nodes.Template, known: frozenset[str]) -> None:
        tracker = meta.TrackingCodeGenerator(self._environment)
        tracker.optimizer = None  # works constants out, and raises what they raise
        tracker.visit(node)
        self.undeclared |= tracker.undeclared_identifiers
        self.block(node.body, known)

    def visit_name(self, node: nodes.Name, known: frozenset[str]) -> None:
        if node.ctx == "load" and node.name not in known:
            self.bare.setdefault(node.name, node.lineno)

    def visit_test(self, node: nodes.Test, known: frozenset[str]) -> None:
        self._operand(node, known, node.name in ("defined", "undefined"))

    def visit_filter(self, node: nodes.Filter, known: frozenset[str]) -> None:
        if node.name in localised.NAMES:
            try:
                localised.babel()
            except MessageError as error:
                raise MessageError(f"{self._source.label}, line {node.lineno}, {node.name!r}: {error}") from None
        self._operand(node, known, node.name in ("default", "d"))

    def _operand(self, node: nodes.Filter | nodes.Test, known: frozenset[str], tolerant: bool) -> None:
        skipped = node.node if tolerant and isinstance(node.node, nodes.Name) else None
        self.block((child for child in node.iter_child_nodes() if child is not skipped), known)

    def visit_and(self, node: nodes.And, known: frozenset[str]) -> None:
        self.visit(node.left, known)
        self.visit(node.right, known | _defined(node.left, True))

    def visit_or(self, node: nodes.Or, known: frozenset[str]) -> None:
        self.visit(node.left, known)
        self.visit(node.right, known | _defined(node.left, False))

    def visit_condexpr(self, node: nodes.CondExpr, known: frozenset[str]) -> None:
        self.visit(node.test, known)
        self.visit(node.expr1, known | _defined(node.test, True))
        if node.expr2 is not None:
            self.visit(node.expr2, known | _defined(node.test, False))

    def visit_if(self, node: nodes.If, known: frozenset[str]) -> None:
        for branch in (node, *node.elif_):
            self.visit(branch.test, known)
            self.block(branch.body, known | _defined(branch.test, True))
            known |= _defined(branch.test, False)
        self.block(node.else_, known)

    def visit_for(self, node: nodes.For, known: frozenset[str]) -> None:
        self.visit(node.iter, known)
        inside = known | stored(node.target) | {"loop"}
        if node.test is not None:
            self.visit(node.test, inside)
        self.block(node.body, inside)
        self.block(node.else_, known)

    def visit_macro(self, node: nodes.Macro | nodes.CallBlock, known: frozenset[str]) -> None:
        for default in node.defaults:
            self.visit(default, known)
        if isinstance(node, nodes.CallBlock):
            self.visit(node.call, known)
        self.block(node.body, known | {arg.name for arg in node.args} | {"caller", "varargs", "kwargs"})

    visit_callblock = visit_macro

    def visit_with(self, node: nodes.With, known: frozenset[str]) -> None:
        for value in node.values:
            self.visit(value, known)
        self.block(node.body, known.union(*map(stored, node.targets)))

    def visit_include(self, node: nodes.Include | nodes.Import | nodes.FromImport, known: frozenset[str]) -> None:
        self.visit(node.template, known)
        names = constant_names(node.template)
        may_be_missing = getattr(node, "ignore_missing", False) or len(names) > 1
        for name in names:
            self._file(name, known, may_be_missing, node.with_context)

    visit_import = visit_fromimport = visit_include

    def visit_extends(self, node: nodes.Extends, known: frozenset[str]) -> None:
        self.visit(node.template, known)
        for name in constant_names(node.template):
            self._file(name, known, False)

    def _file(self, name: str, known: frozenset[str], may_be_missing: bool, seen: bool = True) -> None:
        """seen: it sees the recipient's names; else it is only looked at for errors."""
        if (name, known, seen) in self._files:
            return
        self._files.add((name, known, seen))
        try:
            if self._environment.loader is None:
                raise MessageError(f"{self._source.label}: {name!r} cannot be included, there is no folder to look in")
            text, path, _ = self._environment.loader.get_source(self._environment, name)
            tree = self._environment.parse(text, name, path)
            if seen:
                self.visit(tree, known)
        except SyntaxProblem as error:
            raise MessageError(f"{name}, line {error.lineno}: {error.message}") from None
        except TemplateError as error:
            if not may_be_missing:
                reason = f"{error.message or name} is not in the manifest's folder"
                raise MessageError(f"{self._source.label}: {reason}") from None


def _defined(test: nodes.Node, outcome: bool) -> frozenset[str]:
    """The names that exist for certain where `test` came out as `outcome`."""
    if isinstance(test, nodes.Not):
        return _defined(test.node, not outcome)
    if isinstance(test, (nodes.And, nodes.Or)):
        left, right = _defined(test.left, outcome), _defined(test.right, outcome)
        return left | right if isinstance(test, nodes.And) == outcome else left & right
    wanted = "defined" if outcome else "undefined"
    if isinstance(test, nodes.Test) and test.name == wanted and isinstance(test.node, nodes.Name):
        return frozenset({test.node.name})
    return NONE


def bound_by(node: nodes.Node) -> frozenset[str]:
    """The names that a statement leaves behind in its scope."""
    if isinstance(node, (nodes.Assign, nodes.AssignBlock)):
        return stored(node.target)
    if isinstance(node, nodes.Macro):
        return frozenset({node.name})
    if isinstance(node, nodes.Import):
        return frozenset({node.target})
    if isinstance(node, nodes.FromImport):
        return frozenset(name if isinstance(name, str) else name[1] for name in node.names)
    return NONE


def stored(target: nodes.Node) -> frozenset[str]:
    names = [target] if isinstance(target, nodes.Name) else target.find_all(nodes.Name)
    return frozenset(name.name for name in names)


def constant_names(template: nodes.Expr) -> list[str]:
    """The template names that an include states; those that are computed cannot be known before rendering."""
    if isinstance(template, nodes.Const):
        value = template.value
        return [value] if isinstance(value, str) else [name for name in value if isinstance(name, str)]
    if isinstance(template, (nodes.List, nodes.Tuple)):
        return [item.value for item in template.items if isinstance(item, nodes.Const)]
    return []
