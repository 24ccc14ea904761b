"""The language of --fault: what is read, what is refused and how, and which events a rule strikes."""

from __future__ import annotations

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Server
from bulkmail.sink.faults import PHASES, Fault, Faults


def struck(rule: str, events: int = 20, seed: int = 0, phase: str = "rcpt") -> list[int]:
    """The numbers, from 1, of the events that suffer."""
    faults = Faults([rule], seed)
    return [number for number in range(1, events + 1) if faults.strike(phase, ("a@b.test",))]


def matches(pattern: str, *addresses: str, phase: str = "rcpt") -> bool:
    return Faults([f"{phase}:drop@{pattern}"]).strike(phase, addresses) is not None


ACTIONS = {
    "451 4.7.1 try later": Fault(refusal=(451, "4.7.1 try later")),
    "550 no: not=here, drop": Fault(refusal=(550, "no: not=here, drop")),
    "550": Fault(refusal=(550, "")),
    "drop": Fault(end="drop"),
    " Reset ": Fault(end="reset"),
    "HANG": Fault(end="hang"),
    "delay=2s": Fault(delay=2.0),
    "delay=250ms": Fault(delay=0.25),
    "Delay = 2": Fault(delay=2.0),
    "drip=1/s": Fault(drip=(1.0, 1.0)),
    "drip=30/m": Fault(drip=(30.0, 60.0)),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_at_every_phase(phase: str, action: str) -> None:
    assert Faults([f"{phase}:{action}"]).strike(phase) == ACTIONS[action]
    assert Faults([f"{phase.upper()} :{action}@100%"]).strike(phase) == ACTIONS[action]


BAD = {
    "rcpt 451 no": "has no ':', expected PHASE:ACTION.@WHEN.$",
    "": "has no ':'",
    "rctp:drop": "is at 'rctp', expected connect, greeting, ehlo, .* or quit, did you mean 'rcpt'?",
    ":drop": "is at '', expected connect",
    "rcpt:": "does '', expected a reply such as '451 4.7.1 Try later', 'drop'",
    "rcpt:dorp": "does 'dorp', expected .*, did you mean 'drop'?",
    "rcpt:drop=1": "does 'drop=1'",
    "rcpt:delay": "does 'delay', expected .*'delay=2s' or 'drip=1/s'$",
    "rcpt:delay=soon": "the delay is 'soon', expected a time",
    "rcpt:delay=0": "the delay is '0', expected more than 0",
    "rcpt:delay=25h": "the delay is '25h', expected at most a day",
    "rcpt:drip=fast": "the drip is 'fast', expected a rate",
    "rcpt:drip=0/s": "the drip is '0/s'",
    "rcpt:250 fine": "answers 250, expected a refusal: 400 to 599",
    "rcpt:600 what": "answers 600",
    "rcpt:45 x": "does '45 x'",
    "rcpt:4511 x": "does '4511 x'",
    "rcpt:451 5.7.1 x": "has the enhanced code '5.7.1', expected one of class 4",
    "rcpt:451 two\r\nlines": "one line without control characters",
    "rcpt:451 " + "x" * 401: "at most 400 bytes",
    "rcpt:drop@": "strikes at ''",
    "rcpt:drop@101%": "strikes at 101%, expected at most 100%",
    "rcpt:drop@-5%": "strikes at '-5%'",
    "rcpt:drop@5 %": "strikes at '5 %'",
    "rcpt:drop@2/100": "strikes at '2/100', expected .*'1/100'",
    "rcpt:drop@1/0": "strikes at '1/0'",
    "rcpt:drop@>x": "strikes at '>x'",
    "rcpt:drop@slow.test": "strikes at 'slow.test', expected .*'[*]@slow.test'",
    "quit:drop@*@slow.test": "has an address, expected '5%', '1/100' or '>1000': only auth, mail, rcpt, data or body",
}


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_rule_is_told_as_what_it_is(rule: str) -> None:
    with pytest.raises(ConfigError, match=BAD[rule]) as caught:
        Server(fault=["connect:hang@5%", rule])
    assert repr(rule)[:40].strip("'\"") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="'seed' is 'x', expected a whole number"):
        Server(seed="x")


def test_a_rule_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a fault is a text .*, not 5$"):
        Server(fault=[5])


def test_shares_of_events() -> None:
    assert struck("rcpt:drop@0%") == []
    assert struck("rcpt:drop@100%") == list(range(1, 21))
    assert 400 < len(struck("rcpt:drop@5%", 10_000)) < 600
    assert 20 < len(struck("rcpt:drop@0.5%", 10_000)) < 80


def test_shares_are_repeated_by_the_seed() -> None:
    rule = "rcpt:drop@30%"
    assert struck(rule, 200, seed=7) == struck(rule, 200, seed=7)
    assert struck(rule, 200, seed=7) != struck(rule, 200, seed=8)
    assert struck(rule, 30) == [4, 6, 8, 9, 12, 15, 19, 22, 26, 27, 28, 29]  # by every later version, too


def test_rules_do_not_depend_on_each_other() -> None:
    """Neither by who strikes first nor by their draws; equal rules at two places draw differently."""
    rules = ["rcpt:451 a@30%", "rcpt:452 b@30%", "mail:453 c@30%"]
    together = Faults(rules, 1)
    got = [(together.strike("rcpt"), together.strike("mail")) for _ in range(300)]
    alone = []
    for place, rule in enumerate(rules):
        one = Faults(["quit:drop"] * place + [rule], 1)
        alone.append([one.strike("mail" if place == 2 else "rcpt") for _ in range(300)])
    assert got == [(first or second, third) for first, second, third in zip(*alone, strict=True)]
    assert [one is None for one in alone[0]] != [one is None for one in alone[1]]


def test_every_nth_and_those_behind_the_nth() -> None:
    assert struck("rcpt:drop@1/5") == [5, 10, 15, 20]
    assert struck("rcpt:drop@1/1") == list(range(1, 21))
    assert struck("rcpt:drop@>15") == [16, 17, 18, 19, 20]
    assert struck("rcpt:drop@>0") == list(range(1, 21))
    assert struck("rcpt:drop@>20") == []


def test_addresses() -> None:
    assert matches("*@slow.test", "Ann@SLOW.Test")
    assert matches("*@SLOW.test", "ann@slow.test")
    assert not matches("*@slow.test", "ann@slow.test.example")
    assert not matches("*@slow.test", "ann@very-slow.test")
    assert matches("ann+*@*.test", "ann+1@x.test")
    assert matches("a?n@x", "amn@x")
    assert matches("*@[127.0.0.1]", "ann@[127.0.0.1]")
    assert not matches("*@[127.0.0.1]", "ann@1")
    assert matches("postmaster", "Postmaster")
    assert matches("<>", "", phase="mail")
    assert not matches("*@*", "", phase="mail")
    assert matches("*", "", phase="mail")
    assert matches("ann", "Ann", phase="auth")
    assert matches("*@slow.test", "a@fast.test", "b@slow.test", phase="body")
    assert not matches("*@slow.test")


def test_a_rule_splits_at_the_first_at_sign() -> None:
    faults = Faults(["rcpt:550 no@*@slow.test"])
    assert faults.strike("rcpt", ("a@b",)) is None
    assert faults.strike("rcpt", ("a@slow.test",)) == Fault(refusal=(550, "no"))


def test_of_each_kind_the_first_that_strikes_counts() -> None:
    rules = ["rcpt:delay=1@*@a", "rcpt:451 x@*@a", "rcpt:drop", "rcpt:delay=2", "rcpt:drip=9/s", "rcpt:drip=8/s"]
    faults = Faults(rules)
    assert faults.strike("rcpt", ("x@a",)) == Fault(refusal=(451, "x"), delay=1.0, drip=(9.0, 1.0))
    assert faults.strike("rcpt", ("x@b",)) == Fault(end="drop", delay=2.0, drip=(9.0, 1.0))


def test_what_is_asked_for_next_comes_in_turn_and_before_the_rules() -> None:
    faults = Faults(["rcpt:550 rule@>2", "rcpt:delay=1"])
    faults.add_next("rcpt", "451 at @home", 2)  # there is no WHEN: the @ is text
    faults.add_next("RCPT", "drop", 1)
    got = [faults.strike("rcpt") for _ in range(4)]
    assert [one and (one.refusal, one.end, one.delay) for one in got] == [
        ((451, "at @home"), None, 1.0),
        ((451, "at @home"), None, 1.0),
        (None, "drop", 1.0),
        ((550, "rule"), None, 1.0),
    ]


@pytest.mark.parametrize(
    ("phase", "reply", "times", "why"),
    [
        ("rctp", "451 x", 1, "did you mean 'rcpt'"),
        ("rcpt", "451 x", "2", "asked for '2' times"),
        ("rcpt", "250 ok", 1, "answers 250"),
        ("rcpt", "451 x", 0, "0 times, expected 1 to 1000000"),
        ("rcpt", "451 x", 10**9, "expected 1 to 1000000"),
    ],
)
def test_fail_next_refuses_what_is_not_in_the_language(phase: str, reply: str, times: int, why: str) -> None:
    server = Server()
    with pytest.raises(ConfigError, match=why):
        server.fail_next(phase, reply, times)
    assert not server.faults.any
