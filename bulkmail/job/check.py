"""What can be found without connecting: every recipient against the message, and what the big receivers ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

from bulkmail.errors import BulkmailError, ManifestError, MessageError
from bulkmail.job.manifest import Manifest
from bulkmail.job.recipients import RowBatch, Source, open_source
from bulkmail.job.results import Finding
from bulkmail.job.suppression import RecipientFilter
from bulkmail.message.compiled import Compiled

SHOWN = 20  # findings of one kind; a list with a wrong column has one for every row
ROWS = "$.recipients"


def check_job(manifest: Manifest, compiled: Compiled) -> list[Finding]:
    """All findings, errors first. Standard input is not read: its recipients are checked when they are sent to."""
    findings = [Finding("manifest", "warning", path, text) for path, text in manifest.warnings]
    findings += lint(manifest)
    if manifest.recipients.source == "-":
        findings.append(
            Finding("recipients-stdin", "note", ROWS, "recipients come from standard input and were not checked")
        )
    else:
        findings += _check_rows(manifest, compiled)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


@contextmanager
def opened_source(manifest: Manifest) -> Iterator[Source]:
    """The recipients, spooled (where they must be) to a folder that goes away again."""
    with TemporaryDirectory(prefix="bulkmail-") as folder:
        source = open_source(manifest.recipients, spool_dir=Path(folder), stem="recipients")
        try:
            yield source
        finally:
            source.close()


def _check_rows(manifest: Manifest, compiled: Compiled) -> list[Finding]:
    found = _Findings()
    try:
        spec = manifest.recipients
        leave_out = RecipientFilter(deduplicate=spec.deduplicate, suppress=spec.suppress)
        with opened_source(manifest) as source:
            total = 0
            for batch in source.scan(required=compiled.fields, header_fields=compiled.header_fields):
                total += len(batch)
                _check_batch(manifest, compiled, source, batch, found)
                found.left_out += len(leave_out.filter_rows(batch.rows)) if leave_out else 0
            if total == 0:
                found.add("recipients", "error", f"{source.name} has no recipients", "add recipients")
    except BulkmailError as error:
        problems = error.problems if isinstance(error, ManifestError) else [(ROWS, str(error))]
        return found.all + [Finding("recipients", "error", path, text) for path, text in problems]
    return found.finish()


class _Findings:
    def __init__(self) -> None:
        self.all: list[Finding] = []
        self.more: dict[str, int] = {}
        self.left_out = 0
        self._shown: dict[str, int] = {}

    def add(self, kind: str, severity: str, text: str, remedy: str) -> None:
        self._shown[kind] = self._shown.get(kind, 0) + 1
        if self._shown[kind] <= SHOWN:
            self.all.append(Finding(kind, severity, ROWS, text, remedy))

    def finish(self) -> list[Finding]:
        for kind, count in self._shown.items():
            if count > SHOWN:
                severity = next(finding.severity for finding in self.all if finding.id == kind)
                self.all.append(Finding(kind, severity, ROWS, f"and {count - SHOWN} more of the same kind"))
        if self.left_out:
            self.all.append(
                Finding("suppressed", "note", ROWS, f"{self.left_out} recipients are suppressed or duplicates")
            )
        return self.all


def _check_batch(manifest: Manifest, compiled: Compiled, source: Source, batch: RowBatch, found: _Findings) -> None:
    severity = "warning" if manifest.recipients.bad_rows == "skip" else "error"
    for problem in batch.problems:
        found.add("bad-row", severity, source.describe(problem), 'mend the row, or "bad_rows": "skip"')
    for index, reason in batch.failed:
        text = f"{source.name}, row {batch.numbers[index]}: {reason}"
        found.add("header-break", "warning", text, "this recipient will fail; take the line break out")
    if compiled.shared:
        return
    skip = {index for index, _ in batch.failed}
    composed = compiled.compose(batch.rows, batch.numbers, formatdate().encode())
    for index, item in enumerate(composed):
        if isinstance(item, MessageError) and index not in skip:
            text = f"{source.name}, row {batch.numbers[index]}: {item}"
            found.add("message", "error", text, "mend the row or the template")


def lint(manifest: Manifest) -> list[Finding]:
    """What bulk senders are asked for (Gmail, Yahoo and Outlook sender guidelines), of what the manifest can show."""
    message = manifest.message
    findings = []
    if message.raw is None:
        unsubscribe = message.list_unsubscribe
        if unsubscribe is None or not unsubscribe.one_click:
            text = "no one-click unsubscribe: Gmail and Yahoo ask it of bulk mail (RFC 8058)"
            remedy = 'add "list_unsubscribe": {"url": "https://…", "one_click": true}'
            findings.append(Finding("one-click", "warning", "$.message.list_unsubscribe", text, remedy))
        if message.html is not None and message.text is None:
            text = "an HTML part without a text part counts against the message"
            findings.append(Finding("text-part", "warning", "$.message.text", text, 'add "text"'))
        if not message.subject.strip():
            findings.append(Finding("subject", "warning", "$.message.subject", "the subject is empty", 'add "subject"'))
    if manifest.relays and all(relay.endpoint.options.tls == "never" for relay in manifest.relays):
        text = "every relay is used without TLS"
        findings.append(Finding("tls", "warning", "$.relays", text, "leave tls at auto, or use smtps://"))
    return findings
