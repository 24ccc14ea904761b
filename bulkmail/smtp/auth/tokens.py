"""Access tokens for one relay: fetched when needed, once for all its connections, and again when they expire.

Where they come from is an origin's affair: the option `token`, a program (token_command) or a refresh grant (oauth2).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bulkmail.errors import AuthError, BulkmailError
from bulkmail.loginoptions import TokenFunction, token_text

FETCH_SECONDS = 60.0  # for one token: programs that start an interpreter and ask a server need a few
MARGIN_SECONDS = 60.0  # a token is renewed so long before it expires: connecting and the login come in between
MAX_TOKEN = 9000  # characters: with user and base64 more would not fit the line that servers take (RFC 4954)


@dataclass(eq=False, slots=True)
class Token:
    """expires: by the source's clock, or None; accepted: a server has taken it."""

    value: str = field(repr=False)
    expires: float | None = None
    accepted: bool = False


class Origin(Protocol):
    """renewable: another call may give another token. caches: what it gives may be an old one that it kept."""

    name: str
    renewable: bool
    caches: bool

    async def fetch(self, renew: bool) -> tuple[str, float | None]:
        """A token and the seconds that it is good for, if known. renew: the last one was refused.

        Raises AuthError; cancelled, it leaves nothing running.
        """


class TokenSource:
    """The tokens of one relay. clock: for tests; in seconds.

    Whoever asks while a token is being fetched waits for that one. The fetch goes on while one of them waits.
    """

    def __init__(
        self, origin: Origin, *, seconds: float = FETCH_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._origin, self._seconds, self._clock = origin, seconds, clock
        self._current: Token | None = None
        self._fetching: _Fetching | None = None
        self._doubted = False  # the last token was refused, and none was accepted since
        self._hopeless = False  # and so was another

    def __repr__(self) -> str:
        return f"TokenSource({self._origin.name})"

    async def get(self) -> Token:
        """A token that has not expired. Raises AuthError: there is none; permanent, if trying again cannot help."""
        if self._current is not None and not self._expired(self._current):
            return self._current
        if self._fetching is None:
            self._fetching = _Fetching(asyncio.get_running_loop().create_task(self._fetch()))
        fetching = self._fetching
        fetching.waiting += 1
        try:
            return await asyncio.shield(fetching.task)  # one that stops waiting does not end it for the others
        finally:
            fetching.waiting -= 1
            if self._fetching is fetching and (fetching.task.done() or not fetching.waiting):
                self._fetching = None
            if not fetching.waiting and not fetching.task.done():
                fetching.task.cancel()
                await asyncio.wait([fetching.task])  # a program is ended before anybody closes the loop

    def _expired(self, token: Token) -> bool:
        return token.expires is not None and self._clock() >= token.expires

    async def _fetch(self) -> Token:
        try:
            async with asyncio.timeout(self._seconds):
                value, good_for = await self._origin.fetch(self._doubted)
        except TimeoutError:
            raise AuthError(f"{self._origin.name} gave no token within {self._seconds:g} s") from None
        if len(value) > MAX_TOKEN or not token_text(value):
            raise AuthError(f"what {self._origin.name} gave is not an access token", permanent=True)
        expires = None
        if good_for is not None:
            expires = self._clock() + good_for - min(MARGIN_SECONDS, good_for / 2)
        self._current = Token(value, expires)
        return self._current

    def accepted(self, token: Token) -> None:
        token.accepted = True
        if token is self._current:
            self._doubted = self._hopeless = False

    def refused(self, token: Token) -> bool:
        """A server refused the token. Whether it may have expired, so that another is worth one more try.

        A renewed token that is refused too is no matter of time: trying on would lock the account.
        """
        if not self._origin.renewable:
            return False
        if token is not self._current:
            return not self._hopeless  # another connection has seen to it
        worth = (token.accepted or self._origin.caches) and not self._doubted
        self._current, self._doubted, self._hopeless = None, True, not worth
        return worth


class _Fetching:
    """A fetch under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Token]) -> None:
        self.task, self.waiting = task, 0
        task.add_done_callback(_looked_at)


def _looked_at(task: asyncio.Task[Token]) -> None:
    if not task.cancelled():
        task.exception()


class Fixed:
    """The option `token`, a string."""

    name, renewable, caches = "option 'token'", False, False

    def __init__(self, value: str) -> None:
        self._value = value

    async def fetch(self, renew: bool) -> tuple[str, float | None]:
        return self._value, None


class Function:
    """The option `token`, a function. It is called with renew=True or False if it has a parameter of that name.

    One that is not async is called in a thread: it may ask a server and wait.
    """

    name, renewable, caches = "the function given as 'token'", True, True

    def __init__(self, function: TokenFunction) -> None:
        self._function = function
        try:
            self._wants_renew = "renew" in inspect.signature(function).parameters
        except (TypeError, ValueError):
            self._wants_renew = False

    async def fetch(self, renew: bool) -> tuple[str, float | None]:
        try:
            value = await self._called({"renew": renew} if self._wants_renew else {})
        except BulkmailError:
            raise
        except Exception as error:
            raise AuthError(f"{self.name} failed: {type(error).__name__}") from error
        if not isinstance(value, str):
            raise AuthError(f"{self.name} returned {type(value).__name__}, expected a string", permanent=True)
        return value, None

    async def _called(self, arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**arguments)
        value = await asyncio.to_thread(self._function, **arguments)
        return await value if inspect.isawaitable(value) else value


def token_source(options: Any = None, *, token: str | TokenFunction | None = None) -> TokenSource | None:
    """The source that a relay's options name, or that of a token; None: there is none."""
    token = options.token if token is None and options is not None else token
    if token is not None:
        return TokenSource(Function(token) if callable(token) else Fixed(token))
    if options is not None and options.token_command is not None:
        from bulkmail.smtp.auth.token_command import TokenCommand

        return TokenSource(TokenCommand(options.token_command))
    if options is not None and options.oauth2 is not None:
        from bulkmail.smtp.auth.oauth2 import RefreshGrant

        return TokenSource(RefreshGrant(options.oauth2))
    return None
