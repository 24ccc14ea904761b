"""Filters for dates, times, numbers and amounts, written as people of a locale write them (Unicode CLDR, by Babel).

    {{ when|date("d. MMMM y") }}   {{ price|currency("EUR") }}   {{ 0.25|percent }}   {{ total|number(locale="de") }}

Babel is loaded when the first of them is used. Without it there is no other way to write dates that could differ: a
template that uses one is an error when it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from jinja2.exceptions import FilterArgumentError

from bulkmail.errors import MessageError
from bulkmail.urlparts import quoted

DEFAULT_LOCALE = "en_US"
NAMES = frozenset({"date", "datetime", "time", "number", "percent", "currency"})
INSTALL = "the filter needs the package Babel: pip install 'bulkmail[locale]'"
# Digits of a number: with decimals and percent they stay below the 28 that Decimal calculates with.
MAX_DIGITS = 23
MAX_TEXT = 100  # characters of a number
MAX_PATTERN = 200

_currency = re.compile(r"[A-Z]{3}").fullmatch


def babel() -> Any:
    """raises  MessageError  where it is not installed"""
    try:
        import babel.dates
        import babel.numbers
    except ImportError:
        raise MessageError(INSTALL) from None
    return babel


def check_locale(name: str, what: str) -> None:
    """raises  MessageError"""
    try:
        _locale(name)
    except FilterArgumentError as error:
        raise MessageError(f"{what}: {error}") from None


@lru_cache(maxsize=64)
def _locale(name: str) -> Any:
    core = babel()
    try:
        return core.Locale.parse(name, sep="-" if "-" in name else "_")
    except (core.UnknownLocaleError, ValueError, TypeError):
        raise FilterArgumentError(f"the locale {quoted(name)} is unknown, expected one such as de or de_DE") from None


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise FilterArgumentError(
            f"the time zone {quoted(name)} is unknown, expected one such as Europe/Berlin"
        ) from None


def filters(default: str | None) -> dict[str, Callable[..., str]]:
    """The filters by name. default: the locale of those that name none."""
    own = default or DEFAULT_LOCALE

    def date_(value: Any, format: str = "medium", locale: str | None = None, zone: str | None = None) -> str:
        return _dates().format_date(_moment(value, zone), _pattern(format), _locale(locale or own))  # type: ignore[no-any-return]

    def datetime_(value: Any, format: str = "medium", locale: str | None = None, zone: str | None = None) -> str:
        moment = _moment(value, zone)
        return _dates().format_datetime(moment, _pattern(format), moment.tzinfo, _locale(locale or own))  # type: ignore[no-any-return]

    def time_(value: Any, format: str = "short", locale: str | None = None, zone: str | None = None) -> str:
        moment = _moment(value, zone)
        return _dates().format_time(moment, _pattern(format), moment.tzinfo, _locale(locale or own))  # type: ignore[no-any-return]

    def number(value: Any, format: str | None = None, locale: str | None = None) -> str:
        return _numbers().format_decimal(_amount(value), _number_pattern(format), _locale(locale or own))  # type: ignore[no-any-return]

    def percent(value: Any, format: str | None = None, locale: str | None = None) -> str:
        return _numbers().format_percent(_amount(value), _number_pattern(format), _locale(locale or own))  # type: ignore[no-any-return]

    def currency(value: Any, currency: str, format: str | None = None, locale: str | None = None) -> str:
        if not isinstance(currency, str) or not _currency(currency):
            raise FilterArgumentError(f"the currency {currency!r}, expected a code such as EUR")
        amount, shape = _amount(value), _number_pattern(format)
        return _numbers().format_currency(amount, currency, shape, _locale(locale or own))  # type: ignore[no-any-return]

    return {
        "date": date_,
        "datetime": datetime_,
        "time": time_,
        "number": number,
        "percent": percent,
        "currency": currency,
    }


def _dates() -> Any:
    return babel().dates


def _numbers() -> Any:
    return babel().numbers


def _pattern(given: str) -> str:
    if not isinstance(given, str) or len(given) > MAX_PATTERN:
        raise FilterArgumentError("the format of a date is short, medium, long, full, or a pattern such as d MMMM y")
    return given


def _number_pattern(given: str | None) -> str | None:
    if given is not None and (not isinstance(given, str) or len(given) > MAX_PATTERN):
        raise FilterArgumentError("the format of a number is a pattern such as #,##0.00")
    return given


def _moment(value: Any, zone: str | None) -> datetime:
    """A date or time in any of its forms: ISO 8601, Unix seconds, date objects. Without a zone it is as it stands."""
    moment = _parsed(value)
    if zone is None:
        return moment
    where = _zone(zone)
    return moment.astimezone(where) if moment.tzinfo is not None else moment.replace(tzinfo=where)


def _parsed(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            text = value.strip()
            # CSV has no numbers: ten digits or so are seconds, eight are a day.
            if re.fullmatch(r"-?\d{9,12}(\.\d+)?", text):
                return datetime.fromtimestamp(float(text), UTC)
            return datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        pass
    shown = str(value)[:40]
    raise FilterArgumentError(
        f"{shown!r} is no date, expected one such as 2026-11-01, 2026-11-01T08:00Z or Unix seconds"
    )


def _amount(value: Any) -> Decimal:
    """raises  FilterArgumentError  for what is no finite number, or one with more digits than arithmetic keeps"""
    if isinstance(value, (int, float, Decimal, str)) and not isinstance(value, bool):
        text = value_text(value)
        try:
            amount = Decimal(text.strip() if len(text) <= MAX_TEXT else "nan")
        except InvalidOperation:
            amount = Decimal("nan")
        if amount.is_finite() and len(amount.as_tuple().digits) <= MAX_DIGITS and abs(amount.adjusted()) < MAX_DIGITS:
            return amount
    raise FilterArgumentError(f"{value_text(value)[:40]!r} is no number of at most {MAX_DIGITS} digits")


def value_text(value: Any) -> str:
    """Its text; Python writes no integer of thousands of digits."""
    return "a very large integer" if isinstance(value, int) and value.bit_length() > 1000 else str(value)
