"""Pictures of a review, as PNG files that read well on light and dark pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT, DPI = 7.2, 2.7, 110  # inches, and dots in one
PAPER, INK, QUIET, LINE, ALARM = "#ffffff", "#1f2430", "#8a8f9c", "#2457a6", "#b3261e"


class Point(NamedTuple):
    """A measured share with its interval, at a place on the other axis."""

    at: str
    value: float | None
    low: float
    high: float


def over_time(points: Sequence[Point], title: str, target: float | None = None) -> bytes:
    """A share by week with its interval as a band, and the target as a dashed line."""
    figure, axes = _figure(title)
    shown = [(place, one) for place, one in enumerate(points) if one.value is not None]
    places = [place for place, _ in shown]
    axes.fill_between(places, [one.low for _, one in shown], [one.high for _, one in shown], color=LINE, alpha=0.18)
    axes.plot(places, [one.value for _, one in shown], color=LINE, marker="o", markersize=3.5, linewidth=1.6)
    if target is not None:
        axes.axhline(target, color=ALARM, linestyle="--", linewidth=1)
        axes.annotate(f"target {target:.0%}", (0, target), color=ALARM, fontsize=8, va="bottom")
    _label(axes, [one.at for one in points])
    highest = max([one.high for _, one in shown] + [target or 0.0], default=1.0)
    axes.set_ylim(0, min(1.02, 1.15 * highest + 0.01))
    _percent(axes)
    return _png(figure)


def reliability(points: Sequence[Point], title: str) -> bytes:
    """How often a conclusion of some confidence was right; on the diagonal a confidence is what it says."""
    figure, axes = _figure(title, square=True)
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1)
    for one in points:
        if one.value is None:
            continue
        sure = float(one.at)
        axes.plot([sure, sure], [one.low, one.high], color=LINE, alpha=0.45, linewidth=3, solid_capstyle="butt")
        axes.plot([sure], [one.value], color=LINE, marker="o", markersize=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence", color=INK, fontsize=8)
    axes.set_ylabel("right", color=INK, fontsize=8)
    return _png(figure)


def bars(values: Sequence[tuple[str, float]], title: str, unit: str) -> bytes:
    """An amount by week."""
    figure, axes = _figure(title)
    axes.bar(range(len(values)), [amount for _, amount in values], color=LINE, width=0.6)
    _label(axes, [name for name, _ in values])
    axes.set_ylabel(unit, color=INK, fontsize=8)
    return _png(figure)


def inline(picture: bytes, alt: str) -> str:
    """A picture as Markdown that needs no file."""
    return f"![{alt}]({uri(picture)})"


def uri(picture: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _figure(title: str, square: bool = False) -> tuple[Any, Any]:
    """A figure with one pair of axes; without pyplot, whose state all threads of a process share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (HEIGHT * 1.25, HEIGHT * 1.25) if square else (WIDTH, HEIGHT)
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="y", color=QUIET, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    target = io.BytesIO()
    # Without the version of the program in the file, equal figures are equal bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _label(axes: Any, names: Sequence[str]) -> None:
    step = max(1, len(names) // 9)
    axes.set_xticks(range(0, len(names), step), names[::step])


def _percent(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
