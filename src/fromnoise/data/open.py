"""From what a person types to a source of pictures: a built-in name, or a folder."""

import os
from pathlib import Path

from fromnoise.data.digits import Digits
from fromnoise.data.folder import Folder
from fromnoise.data.source import Source, printable
from fromnoise.errors import WrongUse, nearest

BUILT_IN = {"digits": Digits}
"""Sources that come with the package, by name. A folder of the same name is meant by ``./name``."""


def open_source(path_or_name: str | Path, classes: bool) -> Source:
    """The source that ``path_or_name`` means.

    Args:
        path_or_name: "digits", the embedded handwritten digits; anything else, and any `Path`, is a folder.
        classes: whether the folders directly in a folder are classes; the digits have labels in any case.

    Raises:
        WrongUse: there is no such folder, it is a file, it holds no pictures, or it has pictures in no class.
    """
    if isinstance(path_or_name, str) and path_or_name in BUILT_IN:
        return BUILT_IN[path_or_name]()
    shown = printable(str(path_or_name))
    if path_or_name == "":
        raise WrongUse(f"an empty name; give a folder of pictures or a built-in name: {', '.join(BUILT_IN)}")
    path = os.path.expanduser(path_or_name)
    if os.path.isfile(path):
        raise WrongUse(f"{shown} is a file; give the folder that holds the pictures")
    if not os.path.lexists(path) and os.sep not in path:  # one word that names nothing: perhaps a built-in, misspelt
        raise WrongUse(f"there is no folder {shown}, and no built-in data of that name; {nearest(shown, BUILT_IN)}")
    return Folder(path, classes=classes)
