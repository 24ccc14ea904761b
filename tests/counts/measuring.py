"""Runs counts.probe under what counts, and reads what was found: {program: {what: how many a message}}."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from counts.programs import PROGRAMS
from integration.servers.common import missing, require

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600.0  # callgrind is some fifty times slower, on a machine that may be busy

Found = dict[str, dict[Any, float]]


class Failed(RuntimeError):
    """The process that was to be counted did not come to its end."""


def allocations(names: Iterable[str], folder: Path, **environ: str) -> Found:
    """By size, rounded up to 16 bytes; above 512 bytes: 528."""
    build_counter(folder)
    out = run([], "allocations", names, folder, environ)
    return per_message({mark: {int(size): n for size, n in calls.items()} for mark, calls in json.loads(out).items()})


def instructions(names: Iterable[str], folder: Path, **environ: str) -> Found:
    """The key is the file in which callgrind tells where they went, for callgrind_annotate."""
    build_counter(folder)
    valgrind = [
        require("valgrind"),
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={folder}/callgrind",
    ]
    run(valgrind, "instructions", names, folder, environ)
    dumps = {}
    for file in folder.glob("callgrind.*"):
        text = file.read_text(errors="replace")
        mark = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.M)
        total = re.search(r"^(?:totals|summary): (\d+)$", text, re.M)
        if mark is not None and total is not None:
            dumps[mark[1]] = (str(file), int(total[1]))
    found = {}
    for name in names:
        file, many = dumps[f"{name}: many"]
        found[name] = {file: (many - dumps[f"{name}: few"][1]) / further(name)}
    return found


def system_calls(names: Iterable[str], folder: Path, **environ: str) -> Found:
    """By the kernel's names of them, on all threads."""
    log = folder / "strace.log"
    run([require("strace"), "-f", "-s", "80", "-o", str(log)], "calls", names, folder, environ)
    return per_message(read_trace(log))


def read_trace(log: Path) -> dict[str, Counter[str]]:
    """The calls between the marks of each run."""
    runs: dict[str, Counter[str]] = {}
    counted: Counter[str] | None = None
    with log.open(errors="replace") as lines:
        for line in lines:
            call = re.match(r"\d+ +(\w+)\(", line)
            if call is None:
                continue  # the end of a call that another thread's came between, a signal, an exit
            mark = re.match(r'\d+ +write\(-1, "(start|stop) ([^"]*)"', line)
            if mark is not None:
                counted = runs.setdefault(mark[2], Counter()) if mark[1] == "start" else None
            elif counted is not None:
                counted[call[1]] += 1
    return runs


def further(name: str) -> int:
    return PROGRAMS[name].many - PROGRAMS[name].few


def per_message(runs: Mapping[str, Mapping[Any, int]]) -> Found:
    found = {}
    for name in [mark.removesuffix(": few") for mark in runs if mark.endswith(": few")]:
        few, many = runs[f"{name}: few"], runs[f"{name}: many"]
        found[name] = {what: (many.get(what, 0) - few.get(what, 0)) / further(name) for what in {**few, **many}}
    return found


def run(prefix: list[str], kind: str, names: Iterable[str], folder: Path, environ: Mapping[str, str]) -> str:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(folder), os.environ.get("PYTHONPATH", "")])
    # The runs are to differ in their messages alone: not in the order of sets, nor in modules that the first compiles.
    fixed = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "BULKMAIL_HUB": "on"}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "counts.probe", kind, *names],
        cwd=folder, env={**os.environ, **fixed, **environ}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    if done.returncode and "PTRACE" in done.stderr and "not permitted" in done.stderr:
        missing("this machine lets nobody trace a process (ptrace)")
    if done.returncode:
        raise Failed(f"{kind} of {', '.join(names)}: status {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


@functools.cache
def build_counter(folder: Path) -> None:
    """The module _counter, into `folder`."""
    target, source = folder / "_counter.so", Path(__file__).with_name("counter.c")
    flags = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    include = f"-I{sysconfig.get_path('include')}"
    command = [
        require("cc"),
        "-O2",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        *flags,
        include,
        "-o",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=SECONDS)
