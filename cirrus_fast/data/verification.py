"""Whether a data set is whole: every object read, and compared with the manifest and the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import decode_block, read_header
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset, check_header, read_ahead
from cirrus_fast.data.labels import count_labels
from cirrus_fast.data.manifest import SAME_SUM, Block
from cirrus_fast.data.parallel import ordered_map, thread_count
from cirrus_fast.errors import BlockError, CirrusFastError

# Sums of squares of float32 and of what they were before they were rounded (`Scaling.scaled`).
_SAME_ROUNDED_SUM = 1e-6

# Parts whose statistics wait to be merged.
_MERGED_AT_ONCE = 32


def find_faults(
    dataset: Dataset,
    *,
    n_threads: int | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> Iterator[str]:
    """One line for each fault: what is wrong, and where."""
    threads = thread_count(n_threads)
    beside = {what: _unreadable(dataset, what) for what in ("dictionary", "columns", "scaling")}
    sound = True
    for fault in filter(None, beside.values()):
        sound = False
        yield fault
    if beside["dictionary"]:
        return  # without it no block can be read, which is not the blocks' fault
    found = _Found()
    numbers = range(len(dataset.blocks))
    for shard, inside in groupby(numbers, lambda number: dataset.blocks[number].shard):
        for fault in _shard(dataset, shard, list(inside), found, threads, on_progress):
            sound = False
            yield fault
    if sound:  # else the sums are wrong of course
        yield from found.differences(dataset)


def _unreadable(dataset: Dataset, what: str) -> str | None:
    """What is wrong with an object beside the shards."""
    try:
        getattr(dataset, what)
    except CirrusFastError as error:
        return str(error)
    return None


def _shard(
    dataset: Dataset,
    shard: str,
    numbers: list[int],
    found: _Found,
    n_threads: int,
    on_progress: Callable[[int], object] | None,
) -> Iterator[str]:
    place = f"{dataset.uri}/{shard}"
    try:
        size = dataset.size_of(shard)
    except CirrusFastError as error:
        yield str(error)
        return
    said = dataset.manifest.shard_sizes[shard]
    if size != said:
        yield f"{place}: has {size} bytes, its manifest says {said}"
        return
    crc, sound = 0, True
    stored = _stored(dataset, numbers)
    for block, raw, read in ordered_map(lambda one: _read(dataset, *one), stored, n_threads):
        crc = _kernels.crc32c(raw, crc)
        if isinstance(read, str):
            sound = False
            yield read
        else:
            found.add(read)
        if on_progress is not None:
            on_progress(block.first_row + block.n_rows)
    if sound and crc != dataset.manifest.checksums[shard]:
        yield f"{place}: its checksum is not the manifest's"


def _stored(dataset: Dataset, numbers: list[int]) -> Iterator[tuple[Block, memoryview | None]]:
    """The blocks, and what was read ahead of them; where that fails, each is read by itself."""
    done = 0
    try:
        for one in read_ahead(dataset, numbers):
            done += 1
            yield one
    except CirrusFastError:
        yield from ((dataset.blocks[number], None) for number in numbers[done:])


def _read(
    dataset: Dataset, block: Block, ahead: memoryview | None
) -> tuple[Block, bytes | memoryview, _Part | str]:
    """A block as stored, and what is in it or what is wrong with it."""
    raw: bytes | memoryview = b""
    try:
        if ahead is not None:
            with suppress(BlockError):  # else it may have been damaged on its way: once more
                return block, ahead, _Part.of(dataset, block, ahead)
        raw = dataset.read_bytes(block)
        with dataset.naming(block):
            return block, raw, _Part.of(dataset, block, raw)
    except CirrusFastError as error:
        return block, raw, str(error)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a block adds to the data set's sums."""

    labels: Counter[float]
    label_weights: Counter[float]
    longest_row: int
    has_weights: bool
    columns: ColumnStatistics

    @classmethod
    def of(cls, dataset: Dataset, block: Block, raw: bytes | memoryview) -> _Part:
        check_header(raw, block)
        if read_header(raw).n_bytes != block.n_bytes:
            raise BlockError("the block has another length than its manifest says")
        rows = decode_block(raw, dataset.dictionary, base=dataset.manifest.index_base)
        _check_rows(dataset, rows)
        labels, label_weights = count_labels(rows.labels, rows.weights)
        return cls(
            labels,
            label_weights,
            int(np.diff(rows.indptr).max(initial=0)),
            rows.weights is not None,
            ColumnStatistics.scan(rows.indices, rows.data, rows.n_features),
        )


def _check_rows(dataset: Dataset, rows: CSR) -> None:
    manifest = dataset.manifest
    if rows.n_features > manifest.n_features:
        raise BlockError(f"feature {rows.n_features - 1} is beyond the manifest's width")
    known = {*manifest.label_map.negative, *manifest.label_map.positive}
    unknown = set(np.unique(rows.labels).tolist()) - known
    if unknown:
        raise BlockError(f"label {min(unknown):g} is in neither class of the manifest")
    if rows.weights is not None:
        if not manifest.has_weights:
            raise BlockError("rows have sample weights, the manifest says that none has")
        if not (np.isfinite(rows.weights) & (rows.weights >= 0)).all():
            raise BlockError("a sample weight is not a finite number >= 0")


class _Found:
    """What the blocks add up to."""

    def __init__(self) -> None:
        self._labels: Counter[float] = Counter()
        self._label_weights: Counter[float] = Counter()
        self._longest_row = 0
        self._has_weights = False
        self._columns: list[ColumnStatistics] = []

    def add(self, part: _Part) -> None:
        self._labels.update(part.labels)
        self._label_weights.update(part.label_weights)
        self._longest_row = max(self._longest_row, part.longest_row)
        self._has_weights |= part.has_weights
        self._columns.append(part.columns)
        if len(self._columns) == _MERGED_AT_ONCE:
            self._columns = [ColumnStatistics.merge_all(self._columns)]

    def differences(self, dataset: Dataset) -> Iterator[str]:
        """From the manifest and the column statistics."""
        manifest = dataset.manifest
        positive = manifest.label_map.positive
        for key, said, counted in (
            ("positives", manifest.n_positive, sum(self._labels[label] for label in positive)),
            ("longest_row", manifest.longest_row, self._longest_row),
            ("weights", manifest.has_weights, self._has_weights),
            ("weight", manifest.weight, sum(self._label_weights.values())),
            (
                "positive_weight",
                manifest.positive_weight,
                sum(self._label_weights[label] for label in positive),
            ),
        ):
            if not math.isclose(said, counted, rel_tol=SAME_SUM):
                yield f"{dataset.uri}: the manifest's {key} is {said}, its rows have {counted}"
        found = ColumnStatistics.merge_all(self._columns)
        tolerance = SAME_SUM if manifest.scaling is None else _SAME_ROUNDED_SUM
        if not _same_columns(dataset.columns, found, tolerance):
            yield f"{dataset.uri}/{manifest.columns}: not the statistics of its rows"


def _same_columns(left: ColumnStatistics, right: ColumnStatistics, tolerance: float) -> bool:
    if not np.array_equal(left.ids, right.ids):
        return False
    a, b = left.columns, right.columns
    return (
        np.array_equal(a["count"], b["count"])
        and np.array_equal(a["min"], b["min"], equal_nan=True)
        and np.array_equal(a["max"], b["max"], equal_nan=True)
        and np.allclose(a["sum_squares"], b["sum_squares"], rtol=tolerance, atol=0, equal_nan=True)
    )
