"""A worker's rows, epoch after epoch: blocks read, decoded, rescaled and shuffled.

As many decoded blocks are held as `worker_size` allows. If that is all of them they are read once;
if not, each epoch goes through them in windows, and rows are shuffled within a window of randomly
drawn blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import decode_block_into
from cirrus_fast.data.csr import CSR, UInt32Array
from cirrus_fast.data.dataset import Dataset, check_header
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.training_scale import TrainingScale

# Of a worker's memory, what decoded rows may take; the rest is the model, Python and NumPy.
_SHARE_FOR_ROWS = 0.6
_BYTES_A_ROW = 4 + 8 + 4 + 4  # label, indptr, weight, order
_BYTES_AN_ENTRY = 4 + 4


@dataclass(slots=True)
class Window:
    """Decoded rows and the order to take them in."""

    rows: CSR
    order: UInt32Array


@dataclass(slots=True)
class ReadTimes:
    """Seconds spent getting rows ready."""

    storage_read: float = 0.0
    decode: float = 0.0


def share_of(dataset: Dataset, worker: int, n_workers: int) -> list[int]:
    """Numbers of a worker's blocks: dealt out in turn, so that workers get like parts of data that
    are sorted somehow."""
    return list(range(worker, len(dataset.blocks), n_workers))


def decoded_bytes(block: Block) -> int:
    return block.n_rows * _BYTES_A_ROW + block.nnz * _BYTES_AN_ENTRY


@dataclass(slots=True)
class MiniBatches:
    """The training rows of the blocks with these numbers.

    Rows carry labels 1 and 0, values divided by the training scale.
    """

    dataset: Dataset
    numbers: Sequence[int]
    holdout: HoldOut
    scale: TrainingScale
    worker_size_mb: int
    seed: int
    worker: int
    times: ReadTimes = field(default_factory=ReadTimes)
    _held: tuple[CSR, UInt32Array] | None = None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """Every training row once, in an order of this epoch's own; the first `skip` left out."""
        draw = np.random.default_rng([self.seed, 2, epoch, self.worker])
        if self._held is None and self._fits(self.numbers):
            self._held = self._decode(self.numbers)
        if self._held is not None:
            rows, training = self._held
            yield Window(rows, draw.permutation(training)[skip:])
            return
        for part, numbers in enumerate(self._windows(draw.permutation(self.numbers).tolist())):
            n_rows = self.count(numbers)
            if skip < n_rows:
                rows, training = self._decode(numbers)
                within = np.random.default_rng([self.seed, 3, epoch, self.worker, part])
                yield Window(rows, within.permutation(training)[skip:])
            skip = max(0, skip - n_rows)

    def count(self, numbers: Sequence[int]) -> int:
        """Training rows in some blocks."""
        blocks, holdout = self.dataset.blocks, self.holdout
        return sum(blocks[i].n_rows - int(holdout.mask(i, blocks[i]).sum()) for i in numbers)

    def _budget(self) -> float:
        return self.worker_size_mb * 1e6 * _SHARE_FOR_ROWS

    def _fits(self, numbers: Sequence[int]) -> bool:
        blocks = self.dataset.blocks
        return sum(decoded_bytes(blocks[i]) for i in numbers) <= self._budget()

    def _windows(self, numbers: list[int]) -> Iterator[list[int]]:
        window: list[int] = []
        for number in numbers:
            if window and not self._fits([*window, number]):
                yield window
                window = []
            window.append(number)
        if window:
            yield window

    def _decode(self, numbers: Sequence[int]) -> tuple[CSR, UInt32Array]:
        """The rows of some blocks as one CSR, and which of them are training rows."""
        dataset = self.dataset
        blocks = [dataset.blocks[i] for i in numbers]
        n_rows, nnz = sum(b.n_rows for b in blocks), sum(b.nnz for b in blocks)
        labels, indptr = np.empty(n_rows, np.float32), np.zeros(n_rows + 1, np.int64)
        indices, data = np.empty(nnz, np.uint32), np.empty(nnz, np.float32)
        weights = np.empty(n_rows, np.float32) if dataset.manifest.has_weights else None
        training, row, entry = [], 0, 0
        for number, block in zip(numbers, blocks, strict=True):
            started = time.perf_counter()
            raw = dataset.read_bytes(block)
            read = time.perf_counter()
            self.times.storage_read += read - started
            at, of = slice(row, row + block.n_rows), slice(entry, entry + block.nnz)
            with dataset.naming(block):
                check_header(raw, block)
                decode_block_into(
                    raw,
                    dataset.dictionary,
                    labels[at],
                    indptr[row : row + block.n_rows + 1],
                    indices[of],
                    data[of],
                    None if weights is None else weights[at],
                    base=dataset.manifest.index_base,
                    ordered=False,
                    entry_offset=entry,
                )
            training.append(np.flatnonzero(~self.holdout.mask(number, block)) + row)
            row, entry = row + block.n_rows, entry + block.nnz
            self.times.decode += time.perf_counter() - read
        started = time.perf_counter()
        _kernels.columns_scale(indices, data, self.scale.pairs, data)
        positives = dataset.manifest.label_map.positives(labels)
        rows = CSR(positives, indptr, indices, data, dataset.n_features, weights)
        self.times.decode += time.perf_counter() - started
        return rows, np.concatenate([np.empty(0, np.int64), *training]).astype(np.uint32)


def held_out_rows(dataset: Dataset, holdout: HoldOut) -> list[CSR]:
    """The rows that `holdout` keeps from training, values as stored."""
    found = []
    for number, block in enumerate(dataset.blocks):
        chosen = np.flatnonzero(holdout.mask(number, block)).astype(np.uint32)
        if len(chosen):
            found.append(_take(dataset.read_block(block), chosen))
    return found


def _take(rows: CSR, order: UInt32Array) -> CSR:
    nnz = int(np.diff(rows.indptr)[order].sum())
    out = CSR(
        np.empty(len(order), np.float32),
        np.empty(len(order) + 1, np.int64),
        np.empty(nnz, np.uint32),
        np.empty(nnz, np.float32),
        rows.n_features,
        None if rows.weights is None else np.empty(len(order), np.float32),
    )
    _kernels.csr_take(
        rows.labels,
        rows.indptr,
        rows.indices,
        rows.data,
        rows.weights,
        order,
        out.labels,
        out.indptr,
        out.indices,
        out.data,
        out.weights,
    )
    return out
