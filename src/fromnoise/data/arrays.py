"""Pictures that are one array already: ``.npy`` (mapped, not read) and ``.npz``, with labels beside.

Which values are black and white and which axis is the channels is decided in `levels`, and refused where two readings
are possible. Pickled objects are never loaded (`npy`).
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.conditions import USUAL_CAPTIONS, Columns, Conditions, as_values, from_labels, joined
from fromnoise.data.levels import channels_last, law_of, levels
from fromnoise.data.npy import Header, Npz, mapped
from fromnoise.data.source import Source, Unreadable, printable
from fromnoise.errors import WrongUse, nearest

USUAL_PICTURES = ("images", "image", "pictures", "x", "data", "arr_0")
"""What the array of pictures in an .npz is usually called."""

USUAL_LABELS = ("labels", "label", "y", "targets", "arr_1")
"""What the array of labels is usually called."""


@final
class Arrays(Source):
    """The pictures in the ``.npy`` or ``.npz`` file ``path``.

    Args:
        path: the file; ``~`` is understood.
        classes: take labels: of an .npz the array of a usual name; of X.npy the file X_labels.npy, labels.npy or
            y.npy beside it.
        labels: the .npy file of labels to take.
        columns: which array of an .npz is the pictures, which the labels, the captions, the values to condition on.

    Raises:
        WrongUse: no array, or several, can be the pictures; shape or range leaves two readings; labels are missing.
        FromnoiseError: the file is damaged, or larger than memory (.npz; an .npy never is).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: bool = False,
        labels: str | Path | None = None,
        columns: Columns | None = None,
    ) -> None:
        self._where = printable(str(path))
        columns = columns or Columns()
        file = os.path.expanduser(path)
        npz = Npz(file, self._where) if file.lower().endswith(".npz") else None
        if npz is None:
            self._refuse_columns(columns)
            images = mapped(file, self._where)
        else:
            images = npz.load(_which(npz.headers, columns.picture, self._where))
        self._images = channels_last(images, self._where)
        self._law = law_of(self._images, self._where)
        said = Conditions()
        if labels is not None:
            named = os.path.expanduser(labels)
            if not str(named).lower().endswith(".npy"):
                raise WrongUse(f"{printable(str(labels))} is no .npy file; the labels of arrays are an array, too")
            said = self._labelled(mapped(named, printable(named)))
        elif npz is not None and (classes or columns.label is not None):
            said = self._labelled(npz.load(_named(npz, columns.label, USUAL_LABELS, "labels", self._where)))
        elif classes:
            said = self._labelled(_beside(file, self._where))
        if npz is not None:
            said = self._with_captions(said, npz, columns)
        for name in columns.values or ():
            assert npz is not None
            array = self._as_long(npz.load(_named(npz, name, (), "values", self._where)))
            rows = as_values(array.reshape(len(array), -1).tolist(), self.name)
            names = (name,) if array.ndim == 1 else tuple(f"{name} {k}" for k in range(len(rows[0])))
            said = joined(said, values=rows, value_names=names)
        said.give(self)

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{self._where}[{index}]"

    def identity(self, index: int) -> str:
        """Its number, the digest of its values, and how they are read."""
        digest = hashlib.blake2b(np.ascontiguousarray(self._images[index]).tobytes(), digest_size=16).hexdigest()
        return f"{index} {digest} {self._images.dtype.str} {self._images.shape[1:]} {self._law}"

    def read(self, index: int) -> NDArray[np.uint8]:
        picture = levels(self._images[index], self._law)
        if picture is None:
            raise Unreadable(self.name(index), "some of its values are not finite")
        return picture

    def _refuse_columns(self, columns: Columns) -> None:
        asked = [columns.picture, columns.label, columns.caption, *(columns.values or ())]
        if any(name is not None for name in asked):
            raise WrongUse(f"{self._where} is one array without a name; columns are for .npz files, which have several")

    def _labelled(self, array: NDArray[Any]) -> Conditions:
        """Labels (N,) or (N, 1); one-hot and multi-hot (N, K); any other numbers are values."""
        array = self._as_long(array)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim == 1:
            fractions = array.dtype.kind == "f" and bool((array != np.rint(array)).any())
            if not fractions:
                return from_labels(_plain(array, self._where), self.name)
            return joined(Conditions(), values=as_values(array.tolist(), self.name), value_names=("value",))
        names = tuple(str(k) for k in range(array.shape[1]))
        if array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all()):
            if bool((array.sum(axis=1) == 1).all()):
                return from_labels(array.argmax(axis=1).tolist(), self.name, names)
        elif array.dtype.kind not in "iuf":
            raise WrongUse(f"{self._where}: labels of type {array.dtype} have one axis, not {array.shape}")
        return joined(Conditions(), values=as_values(array.tolist(), self.name), value_names=names)

    def _with_captions(self, said: Conditions, npz: Npz, columns: Columns) -> Conditions:
        usual = next((name for name in ("captions", *USUAL_CAPTIONS) if name in npz.headers), None)
        if columns.caption is None and usual is None:
            return said
        array = self._as_long(npz.load(_named(npz, columns.caption or usual, (), "captions", self._where)))
        return replace(said, captions=tuple(map(str, _plain(array, self._where))))

    def _as_long(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim not in (1, 2) or len(array) != len(self._images):
            raise WrongUse(
                f"{self._where}: {len(self._images)} pictures, and beside them an array of {array.shape}; "
                "it has one row for each picture"
            )
        return array


def _which(headers: dict[str, Header], asked: str | None, where: str) -> str:
    """The name of the array that is the pictures."""
    if asked is not None:
        if asked not in headers:
            raise WrongUse(f"{where} has no array {printable(asked)}; {nearest(asked, map(printable, headers))}")
        return asked
    fitting = [name for name, header in headers.items() if len(header.shape) in (3, 4) and header.dtype.kind in "bufi"]
    usual = [name for name in USUAL_PICTURES if name in fitting]
    if usual or len(fitting) == 1:
        return (usual or fitting)[0]
    has = ", ".join(f"{printable(name)} {header.shape}" for name, header in headers.items()) or "none"
    if not fitting:
        raise WrongUse(f"no pictures in {where}: they have 3 or 4 axes, and the arrays in it are {has}")
    raise WrongUse(f"several arrays in {where} may be the pictures, name one of them as the column of pictures: {has}")


def _named(npz: Npz, asked: str | None, usual: tuple[str, ...], what: str, where: str) -> str:
    name = asked if asked is not None else next((name for name in usual if name in npz.headers), None)
    if name in npz.headers:
        return name
    if name is None:
        has = ", ".join(map(printable, npz.headers))
        raise WrongUse(f"no {what} in {where}: looked for {', '.join(usual)}; the arrays in it are {has}")
    raise WrongUse(f"{where} has no array {printable(name)}; {nearest(name, map(printable, npz.headers))}")


def _beside(file: str, where: str) -> NDArray[Any]:
    """The labels of X.npy: the first of the usual files there is."""
    stem = os.path.splitext(os.path.basename(file))[0]
    usual = [f"{stem}_labels.npy", f"{stem}.labels.npy", "labels.npy", "y.npy"]
    for name in usual:
        path = os.path.join(os.path.dirname(file), name)
        if os.path.isfile(path):
            return mapped(path, printable(path))
    raise WrongUse(f"no labels beside {where}: looked for {', '.join(map(printable, usual))}")


def _plain(array: NDArray[Any], where: str) -> list[Any]:
    """One-dimensional labels or captions as Python's own numbers and words."""
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise WrongUse(f"{where}: an array of {array.dtype} {array.shape} is no list of words or numbers")
    if array.dtype.kind == "S":
        return [word.decode("utf-8", "replace") for word in array.tolist()]
    return array.tolist()
