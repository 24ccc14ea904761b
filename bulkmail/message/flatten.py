"""Parents, blocks and includes put in place: one syntax tree where a template is spread over files.

    base.html    <html>{% block main %}{% endblock %}{% include "foot.html" %}
    news.html    {% extends "base.html" %}{% block main %}Hello{% endblock %}
        ->  Output("<html>"), Scope(Output("Hello")), Scope(<the statements of foot.html>)

Names must be constants and what a statement means must not depend on where it stands; otherwise there is no flat tree,
or an include stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from jinja2 import TemplateError, nodes

from bulkmail.message.fields import bound_by, constant_names
from bulkmail.message.template import Sandbox, Source

# Statements of a flat tree: blocks and includes that stand twice, in files that stand twice, grow without bound.
MAX_STATEMENTS = 20_000
# Statements that bind names in the scope that they stand in.
BINDING = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.Import, nodes.FromImport)
N = TypeVar("N", bound=nodes.Node)


class NotFlat(Exception):
    """A template whose pieces mean what they mean only as a whole: Jinja2 has to render all of it."""


class TooLong(NotFlat):
    """Not even in parts: what is put in place grows without bound."""


def flatten(environment: Sandbox, tree: nodes.Template, source: Source, *, deep: bool = False) -> nodes.Template:
    """A new tree; `tree` stays as it is.

    deep    includes inside of loops and macros too
    raises  NotFlat
    """
    body = _Flattener(environment, source, (source.file,), deep, _Files(environment)).whole(tree)
    flat = nodes.Template(body, lineno=1)
    flat.set_environment(environment)
    return flat


def origin(node: nodes.Node) -> Source | None:
    """The template that a statement of a flat tree was written in."""
    found: Source | None = getattr(node, "origin", None)
    return found


def clone(node: N) -> N:
    """A copy down to the leaves."""
    made: N = object.__new__(type(node))
    made.__dict__.update(node.__dict__)
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(made, name, clone(value))
        elif isinstance(value, list):
            setattr(made, name, [clone(item) if isinstance(item, nodes.Node) else item for item in value])
    return made


def bound_in(body: Iterable[nodes.Node]) -> Iterator[tuple[str, nodes.Node]]:
    """(name, statement) for the names that statements bind in their own scope, in order."""
    for node in body:
        if isinstance(node, nodes.If):
            yield from bound_in([*node.body, *node.elif_, *node.else_])
        elif isinstance(node, nodes.ScopedEvalContextModifier):
            yield from bound_in(node.body)
        else:
            yield from ((name, node) for name in sorted(bound_by(node)))


def loads(node: nodes.Node) -> set[str]:
    names = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
    return {name.name for name in names if name.ctx == "load"}


class _Files:
    """Templates that were read, each once; how many statements have been put in place."""

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment
        self._read: dict[str, tuple[nodes.Template, str]] = {}
        self._statements = 0

    def read(self, name: str) -> tuple[nodes.Template, str]:
        if name not in self._read:
            loader = self._environment.loader
            assert loader is not None
            text, path, _ = loader.get_source(self._environment, name)
            self._read[name] = self._environment.parse(text, name, path), text
        return self._read[name]

    def count(self, more: int) -> None:
        self._statements += more
        if self._statements > MAX_STATEMENTS:
            raise TooLong("too much of it")


class _Flattener:
    """One template and its parents.

    files   those that are being put in place, outermost first: none is put into itself
    known   what has been read so far
    blocks  bodies by block name, the one that counts first; each with its template
    """

    def __init__(
        self, environment: Sandbox, source: Source, files: tuple[str | None, ...], deep: bool, known: _Files
    ) -> None:
        self._environment = environment
        self._known = known
        self._source = source
        self._files = files
        self._deep = deep
        self._blocks: dict[str, list[tuple[nodes.Block, Source]]] = {}
        self._bound: set[str] = set()  # by the children, in the scope that they share with their parents
        self._open: list[tuple[str, int]] = []  # blocks that are being put in place, and which of their bodies

    def whole(self, tree: nodes.Template) -> list[nodes.Node]:
        body = self._template(tree)
        if any(node.name in ("self", "super") for part in body for node in _names(part)):
            raise NotFlat("self or super() in an expression")
        return body

    def _template(self, tree: nodes.Template) -> list[nodes.Node]:
        """Its statements, or those of its parent with its blocks."""
        for block in tree.find_all(nodes.Block):
            self._blocks.setdefault(block.name, []).append((block, self._source))
        at = next((i for i, node in enumerate(tree.body) if isinstance(node, nodes.Extends)), None)
        if at is None:
            if tree.find(nodes.Extends):
                raise NotFlat("extends under a condition")
            self._check_rebound(tree)
            return self._statements(tree.body)
        self._check_rebound(tree)
        if tree.find(nodes.Extends) is not tree.body[at] or sum(1 for _ in tree.find_all(nodes.Extends)) > 1:
            raise NotFlat("several extends")
        before = tree.body[:at]
        if not all(isinstance(node, (nodes.Output, *BINDING)) and "self" not in loads(node) for node in before):
            raise NotFlat("statements before extends")
        out = self._statements([*before, *_kept(tree.body[at + 1 :])])
        self._bound |= {name for node in out for name, _ in bound_in([node])}
        # What a parent binds it binds in the same scope.
        parent, self._source = self._load(tree.body[at].template)  # type: ignore[attr-defined]
        self._files = (*self._files, self._source.file)
        return out + self._template(parent)

    def _check_rebound(self, parent: nodes.Template) -> None:
        """A name that a child binds and a parent binds too has two values: which one is meant depends on who asks."""
        stored = {name.name for name in parent.find_all(nodes.Name) if name.ctx != "load"}
        stored.update(name for node in parent.find_all(BINDING) for name in bound_by(node))
        if stored & self._bound:
            raise NotFlat("a name that a template and its parent bind")

    def _load(self, template: nodes.Expr) -> tuple[nodes.Template, Source]:
        for name in constant_names(template):
            if name in self._files:
                raise NotFlat("a template inside of itself")
            try:
                tree, text = self._known.read(name)
            except TemplateError:
                continue
            return tree, replace(self._source, text=text, file=name)
        raise NotFlat("a name that is not known yet")

    def _statements(self, body: Sequence[nodes.Node]) -> list[nodes.Node]:
        made = [done for node in body for done in self._statement(node)]
        self._known.count(len(made))
        for node in made:
            if origin(node) is None:
                node.origin = self._source  # type: ignore[attr-defined]
        return made

    def _statement(self, node: nodes.Node) -> Iterator[nodes.Node]:
        if isinstance(node, nodes.Output):
            yield from self._output(node)
        elif isinstance(node, nodes.If):
            yield self._condition(node)
        elif isinstance(node, nodes.Block):
            yield self._block(node.name, 0)
        elif isinstance(node, nodes.Include):
            yield from self._include(node)
        elif any(True for _ in node.find_all((nodes.Block, nodes.Extends))):
            raise NotFlat("a block inside of another statement")
        else:
            yield self._inside(node) if self._deep else clone(node)

    def _condition(self, node: nodes.If) -> nodes.If:
        others = [self._condition(other) for other in node.elif_]
        body, orelse = self._statements(node.body), self._statements(node.else_)
        return nodes.If(clone(node.test), body, others, orelse, lineno=node.lineno)

    def _output(self, node: nodes.Output) -> Iterator[nodes.Node]:
        """`super()` and `self.block()` that stand alone are the blocks themselves."""
        for expression in node.nodes:
            name = _own_block(expression)
            if name is not None:
                yield self._block(name, 0)
            elif self._open and _is_super(expression):
                name, depth = self._open[-1]
                yield self._block(name, depth + 1)
            else:
                yield nodes.Output([clone(expression)], lineno=expression.lineno)

    def _block(self, name: str, depth: int) -> nodes.Scope:
        bodies = self._blocks.get(name, [])
        if depth >= len(bodies) or (name, depth) in self._open:
            raise NotFlat("a block that is not there, or inside of itself")
        block, source = bodies[depth]
        if block.required and len(bodies) < 2:
            raise NotFlat("a block that must be given")
        nested = block.find(nodes.Block) is not None or loads(block) & {"super", "self"}
        if nested and any(True for _ in bound_in(block.body)):
            raise NotFlat("a block whose names are hidden from the blocks in it")
        outer, self._source = self._source, source
        self._open.append((name, depth))
        body = self._statements(block.body)
        self._open.pop()
        self._source = outer
        return nodes.Scope(body, lineno=block.lineno)

    def _include(self, node: nodes.Include) -> Iterator[nodes.Node]:
        try:
            if not node.with_context:
                raise NotFlat("an include that sees no names")
            tree, source = self._load(node.template)
            inner = _Flattener(self._environment, source, (*self._files, source.file), self._deep, self._known)
            yield nodes.Scope(inner.whole(tree), lineno=node.lineno)
        except TooLong:
            raise
        except NotFlat:
            if not (node.ignore_missing and constant_names(node.template) and self._nowhere(node.template)):
                yield clone(node)

    def _nowhere(self, template: nodes.Expr) -> bool:
        loader = self._environment.loader
        return loader is not None and not set(constant_names(template)) & set(loader.list_templates())

    def _inside(self, node: nodes.Node) -> nodes.Node:
        """A copy of a loop, macro and the like, with the includes in it put in place."""
        made: Any = object.__new__(type(node))
        made.__dict__.update(node.__dict__)
        for name, value in node.iter_fields():
            if isinstance(value, list) and name in ("body", "else_"):
                setattr(made, name, [done for item in value for done in self._inner(item)])
            elif isinstance(value, list):
                setattr(made, name, [clone(item) if isinstance(item, nodes.Node) else item for item in value])
            elif isinstance(value, nodes.Node):
                setattr(made, name, clone(value))
        return made  # type: ignore[no-any-return]

    def _inner(self, node: nodes.Node) -> Iterator[nodes.Node]:
        if isinstance(node, nodes.Include):
            # Jinja2 shows `loop` to an included template or not, by whether the loop's own body uses it.
            made = list(self._include(node))
            yield from [clone(node)] if any("loop" in loads(part) for part in made) else made
        elif isinstance(node, nodes.Stmt) and not isinstance(node, nodes.Output):
            yield self._inside(node)
        else:
            yield clone(node)


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    if isinstance(node, nodes.Name):
        yield node
    yield from node.find_all(nodes.Name)


def _is_bare_call(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)


def _is_super(node: nodes.Node) -> bool:
    """Whether it is `super()`."""
    return _is_bare_call(node) and isinstance(node.node, nodes.Name) and node.node.name == "super"  # type: ignore[attr-defined]


def _own_block(node: nodes.Node) -> str | None:
    """The name in `self.name()`."""
    if not isinstance(node, nodes.Call) or not _is_bare_call(node):
        return None
    inner = node.node
    if isinstance(inner, nodes.Getattr) and isinstance(inner.node, nodes.Name) and inner.node.name == "self":
        return inner.attr
    return None


def _kept(body: Sequence[nodes.Node]) -> list[nodes.Node]:
    """What a child template does outside of its blocks: it may bind names, and its text is dropped."""
    kept = [node for node in body if not isinstance(node, (nodes.Output, nodes.Block))]
    if not all(isinstance(node, BINDING) for node in kept):
        raise NotFlat("statements besides blocks")
    return [clone(node) for node in kept]
