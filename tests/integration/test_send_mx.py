"""Jobs with limits by MX: what is looked up when, and that the limits hold."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from bulkmail import Job
from bulkmail.errors import ManifestError
from bulkmail.job import fill_on, limits_model
from bulkmail.job.report import iter_report
from unit.message.dns_server import SILENT, serving

ZONE = {
    **{f"hosted{n}.test": {"MX": ["10 aspmx.l.google.com."]} for n in range(3)},
    "own.test": {"MX": ["10 mx.own.test."]},
}
LIMITS = {"named.test,mx:google.com": {"rate": "10/s", "burst": 1}, "*": {}}


def job(folder, url, server, *, domains=LIMITS, relay=None, egress=None, validate=True, copies=1):
    people = [f"r{n}@{domain}" for n in range(copies) for domain in ("hosted0.test", "hosted1.test", "own.test")]
    people += [f"r{n}@named.test" for n in range(copies)] + [f"r{n}@hosted2.test" for n in range(copies)]
    (folder / "list.jsonl").write_text("".join(json.dumps({"email": one}) + "\n" for one in people))
    manifest = {
        "message": {"from": "news@example.com", "subject": "Hello", "text": "Dear {{ email }}"},
        "recipients": {"file": "list.jsonl", "validate": validate},
        "relays": {"url": url, **(relay or {})},
        "limits": {"domains": domains, "dns_server": server},
        **({"egress": egress} if egress else {}),
    }
    (folder / "job.json").write_text(json.dumps(manifest))
    return Job.load(folder / "job.json")


def routes(folder):
    """Recipients by route."""
    [journal] = folder.glob("*.journal")
    with closing(sqlite3.connect(journal)) as db:
        return dict(db.execute("SELECT route, recipients FROM routes"))


@pytest.mark.parametrize("validate", [True, False])
def test_domains_of_one_provider_share_a_limit(smtp_sink, tmp_path, validate, monkeypatch):
    monkeypatch.setattr(fill_on, "FIRST_ROWS", 3)
    monkeypatch.setattr(fill_on, "ROWS", 3)
    with serving(ZONE) as server:
        report = job(tmp_path, smtp_sink.url, server.address, validate=validate, copies=2).run()
        assert Counter(name for name, _, _ in server.asked) == Counter(list(ZONE))
    assert (report.exit_code, report.summary["delivered"]) == (0, 10)
    assert routes(tmp_path) == {"mx:google.com": 6, "named.test": 2, "*": 2}
    assert report.summary["seconds"] >= 0.69, "eight at 10/s, the first at once"


def test_a_resumed_job_asks_nobody(smtp_sink, tmp_path, free_port):
    with serving(ZONE) as server:
        dead = f"smtp://127.0.0.1:{free_port()}"
        made = job(tmp_path, dead, server.address)
        assert (
            made.run(on_event=lambda event: made.stop() if event["event"] == "connect_failed" else None).exit_code == 3
        )
        asked = len(server.asked)
        assert job(tmp_path, smtp_sink.url, server.address).run(resume=True).summary["delivered"] == 5
        assert len(server.asked) == asked == 4
    assert routes(tmp_path) == {"mx:google.com": 3, "named.test": 1, "*": 1}


def test_relays_rules_for_domains_hold_too(smtp_sink, tmp_path):
    egress = {"a": {"local_address": "127.0.0.1"}, "b": {"local_address": "127.0.0.1"}}
    relay = {"egress": ["a", "b"], "domains": {"hosted0.test": ["a"], "*": ["b"]}}
    with serving(ZONE) as server:
        made = job(tmp_path, smtp_sink.url, server.address, relay=relay, egress=egress)
        assert made.run().exit_code == 0
    assert routes(tmp_path) == {"mx:google.com/hosted0.test": 1, "mx:google.com": 2, "named.test": 1, "*": 1}
    by = {row["recipient"]: row["egress"] for row in iter_report(made.manifest.journal)}
    assert by.pop("r0@hosted0.test") == "a"
    assert set(by.values()) == {"b"}


def test_sending_goes_on_while_a_domain_is_waited_for(smtp_sink, tmp_path, monkeypatch):
    """With "validate": false the loop is not held up; and a stop does not wait for the DNS."""
    monkeypatch.setattr(fill_on, "FIRST_ROWS", 3)
    monkeypatch.setattr(fill_on, "ROWS", 3)
    monkeypatch.setattr("bulkmail.job.mx.AHEAD", 0)
    with serving({**ZONE, "hosted2.test": {"MX": SILENT}}) as server:
        made = job(tmp_path, smtp_sink.url, server.address, domains={"mx:google.com": {}}, validate=False)
        events = []
        report = made.run(on_event=lambda event: (events.append(event["event"]), stop_at_third(made, events)))
    assert (report.exit_code, report.summary["recipients"], report.summary["delivered"]) == (3, 3, 3)


def stop_at_third(made, events):
    if events.count("delivered") == 3:
        made.stop()


@pytest.mark.parametrize("how", ["check", "dry run"])
def test_who_only_looks_asks_nobody(smtp_sink, tmp_path, how):
    with serving(ZONE) as server:
        made = job(tmp_path, smtp_sink.url, server.address)
        if how == "check":
            made.check()
        else:
            made.run(dry_run=True)
        assert server.asked == []


def test_without_dnspython_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(limits_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ManifestError, match=r"'mx:google.com' needs the package dnspython: pip install 'bulkmail\[dns\]'"
    ):
        job(tmp_path, "smtp://127.0.0.1", None)
    assert job(tmp_path, "smtp://127.0.0.1", None, domains={"named.test": {}}), "which needs none"
