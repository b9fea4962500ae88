"""What a training step takes on N processes: a model of it, and a check of the model on this machine.

    python -m benchmarks.scale                      the table of docs/scale.md: predictions, nothing is measured
    torchrun --standalone --nproc-per-node 2 -m benchmarks.scale --measure      one process against two, here

With b pictures a process, f operations a picture, P parameters and N processes, c of them on a machine:

    compute     C = b · f / F                               F: operations a second that a process sustains
    all-reduce  R = 2 (N − 1)/N · 4 P / B + 2 ⌈log₂ N⌉ · a   B: bytes a second, a: seconds a message (ring; tree for a)
    agreement   A = 2 ⌈log₂ N⌉ · a + 2 (N − 1) · g           losses, and whether anybody asks for a stop (g, by a ring)
    step        S = max(C + max(R − o · ⅔ C, R / k), A)      o: share of the backward pass that hides traffic

The backward pass is two thirds of C. Gradients travel in k buckets while it computes; the last bucket has nothing to
hide behind. The agreement goes on beside the devices and matters only if it takes longer than their step.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

BUCKET = 25 * 2**20  # bytes, DDP's own


@dataclass(frozen=True, kw_only=True)
class Machines:
    """``inside`` and ``between`` are the bytes a second of an all-reduce on one machine and across several."""

    operations: float
    on_each: int
    inside: float
    between: float
    message: float
    agreement: float
    overlap: float


@dataclass(frozen=True)
class Step:
    """Seconds of a step and of its parts; ``bytes`` are those a process sends for its gradients."""

    compute: float
    reduce: float
    exposed: float
    agree: float
    bytes: float

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return max(self.compute + self.exposed, self.agree)


def predict(machines: Machines, n: int, pictures: float, operations: float, parameters: float) -> Step:
    """A step of ``n`` processes with ``pictures`` each, of ``operations`` a picture."""
    compute = pictures * operations / machines.operations
    if n == 1:
        return Step(compute, 0.0, 0.0, 0.0, 0.0)
    sent = 2 * (n - 1) / n * 4 * parameters
    speed = machines.inside if n <= machines.on_each else min(machines.inside, machines.between)
    hops = 2 * math.ceil(math.log2(n)) * machines.message
    reduce = sent / speed + hops
    buckets = max(1, math.ceil(4 * parameters / BUCKET))
    exposed = max(reduce - machines.overlap * 2 / 3 * compute, reduce / buckets)
    return Step(compute, reduce, exposed, hops + 2 * (n - 1) * machines.agreement, sent)


ASSUMED = Machines(
    operations=100e12,
    on_each=8,
    inside=200e9,
    between=40e9,
    message=10e-6,
    agreement=20e-6,
    overlap=0.8,
)
"""Nothing of this was measured: eight GPUs a machine that sustain 100 TFLOP/s each in bfloat16, and a network card each
of 400 Gbit/s, eight tenths of it in use."""

PAPER = (34.7e9, 35.7e6)
"""Operations a picture in training, and parameters, of the preset cifar10, as ``fromnoise estimate`` counts them."""


def table(each: float | None, whole: float | None) -> str:
    """Rows for 1 to 512 GPUs, with ``each`` pictures a GPU, or ``whole`` pictures on all of them."""
    rows = ["| GPUs | pictures a GPU | compute | all-reduce | not hidden | step | pictures/s | efficiency |"]
    rows.append("|--:" * 8 + "|")
    one = None
    for n in (2**k for k in range(10)):
        pictures = each if each is not None else (whole or 0) / n
        step = predict(ASSUMED, n, pictures, *PAPER)
        rate = n * pictures / step.seconds
        one = one or rate
        cells = [f"{1e3 * s:.1f} ms" for s in (step.compute, step.reduce, step.exposed, step.seconds)]
        rows.append(f"| {n} | {pictures:g} | {' | '.join(cells)} | {rate:,.0f} | {rate / n / one:.0%} |")
    return "\n".join(rows)


def measure(pictures: int, rounds: int) -> dict[str, float]:
    """On the CPU, in the processes that torchrun has started: milliseconds, medians. One process, then all together."""
    from fromnoise.network import UNet
    from fromnoise.train.distributed import together

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(3, 3, 64, 1, (8,), (1, 2), resolution=16)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    x, t = torch.randn(pictures, 3, 16, 16), torch.arange(float(pictures))

    def step(called: nn.Module) -> None:
        optimizer.zero_grad()
        called(x, t).square().mean().backward()
        optimizer.step()

    parameters = sum(p.numel() for p in network.parameters())
    found: dict[str, float] = {"parameters": parameters}
    with together(torch.device("cpu")) as team:
        if team.leads:
            found["one process"] = _median(lambda: step(network), rounds)
        team.wait()
        found["all, each for itself"] = _median(lambda: step(network), rounds)
        team.wait()
        flat, small = torch.randn(parameters), torch.randn(1)
        found["all-reduce alone"] = _median(lambda: dist.all_reduce(flat), rounds)
        found["a message"] = _median(lambda: dist.all_reduce(small), 5 * rounds)
        called = team.share(network)
        found["all together"] = _median(lambda: step(called), rounds)
        return found if team.leads else {}


def _median(call: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    return sorted(taken[2:])[rounds // 2]


def main() -> None:
    """Print the table, or what was measured beside what the model says of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="needs torchrun")
    parser.add_argument("--pictures", type=int, default=8, help="a process (8)")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps (15)")
    args = parser.parse_args()
    if not args.measure:
        print(table(64, None) + "\n\n" + table(None, 512))
        return
    found = measure(args.pictures, args.rounds)
    for name, value in found.items():
        print(f"{name:22} {value:,.0f}" if name == "parameters" else f"{name:22} {value:8.2f} ms")
    if found:
        n = int(os.environ["WORLD_SIZE"])
        said = found["all, each for itself"] + found["all-reduce alone"]
        print(f"{'predicted':22} {said:8.2f} ms for {n} processes, nothing hidden")
        print(f"{'measured':22} {found['all together']:8.2f} ms: {found['all together'] / said - 1:+.1%}")


if __name__ == "__main__":
    main()
