"""What training does to columns and penalties, from column statistics.

Columns of any scale must train well with one learning rate, so each is divided by the root mean
square of its stored entries while it is learnt from, and its weight afterwards. A penalty speaks of
the weight as reported, so it follows the division; and it is charged only where a row touches the
column, so it is divided by how often that happens (csrc/cf_optimizer.h).

Columns are numbered anew by popularity: what is touched all the time then shares cache lines, and
an id that no row has takes no room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.columns import ColumnStatistics, usable_divisor
from cirrus_fast.data.csr import Float32Array, UInt32Array

# So many rows of a mini-batch may have a column before sgd's sum of their gradients, which have
# much in common, is too large a step. Found by trial on the sets of bench/quality.py.
CROWD = 16.0

# The place of an id that no row has.
NOWHERE = np.uint32(2**32 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """What rows need of a training scale.

    Attributes
    ----------
    of : uint32, of each id up to the largest
    n : number of places
    divisors : float32, up to the first of the ones at the end that are all the same: of click data
        a few of hundreds of thousands
    """

    of: UInt32Array
    n: int
    divisors: Float32Array

    def put(self, indices: UInt32Array, data: Float32Array) -> None:
        """Replaces ids by places and divides values, where they are."""
        _kernels.prepare_entries(indices, data, self.of, self.n, self.divisors)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingScale:
    """The columns of the training data as the model in training has them.

    Attributes
    ----------
    ids : uint32[n], the columns that some row has, most popular first
    place : uint32, of each id up to the largest: where it stands in `ids`, or NOWHERE
    divisor : float32[n]
    penalties : float32[k, 2], (l1, l2) charges, the last pair of all later columns too; or None
    """

    ids: UInt32Array
    place: UInt32Array
    divisor: Float32Array
    penalties: Float32Array | None

    @classmethod
    def of(
        cls,
        statistics: ColumnStatistics,
        n_rows: int,
        *,
        optimizer: str,
        l1: float,
        l2: float,
        mean_weight: float,
        n_features: int | None = None,
        step_rows: int = 1,
    ) -> TrainingScale:
        """
        mean_weight : mean of the rows' sample weight times class weight
        n_features : given where the statistics are of a sample of the rows: columns below it that
            the sample has not may come up, and are divided by the median of the others' divisors
        step_rows : whose gradients are summed for one step
        """
        ids = by_popularity(statistics)
        known = usable_divisor(statistics.root_mean_square)
        typical = np.float32(1)
        if n_features is not None:
            # Not np.median, which imports numpy.ma, nor np.partition, ten times as slow where most
            # of them are the same.
            typical = np.sort(known)[len(known) // 2] if len(known) else typical
            unseen = np.ones(n_features, np.bool_)
            unseen[ids] = False
            ids = np.concatenate([ids, np.flatnonzero(unseen).astype(np.uint32)])
        place = np.full(int(ids.max()) + 1 if len(ids) else 0, NOWHERE, np.uint32)
        place[ids] = np.arange(len(ids), dtype=np.uint32)
        here = place[statistics.ids]
        divisor = np.full(len(ids), typical, np.float32)
        divisor[here] = known
        if optimizer == "sgd":  # a smaller rate for a column is a larger divisor, squared
            share = statistics.columns["count"] / max(1, n_rows)
            divisor[here] /= np.sqrt(crowd_rate(step_rows * share))
        if not (l1 or l2):
            return cls(ids, place, divisor, None)
        per_touch = np.full(len(ids), mean_weight)
        if optimizer != "ftrl":  # which is charged by rows seen
            per_touch[here] = mean_weight * n_rows / statistics.columns["count"]
        penalties = np.empty((len(ids), 2), np.float32)
        penalties[:, 0] = l1 * per_touch / divisor
        penalties[:, 1] = l2 * per_touch / divisor.astype(np.float64) ** 2
        return cls(ids, place, divisor, without_repeats(penalties))

    def places(self) -> Places:
        divisors = without_repeats(self.divisor[:, None])[:, 0].copy()
        return Places(self.place, len(self.divisor), divisors)


def without_repeats(rows: Float32Array) -> Float32Array:
    """The rows up to the first of those at the end that are all the same: of the penalties of click
    data a few of hundreds of thousands, which training then never waits for."""
    if len(rows) == 0:
        return rows
    other = np.flatnonzero((rows != rows[-1]).any(axis=1))
    return rows[: int(other[-1]) + 2 if len(other) else 1]


def crowd_rate(rows: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    """What to multiply sgd's rate by for a column that so many rows of a mini-batch have.

    Sums of few gradients are taken as they are, so that rare columns learn as fast as in
    mini-batches of one row; of more than CROWD rows each counts less, as in a mean.
    """
    return CROWD / np.maximum(CROWD, rows)


def by_popularity(statistics: ColumnStatistics) -> UInt32Array:
    """Ids by how many rows have them, the most popular first; among equals the lower id."""
    rarity = np.uint64(2**32 - 1) - np.minimum(statistics.columns["count"], 2**32 - 1).astype(
        np.uint64
    )
    # Sorting keys that differ is several times as fast as a stable argsort, and as repeatable.
    keys: npt.NDArray[np.uint64] = rarity << np.uint64(32) | statistics.ids.astype(np.uint64)
    keys.sort()
    return keys.astype(np.uint32)
