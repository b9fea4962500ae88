"""The embedded data: 1,797 handwritten digits, 8x8 in 17 levels of grey, with their labels.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0: its test part, as scikit-learn's ``load_digits`` ships it. The file beside this one
holds the values 0 … 16 as they are; provenance is in ``digits.README.md``.
"""

import hashlib
from importlib.resources import files
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.source import Source


@final
class Digits(Source):
    """The digits as grey pictures, (8, 8, 1): value v of 0 … 16 becomes round(255 v / 16), ink is white.

    Classes are '0' … '9', with 174 to 183 pictures each.
    """

    def __init__(self) -> None:
        with files("fromnoise.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
            levels, labels = stored["levels"], stored["labels"]
        self._images = np.rint(levels * (255 / 16)).astype(np.uint8)[..., None]
        self.labels = tuple(labels.tolist())
        self.classes = tuple("0123456789")

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"digit {index}"

    def identity(self, index: int) -> str:
        """The digest of its pixels."""
        return f"digit {index} {hashlib.blake2b(self._images[index].data, digest_size=16).hexdigest()}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._images[index].copy()
