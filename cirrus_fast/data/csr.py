"""Sparse rows in memory: the one array layout every layer agrees on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class CSR:
    """Labelled sparse rows.

    Attributes
    ----------
    labels : float32[n_rows], as written in the source
    indptr : int64[n_rows + 1]; row i holds entries indptr[i] to indptr[i + 1]
    indices : uint32[nnz], 0-based, strictly increasing within a row unless stated otherwise
    data : float32[nnz]
    n_features : int, larger than every index
    weights : float32[n_rows] or None, sample weights
    """

    labels: Float32Array
    indptr: Int64Array
    indices: UInt32Array
    data: Float32Array
    n_features: int
    weights: Float32Array | None = None

    @property
    def n_rows(self) -> int:
        return len(self.labels)

    @property
    def nnz(self) -> int:
        return len(self.data)

    @property
    def nbytes(self) -> int:
        arrays = (self.labels, self.indptr, self.indices, self.data, self.weights)
        return sum(array.nbytes for array in arrays if array is not None)

    def to_scipy(self) -> scipy.sparse.csr_matrix[Any]:
        """The features as scipy.sparse.csr_matrix; values are shared, indices are widened."""
        from scipy.sparse import csr_matrix

        return csr_matrix(
            (self.data, self.indices.astype(np.int64), self.indptr),
            shape=(self.n_rows, self.n_features),
        )
