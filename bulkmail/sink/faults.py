"""The faults of a sink: the language of `--fault`, and which of them strikes when. What they do to a connection is in
faulty.py."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bulkmail.errors import ConfigError
from bulkmail.sink.refuse import reply_text
from bulkmail.urlparts import listed, nearest, quoted
from bulkmail.values import parse_rate, parse_timeout
from bulkmail.wire.server_settings import (
    ASK_DATA,
    ASK_END,
    ASK_HELLO,
    ASK_LOGIN,
    ASK_MAIL,
    ASK_QUIT,
    ASK_RCPT,
    ASK_STARTTLS,
)

# What the codec has to ask, for a fault at each phase. It has no say in the first two.
PHASES = {
    "connect": 0,
    "greeting": 0,
    "ehlo": ASK_HELLO,
    "starttls": ASK_STARTTLS,
    "auth": ASK_LOGIN,
    "mail": ASK_MAIL,
    "rcpt": ASK_RCPT,
    "data": ASK_DATA,
    "body": ASK_END,
    "quit": ASK_QUIT,
}
# Those whose events have an address: the sender, the recipient, all accepted recipients; the user who logs in.
ADDRESSED = ("auth", "mail", "rcpt", "data", "body")
ENDS = ("drop", "reset", "hang")
ACTIONS = "a reply such as '451 4.7.1 Try later', 'drop', 'reset', 'hang', 'delay=2s' or 'drip=1/s'"
WHENS = (
    "a share such as '5%', every Nth as in '1/100', those behind the Nth as in '>1000', or an address, '*@slow.test'"
)

MAX_TIMES = 1_000_000  # of one fail_next(): more is a slip of the keyboard
MAX_DELAY = 86_400.0  # seconds; who wants more wants "hang"
NULL_SENDER = "<>"  # what a pattern sees of MAIL FROM:<>

_reply = re.compile(r"([0-9]{3})(?: (.*))?", re.DOTALL).fullmatch
_enhanced = re.compile(r"([0-9])\.[0-9]{1,3}\.[0-9]{1,3}(?: |$)").match
_share = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%").fullmatch
_every = re.compile(r"1/([1-9][0-9]{0,14})").fullmatch
_slip = re.compile(r"[0-9 ./%>]*").fullmatch  # numbers that are none of these three
_after = re.compile(r">([0-9]{1,15})").fullmatch


@dataclass(frozen=True)
class Action:
    """What happens at an event: one thing that is said or done, or a delay before it, or the pace of saying it.

    refusal   (code, what follows it), word for word
    end       "drop", "reset" or "hang"
    delay     seconds
    drip      bytes, and the seconds for so many
    """

    text: str
    refusal: tuple[int, str] | None = None
    end: str | None = None
    delay: float = 0.0
    drip: tuple[float, float] | None = None


@dataclass(frozen=True)
class Fault:
    """What the rules make of one event together: of each kind of action the first that struck."""

    refusal: tuple[int, str] | None = None
    end: str | None = None
    delay: float = 0.0
    drip: tuple[float, float] | None = None

    def __str__(self) -> str:
        words = [f"delay={self.delay:g}s"] if self.delay else []
        if self.drip is not None:
            words.append("drip={:g}/{:g}s".format(*self.drip))
        if self.refusal is not None:
            words.append("{} {}".format(*self.refusal))
        return ", ".join([*words, self.end] if self.end else words)


Addresses = tuple[str, ...]
When = Callable[[int, Addresses], bool]


class Rule:
    """PHASE:ACTION[@WHEN], and how many events of its phase there were."""

    def __init__(self, text: str, number: int, seed: int) -> None:
        """ConfigError: the rule, what was found, what is expected. `number`: its place among the rules."""
        if not isinstance(text, str):
            raise ConfigError(f"a fault is a text such as 'rcpt:451 Try later@5%', not {quoted(text)}")
        said, _, when = text.partition("@")
        phase, colon, action = said.partition(":")
        what = f"the fault {quoted(text)}"
        if not colon:
            raise ConfigError(f"{what} has no ':', expected PHASE:ACTION[@WHEN]")
        self.phase = read_phase(phase, what)
        self.action = read_action(action, what)
        self._count = 0
        self._when: When = lambda count, addresses: True
        if "@" in text:
            self._when = read_when(when, self.phase, what, random.Random(f"{seed}:{number}"))

    def strikes(self, addresses: Addresses) -> bool:
        """Whether it applies to the next event. Every event has to be told, also those that another rule decides."""
        self._count += 1
        return self._when(self._count, addresses)


class Faults:
    """The rules of a server, and what fail_next() asked for."""

    def __init__(self, rules: Iterable[str] = (), seed: int = 0) -> None:
        if not isinstance(seed, int):
            raise ConfigError(f"'seed' is {quoted(seed)}, expected a whole number")
        texts = [rules] if isinstance(rules, str) else list(rules)
        self._rules: dict[str, list[Rule]] = {phase: [] for phase in PHASES}
        self._next: dict[str, deque[Action]] = {phase: deque() for phase in PHASES}
        for number, text in enumerate(texts):
            rule = Rule(text, number, seed)
            self._rules[rule.phase].append(rule)

    @property
    def ask(self) -> int:
        """What the codec has to ask."""
        return sum(flag for phase, flag in PHASES.items() if self._rules[phase] or self._next[phase])

    @property
    def any(self) -> bool:
        return any(self._rules.values()) or any(self._next.values())

    def add_next(self, phase: str, action: str, times: int) -> int:
        """The next `times` events of `phase` suffer `action`, after those that were asked for before. What to ask."""
        what = f"the fault {quoted(f'{phase}:{action}')}"
        phase = read_phase(phase, what)
        read = read_action(action, what)
        if not isinstance(times, int) or not 1 <= times <= MAX_TIMES:
            raise ConfigError(f"{what} is asked for {times} times, expected 1 to {MAX_TIMES}")
        self._next[phase].extend([read] * times)
        return PHASES[phase]

    def strike(self, phase: str, addresses: Addresses = ()) -> Fault | None:
        """What happens at this event: of each kind the first that strikes, fail_next()'s before the rules'."""
        rules, asked = self._rules[phase], self._next[phase]
        struck = [asked.popleft()] if asked else []
        struck += [rule.action for rule in rules if rule.strikes(addresses)]
        return combined(struck) if struck else None


def combined(actions: list[Action]) -> Fault:
    said = next((action for action in actions if action.refusal or action.end), None)
    return Fault(
        refusal=said.refusal if said else None,
        end=said.end if said else None,
        delay=next((action.delay for action in actions if action.delay), 0.0),
        drip=next((action.drip for action in actions if action.drip), None),
    )


# --- the language


def read_phase(text: str, what: str) -> str:
    phase = text.strip().lower()
    if phase not in PHASES:
        raise ConfigError(f"{what} is at {quoted(text)}, expected {listed(PHASES)}{nearest(phase, PHASES)}")
    return phase


def read_action(text: str, what: str) -> Action:
    text = text.strip()
    name, equals, value = text.partition("=")
    name = name.strip().lower()
    if name == "delay" and equals:
        return Action(text, delay=read_delay(value, f"{what}: the delay"))
    if name == "drip" and equals:
        rate = parse_rate(value, f"{what}: the drip")
        return Action(text, drip=(rate.count, rate.seconds))
    if name in ENDS and not equals:
        return Action(text, end=name)
    found = _reply(text)
    if not found:
        hint = nearest(name, (*ENDS, "delay", "drip"))
        raise ConfigError(f"{what} does {quoted(text)}, expected {ACTIONS}{hint}")
    return Action(text, refusal=read_refusal(int(found[1]), found[2] or "", what))


def read_delay(value: str, what: str) -> float:
    seconds = parse_timeout(value, what)
    if seconds > MAX_DELAY:
        raise ConfigError(f"{what} is {quoted(value)}, expected at most a day; 'hang' waits for ever")
    return seconds


def read_refusal(code: int, text: str, what: str) -> tuple[int, str]:
    if not 400 <= code <= 599:
        raise ConfigError(f"{what} answers {code}, expected a refusal: 400 to 599")
    enhanced = _enhanced(text)
    if enhanced and enhanced[1] != str(code)[0]:
        raise ConfigError(f"{what} has the enhanced code {enhanced[0].strip()!r}, expected one of class {code // 100}")
    try:
        return code, reply_text(text)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def read_when(text: str, phase: str, what: str, generator: random.Random) -> When:
    when = text.strip()
    if found := _share(when):
        return share(float(found[1]), what, generator)
    if found := _every(when):
        nth = int(found[1])
        return lambda count, addresses: count % nth == 0
    if found := _after(when):
        last = int(found[1])
        return lambda count, addresses: count > last
    if not is_pattern(when, phase):
        raise ConfigError(f"{what} strikes at {quoted(text)}, expected {WHENS}")
    if phase not in ADDRESSED:
        raise ConfigError(
            f"{what} has an address, expected '5%', '1/100' or '>1000': only {listed(ADDRESSED)} have one"
        )
    return matching(when.casefold())


def share(percent: float, what: str, generator: random.Random) -> When:
    if percent > 100:
        raise ConfigError(f"{what} strikes at {percent:g}%, expected at most 100%")
    return lambda count, addresses: generator.random() * 100 < percent


def is_pattern(text: str, phase: str) -> bool:
    """An address or what can stand for one. "slow.test" matches none, and "2/100" is a slip."""
    if _slip(text):
        return False
    return phase == "auth" or "@" in text or "*" in text or text.casefold() in (NULL_SENDER, "postmaster")


def matching(text: str) -> When:
    """ "*" and "?" over the whole address. Address literals have brackets, so these stand for themselves."""
    pattern = text.replace("[", "[[]")
    return lambda count, addresses: any(
        fnmatchcase((address or NULL_SENDER).casefold(), pattern) for address in addresses
    )
