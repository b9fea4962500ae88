"""A preset's size against that of the pictures: enlarged ones are refused, reduced ones are told of."""

from pathlib import Path

from fromnoise.checkpoint import RunFolder
from fromnoise.data import Source
from fromnoise.data.auto import some_pictures
from fromnoise.errors import WrongUse

_LOOK = 32  # Pictures, spread over all.


def goes_on(run: Path | None) -> bool:
    """Whether there is a run in the folder that has saved something, so that its own size holds."""
    folder = None if run is None else RunFolder(run)
    if folder is None or not folder.has_checkpoints():
        return False
    return folder.config.is_file() or folder.carried_settings() is not None


def resized(name: str, height: int, width: int, pictures: Source) -> tuple[str, ...]:
    """A remark if the size that the preset alone says makes most of the pictures smaller, going by some of them.

    Raises ``WrongUse`` if it makes most of them larger: a large network would learn detail that is not there.
    """
    sizes = [picture.shape[:2] for picture in some_pictures(pictures, _LOOK)]
    alike = len(set(sizes)) == 1
    smaller = [size for size in sizes if size[0] < height and size[1] < width]
    if 2 * len(smaller) > len(sizes):
        one = f"{smaller[0][0]}x{smaller[0][1]}"
        these = f"these are {one}" if alike else f"most of these are smaller, {one} for one"
        side = f"{height}" if height == width else f"{height}x{width}"
        raise WrongUse(
            f"preset {name} is for {height}x{width} pictures, and {these}: leave out --preset, or say "
            f"--resolution {side} to have them enlarged"
        )
    larger = [size for size in sizes if size[0] > height and size[1] > width]
    if 2 * len(larger) <= len(sizes):
        return ()
    these = f"pictures of {larger[0][0]}x{larger[0][1]}" if alike else "larger pictures"
    return (f"{these} are reduced to {height}x{width}, as the preset {name} says",)
