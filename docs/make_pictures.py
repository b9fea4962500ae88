"""Makes the pictures of docs/sampling.md and docs/likelihood.md from a run of ``make demo``, by the commands shown there.

.venv/bin/python docs/make_pictures.py runs/demo docs/images
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from fromnoise.data import open_source


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
        sevens = ["--label", "7", "-n", "12"]
        hole = ["--inpaint", given / "three.png", "--mask", given / "lower-half.png", "-n", "10"]
        ends = ["--interpolate", given / "three.png", given / "eight.png", "-n", "11"]
        chain = ["--sampler", "ancestral", "--steps", "50"]
        drawn: dict[str, list[str | Path]] = {
            "strip": ["--strip", "10", "-n", "10"],
            "guidance-1": ["--label", "7", "-n", "12", "--guidance", "1"],
            "guidance-3": ["--label", "7", "-n", "12", "--guidance", "3"],
            "inpaint": [*hole, "--label", "3"],
            "repaint": [*hole, "--label", "3", "--repaint", "10", *chain],
            "from": ["--from", given / "three.png", "--strength", "0.4", "--label", "3", "-n", "12"],
            "interpolate": [*ends, "--strength", "0.5", "--label", "3,3,3,3,3,3,8,8,8,8,8"],
            "upscale": ["--upscale", given / "small.png", "-n", "10"],
        }
        for name, words in drawn.items():
            _run("sample", run, *words, "--overwrite", "--out", f"{images}/{name}.png")
        _run("compare", run, "--out", given / "compare")
        _run("likelihood", run, "--out", given / "likelihood")
        for name in ("compare/compare", "likelihood/terms", "likelihood/rate-distortion", "likelihood/progressive"):
            Path(images, Path(name).name + ".png").write_bytes((given / f"{name}.png").read_bytes())


def _run(*words: str | Path) -> None:
    print("fromnoise", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "fromnoise", *map(str, words)])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
