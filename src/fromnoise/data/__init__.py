"""Pictures in: from files of any usual kind to uint8 tensors.

`open_source` (or `Folder`, `Digits`) names the pictures, `Fit` says what the network sees of one, and `load` decodes
them all into a `Dataset`, which hands out batches. A new kind of source is a new file with a `Source` in it.
"""

from fromnoise.data.dataset import Dataset, load
from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.digits import Digits
from fromnoise.data.fit import Fit, auto_channels
from fromnoise.data.folder import Folder
from fromnoise.data.open import open_source
from fromnoise.data.source import Source, Unreadable
from fromnoise.data.split import stratified_split

__all__ = [
    "SUFFIXES",
    "Dataset",
    "Digits",
    "Fit",
    "Folder",
    "Source",
    "Unreadable",
    "auto_channels",
    "decode",
    "load",
    "open_source",
    "stratified_split",
]
