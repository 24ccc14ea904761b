#!/usr/bin/env python3
"""A job of very many recipients: how fast its list is read, how much memory it takes, how soon it begins and goes on.

    scale.py [--recipients 10000000] [--deduplicate] [--routes 200] [--validate false] [--share 0.95] [--folder DIR]

Makes a list of JSON lines, and sends a shared message to it through `bulkmail sink --discard` in several runs of one
job, each a process of its own:

    begin    until the first message is delivered; then it is stopped
    early    the same job resumed, with nearly nothing delivered
    most     resumed, until --share of all is delivered
    late     resumed again, until the next message is delivered

and, before them, `fill`: the list read into a journal and nothing else. Seconds are from the start of the process. The
list, 0.8 GB for ten million, and the journal are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AT_ONCE = 100_000
DOMAINS = 5000


def write_list(path: Path, count: int) -> None:
    with open(path, "w") as file:
        for start in range(0, count, AT_ONCE):
            rows = range(start, min(start + AT_ONCE, count))
            row = '{"email": "user%d@example%d.com", "name": "Ann Example", "id": %d}\n'
            file.write("".join(row % (i, i % DOMAINS, i) for i in rows))


def write_manifest(folder: Path, port: int, options: argparse.Namespace) -> Path:
    recipients: dict[str, Any] = {"file": "list.jsonl", "deduplicate": options.deduplicate}
    if options.validate == "false":
        recipients["validate"] = False
    url = f"smtp://127.0.0.1:{port}"
    relay: dict[str, Any] = {"url": url, "connections": 10, "batch": 100}
    if options.routes:
        relay |= {"egress": ["way"], "domains": {f"example{i}.com": ["way"] for i in range(options.routes)}}
    manifest = {
        "message": {"from": "news@example.com", "subject": "Hello", "text": "Hello everybody"},
        "recipients": recipients,
        "relays": [relay],
        "egress": {"way": {}} if options.routes else {},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


@contextmanager
def sink(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "bulkmail", "sink", "--listen", "127.0.0.1:0", "--discard"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


# ---- what is measured, in a process of its own -----------------------------------------------------------------------


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def fill(manifest: Path, _: argparse.Namespace) -> dict[str, Any]:
    from bulkmail import Job
    from bulkmail.job.run import Run

    job = Job.load(manifest)
    run = Run(job.manifest, job.compiled, None)
    wall, cpu = time.perf_counter(), time.process_time()
    run.open("new", "skip", None, "process")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert run.tally is not None
    count = run.tally.counts.recipients
    run._journal.close()
    size = job.manifest.journal.stat().st_size
    job.manifest.journal.unlink()
    return {"rows": count, "rows_per_s": count / wall, "rows_per_cpu_s": count / cpu, "journal_mb": size / 1e6}


def send(manifest: Path, options: argparse.Namespace) -> dict[str, Any]:
    """stop_at: how many are delivered when it is stopped; 0: the first."""
    from bulkmail import Job

    job = Job.load(manifest)
    first: list[float] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "delivered" and not first:
            first.append(time.time() - options.started)
            job.stop()

    def watch() -> None:
        while job.progress().get("delivered", 0) < options.stop_at:
            time.sleep(0.05)
        job.stop()

    if options.stop_at:
        threading.Thread(target=watch, daemon=True).start()
    report = job.run(resume=options.resume, on_event=None if options.stop_at else note)
    found = {name: report.summary[name] for name in ("recipients", "delivered", "in_doubt", "seconds")}
    return found | ({"first_message_s": first[0]} if first else {})


def measured(task: str, manifest: Path, **options: Any) -> dict[str, Any]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not False]
    command = [sys.executable, __file__, "--task", task, "--manifest", str(manifest), f"--started={time.time()}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ---- the whole of it -------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="bulkmail-scale-", dir=options.folder) as name:
        folder = Path(name)
        write_list(folder / "list.jsonl", options.recipients)
        with sink(folder) as port:
            manifest = write_manifest(folder, port, options)
            steps: list[tuple[str, str, dict[str, Any]]] = [
                ("fill", "fill", {}),
                ("begin", "send", {}),
                ("early", "send", {"resume": 1}),
                ("most", "send", {"resume": 1, "stop_at": int(options.share * options.recipients)}),
                ("late", "send", {"resume": 1}),
            ]
            for title, task, given in steps:
                found = measured(task, manifest, **given)
                figures = ", ".join(f"{name} {value:,.2f}".removesuffix(".00") for name, value in found.items())
                print(f"{title:6} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipients", type=int, default=10_000_000)
    parser.add_argument("--deduplicate", action="store_true")
    parser.add_argument("--routes", type=int, default=0, help="domains whose recipients are kept apart")
    parser.add_argument("--validate", choices=["true", "false"], default="true")
    parser.add_argument("--share", type=float, default=0.95)
    parser.add_argument("--folder", help="for the list and the journal")
    for name, kind in (("task", str), ("manifest", Path), ("started", float), ("resume", int), ("stop_at", int)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is None:
        run_all(options)
        return
    options.resume, options.stop_at = bool(options.resume), options.stop_at or 0
    found = {"fill": fill, "send": send}[options.task](options.manifest, options)
    os.write(1, json.dumps(found | {"peak_mb": peak_mb()}).encode() + b"\n")


if __name__ == "__main__":
    main()
