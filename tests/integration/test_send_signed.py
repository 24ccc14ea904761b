"""Signed jobs: every copy verifies; a stop, a kill or a failing key loses nobody and sends nobody an unsigned copy."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from email import message_from_bytes
from pathlib import Path

import pytest

from bulkmail.message.dkim import Dkim
from integration.cli_program import bulkmail, start, write_job
from integration.sink_program import sink
from unit.message.dkim_corpus import ed25519_key, rsa_key, verdicts

RSA, ED = Dkim("example.com", "s1", key=rsa_key()), Dkim("example.com", "s2", key=ed25519_key())


def keys(folder: Path) -> list[dict[str, str]]:
    """The message's `dkim`, its keys in files."""
    for name, text in (("rsa.pem", rsa_key()), ("ed.pem", ed25519_key())):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRUSR | stat.S_IWUSR)
    return [
        {"domain": "example.com", "selector": "s1", "key_file": "rsa.pem"},
        {"domain": "example.com", "selector": "s2", "key_file": "ed.pem"},
    ]


def message(folder: Path, **more: object) -> dict[str, object]:
    text = "Dear {{ name }},\n.  two  blanks \n"
    return {"from": "news@example.com", "subject": "Grüße {{ name }}", "text": text, "dkim": keys(folder), **more}


def test_each_recipients_copy_is_signed_by_every_key(tmp_path):
    with sink(tmp_path) as server:
        relay = f"smtp://127.0.0.1:{server.port}?connections=4"
        write_job(tmp_path, relay, 300, message=message(tmp_path))
        done = bulkmail("send", "news.json", "--json", cwd=tmp_path)
        assert (done.returncode, json.loads(done.stdout)["delivered"]) == (0, 300), done.stderr
        contents = server.contents()
    assert len({message_from_bytes(one)["To"] for one in contents}) == 300
    assert all(verdicts(one, (RSA, ED)) == [True, True] for one in contents)


def test_a_shared_message_is_signed_once_for_all(tmp_path):
    with sink(tmp_path) as server:
        given = message(tmp_path, subject="Hello", text="Dear reader")
        write_job(tmp_path, f"smtp://127.0.0.1:{server.port}", 250, message=given)
        assert bulkmail("send", "news.json", cwd=tmp_path).returncode == 0
        contents = server.contents()
    assert len(contents) == 3 and len(set(contents)) == 1
    assert verdicts(contents[0], (RSA, ED)) == [True, True]


def test_a_ready_message_gets_its_signature_before_it(tmp_path):
    raw = b"From: news@example.com\r\nSubject: ready\r\n\r\n.\r\nas it  is \r\n\r\n\r\n"
    (tmp_path / "ready.eml").write_bytes(raw)
    with sink(tmp_path) as server:
        relay = f"smtp://127.0.0.1:{server.port}"
        write_job(tmp_path, relay, 2, message={"raw": "ready.eml", "dkim": keys(tmp_path)})
        done = bulkmail("send", "news.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (content,) = set(server.contents())
    assert content.endswith(raw) and content.startswith(b"DKIM-Signature: ")
    assert verdicts(content, (RSA, ED)) == [True, True]


def test_a_preview_and_a_test_are_signed_too(tmp_path):
    with sink(tmp_path) as server:
        write_job(tmp_path, f"smtp://127.0.0.1:{server.port}", 2, message=message(tmp_path))
        assert bulkmail("preview", "news.json", "--out", "p", cwd=tmp_path).returncode == 0
        assert bulkmail("send", "news.json", "--test-to", "me@example.com", cwd=tmp_path).returncode == 0
        (content,) = server.contents()
    assert verdicts((tmp_path / "p" / "000001.eml").read_bytes(), (RSA, ED)) == [True, True]
    assert verdicts(content, (RSA, ED)) == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_run_that_ends_while_it_signs_is_resumed_and_leaves_no_process(tmp_path, number):
    recipients = 3000
    with sink(tmp_path, "--max-recipients", "100") as server:
        relay = f"smtp://127.0.0.1:{server.port}?connections=4"
        write_job(tmp_path, relay, recipients, message=message(tmp_path, dkim=keys(tmp_path)[1:]))
        process = start("send", "news.json", "--events", "-", cwd=tmp_path)
        for line in process.stdout:
            if json.loads(line)["event"] == "delivered":
                break
        workers = children(process.pid)
        process.send_signal(number)
        process.communicate(timeout=60)
        done = bulkmail("send", "news.json", "--resume", "--in-doubt", "resend", "--json", cwd=tmp_path)
        assert done.returncode in (0, 1), done.stderr
        assert json.loads(done.stdout)["delivered"] == recipients
        contents = server.contents()
    copies = {message_from_bytes(one)["Message-ID"] for one in contents}
    assert len(copies) == recipients
    assert len(contents) == recipients or number == signal.SIGKILL
    assert all(one.startswith(b"DKIM-Signature: ") for one in contents)
    assert workers and not any(Path(f"/proc/{worker}").exists() and alive(worker) for worker in workers)


def children(pid: int) -> list[int]:
    """Of all its threads: the signers are started beside the event loop."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_signer_that_is_killed_is_replaced(tmp_path):
    with sink(tmp_path) as server:
        relay = f"smtp://127.0.0.1:{server.port}?connections=4"
        write_job(tmp_path, relay, 2000, message=message(tmp_path, dkim=keys(tmp_path)[1:]))
        process = start("send", "news.json", "--events", "-", cwd=tmp_path)
        told = killed = 0
        for line in process.stdout:
            told += json.loads(line)["event"] == "delivered"
            if told in (1, 300):
                for worker in children(process.pid):
                    os.kill(worker, signal.SIGKILL)
                    killed += 1
        process.communicate(timeout=60)
        assert process.returncode == 0 and killed
        contents = server.contents()
    assert len(contents) == len({message_from_bytes(one)["To"] for one in contents}) == 2000
    assert all(one.startswith(b"DKIM-Signature: ") for one in contents)
