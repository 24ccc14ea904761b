"""A journal is cut by the domains of the run that filled it: which changes of `domains` a resume takes."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from integration.cli_program import bulkmail, write_job

ROWS = "".join(f'{{"email":"r{n}@{d}","name":"N"}}\n' for n in range(5) for d in ("gmail.com", "x.test"))
EVERYBODY = Counter(json.loads(row)["email"] for row in ROWS.splitlines())


def job(folder, url, domains):
    relay = {"name": "main", "url": url, "egress": ["a", "b"], "domains": domains}
    egress = {"a": {"local_address": "127.0.0.1"}, "b": {"local_address": "127.0.0.1"}}
    return write_job(folder, [relay], ROWS, egress=egress, retry={"patience": 0})


def send(folder, *options):
    return bulkmail("send", "news.json", "--json", *options, cwd=folder)


@pytest.fixture
def stopped(tmp_path, free_port):
    """A job that nobody has got anything of yet."""
    job(tmp_path, f"smtp://127.0.0.1:{free_port()}", {"gmail.com": ["a"]})
    first = send(tmp_path)
    assert first.returncode == 3, first.stderr
    return tmp_path


def addresses(server):
    return Counter(address for mail in server.mails for address in mail.recipients)


def test_further_domains_are_refused_and_nothing_is_sent(stopped, start_aiosmtpd):
    server = start_aiosmtpd()
    job(stopped, server.url, {"gmail.com": ["a"], "x.test": ["b"]})
    found = send(stopped, "--resume")
    assert found.returncode == 2 and found.stdout == "" and addresses(server) == Counter()
    assert "news.journal: its recipients are not sorted by the domains x.test, which 'domains' of a relay" in (
        found.stderr.replace("\n", " ")
    )
    assert "--fresh" in found.stderr
    assert send(stopped, "--fresh").returncode == 0
    assert addresses(server) == EVERYBODY


@pytest.mark.parametrize("domains", [{}, {"gmail.com": ["b"]}, {"*": ["b"]}, {"gmail.com": ["a"], "*": ["b"]}])
def test_fewer_domains_or_other_egresses_are_fine(stopped, start_aiosmtpd, domains):
    server = start_aiosmtpd()
    job(stopped, server.url, domains)
    found = send(stopped, "--resume")
    assert found.returncode == 0, found.stderr
    assert addresses(server) == EVERYBODY
    rows = bulkmail("report", "news.journal", "--format", "jsonl", cwd=stopped).stdout.splitlines()
    allowed = {
        "gmail.com": domains.get("gmail.com", domains.get("*", ["a", "b"])),
        "x.test": domains.get("*", ["a", "b"]),
    }
    assert len(rows) == len(EVERYBODY)
    for row in map(json.loads, rows):
        assert row["egress"] in allowed[row["recipient"].partition("@")[2]]
