"""Names that a template binds: where their meaning is certain, and those that are another spelling of something simple.

{% set color = "#036" %}{% set first = name|default("friend") %}<b style="color: {{ color }}">{{ first }}
    ->  <b style="color: #036">{{ name|default("friend") }}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jinja2 import nodes

from bulkmail.message.fields import bound_by
from bulkmail.message.flatten import BINDING, NotFlat, bound_in, clone, loads, origin
from bulkmail.message.template import Source

# Statements that see names by other means than their own text.
_OPAQUE = (nodes.Include, nodes.Extends, nodes.Block, nodes.EvalContextModifier)


def check_bindings(body: Sequence[nodes.Node]) -> frozenset[str]:
    """The names that statements bind in their own scope.

    raises  NotFlat  where one is used before it is bound (a loop or macro would see another than a statement does),
            where a macro is defined under a condition or anew, or where an import sees names
    """
    names = frozenset(name for name, _ in bound_in(body))
    if not names:
        return names
    _check_definitions(body)
    if any(True for _ in _seeing_themselves(body)):
        raise NotFlat("a name that is used where it is set anew")
    pending = set(names)
    # A template sees as unset what it will set itself, even where the one that extends it has set it.
    own: dict[Source | None, set[str]] = {}
    for name, node in bound_in(body):
        own.setdefault(origin(node), set()).add(name)
    for node in body:
        bound = {name for name, _ in bound_in([node])}
        here = own.get(origin(node), set())
        early = loads(node) & (pending | here)
        if early and not (isinstance(node, nodes.Assign) and early <= bound):
            raise NotFlat("a name that is used before it is bound")
        pending -= bound
        here -= bound
    return names


def _seeing_themselves(body: Iterable[nodes.Node]) -> Iterable[nodes.Node]:
    """Statements with bodies that bind a name which these bodies use: alone, they would not see what it was before."""
    for node in body:
        if isinstance(node, nodes.If):
            yield from _seeing_themselves([*node.body, *node.elif_, *node.else_])
        elif not isinstance(node, nodes.Assign) and loads(node) & {name for name, _ in bound_in([node])}:
            yield node


def _check_definitions(body: Sequence[nodes.Node]) -> None:
    defined = {id(node) for node in body if isinstance(node, (nodes.Macro, nodes.Import, nodes.FromImport))}
    times = Counter(name for name, _ in bound_in(body))
    for name, node in bound_in(body):
        if isinstance(node, (nodes.Assign, nodes.AssignBlock)):
            continue
        if id(node) not in defined or times[name] > 1:
            raise NotFlat("a macro that may be another one")
        if not isinstance(node, nodes.Macro) and node.with_context:  # type: ignore[attr-defined]
            raise NotFlat("an import that sees names")


def propagate(tree: nodes.Template) -> None:
    """Puts constants and other names in the place of names that are bound once, to just these."""
    stores = Counter(name.name for name in tree.find_all(nodes.Name) if name.ctx != "load")
    stores.update(
        name for node in tree.find_all(BINDING) if not isinstance(node, nodes.Assign) for name in bound_by(node)
    )
    if not any(True for _ in tree.find_all(_OPAQUE)):
        _propagate(tree, tree, stores)


def _propagate(tree: nodes.Node, parent: nodes.Node, stores: Counter[str]) -> None:
    body: list[nodes.Node] = parent.body  # type: ignore[attr-defined]
    for node in list(body):
        if isinstance(node, nodes.Scope):
            _propagate(tree, node, stores)
        elif _is_spelling(node, stores):
            later = body[next(i for i, other in enumerate(body) if other is node) + 1 :]
            name = node.target.name  # type: ignore[attr-defined]
            # All uses are behind it in its own scope, or it stays.
            if _count(later, name) == _count([tree], name):
                body[:] = [other for other in body if other is not node]
                for other in later:
                    _replace(other, name, node.node)  # type: ignore[attr-defined]


def _is_spelling(node: nodes.Node, stores: Counter[str]) -> bool:
    """Whether it binds a name, once in the template, to a constant or to a name that nothing binds."""
    if not isinstance(node, nodes.Assign) or not isinstance(node.target, nodes.Name) or stores[node.target.name] != 1:
        return False
    value = node.node
    if isinstance(value, nodes.Filter) and value.name in ("default", "d") and value.node is not None:
        if not all(isinstance(item, nodes.Const) for item in (*value.args, *(pair.value for pair in value.kwargs))):
            return False
        if value.dyn_args or value.dyn_kwargs or not isinstance(value.node, nodes.Name):
            return False
        value = value.node
    if isinstance(value, nodes.Name):
        return not stores[value.name] and value.name not in ("self", "super", "loop", "caller", "varargs", "kwargs")
    return isinstance(value, nodes.Const)


def _count(body: Iterable[nodes.Node], name: str) -> int:
    return sum(1 for node in body for found in node.find_all(nodes.Name) if found.ctx == "load" and found.name == name)


def _replace(node: nodes.Node, name: str, value: nodes.Expr) -> None:
    for field, item in node.iter_fields():
        if isinstance(item, list):
            setattr(node, field, [_replaced(part, name, value) for part in item])
        elif isinstance(item, nodes.Node):
            setattr(node, field, _replaced(item, name, value))


def _replaced(item: object, name: str, value: nodes.Expr) -> object:
    if isinstance(item, nodes.Name) and item.ctx == "load" and item.name == name:
        made = clone(value)
        for part in (made, *made.find_all(nodes.Node)):
            part.lineno = item.lineno
        return made
    if isinstance(item, nodes.Node):
        _replace(item, name, value)
    return item
