"""Each rule of the lint has a message that breaks it and no other rule, and what is right breaks none."""

from __future__ import annotations

import pytest

from bulkmail.message.lint import RULES, domains, lint
from bulkmail.message.lint.rule import SEVERITIES
from unit.message.lint_examples import EXAMPLES, PAGE, Example, table

BY_ID = {rule.id: rule for rule in RULES}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_an_example_breaks_its_rule_and_no_other(rule, monkeypatch):
    if rule == "alignment-unknown":
        monkeypatch.setattr(domains, "_suffixes", lambda: None)
    (found,) = lint(EXAMPLES[rule].samples())
    assert (found.id, found.severity) == (rule, BY_ID[rule].severity)
    assert found.text and "{" not in found.text.replace("{{", "")
    assert found.remedy == BY_ID[rule].remedy
    assert found.source


def test_every_rule_has_an_example_and_an_id_of_its_own():
    assert sorted(rule.id for rule in RULES) == sorted(EXAMPLES)
    assert all(rule.severity in SEVERITIES for rule in RULES)


def test_a_good_message_has_no_findings():
    assert lint(Example("").samples()) == []


def test_the_page_has_every_rule_with_its_example():
    assert table() in PAGE.read_text(encoding="utf-8"), "run python tests/unit/message/lint_examples.py"
