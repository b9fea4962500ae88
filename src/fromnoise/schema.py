"""Plain values, as TOML gives them, into objects and back, guided by the objects' own annotations.

A frozen dataclass is a table, its fields are the keys. Where an annotation names an abstract class, ``kind`` picks one
of the classes listed for it, and a word alone is short for a table with nothing but its kind. Every mistake is one
line.
"""

import dataclasses
import inspect
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

import pydantic

from fromnoise.errors import WrongUse, nearest

Tables = Mapping[type, Mapping[str, type]]
"""Abstract class -> name -> class. The first name is the one meant where no kind is given."""


def read_toml(text: str, source: str) -> dict[str, Any]:
    """TOML -> a tree. Raises ``WrongUse`` naming the place of a mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongUse(f"{source} is not valid TOML: {error}") from error


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` wins, table by table. A table with another ``kind`` replaces the one below as a whole.

    A word is short for a table with that ``kind`` alone, here too.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, str) and old.get("kind") == value:
            continue
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"kind": old}
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def assignment(text: str) -> dict[str, Any]:
    """ "train.lr=1e-4" or "schedule=cosine" -> a tree. The value is TOML, or else a plain word. Raises ``WrongUse``."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    said: Any
    try:
        said = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        said = value.strip()
    kind = len(parts) == 1 and isinstance(said, str) and said.isidentifier()  # A section may be given its kind alone.
    if not equals or not all(parts) or not (kind or len(parts) > 1):
        raise WrongUse(f"--set {text}: should look like section.key=value, for one --set train.lr=1e-4")
    tree: dict[str, Any] = {parts[-1]: said}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    return tree


def decode(wanted: Any, value: Any, tables: Tables, source: str, where: str = "") -> Any:
    """A plain value -> what the annotation ``wanted`` asks for.

    ``source`` and ``where`` (the path of keys) are named in complaints. Raises ``WrongUse`` for an unknown key or kind,
    a wrong type, a missing value, and whatever the class itself refuses.
    """
    table = _table(wanted, tables)
    if table is None and not dataclasses.is_dataclass(wanted):
        return _leaf(wanted, value, where, source)
    label = f"[{where}] " if where else ""
    if table is not None and isinstance(value, str):
        value = {"kind": value}  # `weighting = "even"` is short for a table with nothing but its kind.
    if not isinstance(value, Mapping):
        raise WrongUse(f"{source}: {label}should be a table of settings, not {value!r}")
    rest = dict(value)
    kind = None
    if table is not None:
        kind = rest.pop("kind", None)
        if kind is None:
            kind = next(iter(table))
        if not isinstance(kind, str) or kind not in table:
            raise WrongUse(f"{source}: {label}kind = {kind!r} is not known; {nearest(str(kind), table)}")
        wanted = table[kind]
    cls: Any = wanted
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key in rest:
        if key not in names:
            what = "section" if not where else "key"
            hint = nearest(key, names) if names else f"kind = {kind!r} has none; known kinds: {', '.join(table or ())}"
            raise WrongUse(f"{source}: {label}{key}: no such {what}; {hint}")
    made = {
        key: decode(hints[key], item, tables, source, f"{where}.{key}" if where else key) for key, item in rest.items()
    }
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise WrongUse(f"{source}: {label}{missing[0]} is missing")
    try:
        return cls(**made)
    except WrongUse as error:
        raise WrongUse(f"{source}: {error}") from error
    except ValueError as error:
        raise WrongUse(f"{source}: {label}{error}") from error


def encode(value: Any, tables: Tables, wanted: Any = None) -> Any:
    """The inverse of :func:`decode`; fields that are ``None`` stay out. ``wanted`` is the annotation of its place."""
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        hints = typing.get_type_hints(type(value))
        tree = {name: encode(item, tables, hints[name]) for name, item in fields_of(value).items() if item is not None}
        table = _table(wanted, tables)
        if table is not None:
            kind = next(name for name, cls in table.items() if cls is type(value))
            tree = {"kind": kind, **tree}
        return tree
    return list(value) if isinstance(value, tuple) else value


def fields_of(settings: Any) -> dict[str, Any]:
    """A dataclass instance -> its fields by name, as they are."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def _table(wanted: Any, tables: Tables) -> Mapping[str, type] | None:
    return tables.get(typing.get_origin(wanted) or wanted) if not isinstance(wanted, types.UnionType) else None


def _leaf(wanted: Any, value: Any, where: str, source: str) -> Any:
    try:
        return pydantic.TypeAdapter(wanted).validate_python(_exact(value), strict=True)
    except pydantic.ValidationError as error:
        complaint = error.errors(include_url=False)[0]["msg"]
        complaint = complaint.removeprefix("Input ").replace("valid tuple", "list")
        section, _, key = where.rpartition(".")
        raise WrongUse(f"{source}: [{section}] {key} = {value!r}: {complaint}") from error


def _exact(value: Any) -> Any:
    """TOML as strict types want it: a list is a tuple, and 1e5 may stand where a whole number is asked for."""
    if isinstance(value, list):
        return tuple(_exact(item) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
