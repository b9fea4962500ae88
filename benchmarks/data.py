"""How fast pictures get from files to the network: our loading and our batches against a DataLoader with Pillow.

``python -m benchmarks.data [--json] [--quick]``. Two questions, on pictures made for the purpose:

- Pictures a second, 64² PNG and 512² JPEG as 64² RGB. Ours: `load` into an empty cache, every picture listed, decoded,
  resized with Lanczos, written and synced; and then batches of 128 at random from that cache, which is what every later
  epoch is. Peers decode in every epoch: PyTorch's DataLoader, shuffled, over files opened, converted and resized with
  Pillow as ours are ("plain": bytes, with Lanczos); and the loader of diffusers' example of unconditional training
  (`datasets`, bilinear, crop, float32 from -1 to 1), with as many workers as there are cores, and with none, which is
  the example's default. The example takes its transforms from torchvision; here Pillow and PyTorch do the same work.
- Milliseconds for a batch of 128 at random from sets of 1,000, 100,000 and 1,000,000 pictures of 64²×3. All lie in one
  file of random bytes, written from beginning to end (12.3 GB), mapped anew, and in an order that has nothing to do
  with theirs. Once with the file in memory; and, for the largest, with none of it in memory, where the peer is the same
  mapping read without announcing a batch (`fromnoise.data.mapped`).

All but the last is read before it is timed, so the disk is not what is measured. Sides take turns; a figure is the
median of its rounds, the best of them stands beside it. Freed memory is kept, as in training.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from fromnoise.data import Dataset, Fit, Folder, load
from fromnoise.data.cache import Cache
from fromnoise.memory import keep_freed_memory

SIDE = 64
ONE = 3 * SIDE * SIDE
BATCH = 128
FIT = Fit(height=SIDE, width=SIDE, channels=3)
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
EXAMPLE = f"as diffusers, {CORES} workers"
PEERS = (f"plain, {CORES} workers", EXAMPLE, "as diffusers, no workers")
Row = dict[str, Any]


class Plain(TorchDataset[Tensor]):
    """Bytes, resized with Lanczos as Pillow resizes bytes."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = _resized(Image.open(self.paths[index]).convert("RGB"), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_diffusers(folder: Path, cache: Path) -> Any:
    """The data set of the example: `datasets` knows the files, and a transform decodes them as they are asked for."""

    def transform(examples: dict[str, Any]) -> dict[str, Any]:
        return {"input": [_normalised(image.convert("RGB")) for image in examples["image"]]}

    known: Any = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache), split="train")
    known.set_transform(transform)
    return known


def loading(kind: str, size: int, count: int, rounds: int, folder: Path) -> Iterator[Row]:
    """Pictures a second, for ``count`` files of one kind."""
    pictures = folder / kind
    _make(pictures, kind, size, count)
    for file in pictures.iterdir():
        file.read_bytes()
    plain, example = Plain(pictures), as_diffusers(pictures, folder / "datasets")
    peers = dict(zip(PEERS, ((plain, CORES), (example, CORES), (example, 0)), strict=True))
    rates: dict[str, list[float]] = {name: [] for name in ("first epoch", "every later epoch", *peers)}
    for turn in range(rounds):
        place = Cache(path=folder / f"cache {kind} {turn}")
        seconds, pixels = _timed(lambda place=place: load(Folder(pictures), FIT, cache=place))
        rates["first epoch"].append(count / seconds)
        order = np.random.default_rng(turn).permutation(count)
        starts = range(0, count, BATCH)
        seconds, _ = _timed(lambda: [pixels.batch(order[start : start + BATCH]) for start in starts])  # noqa: B023
        rates["every later epoch"].append(count / seconds)
        for name, (known, workers) in peers.items():
            loader = DataLoader(known, batch_size=BATCH, shuffle=True, num_workers=workers)
            seconds, _ = _timed(lambda loader=loader: sum(1 for _ in loader))
            rates[name].append(count / seconds)
    for peer in peers:
        for epoch in ("first epoch", "every later epoch"):
            yield _row(f"{size}² {kind}, {epoch}, against {peer}", rates[epoch], rates[peer], "pictures/s", max)


def batches(counts: Sequence[int], rounds: int, folder: Path) -> Iterator[Row]:
    """Milliseconds for a batch at random from the first so many pictures of a file."""
    path = folder / "pictures.u8"
    most = max(counts)
    if shutil.disk_usage(folder).free < most * ONE + 2**30:
        raise SystemExit(f"benchmarks.data: {most * ONE / 1e9:.1f} GB are needed in {folder}; set TMPDIR, or --most")
    _write(path, most)
    times: dict[int, list[list[float]]] = {count: [] for count in counts}
    for turn in range(rounds):
        for count in counts:
            for start in range(0, count, 4096):  # into memory, should it not be there
                np.fromfile(path, np.uint8, min(4096, count - start) * ONE, offset=start * ONE)
            times[count].append(_times(_dataset(path, count, turn).batch, count, 200, turn))
    for count in counts:
        row = _row(f"batch of {BATCH} of {count:,} pictures", [median(one) for one in times[count]], [], "ms", min)
        yield {**row, "slowest of 20": median(float(np.quantile(one, 0.95)) for one in times[count])}
    if sys.platform != "linux":
        return
    cold: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds):
        for announced in (True, False):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            dataset, images = _dataset(path, most, turn), _mapped(path, most)
            take = dataset.batch if announced else lambda rows, images=images: np.take(images, rows, axis=0)
            cold[announced].append(median(_times(take, most, 20, turn)))
    yield _row(f"batch of {BATCH} of {most:,} pictures, not in memory", cold[True], cold[False], "ms", min)


def _dataset(path: Path, count: int, seed: int) -> Dataset:
    """As after many additions: no order at all."""
    return Dataset(images=_mapped(path, count), rows=np.random.default_rng(seed).permutation(count))


def _mapped(path: Path, count: int) -> NDArray[np.uint8]:
    return np.asarray(np.memmap(path, np.uint8, mode="r", shape=(count, 3, SIDE, SIDE)))


def _times(take: Callable[[NDArray[np.int64]], object], count: int, turns: int, seed: int) -> list[float]:
    random = np.random.default_rng(seed)
    wanted = [random.integers(0, count, BATCH) for _ in range(turns)]
    return [1e3 * _timed(lambda indices=indices: take(indices))[0] for indices in wanted]


def _write(path: Path, count: int) -> None:
    block = np.random.default_rng(0).bytes(min(count, 4000) * ONE)
    with path.open("wb", buffering=0) as file:
        for start in range(0, count, 4000):
            file.write(memoryview(block)[: min(4000, count - start) * ONE])
        os.fsync(file.fileno())


def _resized(image: Image.Image, how: Image.Resampling) -> Image.Image:
    """The short side fits, the rest is cut off, as in the example."""
    if image.size == (SIDE, SIDE):
        return image
    scale = SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), how)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return image.crop((left, top, left + SIDE, top + SIDE))


def _normalised(image: Image.Image) -> Tensor:
    """Resize, crop, ToTensor and Normalize of the example."""
    pixels = np.array(_resized(image, Image.Resampling.BILINEAR))
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)
    return scaled.sub_(0.5).div_(0.5)


def _make(folder: Path, kind: str, size: int, count: int) -> None:
    """Files with soft forms and fine grain, which compress about as photographs do; 50 different ones."""
    folder.mkdir()
    random = np.random.default_rng(0)
    contents = []
    for _ in range(min(50, count)):
        soft = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size))
        grain = random.integers(-6, 7, (size, size, 3))
        file = io.BytesIO()
        Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)).save(file, kind, quality=90)
        contents.append(file.getvalue())
    for index in range(count):
        (folder / f"{index:06}").with_suffix(f".{kind.lower()}").write_bytes(contents[index % len(contents)])


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def _row(name: str, ours: list[float], peer: list[float], unit: str, best: Callable[[list[float]], float]) -> Row:
    mine, theirs = median(ours), median(peer) if peer else None
    return {
        "name": name,
        "ours": mine,
        "peer": theirs,
        "ratio": None if theirs is None else mine / theirs,
        "unit": unit,
        "best": {"ours": best(ours), "peer": best(peer) if peer else None},
        "rounds": {"ours": ours, "peer": peer},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description="From files to batches.")
    parser.add_argument("--json", action="store_true", help="a list of {name, ours, peer, ratio, unit, …} on stdout")
    parser.add_argument("--quick", action="store_true", help="few pictures, one round: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; the median counts (default: 3)")
    parser.add_argument("--most", type=int, default=1_000_000, help="pictures of the largest set of batches")
    parser.add_argument("--only", choices=["loading", "batches"], help="one of the two questions")
    options = parser.parse_args()
    rounds = 1 if options.quick else max(1, options.rounds)
    kinds = [("PNG", 64, 200 if options.quick else 6000), ("JPEG", 512, 20 if options.quick else 600)]
    counts = [100, 1000] if options.quick else sorted({min(n, options.most) for n in (1000, 100_000, options.most)})
    torch.set_num_threads(1)
    keep_freed_memory()
    datasets.disable_progress_bars()
    about = {"cores": CORES, "torch": torch.__version__, "pillow": PIL.__version__, "date": date.today().isoformat()}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fromnoise-bench-") as name:
        if options.only != "batches":
            rows += [row for kind in kinds for row in loading(*kind, rounds, Path(name))]
        if options.only != "loading":
            rows += batches(counts, rounds, Path(name))
    rows = [{**row, **about} for row in rows]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{CORES} cores, PyTorch {torch.__version__}, Pillow {PIL.__version__}, {about['date']}; {rounds} rounds")
    for row in rows:
        peer = f"{_figure(row, 'peer')} {row['ratio']:8.2f}×" if row["peer"] else ""
        print(f"{row['name']:67} {_figure(row, 'ours')} {peer}  {row['unit']}")
    return 0


def _figure(row: Row, side: str) -> str:
    places = 2 if row["unit"] == "ms" else 0
    return f"{row[side]:9,.{places}f} (best {row['best'][side]:,.{places}f})"


if __name__ == "__main__":
    sys.exit(main())
