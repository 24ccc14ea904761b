"""A disk that fills, whenever: exit status 3, and once there is room again --resume delivers the rest once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections import Counter

import pytest

from integration.cli_program import SECONDS, bulkmail, command, environment, write_job

ROWS = 3000


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes) -> a folder on a file system of that size."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        mount = shutil.which("mount")
        options = f"size={size}"
        done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if not done or done.returncode != 0:
            pytest.skip("a small file system cannot be mounted here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def send(folder, *options, limit=None):
    """limit: bytes that a file may have, as RLIMIT_FSIZE."""

    def restrict():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return subprocess.run(
        command("send", "news.json", "--json", *options),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=SECONDS,
        preexec_fn=restrict if limit is not None else None,
    )


def assert_stopped(done):
    assert done.returncode == 3, (done.stdout[-300:], done.stderr)
    assert "Traceback" not in done.stderr
    assert "journal" in done.stderr
    assert "to go on: bulkmail send news.json --" in done.stderr


def finish(folder, server, sent):
    """Go on with room: nobody twice, and missing are only those in doubt."""
    write_job(folder, server.url, ROWS, journal="disk/news.journal")
    done = bulkmail("send", "news.json", "--auto", "--json", cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    summary = json.loads(done.stdout)
    got = sent + Counter(address for mail in server.mails for address in mail.recipients)
    assert max(got.values()) == 1
    assert summary["delivered"] + summary["in_doubt"] == ROWS == summary["recipients"]
    assert summary["delivered"] <= len(got) <= ROWS
    return summary


@pytest.mark.parametrize("size", [0, 2000, 20_000, 60_000, 130_000, 170_000])
def test_a_file_that_may_not_grow(start_aiosmtpd, tmp_path, size):
    """Where it strikes depends on the size: making the journal, reading the recipients in, sending."""
    first, second = start_aiosmtpd(), start_aiosmtpd()
    (tmp_path / "disk").mkdir()
    write_job(tmp_path, first.url, ROWS, journal="disk/news.journal")
    done = send(tmp_path, limit=size)
    assert_stopped(done)
    sent = Counter(address for mail in first.mails for address in mail.recipients)
    summary = finish(tmp_path, second, sent)
    assert summary["in_doubt"] <= 5 * 18 + 512
    if not sent:
        assert summary["delivered"] == ROWS


@pytest.mark.parametrize("size", [8 << 10, 64 << 10, 200 << 10, 240 << 10])
def test_a_file_system_that_fills(start_aiosmtpd, small_disk, tmp_path, size):
    disk = small_disk(size)
    os.symlink(disk, tmp_path / "disk")
    first, second = start_aiosmtpd(), start_aiosmtpd()
    write_job(tmp_path, first.url, ROWS, journal="disk/news.journal")
    done = send(tmp_path)
    assert_stopped(done)
    sent = Counter(address for mail in first.mails for address in mail.recipients)
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    finish(tmp_path, second, sent)


def test_standard_input_that_does_not_fit_beside_the_journal(start_aiosmtpd, tmp_path):
    (tmp_path / "disk").mkdir()
    message = {"from": "n@example.com", "subject": "s", "text": "t"}
    write_job(tmp_path, start_aiosmtpd().url, 1, journal="disk/news.journal", recipients="-", message=message)

    def restrict():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    done = subprocess.run(
        command("send", "news.json"),
        cwd=tmp_path,
        input="".join(f"r{n}@example.com\n" for n in range(1000)),
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=SECONDS,
        preexec_fn=restrict,
    )
    assert_stopped(done)
    assert "news.journal.recipients" in done.stderr
    assert list((tmp_path / "disk").glob("*.part")) == []


def test_the_summary_of_a_run_that_the_disk_ended_is_what_status_shows(start_aiosmtpd, tmp_path):
    (tmp_path / "disk").mkdir()
    write_job(tmp_path, start_aiosmtpd().url, ROWS, journal="disk/news.journal")
    done = send(tmp_path, limit=170_000)
    assert_stopped(done)
    summary = json.loads(done.stdout)
    status = json.loads(bulkmail("status", "disk/news.journal", "--json", cwd=tmp_path).stdout)
    for key in ("state", "recipients", "delivered", "failed", "deferred", "in_doubt", "pending"):
        assert summary[key] == status[key], key
    assert summary["delivered"] > 0
