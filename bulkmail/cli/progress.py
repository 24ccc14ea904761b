"""The progress bar of `send`: two lines on a terminal, redrawn from `job.progress()` by a thread."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from bulkmail.values import duration

from .output import rate, waiting_text
from .trouble import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_SECONDS = 0.2
WINDOW_SECONDS = 10.0  # the rate shown is that of the last so many seconds
SETTLED = ("delivered", "failed", "in_doubt", "suppressed")


class HasProgress(Protocol):
    def progress(self) -> dict[str, Any]: ...


class Pace:
    """The rate over the last WINDOW_SECONDS, and what remains at that rate. Time is a parameter."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, settled: int) -> None:
        self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def per_second(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (last - first)) if last > first else 0.0

    def seconds_left(self, remaining: int) -> float | None:
        """Seconds until `remaining` more are settled; None while nothing moves."""
        pace = self.per_second()
        return remaining / pace if pace else None


def settled(summary: dict[str, Any]) -> int:
    return sum(summary.get(state, 0) for state in SETTLED)


def pace_text(summary: dict[str, Any], pace: Pace) -> str:
    """ " 45%  1,234/s  3:05 left"."""
    total, done = summary.get("recipients", 0), settled(summary)
    share = f"{100 * done // total:>3}%" if total else "  -%"
    left = pace.seconds_left(max(0, total - done)) if total else None
    return f"{share}  {rate(pace.per_second())}  {duration(left) + ' left' if left is not None else '-- left'}"


def counts_text(summary: dict[str, Any]) -> str:
    """ "november-news: delivered 44,900 of 100,000, deferred 80, failed 20"; what is not known is left out."""
    text = f"{plain(summary.get('job', ''))}: delivered {summary.get('delivered', 0):,}"
    text += f" of {summary['recipients']:,}" if summary.get("recipients") else ""
    text += "".join(f", {state} {summary[state]:,}" for state in ("deferred", "failed") if state in summary)
    text += f", in doubt {summary['in_doubt']:,}" if summary.get("in_doubt") else ""
    return text + (f"; {waiting_text(summary['waiting'])}" if summary.get("waiting") else "")


@contextlib.contextmanager
def shown(job: HasProgress, wanted: bool) -> Iterator[None]:
    """Show the progress of `job` while the body runs, if `wanted` and standard error is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_redraw, args=(job, ended), name="bulkmail-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def show_cursor() -> None:
    """Undo what the bar did to the terminal; for leaving without unwinding."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")


def _redraw(job: HasProgress, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live

    pace = Pace()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while not ended.wait(REFRESH_SECONDS):
            summary = job.progress()
            if summary:
                pace.note(time.monotonic(), settled(summary))
                live.update(_view(summary, pace), refresh=True)


def _view(summary: dict[str, Any], pace: Pace) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = summary.get("recipients", 0)
    bar = ProgressBar(total=total or None, completed=settled(summary), pulse=not total)
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(bar, Text(pace_text(summary, pace)))
    return Group(line, Text(counts_text(summary), no_wrap=True, overflow="ellipsis"))
