"""Why a loss is no longer a number, and what to do."""

from __future__ import annotations

import numpy as np

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.training_scale import TrainingScale


def blame(rows: CSR, scale: TrainingScale, rows_seen: int, learning_rate: float) -> str:
    """Names the column with the wildest values.

    rows : that were learnt from last, made ready for training
    """
    size = np.abs(rows.data)
    column, value = "no feature", 0.0
    if rows.nnz:
        worst = int(np.argmax(np.where(np.isnan(size), np.inf, size)))
        place = rows.indices[worst]
        column = f"feature {scale.ids[place]} (0-based)"
        value = float(rows.data[worst] * scale.divisor[place])
    return (
        f"the loss is no longer a finite number after {rows_seen} rows; the likely "
        f"cause is {column}, with a value of {value:g}: lower learning_rate "
        f"(now {learning_rate:g}), or normalize the data set"
    )
