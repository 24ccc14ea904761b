"""Messages go to a function of the user's, whose word is the verdict."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Message
from bulkmail.sink.store import HeldIncoming, InMemory, NotStored

Function = Callable[[Message], Any]


class Callback(InMemory):
    """Calls `function(message)`, sync or async, for each message. Returning takes it; raising Refuse refuses it."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def begin(self, message: Message) -> CallbackIncoming:
        return CallbackIncoming(self, message)

    def close(self) -> None:
        pass


class CallbackIncoming(HeldIncoming):
    _store: Callback

    def commit(self) -> Awaitable[None] | None:
        self.message.content = self.content()
        later = False
        try:
            result = self._store.function(self.message)
            later = inspect.isawaitable(result)
        except Exception as error:
            raise verdict(error) from error
        finally:
            if not later:
                self.abandon()
        return self._settle(result) if later else None

    async def _settle(self, result: Awaitable[Any]) -> None:
        try:
            await result
        except Exception as error:
            raise verdict(error) from error
        finally:
            self.abandon()


def verdict(error: Exception) -> Refuse:
    return error if isinstance(error, Refuse) else NotStored(451, "Local error in processing", "4.3.0")
