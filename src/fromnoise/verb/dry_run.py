"""``fromnoise train --dry-run``: what would be trained, and one step of it, in this process alone."""

import json
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from fromnoise.checkpoint import RunFolder
from fromnoise.config import to_toml, to_tree
from fromnoise.console import say
from fromnoise.errors import FromnoiseError
from fromnoise.task.estimate_plan import few, plan
from fromnoise.task.estimate_step import refuse_uneven, steps
from fromnoise.task.recorder import check_watching
from fromnoise.task.resume import refuse_other
from fromnoise.verb.estimate import alone_if_auto, train_tree, with_micro_batch
from fromnoise.verb.processes import crew

_SCORED = 4  # Pictures that a run with scores needs at least.


def dry_run(out: Path, args: Any) -> int:
    """The resolved settings, and one step of the training they describe; nothing is written."""
    processes, device = crew(args)
    alone_if_auto(args.micro_batch, processes)
    planned = plan(train_tree(args), preset_name=args.preset, run=out)
    config = with_micro_batch(args.micro_batch, planned.config, out, device)
    refuse_uneven(config, processes)
    total = config.train.total_steps(len(planned.training))
    refuse_other(RunFolder(out), config)
    pictures = few(planned, max(config.train.batch_size, _SCORED))
    check_watching(config, pictures)
    for remark in (*planned.remarks, *pictures.remarks):
        say(f"fromnoise: {remark}")
    began = time.perf_counter()
    with closing(steps(config, pictures, device, count=1, total=total)) as done:
        learner, report = next(done)
        loss, norm, seconds = report.loss.item(), report.grad_norm.item(), time.perf_counter() - began
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FromnoiseError(
            f"the first step gives a loss of {loss} and a gradient of norm {norm}: look at the data and train.precision"
        )
    parameters = sum(p.numel() for p in learner.network.parameters())
    result = {
        "dry_run": True,
        "run": str(out),
        "pictures": len(planned.training),
        "parameters": parameters,
        "device": str(device),
        "steps": total,
        "loss": loss,
        "grad_norm": norm,
        "seconds": round(seconds, 3),
    }
    if args.json:
        print(json.dumps({**result, "config": to_tree(config)}))
        return 0
    batch_size, known = config.train.batch_size, len(pictures)
    seen = f"{batch_size:,} of the pictures" if batch_size <= known else f"{batch_size:,} pictures out of {known:,}"
    print(
        f"# {len(planned.training):,} pictures; network of {parameters:,} parameters on {device}; {total:,} steps\n"
        f"# one step on {seen}: loss {loss:.4f}, gradient norm {norm:.4g}, {seconds:.2f} seconds with its preparation; "
        f"nothing was written\n"
    )
    print(to_toml(config), end="")
    return 0
