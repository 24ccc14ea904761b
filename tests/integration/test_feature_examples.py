"""docs/features.md: every example there does what its row says, and every key of a manifest has one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from bulkmail.job.manifest import manifest_schema
from integration import features_of_messages, features_of_relays
from integration.feature_page import rows, send, table_rows
from integration.feature_promises import CHECKS

ROWS = rows()
PROMISES = features_of_messages, features_of_relays  # they fill CHECKS


@pytest.mark.parametrize("name", ROWS)
def test_the_example_does_what_its_row_says(
    name: str, tmp_path: Path, smtp_sink_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in CHECKS, f"docs/features.md has the row {name!r}, and nothing here says what it promises"
    check, options, needs = CHECKS[name]
    if needs is not None and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    options = {key: value() if callable(value) else value for key, value in options.items()}
    ran = send(ROWS[name], tmp_path, smtp_sink_factory(**options), monkeypatch)
    check(ran)


def test_every_row_of_the_page_was_read_and_every_check_has_its_row() -> None:
    assert len(ROWS) == table_rows()
    assert CHECKS.keys() <= ROWS.keys()


def test_every_key_of_a_manifest_has_an_example() -> None:
    schema = manifest_schema()
    models = {title: set(shape["properties"]) for title, shape in schema["$defs"].items()}
    wanted = set(schema["properties"]) - {"message", "recipients", "limits", "retry"}
    for area, title in AREAS.items():
        wanted |= {f"{area}.{name}" for name in models[title]}
    shown = {name.split(" ")[0] for name in ROWS}
    assert wanted - shown - SHOWN_BY_ALL == set()


AREAS = {
    "message": "Message",
    "recipients": "Recipients",
    "relays": "Relay",
    "limits": "Limits",
    "retry": "Retry",
}
SHOWN_BY_ALL = {"relays.url"}
