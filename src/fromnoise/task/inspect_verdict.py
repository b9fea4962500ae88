"""What an inspection found, in plain words: one line a finding, what matters most first."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fromnoise.task.inspect_facts import Facts, Sizes

_NAMED = 3
_FEW = 1000  # pictures below which a model soon knows them by heart
_UNEVEN = 10  # times as many pictures in the largest class as in the smallest
_LONGEST = 80  # characters of a name
_FLAT = 0.1  # deviation, on −1 … 1, below which there is hardly any contrast

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Line:
    """One finding: ``good``, a ``note``, or ``bad`` where pictures are lost or wasted."""

    level: Level
    text: str


def verdict(facts: Facts) -> tuple[Line, ...]:
    """The findings; the first says how many pictures can be used. Names are given from the source on, long ones cut."""
    return tuple(_lines(_shortened(facts)))


def size_text(nbytes: float) -> str:
    """Bytes as a person says them: 512 bytes, 46.5 MB, 1.2 TB; decimal units."""
    if nbytes < 1000:
        return f"{nbytes:.0f} bytes"
    power = next((k for k in (1, 2, 3) if nbytes < 999.5 * 1000**k), 4)
    number = nbytes / 1000**power
    return f"{number:,.{1 if number < 100 else 0}f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def share_text(part: int, whole: int) -> str:
    """A share in per cent, never rounded to nothing or to all: "<1 %", "37 %", ">99 %"."""
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1 %"
    return ">99 %" if 99 < share < 100 else f"{share:.0f} %"


def _shortened(facts: Facts) -> Facts:
    above = f"{facts.source.rstrip('/')}/"

    def below(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(_brief(name, above) for name in group) for group in groups)

    return replace(
        facts,
        unreadable=tuple(replace(problem, name=_brief(problem.name, above)) for problem in facts.unreadable),
        copies=below(facts.copies),
        near_copies=None if facts.near_copies is None else below(facts.near_copies),
        contradictions=below(facts.contradictions),
        blank=below((facts.blank,))[0],
    )


def _brief(name: str, above: str) -> str:
    """``name`` below ``above``, of a length that leaves a line readable."""
    name = name.removeprefix(above)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"


def _lines(facts: Facts) -> Iterator[Line]:
    if not facts.usable:
        yield Line("bad", f"nothing can be used: none of {_count(facts.pictures)} can be read")
    elif facts.usable == facts.pictures:
        yield Line("good", f"all {_count(facts.pictures)} can be read")
    else:
        yield Line("note", f"{facts.usable:,} of {_count(facts.pictures)} can be used")
    yield from _unreadable(facts)
    yield from (Line("note", text) for text in facts.remarks)
    if facts.sizes is None:
        return
    yield from _copies(facts)
    yield from _sizes(facts, facts.sizes)
    yield from _pixels(facts)
    yield from _conditions(facts)
    fits = "they fit into" if facts.cache_bytes <= facts.free_memory // 2 else "they do not fit well into"
    yield Line(
        "good",
        f"decoded they take {size_text(facts.cache_bytes)} on the disk; {fits} the {size_text(facts.free_memory)} of "
        "memory that are free",
    )
    yield from _advice(facts)


def _unreadable(facts: Facts) -> Iterator[Line]:
    if not facts.unreadable:
        return
    kinds = Counter(problem.kind for problem in facts.unreadable)
    what = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    named = _some([f"{problem.name} ({problem.why})" for problem in facts.unreadable])
    yield Line("bad", f"{_count(len(facts.unreadable))} cannot be read ({what}): {named}")


def _copies(facts: Facts) -> Iterator[Line]:
    spare = sum(len(group) - 1 for group in facts.copies)
    if spare:
        what = "is an exact copy of another" if spare == 1 else "are exact copies of others"
        yield Line("bad", f"{_count(spare)} {what}: {_pairs(facts.copies)}")
    if facts.contradictions:
        yield Line(
            "bad",
            f"{_count(len(facts.contradictions))} {_are(len(facts.contradictions))} in several classes at once: "
            f"{_pairs(facts.contradictions)}",
        )
    if facts.near_copies is None:
        yield Line("note", "near copies were not looked for: there is too little free memory for so many pictures")
        return
    spare = sum(len(group) - 1 for group in facts.near_copies)
    if spare:
        what = "is almost the same as another" if spare == 1 else "are almost the same as others"
        yield Line("note", f"{_count(spare)} {what}: {_pairs(facts.near_copies)}")
    elif not facts.copies:
        yield Line("good", "no picture is a copy, or nearly a copy, of another")


def _sizes(facts: Facts, sizes: Sizes) -> Iterator[Line]:
    height, width = facts.fit["height"], facts.fit["width"]
    (most_high, most_wide, number), target = sizes.common[0], f"{height}x{width}"
    if sizes.different == 1:
        what = f"all are {most_high}x{most_wide}"
    elif 2 * number > facts.usable:
        what = f"most are {most_high}x{most_wide}"
    else:
        what = (
            f"heights from {sizes.height.least:.0f} to {sizes.height.greatest:.0f}, widths from "
            f"{sizes.width.least:.0f} to {sizes.width.greatest:.0f}, in the middle {sizes.height.middle:.0f} and "
            f"{sizes.width.middle:.0f}"
        )
    if sizes.enlarged:
        share = share_text(sizes.enlarged, facts.usable)
        level = "bad" if 2 * sizes.enlarged > facts.usable else "note"
        hint = f"; {sizes_hint}" if (sizes_hint := _smaller(facts, sizes)) else ""
        yield Line(level, f"{what} (height x width); {share} would be enlarged to {target}{hint}")
    else:
        yield Line("good", f"{what} (height x width); none would be enlarged to {target}")
    for share, text in ((sizes.lost, "cuts off"), (sizes.empty, "leaves empty")):
        if share >= 0.01:
            of = "of a picture" if text == "cuts off" else "of the canvas"
            yield Line("note", f'the fit "{facts.fit["fit"]}" {text} {100 * share:.0f} % {of}, on average')
    if sizes.distorted:
        share = share_text(sizes.distorted, facts.usable)
        yield Line("note", f'the fit "{facts.fit["fit"]}" changes the proportions of {share} by more than a tenth')
    if facts.turned:
        yield Line("note", f"{_count(facts.turned)} {_are(facts.turned)} stored turned (EXIF), and set upright")
    if facts.animated:
        is_one = facts.animated == 1
        what = "is an animation or has" if is_one else "are animations or have"
        yield Line("note", f"{_count(facts.animated)} {what} several pages: the first frame is taken")


def _smaller(facts: Facts, sizes: Sizes) -> str:
    advice = facts.advice
    if advice is None or advice.side >= min(facts.fit["height"], facts.fit["width"]):
        return ""
    return f"at {advice.side}x{advice.side} it would be {share_text(sizes.enlarged_at[advice.side], facts.usable)}"


def _pixels(facts: Facts) -> Iterator[Line]:
    channels = len(facts.channels)
    if facts.translucent:
        many = f"{_count(facts.translucent)} {_are(facts.translucent)} transparent in part"
        red, green, blue = facts.fit["background"]
        where = "white" if (red, green, blue) == (255,) * 3 else f"red {red}, green {green}, blue {blue}"
        laid = "their alpha is kept" if channels == 4 else f"laid over {where}"
        more = "" if channels == 4 else "; four channels (data.channels = 4) keep their alpha"
        yield Line("note", f"{many}: {laid}{more}")
    elif channels == 4:
        yield Line("note", "no picture is transparent anywhere: three channels would do")
    if channels > 1 and facts.grey == facts.usable:
        yield Line("note", "no picture has any colour: one channel (data.channels = 1) is enough")
    elif channels > 1 and facts.grey:
        share = share_text(facts.grey, facts.usable)
        yield Line("note", f"{_count(facts.grey)} ({share}) {'has' if facts.grey == 1 else 'have'} no colour")
    if facts.blank:
        many = len(facts.blank)
        yield Line("bad", f"{_count(many)} {_are(many)} one single colour to the network: {_some(facts.blank)}")
    if max(channel.deviation for channel in facts.channels[:3]) < _FLAT:
        yield Line("note", "the pictures have hardly any contrast: their values lie close together (see the histogram)")


def _conditions(facts: Facts) -> Iterator[Line]:
    if facts.classes is not None:
        least, most = min(facts.classes.items(), key=_number), max(facts.classes.items(), key=_number)
        text = f"{len(facts.classes):,} classes with {least[1]:,} ({least[0]}) to {most[1]:,} ({most[0]}) pictures"
        if least[1] == most[1]:
            text = f"{len(facts.classes):,} classes with {most[1]:,} pictures each"
        if len(facts.classes) < 2:
            yield Line("bad", f"there is only one class ({most[0]}): train without classes")
        elif not least[1]:
            yield Line("bad", f"{text}: a class without a usable picture cannot be learned")
        elif most[1] > _UNEVEN * least[1]:
            yield Line("note", f"{text}: the small ones will be learned badly")
        else:
            yield Line("good", text)
    if facts.captions is not None:
        missing = facts.usable - facts.captions
        yield Line("note" if missing else "good", f"{facts.captions:,} have a caption, {missing:,} have none")
    if facts.values is not None:
        yield Line("good", f"numbers to condition on: {_some(list(facts.values))}")


def _advice(facts: Facts) -> Iterator[Line]:
    advice = facts.advice
    if advice is None:
        return
    distinct = facts.usable - sum(len(group) - 1 for group in facts.copies)
    if distinct < _FEW:
        few = f"{_count(distinct)} {_are(distinct)} few"
        yield Line("note", f"{few}: a model will soon repeat them; hold some out, and compare")
    times = f"{advice.epochs:,.0f}" if advice.epochs >= 10 else f"{advice.epochs:.1f}"
    why = ", shorter than the preset's own, for there are few pictures" if advice.shortened else ""
    yield Line(
        "good",
        f"to train: preset {advice.preset} at {facts.fit['height']}x{facts.fit['width']}, {advice.steps:,} steps of "
        f"{advice.batch_size} pictures, each seen about {times} times{why} (a guess, not a measurement)",
    )


def _pairs(groups: Sequence[Sequence[str]]) -> str:
    """ "b and c of a; d of e; and 3 more groups"."""
    texts = []
    for first, *others in groups[:_NAMED]:
        named = " and ".join(others[:2])
        texts.append(f"{named}{f' and {len(others) - 2:,} more' if len(others) > 2 else ''} of {first}")
    if len(groups) > _NAMED:
        rest = len(groups) - _NAMED
        texts.append(f"and {rest:,} more group{'s' if rest > 1 else ''}")
    return "; ".join(texts)


def _some(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def _count(number: int) -> str:
    return "1 picture" if number == 1 else f"{number:,} pictures"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _number(item: tuple[str, int]) -> int:
    return item[1]
