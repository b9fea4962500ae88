"""What ``fromnoise sample`` is guided by, apart from the labels of its own model: a weaker run, or a classifier."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.config import sampled_as
from fromnoise.console import say
from fromnoise.denoiser import Estimator
from fromnoise.errors import WrongUse
from fromnoise.guidance import Auto, Classifier, Classify
from fromnoise.run import Run, open_run, with_config


def guided(run: Run, args: Any) -> Run:
    """The run, pushed away from a weaker one or towards what a classifier says. Raises ``WrongUse``."""
    if args.weak is None and args.classifier is None:
        return run
    if args.guidance is None:
        raise WrongUse("--weak and --classifier need --guidance W, how strongly to push (for one 1.5)")
    pipeline = run.pipeline
    if args.weak is not None:
        weak = _weak(run, args)
        return replace(run, pipeline=replace(pipeline, denoiser=Auto(pipeline.denoiser, weak, args.guidance)))
    classify, count = _classifier(args.classifier, run)
    if run.classes and count != len(run.classes):
        raise WrongUse(f"--classifier {args.classifier}: knows {count} classes, and this model {len(run.classes)}")
    denoiser = Classifier(pipeline.denoiser, classify, args.guidance, conditional=bool(run.classes))
    classes = run.classes or tuple(str(k) for k in range(count))  # Of a model without any, the classifier's own.
    return replace(run, pipeline=replace(pipeline, denoiser=denoiser, classes=classes))


def _weak(run: Run, args: Any) -> Estimator:
    weak = open_run(args.weak, device=args.device)
    for warning in weak.warnings:
        say(f"fromnoise: {warning}")
    if weak.pipeline.quantities.names != run.pipeline.quantities.names:
        theirs, mine = (", ".join(r.pipeline.quantities.names) or "no values" for r in (weak, run))
        raise WrongUse(f"--weak {args.weak}: was trained with {theirs}; this model with {mine}")
    if weak.pipeline.shape != run.pipeline.shape or weak.classes != run.classes:
        mine, other = (f"{'x'.join(map(str, r.pipeline.shape))} with {len(r.classes)} classes" for r in (run, weak))
        same = ", but others" if mine == other else ""
        raise WrongUse(
            f"--weak {args.weak}: makes pictures of (channels x height x width) {other}{same}; this model makes {mine}"
        )
    return with_config(weak, sampled_as(weak.config, guidance=1.0)).pipeline.denoiser


def _classifier(name: str, run: Run) -> tuple[Classify, int]:
    """The callable, and how many classes it knows."""
    classify = _imported(name)
    if isinstance(classify, nn.Module):
        classify = classify.to(run.pipeline.device).eval()
    x = torch.zeros(1, *run.pipeline.shape, device=run.pipeline.device, requires_grad=True)
    t = torch.full((1,), run.pipeline.denoiser.schedule.horizon, device=x.device)
    try:
        with torch.enable_grad():
            logits: Any = classify(x, t)
    except Exception as error:  # It is somebody's own code.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise WrongUse(
            f"--classifier {name}: fails on x_t of shape {tuple(x.shape)} and t of shape (1,): {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WrongUse(f"--classifier {name}: gives {found} for one picture; should be logits of shape (1, classes)")
    if not logits.requires_grad:
        raise WrongUse(f"--classifier {name}: its logits have no gradient for x_t, so nothing can be guided by them")
    return classify, logits.shape[1]


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise WrongUse(f"--classifier {name}: should look like module:name, a callable (x_t, t) -> logits")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # It is somebody's own code.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise WrongUse(f"--classifier {name}: cannot import {module} from here: {reason}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise WrongUse(f"--classifier {name}: {module} has no callable {attribute!r}")
    return found
