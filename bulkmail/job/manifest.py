"""The manifest: one JSON object becomes a job's plain data, or one error that names all that is wrong with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bulkmail.egress import Egress, check_ways, is_egress, parse_egress, parse_egresses
from bulkmail.errors import ConfigError
from bulkmail.job.document import Problems, read_document
from bulkmail.job.query import without_password
from bulkmail.job.specs import (
    DsnSpec,
    EventsSpec,
    LimitsSpec,
    RecipientsSpec,
    RelaySpec,
    RetrySpec,
    StopRule,
    VariantSpec,
)
from bulkmail.message.spec import Access, MessageSpec
from bulkmail.pool.domains import parse_pins
from bulkmail.proxyurl import Chain
from bulkmail.records import Record
from bulkmail.url import OPTIONS, Endpoint, parse_endpoint
from bulkmail.urlparts import host_and_port, listed, nearest, quoted
from bulkmail.values import parse_rate, parse_workers

if TYPE_CHECKING:
    from bulkmail.job import models
    from bulkmail.job.loading import Loading

__all__ = ["LimitsSpec", "Manifest", "RecipientsSpec", "RelaySpec", "RetrySpec", "load_manifest", "manifest_schema"]

Durability = Literal["process", "power"]
Workers = int | Literal["auto"]


@dataclass(frozen=True, eq=False, repr=False)
class Manifest(Record):
    """A job as its manifest says it; all paths are whole.

    dsn        delivery notifications to ask for; None: the servers' usual ones
    digest     of what is sent to whom: it does not change with limits, relays, retry, journal or the environment
    variables  template variables from outside (--set)
    start_at   Unix seconds before which nothing is sent, or None
    variants   whole messages, each recipient gets one of them; `message` is the first then
    warnings   what can be done and may not be meant: (JSON path, sentence)
    durability what the journal survives: kill -9, or loss of power too
    workers    processes that send at most; "auto": as many as there is use for
    """

    path: Path
    folder: Path
    digest: str
    job: str
    message: MessageSpec
    defaults: dict[str, Any]
    variables: dict[str, str]
    recipients: RecipientsSpec
    relays: tuple[RelaySpec, ...]
    limits: LimitsSpec
    retry: RetrySpec
    journal: Path
    dsn: DsnSpec | None = None
    mode: Literal["personal", "shared"] | None = None
    start_at: float | None = None
    events: EventsSpec | None = None
    stop_if: tuple[StopRule, ...] = ()
    variants: tuple[VariantSpec, ...] = ()
    durability: Durability = "process"
    workers: Workers = 1
    warnings: list[tuple[str, str]] = field(default_factory=list)


def load_manifest(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    rate: str | None = None,
    connections: int | None = None,
    wire_log: str | None = None,
    durability: Durability | None = None,
    workers: Workers | None = None,
) -> Manifest:
    """Read and check a manifest and the files that its message names.

    environ            for ${NAME}; os.environ if not given
    rate, connections  in place of those of `limits`
    wire_log           in place of that of every relay
    durability, workers   in place of the manifest's
    raises             ManifestError  with all problems; ConfigError for rate and connections
    """
    from bulkmail.job.loading import Loading

    path = Path(path)
    limits = _overrides(rate, connections)
    problems = Problems(str(path))
    document = read_document(path, os.environ if environ is None else environ, problems)
    loading = Loading(path.absolute().parent, access=_access(document.data.get("relays")))
    model = _validated(document.data, loading, problems)
    problems.refuse()
    assert model is not None
    manifest = _assemble(model, path.absolute(), dict(variables or {}), limits, loading, problems)
    manifest = _with_images(manifest, loading, problems)
    problems.refuse()
    if wire_log is not None:
        manifest = replace(manifest, relays=tuple(_logged(relay, wire_log) for relay in manifest.relays))
    if durability is not None:
        manifest = replace(manifest, durability=durability)
    if workers is not None:
        manifest = replace(manifest, workers=parse_workers(workers, "workers"))
    return replace(manifest, digest=_digest(manifest, document.as_written, loading.digests))


def manifest_schema() -> dict[str, Any]:
    """The manifest's JSON Schema (draft 2020-12)."""
    from bulkmail.job.models import ManifestModel

    schema = ManifestModel.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "bulkmail manifest"}


def _overrides(rate: str | None, connections: int | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if rate is not None:
        given["rate"] = parse_rate(rate, "--rate")
    if connections is not None:
        given["connections"] = OPTIONS["connections"].metadata["parse"](connections, "--connections")
    return given


def _validated(data: dict[str, Any], loading: Loading, problems: Problems) -> models.ManifestModel | None:
    from pydantic import ValidationError

    from bulkmail.job.models import ManifestModel
    from bulkmail.job.sentences import tell

    try:
        return ManifestModel.model_validate(data, context=loading)
    except ValidationError as error:
        tell(error, ManifestModel, problems)
        return None


def _access(relays: object) -> Access:
    """What the message may be read from: what every relay allows. What is wrong with a relay is told elsewhere."""
    options = []
    for relay in relays if isinstance(relays, list) else [relays]:
        url, keys = (relay.get("url"), relay) if isinstance(relay, dict) else (relay, {})
        with contextlib.suppress(ConfigError):
            given = {name: keys[name] for name in ("allow_files", "allow_urls") if name in keys}
            options.append(parse_endpoint(str(url), **given).options)
    return Access(all(one.allow_files for one in options), bool(options) and all(one.allow_urls for one in options))


def _assemble(
    model: models.ManifestModel,
    path: Path,
    variables: dict[str, str],
    limits: dict[str, Any],
    loading: Loading,
    problems: Problems,
) -> Manifest:
    from bulkmail.job import calendar_model, dsn_model, events_model, limits_model, recipients_model, retry_model

    folder = path.parent
    job = model.job if model.job is not None else path.stem
    variants = _variants(model.message, loading.access)
    return Manifest(
        path=path,
        folder=folder,
        digest="",
        job=job,
        message=variants[0].message if variants else _message(model.message, loading.access),
        variants=variants,
        defaults=model.defaults,
        variables=variables,
        recipients=recipients_model.spec_of(model.recipients),
        relays=_relays(model.relays, model.egress, folder, problems),
        warnings=[
            *_unused(model),
            *_weak(model),
            *calendar_model.warnings_of(model.start_at, time.time()),
            *events_model.warnings_of(model.events),
        ],
        limits=replace(limits_model.spec_of(model.limits), **limits),
        retry=retry_model.spec_of(model.retry),
        stop_if=model.stop_if,
        dsn=dsn_model.spec_of(model.dsn),
        journal=folder / (model.journal if model.journal is not None else f"{job}.journal"),
        mode=model.mode,
        start_at=model.start_at,
        events=events_model.spec_of(model.events),
        durability=model.durability,
        workers=model.workers,
    )


def _message(model: models.Message, access: Access) -> MessageSpec:
    from bulkmail.job.content_model import headers_of, texts_of
    from bulkmail.job.dkim_model import specs_of
    from bulkmail.job.list_model import list_keys

    return MessageSpec(
        **texts_of(model),
        from_=model.from_,
        to=model.to,
        subject=model.subject or "",
        sender=model.sender,
        reply_to=model.reply_to,
        attachments=tuple(attachment.spec() for attachment in model.attachments),
        headers=headers_of(model.headers),
        **list_keys(model),
        envelope_from=model.envelope_from,
        raw=model.raw,
        dkim=specs_of(model.dkim),
        priority=model.priority,
        in_reply_to=model.in_reply_to,
        references=model.references,
        encoding=model.encoding,
        embed_images=model.embed_images,
        access=access,
    )


def _variants(model: models.Message, access: Access) -> tuple[VariantSpec, ...]:
    given = zip(model.variant_names(), model.variants or (), strict=True)
    return tuple(
        VariantSpec(
            name,
            one.weight,
            _message(model.as_variant(one), access),
            frozenset(key.rstrip("_") for key in one.model_fields_set),
        )
        for name, one in given
    )


def _with_images(manifest: Manifest, loading: Loading, problems: Problems) -> Manifest:
    from bulkmail.job.message_images import with_images

    variants = tuple(replace(one, message=with_images(one.message, loading, problems)) for one in manifest.variants)
    message = variants[0].message if variants else with_images(manifest.message, loading, problems)
    return replace(manifest, message=message, variants=variants)


def _relays(given: Any, egresses: dict[str, Egress], folder: Path, problems: Problems) -> tuple[RelaySpec, ...]:
    relays = given if isinstance(given, list) else [given]
    egresses = {name: _whole_egress(way, f"$.egress.{name}", folder, problems) for name, way in egresses.items()}
    paths = [f"$.relays[{i}]" for i in range(len(relays))] if isinstance(given, list) else ["$.relays"]
    endpoints = [_endpoint(relay, path, folder, problems) for relay, path in zip(relays, paths, strict=True)]
    names = [None if isinstance(relay, str) else relay.name for relay in relays]
    hosts = Counter(endpoint.host for endpoint in endpoints)
    found: dict[str, RelaySpec] = {}
    for i, (name, endpoint) in enumerate(zip(names, endpoints, strict=True)):
        if name is None:
            unique = hosts[endpoint.host] == 1 and endpoint.host not in names
            name = endpoint.host if unique else host_and_port(endpoint.host, endpoint.port)
            name = name if name not in found and name not in names else f"relay{i + 1}"
        if name in found:
            problems.add(f"{paths[i]}.name", f"two relays are called {name!r}, expected a name of its own for each")
        weight, backup = (None, False) if isinstance(relays[i], str) else (relays[i].weight, relays[i].backup)
        spec = RelaySpec(name, endpoint, weight=weight, backup=backup)
        found[name] = _ways(spec, relays[i], paths[i], egresses, folder, problems)
    return tuple(found.values())


def _ways(
    relay: RelaySpec, given: Any, path: str, egresses: dict[str, Egress], folder: Path, problems: Problems
) -> RelaySpec:
    """The relay with its egresses and the domains that are theirs."""
    if isinstance(given, str):
        return relay
    by_name = given.egress is not None or given.domains is not None
    if is_egress(given.proxy) and not by_name:
        way = _whole_egress(parse_egress(given.proxy, "the proxy"), path, folder, problems)
        return replace(relay, egresses=(way,))
    if is_egress(given.proxy):
        problems.add(path, "'proxy' and 'egress' or 'domains' are given, expected one of them")
    if not by_name:
        return relay
    names, key = given.egress or [], "egress"
    try:
        for name in names:
            if name not in egresses:
                known = listed(map(quoted, egresses)) if egresses else "none"
                raise ConfigError(f"there is no egress {quoted(name)} in $.egress ({known}){nearest(name, egresses)}")
        ways = parse_egresses([replace(egresses[name], name=name) for name in names], "egress") if names else ()
        check_ways(relay.endpoint, ways)
        key = "domains"
        pins = parse_pins(given.domains, "the key", names) if given.domains is not None else None
    except ConfigError as error:
        problems.add(f"{path}.{key}", str(error))
        return relay
    return replace(relay, egresses=ways, pins=pins)


def _unused(model: models.ManifestModel) -> list[tuple[str, str]]:
    relays = model.relays if isinstance(model.relays, list) else [model.relays]
    used = {name for relay in relays if not isinstance(relay, str) for name in relay.egress or ()}
    return [(f"$.egress.{name}", "no relay uses this egress") for name in model.egress if name not in used]


def _weak(model: models.ManifestModel) -> list[tuple[str, str]]:
    from bulkmail.job.dkim_model import warnings_of

    return warnings_of(model.message.dkim)


def _endpoint(relay: Any, path: str, folder: Path, problems: Problems) -> Endpoint:
    """The relay with the file names of its options relative to the manifest, those in its URL too."""
    url, options = (relay, {}) if isinstance(relay, str) else (relay.url, relay.options())
    endpoint = parse_endpoint(url, **options)
    whole: dict[str, Any] = {}
    for name in ("ca_file", "cert_file", "key_file", "wire_log"):
        value = getattr(endpoint.options, name)
        if isinstance(value, str):
            whole[name] = str(folder / value)
            if name != "wire_log" and not os.access(folder / value, os.R_OK):
                problems.add(path, f"option {name!r} of the URL: cannot read the file {folder / value}")
    if endpoint.options.proxy is not None:
        whole["proxy"] = _whole_chain(endpoint.options.proxy, path, folder, problems)
    if endpoint.options.token_command is not None:
        whole["token_command"] = _program(endpoint.options.token_command, path, folder, problems)
    return replace(endpoint, options=replace(endpoint.options, **whole))


def _whole_egress(way: Egress, path: str, folder: Path, problems: Problems) -> Egress:
    return way if way.proxy is None else replace(way, proxy=_whole_chain(way.proxy, path, folder, problems))


def _whole_chain(chain: Chain, path: str, folder: Path, problems: Problems) -> Chain:
    whole = chain.with_files_in(folder)
    for hop in whole:
        if hop.ca_file is not None and not os.access(hop.ca_file, os.R_OK):
            problems.add(path, f"the 'ca_file' of proxy {hop}: cannot read the file {hop.ca_file}")
    return whole


def _program(argv: tuple[str, ...], path: str, folder: Path, problems: Problems) -> tuple[str, ...]:
    """A token_command whose program is there: of the search path, or a file relative to the manifest."""
    name = argv[0] if os.path.basename(argv[0]) == argv[0] else str(folder / argv[0])
    if shutil.which(name) is None:
        problems.add(path, f"option 'token_command': there is no program {name} that can be run")
    return (name, *argv[1:])


def _logged(relay: RelaySpec, wire_log: str) -> RelaySpec:
    options = replace(relay.endpoint.options, wire_log=wire_log)
    return replace(relay, endpoint=replace(relay.endpoint, options=options))


def _digest(manifest: Manifest, written: dict[str, Any], files: dict[str, str]) -> str:
    """Of the JSON as it was written, before the environment's values: no secret is in it.

    Nor is what a message is signed with: a job goes on with a new key.
    """
    recipients = written["recipients"]
    if not isinstance(recipients, dict):
        recipients = {"list" if isinstance(recipients, list) else "file": recipients}
    recipients = {key: value for key, value in recipients.items() if (key, value) != ("validate", True)}
    if isinstance(recipients.get("url"), str):
        recipients = recipients | {"url": without_password(recipients["url"])}
    defaults: dict[str, Any] = {"format": None, "bad_rows": "stop", "deduplicate": False, "suppress": []}
    meaning = {
        "job": manifest.job,
        "message": {key: value for key, value in written["message"].items() if value is not None and key != "dkim"},
        "files": files,
        "defaults": written.get("defaults") or {},
        "variables": manifest.variables,
        "recipients": defaults
        | {key: value for key, value in recipients.items() if value is not None or key in defaults},
        "mode": manifest.mode,
    }
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()
