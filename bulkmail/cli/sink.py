"""`bulkmail sink`: an SMTP or LMTP server that receives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import Any

import click

from bulkmail.errors import ConfigError

from . import output
from .logs import CONNECTIONS, log_level, log_to_stderr


@click.command(
    short_help="Run an SMTP server that receives, for tests.",
    epilog="""\b
Examples:
  bulkmail sink --listen 127.0.0.1:2525 --store inbox
  bulkmail sink --listen 127.0.0.1:0 --discard --json
  bulkmail sink --web 127.0.0.1:8025
  bulkmail sink --fault "rcpt:451 4.7.1 Try later@5%" --fault "body:drop@1/100"
\b
Serves until SIGINT or SIGTERM (said twice: it waits for nobody), then prints what it counted.
Exit status: 0, or 2 for what cannot be served.""",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    default=("127.0.0.1:2525",),
    show_default=True,
    help="May be repeated; port 0 takes a free one.",
)
@click.option("--lmtp", is_flag=True, help="Speak LMTP: LHLO, and a reply for each recipient.")
@click.option("--store", metavar="DIR", help="Keep messages in this Maildir, with an envelopes.jsonl.")
@click.option("--mbox", metavar="FILE", help="Append messages to this mbox instead.")
@click.option("--fsync", is_flag=True, help="Accept a message only once it is on the disk, for --store and --mbox.")
@click.option("--discard", is_flag=True, help="Count messages and forget them (the default, but for --web).")
@click.option("--tls-cert", metavar="FILE", help="Offer STARTTLS with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key, unless that is in the same file.")
@click.option("--tls-implicit", is_flag=True, help="TLS from the first byte, instead of STARTTLS.")
@click.option("--auth", metavar="USER:PASSWORD", help="Demand this login before MAIL.")
@click.option("--max-size", type=click.IntRange(min=0), metavar="N", help="Bytes in a message (67108864); 0: no limit.")
@click.option("--max-recipients", type=click.IntRange(min=1), metavar="N", help="Recipients in a transaction (1000).")
@click.option("--without", multiple=True, metavar="EXTENSION", help="Do not offer it; may be repeated.")
@click.option("--lenient", is_flag=True, help="Make a CRLF of a lone CR or LF in a message, instead of refusing it.")
@click.option("--grace", type=click.FloatRange(min=0), metavar="SECONDS", help="For messages under way at the end (5).")
@click.option("--name", metavar="NAME", help="In the greeting, instead of this machine's.")
@click.option(
    "--proxy-from", multiple=True, metavar="CIDR|ADDRESS|*", help="Proxies: they send a PROXY header, v1 or v2."
)
@click.option("--deny", multiple=True, metavar="CIDR|ADDRESS|*", help="Clients that get a 554 for a greeting.")
@click.option("--ignore", multiple=True, metavar="CIDR|ADDRESS|*", help="Clients to serve, but not to count or store.")
@click.option("--connections-per-minute", type=click.IntRange(min=1), metavar="N", help="Of one client address.")
@click.option("--connections-per-address", type=click.IntRange(min=1), metavar="N", help="Open at a time.")
@click.option("--web", metavar="ADDRESS:PORT", help="A page that shows what came (pip install 'bulkmail[web]').")
@click.option("--fault", multiple=True, metavar="RULE", help="Misbehave: PHASE:ACTION[@WHEN]; may be repeated.")
@click.option("--seed", type=int, metavar="N", help="Of the faults' percentages; 0 unless given.")
@log_level
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def sink(listen: tuple[str, ...], as_json: bool, log_level: str | None, **options: Any) -> int:
    """Receive mail by SMTP (or LMTP) and store it or throw it away. It delivers to nobody."""
    from bulkmail.net.loop import run

    log_to_stderr(log_level or "warning", CONNECTIONS)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        counts = run(serve(listen, given))
    except ConfigError as error:
        raise ConfigError(in_flags(str(error), options)) from error
    if as_json:
        output.emit_json(counts)
    else:
        click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


def in_flags(text: str, options: Iterable[str]) -> str:
    """The library speaks of its options by name, in quotes; here they are flags."""
    for name in options:
        text = text.replace(f"'{name}'", "--" + name.replace("_", "-"))
    return text


async def serve(listen: tuple[str, ...], options: dict[str, Any]) -> dict[str, int]:
    """Serve until SIGINT or SIGTERM; the counts."""
    from bulkmail.sink.options import shown
    from bulkmail.sink.server import Server

    if not {"store", "mbox", "web"} & options.keys():
        options["discard"] = True
    stop = asyncio.Event()
    server = Server(listen=listen, **options)

    def signalled() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    on_signals(signalled)
    async with server:
        for host, port in server.addresses:
            print(f"listening on {shown(host, port)}", flush=True)
        if server.web_url is not None:
            print(f"web page on {server.web_url}", flush=True)
        await stop.wait()
    return server.counts


def on_signals(act: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, act)
        except NotImplementedError:  # Windows: its handlers run outside the loop, which has to be woken
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))
