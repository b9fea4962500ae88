"""Pictures of how training runs went, over pictures seen: one run or several, finished or at work."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.checkpoint import RunFolder
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.task.curves import Curves, curves_of

_RAW, _SMOOTH, _FLOOR = "#9bb8d3", "#1f4e79", "#777777"
_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
_WIDE = 120
"""Characters of a name that fit below the panels."""

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
    if out.is_dir():
        raise WrongUse(f"{out} is a folder, and curves are written as a file: name one that ends in .png with --out")
    if out.suffix.lower() != ".png":
        raise WrongUse(f"--out {out}: curves are written as a picture; end its name in .png")
    panels = [panel for panel, wanted in _PANELS if wanted(runs)]
    if not panels:
        raise FromnoiseError(f"{runs[0].name} has measured nothing yet, so there is no curve to draw")
    rows = -(-len(panels) // 2)
    names = [_shown(curves.name) for curves in runs] if len(runs) > 1 else []
    columns = max(1, min(4, _WIDE // max(map(len, names), default=1)))
    # The legend has room of its own, so that many runs do not squeeze the panels.
    figure = _figure(12, 3.2 * rows + 0.4 + 0.2 * -(-len(names) // columns))
    grid = figure.add_gridspec(rows, 2)
    for k, panel in enumerate(panels):
        alone = k == len(panels) - 1 and k % 2 == 0
        panel(figure.add_subplot(grid[k // 2, :] if alone else grid[k // 2, k % 2]), runs)
    figure.suptitle(f"{len(runs)} runs" if names else _shown(runs[0].name))
    if names:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], linewidth=1.8, **_look(k, runs)) for k in range(len(runs))]
        figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=3.5, frameon=False)
    return _write(figure, out)


def _loss(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "loss")
    axes.set(ylabel="loss")
    _logarithmic(axes)
    if len(runs) == 1:
        axes.legend(frameon=False)


def _gradient(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "grad_norm")
    axes.set(ylabel="norm of the gradient")
    _logarithmic(axes)


def _speed(axes: Any, runs: Sequence[Curves]) -> None:
    _raw_and_smooth(axes, runs, "images_per_second")
    axes.set(ylabel="pictures a second", ylim=(0, None))


def _rate(axes: Any, runs: Sequence[Curves]) -> None:
    for k, curves in enumerate(runs):
        curve = curves.of("lr")
        axes.plot(curve.images, curve.values, **_look(k, runs))
    _over_images(axes)
    axes.set(ylabel="learning rate", ylim=(0, None))


def _bands(axes: Any, runs: Sequence[Curves]) -> None:
    """Of one run, each band over pictures seen; of several, where each stands at its end, over the bands."""
    if len(runs) > 1:
        for k, curves in enumerate(runs):
            late = [curves.of("loss_t", band).late(_LATE) for band in range(_BANDS)]
            axes.plot(np.arange(1, _BANDS + 1), late, marker="o", markersize=4, **_look(k, runs))
        axes.set(
            xlabel="tenth of the times, from clean to noisy", ylabel=f"loss, newest {_LATE:.0%}".replace("%", " %")
        )
        axes.set(xticks=np.arange(1, _BANDS + 1))
        _logarithmic(axes)
        axes.grid(alpha=0.3, which="both")
        return
    from matplotlib import colormaps

    for band in range(_BANDS):
        curve = runs[0].of("loss_t", band).smooth()
        colour = colormaps["viridis"](band / (_BANDS - 1))
        axes.plot(curve.images, curve.values, color=colour, linewidth=1.2, label=f"{band + 1}")
    _over_images(axes)
    axes.set(ylabel="loss by time")
    _logarithmic(axes)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=1,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title="tenths\nof times,\n1 clean",
    )


def _drift(axes: Any, runs: Sequence[Curves]) -> None:
    _against_real(axes, runs, ("samples", "drift"), ("samples", "chance"), "real pictures, by chance")
    axes.set(ylabel="colour drift, of 255", ylim=(0, None))


def _score(axes: Any, runs: Sequence[Curves]) -> None:
    _against_real(axes, runs, ("score", "frechet"), ("score", "floor"), "as many real pictures")
    axes.set(ylabel="Fréchet distance, pixels")
    _logarithmic(axes)


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


def _against_real(axes: Any, runs: Sequence[Curves], ours: tuple[str, str], real: tuple[str, str], what: str) -> None:
    """What samples reach, and dotted what real pictures would; the legend says so of several runs, too."""
    dotted = []
    for k, curves in enumerate(runs):
        curve, floor = curves.of(*ours), curves.of(*real)
        axes.plot(curve.images, curve.values, marker="o", markersize=3, label="samples", **_look(k, runs))
        marker = "_" if len(floor.values) == 1 else None  # Of one point there is no line to be seen.
        dotted += axes.plot(floor.images, floor.values, color=_FLOOR, linestyle=":", marker=marker, label=what)
    _over_images(axes)
    axes.legend(handles=axes.lines[:2] if len(runs) == 1 else dotted[:1], frameon=False)


def _raw_and_smooth(axes: Any, runs: Sequence[Curves], key: str) -> None:
    for k, curves in enumerate(runs):
        raw, smooth = curves.of(key), curves.of(key).smooth()
        alone, shrunk = len(runs) == 1, len(smooth.values) < len(raw.values)
        pale = {"color": _RAW} if alone else {"color": _look(k, runs)["color"], "alpha": 0.25}
        if shrunk:
            axes.plot(raw.images, raw.values, linewidth=0.8, label="mean between reports" if alone else None, **pale)
        width = len(raw.values) - len(smooth.values) + 1
        label = (f"running mean of {width}" if shrunk else "mean between reports") if alone else None
        marker = "o" if len(raw.values) == 1 else None
        axes.plot(smooth.images, smooth.values, marker=marker, linewidth=1.8, label=label, **_look(k, runs))
    _over_images(axes)


def _look(k: int, runs: Sequence[Curves]) -> dict[str, Any]:
    """Ten colours, and from the eleventh run on the same ones in another style of line."""
    if len(runs) == 1:
        return {"color": _SMOOTH}
    return {"color": f"C{k % 10}", "linestyle": _STYLES[k // 10 % len(_STYLES)]}


def _shown(name: str) -> str:
    """A name of a run as the picture has it: no longer than the picture is wide, and without formulas."""
    short = name if len(name) <= _WIDE else f"…{name[1 - _WIDE :]}"
    return short.replace("$", r"\$")


def _over_images(axes: Any) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("pictures seen")
    axes.grid(alpha=0.3, which="both")


def _logarithmic(axes: Any) -> None:
    """For an axis that has its lines. 0.2 rather than 2 · 10⁻¹, and on a short one some numbers between the powers."""
    from matplotlib.ticker import FuncFormatter

    if not any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        return  # Zeros alone have no place on it.
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    between = "123456789" if high < 3 * low else "246" if high < 100 * low else ""
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
    with warnings.catch_warnings():
        # A run's name may be in a script that the font has no letters of: they become boxes, and that is all.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format="png")
    with explained(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content.getvalue())
    return out
