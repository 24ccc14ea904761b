"""Messages: what a job composes for each recipient, and single ones from a program.

Loaded on first use, since templates and the `email` package cost more to import than everything else here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkmail.message.compile import CompileError, compile_message
    from bulkmail.message.compiled import Compiled
    from bulkmail.message.finding import Finding
    from bulkmail.message.lint.library import lint_message
    from bulkmail.message.message import Attachment, Message, to_wire
    from bulkmail.message.reference import RenderedMessage
    from bulkmail.message.spec import AttachmentSpec, ListLink, ListUnsubscribe, MessageSpec

_HOMES = {
    "Attachment": "message",
    "AttachmentSpec": "spec",
    "CompileError": "compile",
    "Compiled": "compiled",
    "Finding": "finding",
    "ListLink": "spec",
    "ListUnsubscribe": "spec",
    "Message": "message",
    "MessageSpec": "spec",
    "RenderedMessage": "reference",
    "compile_message": "compile",
    "lint_message": "lint.library",
    "to_wire": "message",
}

__all__ = [
    "Attachment",
    "AttachmentSpec",
    "CompileError",
    "Compiled",
    "Finding",
    "ListLink",
    "ListUnsubscribe",
    "Message",
    "MessageSpec",
    "RenderedMessage",
    "compile_message",
    "lint_message",
    "to_wire",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
