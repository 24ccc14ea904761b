#!/usr/bin/env python3
"""Our own client: `bulkmail send` of a personalised job, its journal on, as one process.

    bulkmail_send.py --host H --port P --connections N --messages M --message FILE

writes manifest, template and recipients to a temporary folder, then runs and measures `bulkmail send` and prints one
JSON line: peer, messages, seconds, user_s, sys_s, max_rss_mb. Of FILE only the size is used: the messages are composed
for each recipient, and the template is filled so that they come out as large. CPU time is that of the whole process,
the interpreter's start and the first pass over the recipients included; seconds are the job's own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import cache
from pathlib import Path

from children import Cost, measure
from keys import RSA, write_key
from messages import SENDER, message, write_job
from recorder import content, record

RUN_SECONDS = 600.0
# What the first guess of the filler leaves for headers and MIME structure, and how near it must come in the end.
HEADERS = 700
TOLERANCE = 0.005
BATCH = 100  # recipients in a transaction of a shared message
DOMAIN = "example.test"


def send_command(manifest: Path) -> list[str]:
    return [sys.executable, "-m", "bulkmail", "send", str(manifest), "--json", "--no-progress"]


@cache
def filler_for(size: int) -> int:
    """How much prose the template needs for messages of `size` bytes: tried, and corrected by what arrived."""
    filler = size - HEADERS
    for _attempt in range(6):
        arrived = trial(size, filler)
        if abs(arrived - size) <= max(8, size * TOLERANCE):
            return filler
        filler += size - arrived
    raise RuntimeError(f"no template of ours comes out at {size} bytes; the last try was {arrived}")


def trial(size: int, filler: int) -> int:
    """The size of a message that a job with this much prose really sends."""
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:

        def command(port: int) -> list[str]:
            url = f"smtp://127.0.0.1:{port}"
            job = write_job(Path(folder), size=size, filler=filler, recipients=3, url=url, connections=1)
            return send_command(job)

        cost, dumped = record(command)
    if cost.status or len(dumped) != 3:
        raise RuntimeError(f"bulkmail send: status {cost.status}, {len(dumped)} of 3 arrived: {cost.errors[-500:]}")
    return len(content(dumped[0]).replace(b"\n", b"\r\n"))


def command(
    folder: Path,
    *,
    host: str,
    port: int,
    connections: int,
    messages: int,
    size: int,
    ca_file: Path | None = None,
    options: str = "",
) -> list[str]:
    """Prepare a job in `folder` and return the command that runs it.

    ca_file  insist on STARTTLS, and trust this; options: further ones of the relay, as its URL has them
    """
    url = f"smtp://{host}:{port}?" + (f"tls=require&ca_file={ca_file}" if ca_file else "tls=never") + options
    filler = filler_for(size)
    return send_command(
        write_job(folder, size=size, filler=filler, recipients=messages, url=url, connections=connections)
    )


def share(manifest: Path, size: int) -> None:
    """Make one message of about `size` bytes for all of the job's personal ones."""
    job = json.loads(manifest.read_text())
    text = message(size).partition(b"\r\n\r\n")[2].decode().replace("\r\n", "\n")
    job["message"] = {"from": SENDER, "to": SENDER, "subject": "Notes", "text": text}
    job["relays"][0]["batch"] = BATCH
    manifest.write_text(json.dumps(job))


def sign(manifest: Path) -> None:
    """Have the job's messages signed, with a key of its own."""
    job = json.loads(manifest.read_text())
    key = manifest.with_name("dkim.pem")
    write_key(RSA, key)
    job["message"]["dkim"] = [{"domain": DOMAIN, "selector": "s1", "key_file": str(key)}]
    manifest.write_text(json.dumps(job))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("--port", "--connections", "--messages"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--message", required=True, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bulkmail-bench-") as folder:
        line = command(
            Path(folder),
            host=arguments.host,
            port=arguments.port,
            connections=arguments.connections,
            messages=arguments.messages,
            size=arguments.message.stat().st_size,
        )
        cost: Cost = measure(line, seconds=RUN_SECONDS)
    if cost.status:
        print(cost.errors, file=sys.stderr, end="")
        return 1
    summary = cost.result()
    print(
        json.dumps(
            {
                "peer": "bulkmail send",
                "messages": summary["delivered"],
                "seconds": summary["seconds"],
                "user_s": round(cost.user, 6),
                "sys_s": round(cost.system, 6),
                "max_rss_mb": round(cost.peak_mb, 1),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
