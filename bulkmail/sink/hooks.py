"""What hooks are called, and mistakes in them that would otherwise show as a hook that is never asked."""

from __future__ import annotations

import inspect
from typing import Any

from bulkmail.errors import ConfigError
from bulkmail.sink.options import nearest
from bulkmail.sink.refuse import Refuse

ARGUMENTS = {
    "on_connect": ("session",),
    "on_auth": ("session", "mechanism", "user", "password"),
    "on_mail": ("session", "address", "parameters"),
    "on_rcpt": ("session", "address", "parameters"),
    "on_data": ("session", "stream"),
    "on_close": ("session",),
}
NAMES = tuple(ARGUMENTS)
# Those whose False somebody meant as a no. That of on_auth is one.
DECIDING = {"on_connect", "on_mail", "on_rcpt", "on_data"}


def check_hooks(hooks: object) -> None:
    """ConfigError for a class in place of its instance, a method that is called as no hook is or does not take what
    its hook is given, or no object at all."""
    if inspect.isclass(hooks) and any(inspect.isfunction(inspect.getattr_static(hooks, name, None)) for name in NAMES):
        raise ConfigError(f"the hooks are the class {hooks.__name__}, expected an instance: {hooks.__name__}()")
    for name in dir(hooks):
        if name.startswith("on_") and name not in NAMES and callable(getattr(hooks, name)):
            raise ConfigError(f"there is no hook {name!r}{nearest(name, NAMES)} (they are {', '.join(NAMES)})")
    plain = callable(hooks) or isinstance(hooks, str | dict | list | tuple | set)
    if plain and not any(hasattr(hooks, name) for name in NAMES):
        raise ConfigError(f"hooks are an object with methods such as on_rcpt, not a {type(hooks).__name__}")
    for name, arguments in ARGUMENTS.items():
        check_hook(name, getattr(hooks, name, None), arguments)


def check_hook(name: str, hook: Any, arguments: tuple[str, ...]) -> None:
    if hook is None:
        return
    expected = ", ".join(arguments)
    if not callable(hook):
        raise ConfigError(f"the hook {name!r} is a {type(hook).__name__}, expected a method that takes ({expected})")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # of something built in: it has none to look at
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        takes = ", ".join(str(parameter) for parameter in signature.parameters.values())
        raise ConfigError(f"the hook {name!r} takes ({takes}), expected ({expected})") from None


def checked(name: str, result: Any) -> Any:
    """What a hook returned. A Refuse is raised; TypeError for a False that says nothing."""
    if isinstance(result, Refuse):
        raise result
    if result is False and name in DECIDING:
        raise TypeError(f"{name} returned False: a hook says no with `raise Refuse(code, text)`")
    return result


def checked_text(result: Any) -> str | None:
    """What on_data returned."""
    if result is None or isinstance(result, str):
        return result
    raise TypeError(f"on_data returned {type(result).__name__}: it returns the text of the reply, or None")
