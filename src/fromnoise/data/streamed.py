"""Tar shards from elsewhere: each is fetched once, whole, and then read as one that was always here.

Pictures are decoded once, in order, and read at random after that, so a shard that is fetched anew for every pass, as
streaming readers do, would only be fetched more often. webdataset (the extra ``shards``) opens the addresses: http and
https by curl, ``gs:`` and others by the programs that belong to them, and ``pipe:`` by the command that follows, which
is run as it is typed. A shard is whole or absent: it is written aside and renamed.
"""

import hashlib
import importlib
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fromnoise.data.source import one_line, printable
from fromnoise.errors import FromnoiseError, WrongUse

SCHEMES = ("http", "https", "ftps", "sftp", "scp", "gs", "hf", "ais", "pipe")
"""How addresses begin, before their colon."""


def is_address(word: str) -> bool:
    """Whether ``word`` is an address, not a path."""
    scheme, colon, _ = word.partition(":")
    return bool(colon) and scheme in SCHEMES


def fetched(addresses: Sequence[str], folder: Path) -> list[Path]:
    """The shards at ``addresses`` as files below ``folder``; those that are there are not fetched again.

    Raises:
        WrongUse: webdataset is not installed.
        FromnoiseError: a shard cannot be fetched, or not be written; or it is no tar file.
    """
    return [_fetched(address, folder) for address in addresses]


def _fetched(address: str, folder: Path) -> Path:
    # The file's own name is for people who look into the folder; the digest is what tells shards apart. What follows a
    # question mark may be a password.
    last = "pipe" if address.startswith("pipe:") else urlsplit(address).path.rpartition("/")[2].removesuffix(".tar")
    tail = "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "-" for c in last)[-60:]
    digest = hashlib.blake2b(address.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    path = folder / f"{tail}-{digest}.tar"
    if path.exists():
        return path
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    gopen = _webdataset(address)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with gopen(address) as stream, aside.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
                file.flush()
                os.fsync(file.fileno())
            if not tarfile.is_tarfile(aside):  # a page that says what went wrong, say; it must not be kept
                raise FromnoiseError(f"what {printable(address)} gives is no tar file")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise FromnoiseError(f"cannot fetch {printable(address)} to {printable(str(folder))}: {why}") from None
    return path


def _webdataset(address: str) -> Any:
    try:
        return importlib.import_module("webdataset.gopen").gopen
    except ImportError:
        raise WrongUse(f"fetching {printable(address)} needs webdataset: pip install 'fromnoise[shards]'") from None
