"""How many workers a job has, and that their parts of each limit add up to no more than the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError, ManifestError
from bulkmail.job.changes import Change, parse_changes
from bulkmail.job.manifest import Manifest, load_manifest
from bulkmail.job.regulator import names_of
from bulkmail.job.variants import compile_job
from bulkmail.job.workers.regulator import CrewRegulator
from bulkmail.job.workers.remote import OwnGroups
from bulkmail.job.workers.share import RECIPIENTS_EACH, how_many, share_of
from bulkmail.pool.limits import Limit
from unit.message.dkim_corpus import ed25519_key, rsa_key

MANY = 1_000_000


def manifest(folder: Path, *, workers: Any = 4, **keys: Any) -> Manifest:
    whole = {
        "job": "news",
        "message": {"from": "news@example.com", "subject": "s", "text": "Hello {{ email }}"},
        "recipients": ["ann@example.com"],
        "relays": {"url": "smtp://relay.example", "connections": 20},
        "workers": workers,
        **keys,
    }
    path = folder / "news.json"
    path.write_text(json.dumps(whole))
    return load_manifest(path)


def count(job: Manifest, recipients: int | None = MANY) -> int:
    return how_many(job, compile_job(job), recipients).most


RELAY = "smtp://relay.example"


@pytest.mark.parametrize(
    ("keys", "workers", "why"),
    [
        ({}, 4, ""),
        ({"relays": {"url": RELAY, "connections": 3}}, 3, "relay relay.example has 3 connections"),
        ({"limits": {"connections": 2}}, 2, "relay relay.example has 2 connections"),
        ({"limits": {"rate": "1200/s"}}, 2, "the rate of the job is 1200/s"),
        ({"limits": {"rate": "100/s"}}, 1, "the rate of the job is 100/s"),
        ({"limits": {"rate": "9000/s", "burst": 3}}, 3, "the burst of the job is 3"),
        ({"relays": {"url": RELAY, "connections": 20, "rate": "1600/s"}}, 3, "the rate of relay relay.example"),
        ({"limits": {"ramp": {"from": "30/s", "to": "9000/s", "over": "1h"}}}, 3, "the ramp's first rate"),
        ({"relays": {"url": RELAY, "connections": 20, "wire_log": "log"}}, 1, "'wire_log'"),
        (
            {
                "egress": {"a": {"local_address": "127.0.0.2", "max_connections": 2}},
                "relays": {"url": RELAY, "connections": 20, "egress": ["a"]},
            },
            2,
            "egress a has 2 connections",
        ),
        ({"limits": {"domains": {"gmail.com": {"rate": "1/s", "connections": 1}}}}, 4, ""),
    ],
)
def test_a_job_has_as_many_workers_as_its_limits_have_parts(tmp_path, keys, workers, why):
    job = manifest(tmp_path, **keys)
    found = how_many(job, compile_job(job), MANY)
    assert found.most == workers
    assert why in found.why


def test_few_recipients_need_few_workers(tmp_path):
    job = manifest(tmp_path)
    assert [count(job, n * RECIPIENTS_EACH) for n in (0, 1, 2, 3, 9)] == [1, 1, 2, 3, 4]
    assert count(job, 2 * RECIPIENTS_EACH - 1) == 1
    assert count(job, None) == 4, "how many there are is not known yet"


@pytest.mark.parametrize("wrong", [0, -1, 65, 1.5, True, "many", None])
def test_a_number_of_workers_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(ManifestError, match=r"\$\.workers.*expected a whole number from 1 to 64, or 'auto'"):
        manifest(tmp_path, workers=wrong)


def test_auto_is_one_for_each_core(tmp_path, monkeypatch):
    monkeypatch.setattr("bulkmail.job.workers.share.cores", lambda: 3)
    assert count(manifest(tmp_path, workers="auto")) == 3


@pytest.mark.parametrize(("kind", "cores", "workers"), [("rsa", 2, 1), ("rsa", 12, 12), ("ed25519", 2, 2)])
def test_auto_leaves_the_few_cores_that_rsa_keeps_busy_to_signing_processes(
    tmp_path, monkeypatch, kind, cores, workers
):
    key = rsa_key() if kind == "rsa" else ed25519_key()
    message = {"from": "news@example.com", "subject": "s", "text": "Hello {{ email }}"}
    message |= {"dkim": [{"domain": "example.com", "selector": "s1", "key": key}]}
    monkeypatch.setattr("bulkmail.job.workers.share.cores", lambda: cores)
    assert count(manifest(tmp_path, workers="auto", message=message)) == workers
    assert count(manifest(tmp_path, workers=2, message=message)) == 2


def bursts(parts: list[Manifest]) -> int:
    limits = [Limit(part.limits.rate.per_second, part.limits.burst) for part in parts]
    return sum(limit.burst for limit in limits)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_parts_of_all_workers_are_the_whole(tmp_path, workers):
    job = manifest(
        tmp_path,
        egress={name: {"local_address": "127.0.0.2", "rate": "2500/s", "max_connections": 7} for name in "ab"},
        relays=[
            {"url": "smtp://one.example", "connections": 11, "rate": "4001/s", "egress": ["a", "b"]},
            {"url": "smtp://two.example", "connections": 9},
        ],
        limits={"rate": "3000/s", "connections": 14, "ramp": {"from": "50/s", "to": "2000/s", "over": "1m"}},
    )
    parts = [share_of(job, workers, index) for index in range(workers)]
    assert sum(part.limits.connections or 0 for part in parts) == 14
    of_relays = [sum(part.relays[n].connections for part in parts) for n in range(2)]
    assert sum(of_relays) == 14
    assert all(relay.connections >= 1 for part in parts for relay in part.relays)
    for rates, whole in (
        ([part.limits.rate for part in parts], 3000),
        ([part.relays[0].endpoint.options.rate for part in parts], 4001),
        ([part.relays[0].egresses[1].rate for part in parts], 2500),
    ):
        assert sum(rate.per_second for rate in rates) == pytest.approx(whole)
    assert sum(part.relays[0].egresses[0].max_connections or 0 for part in parts) == 7
    assert sum(part.limits.ramp.end for part in parts if part.limits.ramp) == pytest.approx(2000)
    assert bursts(parts) <= 300


def test_a_burst_is_divided(tmp_path):
    job = manifest(tmp_path, limits={"rate": "9000/s", "burst": 11})
    assert [share_of(job, 4, index).limits.burst for index in range(4)] == [2, 2, 2, 2]


# ---- groups of domains: each is one worker's


def test_each_group_of_domains_has_one_worker_and_what_has_no_group_all(tmp_path):
    groups = {"a.test,b.test": {"rate": "1/s"}, "*.c.test": {"rate": "1/s"}, "d.test": {"connections": 1}}
    limits = manifest(tmp_path, limits={"domains": groups}).limits.domains
    owned = [OwnGroups(limits, 2, index) for index in range(2)]
    mine = {route: [one.mine(route) for one in owned] for route in ("a.test", "b.test", "*.c.test", "d.test", "*")}
    assert mine == {
        "a.test": [True, False],
        "b.test": [True, False],
        "*.c.test": [False, True],
        "d.test": [True, False],
        "*": [True, True],
    }
    assert [one.mine("b.test !main") for one in owned] == [True, False], "a retry's route"


def test_the_group_of_all_others_has_one_worker_too(tmp_path):
    limits = manifest(tmp_path, limits={"domains": {"a.test": {"rate": "1/s"}, "*": {"rate": "9/s"}}}).limits.domains
    owned = [OwnGroups(limits, 2, index) for index in range(2)]
    assert [one.mine("*") for one in owned] == [False, True]


def test_the_groups_of_a_worker_that_is_lost_go_to_the_others_and_no_other_group_moves(tmp_path):
    groups = {f"d{n}.test": {"rate": "1/s"} for n in range(9)}
    limits = manifest(tmp_path, limits={"domains": groups}).limits.domains
    owned = {index: OwnGroups(limits, 3, index) for index in (0, 2)}
    before = {index: {name for name in groups if one.mine(name)} for index, one in owned.items()}
    gained = {index: {one.patterns[0] for one in owner.inherit(1, [0, 2])} for index, owner in owned.items()}
    for index, one in owned.items():
        assert {name for name in groups if one.mine(name)} == before[index] | gained[index]
    assert set().union(*before.values(), *gained.values()) == set(groups)
    assert gained[0].isdisjoint(gained[2])


# ---- changed while it runs


def changed(job: Manifest, limits: dict[str, Any], workers: int = 4) -> tuple[CrewRegulator, list[list[Change]]]:
    got: list[list[Change]] = [[] for _ in range(workers)]
    regulator = CrewRegulator(job, workers, lambda index, change: got[index].append(change))
    changes = parse_changes(limits, names_of(job))
    regulator.check(changes)
    for change in changes:
        regulator.change(change)
    return regulator, got


def test_a_change_is_divided_and_shown_as_a_whole(tmp_path):
    job = manifest(tmp_path, limits={"domains": {"a.test,b.test": {"rate": "9/s"}}})
    regulator, got = changed(job, {"rate": "400/s", "relay.relay.example.connections": 10, "domain.b.test.rate": "7/s"})
    now = regulator.now()
    assert now["rate"] == "400/s"
    assert now["relay.relay.example.connections"] == 10
    assert now["domain.a.test,b.test.rate"] == "7/s"
    assert [one[0].value.per_second for one in got] == [100] * 4
    assert [one[1].value for one in got] == [3, 3, 2, 2]
    assert [one[2].value.per_second for one in got] == [7] * 4, "one worker has the group, and the whole of its limit"


@pytest.mark.parametrize(
    "limits",
    [{"rate": "39/s"}, {"connections": 3}, {"relay.relay.example.rate": "1/s"}, {"rate": "1/s", "connections": 9}],
)
def test_what_cannot_be_divided_is_refused_and_nothing_is_changed(tmp_path, limits):
    with pytest.raises(ConfigError, match="the 4 workers of this run cannot share less than"):
        changed(manifest(tmp_path), limits)


def test_a_limit_can_be_lifted(tmp_path):
    regulator, got = changed(manifest(tmp_path, limits={"rate": "8000/s"}), {"rate": "none"})
    assert regulator.now()["rate"] is None
    assert [one[0].value for one in got] == [None] * 4
