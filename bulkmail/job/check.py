"""What can be found without connecting: every recipient against the message, and what the big receivers ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bulkmail.errors import BulkmailError, ManifestError, MessageError
from bulkmail.job.manifest import Manifest
from bulkmail.job.recipients import RowBatch, Source, open_source
from bulkmail.job.selection import NOT_DRAWN, NOT_MEANT, SEED, selection_of
from bulkmail.job.variants import AnyMessage
from bulkmail.message.finding import Finding

if TYPE_CHECKING:
    from bulkmail.job.lint import Row

SHOWN = 20  # findings of one kind; a list with a wrong column has one for every row
ROWS = "$.recipients"
KINDS_LEFT_OUT = {NOT_MEANT: "left out by 'where'", NOT_DRAWN: "not in the sample", SEED: "seeds, and in the list too"}


def check_job(
    manifest: Manifest, compiled: AnyMessage, *, dns: bool = False, dns_server: str | None = None
) -> list[Finding]:
    """All findings, errors first. Standard input is not read: its recipients are checked when they are sent to.

    dns     ask the DNS about the domains and addresses of the job; dns_server: not by the system's servers
    raises  ConfigError  for a dns_server that is no address
    """
    from bulkmail.job.lint import lint_job  # a run, which borrows opened_source, has no use for a hundred rules
    from bulkmail.message.lint import in_order

    # Of keys the lint has more to tell: who asks for it, and what to do.
    warnings = [(path, text) for path, text in manifest.warnings if not path.startswith("$.message.dkim")]
    findings = [Finding("manifest", "warning", path, text) for path, text in warnings]
    rows: list[Row] = []
    if manifest.recipients.source == "-":
        findings.append(
            Finding("recipients-stdin", "note", ROWS, "recipients come from standard input and were not checked")
        )
    else:
        findings += _check_rows(manifest, compiled, rows)
    return in_order(findings + lint_job(manifest, compiled, rows, dns=dns, dns_server=dns_server))


@contextmanager
def opened_source(manifest: Manifest) -> Iterator[Source]:
    """The recipients, spooled (where they must be) to a folder that goes away again."""
    with TemporaryDirectory(prefix="bulkmail-") as folder:
        source = open_source(manifest.recipients, spool_dir=Path(folder), stem="recipients")
        try:
            yield source
        finally:
            source.close()


def _check_rows(manifest: Manifest, compiled: AnyMessage, rows: list[Row]) -> list[Finding]:
    """The findings; `rows` gets the first good ones."""
    from bulkmail.job.lint import SAMPLES

    found = _Findings()
    try:
        selection = selection_of(manifest, compiled)
        with opened_source(manifest) as source:
            total = 0
            for batch in selection.scan(source, rows=True):
                total += len(batch)
                out = selection.decide(batch)
                _check_batch(manifest, compiled, source, batch, found)
                rows += _first_good(batch, out, SAMPLES - len(rows))
                found.leave_out(out.values())
            if total == 0:
                found.add("recipients", "error", f"{source.name} has no recipients", "add recipients")
    except BulkmailError as error:
        problems = error.problems if isinstance(error, ManifestError) else [(ROWS, str(error))]
        return found.all + [Finding("recipients", "error", path, text) for path, text in problems]
    return found.finish()


def _first_good(batch: RowBatch, out: Mapping[int, str], count: int) -> list[Row]:
    failed = {index for index, _ in batch.failed} | out.keys()
    good = (index for index in range(len(batch.rows)) if index not in failed)
    return [(batch.numbers[index], batch.rows[index]) for index in islice(good, count)]


class _Findings:
    def __init__(self) -> None:
        self.all: list[Finding] = []
        self.more: dict[str, int] = {}
        self._left_out: Counter[str] = Counter()
        self._shown: dict[str, int] = {}

    def add(self, kind: str, severity: str, text: str, remedy: str) -> None:
        self._shown[kind] = self._shown.get(kind, 0) + 1
        if self._shown[kind] <= SHOWN:
            self.all.append(Finding(kind, severity, ROWS, text, remedy))

    def leave_out(self, reasons: Iterable[str]) -> None:
        self._left_out.update(KINDS_LEFT_OUT.get(reason, "suppressed or duplicates") for reason in reasons)

    def finish(self) -> list[Finding]:
        for kind, count in self._shown.items():
            if count > SHOWN:
                severity = next(finding.severity for finding in self.all if finding.id == kind)
                self.all.append(Finding(kind, severity, ROWS, f"and {count - SHOWN} more of the same kind"))
        for kind, count in self._left_out.items():
            self.all.append(Finding("suppressed", "note", ROWS, f"{count} recipients are {kind}"))
        return self.all


def _check_batch(manifest: Manifest, compiled: AnyMessage, source: Source, batch: RowBatch, found: _Findings) -> None:
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
