"""Pictures of how training runs went, over pictures seen: one run or several, finished or at work."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.checkpoint import RunFolder
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.task.curves import Curve, Curves, curves_of

_RAW, _SMOOTH, _FLOOR = "#9bb8d3", "#1f4e79", "#777777"
_BANDS = 10
_LATE = 0.1
"""The share of a run's newest lines that the profile of its loss is the mean of."""


def plot_loss(run: Path, out: Path) -> Path:
    """Draw the loss alone as a PNG, on a logarithmic axis. Raises ``FromnoiseError`` if the run has no metrics yet."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    _loss(axes, [curves_of(RunFolder(run))])
    axes.set_title(f"Training loss of {run.name}")
    return _write(figure, out)


def plot_curves(runs: Sequence[Curves], out: Path) -> Path:
    """Draw everything that the runs have measured as a PNG at ``out``, a panel each; several runs lie over one another.

    Raises ``WrongUse`` if ``out`` is no name of a PNG, ``FromnoiseError`` if nothing was measured or the disk refuses.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        raise WrongUse(f"--out {out}: curves are written as a picture; end its name in .png")
    panels = [panel for panel, wanted in _PANELS if wanted(runs)]
    if not panels:
        raise FromnoiseError(f"{runs[0].name} has measured nothing yet, so there is no curve to draw")
    rows = -(-len(panels) // 2)
    figure = _figure(12, 3.2 * rows + 0.4)
    grid = figure.add_gridspec(rows, 2)
    for k, panel in enumerate(panels):
        alone = k == len(panels) - 1 and k % 2 == 0
        panel(figure.add_subplot(grid[k // 2, :] if alone else grid[k // 2, k % 2]), runs)
    figure.suptitle(runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    if len(runs) > 1:
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(4, len(runs)), frameon=False)
    return _write(figure, out)


def summary(curves: Curves) -> dict[str, Any]:
    """Where a run stands: the newest of each figure, the loss and the gradient as their running means."""

    def newest(curve: Curve) -> float | None:
        return float(curve.values[-1]) if len(curve.values) else None

    return {
        "images": curves.images,
        "loss": newest(curves.of("loss").smooth()),
        "grad_norm": newest(curves.of("grad_norm").smooth()),
        "images_per_second": newest(curves.of("images_per_second").smooth()),
        "lr": newest(curves.of("lr")),
        "drift": newest(curves.of("samples", "drift")),
        "score": newest(curves.of("score", "frechet")),
        "floor": newest(curves.of("score", "floor")),
    }


def _loss(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "loss")
    axes.set(ylabel="loss", yscale="log")
    _plain_numbers(axes)
    if len(runs) == 1:
        axes.legend(frameon=False)


def _gradient(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "grad_norm")
    axes.set(ylabel="norm of the gradient", yscale="log")
    _plain_numbers(axes)


def _speed(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "images_per_second")
    axes.set(ylabel="pictures a second", ylim=(0, None))


def _rate(axes: Any, runs: Sequence[Curves]) -> None:
    for k, curves in enumerate(runs):
        curve = curves.of("lr")
        axes.plot(curve.images, curve.values, color=_colour(k, runs), label=curves.name)
    _over_images(axes)
    axes.set(ylabel="learning rate", ylim=(0, None))


def _bands(axes: Any, runs: Sequence[Curves]) -> None:
    """Of one run, each band over pictures seen; of several, where each stands at its end, over the bands."""
    if len(runs) > 1:
        for k, curves in enumerate(runs):
            late = [_late_mean(curves, band) for band in range(_BANDS)]
            axes.plot(np.arange(1, _BANDS + 1), late, marker="o", markersize=4, color=_colour(k, runs))
        axes.set(
            xlabel="tenth of the times, from clean to noisy", ylabel=f"loss, newest {_LATE:.0%}".replace("%", " %")
        )
        axes.set(yscale="log", xticks=np.arange(1, _BANDS + 1))
        axes.grid(alpha=0.3, which="both")
        return
    from matplotlib import colormaps

    for band in range(_BANDS):
        curve = runs[0].of("loss_t", band).smooth()
        colour = colormaps["viridis"](band / (_BANDS - 1))
        axes.plot(curve.images, curve.values, color=colour, linewidth=1.2, label=f"{band + 1}")
    _over_images(axes)
    axes.set(ylabel="loss by time", yscale="log")
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=1,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title="tenths\nof times,\n1 clean",
    )


def _drift(axes: Any, runs: Sequence[Curves]) -> None:
    for k, curves in enumerate(runs):
        curve, chance = curves.of("samples", "drift"), curves.of("samples", "chance")
        axes.plot(curve.images, curve.values, marker="o", markersize=3, color=_colour(k, runs), label="samples")
        axes.plot(chance.images, chance.values, color=_FLOOR, linestyle=":", label="real pictures, by chance")
    _over_images(axes)
    axes.set(ylabel="colour drift, of 255", ylim=(0, None))
    if len(runs) == 1:
        axes.legend(frameon=False)


def _score(axes: Any, runs: Sequence[Curves]) -> None:
    for k, curves in enumerate(runs):
        curve, floor = curves.of("score", "frechet"), curves.of("score", "floor")
        axes.plot(curve.images, curve.values, marker="o", markersize=3, color=_colour(k, runs), label="samples")
        axes.plot(floor.images, floor.values, color=_FLOOR, linestyle=":", label="as many real pictures")
    _over_images(axes)
    axes.set(ylabel="Fréchet distance, pixels", yscale="log")
    _plain_numbers(axes)
    if len(runs) == 1:
        axes.legend(frameon=False)


def _has(*keys: str | int) -> Callable[[Sequence[Curves]], bool]:
    return lambda runs: any(len(curves.of(*keys).values) for curves in runs)


def _has_bands(runs: Sequence[Curves]) -> bool:
    return any(len(curves.of("loss_t", band).values) for curves in runs for band in range(_BANDS))


_PANELS: tuple[tuple[Callable[[Any, Sequence[Curves]], None], Callable[[Sequence[Curves]], bool]], ...] = (
    (_loss, _has("loss")),
    (_bands, _has_bands),
    (_gradient, _has("grad_norm")),
    (_speed, _has("images_per_second")),
    (_rate, _has("lr")),
    (_drift, _has("samples", "drift")),
    (_score, _has("score", "frechet")),
)
"""Each panel, and whether any run has something for it."""


def _raw_and_smooth(axes: Any, runs: Sequence[Curves], key: str) -> None:
    for k, curves in enumerate(runs):
        raw, smooth = curves.of(key), curves.of(key).smooth()
        alone, shrunk = len(runs) == 1, len(smooth.values) < len(raw.values)
        pale = {"color": _RAW} if alone else {"color": _colour(k, runs), "alpha": 0.25}
        if shrunk:
            axes.plot(raw.images, raw.values, linewidth=0.8, label="mean between reports" if alone else None, **pale)
        width = len(raw.values) - len(smooth.values) + 1
        label = (f"running mean of {width}" if shrunk else "mean between reports") if alone else curves.name
        marker = "o" if len(raw.values) == 1 else None
        axes.plot(smooth.images, smooth.values, marker=marker, linewidth=1.8, color=_colour(k, runs), label=label)
    _over_images(axes)


def _late_mean(curves: Curves, band: int) -> float:
    values = curves.of("loss_t", band).values
    return float(values[-max(1, round(_LATE * len(values))) :].mean()) if len(values) else float("nan")


def _colour(k: int, runs: Sequence[Curves]) -> str:
    return _SMOOTH if len(runs) == 1 else f"C{k % 10}"


def _over_images(axes: Any) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("pictures seen")
    axes.grid(alpha=0.3, which="both")


def _plain_numbers(axes: Any) -> None:
    """0.2 rather than 2 · 10⁻¹ on a logarithmic axis, and on a short one some numbers between the powers of ten."""
    from matplotlib.ticker import FuncFormatter

    low, high = axes.get_ylim()
    between = "246" if high < 100 * low else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, out: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    with explained(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content.getvalue())
    return out
