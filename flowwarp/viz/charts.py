"""Line charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 28, 24  # margins for the labels
_LOG = 10  # greatest by least value from which the axis is logarithmic


def line_chart(title: str, points: Sequence[tuple[float, float]], below: str = "step") -> str:
    """Draw a line through points.

    The axis of y is logarithmic if all values are positive and the greatest is ten times the least:
    losses fall fast at first.

    Args:
        title: above the chart; it is escaped.
        points: (x, y) in the order of x, at least one, all finite.
        below: name of the axis of x.

    Returns:
        An SVG element, which stands in HTML as it is.
    """
    xs, ys = zip(*points, strict=True)
    log = min(ys) > 0 and max(ys) >= _LOG * min(ys)
    heights = [math.log(y) for y in ys] if log else list(ys)
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(heights), max(heights))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> str:
        across = _LEFT + (right - _LEFT) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)
        down = bottom - (bottom - _TOP) * ((y - y0) / (y1 - y0) if y1 > y0 else 0.5)
        return f"{across:.1f},{down:.1f}"

    places = [place(x, y) for x, y in zip(xs, heights, strict=True)]
    end_x, end_y = places[-1].split(",")
    scale = ", logarithmic" if log else ""
    texts = [
        (_LEFT, 16, "start", f"{title}: {ys[-1]:.4g}{scale}"),
        (_LEFT - 6, bottom, "end", f"{min(ys):.3g}"),
        (_LEFT, _HEIGHT - 8, "start", f"{below} {x0:g}"),
        (right, _HEIGHT - 8, "end", f"{x1:g}"),
    ]
    if y1 > y0:
        texts.append((_LEFT - 6, _TOP + 8, "end", f"{max(ys):.3g}"))
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, y, anchor, text in texts
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#999"/>'
        f'<polyline points="{" ".join(places)}" fill="none" stroke="#1668b0" stroke-width="1.5"/>'
        f'<circle cx="{end_x}" cy="{end_y}" r="3" fill="#1668b0"/>{labels}</svg>'
    )
