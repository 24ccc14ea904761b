#!/usr/bin/env python3
"""What no linter sees: which layer imports which, also in Cython; file sizes; missing stubs.

check_source.py [ROOT]      one line a problem; exit status 1 if there is any
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 500

# docs/architecture.md draws this. A layer may import itself and what stands here, nothing else of bulkmail.
PROXIES = {"proxyhandlers", "proxyurl", "noproxy", "proxyenv"}
BASE = {"errors", "records", "address", "urlparts", "values", "loginoptions", "url", "egress"} | PROXIES
LAYERS = {
    "errors": set(),
    "records": set(),
    "address": {"errors"},
    "urlparts": {"errors", "records", "address"},
    "loginoptions": {"errors", "records", "urlparts"},
    "values": {"errors", "records", "urlparts"},
    "proxyhandlers": {"errors", "urlparts"},
    "proxyurl": {"errors", "records", "urlparts", "values", "proxyhandlers"},
    "noproxy": {"errors", "address", "urlparts"},
    "proxyenv": {"errors", "urlparts", "proxyurl", "noproxy"},
    "proxyproperties": {"errors", "urlparts", "proxyurl", "noproxy"},
    "url": {"errors", "records", "address", "urlparts", "values", "loginoptions"} | PROXIES,
    "egress": {"errors", "records", "urlparts", "values", "proxyurl", "url"},
    "wire": BASE,
    "unsubscribe": {"errors", "urlparts"},
    "message": {"errors", "records", "address", "urlparts", "values", "unsubscribe", "wire"},
    "net": BASE | {"wire"},
    "sink": BASE | {"wire", "net", "message"},
    "pytest_plugin": {"sink"},
    "smtp": BASE | {"wire", "net"},
    "pool": BASE | {"wire", "net", "smtp", "message"},
    "job": BASE | {"wire", "net", "smtp", "pool", "message"},
    "load": BASE | {"wire", "net", "smtp", "pool"},
    "bounces": BASE | {"wire", "smtp", "message", "job"},
    "cli": BASE | {"wire", "net", "smtp", "pool", "message", "job", "sink", "load", "bounces"},
}
# The public names and the entry point gather from everywhere.
TOP = {"__init__", "__main__"}

CODE = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".js", ".sh"}
FOLDERS = ("bulkmail", "csrc", "tests", "benchmarks", "scripts", "examples")
CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<source>[.\w]+)\s+c?import\s+(?P<names>[\w, ()]+)|c?import\s+(?P<modules>[\w., ]+))", re.M
)


def python_imports(text: str) -> Iterator[tuple[str, list[str]]]:
    """(module as written, imported names) of each import, also inside functions; relative ones keep their dots."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def cython_imports(text: str) -> Iterator[tuple[str, list[str]]]:
    """The same of a .pyx or .pxd, import and cimport alike."""
    for match in CYTHON_IMPORT.finditer(text):
        if match["source"]:
            yield match["source"], re.findall(r"\w+", match["names"])
        else:
            yield from ((part.split()[0], []) for part in match["modules"].split(",") if part.split())


def layers_used(package: list[str], module: str, names: list[str]) -> list[str]:
    """The layers of bulkmail that an import in `package` (such as ["bulkmail", "wire"]) reaches."""
    dots = len(module) - len(module.lstrip("."))
    parts = [part for part in module[dots:].split(".") if part]
    if dots:
        parts = package[: len(package) - dots + 1] + parts
    if parts[:1] != ["bulkmail"]:
        return []
    return parts[1:2] or names


def layer_problems(root: Path) -> Iterator[str]:
    for file in sorted((root / "bulkmail").rglob("*.p*")):
        if file.suffix not in {".py", ".pyi", ".pyx", ".pxd"}:
            continue
        where = file.relative_to(root)
        layer = where.parts[1].split(".")[0]
        if layer in TOP:
            continue
        if layer not in LAYERS:
            yield f"{where}: {layer} is no layer; scripts/check_source.py has the table"
            continue
        imports = python_imports if file.suffix in {".py", ".pyi"} else cython_imports
        for module, names in imports(file.read_text()):
            for used in layers_used(list(where.parts[:-1]), module, names):
                if used != layer and used not in LAYERS[layer]:
                    yield f"{where}: {layer} must not import {used} (from {module})"


def size_problems(root: Path) -> Iterator[str]:
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            generated = file.suffix == ".c" and file.with_suffix(".pyx").exists()
            if file.suffix not in CODE or generated or not file.is_file():
                continue
            lines = file.read_bytes().count(b"\n")
            if lines > MAX_LINES:
                yield f"{file.relative_to(root)}: {lines} lines, more than {MAX_LINES}: split it by what it answers"


def stub_problems(root: Path) -> Iterator[str]:
    for file in sorted((root / "bulkmail").rglob("*.pyx")):
        if not file.with_suffix(".pyi").exists():
            yield f"{file.relative_to(root)}: no stub {file.with_suffix('.pyi').name} beside it"


def problems(root: Path) -> list[str]:
    return [*layer_problems(root), *size_problems(root), *stub_problems(root)]


def main() -> int:
    found = problems(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    print("\n".join(found) if found else "layers, sizes and stubs are as they should be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
