"""What this process has used: CPU time and memory."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

MEGABYTE = 1 << 20


def cpu_seconds() -> float:
    """User and system time of all threads."""
    return time.process_time()


def peak_memory_mb() -> float | None:
    """The most memory that was resident, in MiB; None where nobody says (Windows)."""
    # Linux: ru_maxrss of a child begins at the size of the process that started it
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MEGABYTE
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MEGABYTE if sys.platform == "darwin" else most * 1024 / MEGABYTE
