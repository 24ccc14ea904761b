"""AUTH (RFC 4954): the mechanisms, and which to use. One small file a mechanism; others by `register_auth`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bulkmail import loginoptions
from bulkmail.errors import AuthUnavailable, ConfigError
from bulkmail.smtp.auth import cram_md5, dialogue, external, login, oauthbearer, plain, scram, xoauth2
from bulkmail.smtp.auth.mechanism import Credentials, Mechanism

__all__ = ["MECHANISMS", "Credentials", "Mechanism", "authenticate", "choose", "next_after", "register_auth"]

MECHANISMS: dict[str, Mechanism] = {
    "PLAIN": plain.respond,
    "LOGIN": login.respond,
    "CRAM-MD5": cram_md5.respond,
    "SCRAM-SHA-1": scram.mechanism("sha1", plus=False),
    "SCRAM-SHA-1-PLUS": scram.mechanism("sha1", plus=True),
    "SCRAM-SHA-256": scram.mechanism("sha256", plus=False),
    "SCRAM-SHA-256-PLUS": scram.mechanism("sha256", plus=True),
    "XOAUTH2": xoauth2.respond,
    "OAUTHBEARER": oauthbearer.respond,
    "EXTERNAL": external.respond,
}

# What auth=auto tries with a password, the first that is offered.
# Where we know who listens (a verified certificate, or this machine), PLAIN: every server can check it against whatever
# it keeps, while many announce SCRAM or CRAM-MD5 and hold no secrets for them; and a refused password is not tried
# again in another way.
IN_CONFIDENCE = (
    *("PLAIN", "LOGIN"),
    *("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "CRAM-MD5"),
)
# Where we do not, the password is not shown while there is another way; -PLUS even finds who sits in between.
AMONG_STRANGERS = (
    *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"),
    *("CRAM-MD5", "PLAIN", "LOGIN"),
)
WITH_TOKEN = ("OAUTHBEARER", "XOAUTH2")
SHOWN = ("PLAIN", "LOGIN")  # the password itself is sent


def register_auth(name: str, mechanism: Mechanism) -> None:
    """Make `auth=name` usable. `mechanism(credentials)` is a generator function: see bulkmail.smtp.auth.mechanism."""
    if not name or not name.isascii() or not all(c.isalnum() or c in "-_" for c in name):
        raise ConfigError(f"{name!r} is not a SASL mechanism name (letters, digits, - and _)")
    MECHANISMS[name.upper()] = mechanism
    loginoptions.registered.add(name.lower())


def choose(wanted: str, offered: Sequence[str], *, user: str, token: bool, confidence: bool, bound: bool) -> list[str]:
    """The mechanisms that may be used, the best first.

    wanted      option `auth`; offered: what the server announced
    token       there is a token, not a password; confidence: nobody but the server will read what is sent
    bound       there is a channel binding
    raises      AuthUnavailable  there is none
    """
    if wanted != "auto":
        if wanted.upper() not in offered:
            raise AuthUnavailable(f"the server does not offer AUTH {wanted.upper()} ({_offer(offered)})")
        return [wanted.upper()]
    usable = WITH_TOKEN if token else IN_CONFIDENCE if confidence else AMONG_STRANGERS
    found = [name for name in usable if name in offered]
    if not user:
        found = [name for name in found if name == "OAUTHBEARER"]  # the others name the user
    if not bound:
        found = [name for name in found if not name.endswith("-PLUS")]
    if not found:
        what = "a token was given, and the server offers no mechanism for it"
        if not token:
            what = "credentials were given, and the server offers no mechanism for them"
        raise AuthUnavailable(f"{what} ({_offer(offered)})")
    return found


def _offer(offered: Sequence[str]) -> str:
    return f"it offers: {' '.join(offered) or 'no AUTH'}"


def next_after(name: str, code: int, others: Sequence[str]) -> list[str]:
    """What may be tried after the server refused the mechanism `name` itself with reply `code`.

    504 (RFC 4954 section 4): it does not know it after all. 534 (section 6): it is too weak, so that only one which
    does not send the password is worth trying; Gmail says 534 of accounts too, and a login must not be tried twice.
    """
    if code == 504:
        return list(others)
    if code == 534 and name in SHOWN:
        return [other for other in others if other not in SHOWN]
    return []


async def authenticate(session: Any, name: str, credentials: Credentials) -> None:
    """Log in with the mechanism `name`. Raises AuthError, ProtocolError, ConnectionLost, TimedOut."""
    await dialogue.authenticate(session, name, MECHANISMS[name], credentials)
