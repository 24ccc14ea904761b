"""URLs of relays and proxies, and the options that a relay takes.

An option has one declaration, a field of `Options`: its name, default, parser and what other mailers call it. Query
strings, keyword arguments and manifest keys all go through `parse_options`, so they are checked alike. Every refusal
is a ConfigError with one sentence: the option, what was found, what is expected. No text from here holds a password.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final
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
from bulkmail.urlparts import (
    as_ip,
    decoded,
    host_and_port,
    listed,
    masked,
    nearest,
    not_in_this_version,
    parse_host,
    quoted,
    shown_url,
    split_url,
)

RELAY_PORTS: Final = {"smtp": 587, "smtps": 465, "lmtp": 24, "lmtp+unix": 0}
PROXY_PORTS: Final = {"http": 80, "socks5": 1080, "socks5h": 1080, "socks": 1080}
LATER_PROXY_SCHEMES: Final = ("https", "socks4", "socks4a")

MAX_SECONDS = 10 * 365 * 86400.0  # a longer time is a slip of the keyboard, and dates made from it overflow
MAX_COUNT = 1_000_000  # connections, messages, recipients; the same reason
MAX_SOCKS_CREDENTIAL = 255  # bytes: the length is one octet, RFC 1929 section 2

_SECONDS_IN = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_duration = re.compile(rf"({_NUMBER}) ?(ms|[smhd]?)").fullmatch
_rate = re.compile(rf"({_NUMBER}) ?/ ?([smhd])").fullmatch
_whole_number = re.compile(r"[0-9]{1,9}").fullmatch
_word = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}").fullmatch
_interface = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,14}").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search
_true_words = frozenset(("true", "yes", "on", "1"))
_false_words = frozenset(("false", "no", "off", "0"))


@dataclass(frozen=True)
class Rate:
    """Recipients per time: `count` in `seconds`. `text` is what the user wrote."""

    count: float
    seconds: float
    text: str

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ProxyUrl:
    """A proxy, checked: nothing in it can break the framing of its protocol. str() and repr() mask the password."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_proxy_credentials(self)

    def __str__(self) -> str:
        return shown_url(self.scheme, self.user, self.password, self.host, self.port)

    __repr__ = __str__


# ---- values: text or typed, to what the option holds. A parser is called with (value, "option 'name'").


def parse_seconds(value: object, what: str) -> float:
    """Seconds from 90, 1.5, "90", "90s", "250ms", "5m", "2h" or "1d". Not negative, at most MAX_SECONDS."""
    seconds = None
    if isinstance(value, str):
        found = _duration(value.strip())
        if found:
            seconds = float(found[1]) * _SECONDS_IN[found[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    if seconds is None or seconds < 0:
        raise ConfigError(f"{what} is {quoted(value)}, expected a time such as 90, '90s', '250ms', '5m', '2h' or '1d'")
    if seconds > MAX_SECONDS:
        raise ConfigError(f"{what} is {quoted(value)}, expected at most ten years")
    return seconds


def parse_rate(value: object, what: str) -> Rate:
    """A rate from "300/s", "5000/m", "100000/h" or "1000000/d"; a Rate is returned as it is."""
    if isinstance(value, Rate):
        return value
    found = _rate(value.strip()) if isinstance(value, str) else None
    if not found:
        raise ConfigError(f"{what} is {quoted(value)}, expected a rate such as '300/s', '5000/m', '100000/h', '9000/d'")
    rate = Rate(float(found[1]), _SECONDS_IN[found[2]], found[0])
    if rate.count == 0:
        raise ConfigError(f"{what} is {quoted(value)}: nothing could ever be sent, expected more than 0")
    return rate


def parse_proxy(value: object, what: str) -> ProxyUrl:
    """A ProxyUrl from "socks5h://user:password@host:1080" or "http://host:3128"."""
    if isinstance(value, ProxyUrl):
        return value
    if isinstance(value, (list, tuple)):
        raise not_in_this_version(f"{what}: a chain of proxies")
    if isinstance(value, Mapping):
        raise not_in_this_version(f"{what}: the object form of a proxy")
    if value == "env":
        raise not_in_this_version(f"{what}: 'env'")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} is {quoted(value)}, expected a URL such as socks5h://user:password@host:1080")
    parts = split_url(value, what, PROXY_PORTS, LATER_PROXY_SCHEMES, "socks5h://host:1080")
    if parts.query:
        raise ConfigError(f"{what} {masked(value)}: a proxy's URL has no options after '?'")
    if not parts.host:
        raise ConfigError(f"{what} {masked(value)}: the proxy's host is missing")
    return ProxyUrl(parts.scheme, parts.host, parts.port, parts.user, parts.password)


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word in _true_words or word in _false_words:
        return word in _true_words
    raise ConfigError(f"{what} is {quoted(value)}, expected true or false")


def _timeout(value: object, what: str) -> float:
    seconds = parse_seconds(value, what)
    if seconds == 0:
        raise ConfigError(f"{what} is {quoted(value)}, expected more than 0 seconds")
    return seconds


def _whole(low: int) -> Callable[[object, str], int]:
    def parse(value: object, what: str) -> int:
        number = int(value) if isinstance(value, str) and _whole_number(value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= MAX_COUNT:
            raise ConfigError(f"{what} is {quoted(value)}, expected a whole number from {low} to {MAX_COUNT}")
        return number

    return parse


def _one_of(*words: str) -> Callable[[object, str], str]:
    def parse(value: object, what: str) -> str:
        word = str(value).lower()
        if word in words:
            return word
        raise ConfigError(f"{what} is {quoted(value)}, expected {listed(words)}{nearest(word, words)}")

    return parse


def _tls_version(value: object, what: str) -> str:
    word = str(value).lower().removeprefix("tlsv").removeprefix("tls")
    if word not in ("1.2", "1.3"):
        raise ConfigError(f"{what} is {quoted(value)}, expected 1.2 or 1.3")
    return word


def _path(value: object, what: str) -> str:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{what} is {quoted(value)}, expected the name of a file")
    return text


def _wire_log(value: object, what: str) -> str | bool:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return _flag(value, what)
    return _path(value, what)


def _server_name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {quoted(value)}, expected a host name or an IP address")
    return parse_host(_unbracketed(value), what)


def _unbracketed(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _ehlo_name(value: object, what: str) -> str:
    """RFC 5321 section 4.1.1.1: a domain name, or an address literal; an address is put in the literal's form."""
    if isinstance(value, str):
        address = as_ip(_unbracketed(value).removeprefix("IPv6:"))
        if address is not None and "%" not in value:
            return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"
        if address is None and "[" not in value:
            return parse_host(value, what)
    raise ConfigError(f"{what} is {quoted(value)}, expected a domain name, [192.0.2.1] or [IPv6:2001:db8::1]")


def _local_address(value: object, what: str) -> str:
    """An IP address, or the name of a network interface (15 bytes, Linux IFNAMSIZ; dialling sees whether it exists)."""
    text = value if isinstance(value, str) else ""
    if as_ip(_unbracketed(text)):
        return _unbracketed(text)
    if not _interface(text):
        raise ConfigError(f"{what} is {quoted(value)}, expected an IP address or the name of a network interface")
    return text


def _only_off(value: object, what: str) -> bool:
    if _flag(value, what):
        raise not_in_this_version(what)
    return False


def _not_yet(value: object, what: str) -> None:
    if value not in ("", None, False, [], (), {}):
        raise not_in_this_version(what)


def _check_proxy_credentials(proxy: ProxyUrl) -> None:
    user, password = proxy.user or "", proxy.password or ""
    if _control(user + password):
        raise ConfigError(f"proxy {proxy}: user or password has a control character or line break")
    if proxy.scheme == "http" and ":" in user:
        raise ConfigError(f"proxy {proxy}: the user has a ':', which HTTP's Basic scheme cannot carry (RFC 7617)")
    if proxy.scheme != "http" and max(len(user.encode()), len(password.encode())) > MAX_SOCKS_CREDENTIAL:
        raise ConfigError(f"proxy {proxy}: user or password has more than {MAX_SOCKS_CREDENTIAL} bytes (RFC 1929)")


# ---- the table of options


def _option(default: Any, parse: Callable[[Any, str], object], hidden: bool = False, **also: str) -> Any:
    """A field of Options. hidden: repr() leaves it out. `also`: what other mailers call it -> what to write here."""
    return field(default=default, repr=not hidden, metadata={"parse": parse, "also": also})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to talk to a relay. Hashable. Build it with parse_endpoint or parse_options, which check; this does not.

    Times are seconds, one deadline for each phase: a server that drips bytes still runs out of time.
    ca_file replaces the system's authorities. batch is recipients per transaction. messages_per_connection 0: no limit.
    """

    tls: str = _option("auto", _one_of("auto", "require", "never", "opportunistic"), requireTLS="tls=require",
                       ignoreTLS="tls=never", opportunisticTLS="tls=opportunistic", start_tls="tls=require",
                       secure="an smtps:// URL", use_tls="an smtps:// URL")  # fmt: skip
    server_name: str | None = _option(None, _server_name, servername="server_name", server_hostname="server_name")
    ca_file: str | None = _option(None, _path, ca="ca_file", cert_bundle="ca_file")
    cert_file: str | None = _option(None, _path, cert="cert_file", client_cert="cert_file")
    key_file: str | None = _option(None, _path, key="key_file", client_key="key_file")
    verify: bool = _option(True, _flag, rejectUnauthorized="verify", validate_certs="verify")
    tls_min: str = _option("1.2", _tls_version, minVersion="tls_min")
    name: str | None = _option(None, _ehlo_name, local_hostname="name")
    local_address: str | None = _option(None, _local_address, source_address="local_address")
    connect_timeout: float = _option(120.0, _timeout, connectionTimeout="connect_timeout (seconds)")
    greeting_timeout: float = _option(30.0, _timeout)
    dns_timeout: float = _option(30.0, _timeout)
    command_timeout: float = _option(300.0, _timeout, socketTimeout="command_timeout and data_timeout (seconds)",
                                     timeout="command_timeout and data_timeout (seconds)")  # fmt: skip
    data_timeout: float = _option(600.0, _timeout)
    auth: str = _option("auto", parse_auth, authMethod="auth")
    allow_plaintext_auth: bool = _option(False, _flag)
    token: str | TokenFunction | None = _option(None, parse_token, hidden=True, accessToken="token",  # noqa: RUF009
                                                provisionCallback="token (a function)",
                                                oauth_token_generator="token (a function)")  # fmt: skip
    token_command: tuple[str, ...] | None = _option(None, parse_token_command, hidden=True)
    oauth2: OAuth2 | None = _option(None, parse_oauth2, refreshToken="oauth2", clientSecret="oauth2",  # noqa: RUF009
                                     clientId="oauth2", accessUrl="oauth2 {token_url}")  # fmt: skip
    connections: int = _option(5, _whole(1), maxConnections="connections", pool="connections (1: no pool)")
    messages_per_connection: int = _option(100, _whole(0), maxMessages="messages_per_connection")
    idle_timeout: float = _option(30.0, _timeout)
    rate: Rate | None = _option(None, parse_rate, rateLimit='rate, such as "10/s"', rateDelta='rate, such as "10/s"')  # noqa: RUF009
    batch: int = _option(100, _whole(1))
    pipelining: bool = _option(True, _flag)
    chunking: bool = _option(True, _flag)
    proxy: ProxyUrl | None = _option(None, parse_proxy)  # noqa: RUF009
    no_proxy: None = _option(None, _not_yet)
    proxy_protocol: None = _option(None, _not_yet)
    wire_log: str | bool | None = _option(None, _wire_log, transactionLog="wire_log", debug="wire_log")
    log: bool | None = _option(None, _flag, logger="log")
    allow_files: bool = _option(True, _flag, disableFileAccess="allow_files=false")
    allow_urls: bool = _option(False, _only_off, disableUrlAccess="allow_urls (off unless allowed)")

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


@dataclass(frozen=True)
class Endpoint:
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


def parse_endpoint(url: str, **options: object) -> Endpoint:
    """The relay that a URL names. Keywords are options too and win over the URL's query; None is "not given".

    raises  ConfigError  naming the part or the option; never with the password
    """
    endpoint = _endpoint(url, options)
    _check_endpoint(endpoint)
    return endpoint


def check_relay_url(url: str) -> None:
    """A relay's URL by itself: other options, which complete its login, may stand beside it. Raises ConfigError."""
    _endpoint(url, {})


def _endpoint(url: str, options: Mapping[str, object]) -> Endpoint:
    parts = split_url(url, "relay URL", RELAY_PORTS, (), "smtp://user:password@host:587", with_path=("lmtp+unix",))
    values = parse_options(_query(parts.query)) | parse_options(options)
    host = parts.host or "localhost"
    return Endpoint(parts.scheme, host, parts.port, parts.path, parts.user, parts.password, Options(**values))


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
