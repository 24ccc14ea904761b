"""Jobs of all shapes, each from a seed."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkmail.job.stock import COMMIT_RECIPIENTS, SHARED_AHEAD

# A window that waits and what is under way (docs/architecture.md, "How much can be in doubt"), and the same by BDAT
# where answers take more than 20 ms, as on a busy machine they do.
HELD, HELD_SLOW = 18, 130


@dataclass
class Shape:
    """What is random about a job."""

    recipients: int
    connections: int  # of each relay
    relays: int
    batch: int  # 1: a message of each recipient's own
    chunking: bool
    policy: str
    level: str
    faulty: bool
    source: str
    extra: dict[str, Any]

    @property
    def most_in_doubt(self) -> int:
        """Per kill."""
        held = (HELD_SLOW if self.chunking else HELD) * self.connections * self.relays
        return held + COMMIT_RECIPIENTS if self.batch == 1 else self.batch * (held + SHARED_AHEAD)


def make_shape(chance: random.Random, **fixed: Any) -> Shape:
    recipients = int(200 * 15 ** chance.random())
    extra: dict[str, Any] = {}
    if chance.random() < 0.2:
        extra["limits"] = {"rate": f"{recipients}/s"}
    egress = chance.random() < 0.25
    if egress:
        extra["egress"] = {"one": {"local_address": "127.0.0.1"}, "two": {"local_address": "127.0.0.2"}}
    shape = Shape(
        recipients=recipients,
        connections=int(40 ** chance.random()),
        relays=chance.choice([1, 1, 2, 3]),
        batch=chance.choice([1, 1, 1, 5, 50]),
        chunking=chance.random() < 0.5,
        policy=chance.choice(["skip", "skip", "resend"]),
        level=chance.choice(["process", "process", "power"]),
        faulty=chance.random() < 0.7,
        source=chance.choice(["jsonl", "jsonl", "gzip", "inline"]),
        extra=extra,
    )
    for name, value in fixed.items():
        setattr(shape, name, value)
    return shape


def addresses(shape: Shape) -> list[str]:
    return [f"user{i}@{'abc'[i % 3]}.example" for i in range(shape.recipients)]


def write_job(shape: Shape, folder: Path, ports: list[int]) -> Path:
    """The manifest in `folder`; its journal is alone in a folder of its own."""
    (folder / "journal").mkdir(exist_ok=True)
    message = {"from": "news@example.com", "subject": "Hello", "text": "words " * 50}
    if shape.batch == 1:
        message["text"] += "{{ email }}"
    relays = []
    for i, port in enumerate(ports):
        relay: dict[str, Any] = {
            "name": f"relay{i}",
            "url": f"smtp://127.0.0.1:{port}",
            "connections": shape.connections,
            "chunking": shape.chunking,
            "batch": shape.batch,
            "command_timeout": 3,
            "data_timeout": 3,
        }
        if "egress" in shape.extra:
            relay["egress"] = list(shape.extra["egress"])
        relays.append(relay)
    manifest = {
        "job": "campaign",
        "message": message,
        "recipients": write_list(shape, folder),
        "relays": relays,
        "retry": {"delays": ["50ms", "100ms", "200ms", "400ms"], "patience": "60s"},
        "journal": "journal/job.journal",
        "durability": shape.level,
        **shape.extra,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(manifest))
    return path


def write_list(shape: Shape, folder: Path) -> Any:
    rows = [{"email": address} for address in addresses(shape)]
    if shape.source == "inline":
        return rows
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if shape.source == "gzip":
        (folder / "list.jsonl.gz").write_bytes(gzip.compress(text, 1))
        return "list.jsonl.gz"
    (folder / "list.jsonl").write_bytes(text)
    return "list.jsonl"
