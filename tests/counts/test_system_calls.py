"""No message costs more system calls than it did: by PIPELINING a send and a read, by CHUNKING a part of one."""

from __future__ import annotations

import sys

import pytest

from counts import bounds, measuring

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is for Linux")


@pytest.fixture(scope="module")
def wholes(folder, sinks):
    return measuring.system_calls([*bounds.CALLS, "a call for each"], folder, **sinks)


@pytest.mark.parametrize("kind", bounds.Calls._fields)
@pytest.mark.parametrize("name", bounds.CALLS)
def test_a_message_needs_no_more_system_calls(name, kind, wholes):
    found, most = getattr(bounds.by_kind(wholes[name]), kind), getattr(bounds.CALLS[name], kind)
    told = {call: round(count, 3) for call, count in sorted(wholes[name].items()) if count >= 0.001}
    assert found <= most + 1e-9, f"system calls a message: {told}"


def test_a_call_for_each_message_is_seen(wholes):
    assert wholes["a call for each"]["getppid"] == 1


def test_calls_that_another_thread_interrupts_are_counted_once(tmp_path):
    log = tmp_path / "strace.log"
    log.write_text(
        'read(3, "before", 6) = 6\n'
        '7  write(-1, "start send: few", 15)  = -1 EBADF (Bad file descriptor)\n'
        "7  futex(0x7f, FUTEX_WAIT <unfinished ...>\n"
        "8  sendmsg(3, {msg_name=NULL}, MSG_NOSIGNAL) = 5\n"
        "7  <... futex resumed>) = 0\n"
        "--- SIGTERM {si_signo=SIGTERM} ---\n"
        '7  write(-1, "stop send: few", 14) = -1 EBADF (Bad file descriptor)\n'
        '7  read(3, "after", 5) = 5\n'
    )
    assert measuring.read_trace(log) == {"send: few": {"futex": 1, "sendmsg": 1}}
