"""TLS contexts from options, and TLS failures as one sentence with the option that would help."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from bulkmail.errors import ConfigError, TlsError
from bulkmail.url import Options

MAX_CONTEXTS = 64  # cached; each holds the system's authorities (about 1 MB). A job has one for each kind of relay

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(options: Options, host: str) -> ssl.SSLContext:
    """The context for a relay; the same object for the same options and files, which may be renewed while we run.

    To be used with server_hostname(options, host).

    Certificates are verified against the system's authorities, or against ca_file alone if it is given, and the name
    is checked, unless verify is off or tls is "opportunistic" (which encrypts against listeners only, RFC 7435).

    raises  ConfigError  naming the option and the file that cannot be used
    """
    verify = options.verify and options.tls != "opportunistic"
    files = options.ca_file, options.cert_file, options.key_file
    return _context(verify, *files, options.tls_min, tuple(_stamp(file) for file in files))


def _stamp(file: str | None) -> tuple[int, int, int] | None:
    """What changes when a file is written anew; None where there is none, or none that can be read."""
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def server_hostname(options: Options, host: str) -> str:
    """The name or IP address that the certificate must carry, also sent as SNI if it is a name."""
    # A zone is this machine's business, a trailing dot the resolver's; certificates have neither (RFC 6066 section 3).
    return (options.server_name or host).partition("%")[0].rstrip(".")


def tls_error(exc: BaseException, host: str, options: Options) -> TlsError:
    """What a failed handshake or a failed TLS connection with `host` was, in one sentence."""
    error = TlsError(f"{host}: TLS failed: {failure(exc, server_hostname(options, host))}")
    error.__cause__ = exc
    return error


def failure(exc: BaseException, name: str, other_words: Mapping[str, str] = MappingProxyType({})) -> str:
    """The reason in words. name: that the certificate should have had; other_words: by failure_kind(), to prefer."""
    kind = failure_kind(exc)
    return other_words.get(kind, _SENTENCES[kind]).format(name=name, said=_said(exc))


@lru_cache(maxsize=MAX_CONTEXTS)
def _context(
    verify: bool,
    ca_file: str | None,
    cert_file: str | None,
    key_file: str | None,
    tls_min: str,
    stamps: tuple[tuple[int, int, int] | None, ...],
) -> ssl.SSLContext:
    context = _trusting(ca_file) if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = _VERSIONS[tls_min]
    if cert_file is not None:
        _load_own_certificate(context, cert_file, key_file)
    return context


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"option 'ca_file': {ca_file} holds no certificate in PEM form ({words_of(error)})"
        ) from error
    except OSError as error:
        raise ConfigError(f"option 'ca_file': {ca_file} cannot be read: {error.strerror}") from error


def _load_own_certificate(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    for option, file in (("cert_file", cert_file), ("key_file", key_file)):
        _check_readable(option, file)
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_pass_phrase)
    except ssl.SSLError as error:
        reason = words_of(error)
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = "the key is not the certificate's"
        where = f"{cert_file} with key_file {key_file}" if key_file else f"{cert_file} (which must hold the key too)"
        raise ConfigError(f"option 'cert_file': {where} cannot be used: {reason}") from error


def _check_readable(option: str, file: str | None) -> None:
    """load_cert_chain does not say which of its files failed."""
    try:
        if file is not None:
            open(file, "rb").close()
    except OSError as error:
        raise ConfigError(f"option '{option}': {file} cannot be read: {error.strerror}") from error


def _no_pass_phrase() -> str:
    """OpenSSL would ask on the terminal, and a service would hang."""
    raise ConfigError("option 'key_file': the key is encrypted; keys with a pass phrase are not supported")


# By OpenSSL's verify codes (x509_vfy.h).
_VERIFY_KINDS = {
    **dict.fromkeys((62, 64), "name"),
    **dict.fromkeys((18, 19, 20, 21), "authority"),
    **dict.fromkeys((9, 10), "time"),
    **dict.fromkeys((66, 67, 68), "weak"),
}

# By the names of OpenSSL's errors and of the alerts that a server sent (RFC 8446 section 6).
_KINDS = {
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"), "clear"
    ),
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"), "version"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "no own certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "no agreement",
    "UNEXPECTED_EOF_WHILE_READING": "closed",
    **dict.fromkeys(("TLSV1_UNRECOGNIZED_NAME", "TLSV1_ALERT_UNRECOGNIZED_NAME"), "unknown name"),
    **dict.fromkeys(
        (
            "TLSV1_ALERT_UNKNOWN_CA",
            "TLSV1_ALERT_ACCESS_DENIED",
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        ),
        "own certificate",
    ),
}

_SENTENCES = {
    "name": "the certificate is not for {name} (option 'server_name' says which name to expect)",
    "authority": "the certificate is not from a known authority: {said} (option 'ca_file' says where one is)",
    "time": "{said} (the clocks of both machines should agree)",
    "weak": "the certificate is too weak for this machine's OpenSSL: {said}",
    "certificate": "the certificate is not valid: {said}",
    "clear": "the server does not speak TLS here (smtps:// is TLS from the start, smtp:// is STARTTLS)",
    "version": "no common TLS version (option 'tls_min')",
    "no own certificate": "the server wants a client certificate (option 'cert_file')",
    "own certificate": "the server does not take our client certificate (option 'cert_file'): {said}",
    "no agreement": "the server found no common cipher, or wants a client certificate ('cert_file')",
    "unknown name": "the server has no certificate for {name} (option 'server_name' says which name to ask for)",
    "closed": "the server closed the connection during the handshake",
    "other": "{said}",
}


def failure_kind(exc: BaseException | None) -> str:
    """What kind of failure of TLS an exception is, a key of `_SENTENCES`."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _VERIFY_KINDS.get(exc.verify_code, "certificate")
    if isinstance(exc, ssl.SSLError):
        return _KINDS.get(getattr(exc, "reason", None) or "", "other")
    return "closed" if isinstance(exc, (ConnectionResetError, BrokenPipeError, EOFError)) else "other"


def _said(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLError):
        return getattr(exc, "verify_message", None) or words_of(exc)
    return str(exc) or type(exc).__name__


def words_of(error: ssl.SSLError) -> str:
    """ "WRONG_VERSION_NUMBER" -> "wrong version number" """
    reason: str | None = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else str(error.args[-1] if error.args else error)
