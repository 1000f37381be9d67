"""Why a loss is no longer a number, and what to do."""

from __future__ import annotations

import numpy as np

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.training_scale import TrainingScale


def blame(rows: CSR, scale: TrainingScale, rows_seen: int, learning_rate: float) -> str:
    """Names the column with the wildest values.

    rows : that were learnt from last, made ready for training
    """
    column, value = _wildest(rows, scale)
    return (
        f"the loss is no longer a finite number after {rows_seen} rows; the likely "
        f"cause is {column}, with a value of {value:g}: lower learning_rate "
        f"(now {learning_rate:g}), or normalize the data set"
    )


def blame_test(test: CSR, scale: TrainingScale) -> str:
    """The same of rows that models are measured on."""
    column, value = _wildest(test, scale)
    return (
        "the test loss is not a finite number; the likely cause is "
        f"{column}, with a value of {value:g} in a test row"
    )


def _wildest(rows: CSR, scale: TrainingScale) -> tuple[str, float]:
    """The column of the entry that is farthest from 0, and its value as in the data."""
    if rows.nnz == 0:
        return "no feature", 0.0
    size = np.abs(rows.data)
    worst = int(np.argmax(np.where(np.isnan(size), np.inf, size)))
    place = rows.indices[worst]
    return f"feature {scale.ids[place]} (0-based)", float(rows.data[worst] * scale.divisor[place])
