"""The run folder's own record: metrics.jsonl, one line each time, and samples/, where the grids are already."""

from pathlib import Path

from fromnoise.checkpoint import RunFolder
from fromnoise.task.watch.base import Line, Watcher


class Jsonl(Watcher):
    """It is the record that a run is resumed with: its mishaps (a full disk) end the run, and are not guarded."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def line(self, line: Line) -> None:
        """Append it. Raises ``FromnoiseError`` if the disk refuses."""
        self._folder.append_metrics(dict(line))

    def picture(self, path: Path, images: int) -> None:
        """It is in the run folder."""

    def flush(self) -> None:
        """Each line is written when it comes."""

    def close(self) -> None:
        """Nothing is open."""
