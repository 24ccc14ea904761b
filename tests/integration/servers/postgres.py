"""PostgreSQL, with one database and one user who logs in by password; it refuses to run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .common import HOST, free_port, missing, read_log, stop, wait_until

USER, PASSWORD = "news", "s3cret /:@% word"


@dataclass(frozen=True)
class Postgres:
    port: int

    @property
    def url(self) -> str:
        return self.url_with(PASSWORD)

    def url_with(self, password: str) -> str:
        return f"postgresql://{USER}:{quote(password, safe='')}@{HOST}:{self.port}/postgres"

    def run(self, *statements: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode())


@contextmanager
def postgres() -> Iterator[Postgres]:
    initdb, server = _programs()
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="bulkmail-postgres-"))  # pytest's folders are closed to other users
    try:
        (folder / "password").write_text(PASSWORD)
        if owner:
            for path in (folder, folder / "password"):
                shutil.chown(path, **owner)
        data, port = folder / "data", free_port()
        login = ["-U", USER, "--pwfile", folder / "password", "-A", "scram-sha-256"]
        arguments = [initdb, "-D", data, *login, "--no-sync", "-E", "UTF8", "--locale", "C"]
        subprocess.run(arguments, check=True, capture_output=True, cwd=folder, **owner)
        with open(folder / "log", "wb") as log:
            where = ["-D", data, "-h", HOST, "-p", str(port), "-k", folder]
            process = subprocess.Popen([server, *where, "-F"], stdout=log, stderr=log, cwd=folder, **owner)
        try:
            running = Postgres(port)
            died = lambda: None if process.poll() is None else read_log(folder / "log")  # noqa: E731
            wait_until(lambda: _answers(running), "postgres", died)
            yield running
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder)


def _programs() -> tuple[Path, Path]:
    """Debian keeps them where several versions can stand side by side."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/local/bin"), Path("/usr/bin")]
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder / "initdb", folder / "postgres"
    missing("PostgreSQL is not installed")
    raise AssertionError


def _answers(server: Postgres) -> bool:
    import psycopg  # this module is loaded for every run of tests

    try:
        psycopg.connect(server.url).close()
    except psycopg.OperationalError:
        return False
    return True
