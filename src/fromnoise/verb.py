"""What each verb of the command line does with its arguments. Each returns the exit code."""

import contextlib
import json
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromnoise import memory
from fromnoise import run as runs
from fromnoise.config import learns_variance, parse, to_tree
from fromnoise.console import Meter, follow, say
from fromnoise.errors import INTERRUPTED, WrongUse, nearest
from fromnoise.run import Run
from fromnoise.schema import assignment, merge
from fromnoise.task import demo as demo_task
from fromnoise.task import sample as sample_task
from fromnoise.task import train as train_task
from fromnoise.task.prepare import prepare


def demo(args: Any, words: list[str]) -> int:
    """Train, sample and score on the embedded digits."""
    memory.keep_freed_memory()
    with _stopping() as stop:
        last = follow(demo_task.demo(args.out, _sets(args), device=runs.pick_device(args.device), stop=stop))
    if isinstance(last, train_task.Ended):
        if args.json:
            print(json.dumps({"run": str(last.run), "step": last.step, "images": last.images, "finished": False}))
        return _interrupted(args, words, last)
    assert isinstance(last, demo_task.Scored)
    if args.json:
        names = ("confirmed", "confirmed_real", "frechet", "frechet_floor", "seconds")
        print(json.dumps({"run": str(last.run), **{name: getattr(last, name) for name in names}}))
        return 0
    print(
        f"label confirmed by the nearest real digit: {last.confirmed:.1%} of {last.samples} samples "
        f"(held-out real digits: {last.confirmed_real:.1%})\n"
        f"Fréchet distance in pixel space to {last.samples} held-out real digits: {last.frechet:.3f} "
        f"(of as many other real digits: {last.frechet_floor:.3f})\n"
        f"{last.seconds:.0f} seconds; pictures: {', '.join(str(path) for path in last.pictures)}\n"
        f"next: {_program()} sample {shlex.quote(str(last.run))} --label 7 --out sevens.png"
    )
    return 0


def train(args: Any, words: list[str]) -> int:
    """Train on a folder, or go on."""
    memory.keep_freed_memory()
    device, began = runs.pick_device(args.device), time.perf_counter()
    out = args.out or Path("runs") / (Path(args.data).resolve().name if args.data != "digits" else "digits")
    with _reading() as progress:
        prepared = prepare(_train_tree(args), preset_name=args.preset, source="the settings", progress=progress)
    with _stopping() as stop:
        events = train_task.train_run(prepared.config, prepared.training, out, device=device, stop=stop)
        last = follow(events)
    assert isinstance(last, train_task.Ended)
    if args.json:
        seconds = round(time.perf_counter() - began, 1)
        result = {"run": str(out), "step": last.step, "images": last.images, "finished": last.finished}
        print(json.dumps({**result, "seconds": seconds}))
    if not last.finished:
        return _interrupted(args, words, last)
    if not args.json:
        print(f"trained: {out}, {last.images:,} pictures seen")
        print(f"next: {_program()} sample {shlex.quote(str(out))} --out s.png")
    return 0


def sample(args: Any, words: list[str]) -> int:
    """Draw pictures from what was trained."""
    memory.keep_freed_memory()
    if args.out is None:
        raise WrongUse("--out is missing: name a .png for a grid, an .npz for arrays, or a folder for single pictures")
    began = time.perf_counter()
    run = runs.open_run(args.run_path, weights=args.weights, device=args.device)
    for warning in run.warnings:
        say(f"fromnoise: {warning}")
    run = _sampled_as(run, args)
    labels = _labels(args.label, run.classes, args.n)
    events = sample_task.draw(
        run, args.n, seed=args.seed, labels=labels, batch_size=args.batch_size, out=args.out, overwrite=args.overwrite
    )
    last = follow(events)
    assert isinstance(last, sample_task.Drawn)
    seconds = round(time.perf_counter() - began, 1)
    if args.json:
        result = {"out": str(args.out), "n": args.n, "seed": args.seed, "nfe": last.nfe, "seconds": seconds}
        print(json.dumps({**result, "labels": last.labels}))
    else:
        seeds = f"seeds {args.seed} to {args.seed + args.n - 1}"
        print(f"{args.out}: {args.n} pictures, {seeds}, {last.nfe} steps, {seconds} s")
    return 0


def _program() -> str:
    """What to type for this program: its name if the shell finds it, else the path it was called by."""
    called = sys.argv[0]
    return called if Path(called).name == "fromnoise" and shutil.which("fromnoise") is None else "fromnoise"


def _sets(args: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for text in args.set:
        tree = merge(tree, assignment(text))
    return tree


def _train_tree(args: Any) -> dict[str, Any]:
    """What was said on the command line, as settings; --set has the last word."""
    data: dict[str, Any] = {"path": args.data}
    lengths = {name: getattr(args, name) for name in ("steps", "epochs", "images") if getattr(args, name) is not None}
    if args.resolution is not None:
        height, by, width = args.resolution.lower().partition("x")
        width = width if by else height
        if not height.isdecimal() or not width.isdecimal():
            raise WrongUse(
                f"--resolution {args.resolution}: should be a number of pixels such as 64, or HxW such as 64x96"
            )
        data |= {"height": int(height), "width": int(width)}
    data |= {name: True for name in ("classes", "strict") if getattr(args, name)}
    return merge({"data": data, "train": lengths | ({"flip": True} if args.flip else {})}, _sets(args))


def _sampled_as(run: Run, args: Any) -> Run:
    """The run with another number of steps, variance or any [sampling] setting."""
    tree = _sets(args)
    for section in tree:
        if section != "sampling":
            raise WrongUse(f"--set {section}.…: sampling cannot change how the model was made; only sampling.… is open")
    horizon = int(run.pipeline.denoiser.schedule.horizon)
    if args.steps is not None:
        spacing = {"kind": "strided", "steps": args.steps}
        if not 1 <= args.steps <= horizon:
            raise WrongUse(f"--steps {args.steps}: this model allows 1 to {horizon}")
        tree = merge({"sampling": {"spacing": "all" if args.steps == horizon else spacing}}, tree)
    variance = args.variance
    if variance is None and args.steps is not None and args.steps < horizon and not learns_variance(run.config):
        variance = "small"  # Large steps with the upper variance leave noise in the picture.
    if variance is not None:
        tree = merge({"sampling": {"sampler": {"variance": {"kind": variance}}}}, tree)
    if not tree:
        return run
    config = parse(merge(to_tree(run.config), tree), "--set")
    return runs.with_config(run, config)


def _labels(text: str | None, classes: tuple[str, ...], n: int) -> list[int] | None:
    """Names or numbers, separated by commas, taken in turn; without any, every class in turn."""
    if text is None:
        return [k % len(classes) for k in range(n)] if classes else None
    if not classes:
        raise WrongUse(f"--label {text}: this model was trained without classes")
    chosen = []
    for word in text.split(","):
        word = word.strip()
        if word in classes:
            chosen.append(classes.index(word))
        elif word.removeprefix("-").isdecimal():
            if not 0 <= int(word) < len(classes):
                raise WrongUse(
                    f"--label {word}: out of range; this model's classes are numbered 0 to {len(classes) - 1}"
                )
            chosen.append(int(word))
        else:
            raise WrongUse(f"--label {word}: no such class; {nearest(word, classes)}")
    return [chosen[k % len(chosen)] for k in range(n)]


def _interrupted(args: Any, words: list[str], last: train_task.Ended) -> int:
    say(
        f"fromnoise: stopped and saved at {last.images:,} pictures in {last.run}; go on with: "
        f"{shlex.join([_program(), *words])}"
    )
    return INTERRUPTED


@contextlib.contextmanager
def _reading() -> Iterator[Any]:
    """A bar for decoding, shown once there is something to decode."""
    with contextlib.ExitStack() as stack:
        meters: list[Meter] = []

        def progress(done: int, total: int) -> None:
            if not meters:
                meters.append(stack.enter_context(Meter("reading", total)))
            meters[0].show(done)

        yield progress


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask for a stop after the step at hand; a second one ends at once."""
    stop, before = threading.Event(), {}

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("fromnoise: stopping after this step, and saving (once more to stop at once)")

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
