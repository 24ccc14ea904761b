"""Jinja2, fenced in: the environments, what a template may do, and its errors as sentences.

Strict about undefined names, sandboxed, HTML-escaped in `html` only. Line breaks in values become "\\n", each value by
itself. Templates are the operator's own and are trusted with CPU time; recipients' values are data and are never parsed
as templates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound, nodes
from jinja2 import TemplateSyntaxError as SyntaxProblem
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bulkmail.errors import RECIPIENT, MessageError

# Characters that one rendered slot may have. A loop that runs away would otherwise take the memory of the machine; a
# message this long would be refused by nearly every server (Gmail: 25 MB with attachments, bodies clipped at 102 KB).
MAX_OUTPUT = 1 << 20
# Bits of an integer that a template may compute: enough for any amount of money, too few to stall on.
MAX_INTEGER_BITS = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """One template: the manifest's key under `message`, its text, the file it came from, whether it is HTML."""

    key: str
    text: str
    file: str | None = None
    html: bool = False

    @property
    def label(self) -> str:
        """How errors name it."""
        return self.file or self.key


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, and no products that fill the memory (the sandbox itself only bounds `range`)."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _product_size(operator, left, right) > MAX_OUTPUT:
            raise OverflowError(f"the result of {operator!r} would be too large")
        return super().call_binop(context, operator, left, right)


def _product_size(operator: str, left: Any, right: Any) -> int:
    """Characters, items, or (scaled to the same bound) bits of the result; 0 where it cannot be large."""
    scale = MAX_OUTPUT // MAX_INTEGER_BITS
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(right, 0) * scale
        return (left.bit_length() + right.bit_length()) * scale
    if operator == "*":
        for items, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(items, (str, list, tuple)):
                return len(items) * max(times, 0)
    return 0


class FolderLoader(FileSystemLoader):
    """Includes and parents come from below one folder, also when a symbolic link there points elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._root = folder.resolve()

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        text, path, fresh = super().get_source(environment, template)
        if not Path(path).resolve().is_relative_to(self._root):
            raise TemplateNotFound(template, f"{template!r} is outside the manifest's folder")
        return text, path, fresh


def make_environment(folder: Path | None, *, html: bool) -> Sandbox:
    """An environment for one kind of part; templates of others may be included from `folder` only."""
    environment = Sandbox(
        undefined=StrictUndefined,
        autoescape=html,
        finalize=_plain_newlines,
        keep_trailing_newline=True,
        auto_reload=False,
        loader=FolderLoader(folder) if folder is not None else None,
    )
    del environment.globals["lipsum"]  # random text: no two composings of a message would agree
    return environment


def _plain_newlines(value: Any) -> Any:
    if isinstance(value, str) and "\r" in value:
        return value.replace("\r\n", "\n").replace("\r", "\n")
    return value


def parse(environment: Environment, source: Source) -> nodes.Template:
    """raises  MessageError  naming file and line"""
    try:
        return environment.parse(source.text, source.key, source.file)
    except SyntaxProblem as error:
        raise syntax_error(error, source) from None


def load(environment: Environment, source: Source | nodes.Template, label: Source) -> Template:
    """A template ready to render, from text or from a part of its syntax tree.

    raises  MessageError  naming file and line (unknown filters and tests are found only here)
    """
    try:
        return environment.from_string(source.text if isinstance(source, Source) else source)
    except SyntaxProblem as error:
        raise syntax_error(error, label) from None


def syntax_error(error: SyntaxProblem, source: Source) -> MessageError:
    # A problem in an included file has that file's name.
    name = error.name if error.name not in (None, source.key) else source.label
    return MessageError(f"{name}, line {error.lineno}: {error.message}")


class Row:
    """One recipient's names for Jinja2; a context is made at most once for HTML and once for text."""

    __slots__ = ("_contexts", "values")

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self._contexts: dict[Environment, Context] = {}

    def context(self, template: Template, *, own: bool) -> Context:
        found = None if own else self._contexts.get(template.environment)
        if found is None:
            found = template.new_context({**template.environment.globals, **self.values}, shared=True)
            if not own:
                self._contexts[template.environment] = found
        return found


class RenderedSlot:
    """A piece of a template that Jinja2 evaluates: slot(row) -> text, escaped where the part is HTML.

    whole   it is the whole template, which may assign names and so gets a context of its own; it ends in a newline
    names   the recipient fields it uses

    raises  MessageError (scope recipient)  for whatever goes wrong inside, with file, line and Jinja2's reason
    """

    __slots__ = ("names", "source", "template", "whole")

    def __init__(self, template: Template, source: Source, names: frozenset[str], whole: bool = False) -> None:
        self.template = template
        self.source = source
        self.names = names
        self.whole = whole

    def __call__(self, row: Row) -> str:
        try:
            text = self._render(row)
        except (MessageError, MemoryError):
            raise
        except Exception as error:  # sandboxed code may raise anything
            raise render_error(error, self.source) from error
        return text if not self.whole or text.endswith("\n") else text + "\n"

    def _render(self, row: Row) -> str:
        pieces = []
        size = 0
        for piece in self.template.root_render_func(row.context(self.template, own=self.whole)):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise OverflowError(f"more than {MAX_OUTPUT} characters come out of it")
            pieces.append(piece)
        return "".join(pieces)

    def __repr__(self) -> str:
        return f"RenderedSlot({self.source.label}, {sorted(self.names)})"


def render_error(error: Exception, source: Source) -> MessageError:
    """What went wrong while rendering, as one sentence with file and line."""
    name, line = _place(error.__traceback__)
    reason = (error.message if isinstance(error, TemplateError) else str(error)) or type(error).__name__
    where = name if name not in (None, source.key, "<template>") else source.label
    return MessageError(f"{where}{f', line {line}' if line else ''}: {reason}", scope=RECIPIENT)


def _place(traceback: TracebackType | None) -> tuple[str | None, int | None]:
    """Template name and line of the innermost frame that is a template's."""
    name = line = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            name, line = template.name, template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return name, line
