"""`bulkmail sink --fault`: the flags reach the wire, repeat themselves, and are refused where they make no sense."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest

from integration.cli_program import bulkmail, refused
from integration.sink_program import sink


def codes(port: int, events: int) -> list[int]:
    """The replies to so many RCPTs."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("me")
        client.mail("a@example.com")
        return [client.rcpt(f"r{n}@example.com")[0] for n in range(events)]


def test_the_same_seed_gives_the_same_replies_and_another_does_not(tmp_path: Path) -> None:
    got = []
    for number, seed in enumerate(("5", "5", "6")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with sink(folder, "--fault", "rcpt:451 4.7.1 Try later@30%", "--seed", seed, store=False) as server:
            got.append(codes(server.port, 60))
            assert server.end()["refused"] == got[-1].count(451)
    assert got[0] == got[1] != got[2]
    assert {250, 451} == set(got[0])


def test_several_rules_and_what_the_store_has(tmp_path: Path) -> None:
    rules = ["--fault", "rcpt:550 5.1.1 No@R1@*", "--fault", "quit:drop", "--fault", "body:452 4.3.1 Full@1/2"]
    with sink(tmp_path, *rules) as server:
        client = smtplib.SMTP("127.0.0.1", server.port, timeout=20)
        assert client.sendmail("a@example.com", ["r1@x", "r2@x"], b"one\r\n") == {"r1@x": (550, b"5.1.1 No")}
        with pytest.raises(smtplib.SMTPDataError, match="Full"):
            client.sendmail("a@example.com", ["r2@x"], b"two\r\n")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.quit()
        assert server.end()["messages"] == 1
        assert server.contents() == [b"one\r\n"]
        assert server.envelopes()[0]["to"] == ["r2@x"]


def test_a_client_that_hangs_does_not_keep_the_sink_from_ending(tmp_path: Path) -> None:
    with sink(tmp_path, "--fault", "mail:hang") as server:
        client = smtplib.SMTP("127.0.0.1", server.port, timeout=20)
        client.ehlo("me")
        client.putcmd("MAIL", "FROM:<a@example.com>")
        assert server.end()["connections"] == 1  # its STOP_SECONDS are not waited for: end() has no more than those
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.getreply()


@pytest.mark.parametrize("rule, words", [
    ("rctp:drop", ["'rctp:drop'", "did you mean 'rcpt'?"]),
    ("rcpt:250 Ok", ["answers 250", "400 to 599"]),
    ("rcpt:drop@slow.test", ["'slow.test'", "'*@slow.test'"]),
])  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(rule: str, words: list[str], tmp_path: Path) -> None:
    done = bulkmail("sink", "--listen=127.0.0.1:0", "--fault", rule, cwd=tmp_path)
    refused(done, *words)
    assert len(done.stderr.splitlines()) == 1


def test_a_seed_alone_does_no_harm(tmp_path: Path) -> None:
    with sink(tmp_path, "--seed", "7", store=False) as server:
        assert codes(server.port, 3) == [250] * 3
