"""Logging in: what with, by which mechanism, whether it may be shown to this connection, and what to do if refused."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkmail.errors import AuthError, AuthUnavailable, ConfigError
from bulkmail.loginoptions import PASSWORD_METHODS, TOKEN_METHODS
from bulkmail.smtp import auth
from bulkmail.smtp.auth.binding import channel_binding
from bulkmail.smtp.auth.tokens import Token, TokenSource, token_source

if TYPE_CHECKING:
    from bulkmail.smtp.session import Session
    from bulkmail.url import Endpoint

MECHANISM_REFUSED = (504, 534)  # replies about the mechanism, not about who logs in


async def log_in(
    session: Session, endpoint: Endpoint, user: str | None, password: str | None, tokens: TokenSource | None
) -> str:
    """AUTH; returns the mechanism. tokens: in place of a password.

    raises  AuthUnavailable  nothing was sent
            AuthError        refused, or there is no token
            ConfigError, and what a connection raises that ends
    """
    wanted = endpoint.options.auth
    if tokens is None and password and wanted in TOKEN_METHODS:
        tokens, password = token_source(token=password), None  # as most mail programs have it: the token for a password
    _check(wanted, user or "", password, tokens)
    names, credentials = _prepared(session, endpoint, user, password, tokens)
    while True:
        name = names.pop(0)
        try:
            await _log_in_by(session, name, credentials, tokens)
        except AuthError as error:
            names = auth.next_after(name, error.reply.code if error.reply else 0, names)
            if not names or session.error is not None:
                raise
        else:
            return name.lower()


def _check(wanted: str, user: str, password: str | None, tokens: TokenSource | None) -> None:
    """Whether there is what the mechanism needs, and nothing that breaks its framing."""
    if "\0" in user + (password or ""):
        raise ConfigError("the user or the password has a NUL, which separates them in AUTH PLAIN (RFC 4616)")
    if tokens is not None and "\1" in user:
        raise ConfigError("the user has a %x01, which separates the fields of OAUTHBEARER (RFC 7628)")
    if tokens is not None and wanted in (*PASSWORD_METHODS, "external"):
        raise AuthUnavailable(f"a token was given, and auth={wanted} has no use for it")
    if tokens is None and wanted in TOKEN_METHODS:
        raise AuthUnavailable(f"auth={wanted} needs a token, and there is none")
    if tokens is None and password is None and wanted in ("auto", *PASSWORD_METHODS):
        raise AuthUnavailable("neither a password nor a token was given")


def _prepared(
    session: Session, endpoint: Endpoint, user: str | None, password: str | None, tokens: TokenSource | None
) -> tuple[list[str], auth.Credentials]:
    """The mechanisms to try and what they are given, once it is clear that it may be sent."""
    options = endpoint.options
    tls = session.tls
    offered = tuple((session.wire.extensions.get("AUTH") or "").upper().split())
    near = _is_near(session, endpoint)
    verified = tls is not None and options.verify and options.tls != "opportunistic"
    bound = channel_binding(tls)
    names = auth.choose(
        options.auth,
        offered,
        user=user or "",
        token=tokens is not None,
        confidence=near or verified,
        bound=bound is not None,
    )
    if not session.encrypted and not options.allow_plaintext_auth and not near:
        raise AuthUnavailable(
            f"the connection to {endpoint.host} is not encrypted, so the credentials were not sent; "
            "use tls=require or smtps://, or allow_plaintext_auth=true"
        )
    if names == ["EXTERNAL"] and not _said_who(session, endpoint):
        raise AuthUnavailable(
            f"auth=external needs a client certificate, which {endpoint.host} has not seen; use cert_file and TLS"
        )
    return names, auth.Credentials(
        user or "", password or "", endpoint.host, endpoint.port, offered=offered, binding=bound
    )


def _is_near(session: Session, endpoint: Endpoint) -> bool:
    """On this machine. Behind a proxy no target is: what is near the proxy is not near us."""
    peer = session.transport.get_extra_info("peername")
    if endpoint.path is not None:
        return True
    if endpoint.options.proxy or not isinstance(peer, tuple):
        return False
    return ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback


def _said_who(session: Session, endpoint: Endpoint) -> bool:
    """Whether something outside of SMTP told the server who we are: our certificate, or a unix socket's peer id."""
    certified = endpoint.options.cert_file is not None and session.tls is not None
    return certified or endpoint.path is not None


async def _log_in_by(session: Session, name: str, credentials: auth.Credentials, tokens: TokenSource | None) -> None:
    if tokens is None:
        await auth.authenticate(session, name, credentials)
        return
    token = await tokens.get()
    try:
        await auth.authenticate(session, name, replace(credentials, token=token.value))
    except AuthError as refusal:
        if not _token_refused(refusal) or not tokens.refused(token):
            raise
        token = await _log_in_again(session, name, credentials, tokens, token, refusal)
    tokens.accepted(token)


async def _log_in_again(
    session: Session, name: str, credentials: auth.Credentials, tokens: TokenSource, old: Token, refusal: AuthError
) -> Token:
    """Once more, with a new token. Where the server has hung up meanwhile: ConnectionLost, and the token is kept."""
    token = await tokens.get()
    if token.value == old.value:
        tokens.refused(token)
        raise refusal
    try:
        await auth.authenticate(session, name, replace(credentials, token=token.value))
    except AuthError as error:
        if _token_refused(error):
            tokens.refused(token)
        raise
    return token


def _token_refused(error: AuthError) -> bool:
    return error.reply is not None and error.reply.code >= 500 and error.reply.code not in MECHANISM_REFUSED
