"""The options of a server, named as the flags of `bulkmail sink`: checked, and made into what the wire needs."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkmail.errors import ConfigError
from bulkmail.wire.server_settings import DEFAULT_MAX_RECIPIENTS, DEFAULT_MAX_SIZE, EXTENSIONS

DEFAULT_HOST = "127.0.0.1"
# Many times what a message takes, and half of what a container's supervisor waits before it kills (docker stop: 10 s).
GRACE_SECONDS = 5.0
LARGEST = 2**63 - 1  # what the wire counts in


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """Interface section 6. `auth` is "user:password"; `without` names extensions, in any case.

    fault   rules, as faults.py reads them; one server's percentages are those of another with the same `seed`

    store   a Maildir's folder, or a function that is called with each message, sync or async
    grace   seconds that stop() gives to messages under way

    proxy_from, ignore, deny   an address, a CIDR network or "*"; or several of these
    reverse_lookup             whether hooks see `session.client_hostname`
    """

    store: str | Path | Callable[[Any], Any] | None = None
    mbox: str | Path | None = None
    fsync: bool = False
    discard: bool = False
    lmtp: bool = False
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    tls_implicit: bool = False
    auth: str | None = None
    max_size: int = DEFAULT_MAX_SIZE
    max_recipients: int = DEFAULT_MAX_RECIPIENTS
    without: Iterable[str] = ()
    lenient: bool = False
    name: str | None = None
    proxy_from: str | Iterable[str] = ()
    ignore: str | Iterable[str] = ()
    deny: str | Iterable[str] = ()
    connections_per_minute: int | None = None
    connections_per_address: int | None = None
    reverse_lookup: bool = False
    fault: Iterable[str] = ()
    seed: int = 0
    grace: float = GRACE_SECONDS
    web: str | None = None


# What people write who know other servers.
ELSEWHERE = {"host": "listen", "hostname": "name", "port": "listen"}
# open(True) would be standard output.
A_FILE: tuple[Any, str] = ((str, os.PathLike), "the path of a file")
SEVERAL: tuple[Any, str] = (Iterable, "a text, or several in a list")
KINDS: dict[str, tuple[Any, str]] = {
    "store": ((str, os.PathLike, Callable), "the path of a folder, or a function"),
    "max_size": (int, "a whole number"),
    "max_recipients": (int, "a whole number"),
    "grace": ((int, float), "a number of seconds"),
    "name": (str, "a text"),
    "web": (str, "HOST:PORT"),
    **dict.fromkeys(("mbox", "tls_cert", "tls_key"), A_FILE),
    **dict.fromkeys(("without", "proxy_from", "ignore", "deny", "fault"), SEVERAL),
}


def read_options(options: dict[str, Any]) -> SinkOptions:
    """ConfigError for an option that there is not, and for values of another kind or that exclude each other.

    None is an option that is not given.
    """
    known = SinkOptions.__dataclass_fields__
    for key in options:
        if key not in known:
            near = nearest(ELSEWHERE.get(key, key), [*known, "listen"])
            raise ConfigError(f"there is no option {key!r} of a sink{near}")
    read = SinkOptions(**{key: value for key, value in options.items() if value is not None})
    for key, (kind, words) in KINDS.items():
        value = getattr(read, key)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{key!r} is {value!r}, expected {words}")
    for key in ("store", "mbox", "tls_cert", "tls_key"):
        if getattr(read, key) == "":  # a variable that is not set: a folder of that name is the current one
            raise ConfigError(f"{key!r} is empty, expected {KINDS[key][1]}")
    check_stores(read)
    if not 0 <= read.grace < float("inf"):
        raise ConfigError(f"'grace' is 0 or more seconds, not {read.grace!r}")
    if read.tls_cert is None and (read.tls_implicit or read.tls_key is not None):
        raise ConfigError("TLS needs a certificate: 'tls_cert' is missing")
    if read.auth is not None and "AUTH" in read_without(read.without):
        raise ConfigError("'auth' demands a login that 'without' takes away: nobody could send")
    if read.max_size < 0 or read.max_recipients < 1:
        raise ConfigError("'max_size' is 0 (no limit) or more bytes, 'max_recipients' at least 1")
    for name in ("max_size", "max_recipients"):
        if getattr(read, name) > LARGEST:
            raise ConfigError(f"{name!r} is {getattr(read, name)}, expected at most {LARGEST}")
    for name in ("connections_per_minute", "connections_per_address"):
        check_limit(getattr(read, name), name)
    return read


def check_limit(value: object, name: str) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"{name!r} is {value!r}, expected a number of connections, at least 1")


def check_stores(options: SinkOptions) -> None:
    places = {"store": options.store is not None, "mbox": options.mbox is not None, "discard": options.discard}
    chosen = [f"{name!r}" for name, given in places.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"a sink has one place for messages: {' and '.join(chosen)} exclude each other")
    if options.web is not None and options.discard:
        raise ConfigError("a web page shows what is kept: 'web' and 'discard' exclude each other")
    if options.web is not None and (options.mbox is not None or callable(options.store)):
        raise ConfigError(
            "a web page shows what is in memory or in a Maildir: 'web' does not go with 'mbox' or a function"
        )
    if options.fsync and (callable(options.store) or (options.store is None and options.mbox is None)):
        raise ConfigError("'fsync' is for messages stored in files: it needs 'store' with a folder, or 'mbox'")


def nearest(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def read_auth(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, colon, password = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not user:
        raise ConfigError("'auth' is USER:PASSWORD")  # what was given is a secret
    return user, password


def read_without(words: Iterable[str]) -> frozenset[str]:
    names = [words] if isinstance(words, str) else words
    without = frozenset(name.upper() for name in names)
    for name in sorted(without.difference(EXTENSIONS)):
        near = nearest(name, EXTENSIONS) or f"; there are {', '.join(EXTENSIONS)}"
        raise ConfigError(f"there is no extension {name!r}{near}")
    return without


def tls_context(cert: str | Path, key: str | Path | None) -> ssl.SSLContext:
    """For a server; the key may stand in the certificate's file."""
    for path in (cert,) if key is None else (cert, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"the TLS file {str(path)!r} cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except (ssl.SSLError, ValueError) as error:
        files = f"{str(cert)!r}" if key is None else f"{str(cert)!r} and {str(key)!r}"
        hint = " (a key in a file of its own is 'tls_key')" if key is None else ""
        raise ConfigError(f"no certificate with its private key can be read from {files}{hint}: {error}") from error
    return context


def no_password() -> str:
    # OpenSSL would ask at the terminal, and a server wait there for ever.
    raise ValueError("the private key is encrypted")


def read_listen(listen: str | int | Sequence[str | int]) -> list[tuple[str, int]]:
    """ "HOST:PORT", "[IPv6]:PORT", ":PORT" (every address) or "PORT", one or several."""
    places = [str(place) for place in ([listen] if isinstance(listen, str | int) else listen)]
    if not places:
        raise ConfigError("a sink needs an address to listen on, such as '127.0.0.1:2525'")
    return [read_place(place) for place in places]


def read_place(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon:
        host = DEFAULT_HOST
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host and "/" not in host:
        raise ConfigError(f"cannot listen on {place!r}: an IPv6 address is written [ADDRESS]:PORT")
    if not ("/" not in host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(f"cannot listen on {place!r}: expected HOST:PORT with a port of 0 to 65535")
    return host or "0.0.0.0", int(port)


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket at the first address of `host`. ConfigError says what is in the way."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {shown(host, port)}: {reason(error)}") from error
    try:
        if os.name == "posix":  # on Windows it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == getattr(socket, "AF_INET6", None):
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {shown(host, port)}: {reason(error)}") from error
    return listener


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def reachable(host: str) -> str:
    """Where a client on this machine finds what listens at every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
