"""When a recipient who was refused for now is tried again, and by which relay; or that this was the last time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Final

from bulkmail.job.routes import Route
from bulkmail.job.specs import ClassRetry, RetrySpec
from bulkmail.smtp.classify import named_wait, retry_after
from bulkmail.wire.reply import Reply

HOUR: Final = 3600.0
# Delays by the kind of refusal where the manifest gives none. Kinds that are not named have `retry.delays`.
SLOWLY: Final = ClassRetry(
    (1800.0, 2 * HOUR, 4 * HOUR, 8 * HOUR)
)  # a reputation takes hours to mend, and pressing harms
LATE: Final = ClassRetry(
    (6 * HOUR, 6 * HOUR, 6 * HOUR, 6 * HOUR)
)  # who is away does not empty a mailbox within the hour
BUILT_IN: Final[Mapping[str, ClassRetry]] = {
    # postgrey takes the next attempt after 5 minutes; RFC 6647 section 5 has servers wait a minute at least
    "greylisted": ClassRetry((300.0, 600.0, 1800.0, 2 * HOUR)),
    "mailbox_full": LATE,
    "inactive": LATE,
    "throttled": ClassRetry((300.0, 900.0, 1800.0, HOUR, 2 * HOUR, 4 * HOUR)),  # most say for how long: see `hint`
    "quota": ClassRetry((HOUR, 4 * HOUR, 8 * HOUR, 8 * HOUR)),
    "blocked": SLOWLY,
    "unauthenticated": SLOWLY,
    "content": SLOWLY,
    "policy": SLOWLY,
}
NO_REPLY: Final = "connection"  # the kind of what was lost each time before it was taken
# Seconds up to which, and the step to which what a server asks for is rounded up: recipients who are due at nearly the
# same time share a chunk.
STEPS: Final = ((10.0, 1.0), (60.0, 5.0), (600.0, 30.0), (HOUR, 300.0), (math.inf, 1800.0))


class Retries:
    """The manifest's `retry`. several: the job has more than one relay; draw: numbers from 0 to 1, for the jitter."""

    def __init__(self, spec: RetrySpec, *, several: bool = False, draw: Callable[[], float] = random.random) -> None:
        self.spec, self._draw = spec, draw
        self._steer = spec.relay if several else "any"
        self._classes = {**({} if spec.delays_given else BUILT_IN), **spec.classes}
        self._else = ClassRetry(spec.delays)
        self.shortest = min(
            (one.delays[0] for one in (self._else, *self._classes.values()) if one.delays), default=math.inf
        )

    def wait(
        self, kind: str, reply: Reply | None, command: str | None, attempt: int, since: float, now: float
    ) -> float | None:
        """Seconds until the next attempt, without jitter; None: there is none.

        reply    that refused, to `command`; None: there was none
        attempt  how many were before the one that has just ended
        since    when the first one ended, by the clock of `now`
        """
        rule = self._classes.get(kind, self._else)
        if attempt >= len(rule.delays):
            return None
        delay = rule.delays[attempt]
        most = self.spec.give_up_after if rule.give_up_after is None else rule.give_up_after
        left = most - (now - since)
        if delay > left:
            return None
        return min(max(delay, self._hint(kind, reply, command)), left)

    def _hint(self, kind: str, reply: Reply | None, command: str | None) -> float:
        """What the server asks for. Experience with it counts only where nobody gave delays for it."""
        if reply is None:
            return 0.0
        given = self.spec.delays_given or kind in self.spec.classes
        asked = named_wait(reply) if given else retry_after(reply, command)
        return _rounded_up(asked) if asked else 0.0

    def spread(self) -> float:
        """What delays are multiplied by, drawn anew at each call: 1 to 1 + jitter."""
        return 1 + self.spec.jitter * self._draw()

    def route(self, route: str, relay: str) -> str:
        """The route of the retry of one that `relay` deferred."""
        if self._steer == "any":
            return route
        return str(Route(Route.parse(route).pattern, relay, self._steer == "same"))

    def nominal(self, attempt: int) -> float:
        """Seconds from the first attempt to the one after `attempt` others, where nothing better is known."""
        return sum(self.spec.delays[:attempt])


def _rounded_up(seconds: float) -> float:
    step = next(step for most, step in STEPS if seconds <= most)
    return math.ceil(seconds / step) * step
