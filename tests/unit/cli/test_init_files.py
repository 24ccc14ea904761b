"""`init` writes a whole starter job and overwrites nothing."""

from __future__ import annotations

import csv
import json

from bulkmail.cli.starter import FILES


def test_it_writes_a_manifest_and_all_that_it_names(call, tmp_path):
    folder = tmp_path / "deep" / "news"
    result = call("init", folder)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    manifest = json.loads((folder / "newsletter.json").read_text())
    message = manifest["message"]
    for name in (message["html"]["file"], message["text"]["file"], manifest["recipients"]):
        assert (folder / name).stat().st_size > 0
    assert manifest["relays"] == "smtp://127.0.0.1:2525"
    rows = list(csv.DictReader((folder / "recipients.csv").open(encoding="utf-8", newline="")))
    assert rows and all(row["email"] and row["id"] for row in rows)


def test_it_overwrites_nothing_and_then_writes_nothing(call, tmp_path):
    (tmp_path / "recipients.csv").write_text("mine")
    result = call("init", tmp_path)
    assert result.exit_code == 2
    assert "recipients.csv" in result.stderr and result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["recipients.csv"]
    assert (tmp_path / "recipients.csv").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_a_sentence(call, tmp_path):
    (tmp_path / "file").write_text("")
    result = call("init", tmp_path / "file" / "below")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1 and "below" in result.stderr


def test_without_a_name_it_writes_here(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("init").exit_code == 0
    assert (tmp_path / "newsletter.json").exists()
