"""A suppression file that grows: addresses, one a line, none twice, replaced as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bulkmail.errors import ConfigError


def add_to_file(path: Path, addresses: Iterable[str]) -> int:
    """Append those that are not there yet, sorted; how many. What is there stays as it is, comments and all.

    Case makes no difference, as where the file is used. Memory for the new ones, however long the file is.
    raises  ConfigError  it cannot be read or written
    """
    new = {address.lower() for address in addresses}
    try:
        if path.exists():
            with open(path, encoding="utf-8-sig") as file:
                new.difference_update(line.strip().lower() for line in file)
        if new or not path.exists():
            _replace(path, sorted(new))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid UTF-8; expected a suppression file") from error
    except OSError as error:
        raise ConfigError(f"cannot write the suppression file {path}: {error.strerror}") from error
    return len(new)


def _replace(path: Path, new: Iterable[str]) -> None:
    target = path.resolve()  # of a link, what it names is replaced
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(descriptor, "wb") as file:
            if target.exists():
                with open(target, "rb") as old:
                    shutil.copyfileobj(old, file)
                    old.seek(max(0, old.tell() - 1))
                    file.write(b"" if old.read(1) in (b"", b"\n") else b"\n")
            file.writelines(f"{address}\n".encode() for address in new)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
