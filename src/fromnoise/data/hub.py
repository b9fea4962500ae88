"""Data sets of the Hugging Face hub, by name: ``hub:OWNER/NAME``, or ``hub:OWNER/NAME:CONFIG@REVISION``.

The extra ``hub`` (the package ``datasets``) fetches the whole set into its own cache, once, and gives a mapped Arrow
table; from there on it is read as a saved one is. Nothing is decoded by ``datasets``: pictures come as bytes or paths.
"""

import importlib
import os
from typing import Any

from fromnoise.data.arrow import ArrowRows, chosen_split
from fromnoise.data.source import one_line, printable
from fromnoise.errors import FromnoiseError, WrongUse

PREFIX = "hub:"
"""What a name of the hub begins with."""


def open_hub(name: str, split: str | None) -> tuple[ArrowRows, tuple[str, ...]]:
    """The rows of a data set of the hub, and remarks on them.

    Args:
        name: with its prefix, configuration and revision as above; a folder in the hub's form is understood as well.
        split: which of its splits; None for "train", or the only one.

    Raises:
        WrongUse: ``datasets`` is not installed, or there is no such data set, configuration, revision or split.
        FromnoiseError: the hub cannot be reached, or what it gave cannot be used.
    """
    where = printable(name)
    datasets = _datasets(where)
    rest, _, revision = name.removeprefix(PREFIX).partition("@")
    path, _, config = rest.partition(":")
    if not path:
        raise WrongUse(f"{where} names no data set; write {PREFIX}OWNER/NAME")
    path = os.path.expanduser(path)
    try:
        splits = datasets.get_dataset_split_names(path, config or None, revision=revision or None)
        chosen = chosen_split(list(splits), split, where)
        data = datasets.load_dataset(path, config or None, split=chosen, revision=revision or None, streaming=False)
        table = data.with_format("arrow")[:]
    except WrongUse:
        raise
    except (FileNotFoundError, ValueError) as error:  # no such data set, configuration, revision
        raise WrongUse(f"cannot open {where}: {one_line(error)}") from None
    except Exception as error:  # of the network, of the disk, of files in no form that the hub knows
        raise FromnoiseError(f"cannot fetch {where}: {type(error).__name__}: {one_line(error)}") from error
    remarks = (f"of {where}, the split {chosen} is taken; there are {', '.join(splits)}",) if len(splits) > 1 else ()
    # ``datasets`` names what it has built by a digest of the files and settings that went into it.
    identity = f"{name}\0{chosen}\0{data._fingerprint}"
    return ArrowRows(table, where=f"{where}/{chosen}", identity=identity, folder=os.getcwd()), remarks


def _datasets(where: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise WrongUse(f"{where} is on the hub, and fetching it needs datasets: pip install 'fromnoise[hub]'") from None
