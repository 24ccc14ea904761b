"""`"validate": false`: sending begins before the list is read to its end, and all else is as with the pass."""

import json
from collections import Counter

import pytest

from bulkmail import Job
from bulkmail.errors import JournalError, ManifestError
from bulkmail.job import fill_on


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for name, value in (("ROWS", 10), ("FIRST_ROWS", 20), ("PART_ROWS", 100)):
        monkeypatch.setattr(fill_on, name, value)


def job(folder, url, **recipients):
    lines = [json.dumps({"email": f"r{i}@x.org", "name": f"N {i}"}) for i in range(1000)]
    lines[500:500] = ['{"name": "nobody"}', json.dumps({"email": "R3@x.org", "name": "again"})]
    lines[700:700] = [json.dumps({"email": "broken@x.org", "name": "two\nlines"})]
    if not (folder / "list.jsonl").exists():
        (folder / "list.jsonl").write_text("\n".join(lines))
    manifest = {
        "message": {"from": "news@example.com", "subject": "Hello {{ name }}", "text": "Dear {{ name }}"},
        "recipients": {"file": "list.jsonl", "validate": False, "deduplicate": True, **recipients},
        "relays": {"url": url, "connections": 2},
    }
    (folder / "job.json").write_text(json.dumps(manifest))
    return Job.load(folder / "job.json")


def stop_once(running):
    """At the first delivery; a second call would abandon what is in flight."""
    left = ["stop"]

    def listen(event):
        if event["event"] == "delivered" and left:
            left.clear()
            running.stop()

    return listen


def figures(report):
    return {name: report.summary[name] for name in ("recipients", "delivered", "failed", "suppressed", "pending")}


def test_everybody_has_an_outcome_at_the_end(smtp_sink, tmp_path):
    events = []
    report = job(tmp_path, smtp_sink.url).run(on_event=events.append)
    assert (report.exit_code, report.summary["state"]) == (1, "finished")
    assert figures(report) == {"recipients": 1003, "delivered": 1000, "failed": 2, "suppressed": 1, "pending": 0}
    assert Counter(message.recipients[0] for message in smtp_sink.messages) == {f"r{i}@x.org": 1 for i in range(1000)}
    told = Counter(event["event"] for event in events)
    assert (told["delivered"], told["failed"], told["suppressed"]) == (1000, 2, 1)
    [suppressed] = [event for event in events if event["event"] == "suppressed"]
    assert suppressed["recipient"] == "R3@x.org"
    started = events[0]
    assert (started["event"], started["recipients"]) == ("started", 20), "the list was read first"


def test_a_run_that_is_stopped_meanwhile_is_not_finished_and_goes_on(smtp_sink, tmp_path, monkeypatch):
    monkeypatch.setattr(fill_on, "PART_ROWS", 20)  # many commits: it is stopped before the last one
    first = job(tmp_path, smtp_sink.url)
    report = first.run(on_event=stop_once(first))
    assert (report.exit_code, report.summary["state"]) == (3, "stopped")
    assert report.summary["recipients"] < 1003
    report = job(tmp_path, smtp_sink.url).run(resume=True)
    assert report.summary["state"] == "finished"
    assert figures(report) == {"recipients": 1003, "delivered": 1000, "failed": 2, "suppressed": 1, "pending": 0}
    assert Counter(message.recipients[0] for message in smtp_sink.messages) == {f"r{i}@x.org": 1 for i in range(1000)}


@pytest.mark.parametrize("limit", [5, 20, 333])
def test_a_limit_holds_over_runs(smtp_sink, tmp_path, limit):
    first = job(tmp_path, smtp_sink.url)
    first.run(limit=limit, on_event=stop_once(first))
    report = job(tmp_path, smtp_sink.url).run(resume=True)
    assert (report.summary["recipients"], report.summary["delivered"]) == (limit, limit)


def test_a_list_that_changes_meanwhile_stops_the_job(smtp_sink, tmp_path):
    running = job(tmp_path, smtp_sink.url)

    def change(event):
        if event["event"] == "delivered":
            with open(tmp_path / "list.jsonl", "a") as file:
                file.write("\n")

    report = running.run(on_event=change)
    assert report.exit_code == 3 and isinstance(report.error, JournalError)
    assert "list.jsonl was changed while the job was using it" in str(report.error)
    with pytest.raises(JournalError, match="another size"):
        job(tmp_path, smtp_sink.url).run(resume=True)


def test_a_list_without_recipients_leaves_nothing(smtp_sink, tmp_path):
    running = job(tmp_path, smtp_sink.url)
    (tmp_path / "list.jsonl").write_text("\n")
    with pytest.raises(ManifestError, match="no recipients"):
        running.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "list.jsonl"]


def test_a_pass_that_stops_for_bad_rows_cannot_be_left_out(tmp_path):
    with pytest.raises(ManifestError, match='"bad_rows" is "stop" and "validate" false'):
        job(tmp_path, "smtp://127.0.0.1:1", bad_rows="stop")
    assert job(tmp_path, "smtp://127.0.0.1:1").manifest.recipients.bad_rows == "skip"
    with_pass = job(tmp_path, "smtp://127.0.0.1:1", validate=True).manifest
    assert with_pass.recipients.bad_rows == "stop"
    assert with_pass.digest != job(tmp_path, "smtp://127.0.0.1:1").manifest.digest
