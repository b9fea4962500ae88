"""How fast pictures get from files to the network: our loading and our batches against a DataLoader with Pillow.

``python -m benchmarks.data [--json] [--quick]``. Two questions, on pictures made for the purpose:

- Pictures a second, 64² PNG and 512² JPEG as 64² RGB. Ours: `load` into an empty cache, every picture decoded, resized
  with Lanczos, written and synced; and then batches of 128 at random from that cache, which is what every later epoch
  is. Peers: PyTorch's DataLoader with as many workers as we have, shuffled, over a data set that opens, converts and
  resizes with Pillow. "Plain" resizes bytes with Lanczos and gives bytes; "as diffusers" is what its training example
  does (bilinear, centre crop, float32 from -1 to 1), without torchvision. They decode in every epoch.
- Milliseconds for a batch of 128 at random from sets of 1,000, 100,000 and 1,000,000 pictures of 64²×3, in a mapped
  file that the system holds in memory; the largest is sparse on the disk.

Everything is read before it is timed, so the disk is not what is measured. A figure is the median of its rounds.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

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

SIDE = 64
BATCH = 128
FIT = Fit(height=SIDE, width=SIDE, channels=3)
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
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


class AsDiffusers(TorchDataset[Tensor]):
    """What the training example of diffusers does, in its order."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = _resized(Image.open(self.paths[index]).convert("RGB"), Image.Resampling.BILINEAR)
        scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return scaled.sub(0.5).div(0.5)


def loading(kind: str, size: int, count: int, rounds: int, folder: Path) -> Iterator[Row]:
    """Pictures a second, for ``count`` files of one kind."""
    pictures = folder / kind
    _make(pictures, kind, size, count)
    for file in pictures.iterdir():
        file.read_bytes()
    rates: dict[str, list[float]] = {"ours": [], "batches": [], "plain": [], "diffusers": []}
    for turn in range(rounds):
        place = Cache(path=folder / f"cache {kind} {turn}")
        seconds, pixels = _timed(lambda place=place: load(Folder(pictures), FIT, cache=place))
        rates["ours"].append(count / seconds)
        order = np.random.default_rng(turn).permutation(count)
        starts = range(0, count, BATCH)
        seconds, _ = _timed(lambda: [pixels.batch(order[start : start + BATCH]) for start in starts])  # noqa: B023
        rates["batches"].append(count / seconds)
        for name, files in (("plain", Plain(pictures)), ("diffusers", AsDiffusers(pictures))):
            loader = DataLoader(files, batch_size=BATCH, shuffle=True, num_workers=CORES)
            seconds, _ = _timed(lambda loader=loader: sum(len(batch) for batch in loader))
            rates[name].append(count / seconds)
    for peer, words in (("plain", "DataLoader, plain"), ("diffusers", "DataLoader, as diffusers")):
        for ours, epoch in (("ours", "first epoch"), ("batches", "every later epoch")):
            yield _row(f"{size}² {kind}, {epoch}, against {words}", rates[ours], rates[peer], "pictures/s")


def batches(count: int, rounds: int, folder: Path) -> Row:
    """Milliseconds for a batch at random from ``count`` pictures."""
    path = folder / f"{count}.u8"
    with path.open("wb") as file:
        file.truncate(count * 3 * SIDE * SIDE)
    images: NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, mode="r", shape=(count, 3, SIDE, SIDE)))
    for start in range(0, count, 4096):
        images[start : start + 4096].sum(dtype=np.uint8)
    random = np.random.default_rng(0)
    dataset = Dataset(images=images, rows=random.permutation(count))  # as after many additions: no order at all
    wanted = [random.integers(0, count, BATCH) for _ in range(50 * rounds + 20)]
    for indices in wanted[:20]:
        dataset.batch(indices)
    times = [1e3 * _timed(lambda indices=indices: dataset.batch(indices))[0] for indices in wanted[20:]]
    path.unlink()
    row = _row(f"batch of {BATCH} of {count:,} pictures", times, [], "ms")
    return {**row, "slowest of 20": float(np.quantile(times, 0.95))}


def _resized(image: Image.Image, how: Image.Resampling) -> Image.Image:
    """The short side fits, the rest is cut off, as in the example."""
    if image.size == (SIDE, SIDE):
        return image
    scale = SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), how)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return image.crop((left, top, left + SIDE, top + SIDE))


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


def _row(name: str, ours: list[float], peer: list[float], unit: str) -> Row:
    mine, theirs = median(ours), median(peer) if peer else None
    return {
        "name": name,
        "ours": mine,
        "peer": theirs,
        "ratio": None if theirs is None else mine / theirs,
        "unit": unit,
        "rounds": {"ours": ours, "peer": peer},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description="From files to batches.")
    parser.add_argument("--json", action="store_true", help="a list of {name, ours, peer, ratio, unit, …} on stdout")
    parser.add_argument("--quick", action="store_true", help="few pictures, one round: does it run at all?")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; the median counts (default: 3)")
    options = parser.parse_args()
    rounds = 1 if options.quick else max(1, options.rounds)
    kinds = [("PNG", 64, 200 if options.quick else 6000), ("JPEG", 512, 20 if options.quick else 600)]
    counts = [100, 1000] if options.quick else [1000, 100_000, 1_000_000]
    torch.set_num_threads(1)
    about = {"cores": CORES, "torch": torch.__version__, "pillow": PIL.__version__, "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory(prefix="fromnoise-bench-") as name:
        folder = Path(name)
        rows = [row for kind in kinds for row in loading(*kind, rounds, folder)]
        rows += [batches(count, rounds, folder) for count in counts]
    rows = [{**row, **about} for row in rows]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{CORES} cores, PyTorch {torch.__version__}, Pillow {PIL.__version__}, {about['date']}; {rounds} rounds")
    for row in rows:
        ours = f"{row['ours']:10,.2f}" if row["unit"] == "ms" else f"{row['ours']:10,.0f}"
        peer = f"{row['peer']:10,.0f} {row['ratio']:8.2f}×" if row["peer"] else f"{'':20}"
        print(f"{row['name']:62} {ours} {peer}  {row['unit']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
