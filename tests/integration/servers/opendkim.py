"""A real OpenDKIM as a judge of signatures: its test mode, with the DNS records in a file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .common import require

# A "Mode v" of its own: it verifies, signs nothing, and asks no name server.
CONFIG = "Mode v\nSyslog no\nBaseDirectory {folder}\nTestDNSData file:{folder}/records\n"
VERDICT = re.compile(r"^\s*dkim=(\w+)(?: reason=\"([^\"]*)\")?.*header\.s=(\S+)", re.M)


def opendkim_verdicts(messages: Mapping[str, bytes], records: Mapping[str, str], folder: Path) -> dict[str, list[str]]:
    """Of each message what OpenDKIM says of its signatures, from the first on: "pass", or "fail: why".

    records   DNS names and their TXT records
    """
    (folder / "opendkim.conf").write_text(CONFIG.format(folder=folder))
    (folder / "records").write_text("".join(f"{name} {text}\n" for name, text in records.items()))
    found = {}
    for number, (name, message) in enumerate(messages.items()):
        file = folder / f"{number}.eml"
        file.write_bytes(message)
        done = subprocess.run(
            [require("opendkim"), "-x", folder / "opendkim.conf", "-vv", "-t", file],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        shown = done.stdout.decode("latin-1")
        # "-vv" shows the Authentication-Results field that it would add; without one it could not read the message.
        assert "Authentication-Results" in shown, (name, shown, done.stderr[-1000:])
        found[name] = [f"{word}: {why}" if why else word for word, why, _ in VERDICT.findall(shown)]
    return found
