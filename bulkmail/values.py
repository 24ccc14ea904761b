"""Values of options, text or typed, to what the option holds: times, rates, numbers, names, files.

A parser is called with (value, "option 'name'") and raises ConfigError: the option, what was found, what is expected.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bulkmail.errors import ConfigError
from bulkmail.records import Record
from bulkmail.urlparts import as_ip, listed, nearest, parse_host, quoted

MAX_SECONDS = 10 * 365 * 86400.0  # a longer time is a slip of the keyboard, and dates made from it overflow
MAX_COUNT = 1_000_000  # connections, messages, recipients; the same reason
MOST_WORKERS = 64  # each has some 40 MB, and a line to the one process that writes the journal

_SECONDS_IN = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_duration = re.compile(rf"({_NUMBER}) ?(ms|[smhd]?)").fullmatch
_rate = re.compile(rf"({_NUMBER}) ?/ ?([smhd])").fullmatch
_whole_number = re.compile(r"[0-9]{1,9}").fullmatch
_interface = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,14}").fullmatch
_true_words = frozenset(("true", "yes", "on", "1"))
_false_words = frozenset(("false", "no", "off", "0"))


@dataclass(frozen=True, eq=False, repr=False)
class Rate(Record):
    """Recipients per time: `count` in `seconds`. `text` is what the user wrote."""

    count: float
    seconds: float
    text: str

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    def __str__(self) -> str:
        return self.text


def parse_seconds(value: object, what: str) -> float:
    """Seconds from 90, 1.5, "90", "90s", "250ms", "5m", "2h" or "1d". Not negative, at most MAX_SECONDS."""
    seconds = None
    if isinstance(value, str):
        found = _duration(value.strip())
        if found:
            seconds = float(found[1]) * _SECONDS_IN[found[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    if seconds is None or seconds < 0:
        raise ConfigError(f"{what} is {quoted(value)}, expected a time such as 90, '90s', '250ms', '5m', '2h' or '1d'")
    if seconds > MAX_SECONDS:
        raise ConfigError(f"{what} is {quoted(value)}, expected at most ten years")
    return seconds


def parse_rate(value: object, what: str) -> Rate:
    """A rate from "300/s", "5000/m", "100000/h" or "1000000/d"; a Rate is returned as it is."""
    if isinstance(value, Rate):
        return value
    found = _rate(value.strip()) if isinstance(value, str) else None
    if not found:
        raise ConfigError(f"{what} is {quoted(value)}, expected a rate such as '300/s', '5000/m', '100000/h', '9000/d'")
    rate = Rate(float(found[1]), _SECONDS_IN[found[2]], found[0])
    if rate.count == 0:
        raise ConfigError(f"{what} is {quoted(value)}: nothing could ever be sent, expected more than 0")
    return rate


def parse_workers(value: object, what: str) -> int | Literal["auto"]:
    """Processes that send."""
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and _whole_number(value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_WORKERS:
        raise ConfigError(f"{what} is {quoted(value)}, expected a whole number from 1 to {MOST_WORKERS}, or 'auto'")
    return number


def parse_flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word in _true_words or word in _false_words:
        return word in _true_words
    raise ConfigError(f"{what} is {quoted(value)}, expected true or false")


def parse_timeout(value: object, what: str) -> float:
    seconds = parse_seconds(value, what)
    if seconds == 0:
        raise ConfigError(f"{what} is {quoted(value)}, expected more than 0 seconds")
    return seconds


def whole_number(low: int) -> Callable[[object, str], int]:
    def parse(value: object, what: str) -> int:
        number = int(value) if isinstance(value, str) and _whole_number(value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= MAX_COUNT:
            raise ConfigError(f"{what} is {quoted(value)}, expected a whole number from {low} to {MAX_COUNT}")
        return number

    return parse


def one_of(*words: str) -> Callable[[object, str], str]:
    def parse(value: object, what: str) -> str:
        word = str(value).lower()
        if word in words:
            return word
        raise ConfigError(f"{what} is {quoted(value)}, expected {listed(words)}{nearest(word, words)}")

    return parse


def parse_tls_version(value: object, what: str) -> str:
    word = str(value).lower().removeprefix("tlsv").removeprefix("tls")
    if word not in ("1.2", "1.3"):
        raise ConfigError(f"{what} is {quoted(value)}, expected 1.2 or 1.3")
    return word


def parse_path(value: object, what: str) -> str:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{what} is {quoted(value)}, expected the name of a file")
    return text


def parse_wire_log(value: object, what: str) -> str | bool:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return parse_flag(value, what)
    return parse_path(value, what)


def parse_server_name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {quoted(value)}, expected a host name or an IP address")
    return parse_host(_unbracketed(value), what)


def _unbracketed(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def parse_ehlo_name(value: object, what: str) -> str:
    """RFC 5321 section 4.1.1.1: a domain name, or an address literal; an address is put in the literal's form."""
    if isinstance(value, str):
        address = as_ip(_unbracketed(value).removeprefix("IPv6:"))
        if address is not None and "%" not in value:
            return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"
        if address is None and "[" not in value:
            return parse_host(value, what)
    raise ConfigError(f"{what} is {quoted(value)}, expected a domain name, [192.0.2.1] or [IPv6:2001:db8::1]")


def parse_local_address(value: object, what: str) -> str:
    """An IP address, or the name of a network interface (15 bytes, Linux IFNAMSIZ; dialling sees whether it exists)."""
    text = value if isinstance(value, str) else ""
    if as_ip(_unbracketed(text)):
        return _unbracketed(text)
    if not _interface(text):
        raise ConfigError(f"{what} is {quoted(value)}, expected an IP address or the name of a network interface")
    return text


def parse_dns_server(text: str) -> tuple[str, int]:
    """(address, port) of "192.0.2.53", "192.0.2.53:5300" or "[2001:db8::53]:5300". raises  ConfigError"""
    import ipaddress

    host, port = text, "53"
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port if closed else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ConfigError(f"the DNS server {text!r:.80}, expected an address such as 192.0.2.53 or 192.0.2.53:5300")
    return host, number


def duration(seconds: float) -> str:
    """ "4.2 s", "3:05" (minutes), "26:03:05" (hours)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def mail_date(seconds: float) -> str:
    """The value of Date (RFC 5322 section 3.3) at a time of this machine's clock and zone."""
    at = datetime.fromtimestamp(seconds, UTC).astimezone()
    return f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} {at:%H:%M:%S %z}"
