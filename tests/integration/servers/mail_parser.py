"""npm's mailparser, by Nodemailer's authors: a second reader of what we compose."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import SERVERS, missing, require

SCRIPT = Path(__file__).with_name("mail_parser.mjs")
MODULES = SERVERS / "mailparser/node_modules"
SECONDS = 60


def parse_mails(messages: Sequence[bytes]) -> list[dict[str, Any]]:
    """What it makes of each message; the contents of attachments are bytes. Keys: see the script."""
    node = require("node")
    if not (MODULES / "mailparser").is_dir():
        missing(f"npm's mailparser is not in {MODULES}")
    given = json.dumps([base64.b64encode(message).decode() for message in messages])
    done = subprocess.run(
        [node, str(SCRIPT), f"{MODULES}/"], input=given.encode(), capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for mail in found:
        for part in mail["attachments"]:
            part["content"] = base64.b64decode(part["content"])
    return found
