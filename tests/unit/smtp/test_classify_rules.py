"""The file of rules itself: each example is decided by its own rule, no pattern is slow, every kind is explained."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bulkmail.errors import CONNECTION, JOB, MESSAGE, RECIPIENT, RELAY
from bulkmail.smtp.classify import RULES, classify, rules
from bulkmail.wire.reply import Reply

TABLES = tomllib.loads(RULES.read_text("utf-8"))
FIELDS = {"id", "provider", "source", "kind", "examples"}
OPTIONAL = {"code", "enhanced", "command", "text", "scope", "ours", "permanent", "retry_after"}
DOCS = (Path(__file__).resolve().parents[3] / "docs" / "replies.md").read_text("utf-8")
EXAMPLES = [(rule, example) for rule in rules() for example in rule.examples]


def answer(rule, example):
    """(reply, command) of an example in the file."""
    command = rule.command.pattern.split("|")[0] if rule.command else "RCPT"
    if not example[0].isdigit():
        command, example = example.split("> ", 1)
    return Reply(int(example[:3]), example[4:].split("\n")), command


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=lambda value: getattr(value, "id", None))
def test_an_example_is_decided_by_its_rule_and_by_none_before_it(rule, example):
    meaning = classify(*answer(rule, example))
    assert (meaning.rule, meaning.kind) == (rule.id, rule.kind)


def test_every_rule_is_well_formed():
    for table in TABLES["rules"]:
        assert set(table) >= FIELDS and set(table) <= FIELDS | OPTIONAL, table["id"]
        assert table["kind"] in TABLES["kinds"], table["id"]
        assert table["examples"] and table["source"], table["id"]
        assert table.get("scope", JOB) in {RECIPIENT, MESSAGE, CONNECTION, RELAY, JOB}, table["id"]
    ids = [table["id"] for table in TABLES["rules"]]
    assert len(ids) == len(set(ids)) > 80


def test_every_big_receiver_and_filter_has_rules_of_its_own():
    wanted = {"gmail", "outlook", "yahoo", "apple", "gmx", "t-online", "proofpoint", "mimecast", "barracuda", "cisco"}
    assert wanted | {"ses", "sendgrid", "mailgun", "postfix", "generic"} <= {rule.provider for rule in rules()}


def test_every_kind_has_a_rule_and_its_line_in_the_documents():
    kinds = set(TABLES["kinds"])
    assert {rule.kind for rule in rules()} == kinds
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", DOCS, re.M)
    table = {name: (whose, permanent, scope) for name, whose, permanent, scope in rows if name in kinds}
    assert set(table) == kinds
    for name, (whose, permanent, scope) in table.items():
        kind = TABLES["kinds"][name]
        assert (whose == "ours") is kind.get("ours", False), name
        assert (permanent == "never") is kind.get("passes", False), name
        assert scope.startswith(f"`{kind['scope']}`" if "scope" in kind else "by command"), name


def every_pattern():
    for table in TABLES["rules"]:
        yield from ((table["id"], text) for text in table.get("text", []))


@pytest.mark.parametrize(("rule", "text"), list(every_pattern()))
def test_no_text_can_make_a_pattern_slow(rule, text):
    """Repetitions are bounded, and their bounds multiplied are the work at one place of a text: few enough."""
    bare = re.sub(r"\\.|\[[^]]*\]", "x", text)  # what is escaped or in a class repeats nothing
    assert not re.search(r"[*+]", bare), text
    work = 1
    for most in re.findall(r"\{(?:\d+,)?(\d+)\}", bare):
        work *= int(most) + 1
    assert work <= 5000, text
    assert not re.search(r"\{\d+,\}", bare), text


@pytest.mark.parametrize(("rule", "text"), list(every_pattern()))
def test_a_text_is_written_as_texts_are_compared(rule, text):
    """In lower case, one space between words, no address: else it could never fit."""
    letters = re.sub(r"\\.", "", text)
    assert letters == letters.lower() and "  " not in letters and "@" not in letters
    re.compile(text)


def test_the_last_rule_fits_everything():
    table = TABLES["rules"][-1]
    assert not set(table) & {"code", "enhanced", "command", "text"}


def test_who_meets_no_refusal_does_not_pay_for_the_rules():
    code = "import bulkmail.pool.mailer, bulkmail.smtp.classify as c; print(c.rules.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"
