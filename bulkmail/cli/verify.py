"""`bulkmail verify`: what does this relay offer, and does it let us in?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bulkmail.errors import BulkmailError, ConfigError

from . import output, trouble

if TYPE_CHECKING:
    from bulkmail.smtp.envelope import ServerInfo

REFUSED = 1


@click.command(
    short_help="Connect to a relay and print what it offers.",
    epilog="""\b
Example:
  bulkmail verify smtp://news:secret@relay.example.com --from news@example.com
\b
TLS, login and time limits are options of the URL: smtp://relay?tls=require&auth=login&connect_timeout=10s
\b
Exit status:
  0  it works
  1  the relay (or the proxy) cannot be reached or refuses
  2  bad usage, URL or address""",
)
@click.argument("url")
@click.option("--proxy", metavar="URL", help="Connect through this proxy: socks5h://host:1080, http://host:3128.")
@click.option("--from", "sender", metavar="ADDRESS", help="Ask also whether this sender is allowed (MAIL, then RSET).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(url: str, proxy: str | None, sender: str | None, as_json: bool) -> int:
    """Connect to URL, negotiate TLS, log in if it has a user, and print what the server offers. Nothing is changed."""
    from bulkmail.net.loop import run

    sender = check_sender(sender)
    try:
        info = run(ask(url, {"proxy": proxy} if proxy else {}, sender))
    except ConfigError:
        raise
    except BulkmailError as error:
        if as_json:
            output.emit_json({"ok": False, "code": error.code, "error": trouble.plain(error)})
        trouble.tell(error)
        return REFUSED
    if as_json:
        output.emit_json(as_dict(info, sender))
    else:
        click.echo(as_text(info, sender))
    return 0


def check_sender(sender: str | None) -> str | None:
    """The address for MAIL; "" and "<>" are the null sender. ConfigError says what is wrong with it."""
    from bulkmail.address import check_address

    if sender is None:
        return None
    try:
        return check_address(sender) if sender not in ("", "<>") else ""
    except ValueError as error:
        raise ConfigError(f"--from {sender!r}: {error}") from None


async def ask(url: str, options: dict[str, Any], sender: str | None) -> ServerInfo:
    """Connect, log in if the URL has a user, try `sender` if there is one; raises what is wrong."""
    from bulkmail.smtp.connection import Connection

    async with Connection(url, **options) as connection:
        if sender is not None:
            await connection.mail(sender)
        return connection.info


def as_dict(info: ServerInfo, sender: str | None) -> dict[str, Any]:
    return {
        "ok": True,
        "peer": info.peer,
        "greeting": info.greeting,
        "tls": info.tls,
        "auth": info.auth,
        "sender": sender,
        "extensions": info.extensions,
    }


def as_text(info: ServerInfo, sender: str | None) -> str:
    offers = [f"{name} {parameters}".rstrip() for name, parameters in info.extensions.items()]
    rows = [
        ("peer", info.peer),
        ("greeting", info.greeting),
        ("TLS", info.tls or "none, the connection is in clear text"),
        ("login", info.auth or "none"),
        *([("sender", f"<{sender}> is accepted")] if sender is not None else []),
        *[("offers" if not i else "", offer) for i, offer in enumerate(offers or ["no extensions"])],
    ]
    return "\n".join(f"{name:<10}{trouble.plain(value)}" for name, value in rows)
