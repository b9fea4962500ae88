"""The forms of a table of pictures, as rows: what each column says of one picture.

=====================================================  ===============================================================
CSV (comma, semicolon or tab; UTF-8; a header line)    ``file,label,caption``; in a column ``labels`` or ``tags``, "a;b"
                                                       is two labels
JSON lines                                             ``{"file": "a.png", "label": "cat", "caption": "…"}`` on each
JSON, a list of such objects                           the same
JSON, an object                                        ``{"a.png": "cat"}``, or ``{"a.png": {"label": "cat"}}``
JSON, EDM's and StyleGAN's                             ``{"labels": [["00000/a.png", 3], …]}``; a list is values
=====================================================  ===============================================================
"""

import csv
import io
import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from fromnoise.data.source import printable
from fromnoise.errors import WrongUse

Row = Mapping[str, Any]
"""From the name of a column to its cell."""

_SETS = ("labels", "tags", "classes")


def read_rows(text: str, suffix: str, where: str) -> list[Row] | None:
    """The rows of ``text``, of a file that ends in ``suffix``; None for EDM's table without labels.

    Raises:
        WrongUse: the suffix is unknown, or an entry is not what it should be.
        ValueError, csv.Error, RecursionError: of the parsers.
    """
    if suffix in (".csv", ".tsv", ".txt"):
        return _csv_rows(text, where)
    if suffix in (".jsonl", ".ndjson"):
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [_object(json.loads(line), f"{where}: line {number}") for number, line in lines]
    if suffix != ".json":
        raise WrongUse(f"{where} is no table that is known here: its name ends in .csv, .tsv, .json or .jsonl")
    whole = json.loads(text)
    if isinstance(whole, list):
        return [_object(one, f"{where}: entry {number}") for number, one in enumerate(whole, 1)]
    if not isinstance(whole, dict):
        raise WrongUse(f"{where} is no table: it holds one {type(whole).__name__}")
    pairs = whole.get("labels", "")
    if pairs is None:
        return None
    if isinstance(pairs, list):
        return [_edm(pair, f"{where}: entry {number}") for number, pair in enumerate(pairs, 1)]
    return [{**(said if isinstance(said, dict) else {"label": said}), "file": file} for file, said in whole.items()]


def _edm(pair: Any, where: str) -> Row:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise WrongUse(f'{where} is not ["file name", label], as it is in EDM\'s dataset.json')
    return {"file": pair[0], ("values" if isinstance(pair[1], list) else "label"): pair[1]}


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise WrongUse(f'{where} is no object such as {{"file": "a.png", "label": "cat"}}')
    return value


def _csv_rows(text: str, where: str) -> list[Row]:
    lines = iter(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True))
    header = next(lines, [])
    if len(set(header)) < len(header):
        raise WrongUse(f"{where}: two columns have the same name in the header line {printable(', '.join(header))}")
    rows: list[Row] = []
    for number, cells in enumerate(lines, 2):
        if len(cells) > len(header):
            raise WrongUse(f"{where}: row {number} has {len(cells)} cells, and the header line {len(header)}")
        if cells:
            rows.append(dict(zip_longest(header, cells, fillvalue="")))
    for column in (name for name in header if name.strip().lower() in _SETS):
        if any(";" in row.get(column, "") for row in rows):
            rows = [{**row, column: _split(row.get(column, ""))} for row in rows]
    return rows


def _split(cell: str) -> list[str]:
    return [label.strip() for label in cell.split(";") if label.strip()]


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)
