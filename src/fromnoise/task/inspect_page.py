"""An inspection as one page that needs nothing else: no script, no other file, no network.

Whatever comes from the data (names of files and classes, messages of decoders) is escaped, and a content security
policy forbids what none of it should be able to do. Pictures are in the page itself; of too many or too large
ones it takes as many as keep it below 2 MB.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromnoise.task import inspect_charts as charts
from fromnoise.task.inspect_facts import Facts
from fromnoise.task.inspect_style import STYLE
from fromnoise.task.inspect_verdict import Line, share_text, size_text

_SHEET_BYTES, _COPIES_BYTES = 1_000_000, 250_000  # of encoded pictures, for the sheet and each kind of copies
_LARGEST = {1: 128, 3: 128, 4: 64}  # pixels of the longer side, by channels
_LOSSLESS = 64  # pixels of the longer side up to which PNG is used
_SMALL = 40  # pixels of the longer side up to which pixels are shown as squares
_ROWS = 200  # of a table; the rest is in the JSON
_LONGEST = 160  # characters of a name
_MARKS = {"good": "✓", "note": "•", "bad": "!"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture as the network sees it, uint8 (C, H, W), what it is called, and its class (or nothing)."""

    name: str
    label: str
    image: NDArray[np.uint8]


def page(
    facts: Facts,
    verdict: Sequence[Line],
    sheet: Sequence[Shown],
    copies: Sequence[Sequence[Shown]],
    near_copies: Sequence[Sequence[Shown]],
) -> str:
    """The whole page, as HTML: the verdict, then what it stands on."""
    name = _clipped(facts.source)
    lines = "".join(
        f'<li class="{line.level}"><b>{_MARKS[line.level]}</b><span>{escape(line.text)}</span></li>' for line in verdict
    )
    parts = [
        f"<header><p>fromnoise inspect</p><h1>{escape(name)}</h1>{_tiles(facts)}</header>",
        f'<section><h2>Verdict</h2><ul class="verdict">{lines}</ul></section>',
        _sheet(facts, sheet),
        _charts(facts),
        _tables(facts),
        _classes(facts),
        _copies("Copies", "Pictures with the same pixels.", len(facts.copies), copies),
        _copies(
            "Near copies",
            "Pictures that look almost the same to the network. Some are meant to be: only a person can tell.",
            len(facts.near_copies or ()),
            near_copies,
        ),
        _unreadable(facts),
        f"<footer>{facts.pictures:,} pictures read in {facts.seconds:.1f} s, {facts.pictures_per_second:,.0f} a "
        "second. All of this, with every name, is in inspect.json beside this page.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} – fromnoise inspect</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def data_uri(image: NDArray[np.uint8]) -> str:
    """A picture (C, H, W) as the address of itself: exact PNG up to 64 pixels, else a smaller JPEG (RGBA: PNG)."""
    channels = len(image)
    picture = Image.fromarray(image[0] if channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    lossless = channels == 4 or max(picture.size) <= _LOSSLESS
    largest = _LARGEST[channels]
    picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if lossless:
        picture.save(content, "PNG", optimize=True)
    else:
        picture.save(content, "JPEG", quality=85)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _tiles(facts: Facts) -> str:
    fit, advice = facts.fit, facts.advice
    tiles = [
        (f"{facts.usable:,}", "usable pictures" if facts.usable == facts.pictures else f"of {facts.pictures:,} usable"),
        (f"{fit['height']}×{fit['width']}×{fit['channels']}", "to the network"),
        (size_text(facts.cache_bytes), "decoded"),
    ]
    if facts.classes:
        tiles.insert(2, (f"{len(facts.classes):,}", "classes" if len(facts.classes) > 1 else "class"))
    if advice is not None:
        tiles.append((advice.preset, "recommended preset"))
    drawn = "".join(f"<div><b>{escape(bold)}</b><span>{escape(small)}</span></div>" for bold, small in tiles)
    return f'<div class="tiles">{drawn}</div>'


def _sheet(facts: Facts, sheet: Sequence[Shown]) -> str:
    if not sheet:
        return ""
    fit = facts.fit
    drawn = _within(sheet, _SHEET_BYTES)
    pictures = "".join(_figure(shown, uri) for shown, uri in drawn)
    text = (
        f"{fit['height']} × {fit['width']} pixels (height × width), channels: {fit['channels']}, fit: {fit['fit']}, "
        f"filter: {fit['filter']}. {len(drawn)} pictures from all over the data"
        f"{', as evenly as can be from all classes' if facts.classes else ''}."
    )
    kind = "sheet" if max(fit["height"], fit["width"]) > _SMALL else "sheet small"
    return f'<section><h2>What the network sees</h2><p>{escape(text)}</p><div class="{kind}">{pictures}</div></section>'


def _charts(facts: Facts) -> str:
    if facts.sizes is None:
        return ""
    channels = [(channel.name, channel.counts) for channel in facts.channels]
    drawn = [
        ("Short side, pixels", charts.short_sides(facts.sizes.short_sides)),
        ("Width : height", charts.aspects(facts.sizes.aspects)),
        ("Mean brightness of a picture", charts.brightness(facts.brightness)),
        ("Values the network sees (square root, peaks cut)", charts.values(channels)),
    ]
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in drawn)
    return f'<section><h2>Histograms</h2><div class="charts">{figures}</div></section>'


def _tables(facts: Facts) -> str:
    tables = [_counted("Format", facts.formats, facts.pictures), _counted("In the files", facts.kinds, facts.pictures)]
    sizes = facts.sizes
    flags = {
        "with an alpha channel": facts.with_alpha,
        "transparent in part": facts.translucent,
        "without colour": facts.grey,
        "one single colour": len(facts.blank),
        "stored turned (EXIF)": facts.turned,
        "animated, several pages": facts.animated,
        "with a colour profile": facts.profiles,
    }
    tables.append(_counted("Pictures", {name: number for name, number in flags.items() if number}, facts.pictures))
    if sizes is not None:
        common = {f"{height} × {width}": number for height, width, number in sizes.common[:10]}
        if sizes.different > len(common):
            common[f"{sizes.different - len(common):,} other sizes"] = facts.usable - sum(common.values())
        tables.append(_counted("Size (height × width)", common, facts.usable))
        larger = {f"at {side} × {side}": number for side, number in sizes.enlarged_at.items()}
        tables.append(_counted("Would be enlarged", larger, facts.usable))
        rows = [(c.name, f"{c.mean:+.3f}", f"{c.deviation:.3f}") for c in facts.channels]
        tables.append(_table(("On −1 … 1", "mean", "deviation"), rows))
    if facts.values:
        rows = [(n, f"{s.least:g}", f"{s.middle:g}", f"{s.greatest:g}") for n, s in list(facts.values.items())[:_ROWS]]
        tables.append(_table(("Condition", "least", "middle", "greatest"), rows))
    return f'<section><h2>In numbers</h2><div class="tables">{"".join(filter(None, tables))}</div></section>'


def _classes(facts: Facts) -> str:
    if not facts.classes:
        return ""
    most = max(facts.classes.values()) or 1
    ordered = sorted(facts.classes.items(), key=lambda item: -item[1])
    rows = "".join(
        f"<tr><td>{_name(name)}</td><td class=wide><i style=width:{100 * number / most:.1f}%></i></td>"
        f"<td class=n>{number:,}</td></tr>"
        for name, number in ordered[:_ROWS]
    )
    more = f"<p>and {len(ordered) - _ROWS:,} more, in inspect.json</p>" if len(ordered) > _ROWS else ""
    return f'<section><h2>Classes</h2><div class="scroll"><table class=classes>{rows}</table></div>{more}</section>'


def _copies(title: str, text: str, total: int, groups: Sequence[Sequence[Shown]]) -> str:
    if not total:
        return ""
    drawn: list[str] = []
    left = _COPIES_BYTES
    for group in groups:
        figures = [(shown, data_uri(shown.image)) for shown in group]
        left -= sum(len(uri) for _, uri in figures)
        if left < 0:
            break
        drawn.append(f'<div class="group">{"".join(_figure(shown, uri, named=True) for shown, uri in figures)}</div>')
    count = f"{total:,} group{'s' if total > 1 else ''}; {len(drawn)} shown."
    return f'<section><h2>{title}</h2><p>{text} {count}</p><div class="groups">{"".join(drawn)}</div></section>'


def _unreadable(facts: Facts) -> str:
    if not facts.unreadable:
        return ""
    rows = [(problem.name, problem.kind, problem.why) for problem in facts.unreadable[:_ROWS]]
    more = len(facts.unreadable) - len(rows)
    rest = f"<p>and {more:,} more, in inspect.json</p>" if more else ""
    table = _table(("Picture", "", "Why"), rows, kind="problems")
    return f'<section><h2>Cannot be read</h2><div class="scroll">{table}</div>{rest}</section>'


def _within(sheet: Sequence[Shown], most: int) -> list[tuple[Shown, str]]:
    """The pictures with their addresses; every second, fourth … of them where all would be too many bytes."""
    drawn = [(shown, data_uri(shown.image)) for shown in sheet]
    while sum(len(uri) for _, uri in drawn) > most:
        drawn = drawn[::2]
    return drawn


def _figure(shown: Shown, uri: str, named: bool = False) -> str:
    below = shown.label
    if named:  # of a path its last part, after the class
        below = f"{f'{below}: ' if below else ''}{shown.name.rsplit('/', 1)[-1]}"
    caption = f"<figcaption>{_name(below)}</figcaption>" if below else ""
    title = f"{_clipped(shown.name)}{f' – {shown.label}' if shown.label else ''}"
    return f'<figure><img src="{uri}" title="{escape(title)}" alt="{escape(title)}">{caption}</figure>'


def _counted(head: str, counts: Mapping[str, int], whole: int) -> str:
    rows = [(name, f"{number:,}", share_text(number, whole)) for name, number in counts.items()] if whole else []
    return _table((head, "", ""), rows) if rows else ""


def _table(head: Iterable[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """The first column is text, the others numbers (in a table of problems: text)."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    kinds = ("", "" if kind else " class=n")
    cells = ("".join(f"<td{kinds[k > 0]}>{_name(cell)}</td>" for k, cell in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _name(text: str) -> str:
    """What came from the data, safe between tags."""
    return escape(_clipped(text))


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
