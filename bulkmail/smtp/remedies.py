"""What may help against a failure of one of the steps that open a connection: a sentence for each kind of failure."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping

from bulkmail.errors import (
    AuthError,
    AuthUnavailable,
    BulkmailError,
    ConnectionLost,
    EnvelopeRefused,
    ProtocolError,
    ProxyError,
    ResolveError,
    TimedOut,
    TlsError,
)
from bulkmail.net.tls import failure_kind
from bulkmail.smtp.classify import classify
from bulkmail.url import Endpoint

SECURE_PORT = 465

# Of TLS, by net.tls.failure_kind().
_TLS = {
    "name": "Use the name that the certificate carries as the host, or say server_name=NAME if that name is right.",
    "authority": "Is it a private authority? Say ca_file=FILE with its certificate (PEM). Else the server sends an "
    "incomplete chain, which its administrator has to complete.",
    "time": "Compare this machine's clock with the right time; if it is right, the server needs a new certificate.",
    "weak": "The server needs a certificate with a longer key or a newer signature.",
    "certificate": "The server needs another certificate; verify=false encrypts without proving who answers.",
    "clear": "smtps:// is TLS from the start (465), smtp:// begins in clear and uses STARTTLS (587, 25): "
    "take the one that belongs to port {port}.",
    "version": "The server speaks other TLS versions than we accept: tls_min=1.2 is the lowest; it may be too old.",
    "no own certificate": "Say cert_file=FILE and key_file=FILE: the server lets in only clients that it can identify.",
    "own certificate": "The server does not accept the certificate of cert_file: has it expired, did the wrong "
    "authority issue it, is its chain complete?",
    "no agreement": "The server shares no cipher or version with this machine, or wants a client certificate "
    "(cert_file, key_file).",
    "unknown name": "The server has no certificate for that name: say server_name=NAME.",
    "closed": "Something between here and there may not let TLS through, or the server's TLS is not set up; "
    "try another port.",
    "other": "Try the same with `openssl s_client` to see whether another program gets further.",
}
_STARTTLS = (
    "The server's TLS is not working or not for us: ask its administrator, or use smtps:// if it has port 465. "
    "tls=opportunistic goes on in clear text."
)
_NO_STARTTLS = "The server has no STARTTLS on port {port}: use smtps:// (465), or another port of it (587)."

# By the phase of TimedOut, where it is not the step that says more.
_LATE = {
    "dns": "The resolver of this machine does not answer: see /etc/resolv.conf. Option dns_timeout says how long to "
    "wait.",
    "connect": "Nothing answers on port {port}: a firewall may drop what is sent there (many networks do so for 25; "
    "try 587 or 465). Option connect_timeout says how long to wait.",
    "proxy": "The proxy does not answer: is its address right, and does it speak {proxy_scheme}? "
    "Option connect_timeout says how long to wait.",
    "greeting": "Some servers greet late, to see who is impatient: option greeting_timeout says how long to wait.",
    "command": "Option command_timeout says how long to wait for a reply.",
}
_SILENT_PORT = (
    "A server that wants TLS from the start says nothing before it has got it: try smtps:// for port {port}. "
)
_LATE_HANDSHAKE = (
    "The server does not end the TLS handshake: is it overloaded, or does something between drop large packets?"
)

_SYSTEM = {
    errno.ECONNREFUSED: "Nothing listens on port {port}, or a firewall refuses. Does the server run? Submission is on "
    "587, smtps:// on 465, mail between servers on 25.",
    errno.ENETUNREACH: "This machine has no route to there: is its network up (IPv6 too, if the address is one)?",
    errno.EHOSTUNREACH: "The host cannot be reached: it is down, or a firewall says so.",
    errno.EACCES: "This machine's own rules forbid the connection.",
}
_SOCKET = {
    errno.ENOENT: "No socket has that name: does the server run, and is the path right?",
    errno.ECONNREFUSED: "Nobody listens on that socket any more: does the server run?",
    errno.EACCES: "This user may not use the socket: see its permissions, and those of the folders above it.",
}
_LOCAL = "Option local_address has to be an address or interface of this machine, of the same family as the server's."
_NO_CONNECTION = "Is the host right, is port {port} the right one, and does no firewall stand between?"

# Of the greeting, EHLO and MAIL, by the kind of the reply (docs/replies.md).
_REPLIES = {
    "blocked": "The server has something against this machine's address: its reply says what, often with a page to "
    "read.",
    "unauthenticated": "This machine's address needs a name in DNS that leads back to it, and an EHLO name like it "
    "(option name).",
    "auth": "The server wants a login first: put user and password into the URL.",
    "tls_required": "The server wants TLS: say tls=require, or use smtps://.",
    "relay_denied": "The server takes no mail for others from here: log in, or ask for permission.",
    "throttled": "The server has had enough of us for now: try again later, with fewer connections.",
    "quota": "The limit of this login or address is used up: try again later.",
    "greylisted": "The server wants us to come back in some minutes.",
    "busy": "The server is overloaded: try again later.",
    "system": "The server has a trouble of its own: try again later.",
    "sender": "The server takes no mail from that sender: is its domain in DNS, and is this login allowed to use it?",
}
_GREETING = "The server may have something against this machine's address."
_AFTER_HANDSHAKE = (
    "The server hung up behind the TLS handshake: it may want a client certificate (cert_file, key_file)."
)
_HUNG_UP = "The server hung up: its log says why; try again later."
_NOT_SMTP = "What answers on port {port} does not speak SMTP: is the port right?"
_EHLO = "The server may not like the name that we call ourselves in EHLO: option name says another one."
_SENDER = "Another sender may be allowed, or a login (user and password in the URL)."
_INJECTED = "Somebody on the way may have put that text there: do not trust this line. smtps:// gives no room for it."

_HEADER_SENT = (
    "Does the server expect the PROXY header that proxy_protocol={version} sends, in this version and from this "
    "address? Without a load balancer in front it does not: leave the option out."
)
_HEADER_WANTED = (
    "A server behind a load balancer may wait for a PROXY header (HAProxy: accept-proxy): proxy_protocol=v2, or v1."
)

_PROXY_LOGIN = "Put the proxy's user and password into its URL: {proxy_scheme}://user:password@host:port."
_PROXY_FORBIDS = "The proxy does not let us reach port {port}: its rules have to allow it (many allow 443 only)."
_PROXY_FAILS = (
    "The proxy works, and does not reach the server: is the host right, as seen from the proxy, and port {port}?"
)
_PROXY_ITSELF = "Is the proxy's host, port and scheme right, and does it run?"
_PROXY_IDENT = "The proxy asks this machine who we are (identd): it wants another user id, or another kind of login."
_PROXY_CERTIFICATE = {
    "name": "Use the name that the proxy's certificate carries as its host, or give the proxy's object a server_name.",
    "authority": "Is it a private authority? Give the proxy's object a ca_file with its certificate (PEM).",
}
_PROXY_TLS = (
    "Does the proxy speak TLS on that port? One that does not is http://. "
    "Its certificate has to be valid for the name or address in its URL."
)


def remedy(error: BulkmailError, step: str, endpoint: Endpoint, *, extensions: Mapping[str, str]) -> str | None:
    """One or two sentences, or None where nothing is known that helps.

    step        where it failed: the name of a VerifyStep
    extensions  what the server has offered so far
    """
    if isinstance(error, ProxyError):
        found: str | None = _proxy(error)
    else:
        both = _by_step(error, step, endpoint, extensions), _header(error, step, endpoint)
        found = " ".join(filter(None, both)) or None
    scheme, version = _proxy_scheme(error, step, endpoint), endpoint.options.proxy_protocol
    return found and found.format(port=endpoint.port, proxy_scheme=scheme, version=version)


def _proxy_scheme(error: BulkmailError, step: str, endpoint: Endpoint) -> str:
    """Of the proxy that failed, in a chain by its name or its place."""
    hops = endpoint.options.proxy or ()
    for place, hop in enumerate(hops):
        if getattr(error, "proxy", None) == str(hop) or step == f"proxy {place + 1}":
            return hop.scheme
    return hops[-1].scheme if hops else ""


def _by_step(error: BulkmailError, step: str, endpoint: Endpoint, extensions: Mapping[str, str]) -> str | None:
    if isinstance(error, TimedOut):
        return _late(error, step, endpoint)
    if isinstance(error, ProtocolError):
        return {"tls": _INJECTED, "greeting": _NOT_SMTP, "ehlo": _NOT_SMTP}.get(step)
    if isinstance(error, ResolveError):
        return "Is the host spelled right? `getent hosts NAME` shows what this machine finds for a name."
    if step == "connect":
        return _no_connection(error, endpoint)
    if step == "tls":
        return _no_tls(error, extensions)
    if isinstance(error, AuthError):
        return _no_login(error, extensions)
    return _refused(error, step, endpoint)


def _header(error: BulkmailError, step: str, endpoint: Endpoint) -> str | None:
    """Where the failure is what a PROXY header looks like that the server does not expect, or does not get."""
    sent = endpoint.options.proxy_protocol is not None
    if error.reply is None:
        lost = isinstance(error, (ConnectionLost, TimedOut))
    else:  # Postfix says 421 4.3.0 where it gets no header, or one that it does not understand
        meaning = classify(error.reply, error.command)
        lost = step == "greeting" and meaning is not None and meaning.kind == "system"
    if step == "tls" and endpoint.implicit_tls:
        unclear = isinstance(error, TlsError) and failure_kind(error.__cause__) in ("clear", "closed", "other")
        return (_HEADER_SENT if sent else _HEADER_WANTED) if lost or unclear else None
    if sent:
        told = step == "ehlo" or isinstance(error, ProtocolError)
        reached = isinstance(error, ConnectionLost) if step == "connect" else step in ("greeting", "ehlo")
        return _HEADER_SENT if reached and (told or lost) else None
    return _HEADER_WANTED if step == "greeting" and lost else None


def _late(error: TimedOut, step: str, endpoint: Endpoint) -> str:
    if step == "tls" and error.phase == "connect":
        return _LATE_HANDSHAKE
    silent = step == "greeting" and endpoint.port == SECURE_PORT and not endpoint.implicit_tls
    return (_SILENT_PORT if silent else "") + _LATE.get(error.phase, _LATE["command"])


def _no_connection(error: BulkmailError, endpoint: Endpoint) -> str:
    number = getattr(error.__cause__, "errno", None) or 0
    if endpoint.path is not None:
        return _SOCKET.get(number, _SOCKET[errno.ENOENT])
    return _LOCAL if "local_address" in str(error) else _SYSTEM.get(number, _NO_CONNECTION)


def _no_tls(error: BulkmailError, extensions: Mapping[str, str]) -> str:
    if error.reply is not None:
        return _STARTTLS if "STARTTLS" in extensions else _NO_STARTTLS
    if isinstance(error, TlsError):
        return _TLS[failure_kind(error.__cause__)]
    return _TLS["closed"]


def _no_login(error: AuthError, extensions: Mapping[str, str]) -> str:
    offered = extensions.get("AUTH", "").lower()
    says = f"The server offers {_braces(offered)}. " if offered else "The server offers no login on this connection. "
    if isinstance(error, AuthUnavailable):
        if "not encrypted" in str(error):
            return "Use smtps:// or tls=require; allow_plaintext_auth=true shows the password to whoever listens."
        if not offered:
            return says + "Many offer one only over TLS, or on port 587 or 465."
        return says + "Option auth says which to use; known are those of docs/manifest.md."
    if error.reply is None:
        return "Without a token there is no login: see token, token_command and oauth2 in docs/manifest.md."
    if error.reply.code < 500:
        return says + "The server cannot check the login now: try again later."
    return (
        says + "Check user and password (in a URL, %, @, : and / are written %25, %40, %3A, %2F). Accounts with two "
        "factors need an app password, or a token with auth=xoauth2."
    )


def _refused(error: BulkmailError, step: str, endpoint: Endpoint) -> str | None:
    """Of the greeting, EHLO and MAIL: what the reply means, or what it is about."""
    if error.reply is None and isinstance(error, ConnectionLost):
        if step == "ehlo_again" or (step == "greeting" and endpoint.implicit_tls):
            return _AFTER_HANDSHAKE
        return {"greeting": _SILENT_PORT + _GREETING, "ehlo": _EHLO}.get(step, _HUNG_UP)
    meaning = classify(error.reply, error.command) if error.reply is not None else None
    if meaning is not None and meaning.kind in _REPLIES and (meaning.kind != "blocked" or "ehlo" not in step):
        return _REPLIES[meaning.kind]
    if isinstance(error, EnvelopeRefused):
        return _SENDER
    return {"greeting": _GREETING, "ehlo": _EHLO, "ehlo_again": _EHLO}.get(step)


def _proxy(error: ProxyError) -> str:
    """By the status of HTTP, or the reply code of SOCKS 5 (RFC 1928 section 6) or 4."""
    text = str(error)
    if isinstance(error.__cause__, ssl.SSLError):
        return _PROXY_CERTIFICATE.get(failure_kind(error.__cause__), _PROXY_TLS)
    if error.reply_code in (92, 93):
        return _PROXY_IDENT
    if error.reply_code in (401, 407, 255) or "password" in text:
        return _PROXY_LOGIN
    if error.reply_code in (403, 405, 2):
        return _PROXY_FORBIDS
    return _PROXY_ITSELF if error.reply_code is None else _PROXY_FAILS


def _braces(text: str) -> str:
    """What a server said, for a text that is formatted."""
    return text.replace("{", "{{").replace("}", "}}")
