"""Pictures in: from files of any usual kind to uint8 tensors.

`open_source` (or `Folder`, `Archive`, `Arrays`, `Table`, `Shards`, `Digits`, `Emoji`) names the pictures, `Fit` says
what the network sees of one, and `load` decodes them all into a `Dataset`, which hands out batches. A new kind of
source is a new file with a `Source` in it.
"""

from fromnoise.data.archive import Archive
from fromnoise.data.arrays import Arrays
from fromnoise.data.auto import auto_channels
from fromnoise.data.conditions import Columns
from fromnoise.data.dataset import Dataset, load
from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.digits import Digits
from fromnoise.data.emoji import Emoji
from fromnoise.data.fit import Fit
from fromnoise.data.folder import Folder
from fromnoise.data.open import BUILT_IN, open_source
from fromnoise.data.shards import Shards
from fromnoise.data.source import Gone, Source, Unreadable
from fromnoise.data.split import stratified_split
from fromnoise.data.table import Table

__all__ = [
    "BUILT_IN",
    "SUFFIXES",
    "Archive",
    "Arrays",
    "Columns",
    "Dataset",
    "Digits",
    "Emoji",
    "Fit",
    "Folder",
    "Gone",
    "Shards",
    "Source",
    "Table",
    "Unreadable",
    "auto_channels",
    "decode",
    "load",
    "open_source",
    "stratified_split",
]
