"""The embedded emoji: 1,911 pictures, 32x32 RGBA, with their categories as classes and their names as captions.

Noto Emoji by Google, version 2.048 (Unicode 16.0), under the Apache License 2.0, as the npm package
``emoji-datasource-google`` 16.0.0 ships them. How the file beside this one was made of them is in ``emoji.README.md``.
"""

import hashlib
from importlib.resources import files
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.source import Source


@final
class Emoji(Source):
    """The emoji as RGBA pictures, (32, 32, 4), in Unicode's order, which keeps like with like.

    Ten classes, from 5 ("Component", the skin tones) to 386 pictures ("People & Body"); where a picture is fully
    transparent, its colour is black.
    """

    def __init__(self) -> None:
        with files("fromnoise.data").joinpath("emoji.npz").open("rb") as file, np.load(file) as stored:
            self._images = stored["images"]
            self.labels = tuple(stored["labels"].tolist())
            self.classes = tuple(stored["classes"].tolist())
            self.captions = tuple(stored["captions"].tolist())

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        assert self.captions is not None
        return f"emoji {index} ({self.captions[index]})"

    def identity(self, index: int) -> str:
        """The digest of its pixels."""
        return f"emoji {index} {hashlib.blake2b(self._images[index].data, digest_size=16).hexdigest()}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._images[index].copy()
