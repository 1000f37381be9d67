"""Arrays of any usual kind as sparse rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import CSR, Float32Array
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
        dense = _float32("X", X)
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
    labels = np.zeros(n_rows, np.float32) if y is None else _float32("y", y)
    weights = None if sample_weight is None else _float32("sample_weight", sample_weight)
    for name, array in (("y", labels), ("sample_weight", weights)):
        if array is not None and array.shape != (n_rows,):
            raise DatasetError(f"{name} has shape {array.shape}, but X has {n_rows} rows")
    return CSR(
        labels,
        np.ascontiguousarray(matrix.indptr, np.int64),
        np.ascontiguousarray(matrix.indices, np.uint32),
        _float32("X", matrix.data),
        n_features,
        weights,
    )


def _float32(name: str, array: npt.ArrayLike) -> Float32Array:
    """The numbers as float32; one that only float32 cannot hold is refused."""
    given = np.asarray(array)
    if given.dtype == np.float32:
        return np.ascontiguousarray(given)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(given, np.float32)
    if given.dtype.kind == "f":
        lost = np.isinf(converted) & np.isfinite(given)
        if lost.any():
            raise DatasetError(f"{name} has {given[lost][0]:g}, outside the range of float32")
    return converted


def check_numbers(rows: CSR, *, allow_nonfinite: bool) -> None:
    """Refuses what text of such rows would be refused for, naming the row and the column."""
    if not allow_nonfinite and rows.n_rows:
        # Entries outside of all rows do not count; that the arrays fit is checked elsewhere.
        first, last = int(rows.indptr[0]), min(int(rows.indptr[-1]), len(rows.indices))
        at = _first(~np.isfinite(rows.data[first:last]))
        if at is not None:
            at += first
            row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            raise DatasetError(
                f"X has {rows.data[at]:g} in row {row}, column {rows.indices[at]} (both from 0); "
                "give finite numbers, or allow_nonfinite=True"
            )
    at = _first(~np.isfinite(rows.labels))
    if at is not None:
        raise DatasetError(f"y has {rows.labels[at]:g} in row {at} (from 0); give finite labels")
    if rows.weights is None:
        return
    at = _first(~(np.isfinite(rows.weights) & (rows.weights >= 0)))
    if at is not None:
        raise DatasetError(
            f"sample_weight has {rows.weights[at]:g} in row {at} (from 0); give finite numbers >= 0"
        )


def _first(bad: npt.NDArray[np.bool_]) -> int | None:
    return int(bad.argmax()) if bad.any() else None


def joined(parts: Sequence[CSR]) -> CSR:
    """All rows, labels and ids and values; of whole arrays."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(part.nnz for part in parts)])
    return CSR(
        np.concatenate([np.empty(0, np.float32), *(part.labels for part in parts)]),
        np.concatenate([[0], *(p.indptr[1:] + end for p, end in zip(parts, ends, strict=False))]),
        np.concatenate([np.empty(0, np.uint32), *(part.indices for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.data for part in parts)]),
        max((part.n_features for part in parts), default=0),
    )
