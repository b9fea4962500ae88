"""The rows as a table for people: rich draws it where it is installed, plain text otherwise."""

from typing import Any

HEADINGS = ("", "ours", "peer", "ratio", "of best", "unit", "GFLOP/s", "of ceiling", "outputs differ by")
LEFT = (0, 5)
MISSING = "not measured"


def conditions(row: dict[str, Any]) -> str:
    """The line above the table: what all rows were measured on."""
    return (
        f"{row['device']}, {row['threads']} CPU threads, PyTorch {row['torch']}, {row['precision']}, {row['date']}; "
        f"batch {row['batch']} and this precision if not said otherwise; "
        f"peer: diffusers' UNet2DModel as the paper's network, same weights"
    )


def unrest(rows: list[dict[str, Any]]) -> str:
    """A warning if some figure's rounds lie far apart: then the machine had other work, and the ratios mean little."""
    worst = max((max(r) / min(r) for row in rows for r in row.get("rounds", {}).values() if r), default=1.0)
    return (
        f"rounds of one figure differ by up to {worst:.1f}×: measure again on a quiet machine" if worst > 1.25 else ""
    )


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row's words, in the order of ``HEADINGS``. "ratio" is that of the medians, "of best" that of the
    best rounds; "GFLOP/s" and "of ceiling" are ours / peer's."""
    alone = row["name"].endswith(("convolutions alone", "beside the network"))  # Of these a peer has no share.
    difference = row.get("difference")
    return (
        row["name"],
        _number(row["ours"]),
        "" if alone else _number(row["peer"]),
        "" if alone else _number(row["ratio"], "{:.2f}×"),
        _number(row["best"]["ratio"], "{:.2f}×") if "best" in row else "",
        row["unit"],
        _both(row.get("gflops"), "{:.0f}"),
        _both(row.get("share_of_ceiling"), "{:.0%}"),
        "" if difference is None else f"{difference:.1e}",
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as plain text, columns aligned."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            text.ljust(w) if column in LEFT else text.rjust(w)
            for column, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def show(rows: list[dict[str, Any]]) -> None:
    """Print the conditions, a warning if there is reason for one, and the table."""
    print(conditions(rows[0]))
    if warning := unrest(rows):
        print(warning)
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        print(table(rows))
        return
    console = Console()
    if not console.is_terminal:  # In a file or a pipe, columns must not be cut to a width nobody has.
        print(table(rows))
        return
    drawn = Table()
    for column, heading in enumerate(HEADINGS):
        drawn.add_column(heading, justify="left" if column in LEFT else "right")
    for row in rows:
        drawn.add_row(*cells(row))
    console.print(drawn)


def _number(value: float | None, form: str | None = None) -> str:
    if value is None:
        return MISSING
    return (form or ("{:.0f}" if value >= 100 else "{:.2f}")).format(value)


def _both(pair: dict[str, float | None] | None, form: str) -> str:
    if pair is None:
        return ""
    return " / ".join("–" if value is None else form.format(value) for value in (pair["ours"], pair["peer"]))
