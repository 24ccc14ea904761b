"""What a message may cost, in counts. docs/counts.md says how to read a failure, and how to lower a bound.

A figure is what was measured; the tests allow what the margins below add to it. Figures are of CPython 3.11 on x86-64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Pieces are the same at each run, but for a batch that is cut otherwise.
PIECE_ALLOCATIONS = 0.1
# What a whole run does a batch, and not a message, depends on how fast the server is.
WHOLE_ALLOCATIONS = 1.2
# Builds of Python differ (one without PGO needs more), and so do the vector instructions that libc finds.
INSTRUCTIONS = 1.25


class Cost(NamedTuple):
    """allocations   calls of Python's allocators (counter.c says which); instructions: None is not measured"""

    allocations: float
    instructions: int | None


PIECES = {
    # the Reply and its bytes
    "replies": Cost(2.0, 570),
    # the same of the verdict; the envelope's commands; the room of a list, of what is to be written
    "client, DATA": Cost(4.0, 4340),
    # beside that views of the body, without its dot
    "client, BDAT": Cost(7.7, 6330),
    # a message to 100, and nothing for each of them
    "client, shared": Cost(4.0, 36000),
    # nothing that the client alone does not need; and the number of bytes that this piece's server read
    "stream": Cost(5.0, 10130),
    # the client's four; the rest is the transport's: its calls, and one piece out of two
    "session": Cost(10.0, 9730),
    # the reply
    "server": Cost(1.0, 10040),
    # address, number and offset
    "rows checked": Cost(3.0, 1710),
    # nothing: a number and an offset in a chunk
    "rows cut": Cost(0.0, 1090),
    # the address; a position
    "addresses": Cost(2.25, 1440),
    # the row's bytes; its dict with its table; three names and values
    "rows read": Cost(7.0, 4740),
    # recipient, content
    "compose, 2 KB": Cost(2.2, 7460),
    "compose, 20 KB": Cost(3.2, 27600),
    # the list of recipients, a position; the Transaction comes out of the free list
    "envelopes": Cost(2.5, 1485),
    # nothing a message; the records of a commit
    "settle": Cost(0.07, 420),
    "details": Cost(0.07, 1470),
    # nothing a message; the rows of a commit
    "advance": Cost(0.77, 3000),
}

WHOLES = {
    "send": Cost(18.5, 28500),
    "send, CHUNKING": Cost(20.0, None),
    "send, shared": Cost(2.3, 7600),
    "bench": Cost(5.2, 9000),
    "bench, CHUNKING": Cost(7.8, None),
    "send_many": Cost(12.5, 14000),
    "singles": Cost(32.0, None),
}


class Calls(NamedTuple):
    """System calls a message, at most.

    sends, reads   do not depend on the pace where one message waits for the other
    waits          for the network: one brings what all connections have; by how much, the pace decides
    locks          the loop, the journal's thread and the GIL
    files          the journal
    other          nothing that each message needs
    total          all of them
    """

    sends: float
    reads: float
    waits: float
    locks: float
    files: float
    other: float
    total: float


CALLS = {
    "send": Calls(1.08, 1.08, 0.5, 0.8, 0.5, 0.05, 3.2),
    "send, CHUNKING": Calls(0.2, 0.2, 0.1, 0.15, 0.15, 0.05, 0.5),
    "send, shared": Calls(0.025, 0.03, 0.015, 0.04, 0.03, 0.01, 0.11),
    "bench": Calls(1.03, 1.03, 0.4, 0.1, 0.0, 0.02, 2.4),
    "bench, CHUNKING": Calls(0.11, 0.11, 0.05, 0.1, 0.0, 0.02, 0.25),
    # the loop asks for its process (getpid) at each task that it runs
    "send_many": Calls(1.1, 1.05, 0.5, 0.1, 0.0, 0.1, 2.7),
    "singles": Calls(1.6, 1.1, 0.5, 0.1, 0.0, 1.2, 4.2),
}

# The kernel has several of each kind; which one is called depends on libuv, libc and the machine.
KINDS = {
    "sends": {"sendmsg", "sendto", "send", "writev"},
    "reads": {"read", "readv", "recvfrom", "recvmsg"},
    "waits": {
        "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "io_uring_enter",
        "epoll_ctl", "timerfd_settime",
    },
    "locks": {"futex", "futex_wait", "futex_waitv"},
    "files": {
        "pwrite64", "pread64", "fcntl", "lseek", "newfstatat", "fstat", "stat", "statx", "fsync", "fdatasync",
        "openat", "close", "unlink", "access", "faccessat2", "ftruncate",
    },
}  # fmt: skip


def by_kind(calls: Mapping[str, float]) -> Calls:
    """The calls a message in the columns of CALLS."""
    kind_of = {call: kind for kind, names in KINDS.items() for call in names}
    sums = dict.fromkeys(Calls._fields, 0.0)
    for call, count in calls.items():
        sums[kind_of.get(call, "other")] += count
    sums["total"] = sum(calls.values())
    return Calls(**sums)
