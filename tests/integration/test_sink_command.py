"""`bulkmail sink` as a command: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import re
import signal
import smtplib
import socket
import urllib.request
from pathlib import Path

import pytest

from integration.cli_program import bulkmail, refused, start
from integration.servers.common import STOP_SECONDS
from integration.sink_program import read_ports, sink


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_counts_at_the_end(number: signal.Signals, tmp_path: Path) -> None:
    process = start("sink", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", cwd=tmp_path)
    ports = read_ports(process, 2)
    assert ports[0] != ports[1]
    for port in ports:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            client.sendmail("a@example.com", ["b@example.com"], b"x\r\n")
    process.send_signal(number)
    out, err = process.communicate(timeout=STOP_SECONDS)
    assert (out, err) == ("connections 2, messages 2, recipients 2, bytes 6, refused 0\n", "")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_log_has_each_connections_id(tmp_path: Path) -> None:
    process = start("sink", "--listen", "127.0.0.1:0", "--discard", "--log-level", "info", cwd=tmp_path)
    (port,) = read_ports(process, 1)
    with smtplib.SMTP(timeout=20) as client:
        ident = client.connect("127.0.0.1", port)[1].split()[-1].decode()
        client.sendmail("a@example.com", ["b@example.com"], b"x\r\n")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=STOP_SECONDS)
    begun, taken, ended = err.splitlines()
    assert f" INFO bulkmail.sink {ident}: connected from 127.0.0.1:" in begun
    assert taken.endswith(f"{ident}: message {ident}.1 from <a@example.com> to 1 recipient taken, 3 bytes")
    assert f"{ident}: disconnected after " in ended


def test_a_client_still_there_is_told(tmp_path: Path) -> None:
    with sink(tmp_path, store=False) as server, smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.noop()
        assert server.end()["connections"] == 1
        assert client.getreply() == (421, b"4.3.2 Server shutting down")
        client.close()


@pytest.mark.parametrize("arguments, words", [
    (["--tls-cert", "no.pem"], ["no.pem", "No such file or directory"]),
    (["--tls-implicit"], ["tls_cert"]),
    (["--auth", "nocolon"], ["USER:PASSWORD"]),
    (["--without", "PIPELINE"], ["PIPELINE", "did you mean 'PIPELINING'?"]),
    (["--web", "127.0.0.1:0", "--discard"], ["'web'", "'discard'", "exclude each other"]),
    (["--web", "127.0.0.1:x"], ["127.0.0.1:x", "HOST:PORT"]),
    (["--store", "x", "--discard"], ["exclude each other"]),
    (["--listen", "nonsense"], ["nonsense", "HOST:PORT"]),
    (["--max-size", "-1"], ["--max-size"]),
    (["--proxy-from", "relay.example"], ["'proxy_from'", "'relay.example'", "expected an address, a network"]),
    (["--deny", "*", "--deny", "10.0.0.0/33"], ["'deny'", "'10.0.0.0/33'"]),
    (["--ignore", ""], ["'ignore'", "''"]),
    (["--connections-per-minute", "0"], ["--connections-per-minute"]),
    (["--connections-per-address", "x"], ["--connections-per-address"]),
    (["--store", "/dev/null/x"], ["/dev/null/x", "Not a directory"]),
])  # fmt: skip
def test_what_cannot_be_served(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = bulkmail("sink", "--listen=127.0.0.1:0", *arguments, cwd=tmp_path)
    refused(done, *words)
    assert len(done.stderr.splitlines()) == 1
    assert "nocolon" not in done.stderr  # it may be a password


def test_who_is_let_in(tmp_path: Path) -> None:
    options = ["--proxy-from", "127.0.0.1", "--deny", "192.0.2.0/24", "--deny", "2001:db8::1", "--ignore", "192.0.3.1"]
    options += ["--connections-per-minute", "1", "--connections-per-address", "1"]
    with sink(tmp_path, *options, store=False) as server:
        for address, code in [("192.0.2.9", 554), ("192.0.3.1", 220), ("192.0.4.1", 220), ("192.0.4.1", 421)]:
            with socket.create_connection(("127.0.0.1", server.port), 20) as client:
                client.sendall(f"PROXY TCP4 {address} 192.0.2.25 40000 25\r\n".encode())
                assert client.makefile().read(3) == str(code)
        assert server.end() == {"connections": 3, "messages": 0, "recipients": 0, "bytes": 0, "refused": 2}


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(bulkmail("sink", "--listen", place, cwd=tmp_path), place, "Address already in use")


@pytest.mark.parametrize("keep", [[], ["--store", "box"]])
def test_the_web_page_is_told_behind_the_listeners(keep: list[str], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the extra bulkmail[web] is not installed")
    process = start("sink", "--listen=127.0.0.1:0", "--web=127.0.0.1:0", *keep, "--json", cwd=tmp_path)
    (port,) = read_ports(process, 1)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"web page on (http://127\.0\.0\.1:\d+/)\n", line)
    assert found, line
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.sendmail("a@example.com", ["b@example.com"], b"Subject: seen\r\n\r\nx\r\n")
    with urllib.request.urlopen(f"{found[1]}api/messages", timeout=20) as response:
        assert [message["subject"] for message in json.load(response)["messages"]] == ["seen"]
    process.terminate()
    out, err = process.communicate(timeout=STOP_SECONDS)
    assert (json.loads(out)["messages"], err, process.returncode) == (1, "", 0)


def test_it_speaks_lmtp(tmp_path: Path) -> None:
    with sink(tmp_path, "--lmtp") as server, smtplib.LMTP("127.0.0.1", server.port, timeout=20) as client:
        code, text = client.ehlo("me")  # which says LHLO, in this class
        assert code == 250 and b"PIPELINING" in text
        assert client.docmd("EHLO", "me")[0] == 500


def begin_message(port: int) -> smtplib.SMTP:
    """A client in the middle of a message."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=20)
    client.ehlo("me")
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    assert client.docmd("DATA")[0] == 354
    client.send(b"half ")
    return client


def test_a_message_under_way_is_finished_and_counted(tmp_path: Path) -> None:
    with sink(tmp_path, "--grace", "60") as server:
        client, idle = begin_message(server.port), smtplib.SMTP("127.0.0.1", server.port, timeout=20)
        server.process.terminate()
        assert idle.getreply() == (421, b"4.3.2 Server shutting down")  # so it has heard the signal
        client.send(b"a message\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply() == (421, b"4.3.2 Server shutting down")
        client.close()
        idle.close()
        out, err = server.process.communicate(timeout=STOP_SECONDS)
        assert (server.process.returncode, err) == (0, "")
        assert json.loads(out.splitlines()[-1]) == {
            "connections": 2, "messages": 1, "recipients": 1, "bytes": 16, "refused": 0,
        }  # fmt: skip
        assert server.contents() == [b"half a message\r\n"]


def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    with sink(tmp_path, "--grace", "3600") as server:
        client, idle = begin_message(server.port), smtplib.SMTP("127.0.0.1", server.port, timeout=20)
        server.process.terminate()
        assert idle.getreply()[0] == 421
        server.process.send_signal(signal.SIGINT)
        assert client.getreply() == (421, b"4.3.2 Server shutting down")
        client.close()
        idle.close()
        out, err = server.process.communicate(timeout=STOP_SECONDS)
        assert (server.process.returncode, err) == (0, "")
        assert json.loads(out.splitlines()[-1])["messages"] == 0
