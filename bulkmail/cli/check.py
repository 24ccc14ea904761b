"""`bulkmail check`: validate a manifest and all it names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from bulkmail.errors import ManifestError

from . import output, trouble

if TYPE_CHECKING:
    from bulkmail.message.finding import Finding

WARNED, BROKEN = 1, 2
FIELDS = ("id", "severity", "path", "text", "remedy", "source")


@click.command(
    short_help="Validate a manifest.",
    epilog="""\b
Example: bulkmail check news.json --strict
\b
Exit status:
  0  clean, or warnings without --strict
  1  warnings, with --strict
  2  errors""",
)
@click.argument("manifest", type=click.Path())
@click.option("--strict", is_flag=True, help="Warnings make the exit status 1.")
@click.option("--dns/--no-dns", default=True, show_default=True,
              help="Ask the DNS: SPF, DKIM, DMARC, MX, and the names of local addresses.")  # fmt: skip
@click.option("--dns-server", metavar="ADDRESS[:PORT]", help="Ask this DNS server instead of the system's.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def check(manifest: str, strict: bool, dns: bool, dns_server: str | None, as_json: bool) -> int:
    """Validate MANIFEST and everything it names without connecting to a relay: files, templates, every recipient, and
    the message by the rules of the big receivers.

    All problems are told at once. Errors go to standard error; warnings, notes and the count to standard output.
    """
    findings = find(manifest, dns, dns_server)
    if as_json:
        output.emit_json({"findings": findings})
    else:
        tell(manifest, findings)
    severities = {finding["severity"] for finding in findings}
    if "error" in severities:
        return BROKEN
    return WARNED if strict and "warning" in severities else 0


def find(manifest: str, dns: bool, dns_server: str | None) -> list[dict[str, Any]]:
    """All findings as dicts with the names of FIELDS; a manifest that cannot be loaded has some too."""
    from bulkmail.job.job import Job

    try:
        return [as_dict(finding) for finding in Job.load(manifest).check(dns=dns, dns_server=dns_server)]
    except ManifestError as error:
        return [
            {"id": "manifest", "severity": "error", "path": path, "text": text, "remedy": "", "source": ""}
            for path, text in error.problems
        ]


def as_dict(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in FIELDS}


def tell(manifest: str, findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        sentence = trouble.problem_sentence(finding["path"], finding["text"])
        sentence += f" ({finding['remedy']})" if finding["remedy"] else ""
        line = trouble.plain(f"{finding['severity']}: {sentence} [{finding['id']}]")
        click.echo(line, err=finding["severity"] == "error")
    click.echo(f"{trouble.plain(manifest)}: {count_text(findings)}")


def count_text(findings: list[dict[str, Any]]) -> str:
    """ "2 errors, 1 warning", or "clean"."""
    counts = Counter(finding["severity"] for finding in findings)
    told = [
        f"{counts[name]} {name}{'s' if counts[name] > 1 else ''}"
        for name in ("error", "warning", "note")
        if counts[name]
    ]
    return ", ".join(told) or "clean"
