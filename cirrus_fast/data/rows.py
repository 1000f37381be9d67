"""Arrays of any usual kind as sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import CSR
from cirrus_fast.errors import DatasetError

if TYPE_CHECKING:
    import scipy.sparse


def as_rows(
    X: scipy.sparse.sparray | scipy.sparse.spmatrix | npt.NDArray[Any] | CSR,
    y: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
) -> CSR:
    """Arrays of any usual kind as a CSR with increasing indices; duplicates are summed."""
    if isinstance(X, CSR):
        matrix: Any = X
        n_rows, n_features = X.n_rows, X.n_features
        y = X.labels if y is None else y
        sample_weight = X.weights if sample_weight is None else sample_weight
    elif hasattr(X, "tocsr"):
        matrix = X.tocsr(copy=True) if getattr(X, "format", "") == "csr" else X.tocsr()
        matrix.sum_duplicates()
        n_rows, n_features = matrix.shape
    else:
        dense = np.asarray(X, np.float32)
        if dense.ndim != 2:
            raise DatasetError(f"X must have two dimensions, not {dense.ndim}")
        n_rows, n_features = dense.shape
        at_row, at_column = np.nonzero(dense)
        indptr = np.zeros(n_rows + 1, np.int64)
        np.cumsum(np.bincount(at_row, minlength=n_rows), out=indptr[1:])
        matrix = CSR(
            np.empty(0, np.float32),
            indptr,
            at_column.astype(np.uint32),
            dense[at_row, at_column],
            n_features,
        )
    if n_features > 2**32 - 2:
        raise DatasetError(f"X has {n_features} columns; 2**32 - 2 is the most")
    labels = np.zeros(n_rows, np.float32) if y is None else np.ascontiguousarray(y, np.float32)
    weights = None if sample_weight is None else np.ascontiguousarray(sample_weight, np.float32)
    for name, array in (("y", labels), ("sample_weight", weights)):
        if array is not None and array.shape != (n_rows,):
            raise DatasetError(f"{name} has shape {array.shape}, but X has {n_rows} rows")
    return CSR(
        labels,
        np.ascontiguousarray(matrix.indptr, np.int64),
        np.ascontiguousarray(matrix.indices, np.uint32),
        np.ascontiguousarray(matrix.data, np.float32),
        n_features,
        weights,
    )
