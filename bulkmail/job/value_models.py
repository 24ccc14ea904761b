"""Values that several objects of a manifest have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from bulkmail.url import OPTIONS
from bulkmail.values import MOST_WORKERS, Rate, parse_rate, parse_seconds, parse_workers

Seconds = Annotated[
    float,
    BeforeValidator(lambda value, info: parse_seconds(value, "the time")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["90s", "5m", "2h", "1d", 90]}),
]
RateText = Annotated[
    Rate,
    PlainValidator(lambda value: parse_rate(value, "the rate")),
    WithJsonSchema({"type": "string", "examples": ["300/s", "5000/m", "100000/h", "1000000/d"]}),
]
Count = Annotated[
    int,
    BeforeValidator(lambda value: OPTIONS["connections"].metadata["parse"](value, "the number")),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]
Workers = Annotated[
    Any,
    PlainValidator(lambda value: parse_workers(value, "the number")),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_WORKERS}, {"const": "auto"}]}),
]
