"""TensorBoard: event files in RUN/tensorboard, one more each time the run goes on. The only file that knows it.

The step on its axis is the number of pictures seen. A resumed run repeats what came after its checkpoint, so the first
event of its file tells TensorBoard to forget what it knew from there on.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.task.watch.base import Line, Watcher, scalars

FOLDER = "tensorboard"


def available() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard(Watcher):
    """Writes for the run at ``run``, which stands at ``images`` pictures seen, 0 for a new one.

    If it comes late, it is first told the lines of ``before``.
    """

    def __init__(self, run: Path, images: int, before: Iterable[Line] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        late = not (run / FOLDER).is_dir()
        purge = None if late else images + 1
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=purge)
        if late:
            for line in before:
                self.line(line)

    def line(self, line: Line) -> None:
        """Every number of it, by name."""
        images = int(line["images"])
        for name, value in scalars(line).items():
            if name != "images":
                self._writer.add_scalar(name, value, images)

    def picture(self, path: Path, images: int) -> None:
        """The grid, under ``grid``."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGBA" if picture.mode == "RGBA" else "RGB"))
        self._writer.add_image("grid", pixels, images, dataformats="HWC")

    def flush(self) -> None:
        """Wait for the writer's thread."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and end the file."""
        self._writer.close()
