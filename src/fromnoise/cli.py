"""The command line: arguments in, events printed.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted (after saving). With --json, stdout has one JSON object and
nothing else. torch is imported only when a verb runs, so that --help answers at once.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fromnoise import __version__
from fromnoise.errors import INTERRUPTED, FromnoiseError, Lost, WrongUse, nearest
from fromnoise.memory import is_shortage
from fromnoise.worker import here


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    with _ending_on_request():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    worker = here()
    if worker is None:
        code, wrong, _ = _run(words)
        if wrong is not None:
            _complain(wrong)
        return code
    code = worker.begin()
    if code is not None:
        return code
    with worker.silence(debug="--debug" in words):
        code, wrong, died = _run(words)
    speaks, told = worker.end(code, died=died)
    if wrong is not None and (worker.tells() if died else speaks):
        _complain(wrong)
    return told


def _run(words: list[str]) -> tuple[int, str | None, bool]:
    """The exit code, what to say of it, and whether this is a worker's death that a new start may mend.

    So is all that nobody foresaw: a fault of a GPU comes as an error of Python's, too. What comes again ends with the
    launcher's patience.
    """
    debug = "--debug" in words
    try:
        args = _parser().parse_args(words)
        if args.verb is None:
            _parser().print_help()
            return 0, None, False
        verb = importlib.import_module("fromnoise.verb")  # Only now, for it brings torch.
        code: int = getattr(verb, args.verb)(args, words)
        sys.stdout.flush()  # Here, where a pipe that was closed is no fault, and not when Python ends.
        return code, None, False
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted", False
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # Else Python tries once more at its end, and complains.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, None, False
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, FromnoiseError) else _out_of_memory(error)
        if isinstance(known, Lost):  # Of another process, which has said why if it could.
            return known.exit_code, None, True
        if known is not None:
            return known.exit_code, str(known), False
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return 1, f"{what} (a fault of fromnoise; --debug shows where)", True


@contextlib.contextmanager
def _ending_on_request() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C, from the first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _: object) -> None:
        worker = here()
        if worker is not None and worker.torn_down():
            raise Lost("another process is gone")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(text: str) -> None:
    print(f"fromnoise: {text}", file=sys.stderr, flush=True)


def _out_of_memory(error: Exception) -> FromnoiseError | None:
    if is_shortage(error):
        return FromnoiseError(
            "not enough memory: train with --micro-batch auto (the same steps, in parts that fit), or lower "
            "train.batch_size; for sampling lower --batch-size"
        )
    return None


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, with the nearest known option or verb."""

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} ({self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is not known; {nearest(str(value), action.choices)}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            verbs: dict[str, argparse.ArgumentParser] = getattr(self, "verbs", {})
            parser = verbs.get(getattr(found, "verb", ""), self)
            known = [word for action in parser._actions for word in action.option_strings]
            first = rest[0].partition("=")[0]
            hint = f"; {nearest(first, known)}" if first.startswith("-") else ""
            raise WrongUse(f"unexpected {first!r}{hint} ({parser.prog} --help)")
        return found


def _parser() -> _Parser:
    parser = _Parser(
        prog="fromnoise",
        description="Pictures from noise: train, sample and score diffusion models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fromnoise {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    demo = _verb(verbs, "demo", "the embedded digits: train, sample, score, in minutes on a CPU")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN", help="run folder (runs/demo)")
    _settings(demo)

    inspect = _verb(verbs, "inspect", "what is in a data set, what the network will see of it, and what is broken")
    inspect.add_argument("data", metavar="DATA", help="pictures in any form; nothing of them is changed")
    inspect.add_argument(
        "--out", type=Path, metavar="DIR", help="where the page and the facts go (inspected/ and the name)"
    )
    inspect.add_argument(
        "--resolution", metavar="N|HxW", help="size in pixels to look at them in (what most of them fill)"
    )
    inspect.add_argument("--channels", type=int, metavar="C", help="1, 3 or 4 (what they show)")
    inspect.add_argument("--fit", metavar="HOW", help="crop, pad or stretch other proportions (crop)")
    inspect.add_argument("--classes", action="store_true", help="sub-folders, or the labels of a table, are classes")
    inspect.add_argument("--labels", metavar="TABLE", help="a CSV, JSON or JSONL file with labels, captions or values")
    inspect.add_argument(
        "--set", action="append", default=[], metavar="data.KEY=VALUE", help="any other setting of the data"
    )
    clean = inspect.add_argument_group("a cleaned copy")
    clean.add_argument("--write-clean", type=Path, metavar="DIR", help="copy the usable pictures into a new folder")
    clean.add_argument("--no-copies", action="store_true", help="of pictures with the same pixels only the first")
    clean.add_argument(
        "--no-near-copies", action="store_true", help="of those that look almost the same only the first; see the page"
    )

    train = _verb(verbs, "train", "train on a folder of pictures; goes on by itself if RUN exists")
    train.add_argument(
        "data", metavar="DATA", help="pictures: a folder, .zip, .npz, .parquet, .tar, hub:…, digits or emoji"
    )
    train.add_argument("--out", type=Path, metavar="RUN", help="run folder (runs/ and the name of DATA)")
    _data_and_length(train)
    train.add_argument(
        "--micro-batch", metavar="auto|N", help="compute a batch N pictures at a time; auto: as many as memory holds"
    )
    train.add_argument("--processes", type=int, metavar="N", help="train with so many processes on this machine (1)")
    train.add_argument("--time-limit", metavar="T", help="save and end after so long: 30m, 2h, 1:30:00, or seconds")
    train.add_argument("--dry-run", action="store_true", help="show the settings and do one step; nothing is written")
    _settings(train)

    estimate = _verb(verbs, "estimate", "what a training would take: memory, time, disk, and how much arithmetic")
    estimate.add_argument("data", metavar="DATA", help="pictures, as for train; they are not decoded")
    _data_and_length(estimate)
    _settings(estimate)

    sample = _verb(verbs, "sample", "draw pictures from a run folder or a .safetensors file")
    sample.add_argument(
        "run_path", type=Path, metavar="RUN|FILE", help="a run folder, or one of its .safetensors files"
    )
    sample.add_argument("--out", type=Path, metavar="PATH", help="a .png grid, an .npz, or a folder (needed)")
    sample.add_argument("-n", type=int, default=64, metavar="N", help="how many pictures (64)")
    how = sample.add_argument_group("how")
    how.add_argument("--sampler", metavar="S", help="the solver (the run's; the paper's: ancestral --steps 1000)")
    how.add_argument("--steps", type=int, metavar="K", help="steps of the sampler (the run's)")
    how.add_argument(
        "--eta", type=float, metavar="E", help="share of fresh noise in a step, 0 to 1 (ddim, euler_ancestral)"
    )
    how.add_argument("--variance", metavar="V", help="of ancestral's steps: small, large, learned_range, analytic")
    how.add_argument(
        "--guidance", type=float, metavar="W", help="push towards what is asked for, 1 for none (the run's)"
    )
    by = how.add_mutually_exclusive_group()
    by.add_argument("--weak", type=Path, metavar="RUN", help="a weaker run to be guided away from, instead of no class")
    by.add_argument("--classifier", metavar="MODULE:NAME", help="your own (x_t, t) -> logits, for classifier guidance")
    made = sample.add_argument_group("out of pictures")
    kinds = made.add_mutually_exclusive_group()
    kinds.add_argument("--from", dest="source", type=Path, metavar="PICTURE", help="variations of a picture")
    kinds.add_argument("--inpaint", type=Path, metavar="PICTURE", help="fill in what --mask shows in white")
    kinds.add_argument("--upscale", type=Path, metavar="PICTURE", help="enlarge a picture to the model's size")
    kinds.add_argument("--interpolate", type=Path, nargs=2, metavar="PICTURE", help="N pictures between two")
    kinds.add_argument("--strip", type=int, metavar="K", help="K moments of how each picture came to be")
    made.add_argument(
        "--strength", type=float, metavar="X", help="for --from and --interpolate: how much noise, 0 to 1 (0.5)"
    )
    made.add_argument("--mask", type=Path, metavar="PICTURE", help="for --inpaint, of the same size")
    made.add_argument(
        "--repaint", type=int, metavar="R", help="for --inpaint: RePaint with R passes a step instead of ΠGDM"
    )
    made.add_argument("--fit", action="store_true", help="resize and crop given pictures to the model's size")
    sample.add_argument("--seed", type=int, default=0, metavar="I", help="seed of the first picture (0)")
    sample.add_argument(
        "--label", metavar="L[,L…]", help="class names or numbers, or sets such as dog+outside, taken in turn (all)"
    )
    sample.add_argument(
        "--value", action="append", default=[], metavar="NAME=X[,X…]", help="a number the model knows, taken in turn"
    )
    sample.add_argument("--batch-size", type=int, default=64, metavar="B", help="pictures at a time (64)")
    sample.add_argument("--weights", choices=["ema", "model"], default="ema", help="averaged weights or the last ones")
    sample.add_argument("--columns", type=int, metavar="K", help="of the grid (about as wide as high)")
    sample.add_argument("--compile", action="store_true", help="compile the network first; pays on a GPU")
    sample.add_argument("--processes", type=int, metavar="N", help="draw with so many processes on this machine (1)")
    sample.add_argument("--overwrite", action="store_true", help="write to PATH even if it exists")
    _settings(sample)

    likelihood = _verb(verbs, "likelihood", "how probable a model finds pictures, in bits per dimension")
    likelihood.add_argument("run_path", type=Path, metavar="RUN|FILE", help="a run folder, or a .safetensors file")
    likelihood.add_argument("data", nargs="?", metavar="DATA", help="pictures to score (the run's own)")
    likelihood.add_argument("--fit", action="store_true", help="resize and crop DATA to the model's size")
    likelihood.add_argument("--out", type=Path, metavar="DIR", help="where tables and plots go (RUN/likelihood)")
    likelihood.add_argument("-n", type=int, metavar="N", help="only so many pictures, chosen by chance (all)")
    likelihood.add_argument("--estimate", type=int, metavar="K", help="a quick look from K network calls a picture")
    likelihood.add_argument("--steps", type=int, metavar="K", help="of a shortened chain, or of the flow's solver")
    likelihood.add_argument("--variance", metavar="V", help="small, large, learned_range or analytic (the run's)")
    likelihood.add_argument("--flow", action="store_true", help="by the probability flow instead of the bound")
    likelihood.add_argument("--probes", type=int, metavar="K", help="for --flow: random directions a picture (1)")
    likelihood.add_argument("--exact-divergence", action="store_true", help="for --flow, in place of probes")
    likelihood.add_argument("--tolerance", type=float, metavar="X", help="for --flow: steps that adapt to this error")
    likelihood.add_argument("--seed", type=int, default=0, metavar="I", help="of the noise (0)")
    likelihood.add_argument("--batch-size", type=int, default=64, metavar="B", help="pictures at a time (64)")
    likelihood.add_argument("--processes", type=int, metavar="N", help="score with so many processes here (1)")
    likelihood.add_argument(
        "--weights", choices=["ema", "model"], default="ema", help="averaged weights or the last ones"
    )
    likelihood.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (the GPU if there is one)")

    plot = _verb(verbs, "plot", "curves of one training run or several: loss, gradient, speed, colours, scores")
    plot.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, finished or at work")
    plot.add_argument("--out", type=Path, metavar="PNG", help="where they go (RUN/curves.png; of several ./curves.png)")

    compare = _verb(verbs, "compare", "samplers and numbers of steps side by side: quality against network calls")
    compare.add_argument("run_path", type=Path, metavar="RUN|FILE", help="a run folder, or a .safetensors file")
    compare.add_argument("data", nargs="?", metavar="DATA", help="pictures to compare with (the run's own)")
    compare.add_argument("--fit", action="store_true", help="resize and crop DATA to the model's size")
    compare.add_argument("--out", type=Path, metavar="DIR", help="where table and plot go (RUN/compare)")
    compare.add_argument("-n", type=int, metavar="N", help="how many pictures of each (as many as DATA, at most 1000)")
    compare.add_argument("--samplers", metavar="S[,S…]", help="which samplers (ten of them)")
    compare.add_argument("--steps", metavar="K[,K…]", help="numbers of steps (5,8,10,15,20,50)")
    compare.add_argument("--seed", type=int, default=0, metavar="I", help="seed of the first picture (0)")
    compare.add_argument("--batch-size", type=int, default=256, metavar="B", help="pictures at a time (256)")
    compare.add_argument("--processes", type=int, metavar="N", help="draw with so many processes on this machine (1)")
    compare.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (the GPU if there is one)")

    average = _verb(verbs, "average", "average a run's weights over another stretch of training, afterwards")
    average.add_argument("run_path", type=Path, metavar="RUN", help="a run folder with snapshots of averages")
    average.add_argument("--width", type=float, required=True, metavar="X", help="spread, as a share of the run: 0.08")
    average.add_argument("--images", type=int, metavar="N", help="as of so many pictures seen (the last snapshot)")
    average.add_argument("--out", type=Path, metavar="FILE", help="a .safetensors file (RUN/average-X.safetensors)")
    average.add_argument("--overwrite", action="store_true", help="write to FILE even if it exists")
    parser.verbs = verbs.choices  # type: ignore[attr-defined]
    return parser


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _data_and_length(parser: argparse.ArgumentParser) -> None:
    """What train and estimate are told alike."""
    parser.add_argument("--preset", metavar="P", help="a shipped preset or a .toml file (chosen by the pictures' size)")
    parser.add_argument("--resolution", metavar="N|HxW", help="size of the pictures in pixels (what most of them fill)")
    parser.add_argument("--channels", type=int, metavar="C", help="1, 3 or 4 (what the pictures show; 4 keeps alpha)")
    parser.add_argument("--fit", metavar="HOW", help="crop, pad or stretch other proportions (crop)")
    parser.add_argument("--classes", action="store_true", help="sub-folders, or the labels of a table, are classes")
    parser.add_argument("--labels", metavar="TABLE", help="a CSV, JSON or JSONL file with a label or caption a picture")
    parser.add_argument("--flip", action="store_true", help="mirror every second picture, by chance")
    parser.add_argument("--strict", action="store_true", help="refuse unreadable pictures instead of skipping them")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="length of the run in optimizer steps")
    length.add_argument("--epochs", type=float, metavar="N", help="length in passes over the data")
    length.add_argument("--images", type=int, metavar="N", help="length in pictures seen")


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (the GPU if there is one)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="any other setting")
