"""Checks of what callers hand in, with one wording."""

from __future__ import annotations

import operator

import numpy as np

from cirrus_fast.errors import OptionError


def check_flag(name: str, value: object, choices: str = "True or False") -> bool:
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name}={value!r}: give {choices}")
    return bool(value)


def check_count(name: str, value: object, low: int, high: int) -> int | None:
    """A whole number within limits, or None."""
    if value is None:
        return None
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = low - 1
    if not low <= count <= high:
        raise OptionError(f"{name}={value!r}: give a whole number from {low} to {high}")
    return count
