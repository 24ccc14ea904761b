"""Charts as SVG text: numbers in, markup out. Colours come from the page's classes, so that it can be dark or printed.

Every chart is an image with a name for those who do not see it; the page has the same numbers as a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 960, 260  # of the chart over time, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 10, 28  # for the scales
BAR = 1000  # the length of a bar that stands for everything
MIN_SHARE = 2  # of BAR: what is not nothing is seen
TICKS = 4
TIME_LABELS = 6
LABEL_WIDTH = 60  # half of one, which must not leave the chart

Series = Sequence[tuple[str, Sequence[int]]]  # (class, numbers) from the bottom up


def share_bar(parts: Sequence[tuple[str, int]], label: str, whole: int | None = None, height: int = 28) -> Markup:
    """One bar: (class, number) side by side. whole: what its full length stands for; their sum if not given."""
    total = whole or sum(count for _, count in parts)
    shapes, x = [], 0.0
    for name, count in parts:
        if count:
            length = max(MIN_SHARE, BAR * count / total)
            shapes.append(_rect(name, x, 0, length, height, f"{name.replace('_', ' ')}: {count:,}"))
            x += length
    return _svg("bar", max(BAR, math.ceil(x)), height, label, shapes, stretch=True)


def columns(series: Series, labels: Sequence[str], titles: Sequence[str], label: str) -> Markup:
    """Stacked columns, one for each of `labels`, with scales. titles: what is said of a column when pointed at."""
    count = len(labels)
    sums = [sum(numbers[i] for _, numbers in series) for i in range(count)]
    step = nice_step(max(sums, default=0))
    top = step * max(1, math.ceil(max(sums, default=0) / step))
    inner = HEIGHT - TOP - BOTTOM
    slot = (WIDTH - LEFT - RIGHT) / max(count, 1)
    shapes = [_y_scale(value, TOP + inner * (1 - value / top)) for value in range(0, top + 1, step)]
    for i in range(count):
        y = float(TOP + inner)
        for name, numbers in series:
            if numbers[i]:
                height = inner * numbers[i] / top
                y -= height
                title = f"{titles[i]}, {name.replace('_', ' ')}: {numbers[i]:,}"
                shapes.append(_rect(name, LEFT + i * slot + slot * 0.08, y, slot * 0.84, height, title))
    every = max(1, math.ceil(count / TIME_LABELS))
    shapes += [_x_label(labels[i], LEFT + (i + 0.5) * slot) for i in range(0, count, every)]
    return _svg("columns", WIDTH, HEIGHT, label, shapes)


def nice_step(largest: int) -> int:
    """The distance of the lines of a scale from 0: 1, 2 or 5 times a power of ten, for some TICKS lines."""
    rough = max(1.0, largest / TICKS)
    power = 10 ** math.floor(math.log10(rough))
    return int(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough))


def _rect(name: str, x: float, y: float, width: float, height: float, title: str) -> Markup:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return Markup('<rect class="{}" {}><title>{}</title></rect>').format(name, Markup(place), title)


def _y_scale(value: int, y: float) -> Markup:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return Markup(f'{line}<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>')


def _x_label(text: str, x: float) -> Markup:
    x = min(max(x, LEFT + LABEL_WIDTH / 2), WIDTH - RIGHT - LABEL_WIDTH)
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(f"{x:.1f}", HEIGHT - 8, text)


def _svg(kind: str, width: int, height: int, label: str, shapes: Sequence[Markup], stretch: bool = False) -> Markup:
    ratio = Markup(' preserveAspectRatio="none"') if stretch else Markup("")
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        kind, width, height, escape(label), ratio, Markup("").join(shapes)
    )
