"""What ``fromnoise sample`` is asked for: classes, sets of labels, values; each taken in turn, over all pictures.

``--label cat,dog`` are two classes in turn. Of a model that was trained with several labels a picture, ``--label
dog+outside,cat`` are two sets in turn: the labels named are 1, the others 0. ``--value age=20,60`` are two numbers in
turn; a number that is not said is at its mean, a label at 0. What the first model calls a class is one of many that
exclude each other; sets of labels and numbers are columns of values, and may be mixed.
"""

from typing import Any

from fromnoise.console import say
from fromnoise.errors import WrongUse, nearest
from fromnoise.run import Run
from fromnoise.task.edit import Between, Edit

Rows = list[list[float]]


def conditions(args: Any, run: Run, edit: Edit) -> tuple[list[int] | None, Rows | None]:
    """A class number and a row of values for each picture; ``None`` where there is nothing to say.

    Without a wish, every class and then the next example of values in turn. Raises ``WrongUse`` for wishes that the
    model does not know.
    """
    known, sets = run.pipeline.quantities, args.label is not None and not run.classes
    if args.value and not known:
        raise WrongUse(f"--value {args.value[0]}: this model was trained without values")
    if sets and not known.labels:
        more = f"; what it knows of its pictures is asked for with --value {known.names[0]}=NUMBER" if known else ""
        raise WrongUse(f"--label {args.label}: this model was trained without classes{more}")
    labels = _labels(args, run, edit)
    if sets or args.value:
        return labels, _values(args, run, sets)
    if not known:
        return labels, None
    if isinstance(edit, Between):
        if run.config.train.label_dropout:
            return labels, None
        raise WrongUse("--interpolate needs --value: this model has never gone without (train.label_dropout = 0)")
    return labels, run.pipeline.in_turn(args.n, None if args.label is None else labels)[1]


def _labels(args: Any, run: Run, edit: Edit) -> list[int] | None:
    """Names or numbers, separated by commas, taken in turn; without any, every class in turn."""
    text, classes, n = args.label, run.classes, args.n
    if not classes:
        return None
    if text is None and isinstance(edit, Between):
        # Pictures on a way from one to another change by their place on it alone.
        if run.config.train.label_dropout:
            return None
        raise WrongUse("--interpolate needs --label: this model has never gone without one (train.label_dropout = 0)")
    chosen = range(len(classes)) if text is None else [_label(word.strip(), classes) for word in text.split(",")]
    return [chosen[k % len(chosen)] for k in range(n)]


def _label(word: str, classes: tuple[str, ...]) -> int:
    if word in classes:
        return classes.index(word)
    if not word.removeprefix("-").isdecimal():
        raise WrongUse(f"--label {word}: no such class; {nearest(word, classes)}")
    if not 0 <= int(word) < len(classes):
        raise WrongUse(f"--label {word}: out of range; this model's classes are numbered 0 to {len(classes) - 1}")
    return int(word)


def _values(args: Any, run: Run, sets: bool) -> Rows:
    known, wishes = run.pipeline.quantities, {}
    if sets:
        chosen = [_set(word.strip(), known.labels) for word in args.label.split(",")]
        wishes = {name: [float(name in one) for one in chosen] for name in known.labels}
    numbers: dict[str, list[float]] = {}
    for text in args.value:
        name, equals, given = text.rpartition("=")
        try:
            several = [float(number) for number in given.split(",")]
        except ValueError:
            several = []
        if not equals or not name or not several:
            raise WrongUse(f"--value {text}: should look like NAME=NUMBER, for one {known.names[0]}={known.high[0]:g}")
        if name not in known.names:
            raise WrongUse(f"--value {text}: no such value; {nearest(name, known.names)}")
        numbers.setdefault(name, []).extend(several)
    rows = known.rows(wishes | numbers, args.n)
    for line in known.unseen(rows):
        say(f"fromnoise: {line}")
    silent = [k for k, name in enumerate(known.names) if name not in wishes | numbers and name not in known.labels]
    if silent:
        usual = ", ".join(f"{known.names[k]} = {known.mean[k]:g}" for k in silent)
        say(f"fromnoise: not said, so at its mean: {usual}")
    return rows


def _set(word: str, labels: tuple[str, ...]) -> set[str]:
    """The labels in "dog+outside"; a label that has a plus in it is taken whole."""
    if word in labels:
        return {word}
    parts = [part.strip() for part in word.split("+")]
    for part in parts:
        if part not in labels:
            raise WrongUse(f"--label {part}: no such label; {nearest(part, labels)}")
    return set(parts)
