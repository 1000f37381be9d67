"""Which labels of a data set are positive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.errors import DatasetError

_CONVENTIONS = ({0.0, 1.0}, {-1.0, 1.0})
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The labels, as written, of the two classes."""

    negative: tuple[float, ...]
    positive: tuple[float, ...]

    @classmethod
    def decide(
        cls, counts: Mapping[float, int], positive_labels: Iterable[float] | None = None
    ) -> LabelMap:
        """The map for labels found so many times each.

        The larger of two is positive. {0, 1} and {-1, 1} are known by convention even where one
        of them is absent. `positive_labels` decides anything else.
        """
        found = set(counts)
        for label in found:
            if not math.isfinite(label):
                raise DatasetError(f"label {label:g} is no class")
        if positive_labels is not None:
            positive = {float(label) for label in positive_labels}
            missing = positive - found
            if missing or not positive:
                raise DatasetError(
                    f"positive_labels {_listed(missing or positive)} not found; "
                    f"the labels are {describe(counts)}"
                )
            return cls(tuple(sorted(found - positive)), tuple(sorted(positive)))
        if len(found) <= 1:
            for convention in _CONVENTIONS:
                if found <= convention:
                    return cls((min(convention),), (max(convention),))
        if len(found) != 2:
            raise DatasetError(
                f"two classes are needed, but the labels are {describe(counts)}; "
                "choose the positive ones with positive_labels="
            )
        return cls((min(found),), (max(found),))

    def unknown(self, labels: Float32Array) -> npt.NDArray[np.bool_]:
        """Which labels are of neither class."""
        known = np.array([*self.positive, *self.negative], np.float32)
        return ~np.isin(labels, known)

    def positives(self, labels: Float32Array) -> Float32Array:
        """float32 1 where a label is positive, else 0; labels in neither class are refused."""
        is_positive = np.isin(labels, np.array(self.positive, np.float32))
        is_negative = np.isin(labels, np.array(self.negative, np.float32))
        if not (is_positive | is_negative).all():
            unknown = self.unknown(labels)
            raise DatasetError(
                f"label {labels[unknown][0]:g} is neither negative ({_listed(self.negative)}) "
                f"nor positive ({_listed(self.positive)})"
            )
        return is_positive.astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        return {"negative": list(self.negative), "positive": list(self.positive)}

    @classmethod
    def from_json(cls, raw: Mapping[str, list[float]]) -> LabelMap:
        return cls(tuple(raw["negative"]), tuple(raw["positive"]))


def count_labels(
    labels: Float32Array, weights: Float32Array | None
) -> tuple[Counter[float], Counter[float]]:
    """How many rows each label has, and their sample weight (1 a row where there is none)."""
    if len(labels) and weights is None:
        low, high = labels.min(), labels.max()
        n_low, n_high = (int(np.count_nonzero(labels == label)) for label in (low, high))
        if low != high and n_low + n_high == len(labels):  # the usual case, without sorting
            number = Counter({float(low): n_low, float(high): n_high})
            return number, Counter({label: float(n) for label, n in number.items()})
    values, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    number = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    if weights is None:
        return number, Counter({label: float(n) for label, n in number.items()})
    mass = np.bincount(place, weights, minlength=len(values))
    return number, Counter(dict(zip(values.tolist(), mass.tolist(), strict=True)))


def describe(counts: Mapping[float, int]) -> str:
    """'0 (743 rows), 1 (257 rows)'"""
    if not counts:
        return "none at all"
    shown = [f"{label:g} ({n} rows)" for label, n in sorted(counts.items())[:_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _listed(labels: Iterable[float]) -> str:
    return ", ".join(f"{label:g}" for label in sorted(labels)) or "none"
