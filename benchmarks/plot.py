"""A small chart as SVG: lines over time, areas behind them, a legend. It reads in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 860, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 34, 34
STYLE = """text{font:12px sans-serif;fill:#333}.t{font-size:14px;font-weight:bold}.g{stroke:#8884;stroke-width:1}
@media(prefers-color-scheme:dark){text{fill:#ccc}}"""

Points = Sequence[tuple[float, float]]


@dataclass
class Chart:
    """x and y run from 0 to these; ticks: (value, label)."""

    title: str
    x: float
    y: float
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: list[tuple[str, str, Points, bool]] = field(default_factory=list)
    areas: list[tuple[float, float, str]] = field(default_factory=list)

    def line(self, name: str, colour: str, points: Points, *, dashed: bool = False) -> None:
        self.lines.append((name, colour, points, dashed))

    def area(self, begin: float, end: float, colour: str) -> None:
        self.areas.append((begin, end, colour))

    def svg(self) -> str:
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>",
            f'<text class="t" x="{LEFT}" y="16">{escape(self.title)}</text>',
        ]
        for begin, end, colour in self.areas:
            left = self._x(begin)
            size = f'width="{self._x(end) - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
            parts.append(f'<rect x="{left:.1f}" y="{TOP}" {size} fill="{colour}"/>')
        for value, label in self.y_ticks:
            high = self._y(value)
            parts.append(f'<path class="g" d="M{LEFT} {high:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{high + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for value, label in self.x_ticks:
            parts.append(
                f'<text x="{self._x(value):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(label)}</text>'
            )
        for name, colour, points, dashed in self.lines:
            path = "M" + "L".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in points)
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}>')
            parts.append(f"<title>{escape(name)}</title></path>")
        parts += self._legend()
        return "\n".join([*parts, "</svg>", ""])

    def _legend(self) -> list[str]:
        parts, left = [], LEFT
        for name, colour, _, dashed in self.lines:
            if not name:
                continue
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            parts.append(f'<path d="M{left} 26h18" stroke="{colour}" stroke-width="2"{dash}/>')
            parts.append(f'<text x="{left + 22}" y="30">{escape(name)}</text>')
            left += 36 + 7 * len(name)
        return parts

    def _x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(value / self.x, 0.0), 1.0)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value / self.y, 0.0), 1.0)


def per_minute(times: Sequence[float], seconds: float, bucket: float = 60.0) -> Points:
    """How many a minute, as steps of `bucket` seconds."""
    counts = [0] * (int(seconds / bucket) + 1)
    for time in times:
        if 0 <= time < seconds:
            counts[int(time / bucket)] += 1
    steps: list[tuple[float, float]] = []
    for place, count in enumerate(counts):
        value = count * 60.0 / bucket
        steps += [(place * bucket, value), ((place + 1) * bucket, value)]
    return steps
