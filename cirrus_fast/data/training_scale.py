"""What training does to columns and penalties, from column statistics.

Columns of any scale must train well with one learning rate, so each is divided by the root mean
square of its stored entries while it is learnt from, and its weight afterwards. A penalty speaks of
the weight as reported, so it follows the division; and it is charged only where a row touches the
column, so it is divided by how often that happens (csrc/cf_optimizer.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cirrus_fast.data.columns import ColumnStatistics, usable_divisor
from cirrus_fast.data.csr import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class TrainingScale:
    """float32[n_features] divisors, and (l1, l2) charges [n_features, 2] or None."""

    divisor: Float32Array
    penalties: Float32Array | None

    @classmethod
    def of(
        cls,
        statistics: ColumnStatistics,
        n_features: int,
        n_rows: int,
        *,
        optimizer: str,
        l1: float,
        l2: float,
        mean_weight: float,
    ) -> TrainingScale:
        """`mean_weight` is the mean of the rows' sample weight times class weight.

        Columns without statistics, which only a sample of the rows can leave out, are divided by
        the median of the others.
        """
        known = usable_divisor(statistics.root_mean_square)
        divisor = np.full(n_features, np.median(known) if len(known) else 1, np.float32)
        divisor[statistics.ids] = known
        if not (l1 or l2):
            return cls(divisor, None)
        per_touch = np.zeros(n_features)
        if optimizer == "ftrl":  # charged by rows seen
            per_touch[:] = mean_weight
        else:
            per_touch[statistics.ids] = mean_weight * n_rows / statistics.columns["count"]
        penalties = np.empty((n_features, 2), np.float32)
        penalties[:, 0] = l1 * per_touch / divisor
        penalties[:, 1] = l2 * per_touch / divisor.astype(np.float64) ** 2
        return cls(divisor, penalties)

    @property
    def pairs(self) -> Float32Array:
        """(shift, divisor) pairs for `_kernels.columns_scale`."""
        pairs = np.zeros((len(self.divisor), 2), np.float32)
        pairs[:, 1] = self.divisor
        return pairs
