"""A worker's rows, epoch after epoch: blocks read, decoded, rescaled and shuffled.

As many rows are held as `worker_size` allows. If that is all of them they are read once; if not,
each epoch goes through them in windows, each of randomly drawn blocks.

Rows are shuffled in memory while they are made ready, a group of randomly drawn blocks at a time,
so that training walks forward through memory instead of jumping about in it, which would take
several times as long as the learning. Rows that are held get another order each epoch by runs of
neighbours, single rows where they fit in a cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import decode_block_into
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array
from cirrus_fast.data.dataset import Dataset, check_header
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.training_scale import TrainingScale

# Of a worker's memory, what decoded rows may take; the rest is the model, Python and NumPy.
_SHARE_FOR_ROWS = 0.6
# Rows are shuffled across as many blocks as fit in this; it lies beside the rows held.
_GROUP_BYTES = 16e6
# How many neighbours stay together where the rows held are more than a cache takes.
_RUN = 128
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

    Rows carry labels 1 and 0, the training scale's places for ids, and values divided by it.
    """

    dataset: Dataset
    numbers: Sequence[int]
    holdout: HoldOut
    scale: TrainingScale
    worker_size_mb: int
    seed: int
    worker: int
    times: ReadTimes = field(default_factory=ReadTimes)
    _held: CSR | None = None
    _memory: npt.NDArray[np.uint64] | None = None  # of the rows held

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """Every training row once, in an order of this epoch's own; the first `skip` left out."""
        draw = np.random.default_rng([self.seed, 2, epoch, self.worker])
        if self._held is None and self._fits(self.numbers):
            mixed = np.random.default_rng([self.seed, 4, self.worker])
            numbers = mixed.permutation(self.numbers).tolist()
            self._held = self._decode(numbers, mixed)
        if self._held is not None:
            order = _runs(self._held.n_rows, self._run(), draw)
            yield Window(self._held, order[skip:])
            return
        for part, numbers in enumerate(self._windows(draw.permutation(self.numbers).tolist())):
            n_rows = self.count(numbers)
            if skip < n_rows:
                mixed = np.random.default_rng([self.seed, 3, epoch, self.worker, part])
                rows = self._decode(numbers, mixed)
                yield Window(rows, _runs(n_rows, self._run(), mixed)[skip:])
            skip = max(0, skip - n_rows)

    def count(self, numbers: Sequence[int]) -> int:
        """Training rows in some blocks."""
        blocks, holdout = self.dataset.blocks, self.holdout
        return sum(blocks[i].n_rows - int(holdout.mask(i, blocks[i]).sum()) for i in numbers)

    def _bytes(self, numbers: Sequence[int]) -> int:
        return sum(decoded_bytes(self.dataset.blocks[i]) for i in numbers)

    def _budget(self) -> float:
        return self.worker_size_mb * 1e6 * _SHARE_FOR_ROWS

    def _fits(self, numbers: Sequence[int]) -> bool:
        return self._bytes(numbers) <= self._budget()

    def _run(self) -> int:
        return 1 if self._bytes(self.numbers) <= _GROUP_BYTES else _RUN

    def _windows(self, numbers: list[int]) -> Iterator[list[int]]:
        return _parts(numbers, self._fits)

    def _decode(self, numbers: Sequence[int], draw: np.random.Generator) -> CSR:
        """The training rows of some blocks, ready to learn from, in an order drawn."""
        has_weights = self.dataset.manifest.has_weights
        if self._memory is None:  # enough for any window, so that there are never two
            largest = max(self._bytes([number]) for number in self.numbers)
            enough = max(largest, min(self._budget(), self._bytes(self.numbers)))
            self._memory = _words(int(enough))
        held = _Arrays.within(self._memory, *self._sizes(numbers), has_weights)
        groups = list(_parts(numbers, lambda group: self._bytes(group) <= _GROUP_BYTES))
        memory = _words(max(map(self._bytes, groups)))
        row = entry = 0
        for group in groups:
            raw = _Arrays.within(memory, *self._sizes(group), has_weights)
            rows, training = self._read(group, raw)
            started = time.perf_counter()
            order = draw.permutation(training)
            last = row + len(order)
            ended = _kernels.prepare_rows(
                rows.labels,
                rows.indptr,
                rows.indices,
                rows.data,
                rows.weights,
                order,
                self.scale.place,
                self.scale.divisor,
                entry,
                held.labels[row:last],
                held.indptr[row : last + 1],
                held.indices[entry:],
                held.data[entry:],
                None if held.weights is None else held.weights[row:last],
            )
            row, entry = last, ended
            self.times.decode += time.perf_counter() - started
        return held.rows(row, entry, len(self.scale.divisor))

    def _sizes(self, numbers: Sequence[int]) -> tuple[int, int]:
        """(rows, entries) of some blocks, training rows or not."""
        blocks = [self.dataset.blocks[i] for i in numbers]
        return sum(block.n_rows for block in blocks), sum(block.nnz for block in blocks)

    def _read(self, numbers: Sequence[int], into: _Arrays) -> tuple[CSR, UInt32Array]:
        """The rows of some blocks as stored but for labels 1 and 0, and which are training rows."""
        dataset = self.dataset
        training, row, entry = [], 0, 0
        for number in numbers:
            block = dataset.blocks[number]
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
                    into.labels[at],
                    into.indptr[row : row + block.n_rows + 1],
                    into.indices[of],
                    into.data[of],
                    None if into.weights is None else into.weights[at],
                    base=dataset.manifest.index_base,
                    ordered=False,
                    entry_offset=entry,
                )
            training.append(np.flatnonzero(~self.holdout.mask(number, block)) + row)
            row, entry = row + block.n_rows, entry + block.nnz
            self.times.decode += time.perf_counter() - read
        rows = into.rows(row, entry, dataset.n_features)
        rows.labels[:] = dataset.manifest.label_map.positives(rows.labels)
        return rows, np.concatenate([np.empty(0, np.int64), *training]).astype(np.uint32)


def _words(n_bytes: int) -> npt.NDArray[np.uint64]:
    """Memory for rows of so many decoded bytes, taken once and used again: pages fresh from the
    system cost as much time as decoding into them."""
    return np.empty(n_bytes // 8 + 8, np.uint64)


@dataclass(slots=True)
class _Arrays:
    """Arrays that rows are decoded into."""

    labels: Float32Array
    indptr: Int64Array
    indices: UInt32Array
    data: Float32Array
    weights: Float32Array | None

    @classmethod
    def within(
        cls, memory: npt.NDArray[np.uint64], n_rows: int, nnz: int, has_weights: bool
    ) -> _Arrays:
        """Cut from memory of at least the rows' decoded bytes."""
        at = 0

        def cut(dtype: type, n: int) -> npt.NDArray[Any]:
            nonlocal at
            first, at = at, at + -(-n * np.dtype(dtype).itemsize // 8)
            return memory[first:at].view(dtype)[:n]

        return cls(
            indptr=cut(np.int64, n_rows + 1),
            labels=cut(np.float32, n_rows),
            indices=cut(np.uint32, nnz),
            data=cut(np.float32, nnz),
            weights=cut(np.float32, n_rows) if has_weights else None,
        )

    def rows(self, n_rows: int, nnz: int, n_features: int) -> CSR:
        """The first rows."""
        return CSR(
            self.labels[:n_rows],
            self.indptr[: n_rows + 1],
            self.indices[:nnz],
            self.data[:nnz],
            n_features,
            None if self.weights is None else self.weights[:n_rows],
        )


def _parts(numbers: Sequence[int], fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """The numbers in turn, in as long parts as fit; a number that fits nowhere is alone."""
    part: list[int] = []
    for number in numbers:
        if part and not fits([*part, number]):
            yield part
            part = []
        part.append(number)
    if part:
        yield part


def _runs(n_rows: int, length: int, draw: np.random.Generator) -> UInt32Array:
    """All row numbers, runs of neighbours in an order drawn, which begin elsewhere each time."""
    if length == 1:
        order = np.arange(n_rows, dtype=np.uint32)
        draw.shuffle(order)
        return order
    starts = np.arange(int(draw.integers(length)) - length, n_rows, length)
    draw.shuffle(starts)
    # The first run begins below 0, where numbers without a sign are beyond the last row.
    order = np.repeat(starts.astype(np.uint32), length)
    order += np.tile(np.arange(length, dtype=np.uint32), len(starts))
    return order[order < n_rows]


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
