"""The lint: what standards and big receivers ask of a message, looked for in the message as it would be sent.

A family of rules is a file: its table `RULES`, and `CHECKS`, functions from a `Sample` to findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bulkmail.message.finding import Finding
from bulkmail.message.lint import alignment, content, headers, html, links, lists, sender, size, wording
from bulkmail.message.lint.rule import SEVERITIES, Rule
from bulkmail.message.lint.sample import Sample, Signing

__all__ = ["RULES", "Finding", "Rule", "Sample", "Signing", "in_order", "lint"]

SHOWN = 20  # findings of one rule

FAMILIES = (headers, sender, lists, alignment, wording, content, html, links, size)
RULES: tuple[Rule, ...] = tuple(rule for family in FAMILIES for rule in family.RULES)


def lint(samples: Sequence[Sample]) -> list[Finding]:
    """What is to be said of a message, by severity; `samples` are copies for a few recipients, at least one.

    Of several copies that break a rule in the same place the first is told.
    """
    told: dict[tuple[str, str], Finding] = {}
    for number, sample in enumerate(samples):
        for found in _findings(sample):
            if number and sample.label:
                found = replace(found, text=f"{found.text} ({sample.label})")
            told.setdefault((found.id, found.path), found)
    for found in lists.copies(samples):
        told.setdefault((found.id, found.path), found)
    return in_order(_bounded(told.values()))


def _bounded(findings: Iterable[Finding]) -> Iterable[Finding]:
    """The first SHOWN of each rule and place, and how many more there are: a header may have thousands of fields."""
    counts: Counter[str] = Counter()
    last: dict[str, Finding] = {}
    for found in findings:
        counts[found.id] += 1
        if counts[found.id] <= SHOWN:
            yield found
        last[found.id] = found
    for rule, count in counts.items():
        if count > SHOWN:
            yield replace(last[rule], text=f"and {count - SHOWN} more of the same kind")


def _findings(sample: Sample) -> Iterable[Finding]:
    for family in FAMILIES:
        for check in family.CHECKS:
            yield from check(sample)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes."""
    return sorted(findings, key=lambda found: SEVERITIES.index(found.severity))
