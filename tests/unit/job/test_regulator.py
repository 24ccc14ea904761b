"""Limits of a running job by name: shown as they are, changed where they are, and taken up from a changed manifest."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from bulkmail.job.changes import parse_changes
from bulkmail.job.manifest import load_manifest
from bulkmail.job.pacing import Pacing
from bulkmail.job.regulator import Regulator, limits_of, names_of
from bulkmail.job.relay import Relay
from bulkmail.pool.limits import Limit
from unit.job.virtual_loop import VirtualLoop

MANIFEST = {
    "message": {"from": "a@example.com", "text": "x"},
    "recipients": ["b@example.com"],
    "relays": [
        {"name": "main", "url": "smtp://127.0.0.1", "connections": 20, "rate": "90/s", "egress": ["a", "b"]},
        {"name": "spare", "url": "smtp://127.0.0.2"},
    ],
    "egress": {
        "a": {"local_address": "127.0.0.1", "rate": "600/m", "max_connections": 7},
        "b": {"local_address": "127.0.0.1"},
    },
    "limits": {
        "rate": "100/s",
        "connections": 30,
        "domains": {"gmail.com,googlemail.com": {"rate": "20/s"}, "*": {"connections": 9}},
    },
}


@pytest.fixture
def read(tmp_path):
    def read(**changed):
        (tmp_path / "m.json").write_text(json.dumps(MANIFEST | changed))
        return load_manifest(tmp_path / "m.json", environ={})

    return read


class Lane:
    def __init__(self, pool, way):
        self.pool, self.egress, self.most, self.counted = pool, way, way.max_connections, False
        self.pace = Limit(way.rate.per_second if way.rate else None)


class Pool:
    def __init__(self, spec, limit):
        self.limit = limit
        self.lanes = [Lane(self, way) for way in spec.egresses]

    def resize(self, limit):
        self.limit = limit


@pytest.fixture
def regulated(read):
    manifest, loop = read(), VirtualLoop()
    relays = []
    for spec in manifest.relays:
        rate = spec.endpoint.options.rate
        relays.append(Relay(spec, spec.connections, Limit(rate.per_second if rate else None), 300.0))
        relays[-1].pool = Pool(spec, spec.connections)
    limits = manifest.limits
    more = {"connections": limits.connections, "domains": limits.domains}
    pacing = Pacing(loop, Limit(limits.rate.per_second), relays, lambda: None, lambda less: None, **more)
    pacing.start()
    regulator = Regulator(manifest, pacing)

    def set_(limits):
        for change in parse_changes(limits, names_of(manifest)):
            regulator.change(change)

    yield SimpleNamespace(manifest=manifest, regulator=regulator, pacing=pacing, relays=relays, set=set_)
    loop.close()


def test_what_is_shown_is_what_the_manifest_says(regulated):
    assert regulated.regulator.now() == limits_of(regulated.manifest)
    assert regulated.regulator.now() == {
        "rate": "100/s", "connections": 30,
        "domain.gmail.com,googlemail.com.rate": "20/s", "domain.gmail.com,googlemail.com.connections": None,
        "domain.*.rate": None, "domain.*.connections": 9,
        "relay.main.rate": "90/s", "relay.main.connections": 20, "relay.spare.rate": None, "relay.spare.connections": 5,
        "egress.a.rate": "10/s", "egress.a.connections": 7, "egress.b.rate": None, "egress.b.connections": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted({
    "rate", "connections", "relay.main.rate", "relay.spare.rate", "relay.main.connections", "egress.a.rate",
    "egress.b.rate", "egress.a.connections", "egress.b.connections", "domain.*.rate", "domain.*.connections",
    "domain.gmail.com,googlemail.com.rate", "domain.gmail.com,googlemail.com.connections",
}))  # fmt: skip
def test_each_limit_is_changed_alone(regulated, name):
    before = regulated.regulator.now()
    value = 3 if name.endswith("connections") else "7/s"
    regulated.set({name: value})
    assert regulated.regulator.now() == before | {name: value}


def test_a_group_of_domains_is_known_by_each_of_them(regulated):
    regulated.set({"domain.googlemail.com.rate": "2/s"})
    assert regulated.regulator.now()["domain.gmail.com,googlemail.com.rate"] == "2/s"
    assert regulated.pacing.group("gmail.com").rate == 2


def test_none_takes_a_limit_away(regulated):
    regulated.set(dict.fromkeys(("rate", "connections", "egress.a.connections", "domain.*.connections"), "none"))
    now = regulated.regulator.now()
    assert (now["rate"], now["connections"], now["egress.a.connections"], now["domain.*.connections"]) == (None,) * 4
    assert regulated.relays[0].pool.lanes[0].most is None


def test_an_egress_may_have_more_connections_than_its_manifest_says(regulated):
    regulated.set({"egress.a.connections": 12})
    assert regulated.relays[0].pool.lanes[0].most == 12


def test_a_cap_of_somebody_else_is_not_lifted_by_the_operator(regulated):
    regulated.pacing.cap("job", "window", rate=0)
    regulated.set({"rate": "500/s"})
    assert regulated.pacing.limit("job").rate == 0
    assert regulated.regulator.now()["rate"] == "500/s"


def test_connections_of_the_job_are_dealt_to_its_relays(regulated):
    regulated.set({"connections": 10})
    assert sum(relay.pool.limit for relay in regulated.relays) == 10
