"""``fromnoise inspect``."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from fromnoise.config import DataSettings, parse
from fromnoise.console import follow
from fromnoise.data import auto_channels
from fromnoise.data.auto import auto_side
from fromnoise.data.source import printable
from fromnoise.errors import WrongUse
from fromnoise.schema import merge
from fromnoise.task import inspect as task
from fromnoise.task.inspect_clean import Cleaned, refuse_place, write_clean
from fromnoise.task.inspect_facts import as_dict
from fromnoise.task.prepare import open_data, what_is_seen
from fromnoise.verb.common import program, sets, size_of


def inspect(args: Any, words: list[str]) -> int:
    """What is in a data set, what the network will see of it, and what is broken; 1 if nothing is usable."""
    data = _settings(args)
    _refuse_copies_for_nothing(args)
    if args.write_clean is not None:
        refuse_place(args.write_clean, args.data)  # now, and not after an hour of reading
    source = open_data(data)
    height = data.height or data.width or auto_side(source)
    fit = what_is_seen(data, height, data.width or height, data.channels or auto_channels(source))
    out = args.out or _usual_place(args.data)
    last = follow(task.inspect(source, fit, name=args.data, out=out))
    assert isinstance(last, task.Inspected)
    cleaned = None
    if args.write_clean is not None and last.usable:
        copies, near_copies = not args.no_copies, not args.no_near_copies
        cleaned = follow(write_clean(source, last, args.write_clean, copies=copies, near_copies=near_copies))
        assert isinstance(cleaned, Cleaned)
    if args.json:
        lines = [{"level": line.level, "text": line.text} for line in last.verdict]
        files = [str(path) for path in last.files]
        result = {"verdict": lines, **as_dict(last.facts), "files": files}
        if cleaned is not None:
            result["clean"] = {"path": str(cleaned.path), "pictures": cleaned.pictures, "left_out": cleaned.left_out}
        print(json.dumps(result, allow_nan=False))
        return 0 if last.usable else 1
    for line in last.verdict:
        print(f"{'!' if line.level == 'bad' else ' '} {line.text}")
    print(f"written: {', '.join(printable(str(path)) for path in last.files)}")
    if cleaned is not None:
        left_out = f", {cleaned.left_out:,} are left out" if cleaned.left_out else ""
        print(f"copied: {cleaned.pictures:,} pictures to {printable(str(cleaned.path))}{left_out}")
    if last.usable:
        print(f"next: {_next(args, f'{fit.height}x{fit.width}')}")
    return 0 if last.usable else 1


def _settings(args: Any) -> DataSettings:
    """What was said, as training would take it; --set has the last word."""
    said: dict[str, Any] = {"path": args.data}
    if args.resolution is not None:
        said["height"], said["width"] = size_of(args.resolution)
    said |= {name: getattr(args, name) for name in ("channels", "fit", "labels") if getattr(args, name) is not None}
    said |= {"classes": True} if args.classes else {}
    tree = sets(args)
    other = next((section for section in tree if section != "data"), None)
    if other is not None:
        raise WrongUse(f"--set {other}: inspecting heeds settings data.key=value alone")
    data = parse(merge({"data": said}, tree), "the settings").data
    if data.path != args.data:
        raise WrongUse(f"--set data.path={printable(data.path)}: what to inspect is DATA, {printable(args.data)}")
    return data


def _refuse_copies_for_nothing(args: Any) -> None:
    for option, given in (("--no-copies", args.no_copies), ("--no-near-copies", args.no_near_copies)):
        if given and args.write_clean is None:
            raise WrongUse(f"{option} says what --write-clean DIR leaves out; nothing is left out without a copy")


def _usual_place(data: str) -> Path:
    """The folder inspected/NAME here; or beside the data, where here is in the data."""
    place = Path(data).resolve()
    name = re.sub(r"[^\w.+-]+", "-", place.name.partition("?")[0]).strip("-.") or "data"
    inside = place.is_dir() and Path.cwd().is_relative_to(place)
    return (place.parent if inside else Path()) / "inspected" / name


def _next(args: Any, size: str) -> str:
    """How to train on what was shown."""
    line = ["train", args.data, "--resolution", size]
    for name in ("channels", "fit", "labels"):
        if getattr(args, name) is not None:
            line += [f"--{name}", str(getattr(args, name))]
    line += ["--classes"] if args.classes else []
    for text in args.set:
        line += ["--set", text]
    return f"{program()} {printable(shlex.join(line))}"
