"""The lint of a job: its message as the first recipients would get it, and what only the manifest shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from bulkmail.errors import MessageError
from bulkmail.job.manifest import Manifest
from bulkmail.job.variants import NAME, AnyMessage, Variants, path_in
from bulkmail.message.compiled import Compiled
from bulkmail.message.finding import Finding
from bulkmail.message.lint import Sample, lint
from bulkmail.message.lint.rule import GMAIL, WARNING, Rule
from bulkmail.message.lint.signing import placed, signings
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import AttachmentSpec, MessageSpec
from bulkmail.urlparts import listed

if TYPE_CHECKING:
    from bulkmail.message.lint.dns import Source

# Recipients whose copies are looked at. What is wrong with a template shows in the first; the others show what differs.
SAMPLES = 5
SENDERS = {"from", "sender", "envelope_from"}  # what the DNS is asked about: variants mostly have it in common
LARGE = 1_000_000  # bytes of a copy: what is large is the same for everybody, so one is enough
# Stands in for a recipient where the list cannot be read (standard input).
NOBODY = "somebody@example.com"

TLS = Rule(
    "tls", WARNING, "every relay is used without TLS", "leave tls at auto, or use smtps://", GMAIL + "; RFC 3207"
)
RULES = (TLS,)

Row = tuple[int, dict[str, Any]]


def lint_job(
    manifest: Manifest,
    compiled: AnyMessage,
    rows: Sequence[Row],
    *,
    dns: bool = False,
    dns_server: str | None = None,
) -> list[Finding]:
    """rows: (number, values) of the first good recipients, maybe none; dns: ask it too.

    raises  ConfigError  for a dns_server that is no address
    """
    rows = rows or [_nobody(compiled)]
    if isinstance(compiled, Variants):
        found = _of_variants(manifest, compiled, rows, dns, dns_server)
    else:
        found = _of_message(manifest, compiled, rows, _where(manifest.message), dns, dns_server)
    if manifest.relays and all(relay.endpoint.options.tls == "never" for relay in manifest.relays):
        found.append(TLS.at("$.relays"))
    return found


def _of_message(
    manifest: Manifest,
    compiled: Compiled,
    rows: Sequence[Row],
    where: Callable[[str], str],
    dns: bool,
    dns_server: str | None,
) -> list[Finding]:
    samples = list(_samples(manifest, compiled, rows, where))
    found = lint(samples) if samples else []
    if samples and dns:
        from bulkmail.message.lint.dns import Subject, lint_dns

        subject = Subject(samples[0], placed(manifest.message.dkim), _sources(manifest))
        found += lint_dns(subject, server=dns_server)
    return found


def _of_variants(
    manifest: Manifest, compiled: Variants, rows: Sequence[Row], dns: bool, dns_server: str | None
) -> list[Finding]:
    """What all of them have in common is told once; else the finding names those that have it."""
    told: dict[tuple[str, str], Finding] = {}
    names: dict[tuple[str, str], list[str]] = {}
    for number, (spec, one) in enumerate(zip(compiled.specs, compiled.each, strict=True)):
        place, path = _where(spec.message), path_in(spec, number)
        mine = [(row, {**values, NAME: spec.name}) for row, values in rows]
        ask = dns and (number == 0 or bool(spec.keys & SENDERS))
        one_manifest = replace(manifest, message=spec.message)
        for finding in _of_message(one_manifest, one, mine, lambda at: path(place(at)), ask, dns_server):  # noqa: B023
            key = (finding.id, finding.path)
            told.setdefault(key, finding)
            names.setdefault(key, []).append(spec.name)
    return [
        finding
        if len(set(names[key])) == len(compiled)
        else replace(finding, text=f"{finding.text} (variant {listed(dict.fromkeys(names[key]))})")
        for key, finding in told.items()
    ]


def _sources(manifest: Manifest) -> list[Source]:
    """The addresses that the manifest states; what leaves through a proxy has the proxy's."""
    from bulkmail.message.lint.dns import Source

    found = []
    for number, relay in enumerate(manifest.relays):
        path = "$.relays" if len(manifest.relays) == 1 else f"$.relays[{number}]"
        own = relay.endpoint.options
        if not relay.egresses and own.proxy is None:
            found.append(Source(own.local_address, own.name, path))
        for egress in relay.egresses:
            if egress.proxy is None:
                local = egress.local_address or own.local_address
                found.append(Source(local, own.name, f"$.egress.{egress.name}" if egress.local_address else path))
    return list(dict.fromkeys(source for source in found if source.address is not None))


def _nobody(compiled: AnyMessage) -> Row:
    return 1, {name: name for name in compiled.fields} | {"email": NOBODY}


def _samples(
    manifest: Manifest, compiled: Compiled, rows: Sequence[Row], where: Callable[[str], str]
) -> Iterator[Sample]:
    now = time.time()
    date = formatdate(now).encode()
    given = signings(manifest.message.dkim)
    hosts = [relay.endpoint.host for relay in manifest.relays if relay.endpoint.host]
    attached = [_name_of(attachment) for attachment in manifest.message.attachments]
    for number, row in rows:
        try:
            envelope_from, body = compiled.signed_copy(row, number, date)
        except MessageError:
            continue  # told of with the recipients
        sender, eml = envelope_from.decode(), from_wire(body)
        yield Sample(
            eml,
            where,
            now,
            sender=sender,
            smtputf8=not (sender + row["email"]).isascii(),
            given=given,
            shared=compiled.shared,
            attached=attached,
            label=f"recipient {number}",
            relays=hosts,
        )
        if compiled.shared or len(eml) > LARGE:
            return


def _name_of(spec: AttachmentSpec) -> str | None:
    if spec.loaded is not None:
        return spec.loaded.name
    return spec.name or (spec.file.name if spec.file is not None else "attachment")


def _where(message: MessageSpec) -> Callable[[str], str]:
    """From places to JSON paths."""
    if message.raw is not None:
        return lambda place: f"$.message.{place}" if place.startswith(("envelope_from", "dkim")) else "$.message.raw"
    # These two have no key: they are made.
    return lambda place: "$.message" if place in ("", "date", "message_id") else f"$.message.{place}"
