"""``python -m benchmarks``: the table, or with ``--json`` the same as a list of rows."""

import argparse
import json
import sys
from dataclasses import replace

from benchmarks import report
from benchmarks.measure import LARGE, QUICK, TASKS, Plan, measure, more_training, works


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Our training step, network call and sampling against diffusers on the same work and weights.",
    )
    parser.add_argument("--json", action="store_true", help="a list of {name, ours, peer, ratio, unit, …} on stdout")
    parser.add_argument("--quick", action="store_true", help="a small network, one round: does it run at all?")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128], help="base channels (default: 64 128)")
    parser.add_argument(
        "--batch", type=int, help=f"pictures in a batch (default: 16 on a CPU, and {LARGE} in training; 128 on a GPU)"
    )
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side; the median counts (default: 6)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="least length of a turn, run twice, the second timed (default: 2)"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="of the training step (default: the paper's 0.1)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--compile", action="store_true", help="both sides compiled, too (minutes on a CPU)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="only some of what is measured")
    options = parser.parse_args()
    if options.batch is not None and options.batch < 1:
        parser.error("--batch must be at least 1")
    if options.rounds < 1 or not all(c > 0 and c % 32 == 0 for c in options.channels):
        parser.error(
            "--rounds must be at least 1 and --channels multiples of 32 (diffusers has 32 groups in all norms)"
        )
    plan = replace(QUICK, tasks=tuple(options.tasks))
    if not options.quick:
        plan = Plan(
            works=works(options.channels, options.compile, options.dropout, options.batch),
            training=() if options.batch else more_training(options.dropout),
            tasks=tuple(options.tasks),
            device=options.device,
            rounds=options.rounds,
            seconds=options.seconds,
        )
    try:
        rows = [row for some in measure(plan) for row in some]
    except RuntimeError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        report.show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
