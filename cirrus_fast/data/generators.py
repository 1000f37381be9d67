"""Made-up click data in the shape of Criteo's: for demos, tests and benchmarks.

A row has 13 counts, some missing, and 26 categories whose values follow a power law and are hashed
to ids, so it looks to a trainer as hashed click logs do: a few ids are everywhere, most are rare.
Labels are drawn from a logistic model of the features, so how good a model can get is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.storage import file_writer
from cirrus_fast.data.text import write_libsvm
from cirrus_fast.errors import OptionError

N_COUNTS = 13
N_CATEGORIES = 26
_FIRST_CATEGORY_ID = N_COUNTS
_CHUNK_ROWS = 50_000
# Share of positive rows, as in the published click logs.
_BASE_RATE = 0.256
# Share of a row's counts that is present, and how wide the counts spread (log-normal).
_PRESENT = np.array([0.55, 0.9, 0.78, 0.78, 0.97, 0.77, 0.95, 0.9, 0.95, 0.55, 0.9, 0.3, 0.78])
_SPREAD = np.array([1.2, 2.0, 1.4, 1.1, 2.2, 1.6, 1.6, 1.1, 1.5, 0.8, 1.0, 1.2, 1.1])
# Different values of each category: from a handful to a million.
_VALUES = np.array(
    [
        1500,
        600,
        1e6,
        1e6,
        300,
        24,
        12_500,
        630,
        3,
        93_000,
        5700,
        1e6,
        3200,
        27,
        15_000,
        1e6,
        10,
        5700,
        2200,
        4,
        1e6,
        18,
        15,
        290_000,
        105,
        140_000,
    ]
)
_POWER = 1.15


@dataclass(frozen=True, slots=True)
class ClickWorld:
    """The law that rows are drawn from; the same seed and width give the same one."""

    seed: int
    n_features: int
    weights: npt.NDArray[np.float64]
    intercept: float

    @classmethod
    def make(cls, seed: int, hash_bits: int) -> ClickWorld:
        n_features = 1 << hash_bits
        draw = np.random.default_rng([seed, 1])
        weights = draw.normal(0.0, 0.55, n_features) * (draw.random(n_features) < 0.3)
        weights[:N_COUNTS] = draw.normal(0.0, 0.12, N_COUNTS)
        blank = cls(seed, n_features, weights, 0.0)
        # The intercept that gives the base rate on a sample, by halving.
        margins = blank._margins(*blank._features(np.random.default_rng([seed, 2]), 20_000))
        low, high = -20.0, 20.0
        for _ in range(50):
            middle = (low + high) / 2
            rate = (1 / (1 + np.exp(-(margins + middle)))).mean()
            low, high = (middle, high) if rate < _BASE_RATE else (low, middle)
        return cls(seed, n_features, weights, low)

    def rows(self, stream: int, chunk: int, n_rows: int) -> CSR:
        """n_rows rows; stream and chunk choose which."""
        draw = np.random.default_rng([self.seed, 3, stream, chunk])
        ids, values, kept = self._features(draw, n_rows)
        margins = self._margins(ids, values, kept) + self.intercept
        labels = (draw.random(n_rows) < 1 / (1 + np.exp(-margins))).astype(np.float32)
        indptr = np.zeros(n_rows + 1, np.int64)
        np.cumsum(kept.sum(axis=1), out=indptr[1:])
        return CSR(labels, indptr, ids[kept], values[kept], self.n_features)

    def _features(
        self, draw: np.random.Generator, n_rows: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """ids and values [n_rows, 39], ids increasing along a row, and which of them count."""
        ids = np.empty((n_rows, N_COUNTS + N_CATEGORIES), np.uint32)
        values = np.ones(ids.shape, np.float32)
        kept = np.ones(ids.shape, np.bool_)
        ids[:, :N_COUNTS] = np.arange(N_COUNTS)
        counts = np.floor(np.exp(draw.normal(1.0, _SPREAD, (n_rows, N_COUNTS))))
        values[:, :N_COUNTS] = np.minimum(counts, 9999)
        present = draw.random((n_rows, N_COUNTS)) < _PRESENT
        kept[:, :N_COUNTS] = present & (values[:, :N_COUNTS] > 0)
        # The inverse of a bounded power law, a rank per category and row.
        u = draw.random((n_rows, N_CATEGORIES))
        top = _VALUES ** (1 - _POWER)
        rank = np.floor((1 + u * (top - 1)) ** (1 / (1 - _POWER))).astype(np.uint64)
        column = np.arange(1, N_CATEGORIES + 1, dtype=np.uint64)
        hashed = _hash(rank + (column << np.uint64(32)))
        room = np.uint64(self.n_features - _FIRST_CATEGORY_ID)
        categories = (hashed % room + np.uint64(_FIRST_CATEGORY_ID)).astype(np.uint32)
        categories.sort(axis=1)
        ids[:, N_COUNTS:] = categories
        # Two categories of a row that meet in one id are one entry.
        kept[:, N_COUNTS + 1 :] = categories[:, 1:] != categories[:, :-1]
        return ids, values, kept

    def _margins(
        self,
        ids: npt.NDArray[np.uint32],
        values: npt.NDArray[np.float32],
        kept: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float64]:
        size = np.where(np.arange(ids.shape[1]) < N_COUNTS, np.log1p(values), values)
        margins: npt.NDArray[np.float64] = (self.weights[ids] * size * kept).sum(axis=1)
        return margins


def _hash(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def make_clicks(
    path: str | os.PathLike[str],
    n_rows: int = 200_000,
    *,
    seed: int = 0,
    hash_bits: int = 19,
    stream: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Writes made-up click rows as LibSVM text with one-based ids, the whole file or nothing.

    Parameters
    ----------
    path : file to write
    n_rows : rows of about 33 entries and 270 bytes each
    seed : decides the law behind the rows, and the rows
    hash_bits : 5 to 31, ids lie in 1 .. 2**hash_bits
    stream : other rows of the same law, such as a test set's
    on_progress : called with the number of rows done
    """
    if n_rows < 1:
        raise OptionError(f"n_rows={n_rows}: must be at least 1")
    if not 5 <= hash_bits <= 31:
        raise OptionError(f"hash_bits={hash_bits}: must lie between 5 and 31")
    world = ClickWorld.make(seed, hash_bits)
    writer = file_writer(path)
    try:
        for chunk, begin in enumerate(range(0, n_rows, _CHUNK_ROWS)):
            rows = world.rows(stream, chunk, min(_CHUNK_ROWS, n_rows - begin))
            write_libsvm(rows, _as_file(writer))
            if on_progress is not None:
                on_progress(begin + rows.n_rows)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def _as_file(writer: object) -> BinaryIO:
    return writer  # type: ignore[return-value]  # write_libsvm only calls write
