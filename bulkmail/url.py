"""URLs of relays and proxies, and the options that a relay takes.

An option has one declaration, a field of `Options`: its name, default, parser and what other mailers call it. Query
strings, keyword arguments and manifest keys all go through `parse_options`, so they are checked alike. Every refusal
is a ConfigError with one sentence: the option, what was found, what is expected. No text from here holds a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from bulkmail.errors import ConfigError
from bulkmail.loginoptions import (
    OAuth2,
    TokenFunction,
    check_login,
    parse_auth,
    parse_oauth2,
    parse_token,
    parse_token_command,
    token_options,
)
from bulkmail.proxyurl import Chain, parse_proxy
from bulkmail.records import Record
from bulkmail.urlparts import decoded, host_and_port, nearest, shown_url, split_url
from bulkmail.values import (
    Rate,
    one_of,
    parse_ehlo_name,
    parse_flag,
    parse_local_address,
    parse_path,
    parse_rate,
    parse_server_name,
    parse_timeout,
    parse_tls_version,
    parse_wire_log,
    whole_number,
)

if TYPE_CHECKING:
    from bulkmail.noproxy import NoProxy

RELAY_PORTS: Final = {"smtp": 587, "smtps": 465, "lmtp": 24, "lmtp+unix": 0}

_word = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}").fullmatch


# ---- the table of options

FROM_ENVIRONMENT: Final = "env"


def _parse_proxy(value: object, what: str) -> Chain | str:
    """A chain, or "env", which stays as it is until parse_endpoint puts a chain in its place."""
    return FROM_ENVIRONMENT if value == FROM_ENVIRONMENT else parse_proxy(value, what)


def _parse_no_proxy(value: object, what: str) -> NoProxy:
    from bulkmail.noproxy import parse_no_proxy  # only who has such rules pays for them

    return parse_no_proxy(value, what)


def _option(default: Any, parse: Callable[[Any, str], object], hidden: bool = False, **also: str) -> Any:
    """A field of Options. hidden: repr() leaves it out. `also`: what other mailers call it -> what to write here."""
    return field(default=default, repr=not hidden, metadata={"parse": parse, "also": also})


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Options(Record):
    """How to talk to a relay. Hashable. Build it with parse_endpoint or parse_options, which check; this does not.

    Times are seconds, one deadline for each phase: a server that drips bytes still runs out of time.
    ca_file replaces the system's authorities. batch is recipients per transaction. messages_per_connection 0: no limit.
    """

    tls: str = _option("auto", one_of("auto", "require", "never", "opportunistic"), requireTLS="tls=require",
                       ignoreTLS="tls=never", opportunisticTLS="tls=opportunistic", start_tls="tls=require",
                       secure="an smtps:// URL", use_tls="an smtps:// URL")  # fmt: skip
    server_name: str | None = _option(None, parse_server_name, servername="server_name", server_hostname="server_name")
    ca_file: str | None = _option(None, parse_path, ca="ca_file", cert_bundle="ca_file")
    cert_file: str | None = _option(None, parse_path, cert="cert_file", client_cert="cert_file")
    key_file: str | None = _option(None, parse_path, key="key_file", client_key="key_file")
    verify: bool = _option(True, parse_flag, rejectUnauthorized="verify", validate_certs="verify")
    tls_min: str = _option("1.2", parse_tls_version, minVersion="tls_min")
    name: str | None = _option(None, parse_ehlo_name, local_hostname="name")
    local_address: str | None = _option(None, parse_local_address, source_address="local_address")
    connect_timeout: float = _option(120.0, parse_timeout, connectionTimeout="connect_timeout (seconds)")
    greeting_timeout: float = _option(30.0, parse_timeout)
    dns_timeout: float = _option(30.0, parse_timeout)
    command_timeout: float = _option(300.0, parse_timeout, socketTimeout="command_timeout and data_timeout (seconds)",
                                     timeout="command_timeout and data_timeout (seconds)")  # fmt: skip
    data_timeout: float = _option(600.0, parse_timeout)
    auth: str = _option("auto", parse_auth, authMethod="auth")
    allow_plaintext_auth: bool = _option(False, parse_flag)
    token: str | TokenFunction | None = _option(None, parse_token, hidden=True, accessToken="token",  # noqa: RUF009
                                                provisionCallback="token (a function)",
                                                oauth_token_generator="token (a function)")  # fmt: skip
    token_command: tuple[str, ...] | None = _option(None, parse_token_command, hidden=True)
    oauth2: OAuth2 | None = _option(None, parse_oauth2, refreshToken="oauth2", clientSecret="oauth2",  # noqa: RUF009
                                     clientId="oauth2", accessUrl="oauth2 {token_url}")  # fmt: skip
    connections: int = _option(5, whole_number(1), maxConnections="connections", pool="connections (1: no pool)")
    messages_per_connection: int = _option(100, whole_number(0), maxMessages="messages_per_connection")
    idle_timeout: float = _option(30.0, parse_timeout)
    rate: Rate | None = _option(None, parse_rate, rateLimit='rate, such as "10/s"', rateDelta='rate, such as "10/s"')  # noqa: RUF009
    batch: int = _option(100, whole_number(1))
    pipelining: bool = _option(True, parse_flag)
    chunking: bool = _option(True, parse_flag)
    proxy: Chain | None = _option(None, _parse_proxy)  # noqa: RUF009
    no_proxy: NoProxy | None = _option(None, _parse_no_proxy)  # noqa: RUF009
    proxy_protocol: str | None = _option(None, one_of("v1", "v2"))
    wire_log: str | bool | None = _option(None, parse_wire_log, transactionLog="wire_log", debug="wire_log")
    log: bool | None = _option(None, parse_flag, logger="log")
    allow_files: bool = _option(True, parse_flag, disableFileAccess="allow_files=false")
    allow_urls: bool = _option(False, parse_flag, disableUrlAccess="allow_urls (off unless allowed)")

    def __post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError("option 'key_file' is given without 'cert_file': the key's certificate is needed too")


OPTIONS: Final[Mapping[str, Any]] = {option.name: option for option in fields(Options)}


def _plain_name(name: str) -> str:
    """The name as others may write it: "tls.minVersion", "require-tls", "REQUIRE_TLS" -> "minversion", "requiretls"."""
    return re.sub(r"[_-]", "", name.rpartition(".")[2]).lower()


_IN_THE_URL: Final = ("host", "hostname", "port", "user", "username", "pass", "password")

# Options of Nodemailer and aiosmtplib that are no options of a relay here: what there is instead.
_ELSEWHERE: Final = {
    "service": "there is no list of providers; write the relay's host into the URL",
    "lmtp": "use an lmtp:// URL",
    "socketPath": "use an lmtp+unix:// URL, or Connection(socket=...) for SMTP",
    "sock": "use Connection(socket=...)",
    "socket": "it is an argument of Connection",
    "transport": "it is an argument of Connection",
    "getSocket": "use Connection(socket=...), or a proxy",
    "tlsContext": "use ca_file, cert_file, key_file, verify and tls_min",
    "forceAuth": "it is always so: credentials that cannot be used are an error",
    "customAuth": "use bulkmail.register_auth",
    "serviceClient": "use token_command, or token (a function), for a service account",
    "privateKey": "use token_command, or token (a function), for a service account",
    "expires": "use oauth2, token_command or token (a function), which are asked again when a token has expired",
    "maxRequeues": "a message that no server took is tried on another connection by itself",
    "allowInternalNetworkInterfaces": "every address that the host has is tried",
    "dkim": "it belongs to the message",
    **dict.fromkeys(("use8BitMime", "dsn", "size", "mailOptions", "rcptOptions"), "it belongs to bulkmail.Envelope"),
    "requireTLSExtensionEnabled": "use Envelope(require_tls=True)",
}

_HINTS: Final = (
    {_plain_name(name): f"use {name}" for name in OPTIONS}
    | {_plain_name(theirs): f"use {ours}" for row in OPTIONS.values() for theirs, ours in row.metadata["also"].items()}
    | dict.fromkeys(_IN_THE_URL, "it belongs into the URL, smtp://user:password@host:port")
    | {_plain_name(theirs): remedy for theirs, remedy in _ELSEWHERE.items()}
)


def parse_options(values: Mapping[str, object], what: str = "option") -> dict[str, Any]:
    """Checked values by option name, for Options(**...). None means not given and is left out.

    what    how an error calls them: "option" -> "option 'tls' is ..."
    raises  ConfigError, also for an unknown name (with the nearest one, or ours for another mailer's)
    """
    return {name: _parse_option(name, value, what) for name, value in values.items() if value is not None}


def _parse_option(name: str, value: object, what: str) -> object:
    option = OPTIONS.get(name)
    if option is None:
        raise ConfigError(unknown_option(name, what))
    return option.metadata["parse"](value, f"{what} '{name}'")


def unknown_option(name: str, what: str = "option") -> str:
    """The sentence for a name that is no option."""
    if not _word(name):
        return f"unknown {what}: its name is not a word"
    hint = _HINTS.get(_plain_name(name))
    return f"unknown {what} '{name}'" + (f": {hint}" if hint else nearest(name, OPTIONS))


# ---- relays


@dataclass(frozen=True, eq=False, repr=False)
class Endpoint(Record):
    """A relay and how to talk to it. str() is its URL without options; neither str() nor repr() shows the password."""

    scheme: str
    host: str
    port: int
    path: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Options = Options()

    @property
    def lmtp(self) -> bool:
        """LMTP (RFC 2033): a verdict for each recipient."""
        return self.scheme.startswith("lmtp")

    @property
    def place(self) -> str:
        """Where it is, for sentences: "relay.example:587", or the path of a socket."""
        return self.path or host_and_port(self.host, self.port)

    @property
    def implicit_tls(self) -> bool:
        """TLS from the first byte, as opposed to STARTTLS."""
        return self.scheme == "smtps"

    @property
    def logs_in(self) -> bool:
        """Whether there is something to log in with."""
        return self.user is not None or self.options.auth == "external" or bool(token_options(self.options))

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.scheme}://{quote(self.path)}"
        return shown_url(self.scheme, self.user, self.password, self.host, self.port)


def parse_endpoint(url: str, environ: Mapping[str, str] | None = None, /, **options: object) -> Endpoint:
    """The relay that a URL names. Keywords are options too and win over the URL's query; None is "not given".

    environ  what proxy="env" is read from, now and once; None: the process's own. Nothing else reads it
    raises   ConfigError  naming the part or the option; never with the password
    """
    endpoint = _endpoint(url, options, environ)
    _check_endpoint(endpoint)
    return endpoint


def check_relay_url(url: str) -> None:
    """A relay's URL by itself: other options, which complete its login, may stand beside it. Raises ConfigError."""
    _endpoint(url, {})


def _endpoint(url: str, options: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Endpoint:
    parts = split_url(url, "relay URL", RELAY_PORTS, "smtp://user:password@host:587", with_path=("lmtp+unix",))
    values = parse_options(_query(parts.query)) | parse_options(options)
    if values.get("proxy") == FROM_ENVIRONMENT:
        values |= _from_environment(os.environ if environ is None else environ, values.get("no_proxy"), parts.path)
    host = parts.host or "localhost"
    return Endpoint(parts.scheme, host, parts.port, parts.path, parts.user, parts.password, Options(**values))


def _from_environment(environ: Mapping[str, str], given: NoProxy | None, path: str | None) -> dict[str, Any]:
    """The options `proxy` and `no_proxy` of proxy="env". path: of a socket of this machine, which has no proxy."""
    from bulkmail.noproxy import NoProxy
    from bulkmail.proxyenv import no_proxy_from, proxy_from

    proxy = proxy_from(environ) if path is None else None
    if proxy is None:
        return {"proxy": None}
    return {"proxy": proxy, "no_proxy": (given or NoProxy()) | no_proxy_from(environ)}


def _check_endpoint(endpoint: Endpoint) -> None:
    tls = endpoint.options.tls
    if endpoint.path is not None and endpoint.options.proxy is not None:
        raise ConfigError(f"{endpoint}: a socket of this machine cannot be reached through a proxy")
    if endpoint.implicit_tls and tls in ("never", "opportunistic"):
        raise ConfigError(f"{endpoint}: smtps:// is TLS from the start, tls={tls} is for smtp://")
    check_login(str(endpoint), endpoint.user, endpoint.password, endpoint.options)
    if "\0" in (endpoint.user or "") + (endpoint.password or ""):
        # RFC 4616: NUL separates the fields of PLAIN.
        raise ConfigError(f"{endpoint}: user or password has a NUL character")


def _query(query: str) -> dict[str, object]:
    """Options of a query string. "+" stays a plus: paths have it, and nothing here is an HTML form."""
    values: dict[str, object] = {}
    for piece in query.split("&"):
        if not piece:
            continue
        key, equals, value = piece.partition("=")
        name = decoded(key, "an option's name in the URL")
        if not equals:
            raise ConfigError(f"option '{name}' has no value in the URL" if name in OPTIONS else unknown_option(name))
        if name in values:
            raise ConfigError(f"option '{name}' is given twice in the URL")
        values[name] = decoded(value, f"option '{name}'")
    return values
