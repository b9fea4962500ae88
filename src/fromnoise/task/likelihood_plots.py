"""What a measurement of likelihood leaves behind: tables, and plots of the terms and of rate against distortion."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fromnoise.likelihood import Profile, RatePoint

_DARK, _LIGHT = "#1f4e79", "#9bb8d3"


def table(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Columns of equal length as CSV with a header; floats with six digits, ``None`` left empty."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return content.getvalue().encode()


def rate_table(points: Sequence[RatePoint]) -> bytes:
    """The columns of the paper's table 4, one row a point: reverse steps done, bits/dim so far, RMSE on 0 … 255."""
    return table(
        {
            "reverse_steps": [f"{point.steps:g}" for point in points],
            "rate_bits_per_dim": [point.rate for point in points],
            "distortion_rmse": [point.rmse for point in points],
        }
    )


def plot_terms(profile: Profile, title: str) -> bytes:
    """Bits per dimension of one step against its time, both logarithmic; the last step's decoder term apart. PNG."""
    figure, (axes,) = _figure(1)
    (*t, last), (*bits, decoder) = profile.t, profile.bits
    marker = "o" if any(len(rungs) > 1 for rungs in profile.rungs) else ""
    axes.plot(t, bits, color=_DARK, linewidth=1.2, marker=marker, markersize=3, label="KL terms")
    axes.plot([last], [decoder], "s", color="#b5532a", markersize=5, label="decoder term")
    axes.set(xscale="log", yscale="log", xlabel="time t", ylabel="bits per dimension of one step", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return _png(figure)


def plot_rate(points: Sequence[RatePoint]) -> bytes:
    """Distortion and rate against steps done, and each against the other: the paper's figure 5. PNG."""
    steps = [point.steps for point in points]
    rate, rmse = [point.rate for point in points], [point.rmse for point in points]
    figure, panels = _figure(3)
    panels[0].plot(steps, rmse, color=_DARK)
    panels[0].set(xlabel="reverse steps done", ylabel="distortion (RMSE, 0 … 255)")
    panels[1].plot(steps, rate, color=_DARK)
    panels[1].set(xlabel="reverse steps done", ylabel="rate (bits per dimension)")
    panels[2].plot(rate, rmse, color=_LIGHT, linewidth=1)
    panels[2].plot(rate, rmse, ".", color=_DARK, markersize=3)
    panels[2].set(xlabel="rate (bits per dimension)", ylabel="distortion (RMSE, 0 … 255)")
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return _png(figure)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4) if panels == 1 else (4 * panels, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, panels, k + 1) for k in range(panels)]


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)
