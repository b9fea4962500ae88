"""What a comparison of samplers leaves behind: rows, as a table and as a plot of quality against network calls."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields

from fromnoise.task.likelihood_plots import table


@dataclass(frozen=True)
class Row:
    """One sampler with one number of steps. ``to_flow`` is ``None`` for samplers that add noise."""

    sampler: str
    steps: int
    nfe: int
    frechet: float
    to_flow: float | None
    seconds: float


def rows_table(rows: Sequence[Row]) -> bytes:
    """All of them as CSV with a header."""
    return table({field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)})


def plot(rows: Sequence[Row], reference: Row, within: float) -> bytes:
    """A line a sampler, in PNG; ``reference`` is a line across, and so is ``within`` times its distance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marks = "osD^vP*X<>hd"
    for k, name in enumerate(dict.fromkeys(row.sampler for row in rows)):
        line = sorted((row.nfe, row.frechet) for row in rows if row.sampler == name and row is not reference)
        axes.plot(
            [nfe for nfe, _ in line],
            [frechet for _, frechet in line],
            marker=marks[k % len(marks)],
            linewidth=1.2,
            markersize=4,
            color=f"C{k % 10}",
            label=name,
        )
    axes.axhline(reference.frechet, color="black", linewidth=1, label=f"{reference.sampler}, {reference.steps} steps")
    share = f"within {within - 1:.0%}".replace("%", " %")
    axes.axhline(within * reference.frechet, color="black", linewidth=0.8, linestyle=":", label=share)
    axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Fréchet distance (lower is better)")
    plain, (low, high) = FuncFormatter(lambda value, _: f"{value:g}"), axes.get_ylim()
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
