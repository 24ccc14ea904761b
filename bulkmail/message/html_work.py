"""What is done to the HTML part of a message that is no template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bulkmail.message.html_css import inline_css
from bulkmail.message.html_links import add_link_parameters, encoded
from bulkmail.message.html_text import html_to_text
from bulkmail.message.marked import check_text
from bulkmail.message.spec import Access
from bulkmail.message.template import FolderLoader, load_sheet

__all__ = ["html_to_text", "with_links", "with_styles"]


def with_links(html: str, parameters: Mapping[str, str], unsubscribe: str | None) -> str:
    """The links with parameters. unsubscribe: an address that gets none. raises  MessageError"""
    check_text(html, "html")
    for name, value in parameters.items():
        check_text(name + value, "link_parameters")
    pairs = encoded(tuple(parameters.items()))
    return add_link_parameters(html, pairs, skip=lambda address: address == unsubscribe) if pairs else html


def with_styles(html: str, folder: Path, access: Access) -> str:
    """Style sheets as attributes; linked ones come from below `folder`. raises  MessageError"""
    loader = FolderLoader(folder) if access.files else None
    return inline_css(html, lambda name: load_sheet(loader, name, "html"))
