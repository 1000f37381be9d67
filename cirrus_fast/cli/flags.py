"""The training options as flags, made from the option table; nothing is listed twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field
from typing import Any, TypeVar

import click
from click.types import convert_type

from cirrus_fast.errors import OptionError
from cirrus_fast.options import parse_options, table

_Function = TypeVar("_Function", bound=Callable[..., Any])

# More models than this are a slip of the keyboard.
MOST_VALUES = 100_000
# Limits beyond this are not worth a place in the help.
_SHOWN = 2**53


def _class_weight(text: str) -> str | tuple[float, float]:
    if text == "balanced":
        return text
    try:
        negative, positive = text.replace(",", ":").split(":")
        return float(negative), float(positive)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: must be balanced, or NEGATIVE:POSITIVE as 1:3"
        ) from error


def rows() -> dict[str, Field[Any]]:
    """The options that are flags, by name. `dataset` is the command's argument."""
    return {row.name: row for row in table() if row.metadata["flag"] and row.name != "dataset"}


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def training_options(function: _Function) -> _Function:
    """Adds the flags; the function gets them as keywords, None where not given."""
    for row in reversed(rows().values()):
        function = _option(row)(function)
    return function


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _option(row: Field[Any]) -> Callable[[_Function], _Function]:
    flag = flag_of(row.name)
    if row.metadata["kind"] is bool:
        declaration, kind = f"{flag}/--no-{flag[2:]}", None
    else:
        declaration, kind = flag, param_type(row)
    # Always None by default: options know whether they were given, and decide defaults themselves.
    return click.option(
        declaration, row.name, type=kind, default=None, metavar=_metavar(row), help=_help(row)
    )


def param_type(row: Field[Any]) -> Any:
    """How an option's text is read. Ranges are checked by the option table, for all callers."""
    meta = row.metadata
    if meta["choices"]:
        return click.Choice(row.metadata["choices"])
    if row.name == "class_weight":
        return _class_weight
    types = {int: click.INT, float: click.FLOAT, bool: click.BOOL}
    return types.get(meta["kind"], click.STRING)


def _metavar(row: Field[Any]) -> str | None:
    meta = row.metadata
    if meta["kind"] is bool or meta["choices"]:
        return None
    if row.name == "class_weight":
        return "balanced|NEG:POS"
    unit = str(meta["unit"]).split(" ")[0]
    if unit:
        return unit.upper()
    if row.name.endswith("dataset"):
        return "DATASET"
    if row.name == "resume_from":
        return "FILE"
    return {int: "INTEGER", float: "NUMBER"}.get(meta["kind"], "TEXT")


def _help(row: Field[Any]) -> str:
    text = str(row.metadata["help"])
    notes = [note for note in (row.metadata["unit"], _range(row), _default(row)) if note]
    ending = f" [{'; '.join(notes)}]" if notes else ""
    return f"{text[0].upper()}{text[1:]}.{ending}"


def _range(row: Field[Any]) -> str:
    meta = row.metadata
    low, high = meta["low"], meta["high"]
    if high is not None and high > _SHOWN:  # a limit of the machine's, not of sense
        high = None
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    bounds = {"above": meta["above"], "at least": low, "below": meta["below"], "at most": high}
    return ", ".join(f"{word} {_number(n)}" for word, n in bounds.items() if n is not None)


def _default(row: Field[Any]) -> str:
    if row.default is None or row.default is MISSING:
        return ""
    if isinstance(row.default, bool):
        return f"default: {'yes' if row.default else 'no'}"
    return f"default: {_number(row.default)}"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:,.12g}"


# What the grid varies


def vary(text: str) -> tuple[str, list[Any]]:
    """``learning_rate=0.05,0.1`` or ``learning_rate=0.1:1:0.1`` as a name and its values.

    A range is start:stop:step as numpy.arange has it: without the stop.
    """
    name, equals, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not listed.strip():
        raise click.BadParameter(f"{text!r}: must be NAME=VALUES, as learning_rate=0.1,0.2")
    row = rows().get(name)
    if row is None:
        try:  # the option table knows the nearest name, and why some are not there
            parse_options({"dataset": "-", name: listed})
        except OptionError as error:
            raise click.BadParameter(str(error)) from error
        raise click.BadParameter(f"{name}: cannot be varied")
    values: list[Any] = []
    for item in listed.split(","):
        values += _values(row, item.strip())
    return name, values


def _values(row: Field[Any], item: str) -> list[Any]:
    kind = convert_type(param_type(row))
    if row.default is None and item.lower() == "none":
        return [None]
    if ":" in item and row.metadata["kind"] in (int, float):
        return _range_values(row, item)
    try:
        return [kind.convert(item, None, None)]
    except click.BadParameter as error:
        raise click.BadParameter(f"{row.name}: {error.message}") from error


def _range_values(row: Field[Any], item: str) -> list[Any]:
    import numpy as np

    kind = row.metadata["kind"]
    try:
        start, stop, step = (kind(part) for part in item.split(":"))
    except ValueError as error:
        raise click.BadParameter(
            f"{row.name}: {item!r} is not start:stop:step in {kind.__name__} numbers"
        ) from error
    count = (stop - start) / step if step else 0.0
    if not 0 < count < math.inf:
        raise click.BadParameter(f"{row.name}: the range {item} is empty")
    if count > MOST_VALUES:
        raise click.BadParameter(f"{row.name}: the range {item} has more than {MOST_VALUES} values")
    return [kind(value) for value in np.arange(start, stop, step)]
