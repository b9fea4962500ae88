"""Read a whole data set once and say what is in it: what is broken, what is there twice, what the network will see.

Every picture is decoded and fitted as for training, by all cores, and looked at in all ways at once (`inspect_tally`):
its file's header, its size, a digest of its pixels, a hash of its looks, how often every value occurs. Then copies
are found, a page and a file of facts are written, and the last event holds everything. The data are never touched; a
cleaned copy of them is made by `inspect_clean.write_clean`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fromnoise.data import Fit, Gone, Source, Unreadable
from fromnoise.data.ahead import ahead
from fromnoise.data.perceptual import perceive
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.remark import remarks
from fromnoise.data.survey import FileFacts, ailment, raw_bytes, survey
from fromnoise.errors import WrongUse
from fromnoise.files import explained, write_whole
from fromnoise.task.inspect_advice import advise
from fromnoise.task.inspect_facts import Facts, as_dict
from fromnoise.task.inspect_measure import condition_facts, tally_facts
from fromnoise.task.inspect_page import Shown, page
from fromnoise.task.inspect_tally import Problem, Seen, Tally, groups
from fromnoise.task.inspect_verdict import Line, verdict

PAGE, FACTS = "inspect.html", "inspect.json"
_SHEET = 64  # pictures on the contact sheet
_GROUPS, _MEMBERS = 12, 6  # groups of copies that are shown, and pictures of each


@dataclass(frozen=True)
class Inspecting:
    """``done`` of ``total`` pictures are read, of which ``unreadable`` could not be."""

    done: int
    total: int
    unreadable: int


@dataclass(frozen=True)
class Comparing:
    """``done`` of ``total`` pictures are compared with those before them."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """All that was found. ``kept``, ``copies`` and ``near_copies`` are indices into the source, rising."""

    facts: Facts
    verdict: tuple[Line, ...]
    kept: tuple[int, ...]
    """Pictures that can be read."""

    copies: tuple[int, ...]
    """Those of ``kept`` that have the same pixels as an earlier one."""

    near_copies: tuple[int, ...]
    """Those of ``kept`` that are no copies, but look almost the same as an earlier one."""

    files: tuple[Path, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether there is any picture that can be read."""
        return bool(self.kept)


InspectEvent = Inspecting | Comparing | Inspected


def inspect(source: Source, fit: Fit, *, name: str, out: Path | None = None) -> Iterator[InspectEvent]:
    """Look at every picture of ``source`` as ``fit`` shows it to the network; the last event has the result.

    Takes the memory of a few decoded pictures a thread, and about 0.8 KB (three channels) for every picture.

    Args:
        source: the pictures; those that cannot be read are counted and named.
        fit: what the network will see of them.
        name: what the data are called in the report: their path, say.
        out: the folder for ``inspect.html`` and ``inspect.json``; they replace those of an earlier inspection.

    Raises:
        WrongUse: ``out`` is a file.
        FromnoiseError: ``out`` cannot be written to.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise WrongUse(f"{out} is a file; name a folder for the report")
    began, total = time.perf_counter(), len(source)
    tally = Tally(total, fit.channels)
    with pillow_quiet():
        for index, (outcome, file) in enumerate(_looked_at(source, fit)):
            if isinstance(outcome, Problem):
                tally.lose(outcome, file)
            else:
                tally.add(index, outcome)
            yield Inspecting(index + 1, total, len(tally.problems))
    seconds = time.perf_counter() - began
    first = tally.copies()
    kept = np.flatnonzero(tally.readable)
    leaders = kept[first[kept] == kept]
    near, blocks = first.copy(), tally.near(first)
    if blocks is not None:
        done = 0
        for block in blocks:
            near[leaders[done : done + len(block)]] = block
            done += len(block)
            yield Comparing(done, len(leaders))
    same, alike = groups(first, kept), groups(near, leaders)
    measured = tally_facts(tally, source, fit)
    facts = Facts(
        source=name,
        **measured,
        **condition_facts(source, kept.tolist()),
        copies=_named(source, same),
        contradictions=_named(source, [group for group in same if _labels(source, group) > 1]),
        near_copies=None if blocks is None else _named(source, alike),
        advice=advise(len(leaders), measured["sizes"].short_sides, fit) if len(leaders) else None,
        seconds=seconds,
        pictures_per_second=total / seconds if total else 0.0,
    )
    found = verdict(facts)
    files: tuple[Path, ...] = ()
    if out is not None:
        sheet = _shown(source, fit, balanced(source, kept.tolist(), _SHEET))
        twins = [[_shown(source, fit, g[:_MEMBERS]) for g in some[:_GROUPS]] for some in (same, alike)]
        files = _write(out, facts, found, page(facts, found, sheet, *twins))
    yield Inspected(
        facts=facts,
        verdict=found,
        kept=tuple(kept.tolist()),
        copies=tuple(kept[first[kept] != kept].tolist()),
        near_copies=tuple(leaders[near[leaders] != leaders].tolist()),
        files=files,
    )


def balanced(source: Source, kept: Sequence[int], most: int) -> list[int]:
    """Up to ``most`` of the pictures ``kept``: as many of every class as can be, spread evenly over each."""
    labels = [0] * len(kept) if source.labels is None else [source.labels[index] for index in kept]
    members: dict[int, list[int]] = {}
    for index, label in zip(kept, labels, strict=True):
        members.setdefault(label, []).append(index)
    classes = [members[label] for label in sorted(members)]
    if len(classes) > most:
        classes = [classes[k] for k in _evenly(len(classes), most)]
    shares = [0] * len(classes)
    while sum(shares) < min(most, sum(map(len, classes))):  # one more each, for as long as there are any
        for k, group in enumerate(classes):
            if shares[k] < len(group) and sum(shares) < most:
                shares[k] += 1
    return [group[k] for group, share in zip(classes, shares, strict=True) for k in _evenly(len(group), share)]


def _evenly(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` places, in the middles of equal parts."""
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def _looked_at(source: Source, fit: Fit) -> Iterator[tuple[Seen | Problem, FileFacts | None]]:
    """Every picture in order, by all cores."""

    def lost(index: int, how: str) -> tuple[Seen | Problem, FileFacts | None]:
        why = f"whoever decodes it is ended ({how}): memory is short, or the decoder breaks down"
        return Problem(name=source.name(index), kind="breaks the decoder", why=why), None

    return ahead(partial(_look, source, fit), len(source), lost=lost, uses=source)


def _look(source: Source, fit: Fit, index: int) -> tuple[Seen | Problem, FileFacts | None]:
    data = raw_bytes(source, index)
    file = None if data is None else survey(data)
    try:
        with remarks() as heard:
            picture = source.read(index)
        image = fit(picture)
    except Gone:  # With a folder that is moved away, most are: no finding about the pictures.
        raise
    except Unreadable as error:
        return Problem(name=error.name, kind=ailment(data, file, error.why), why=error.why), file
    except MemoryError:
        return Problem(name=source.name(index), kind="too large", why="not enough memory to resize it"), file
    height, width, channels = picture.shape
    digest = hashlib.blake2b(f"{picture.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).data)
    seen = Seen(
        file=file,
        size=(height, width),
        channels=channels,
        translucent=channels in (2, 4) and bool((picture[..., -1] < 255).any()),
        digest=digest.digest(),
        counts=np.stack([np.bincount(plane.reshape(-1), minlength=256) for plane in image]),
        grey=_is_grey(image),
        look=perceive(image),
        remarks=tuple(heard),
    )
    return seen, file


def _is_grey(image: NDArray[np.uint8]) -> bool:
    """Whether an image (C, H, W) shows no colour where it shows anything."""
    if len(image) == 1:
        return True
    coloured = (image[0] != image[1]) | (image[1] != image[2])
    return not bool((coloured & (image[3] > 0) if len(image) == 4 else coloured).any())


def _shown(source: Source, fit: Fit, indices: Sequence[int]) -> list[Shown]:
    """These pictures once more, with what they are called; one that has gone since is left out."""
    shown = []
    for index in indices:
        try:
            image = fit(source.read(index))
        except Unreadable:
            continue
        label = "" if source.labels is None else source.classes[source.labels[index]]
        shown.append(Shown(name=source.name(index), label=label, image=image))
    return shown


def _named(source: Source, found: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(source.name(index) for index in group) for group in found)


def _labels(source: Source, group: Sequence[int]) -> int:
    """How many different labels the pictures of a group have."""
    return 1 if source.labels is None else len({source.labels[index] for index in group})


def _write(out: Path, facts: Facts, found: Sequence[Line], content: str) -> tuple[Path, ...]:
    tree = {"verdict": [{"level": line.level, "text": line.text} for line in found], **as_dict(facts)}
    files = {FACTS: json.dumps(tree, indent=1, allow_nan=False), PAGE: content}
    with explained(f"cannot write to {out}"):
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_whole(out / file, text.encode("utf-8", "backslashreplace"))
    return tuple(out / file for file in (PAGE, FACTS))
