"""What a file is: by its first bytes, and where they say nothing, by the end of its name."""

from fromnoise.data.decode import SUFFIXES
from fromnoise.data.listing import suffix_of
from fromnoise.data.source import printable
from fromnoise.errors import WrongUse

READ = "folders of pictures, .zip, .npz, .npy, .parquet, .arrow and .tar"
"""What is read, for messages."""

_MAGIC = (
    (b"PK\3\4", ".zip"),
    (b"PK\5\6", ".zip"),
    (b"\x93NUMPY", ".npy"),
    (b"PAR1", ".parquet"),
    (b"ARROW1", ".arrow"),
)
_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def kind_of(path: str) -> str:
    """The kind of a file, as the suffix that it should have. Raises ``WrongUse`` if it cannot be opened."""
    suffix = suffix_of(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WrongUse(f"cannot read {printable(path)}: {error.strerror or error}") from None
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), suffix)
    if head[257:262] == b"ustar":
        return ".tar"
    return suffix if kind == ".zip" and suffix in (".npz", *_PICKLED) else kind


def refusal(kind: str, shown: str) -> str:
    """Why a file of ``kind``, which messages call ``shown``, is not read here."""
    if kind in SUFFIXES:
        return f"{shown} is a picture; give the folder that holds it"
    if kind in _PICKLED:
        return f"{shown} is a pickle, which may run any program when it is loaded and is never read; save it as .npz"
    if kind in _PACKED:
        return (
            f"{shown} is packed by {kind[1:]}, and no picture in it can be read alone; unpack it, or make a .zip of it"
        )
    return (
        f"{shown} is a file of a kind that is not read here; give the folder that holds the pictures (read are {READ})"
    )
