"""`start_at`, and `window`, `ramp` and `adaptive` of `limits`: what they become, and what is wrong with them."""

from __future__ import annotations

import json
import time
from zoneinfo import ZoneInfo

import pytest

from bulkmail.errors import ManifestError
from bulkmail.job.calendar import Window
from bulkmail.job.manifest import load_manifest
from bulkmail.job.specs import AdaptiveSpec, RampSpec

SMALL = {
    "message": {"from": "a@example.com", "subject": "x", "text": "hello"},
    "recipients": ["ann@example.com"],
    "relays": "smtp://relay.example",
}
EVERY_DAY = frozenset(range(7))


def loaded(tmp_path, **keys):
    path = tmp_path / "news.json"
    path.write_text(json.dumps(SMALL | keys))
    return load_manifest(path, environ={})


def test_what_is_not_said(tmp_path):
    manifest = loaded(tmp_path)
    assert manifest.start_at is None
    assert manifest.limits.windows == () and manifest.limits.ramp is None
    assert manifest.limits.adaptive == AdaptiveSpec()


def test_a_window_or_several(tmp_path):
    hours = {"from": "08:00", "to": "20:00", "zone": "Europe/Berlin"}
    night = {"from": "22:30", "to": "06:00", "days": ["Fri", "sat"]}
    one = Window(480, 1200, ZoneInfo("Europe/Berlin"), EVERY_DAY)
    assert loaded(tmp_path, limits={"window": hours}).limits.windows == (one,)
    two = Window(1350, 360, ZoneInfo("UTC"), frozenset((4, 5)))
    assert loaded(tmp_path, limits={"window": [hours, night]}).limits.windows == (one, two)
    whole = loaded(tmp_path, limits={"window": {"from": "00:00", "to": "24:00"}}).limits.windows
    assert whole == (Window(0, 1440, ZoneInfo("UTC"), EVERY_DAY),)


def test_a_ramp(tmp_path):
    ramp = {"from": "600/m", "to": "300/s", "over": "30m"}
    assert loaded(tmp_path, limits={"ramp": ramp}).limits.ramp == RampSpec(10.0, 300.0, 1800.0)


def test_adaptive_on_off_and_by_its_figures(tmp_path):
    assert loaded(tmp_path, limits={"adaptive": False}).limits.adaptive is None
    assert loaded(tmp_path, limits={"adaptive": True}).limits.adaptive == AdaptiveSpec()
    keys = {"floor": "1/s", "ceiling": "50/s", "decrease": 0.5, "recover": "20m", "longest_pause": 60}
    assert loaded(tmp_path, limits={"adaptive": keys}).limits.adaptive == AdaptiveSpec(1.0, 50.0, 0.5, 1200.0, 60.0)


@pytest.mark.parametrize(
    ("text", "moment"), [("2026-11-27T08:00:00+01:00", 1795762800.0), ("2026-11-27T07:00Z", 1795762800.0)]
)
def test_a_time_to_start_at(tmp_path, text, moment):
    assert loaded(tmp_path, start_at=text).start_at == moment


@pytest.mark.parametrize(("days", "said"), [(-8, "it was 8 days ago"), (400, "it is 400 days from now"), (-6, None)])
def test_a_start_that_is_not_likely_to_be_meant_is_a_warning(tmp_path, days, said):
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + days * 86_400 + 60))
    warnings = [sentence for path, sentence in loaded(tmp_path, start_at=text).warnings if path == "$.start_at"]
    assert [sentence.startswith(said or "") for sentence in warnings] == ([True] if said else [])


def test_when_a_job_sends_does_not_change_what_it_sends(tmp_path):
    digests = {
        loaded(tmp_path, **keys).digest
        for keys in ({}, {"start_at": "2026-11-27T08:00Z"}, {"limits": {"window": {"from": "08:00", "to": "09:00"}}})
    }
    assert len(digests) == 1


def hours(**keys):
    return {"limits": {"window": {"from": "08:00", "to": "20:00"} | keys}}


def ramp(**keys):
    return {"limits": {"ramp": {"from": "1/s", "to": "2/s", "over": "1h"} | keys}}


def adaptive(**keys):
    return {"limits": {"adaptive": keys}}


REFUSED = [
    (hours(zone="Europe/Berln"), "$.limits.window.zone", "no time zone 'Europe/Berln', did you mean 'Europe/Berlin'?"),
    (hours(zone="../etc/passwd"), "$.limits.window.zone", "no time zone '../etc/passwd'"),
    (hours(zone=""), "$.limits.window.zone", "no time zone ''"),
    (hours(zone="Europe"), "$.limits.window.zone", "no time zone 'Europe'"),
    (hours(zone=1), "$.limits.window.zone", "expected a string"),
    (hours(**{"from": "8:00"}), "$.limits.window.from", "'8:00', expected a time of day such as '08:00'"),
    (hours(to="25:00"), "$.limits.window.to", "'25:00', expected a time of day"),
    (hours(to="24:01"), "$.limits.window.to", "expected a time of day"),
    (hours(to="08:00"), "$.limits.window", "leave no time between them"),
    (hours(**{"from": "24:00"}), "$.limits.window", "leave no time between them"),
    (hours(days=[]), "$.limits.window.days", "expected at least one entry"),
    (hours(days=["monday"]), "$.limits.window.days[0]", "did you mean 'mon'?"),
    (hours(days="mon"), "$.limits.window.days", "a string, expected a list"),
    (hours(until="20:00"), "$.limits.window.until", "unknown key 'until'"),
    ({"limits": {"window": []}}, "$.limits.window", "expected at least one entry"),
    ({"limits": {"window": "08:00"}}, "$.limits.window", "expected an object with 'from' and 'to', or a list of them"),
    ({"limits": {"window": {"from": "08:00"}}}, "$.limits.window.to", "the key is missing, expected a time of day"),
    (ramp(to="1/s"), "$.limits.ramp", "it goes from 1/s to 1/s, expected a rate that rises"),
    (ramp(over=0), "$.limits.ramp", "'over' is 0"),
    (ramp(over="half an hour"), "$.limits.ramp.over", "expected a time such as"),
    ({"limits": {"ramp": {}}}, "$.limits.ramp.from", "the key is missing, expected a rate such as '10/s'"),
    (adaptive(decrease=1.0), "$.limits.adaptive.decrease", "expected a number from 0.1 to 0.95"),
    (adaptive(decrease=True), "$.limits.adaptive.decrease", "expected a number from 0.1 to 0.95"),
    (
        adaptive(floor="1/m", ceiling="1/h"),
        "$.limits.adaptive",
        "'ceiling' is 1/h, expected at least 'floor', which is 1/m",
    ),
    (adaptive(recover=0), "$.limits.adaptive", "'recover' is 0"),
    (adaptive(speed=1), "$.limits.adaptive.speed", "unknown key 'speed'"),
    ({"limits": {"adaptive": "yes"}}, "$.limits.adaptive", "a string, expected true, false or an object"),
    ({"start_at": "tomorrow"}, "$.start_at", "'tomorrow', expected a time such as '2026-11-27T08:00:00+01:00'"),
    ({"start_at": "2026-11-27T08:00"}, "$.start_at", "says no offset from UTC, expected one, such as"),
    ({"start_at": "2026-11-27"}, "$.start_at", "such as '2026-11-27T00:00:00+01:00' or '2026-11-27T00:00:00Z'"),
    ({"start_at": 1795762800}, "$.start_at", "expected a string"),
]


@pytest.mark.parametrize(("keys", "path", "said"), REFUSED)
def test_what_is_wrong_is_said_with_its_place(tmp_path, keys, path, said):
    with pytest.raises(ManifestError) as caught:
        loaded(tmp_path, **keys)
    assert caught.value.path == path
    assert said in str(caught.value)
