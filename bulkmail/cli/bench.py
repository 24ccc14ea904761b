"""`bulkmail bench`: how fast does this server take mail?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from bulkmail.errors import BulkmailError, ConfigError
from bulkmail.values import duration as lasting

from . import output, progress, trouble
from .signals import STOPPED, StopOnSignal
from .verify import chain, check_sender

if TYPE_CHECKING:
    from bulkmail.load.bench import BenchReport
    from bulkmail.load.content import Load
    from bulkmail.url import Endpoint

FAILED = 1
NOT_RUN = STOPPED  # it could not run, or was stopped before its end
MESSAGES, CONNECTIONS, SIZE = 10_000, 10, 2048
REASONS_SHOWN = 5
MAX_MESSAGE = 1 << 30  # bytes of --message: it is held in memory


@click.command(
    short_help="Measure how fast a server takes mail.",
    epilog="""\b
Examples:
  bulkmail sink --listen 127.0.0.1:2525 --discard &
  bulkmail bench smtp://127.0.0.1:2525 --connections 20 --messages 100000
  bulkmail bench smtps://staging.example.com --auth load:secret --duration 30s --rate 500/s --yes
\b
TLS, login and time limits are options of the URL: smtp://host?tls=require&ca_file=ca.pem&chunking=false
\b
Exit status:
  0  every message was taken
  1  some were refused, or their end is unknown
  2  bad usage, URL or address, or a host that needs --yes
  3  it could not run (no connection, login refused), or was stopped before its end""",
)
@click.argument("url")
@click.option(
    "--connections", type=click.IntRange(min=1), metavar="N", help="At the same time; 10 unless the URL says."
)
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help=f"How many; {MESSAGES:,} without --duration.")
@click.option("--duration", metavar="TIME", help="Send for so long, such as 30s; with --messages until either is over.")
@click.option("--size", type=int, metavar="BYTES", help=f"Bytes of each message; {SIZE:,} by default.")
@click.option("--message", metavar="FILE", help="Send this file instead; its line ends become CRLF.")
@click.option(
    "--recipients-per-message", "each", type=click.IntRange(min=1), metavar="N", help="RCPT commands a message; 1."
)
@click.option("--from", "sender", metavar="ADDRESS", help="The envelope's sender; bench@example.test by default.")
@click.option("--to", multiple=True, metavar="ADDRESS", help="A recipient; may be repeated: they are taken in turn.")
@click.option("--rate", metavar="RATE", help="At most so many recipients a time, such as 500/s.")
@click.option(
    "--proxy",
    "proxies",
    metavar="URL",
    multiple=True,
    help="Connect through this proxy; several times: a chain, the nearest first. 'env': what the environment names.",
)
@click.option(
    "--tls",
    type=click.Choice(["auto", "require", "never", "opportunistic"]),
    help="As in the URL; auto by default: STARTTLS where it is offered.",
)
@click.option("--insecure", is_flag=True, help="Do not verify the server's certificate (verify=false in the URL).")
@click.option("--auth", metavar="USER:PASSWORD", help="Log in, as with a user and password in the URL.")
@click.option(
    "--yes", is_flag=True, help="The host is neither this machine nor on a private network, and I may load it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
def bench(url: str, as_json: bool, no_progress: bool, yes: bool, **options: Any) -> int:
    """Send one message again and again over many connections, and measure.

    Prints messages and bytes a second, the time from MAIL to the verdict (median and 99th percentile), this program's
    CPU time a message, and what failed. The message is always the same; it has no Message-ID.
    """
    from bulkmail.load.bench import Bench
    from bulkmail.net.loop import run

    from .send import keep_garbage_cheap

    duration = seconds(options["duration"])
    messages = options["messages"] or (None if duration is not None else MESSAGES)
    endpoint = where(url, options)
    load = what(options)
    with StopOnSignal() as stopper:
        try:
            if not yes:
                run(check_near(endpoint))
        except KeyboardInterrupt:
            trouble.say("stopped before anything was sent")
            return NOT_RUN
        except ConfigError:
            raise
        except BulkmailError as error:
            trouble.tell(error)
            return NOT_RUN
        bench = stopper.job = Bench(endpoint, load, messages, duration)
        stopper.on_leave.append(progress.show_cursor)
        keep_garbage_cheap()
        with progress.shown(bench, not no_progress):
            report = run(bench.run())
    return tell(report, as_json)


# -- what is asked for


def seconds(text: str | None) -> float | None:
    from bulkmail.values import parse_timeout

    return None if text is None else parse_timeout(text, "--duration")


def where(url: str, options: Mapping[str, Any]) -> Endpoint:
    """The relay, with what the options say of it; they win over the URL's own."""
    from bulkmail.url import parse_endpoint

    given = {"tls": options["tls"], "rate": options["rate"], "connections": options["connections"]}
    given |= {"verify": False if options["insecure"] else None}
    given |= {"proxy": chain(options["proxies"]) if options["proxies"] else None}
    endpoint = parse_endpoint(with_login(url, options["auth"]), **given)
    # as many connections and messages on each as a load test wants, where nobody says otherwise
    said = {piece.partition("=")[0] for piece in url.partition("?")[2].split("&")} | {k for k, v in given.items() if v}
    ours = {"connections": CONNECTIONS, "messages_per_connection": 0}
    missing: Any = {name: value for name, value in ours.items() if name not in said}
    return dataclasses.replace(endpoint, options=dataclasses.replace(endpoint.options, **missing))


def with_login(url: str, auth: str | None) -> str:
    """The URL with the user and password of --auth in it."""
    if auth is None:
        return url
    user, colon, password = auth.partition(":")
    if not colon or not user:
        raise ConfigError("--auth is not of the form USER:PASSWORD")
    scheme, separator, rest = url.partition("://")
    if "@" in rest.partition("/")[0].partition("?")[0]:
        raise ConfigError("--auth and a user in the URL exclude each other")
    return f"{scheme}{separator}{quote(user, safe='')}:{quote(password, safe='')}@{rest}" if separator else url


def what(options: Mapping[str, Any]) -> Load:
    """The message and its envelope."""
    from bulkmail.load.content import SENDER, prepare, sized_message

    if options["size"] is not None and options["message"] is not None:
        raise ConfigError("--size and --message exclude each other")
    sender = check_sender(options["sender"]) if options["sender"] is not None else SENDER
    assert sender is not None
    if options["message"] is not None:
        content = read_message(options["message"])
    else:
        size = SIZE if options["size"] is None else options["size"]
        if not 0 <= size <= MAX_MESSAGE:
            raise ConfigError(f"--size is {size}, expected bytes from 0 to {MAX_MESSAGE}")
        try:
            content = sized_message(size, sender or SENDER)
        except ConfigError as error:
            raise ConfigError(f"--size {size}: {error}") from None
    try:
        return prepare(content, sender, options["to"], options["each"] or 1)
    except BulkmailError as error:
        raise ConfigError(f"--to: {error}") from None


def read_message(name: str) -> bytes:
    with open(name, "rb") as file:
        content = file.read(MAX_MESSAGE + 1)
    if len(content) > MAX_MESSAGE:
        raise ConfigError(f"--message {name}: more than {MAX_MESSAGE} bytes")
    return content


async def check_near(endpoint: Endpoint) -> None:
    """Refuse to flood a host that may be a provider's, unless the user says that it is theirs."""
    from bulkmail.load.nearby import nearby

    if not await nearby(endpoint):
        raise ConfigError(
            f"{endpoint.place} is neither this machine nor on a private network: "
            "--yes says that you may put it under load"
        )


# -- what came of it


def tell(report: BenchReport, as_json: bool) -> int:
    """The figures on standard output, what failed on standard error; the exit status."""
    if as_json:
        output.emit_json(report.as_dict())
    elif report.messages or report.failed:
        click.echo(as_text(report))
    for text, count in report.reasons[:REASONS_SHOWN]:
        trouble.say(f"{count:,} × {trouble.plain(text)}")
    if len(report.reasons) > REASONS_SHOWN:
        trouble.say(f"and {len(report.reasons) - REASONS_SHOWN} other reasons")
    if report.error is None and report.connect_failures:
        trouble.say(f"not every connection worked; the last error: {trouble.plain(report.last_failure)}")
    if report.error is not None:
        trouble.tell(report.error)
        return NOT_RUN
    if report.stopped:
        trouble.say("stopped before the end")
        return NOT_RUN
    return FAILED if report.failed or report.refused else 0


def as_text(report: BenchReport) -> str:
    figures = report.as_dict()
    lines = [
        f"{report.messages:,} message{'' if report.messages == 1 else 's'} of {report.size:,} bytes "
        f"in {lasting(report.seconds)}: {output.rate(report.messages_per_second)}, "
        f"{figures['bytes_per_second'] / 1e6:,.1f} MB/s",
        f"  latency      p50 {_ms(figures['p50_ms'])}, p99 {_ms(figures['p99_ms'])}",
        f"  CPU          {report.cpu_us_per_message:,.1f} µs a message",
        f"  connections  {report.connections:,}{_fewer(report.connections, report.asked)}, "
        f"open after {lasting(report.opening)}",
    ]
    if report.max_rss_mb is not None:
        lines.append(f"  memory       {report.max_rss_mb:,.1f} MB at most")
    if report.failed:
        doubt = f", {report.in_doubt:,} of them in doubt" if report.in_doubt else ""
        lines.append(f"  failed       {report.failed:,}{doubt}")
    if report.refused:
        lines.append(f"  refused      {report.refused:,} recipients of messages that were taken")
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g} ms" if value < 100 else f"{value:,.0f} ms"


def _fewer(had: int, asked: int) -> str:
    return f" at most, of {asked:,} asked for" if had < asked else ""
