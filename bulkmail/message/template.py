"""Jinja2, fenced in: the environments, what a template may do, and its errors as sentences.

Strict about undefined names, sandboxed, HTML-escaped in `html` only. Line breaks in values become "\\n", each value by
itself. Recipients' values are data and are never parsed as templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jinja2 import (
    BaseLoader,
    Environment,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    nodes,
)
from jinja2 import TemplateSyntaxError as SyntaxProblem
from jinja2.compiler import CodeGenerator, Frame
from jinja2.loaders import split_template_path
from jinja2.parser import Parser
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bulkmail.errors import RECIPIENT, MessageError
from bulkmail.message import limits, localised
from bulkmail.records import Record

# Bytes of an included template or parent, as of those that a manifest names.
MAX_INCLUDED = 1 << 24


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Source(Record):
    """One template: the manifest's key under `message`, its text, the file it came from, whether it is HTML."""

    key: str
    text: str
    file: str | None = None
    html: bool = False

    @property
    def label(self) -> str:
        """How errors name it."""
        return self.file or self.key


class _Code(CodeGenerator):
    """Jinja2's compiler, with a step in every turn of a loop and joins that have a bound."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        if frame.loop_frame or frame.rootlevel:
            self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        test = node.test
        if test is not None:
            # What the test leaves out are turns as well.
            node.test = nodes.And(nodes.EnvironmentAttribute("stepped"), test, lineno=test.lineno)
        try:
            super().visit_For(node, frame)
        finally:
            node.test = test

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        volatile, escaped = frame.eval_ctx.volatile, frame.eval_ctx.autoescape
        self.write(f"environment.joined({'context.eval_ctx.autoescape' if volatile else escaped}, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, and limits on what a template may do (the sandbox itself only bounds `range`)."""

    code_generator_class = _Code
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_finalized, **options)
        del self.globals["lipsum"]  # random text: no two composings of a message would agree
        filters, self.filters = self.filters, {}
        self.add_filters(filters)
        tests: dict[str, Any] = self.tests
        self.tests = {name: limits.bounded_test(test) for name, test in tests.items()}

    def add_filters(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        for name, function in filters.items():
            first = 1 if hasattr(function, "jinja_pass_arg") else 0
            self.filters[name] = limits.bounded_filter(name, function, first)

    # ---- what compiled templates call

    def step(self) -> None:
        limits.step()

    @property
    def stepped(self) -> bool:
        limits.step()
        return True

    def joined(self, markup: bool, values: tuple[Any, ...]) -> str:
        """`a ~ b`."""
        limits.step()
        limits.refuse(limits.weight(*values))
        return limits.charged(markup_join(values) if markup else str_join(values))

    def concat(self, pieces: Iterable[str]) -> str:
        """What a macro or a block gives as one text."""
        return _concatenated(pieces, limits.MAX_OUTPUT)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        limits.step()
        limits.refuse(limits.operation_size(operator, left, right), f"a result of {operator!r}")
        return limits.charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        args = limits.bounded_call(__obj, args, kwargs)
        return limits.charged(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            size = limits.format_size(str(value.__self__), (args, kwargs))
            limits.refuse(size, "a result of the method 'format'")
            return wrapped(*args, **kwargs)

        return bounded


def _finalized(value: Any) -> Any:
    """What `{{ }}` writes: line breaks are "\\n"."""
    if isinstance(value, str):
        limits.charged(value)
        return value.replace("\r\n", "\n").replace("\r", "\n") if "\r" in value else value
    limits.check_weight((value,))
    return value


def _concatenated(pieces: Iterable[str], most: int) -> str:
    kept = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise limits.LimitReached(f"more than {most} characters come out of it")
        kept.append(piece)
    return "".join(kept)


class FolderLoader(FileSystemLoader):
    """Includes and parents come from below one folder, also when a symbolic link there points elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._root = folder.resolve()

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        text, path = self.read(template)
        return text, path, lambda: True

    def read(self, template: str) -> tuple[str, str]:
        """(text, path). raises  TemplateNotFound, MessageError"""
        path = self._root.joinpath(*split_template_path(template)).resolve()
        if not path.is_relative_to(self._root):
            raise TemplateNotFound(template, f"{template!r} is outside the manifest's folder")
        if not path.is_file():  # a device or pipe would be read without end
            raise TemplateNotFound(template)
        return read_text(path, template, MAX_INCLUDED), str(path)


def load_sheet(loader: BaseLoader | None, name: str, label: str) -> str:
    """The text of a style sheet from the loader's folder. raises  MessageError"""
    if not isinstance(loader, FolderLoader):
        raise MessageError(f"{label}: the style sheet {name!r} cannot be read, there is no folder to look in")
    try:
        return loader.read(name.partition("?")[0])[0]
    except TemplateNotFound as error:
        reason = error.message if error.message != error.name else "it is not in the folder"
        raise MessageError(f"{label}: the style sheet {name!r} cannot be read, {reason}") from None


def read_text(path: Path, name: str, most: int) -> str:
    """raises  MessageError  for a file that is too long, not UTF-8, cannot be read or has a NUL"""
    try:
        with open(path, "rb") as stream:
            data = stream.read(most + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise MessageError(f"{name}: the file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MessageError(f"{name}, line {line}: not valid UTF-8 (byte 0x{data[error.start]:02x})") from None
    if len(data) > most:
        raise MessageError(f"{name}: the file {path} has more than {most} bytes")
    if "\0" in text:
        raise MessageError(
            f"{name}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL, which no mail may hold"
        )
    return text


def make_environment(folder: Path | None, *, html: bool, locale: str | None = None) -> Sandbox:
    """An environment for one kind of part; templates of others may be included from `folder` only.

    locale  of dates, numbers and amounts
    """
    environment = Sandbox(
        undefined=StrictUndefined,
        autoescape=html,
        keep_trailing_newline=True,
        auto_reload=False,
        loader=FolderLoader(folder) if folder is not None else None,
    )
    environment.add_filters(localised.filters(locale))
    return environment


def parse(environment: Environment, source: Source) -> nodes.Template:
    """raises  MessageError  naming file and line"""
    with _compiling(source):
        return environment.parse(source.text, source.key, source.file)


def parse_condition(environment: Environment, source: Source) -> nodes.Template:
    """An expression as a template, which writes something where it is true. raises  MessageError"""
    with _compiling(source):
        parser = Parser(environment, source.text, source.key, state="variable")
        test = parser.parse_expression()
        if not parser.stream.eos:
            parser.fail(f"one expression is expected, {parser.stream.current.value!r} is too much")
        _check_names(environment, parser, test)
        yes = nodes.Output([nodes.TemplateData("1")], lineno=test.lineno)
        tree = nodes.Template([nodes.If(test, [yes], [], [], lineno=test.lineno)], lineno=1)
    tree.set_environment(environment)
    return tree


def _check_names(environment: Environment, parser: Parser, test: nodes.Expr) -> None:
    """Jinja2 itself looks for the filters and tests of a condition only when it gets there."""
    for kind, known in ((nodes.Filter, environment.filters), (nodes.Test, environment.tests)):
        for node in (test, *test.find_all(kind)):
            if isinstance(node, kind) and node.name not in known:
                parser.fail(f"no {kind.__name__.lower()} named {node.name!r}", node.lineno)


def load(environment: Environment, source: Source | nodes.Template, label: Source) -> Template:
    """A template ready to render, from text or from a part of its syntax tree.

    raises  MessageError  naming file and line (unknown filters and tests are found only here)
    """
    with _compiling(label):
        return environment.from_string(source.text if isinstance(source, Source) else source)


@contextmanager
def _compiling(source: Source) -> Iterator[None]:
    try:
        yield
    except SyntaxProblem as error:
        raise syntax_error(error, source) from None
    except (RecursionError, MemoryError, SyntaxError) as error:
        # Jinja2's parser is recursive, and Python's compiler bounds how deep loops nest.
        raise MessageError(f"{source.label}: it is nested too deeply ({error or type(error).__name__})") from None
    except MessageError:
        raise
    except Exception as error:  # Jinja2 works constants out while it compiles: {{ "x".y ~ a }}
        raise MessageError(f"{source.label}: {error or type(error).__name__}") from None


def syntax_error(error: SyntaxProblem, source: Source) -> MessageError:
    # A problem in an included file has that file's name.
    name = error.name if error.name not in (None, source.key) else source.label
    return MessageError(f"{name}, line {error.lineno}: {error.message}")


class Scope:
    """Where a part of a template binds names: what is bound there is seen there and in the scopes inside, by slots.

    parent  the scope around it; None: the recipient's values
    """

    __slots__ = ("parent",)

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent


class Row:
    """One recipient's names for Jinja2, with a context for each scope; those that bind nothing share one."""

    __slots__ = ("_budget", "_contexts", "values")

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self._budget = limits.Budget()
        self._contexts: dict[Environment | Scope, Context] = {}

    def context(self, template: Template, scope: Scope | None) -> Context:
        key = template.environment if scope is None else scope
        found = self._contexts.get(key)
        if found is None:
            if scope is None or scope.parent is None:
                names = {**template.environment.globals, **self.values}
            else:
                names = self.context(template, scope.parent).get_all()
            found = self._contexts[key] = template.new_context(names, shared=True)
        return found

    def render(self, template: Template, source: Source, scope: Scope | None, most: int = limits.MAX_OUTPUT) -> str:
        """raises  MessageError (scope recipient)  for whatever goes wrong, with file, line and Jinja2's reason"""
        outer, limits.active.budget = limits.active.budget, self._budget
        try:
            return _concatenated(template.root_render_func(self.context(template, scope)), most)
        except (MessageError, MemoryError):
            raise
        except Exception as error:  # sandboxed code may raise anything
            raise render_error(error, source) from error
        finally:
            limits.active.budget = outer


class RenderedSlot:
    """A piece of a template that Jinja2 evaluates: slot(row) -> text, escaped where the part is HTML.

    scope   where it finds names, and leaves those that it binds
    whole   it is the whole template: it ends in a newline
    names   the recipient fields it uses

    raises  MessageError (scope recipient)
    """

    __slots__ = ("names", "scope", "source", "template", "whole")

    def __init__(
        self,
        template: Template,
        source: Source,
        names: frozenset[str],
        scope: Scope | None = None,
        whole: bool = False,
    ) -> None:
        self.template = template
        self.source = source
        self.names = names
        self.scope = scope
        self.whole = whole

    def __call__(self, row: Row) -> str:
        text = row.render(self.template, self.source, self.scope)
        return text if not self.whole or text.endswith("\n") else text + "\n"

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
