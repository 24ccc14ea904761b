"""Dates, numbers and amounts as people write them, by locale."""

import sys
from datetime import UTC, date, datetime

import pytest

from bulkmail.errors import RECIPIENT, MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.localised import filters
from bulkmail.message.spec import MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
SPACE = "\u202f"  # CLDR's blank before AM and PM


def made(text, row=None, locale=None):
    compiled = compile_message(MessageSpec(from_="n@example.com", text=text, locale=locale), job="j")
    row = {"email": "a@example.net", **(row or {})}
    (quick,) = compiled.compose([row], [1], DATE)
    if isinstance(quick, MessageError):
        return quick
    return compiled.render(row, 1, DATE).text.rstrip("\n").replace("\u00a0", " ").replace(SPACE, " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ '2026-11-01'|date }}", "Nov 1, 2026"),
        ("{{ '2026-11-01'|date('d. MMMM y', 'de_DE') }}", "1. November 2026"),
        ("{{ '2026-11-01'|date('full', locale='fr') }}", "dimanche 1 novembre 2026"),
        ("{{ '2026-11-01T23:30:00Z'|date('long', zone='Europe/Berlin') }}", "November 2, 2026"),
        ("{{ 1793520000|date('y-MM-dd') }}", "2026-11-01"),
        ("{{ '1793520000'|datetime('y-MM-dd HH:mm') }}", "2026-11-01 08:00"),
        ("{{ '2026-11-01T08:05:00+01:00'|time }}", "8:05 AM"),
        ("{{ '2026-11-01 08:05'|time('HH:mm') }}", "08:05"),
        ("{{ '2026-11-01T08:05:00Z'|datetime(locale='de-DE', zone='Asia/Tokyo') }}", "01.11.2026, 17:05:00"),
        ("{{ 1234567.891|number }}", "1,234,567.891"),
        ("{{ '1234567.5'|number(locale='de') }}", "1.234.567,5"),
        ("{{ 1234.5|number('#,##0.00') }}", "1,234.50"),
        ("{{ 0.256|percent }} {{ 0.256|percent('#,##0.0%') }}", "26% 25.6%"),
        ("{{ 19.5|currency('EUR') }} {{ '19.99'|currency('EUR', locale='de_DE') }}", "€19.50 19,99 €"),
        ("{{ 5|currency('JPY') }}", "¥5"),
    ],
)
def test_constants(text, expected):
    assert made(text) == expected


def test_the_message_has_a_locale_and_a_filter_may_have_another():
    text = "{{ n|number }} {{ n|number(locale='en') }} {{ when|date }}"
    assert made(text, {"n": 1234.5, "when": "2026-11-01"}, "de_DE") == "1.234,5 1,234.5 01.11.2026"


def test_a_recipient_has_a_locale():
    assert made("{{ n|currency('EUR', locale=lang) }}", {"n": 3, "lang": "fi"}) == "3,00 €"


def test_objects_of_the_standard_library():
    assert filters("en_GB")["date"](date(2026, 11, 1), "long") == "1 November 2026"
    assert filters(None)["datetime"](datetime(2026, 11, 1, 8, tzinfo=UTC), "HH:mm", zone="Asia/Tokyo") == "17:00"


def test_a_constant_is_made_once():
    assert compile_message(MessageSpec(from_="n@example.com", text="{{ '2026-11-01'|date }}"), job="j").shared


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        ("{{ v|date }}", {"v": "tomorrow"}, "'tomorrow' is no date"),
        ("{{ v|date }}", {"v": ""}, "is no date"),
        ("{{ v|date }}", {"v": 1e300}, "is no date"),
        ("{{ v|date }}", {"v": True}, "is no date"),
        ("{{ v|number }}", {"v": "1,5"}, "'1,5' is no number"),
        ("{{ v|number }}", {"v": "NaN"}, "is no number"),
        ("{{ v|number }}", {"v": "1e999999999"}, "is no number"),
        ("{{ v|number }}", {"v": 10**5000}, "is no number"),
        ("{{ v|currency('euro') }}", {"v": 1}, "currency 'euro'"),
        ("{{ v|number(locale=l) }}", {"v": 1, "l": "../../etc"}, "locale '../../etc' is unknown"),
        ("{{ v|date(zone=l) }}", {"v": 1, "l": "../../etc"}, "time zone '../../etc' is unknown"),
        ("{{ v|date(l) }}", {"v": 1, "l": "y" * 9999}, "format of a date"),
    ],
)
def test_what_is_none_fails_that_recipient_and_says_where(text, row, words):
    error = made("first\n" + text, row)
    assert isinstance(error, MessageError) and error.scope == RECIPIENT
    assert str(error).startswith("text, line 2: ") and words in str(error)


def test_an_unknown_locale_of_the_message_is_an_error_when_compiled():
    with pytest.raises(MessageError, match="locale: the locale 'xx_YY' is unknown"):
        made("x", locale="xx_YY")


def test_without_babel_the_template_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    monkeypatch.setitem(sys.modules, "babel.dates", None)
    with pytest.raises(MessageError, match=r"text, line 2, 'date': .*pip install 'bulkmail\[locale\]'"):
        made("first\n{{ v|date }}")
    assert made("{{ v|upper }}", {"v": "x"}) == "X"


def test_large_numbers_keep_their_digits():
    assert made("{{ v|number }}", {"v": "12345678901234567890.12"}) == "12,345,678,901,234,567,890.12"
    assert isinstance(made("{{ v|number }}", {"v": "1" * 30}), MessageError)
