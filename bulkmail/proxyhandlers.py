"""Handlers of proxy schemes that are not ours: registered by a program, or by an installed package's entry point."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from bulkmail.errors import ConfigError
from bulkmail.urlparts import quoted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OUR_SCHEMES: Final = ("http", "https", "socks4", "socks4a", "socks5", "socks5h", "socks")
ENTRY_POINTS: Final = "bulkmail.proxies"  # group; an entry point's name is the scheme

# async handler(proxy: ProxyUrl, target: Target) -> socket | Proxied
Handler = Callable[[Any, Any], Any]

_scheme = re.compile(r"[a-z][a-z0-9+.-]*").fullmatch
_handlers: dict[str, Handler] = {}


def register_proxy(scheme: str, handler: Handler) -> None:
    """Make proxies of `scheme`:// usable. docs/egress.md, "Handlers of your own", says what a handler does.

    scheme    as a URL's scheme is written, none of ours; registered again, the new handler takes the old one's place
    handler   async handler(proxy: ProxyUrl, target: Target) -> socket | Proxied
    raises    ConfigError
    """
    name = scheme.lower() if isinstance(scheme, str) else ""
    if not _scheme(name):
        raise ConfigError(f"{quoted(scheme)} is not a URL's scheme: a letter, then letters, digits, '+', '-' and '.'")
    if name in OUR_SCHEMES:
        raise ConfigError(f"{name}:// is a scheme of ours, expected another name for a handler")
    if not callable(handler):
        raise ConfigError(f"the handler of {name}:// is {type(handler).__name__}, expected an async function")
    _handlers[name] = handler


def find_handler(scheme: str) -> Handler | None:
    """The handler of a scheme; that of an entry point is loaded now. Raises ConfigError if that fails."""
    if scheme in _handlers:
        return _handlers[scheme]
    if not _scheme(scheme) or scheme in OUR_SCHEMES:
        return None
    found = [point for point in _entry_points() if point.name.lower() == scheme]
    if not found:
        return None
    if len({point.value for point in found}) > 1:
        every = " and ".join(sorted(_told(point) for point in found))
        raise ConfigError(f"two installed packages have a handler for {scheme}:// proxies: {every}")
    register_proxy(scheme, _loaded(found[0]))
    return _handlers[scheme]


def known_schemes() -> list[str]:
    """Ours, the registered ones, those of installed packages."""
    installed = {point.name.lower() for point in _entry_points()}
    return [*OUR_SCHEMES, *sorted(installed | _handlers.keys())]


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # tens of milliseconds, which few need

    return entry_points(group=ENTRY_POINTS)


def _loaded(point: EntryPoint) -> Handler:
    try:
        handler: Handler = point.load()
    except Exception as error:
        raise ConfigError(f"{_told(point)} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(handler):
        raise ConfigError(f"{_told(point)} is {type(handler).__name__}, expected an async function")
    return handler


def _told(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist else ""
    return f"entry point {point.name} = {point.value}{package} ({ENTRY_POINTS})"
