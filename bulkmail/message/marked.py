"""A template as one text that functions on text can rework: each mark is a token in it, and becomes the mark again.

    <p>{% if vip %}Dear {{ name }}{% endif %}</p>   ->   <p>⟨0⟩Dear ⟨1⟩⟨2⟩</p>

A token is a number between characters that no text may hold (Unicode section 23.7). Tokens of statements must come out
as they went in, each once and in order; those of values may be moved, repeated or left out within their statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes
from markupsafe import escape

from bulkmail.errors import MessageError
from bulkmail.message.flatten import clone, origin
from bulkmail.message.template import Sandbox, Source

VALUE, STATEMENT, END = "\ufdd0", "\ufdd1", "\ufdd2"
token = re.compile(f"[{VALUE}{STATEMENT}](\\d+){END}")
value_token = re.compile(f"{VALUE}(\\d+){END}")
statement_token = re.compile(f"{STATEMENT}(\\d+){END}")
# What a text may not hold by itself.
reserved = re.compile(f"[{VALUE}{STATEMENT}{END}]")
lone_surrogate = re.compile("[\ud800-\udfff]").search

Rework = Callable[[str], str]


@dataclass(slots=True)
class _Mark:
    """node: of a value; home: the bodies that it stands in, outermost first; source: the file."""

    home: tuple[int, ...]
    source: Source
    line: int
    node: nodes.Expr | None = None
    kind: str = ""


@dataclass(slots=True)
class _Body:
    """Statements as they were written: each with the bodies in it, as (node, field, body)."""

    home: tuple[int, ...]
    statements: list[tuple[nodes.Node, list[tuple[Any, str, _Body]]]] = field(default_factory=list)


class Marks:
    """The marks of one template."""

    def __init__(self, environment: Sandbox, source: Source) -> None:
        self._environment = environment
        self.source = source
        self._marks: list[_Mark] = []
        self._bodies = 0

    def rework(self, body: list[nodes.Node], change: Rework, fragment: Rework | None = None) -> None:
        """Changes the texts of statements, in place.

        fragment  for what stands elsewhere than it is shown (macros, blocks that are set); default: `change`
        raises    MessageError  where a mark cannot stay what it is
        """
        for node in body:
            for inner in (node, *node.find_all(nodes.Node)):
                if isinstance(inner, (nodes.Macro, nodes.AssignBlock)):
                    inner.body = self._reworked(inner.body, fragment or change)
        body[:] = self._reworked(body, change)

    def value(self, node: nodes.Expr, home: tuple[int, ...] = (0,), source: Source | None = None) -> str:
        """The token of a value; equal ones in the same place have the same."""
        for number, mark in enumerate(self._marks):
            if mark.node is not None and mark.node == node and mark.home == home:
                return f"{VALUE}{number}{END}"
        self._marks.append(_Mark(home, source or self.source, node.lineno or 1, node))
        return f"{VALUE}{len(self._marks) - 1}{END}"

    def node(self, text: str) -> nodes.Expr:
        """The value that a token stands for."""
        node = self._of(text).node
        assert node is not None
        return node

    def parts(self, text: str, plain: Callable[[str], str]) -> list[nodes.Expr]:
        """A text with tokens of values only, as expressions; `plain` is done to what is between them."""
        pieces = re.split(f"({VALUE}\\d+{END})", text)
        return [
            self.node(piece) if piece.startswith(VALUE) else nodes.Const(plain(piece), lineno=1)
            for piece in pieces
            if piece
        ]

    def kind(self, text: str) -> str:
        """What the token of a statement is: see html_text."""
        return self._of(text).kind

    def home(self, text: str) -> tuple[int, ...]:
        """The innermost body whose values a text has."""
        homes = [self._marks[int(number)].home for number in value_token.findall(text)]
        return max(homes, key=len, default=(0,))

    def where(self, text: str) -> str:
        """The place of the first mark in a text, as far as it has one."""
        match = token.search(text)
        if match is None:
            return self.source.label
        mark = self._of(match[0])
        return f"{mark.source.label}, line {mark.line}"

    def _of(self, text: str) -> _Mark:
        match = token.fullmatch(text)
        assert match is not None
        return self._marks[int(match[1])]

    # ---- writing

    def _reworked(self, body: list[nodes.Node], change: Rework) -> list[nodes.Node]:
        written = self._new_body((0,))
        before = "".join(self._written(body, written, self.source))
        after = change(before)
        kept, expected = statement_token.findall(after), statement_token.findall(before)
        if kept != expected:
            number = next((a for a, b in zip(expected, kept, strict=False) if a != b), (expected + kept)[-1])
            mark = self._marks[int(number)]
            raise MessageError(
                f"{mark.source.label}, line {mark.line}: a statement ({{% %}}) cannot be kept in its place"
            )
        return _Reader(self._marks, after).body(written)

    def _new_body(self, home: tuple[int, ...]) -> _Body:
        self._bodies += 1
        return _Body((*home, self._bodies))

    def _written(self, body: list[nodes.Node], written: _Body, outer: Source) -> Iterator[str]:
        for node in body:
            source = origin(node) or outer
            if isinstance(node, nodes.Output):
                for expression in node.nodes:
                    yield self._expression(expression, written.home, source)
                continue
            inner = [(owner, name, self._new_body(written.home)) for owner, name in _bodies_of(node)]
            written.statements.append((node, inner))
            opens = "loop" if isinstance(node, nodes.For) else "if"
            for place, (owner, name, within) in enumerate(inner):
                yield self._statement(written.home, source, node.lineno, "else" if place else opens)
                yield from self._written(getattr(owner, name), within, source)
            yield self._statement(written.home, source, node.lineno, "end" if inner else "")

    def _expression(self, node: nodes.Expr, home: tuple[int, ...], source: Source) -> str:
        if isinstance(node, nodes.TemplateData):
            text = node.data
        elif isinstance(node, nodes.Const):
            value = self._environment.finalize(node.value)  # type: ignore[misc]
            text = str(escape(value) if self.source.html else value)
        else:
            return self.value(node, home, source)
        check_text(text, source.label)
        return text

    def _statement(self, home: tuple[int, ...], source: Source, line: int, kind: str) -> str:
        self._marks.append(_Mark(home, source, line, None, kind))
        return f"{STATEMENT}{len(self._marks) - 1}{END}"


class _Reader:
    """Statements out of a text whose tokens of statements come in the order in which they were written."""

    def __init__(self, marks: list[_Mark], text: str) -> None:
        self._marks = marks
        self._pieces = iter(re.split(f"([{VALUE}{STATEMENT}]\\d+{END})", text))

    def body(self, written: _Body) -> list[nodes.Node]:
        out = list(self._texts(written.home))
        for node, inner in written.statements:
            for owner, name, within in inner:
                setattr(owner, name, self.body(within))
            out.append(node)
            out += self._texts(written.home)
        return out

    def _texts(self, home: tuple[int, ...]) -> Iterator[nodes.Node]:
        """What is before the next token of a statement, and over that token."""
        for piece in self._pieces:
            if piece.startswith(STATEMENT):
                return
            if piece.startswith(VALUE):
                yield self._value(piece, home)
            elif piece:
                yield nodes.Output([nodes.TemplateData(piece, lineno=1)], lineno=1)

    def _value(self, piece: str, home: tuple[int, ...]) -> nodes.Node:
        mark = self._marks[int(piece[1:-1])]
        assert mark.node is not None
        if home[: len(mark.home)] != mark.home:
            where = f"{mark.source.label}, line {mark.line}"
            raise MessageError(f"{where}: the value is needed where its statement ({{% %}}) is not around it")
        output = nodes.Output([clone(mark.node)], lineno=mark.line)
        output.origin = mark.source  # type: ignore[attr-defined]
        return output


def check_text(text: str, where: str) -> None:
    """raises  MessageError"""
    found = reserved.search(text)
    if found:
        raise MessageError(f"{where}: U+{ord(found[0]):04X} is no character, no text may hold it")
    if lone_surrogate(text):
        raise MessageError(f"{where}: it is not valid Unicode: half of a surrogate pair is no character")


def _bodies_of(node: nodes.Node) -> Iterator[tuple[Any, str]]:
    """(node, field) of each list of statements that is shown where the statement stands."""
    if isinstance(node, (nodes.Macro, nodes.AssignBlock)):
        return
    for name in ("body", "elif_", "else_"):
        if name == "elif_" and isinstance(node, nodes.If):
            yield from ((other, "body") for other in node.elif_)
        elif isinstance(getattr(node, name, None), list):
            yield node, name
