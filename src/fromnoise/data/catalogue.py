"""What is in a file of decoded pictures: of every one, 16 bytes for where it came from and 16 for its pixels.

On disk: one line of JSON, which says of what kind the pictures are; the identities, 16 bytes a picture; the digests,
likewise; and the BLAKE2b digest of all that. A file cut short or altered does not agree with its digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTES = 16

Digests = NDArray[np.uint8]
"""(N, 16)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """The pictures of one file, in its order."""

    identities: Digests
    """Digests of `Source.identity`."""

    digests: Digests
    """Digests of the pixels."""

    modified: int
    """When the file of pictures was last written to, in nanoseconds, as its file system says."""

    def __len__(self) -> int:
        return len(self.identities)

    def slots(self, wanted: Digests) -> NDArray[np.int64]:
        """Where the pictures with the identities ``wanted`` lie, (N,); −1 for those that are not there."""
        if not len(self):
            return np.full(len(wanted), -1)
        heads, asked = _heads(self.identities), _heads(wanted)
        order = np.argsort(heads, kind="stable")
        place = np.searchsorted(heads[order], asked).clip(max=len(self) - 1)
        found = order[place]
        # Half of an identity is enough to search by, not to be sure; whoever shares only that half is decoded anew.
        return np.where((self.identities[found] == wanted).all(axis=1), found, -1)

    def same(self, other: "Catalogue | None") -> bool:
        """Whether ``other`` names the same pictures of the same state of the file."""
        return (
            other is not None
            and self.modified == other.modified
            and np.array_equal(self.identities, other.identities)
            and np.array_equal(self.digests, other.digests)
        )

    def to_bytes(self, kind: Mapping[str, Any]) -> bytes:
        """The file for pictures of this ``kind``, plain values."""
        head = json.dumps({"kind": kind, "count": len(self), "modified": self.modified}).encode() + b"\n"
        body = head + self.identities.tobytes() + self.digests.tobytes()
        return body + hashlib.blake2b(body, digest_size=_BYTES).digest()


def read_catalogue(data: bytes, kind: Mapping[str, Any]) -> Catalogue | None:
    """What `Catalogue.to_bytes` wrote; None if it is damaged or of another kind."""
    body, digest = data[:-_BYTES], data[-_BYTES:]
    if hashlib.blake2b(body, digest_size=_BYTES).digest() != digest:
        return None
    head, _, arrays = body.partition(b"\n")
    said = json.loads(head)
    if said.get("kind") != json.loads(json.dumps(kind)):
        return None
    identities, digests = np.frombuffer(arrays, np.uint8).reshape(2, said["count"], _BYTES)
    return Catalogue(identities=identities, digests=digests, modified=said["modified"])


def as_digests(texts: Iterable[str]) -> Digests:
    """One a text; the names of files may hold what UTF-8 has no bytes for."""
    data = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest() for text in texts
    )
    return np.frombuffer(data, np.uint8).reshape(-1, _BYTES)


def _heads(digests: Digests) -> NDArray[np.uint64]:
    """The first halves, as numbers."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
