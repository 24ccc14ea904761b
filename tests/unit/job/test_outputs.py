"""What a job writes does not go into what it reads."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.job.job import Job
from bulkmail.job.outputs import check_outputs


def load(folder: Path, **keys: Any) -> Job:
    (folder / "list.csv").write_text("email\nann@example.com\n")
    (folder / "gone.txt").write_text("bob@example.com\n")
    sqlite3.connect(folder / "shop.db").close()
    (folder / "shop.db").touch()
    manifest = {
        "message": {"from": "news@example.com", "text": "News"},
        "recipients": {"file": "list.csv", "suppress": ["gone.txt"]},
        "relays": "smtp://127.0.0.1:1",
        "journal": "news.journal",
        **keys,
    }
    (folder / "news.json").write_text(json.dumps(manifest))
    return Job.load(folder / "news.json")


TAKEN = [
    ("list.csv", "list of recipients"),
    ("./list.csv", "list of recipients"),
    ("gone.txt", "suppression list"),
    ("news.json", "manifest"),
    ("news.journal", "journal"),
    ("news.journal-wal", "journal"),
]


@pytest.mark.parametrize(("name", "what"), TAKEN)
def test_events_are_not_written_into_the_jobs_own_files(tmp_path: Path, name: str, what: str) -> None:
    for events in (name, {"file": name}):
        with pytest.raises(ConfigError, match=rf"\$\.events is .* which is the job's {what}; expected"):
            load(tmp_path, events=events)


@pytest.mark.parametrize(("name", "what"), TAKEN)
def test_nor_is_a_dialogue(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"the wire log of relay main .*'s {what}"):
        load(tmp_path, relays={"name": "main", "url": "smtp://127.0.0.1:1", "wire_log": name})


def test_nor_into_a_database_that_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="database"):
        load(tmp_path, events="shop.db", recipients={"sql": "select 1 as email", "url": "sqlite:///shop.db"})


def test_a_link_to_the_list_is_the_list(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("list.csv")
    with pytest.raises(ConfigError, match="list of recipients"):
        load(tmp_path, events="log")


def test_files_of_the_command_line_are_looked_at_too(tmp_path: Path) -> None:
    job = load(tmp_path, events="events.jsonl")
    check_outputs(job.manifest, events="-")
    check_outputs(job.manifest, events=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"--events is .*list of recipients"):
        check_outputs(job.manifest, events=str(tmp_path / "list.csv"))
