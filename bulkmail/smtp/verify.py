"""Step by step: does a relay answer, encrypt, let us in? What was found, how long it took, what would help."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bulkmail.errors import BulkmailError, ConfigError, TlsError
from bulkmail.net.certificate import Certificate, peer_certificate
from bulkmail.net.proxies import is_custom
from bulkmail.smtp.envelope import ServerInfo
from bulkmail.smtp.open import close_politely, full_info, open_session
from bulkmail.smtp.remedies import remedy
from bulkmail.smtp.sender import try_sender
from bulkmail.smtp.session import Session, Turn
from bulkmail.smtp.wirelog import CONTROL
from bulkmail.url import Endpoint, parse_endpoint

EXPIRES_SOON = 14  # days; automatic renewal (30 days before, with Let's Encrypt) has then failed for two weeks
LABELS = {"dns": "DNS", "ehlo": "EHLO", "ehlo_again": "EHLO again", "tls": "TLS"}
WIDTH = max(len(label) for label in LABELS.values())
SHOWN_NAMES = 5  # of a certificate: those of hosting companies have a hundred


@dataclass
class VerifyStep:
    """One step.

    name      "dns", "connect", "proxy" (of a chain "proxy 1", "proxy 2", ...), "greeting", "ehlo", "tls", "ehlo_again",
              "login" or "sender"
    ok        True, False, or None: it was skipped (then `summary` says why) or not reached
    seconds   how long it took
    summary   what was found, in words
    detail    the same for programs: names to values that JSON can carry
    error     of the step that failed; remedy: what would help
    warnings  what works and may not do so for long
    """

    name: str
    ok: bool | None = None
    seconds: float = 0.0
    summary: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    error: BulkmailError | None = None
    remedy: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """ "ok", "failed", "skipped" or "not reached"."""
        if self.ok is None:
            return "skipped" if self.summary else "not reached"
        return "ok" if self.ok else "failed"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "ok": self.ok,
            "seconds": round(self.seconds, 6),
            "summary": self.summary,
            "detail": self.detail,
            "error": str(self.error) if self.error else None,
            "code": self.error.code if self.error else None,
            "remedy": self.remedy,
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """For people: the step, then what would help and what to heed."""
        state = "FAILED" if self.ok is False else self.state
        time = f"{self.seconds * 1000:.0f} ms" if self.ok is not None else ""
        text = str(self.error) if self.error else self.summary
        first = f"{LABELS.get(self.name, self.name):<{WIDTH}}  {state:<11}  {time:>9}  {_one_line(text)}".rstrip()
        return [
            first,
            *([f"  found: {_one_line(self.summary)}"] if self.error and self.summary else []),
            *([f"  remedy: {_one_line(self.remedy)}"] if self.remedy else []),
            *(f"  warning: {_one_line(warning)}" for warning in self.warnings),
        ]


@dataclass
class VerifyReport:
    """All steps of one attempt, those that were not reached included. str() has a line for each.

    url   of the relay, the password masked
    info  what the server offers; None if the attempt failed before it was known
    """

    url: str
    steps: list[VerifyStep]
    info: ServerInfo | None = None

    @property
    def ok(self) -> bool:
        return self.failed is None

    @property
    def failed(self) -> VerifyStep | None:
        """The step that failed, or None."""
        return next((step for step in self.steps if step.ok is False), None)

    def step(self, name: str) -> VerifyStep | None:
        """The step of that name, if it is part of this attempt."""
        return next((step for step in self.steps if step.name == name), None)

    def __str__(self) -> str:
        return "\n".join(line for step in self.steps for line in step.lines())


async def probe(url: str, *, sender: str | None = None, **options: Any) -> VerifyReport:
    """Open a connection, try `sender` with MAIL and RSET if it is given, say goodbye. Nothing is sent.

    url      a relay's URL, or "host" (smtp://host)
    sender   an address, or "" for the null sender
    options  see docs/manifest.md
    raises   ConfigError only: every failure of the relay is in the report
    """
    endpoint = parse_endpoint(url if "://" in url else f"smtp://{url}", **options)
    watch = _Watch(endpoint, sender, time.perf_counter)  # uvloop's own clock counts milliseconds
    report = VerifyReport(str(endpoint), watch.steps)
    session: Session | None = None
    try:
        session = await open_session(endpoint, _idle_turn(), on_step=watch)
        report.info = full_info(session, session.label.info)
        if sender is not None:
            watch("sender", None)
            watch("sender", {"sender": sender, "reply": await try_sender(session, sender)})
    except ConfigError:
        raise
    except BulkmailError as error:
        watch.fail(error)
        if isinstance(error, TlsError) and isinstance(error.__cause__, ssl.SSLCertVerificationError):
            watch.refused_certificate(await _look(endpoint))
    finally:
        if session is not None:
            await close_politely(session)
    return report


class _Seen(Exception):
    """There is no more to look for."""


async def _look(endpoint: Endpoint) -> Any:
    """The TLS connection to a server whose certificate was refused: its handshake is done, and it has ended. Or None.

    A handshake that fails does not tell what the certificate says, and that is what one wants to know. This one has no
    credentials with it, and says nothing behind the handshake.
    """
    tls = None

    def on_step(name: str, found: dict[str, Any] | None) -> None:
        nonlocal tls
        if name == "tls" and found is not None and "session" in found:
            tls = found["session"].tls
            raise _Seen

    options = dataclasses.replace(
        endpoint.options, verify=False, log=False, auth="auto", token=None, token_command=None, oauth2=None
    )
    anybody = dataclasses.replace(endpoint, user=None, password=None, options=options)
    with suppress(BulkmailError, _Seen):
        await close_politely(await open_session(anybody, _idle_turn(), on_step=on_step))
    return tls


def _idle_turn() -> Turn:
    """For a session that is given no transactions."""
    turn = Turn(asyncio.get_running_loop(), lambda: (turn.take_done(), turn.take_hungry(), turn.take_ended()), 0)
    return turn


def _planned(endpoint: Endpoint, sender: str | None) -> list[str]:
    names = ["dns"] if endpoint.path is None else []
    names += ["connect", *_proxy_steps(endpoint)]
    names += ["tls", "greeting", "ehlo"] if endpoint.implicit_tls else ["greeting", "ehlo", "tls"]
    return [*names, "login"] + (["sender"] if sender is not None else [])


def _proxy_steps(endpoint: Endpoint) -> list[str]:
    count = len(endpoint.options.proxy or ())
    return ["proxy"] if count == 1 else [f"proxy {number + 1}" for number in range(count)]


class _Watch:
    """Is told of the steps by whoever opens the connection; keeps what they found and how long they took.

    tls=opportunistic may take two connections: a step that is done again is timed anew, and its last end counts.
    """

    def __init__(self, endpoint: Endpoint, sender: str | None, clock: Callable[[], float]) -> None:
        self.endpoint, self.clock = endpoint, clock
        self.steps = [VerifyStep(name) for name in _planned(endpoint, sender)]
        self.current: VerifyStep | None = None  # begun, not ended
        self.last = self.steps[0]
        self.began = 0.0
        self.extensions: dict[str, str] = {}
        self.broken: BulkmailError | None = None
        first = endpoint.options.proxy[0] if endpoint.options.proxy else None
        if first is not None and is_custom(first):
            for name in ("dns", "connect"):  # unless it asks us to
                self._find(name).summary = f"the handler of {first.scheme}:// sees to it"
        if not endpoint.logs_in:
            self._find("login").summary = "the URL has no user"

    def __call__(self, name: str, found: dict[str, Any] | None) -> None:
        if name == "bypass" and found is not None:
            self._bypass(found["endpoint"])
            return
        step = self._step(name)
        if found is None:
            self.current, self.began = step, self.clock()
            return
        kind = name.partition(" ")[0]
        if self.current is step:
            step.seconds = (step.seconds if kind in ("dns", "connect", "proxy") else 0) + self.clock() - self.began
        self.current, self.last = None, step
        step.ok = True
        getattr(self, f"_{kind}")(step, found)

    def _find(self, name: str) -> VerifyStep:
        return next(step for step in self.steps if step.name == name)

    def _step(self, name: str) -> VerifyStep:
        step, tls = self._find(name), self._find("tls")
        if name != "ehlo" or self.endpoint.implicit_tls or tls.ok is not True:
            return step
        place = self.steps.index(tls) + 1
        if self.steps[place].name != "ehlo_again":
            self.steps.insert(place, VerifyStep("ehlo_again"))
        return self.steps[place]

    # -- what each step found

    def _dns(self, step: VerifyStep, found: dict[str, Any]) -> None:
        names = step.detail.setdefault("names", {})
        names[found["host"]] = found["addresses"]
        told = [_found_address(name, addresses) for name, addresses in names.items()]
        if self.endpoint.options.proxy and self.endpoint.host not in names:
            told.append(f"the proxy finds {self.endpoint.host}")
        step.summary = "; ".join(told)

    def _connect(self, step: VerifyStep, found: dict[str, Any]) -> None:
        address, failures = _peer(found["socket"]) or self.endpoint.place, list(found["failures"])
        step.detail = {"address": address, "failures": failures}
        step.summary = f"{address} answered" + (f"; {'; '.join(failures)}" if failures else "")

    def _bypass(self, direct: Endpoint) -> None:
        for name in _proxy_steps(self.endpoint):
            self._find(name).summary = f"no_proxy covers {direct.host}: the connection is direct"
        for step in self.steps:
            if step.name in ("dns", "connect") and step.ok is None:
                step.summary = ""
        self.endpoint = direct

    def _proxy(self, step: VerifyStep, found: dict[str, Any]) -> None:
        proxy, refusals, tls = found["proxy"], [str(refusal) for refusal in found["refusals"]], found.get("tls")
        step.detail = {"proxy": proxy, "target": found["target"], "failures": refusals} | ({"tls": tls} if tls else {})
        by = f" ({tls} with it)" if tls else ""
        step.summary = "; ".join([f"{proxy}{by} reaches {found['target']}", *refusals])

    def _greeting(self, step: VerifyStep, found: dict[str, Any]) -> None:
        step.detail = {"code": found["reply"].code, "text": found["reply"].text}
        step.summary = str(found["reply"])

    def _ehlo(self, step: VerifyStep, found: dict[str, Any]) -> None:
        self.extensions = dict(found["extensions"])
        step.detail = {"name": found["name"], "extensions": self.extensions}
        step.summary = f"as {found['name']}; offered: {', '.join(self.extensions) or 'no extensions'}"

    def _tls(self, step: VerifyStep, found: dict[str, Any]) -> None:
        if "broken" in found:
            self._in_clear(step, found["broken"])
        elif self.broken is not None:
            step.ok = None  # the second connection does not try
        elif "skipped" in found:
            step.ok, step.summary = None, f"in clear text: {found['skipped']}"
        else:
            self._encrypted(step, found["session"].tls)

    def _in_clear(self, step: VerifyStep, error: BulkmailError) -> None:
        self.broken = error
        step.ok, step.detail, step.summary = None, {}, "in clear text: the handshake broke"
        step.warnings = [f"TLS does not work here, and tls=opportunistic goes on without: {error}"]
        self._drop_again()
        if self.endpoint.logs_in:
            self._find("login").summary = "no credentials are sent after a broken handshake"

    def _drop_again(self) -> None:
        """The second EHLO is a step only if it was answered, or failed itself."""
        self.steps[:] = [step for step in self.steps if step.name != "ehlo_again" or step.ok is not None]

    def _encrypted(self, step: VerifyStep, tls: Any) -> None:
        if tls is None:
            step.summary = "by the word of the proxy's handler"
            step.warnings = ["how it is encrypted, and whether the certificate was verified, only the handler knows"]
            return
        version, cipher, certificate = tls.version(), tls.cipher()[0], peer_certificate(tls)
        step.detail = tls_details(version, cipher, certificate)
        step.summary = f"{version}, {cipher}; " + (certificate_text(certificate) if certificate else "no certificate")
        step.warnings = certificate_warnings(certificate, datetime.now(UTC))

    def refused_certificate(self, tls: Any) -> None:
        """What the certificate says that was not good enough. tls: what `_look` has found."""
        step = self._find("tls")
        certificate = peer_certificate(tls) if tls is not None else None
        if certificate is not None:
            step.detail = tls_details(tls.version(), tls.cipher()[0], certificate)
            step.summary = certificate_text(certificate)

    def _login(self, step: VerifyStep, found: dict[str, Any]) -> None:
        user = self.endpoint.user
        step.detail = {"mechanism": found["mechanism"], "user": user}
        step.summary = f"AUTH {found['mechanism'].upper()}" + (f" as {user}" if user else "")

    def _sender(self, step: VerifyStep, found: dict[str, Any]) -> None:
        step.detail = {"sender": found["sender"], "reply": str(found["reply"])}
        step.summary = f"<{found['sender']}> is accepted: {found['reply']}"

    # -- the end

    def fail(self, error: BulkmailError) -> None:
        """The attempt ended with `error`."""
        failed = self.current or self.last
        if isinstance(error, TlsError) and failed.name in ("greeting", "ehlo_again"):
            # with TLS 1.3 a server refuses our certificate when we think that all is well
            failed = self._step("tls")
        if self.current is failed:
            failed.seconds += self.clock() - self.began
        failed.ok, failed.error = False, error
        failed.remedy = remedy(error, failed.name, self.endpoint, extensions=self.extensions)
        self._drop_again()


def _found_address(name: str, addresses: list[str]) -> str:
    if not addresses:
        return f"{name} is not found here"
    return name if [name] == addresses else f"{name} is {', '.join(addresses)}"


def _peer(sock: Any) -> str:
    """ "192.0.2.1:587"; "" if it is not known (any more), or a socket's path is all that there is."""
    try:
        peer = sock.getpeername()
    except OSError:
        return ""
    if not isinstance(peer, tuple):
        return str(peer)
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def tls_details(version: str, cipher: str | None, certificate: Certificate | None) -> dict[str, Any]:
    """For JSON."""
    known = certificate or Certificate((), None, None, None, "", False)
    return {
        "version": version,
        "cipher": cipher,
        "verified": known.verified,
        "names": list(known.names),
        "subject": known.subject,
        "issuer": known.issuer,
        "expires": known.expires,
        "sha256": known.sha256 or None,
    }


def certificate_text(certificate: Certificate) -> str:
    """One sentence about it."""
    if not certificate.expires:
        return f"a certificate that was not verified, SHA-256 {certificate.sha256}"
    names = ", ".join(certificate.names[:SHOWN_NAMES]) or "no name"
    if len(certificate.names) > SHOWN_NAMES:
        names += f" and {len(certificate.names) - SHOWN_NAMES} more"
    return f"certificate for {names}, until {certificate.expires}, by {certificate.issuer}"


def certificate_warnings(certificate: Certificate | None, now: datetime) -> list[str]:
    """What is not an error, and should be known."""
    warnings = []
    if certificate is None or not certificate.verified:
        warnings.append("the certificate was not verified: whoever answers may be somebody else")
    left = certificate.days_left(now) if certificate else None
    if certificate and left is not None and left < 0:
        warnings.append(f"the certificate expired on {certificate.expires}")
    elif certificate and left is not None and left < EXPIRES_SOON:
        warnings.append(f"the certificate expires in {left:.0f} days, on {certificate.expires}")
    return warnings


def _one_line(text: str) -> str:
    """Servers and certificates say what they like: no line breaks, nothing that commands a terminal."""
    return CONTROL.sub("?", " ".join(text.splitlines()))
