"""Orders to a running job: what each does and answers, and that no client disturbs it, whatever it sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import stat
import struct
import sys
import tempfile
import threading

import pytest

from bulkmail.errors import ConfigError, JournalError
from bulkmail.job import control, control_socket
from bulkmail.job.changes import Change, parse_changes, words
from bulkmail.job.control import ControlServer, obey
from bulkmail.job.control_socket import ask, bind, control_path, remove
from bulkmail.job.journal_schema import APPLICATION_ID
from bulkmail.values import parse_rate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
SOON = 20.0


class FakeJob:
    def __init__(self):
        self.state, self.limits, self.calls = "running", {"rate": None}, []

    def pause(self):
        self.calls.append("pause")
        self.state = "paused"

    def resume(self):
        self.calls.append("resume")
        self.state = "running"

    def stop(self):
        self.calls.append("stop")
        self.state = "stopping"

    def reload(self):
        self.calls.append("reload")

    def set(self, limits):
        if "rat" in limits:
            raise ConfigError("there is no limit 'rat'")
        self.limits = dict(limits)

    def standing(self):
        return {"state": self.state, "limits": dict(self.limits)}

    def status(self):
        return {"job": "news"}


@pytest.fixture
def journal(tmp_path):
    """A file that looks like a journal to who asks for its run."""
    path = tmp_path / "news.journal"
    path.write_bytes(b"SQLite format 3\0".ljust(68, b"\0") + APPLICATION_ID.to_bytes(4, "big") + bytes(28))
    return path


@pytest.fixture
def served(journal):
    """served(use) runs `use(journal)` in a thread while a server answers on the loop; (job, what it returned)."""

    def served(use, job=None):
        job = job or FakeJob()

        async def main():
            server = ControlServer(job, journal)
            await server.start()
            try:
                return await asyncio.wait_for(asyncio.to_thread(use, journal), SOON)
            finally:
                await server.close()

        return job, asyncio.run(main())

    return served


# -- what is asked and answered


def test_an_order_is_followed_and_answered_with_before_and_after(served):
    job, answers = served(
        lambda journal: [
            ask(journal, request)
            for request in (
                {"do": "pause"}, {"do": "resume"}, {"do": "set", "limits": {"rate": "5/s"}}, {"do": "status"},
            )
        ]
    )  # fmt: skip
    assert answers[0] == {
        "before": {"state": "running", "limits": {"rate": None}},
        "after": {"state": "paused", "limits": {"rate": None}},
    }
    assert answers[2]["after"]["limits"] == {"rate": "5/s"}
    assert answers[3] == {"job": "news"}
    assert job.calls == ["pause", "resume"]


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ([], "an object with 'do'"),
        ({}, "pause, resume, stop, reload, set or status"),
        ({"do": "puase"}, "did you mean 'pause'"),
        ({"do": ["pause"]}, "'do' is ['pause']"),
        ({"do": "set"}, "'limits' is missing"),
        ({"do": "set", "limits": ["rate"]}, "'limits' is missing"),
        ({"do": "set", "limits": {"rat": "5/s"}}, "no limit 'rat'"),
    ],
)
def test_an_order_that_is_none_is_refused_in_words(request_, names):
    job = FakeJob()
    with pytest.raises(ConfigError) as caught:
        obey(job, request_)
    assert names in str(caught.value)
    assert job.calls == [] and job.limits == {"rate": None}


def test_a_bug_of_ours_is_an_answer_and_not_the_end_of_the_job(served):
    job = FakeJob()
    job.pause = lambda: 1 / 0

    def use(journal):
        with pytest.raises(ConfigError, match="ZeroDivisionError"):
            ask(journal, {"do": "pause"})
        return ask(journal, {"do": "resume"})

    assert served(use, job)[1]["after"]["state"] == "running"


# -- clients that do what they should not


def raw(journal, data, half_close=True):
    """What the server answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(str(control_path(journal)))
        got = b""
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                got += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
    return got


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"\0" * 1000, b"pause\n", b"{\n", b'{"do": "pause"', b"[" * 60000 + b"\n", b"\xff\xfe\n",
        b'{"do": "\\ud800"}\n', b'"' + b"x" * 100000 + b'"\n', b"1" * 50000 + b"\n",
        b'{"do": NaN}\n',
    ],
)  # fmt: skip
def test_bytes_that_are_no_order_are_an_error_to_who_sent_them_and_nothing_else(served, data):
    def use(journal):
        answer = raw(journal, data)
        assert answer == b"" or set(json.loads(answer)) == {"error"}
        return ask(journal, {"do": "pause"})

    job, answer = served(use)
    assert answer["after"]["state"] == "paused"
    assert job.calls == ["pause"]


def test_who_says_nothing_is_hung_up_on(served, monkeypatch):
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.1)
    assert served(lambda journal: raw(journal, b'{"do":', half_close=False))[1] == b""


def test_many_silent_clients_are_bounded_and_let_go(served, monkeypatch):
    monkeypatch.setattr(control, "MAX_CLIENTS", 3)
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.5)

    def use(journal):
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(10)]
        for sock in crowd:
            sock.settimeout(SOON)
            sock.connect(str(control_path(journal)))
        ends = []
        for sock in crowd:
            try:
                ends.append(sock.recv(10))
            except ConnectionResetError:
                ends.append(b"")
            sock.close()
        return ends, ask(journal, {"do": "pause"})

    ends, answer = served(use)[1]
    assert ends == [b""] * 10
    assert answer["after"]["state"] == "paused"


def test_who_leaves_before_the_answer_leaves_no_trace(served):
    def use(journal):
        for _ in range(10):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(control_path(journal)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.send(b'{"do": "status"}\n')
            sock.close()
        return ask(journal, {"do": "pause"})

    assert served(use)[1]["after"]["state"] == "paused"


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="this system does not tell who is at the other end")
def test_who_does_not_take_the_answer_is_hung_up_on(served, monkeypatch):
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.2)
    job = FakeJob()
    job.limits = {f"domain.d{n}.example.rate": "10/s" for n in range(200_000)}

    def use(journal):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(SOON)
            client.connect(os.fspath(control_path(journal)))
            client.sendall(b'{"do": "pause"}\n')
            ended = select.poll()
            ended.register(client, select.POLLHUP)
            assert ended.poll(SOON * 1000)
            received = 0
            with contextlib.suppress(ConnectionError):
                while piece := client.recv(1 << 16):
                    received += len(piece)
        return received

    _, received = served(use, job)
    assert received < len(json.dumps(job.limits))


def test_an_answer_may_be_longer_than_a_request(served):
    job = FakeJob()
    job.limits = {f"domain.d{n}.example.rate": "10/s" for n in range(5000)}
    _, answer = served(lambda journal: ask(journal, {"do": "pause"}), job)
    assert answer["after"] == {"state": "paused", "limits": job.limits}


def test_another_user_gives_no_orders(served, monkeypatch):
    monkeypatch.setattr(control_socket, "_peer_user", lambda sock: os.geteuid() + 1)
    job, answer = served(lambda journal: raw(journal, b'{"do": "pause"}\n'))
    assert answer == b"" and job.calls == []


def test_the_system_tells_who_is_at_the_other_end():
    one, other = socket.socketpair()
    with one, other:
        assert control_socket._peer_user(one) in (os.geteuid(), None)
        assert control_socket._peer_user(one) is not None or not hasattr(socket, "SO_PEERCRED")
        assert control_socket.may_steer(one)


# -- the socket


def test_nobody_else_may_connect_at_any_moment(journal, monkeypatch):
    seen = []
    real = socket.socket.bind

    class Watched(socket.socket):
        def bind(self, address):
            real(self, address)
            seen.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        bind(journal).close()
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert seen == [0o600]
    remove(journal)
    assert not control_path(journal).exists()


def test_what_a_killed_run_left_is_replaced(journal):
    bind(journal).close()  # and not removed
    assert control_path(journal).is_socket()
    with pytest.raises(JournalError, match="no run holds"):
        ask(journal, {"do": "pause"})
    bind(journal).close()
    remove(journal)
    assert os.listdir(journal.parent) == ["news.journal"]


@pytest.mark.parametrize("deep", [False, True], ids=["long name", "deep folder"])
def test_a_path_too_long_for_a_socket_works_all_the_same(tmp_path, journal, deep, monkeypatch):
    home = tmp_path / "t"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    folder = tmp_path.joinpath(*["folder" * 5] * 4) if deep else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    long = folder / ("news.journal" if deep else "n" * 150 + ".journal")
    journal.rename(long)
    job = FakeJob()

    async def main():
        server = ControlServer(job, long)
        await server.start()
        link = control_path(long)
        assert link.is_symlink()
        place = os.readlink(link)
        assert stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
        answer = await asyncio.to_thread(ask, long, {"do": "pause"})
        await server.close()
        assert not link.is_symlink() and not os.path.exists(os.path.dirname(place))
        return answer

    assert asyncio.run(main())["after"]["state"] == "paused"


def test_a_link_that_somebody_else_put_there_is_not_followed_when_it_is_taken_away(journal, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "socket").write_text("mine")
    control_path(journal).symlink_to(kept / "socket")
    remove(journal)
    assert (kept / "socket").read_text() == "mine"
    assert not control_path(journal).is_symlink()


def test_a_file_of_that_name_is_left_alone_and_the_job_runs_without_control(journal, caplog):
    control_path(journal).write_text("mine")

    async def main():
        server = ControlServer(FakeJob(), journal)
        await server.start()
        await server.close()

    asyncio.run(main())
    assert control_path(journal).read_text() == "mine"
    assert "cannot be steered" in caplog.text


def test_a_run_that_hangs_is_said_to(journal):
    sock = bind(journal)
    try:
        with pytest.raises(JournalError, match="does not answer"):
            ask(journal, {"do": "pause"}, seconds=0.1)
    finally:
        sock.close()
        remove(journal)


def test_a_run_that_ends_in_the_midst_of_an_order_is_said_to(journal):
    sock = bind(journal)
    sock.setblocking(True)

    def hang_up():
        client, _ = sock.accept()
        client.recv(1000)
        client.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        with pytest.raises(JournalError, match="has ended"):
            ask(journal, {"do": "pause"}, seconds=SOON)
    finally:
        thread.join()
        sock.close()
        remove(journal)


def test_what_is_no_journal_is_said_to_be_none(tmp_path):
    (tmp_path / "x").write_text("text")
    for name, words_ in (("x", "is not a bulkmail journal"), ("y", "there is no journal")):
        with pytest.raises(JournalError, match=words_):
            ask(tmp_path / name, {"do": "pause"})


# -- names and values of limits

KNOWN = {"relay": ["main", "mx.example.com"], "egress": ["a"], "domain": ["gmail.com", "*"]}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", "100/s", Change("rate", "job", "", "rate", parse_rate("100/s", ""))),
        ("rate", "none", Change("rate", "job", "", "rate", None)),
        ("connections", "20", Change("connections", "job", "", "connections", 20)),
        ("connections", 20, Change("connections", "job", "", "connections", 20)),
        ("connections", None, Change("connections", "job", "", "connections", None)),
        ("relay.mx.example.com.rate", "5/m",
         Change("relay.mx.example.com.rate", "relay", "mx.example.com", "rate", parse_rate("5/m", ""))),
        ("egress.a.connections", "3", Change("egress.a.connections", "egress", "a", "connections", 3)),
        ("domain.*.rate", "off", Change("domain.*.rate", "domain", "*", "rate", None)),
        ("domain.gmail.com.connections", "2",
         Change("domain.gmail.com.connections", "domain", "gmail.com", "connections", 2)),
    ],
)  # fmt: skip
def test_a_limit_by_name(name, value, expected):
    assert parse_changes({name: value}, KNOWN) == [expected]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rat", "5/s", "did you mean 'rate'"),
        ("relay.mian.rate", "5/s", "'main' or 'mx.example.com', did you mean 'main'"),
        ("relay.main", "5/s", "expected rate, connections, relay.NAME.rate"),
        ("relay.main.speed", "5/s", "there is no limit 'relay.main.speed'"),
        ("relay..rate", "5/s", "there is no limit"),
        ("", "5/s", "there is no limit ''"),
        ("rate", "5", "expected a rate such as"),
        ("rate", "", "expected a rate such as"),
        ("rate", "0/s", "nothing could ever be sent"),
        ("rate", True, "expected a rate such as"),
        ("relay.main.connections", "none", "expected a whole number"),
        ("connections", "0", "expected a whole number from 1"),
        ("connections", "1" * 5000, "expected a whole number from 1"),
        ("egress.b.rate", "1/s", "there is 'a'"),
    ],
)
def test_a_limit_that_there_is_not_is_told_with_those_that_there_are(name, value, said):
    with pytest.raises(ConfigError) as caught:
        parse_changes({"rate": "1/s", name: value}, KNOWN)
    assert said in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, None),
        (100.0, "100/s"),
        (2000 / 60, "2000/m"),
        (1 / 86400, "1/d"),
        (0.1 + 0.2, "18/m"),
        (1 / 7, "0.142857/s"),
    ],
)
def test_a_rate_in_words(rate, text):
    assert words(rate) == text
