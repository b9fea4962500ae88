"""The curve of a run's loss, as a picture."""

import json
from pathlib import Path

import numpy as np

from fromnoise.checkpoint import RunFolder
from fromnoise.errors import FromnoiseError
from fromnoise.files import explained


def plot_loss(run: Path, out: Path) -> Path:
    """Draw the loss against pictures seen, from metrics.jsonl, as a PNG. The loss is on a logarithmic axis.

    Raises ``FromnoiseError`` if the run has no metrics yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    file = RunFolder(run).metrics
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if not lines:
        raise FromnoiseError(f"{file} has no lines yet, so there is no curve to draw")
    images = np.array([line["images"] for line in lines], dtype=float)
    loss = np.array([line["loss"] for line in lines], dtype=float)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(images, loss, color="#9bb8d3", linewidth=0.8, label="mean between reports")
    if len(loss) >= 20:
        width = len(loss) // 20
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(images[width - 1 :], smooth, color="#1f4e79", linewidth=1.8, label=f"running mean of {width}")
    axes.set(yscale="log", xlabel="pictures seen", ylabel="L_simple", title=f"Training loss of {run.name}")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    with explained(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format="png")
    return out
