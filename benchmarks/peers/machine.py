"""Where a run took place, and what of: processor, kernel, versions, and the time that it is known by."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clients import TOOLS
from servers import find

SECONDS = 20


def stamp() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def machine() -> str:
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f} before"


def versions() -> str:
    """A comma list; what is not here is left out."""
    found = [("Python", platform.python_version()), *((name, _package(name)) for name in ("bulkmail", "uvloop"))]
    found += [("Postfix", _postfix()), ("aiosmtplib", _package("aiosmtplib"))]
    found += [("Node", _said("node", "--version", r"v([\d.]+)")), ("nodemailer", _nodemailer())]
    found.append(("OpenSSL", _said("openssl", "version", r"OpenSSL ([\w.]+)")))
    return ", ".join(f"{name} {value}" for name, value in found if value)


def _package(name: str) -> str:
    try:
        return version(name) + (_commit() if name == "bulkmail" else "")
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    here = Path(__file__).resolve().parent
    found = _answer(["git", "-C", str(here), "describe", "--always", "--dirty"])
    return f" ({found.strip()})" if found.strip() else ""


def _postfix() -> str:
    return _said("postconf", "-d mail_version", r"= ([\d.]+)")


def _nodemailer() -> str:
    path = TOOLS / "node" / "node_modules" / "nodemailer" / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else ""


def _said(program: str, arguments: str, pattern: str) -> str:
    found = re.search(pattern, _answer([find(program) or program, *arguments.split()]))
    return found[1] if found else ""


def _answer(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
