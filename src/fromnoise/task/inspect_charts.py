"""Histograms as inline SVG, coloured by the style sheet of the page they stand in.

Every bar has its number as a tooltip, which needs no script. Nothing in here is larger than a few kilobytes.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _FOOT, _HEAD = 420, 130, 18, 6
_SIDES = (1, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
_ASPECTS = (0.0, 0.25, 0.34, 0.5, 0.6, 0.7, 0.8, 0.91, 1.1, 1.25, 1.43, 1.67, 2.0, 3.0, 4.0)


def bars(counts: Sequence[tuple[str, str, int]], label: str) -> str:
    """Upright bars: (text below, text of the tooltip, how many) each; ``label`` is read out by screen readers."""
    top = max((number for _, _, number in counts), default=0) or 1
    step = _WIDTH / max(1, len(counts))
    parts = []
    for k, (below, tip, number) in enumerate(counts):
        height = number / top * (_HEIGHT - _HEAD)
        if number:
            height = max(height, 1.5)  # one in a million is still there
        x, y = k * step, _HEIGHT - height
        parts.append(
            f'<g><title>{escape(tip)}: {number:,}</title><rect class="hover" x="{x:.1f}" y="0" width="{step:.1f}" '
            f'height="{_HEIGHT}"/><rect class="bar" x="{x + 0.08 * step:.1f}" y="{y:.1f}" width="{0.84 * step:.1f}" '
            f'height="{height:.1f}" rx="1"/></g>'
        )
        if below:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{_HEIGHT + 13}">{escape(below)}</text>')
    return _svg("".join(parts), label)


def short_sides(counts: Mapping[int, int]) -> str:
    """How many pictures have a short side of so many pixels, in steps of about √2."""
    number = _binned(counts, _SIDES)
    used = [k for k, count in enumerate(number) if count]
    shown = range(max(0, used[0] - 2), min(len(number), used[-1] + 3)) if used else range(0)
    rows = []
    for k in shown:
        tip = f"{_SIDES[k]} to {_SIDES[k + 1] - 1} pixels" if k + 1 < len(_SIDES) else f"{_SIDES[k]} pixels and more"
        rows.append((str(_SIDES[k]), tip, number[k]))
    return bars(rows, "how many pictures have which short side")


def aspects(counts: Mapping[float, int]) -> str:
    """How many pictures have which width over height."""
    number = _binned(counts, _ASPECTS)
    texts = {3: "1:2", 7: "1:1", 12: "2:1", 0: "<1:4", 14: "4:1"}
    rows = []
    for k, count in enumerate(number):
        upper = f" to {_ASPECTS[k + 1]:g}" if k + 1 < len(_ASPECTS) else " and more"
        rows.append((texts.get(k, ""), f"width / height {_ASPECTS[k]:g}{upper}", count))
    return bars(rows, "how many pictures have which width over height")


def brightness(counts: Sequence[int]) -> str:
    """How many pictures have which mean luma."""
    step = 256 // max(1, len(counts))
    texts = {0: "0", len(counts) // 2: "128", len(counts) - 1: "255"}
    rows = [(texts.get(k, ""), f"{k * step} to {k * step + step - 1}", count) for k, count in enumerate(counts)]
    return bars(rows, "how many pictures have which mean brightness")


def values(channels: Sequence[tuple[str, Sequence[int]]]) -> str:
    """How often every value 0 … 255 occurs in each channel, as areas. Heights are square roots, and the two highest
    bars a channel are cut off where the next one ends: a white background would leave nothing else to be seen."""
    parts = []
    ordered = sorted((count for _, counts in channels for count in counts), reverse=True)
    top = (next((count for count in ordered[2 * len(channels) :] if count), 0) or max(ordered, default=0) or 1) ** 0.5
    for name, counts in channels:
        points = " ".join(
            f"{k * _WIDTH / 255:.1f},{_HEIGHT - min(1, count**0.5 / top) * (_HEIGHT - _HEAD):.1f}"
            for k, count in enumerate(counts)
        )
        outline = f"0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}"
        parts.append(f'<polygon class="area {escape(name)}" points="{outline}"><title>{escape(name)}</title></polygon>')
    for k, anchor in ((0, "start"), (128, "middle"), (255, "end")):
        x = k * _WIDTH / 255
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 13}" style="text-anchor:{anchor}">{k}</text>')
    return _svg("".join(parts), "how often the network sees each value")


def _binned(counts: Mapping[int, int] | Mapping[float, int], edges: Sequence[float]) -> list[int]:
    """Bin k holds what lies from edges[k] up to, but not at, edges[k + 1]; the last has no end."""
    number = [0] * len(edges)
    for value, count in counts.items():
        number[bisect_right(edges, value) - 1] += count
    return number


def _svg(content: str, label: str) -> str:
    line = f'<line class="axis" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/>'
    box = f"0 0 {_WIDTH} {_HEIGHT + _FOOT}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{content}{line}</svg>'
