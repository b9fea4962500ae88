"""Makes the pictures of docs/sampling.md and docs/likelihood.md from a run of ``make demo``.

.venv/bin/python docs/make_pictures.py runs/demo docs/images
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from fromnoise.data import open_source

CLASSIFIER = '''
import torch
from fromnoise.data import Fit, load, open_source
from fromnoise.schedule import Linear, cast

DIGITS = load(open_source("digits", classes=True), Fit(height=8, width=8, channels=1))
X_0 = torch.from_numpy(DIGITS.images).float() / 127.5 - 1
MEANS = torch.stack([X_0[DIGITS.labels == k].mean(0) for k in range(10)])
SPREAD = torch.stack([X_0[DIGITS.labels == k].var(0) for k in range(10)]).mean()
SCHEDULE = Linear()


def classify(x_t, t):
    """log p(x_t | class) + constant, each class a normal around its mean picture."""
    level = SCHEDULE(t.double().cpu())
    distance = (x_t[:, None] - cast(level.signal, x_t)[:, None] * MEANS).square().flatten(2).sum(2)
    return -distance / (2 * cast(level.sigma.square() + level.signal.square() * SPREAD, distance))
'''
"""A classifier that needs no training: the noisy picture against the mean picture of each class."""


def main(run: str, images: str) -> None:
    """Draw everything; each command is printed before it runs."""
    with TemporaryDirectory() as folder:
        given = Path(folder)
        digits = open_source("digits", classes=False)
        for name, index in (("three", 3), ("eight", 8)):
            Image.fromarray(digits.read(index)[..., 0]).save(given / f"{name}.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[4:] = 255  # The lower half is to be made anew.
        Image.fromarray(mask).save(given / "lower-half.png")
        Image.fromarray(digits.read(3)[..., 0]).resize((4, 4), Image.Resampling.BOX).save(given / "small.png")
        hole = ["--inpaint", given / "three.png", "--mask", given / "lower-half.png", "-n", "10"]
        ends = ["--interpolate", given / "three.png", given / "eight.png", "-n", "11"]
        chain = ["--sampler", "ancestral", "--steps", "50"]
        (given / "nearest.py").write_text(CLASSIFIER)
        weak = sorted(Path(run, "checkpoints").iterdir())[0] / "ema.safetensors"
        drawn: dict[str, list[str | Path]] = {
            "strip": ["--strip", "10", "-n", "10"],
            "guidance-1": ["--label", "7", "-n", "12", "--guidance", "1"],
            "guidance-3": ["--label", "7", "-n", "12", "--guidance", "3"],
            "weak-3": ["--label", "7", "-n", "12", "--guidance", "3", "--weak", weak],
            "classifier-3": ["--label", "7", "-n", "12", "--guidance", "3", "--classifier", "nearest:classify"],
            "inpaint": [*hole, "--label", "3"],
            "repaint": [*hole, "--label", "3", "--repaint", "10", *chain],
            "from": ["--from", given / "three.png", "--strength", "0.4", "--label", "3", "-n", "12"],
            "interpolate": [*ends, "--strength", "0.5", "--label", "3,3,3,3,3,3,8,8,8,8,8"],
            "upscale": ["--upscale", given / "small.png", "-n", "10"],
        }
        for name, words in drawn.items():
            out = str(Path(images, f"{name}.png").resolve())
            _run(
                "sample",
                str(Path(run).resolve()),
                *words,
                "--overwrite",
                "--columns",
                "10" if name == "strip" else "12",
                "--out",
                out,
                folder=given,
            )
        _run("compare", run, "--out", given / "compare")
        _run("likelihood", run, "--out", given / "likelihood")
        for name in ("compare/compare", "likelihood/terms", "likelihood/rate-distortion", "likelihood/progressive"):
            Path(images, Path(name).name + ".png").write_bytes((given / f"{name}.png").read_bytes())


def _run(*words: str | Path, folder: Path | None = None) -> None:
    print("fromnoise", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "fromnoise", *map(str, words)], cwd=folder)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
