"""`bulkmail verify`: what does this relay offer, and does it let us in?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bulkmail.errors import ConfigError
from bulkmail.url import FROM_ENVIRONMENT

from . import output, trouble

if TYPE_CHECKING:
    from bulkmail.smtp.verify import VerifyReport

REFUSED = 1


@click.command(
    short_help="Connect to a relay and print what it offers.",
    epilog="""\b
Example:
  bulkmail verify smtp://news:secret@relay.example.com --from news@example.com
  bulkmail verify smtp://relay.example.com --proxy http://office:3128 --proxy socks5h://user:secret@10.0.0.1
\b
TLS, login and time limits are options of the URL: smtp://relay?tls=require&auth=login&connect_timeout=10s
\b
Exit status:
  0  it works
  1  the relay (or the proxy) cannot be reached or refuses
  2  bad usage, URL or address""",
)
@click.argument("url")
@click.option(
    "--proxy",
    "proxies",
    metavar="URL",
    multiple=True,
    help="Connect through this proxy: socks5h://user:password@host:1080, http://host:3128. Given several times: "
    "a chain, the nearest first. 'env': the one that the environment names.",
)
@click.option("--from", "sender", metavar="ADDRESS", help="Ask also whether this sender is allowed (MAIL, then RSET).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(url: str, proxies: tuple[str, ...], sender: str | None, as_json: bool) -> int:
    """Connect to URL, negotiate TLS, log in if it has a user. Nothing is sent or changed.

    Prints a line for each step (DNS, connect, each proxy, greeting, EHLO, TLS, login, sender) with its time and what
    was found, what would help against the one that failed, and what the server offers.
    """
    from bulkmail.net.loop import run
    from bulkmail.smtp.verify import probe

    sender = check_sender(sender)
    options = {"proxy": chain(proxies)} if proxies else {}
    report = run(probe(url, sender=sender, log=False, **options))  # what a log would say of it is in the report
    if as_json:
        output.emit_json(as_dict(report, sender))
    else:
        click.echo(as_text(report))
    if report.failed is None:
        return 0
    assert report.failed.error is not None
    trouble.tell(report.failed.error)
    return REFUSED


def chain(proxies: tuple[str, ...]) -> str | list[str]:
    """Of --proxy: one URL, "env", or a chain of URLs."""
    if len(proxies) == 1:
        return proxies[0]
    if FROM_ENVIRONMENT in proxies:
        raise ConfigError("--proxy env stands alone: what the environment names is no part of a chain")
    return list(proxies)


def check_sender(sender: str | None) -> str | None:
    """The address for MAIL; "" and "<>" are the null sender. ConfigError says what is wrong with it."""
    from bulkmail.address import check_address

    if sender is None:
        return None
    try:
        return check_address(sender) if sender not in ("", "<>") else ""
    except ValueError as error:
        raise ConfigError(f"--from {sender!r}: {error}") from None


def as_dict(report: VerifyReport, sender: str | None) -> dict[str, Any]:
    tls = report.step("tls")
    rest = {
        "tls_details": tls.detail if tls is not None and tls.detail else None,
        "steps": [step.as_dict() for step in report.steps],
    }
    failed, info = report.failed, report.info
    if failed is not None:
        error = failed.error
        assert error is not None
        what = {"code": error.code, "error": trouble.plain(error), "step": failed.name, "remedy": failed.remedy}
        return {"ok": False, **what, **rest}
    assert info is not None
    return {
        "ok": True,
        "peer": info.peer,
        "greeting": info.greeting,
        "tls": info.tls,
        "auth": info.auth,
        "sender": sender,
        "extensions": info.extensions,
        **rest,
    }


def as_text(report: VerifyReport) -> str:
    """The steps, and what the server offers if it was asked."""
    lines = str(report).splitlines()
    if report.info is not None:
        offers = [f"{name} {parameters}".rstrip() for name, parameters in report.info.extensions.items()]
        lines += ["", "offers:", *[f"  {trouble.plain(offer)}" for offer in offers or ["no extensions"]]]
    return "\n".join(lines)
