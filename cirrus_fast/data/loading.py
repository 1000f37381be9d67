"""From rows in any form to a data set: read and encoded on threads, written in order.

Memory is bounded: only as many items as there are threads are in work at once. An item's rows come
in parts that caches hold, and each is done with before the next is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cirrus_fast.data import dataset as datasets
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.columns import ColumnCounter, ColumnStatistics, Scaling
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.dataset_writer import DatasetWriter
from cirrus_fast.data.formats import LIBSVM
from cirrus_fast.data.labels import LabelMap, count_labels
from cirrus_fast.data.manifest import Manifest
from cirrus_fast.data.parallel import ordered_map
from cirrus_fast.data.reading import Part
from cirrus_fast.errors import DatasetError, ParseError
from cirrus_fast.notices import notice

# Rows in a block: the unit of reading, shuffling and handing out to workers.
BLOCK_ROWS = 4096
# Distinct labels after which data are taken for something else than classes.
MOST_LABELS = 10_000
# Items whose column statistics wait to be merged: wide ones are merged seldom, memory is bounded.
MERGED_AT_ONCE = 32

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ids:
    """What the stored ids of a data set mean; the manifest's fields of these names."""

    n_features: int
    index_base: int = 0
    hash_bits: int | None = None
    text_format: str = LIBSVM
    label_weights: bool = False
    allow_nonfinite: bool = False

    @classmethod
    def like(cls, there: Manifest, n_features: int) -> Ids:
        """Ids that mean what those of a data set do, and text that is read alike."""
        return cls(
            n_features,
            there.index_base,
            there.hash_bits,
            there.text_format,
            there.label_weights,
            there.allow_nonfinite,
        )


class Total:
    """What the parts of a data set add up to."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.labels: Counter[float] = Counter()
        self.label_weights: Counter[float] = Counter()
        self.min_index: int | None = None  # of the stored ids; None without entries
        self.max_index: int | None = None
        self._columns: list[ColumnStatistics] = []
        self.longest_row = 0
        self.has_weights = False
        self.n_skipped = 0
        self.first_skipped: ParseError | None = None

    def add(self, item: _Encoded) -> None:
        self.n_rows += item.n_rows
        self.labels.update(item.labels)
        self.label_weights.update(item.label_weights)
        if len(self.labels) > MOST_LABELS:
            raise DatasetError(f"more than {MOST_LABELS} different labels; classes are needed")
        self.min_index = _least(self.min_index, item.min_index)
        self.max_index = _most(self.max_index, item.max_index)
        self._columns.append(item.columns)
        if len(self._columns) == MERGED_AT_ONCE:
            self._columns = [ColumnStatistics.merge_all(self._columns)]
        self.longest_row = max(self.longest_row, item.longest_row)
        self.has_weights |= item.has_weights
        self.n_skipped += item.n_skipped
        if self.first_skipped is None and item.first_skipped is not None:
            self.first_skipped = item.first_skipped()

    @property
    def columns(self) -> ColumnStatistics:
        """But for the ones that counters have."""
        return ColumnStatistics.merge_all(self._columns)


@dataclass(slots=True)
class _Encoded:
    """An item made into blocks, with what the manifest wants to know of it."""

    blocks: list[tuple[bytes, int, int]] = field(default_factory=list)
    n_rows: int = 0
    labels: Counter[float] = field(default_factory=Counter)
    label_weights: Counter[float] = field(default_factory=Counter)
    columns: ColumnStatistics = field(default_factory=ColumnStatistics.empty)
    min_index: int | None = None
    max_index: int | None = None
    longest_row: int = 0
    has_weights: bool = False
    n_skipped: int = 0
    first_skipped: Callable[[], ParseError] | None = None

    def look_at(self, part: Part) -> None:
        """Notes all but the columns of a part."""
        rows = part.rows
        labels, label_weights = count_labels(rows.labels, rows.weights)
        self.n_rows += rows.n_rows
        self.labels.update(labels)
        self.label_weights.update(label_weights)
        lengths = np.diff(rows.indptr)
        self.longest_row = max(self.longest_row, int(lengths.max(initial=0)))
        ids = part.ids or _ends_of(rows, lengths > 0)
        if ids is not None:
            self.min_index = _least(self.min_index, ids[0])
            self.max_index = _most(self.max_index, ids[1])
        self.has_weights |= rows.weights is not None
        self.n_skipped += part.n_skipped
        self.first_skipped = self.first_skipped or part.first_skipped

    def add_blocks(self, rows: CSR, dictionary: Dictionary) -> None:
        for begin, end in spans(rows.n_rows):
            piece = row_slice(rows, begin, end)
            raw = encode_block(
                piece.labels, piece.indptr, piece.indices, piece.data, piece.weights, dictionary
            )
            self.blocks.append((raw, piece.n_rows, int(piece.indptr[-1] - piece.indptr[0])))


def _ends_of(rows: CSR, there: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """The smallest and the largest id; there : which rows have any.

    Ids increase within a row, or it cannot be encoded."""
    if not there.any():
        return None
    lowest = rows.indices[rows.indptr[:-1][there]].min()
    highest = rows.indices[rows.indptr[1:][there] - 1].max()
    return int(lowest), int(highest)


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _most(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


class _Encoder:
    """Makes items into blocks, on many threads. The first builds the dictionary, if there is none
    yet; until it is there, the others hold their rows."""

    def __init__(self, sample: CSR | None, *, scan: bool) -> None:
        self.dictionary: Future[Dictionary] = Future()
        if sample is not None:
            self.dictionary.set_result(Dictionary.build(sample))
        self._scan = scan
        self._counters: list[ColumnCounter] = []
        self._idle: list[ColumnCounter] = []

    def encode(self, read: Callable[[], Iterable[Part]], *, is_first: bool) -> _Encoded:
        if not is_first or self.dictionary.done():
            return self._encode(read(), builds=False)
        try:
            return self._encode(read(), builds=True)
        except BaseException as error:
            if not self.dictionary.done():
                self.dictionary.set_exception(error)  # the others wait for it
            raise

    def _encode(self, parts: Iterable[Part], *, builds: bool) -> _Encoded:
        found = _Encoded()
        held: list[CSR] = []
        counter = self._counter()
        for part in parts:
            rows = part.rows
            found.look_at(part)
            if self._scan:
                used = slice(int(rows.indptr[0]), int(rows.indptr[-1]))
                counter.add(rows.indices[used], rows.data[used], rows.n_features)
            if held or not self.dictionary.done():
                held.append(_copied(rows))
            else:
                found.add_blocks(rows, self.dictionary.result())
            while held and self.dictionary.done():
                found.add_blocks(held.pop(0), self.dictionary.result())
        if builds:
            self.dictionary.set_result(Dictionary.build(_joined(held)))
        for rows in held:
            found.add_blocks(rows, self.dictionary.result())
        found.columns = counter.take_part()
        self._idle.append(counter)
        return found

    def _counter(self) -> ColumnCounter:
        """One that no other thread has; what is appended to a list or taken from it is whole."""
        try:
            return self._idle.pop()
        except IndexError:
            counter = ColumnCounter()
            self._counters.append(counter)
            return counter

    def ones(self) -> ColumnStatistics:
        """What the counters have, at the end."""
        return ColumnCounter.ones(self._counters)


def _copied(rows: CSR) -> CSR:
    begin, end = int(rows.indptr[0]), int(rows.indptr[-1])
    return CSR(
        rows.labels.copy(),
        rows.indptr - begin,
        rows.indices[begin:end].copy(),
        rows.data[begin:end].copy(),
        rows.n_features,
        None if rows.weights is None else rows.weights.copy(),
    )


def _joined(parts: list[CSR]) -> CSR:
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


def write_dataset(
    name: str,
    items: Iterable[Item],
    read: Callable[[Item], Iterable[Part]],
    ids: Callable[[Total], Ids],
    *,
    lineage: dict[str, Any],
    n_threads: int,
    overwrite: bool = False,
    positive_labels: Iterable[float] | None = None,
    parent: Dataset | None = None,
    scaling: Scaling | None = None,
    sample: CSR | None = None,
    columns: ColumnStatistics | None = None,
    on_part: Callable[[Item, Total], object] | None = None,
) -> Dataset:
    """Makes the data set `name`, whole or not at all.

    Parameters
    ----------
    items, read : read(item), called on threads, gives the rows of each in parts, ids as to be
        stored; a thread is done with a part before it asks for the next
    ids : called at the end, with all that is known by then; says what the stored ids mean
    overwrite : whether a data set of this name may be replaced
    positive_labels, parent : decide the label map; a parent's is taken over
    scaling : what the values went through
    sample : rows to build the blocks' dictionary from; by default those of the first item
    columns : statistics of all rows, by 0-based id, where they are known; else rows are scanned
    on_part : called in order, after an item was written
    """
    todo = iter(items)
    with DatasetWriter(name, overwrite=overwrite) as writer:
        encoder = _Encoder(sample, scan=columns is None)
        first = next(todo, None)

        def encode(item: Item) -> tuple[Item, _Encoded]:
            return item, encoder.encode(lambda: read(item), is_first=item is first)

        total = Total()
        for item, part in ordered_map(
            encode, chain([] if first is None else [first], todo), n_threads
        ):
            if item is first:
                writer.add_dictionary(encoder.dictionary.result())
            for block in part.blocks:
                writer.add_block(*block)
            total.add(part)
            if on_part is not None:
                on_part(item, total)
        if total.n_rows == 0:
            raise DatasetError(f"{name}: {_no_rows(total)}")
        meaning = ids(total)
        try:
            label_map = _label_map(total, positive_labels, parent)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from error
        weight = sum(total.label_weights.values())
        if not weight > 0:
            raise DatasetError(f"{name}: its rows weigh nothing: their sample weights are all 0")
        if columns is None:
            columns = total.columns.merge(encoder.ones()).shifted(meaning.index_base)
        writer.finish(
            n_features=meaning.n_features,
            longest_row=total.longest_row,
            n_positive=sum(total.labels[label] for label in label_map.positive),
            weight=weight,
            positive_weight=sum(total.label_weights[label] for label in label_map.positive),
            index_base=meaning.index_base,
            hash_bits=meaning.hash_bits,
            text_format=meaning.text_format,
            label_weights=meaning.label_weights,
            allow_nonfinite=meaning.allow_nonfinite,
            label_map=label_map,
            has_weights=total.has_weights,
            columns=columns,
            lineage=lineage,
            scaling=scaling,
        )
    if total.n_skipped:
        notice(
            f"{name}: {total.n_skipped} rows could not be read and were left out; "
            f"the first: {total.first_skipped}"
        )
    return Dataset(name)


def _no_rows(total: Total) -> str:
    if not total.n_skipped:
        return "its source has no rows; a data set needs at least one"
    return (
        f"none of the {total.n_skipped} rows of its source can be read; the first: "
        f"{total.first_skipped}"
    )


def _label_map(
    total: Total, positive_labels: Iterable[float] | None, parent: Dataset | None
) -> LabelMap:
    if parent is None:
        return LabelMap.decide(total.labels, positive_labels)
    label_map = parent.manifest.label_map
    label_map.positives(np.fromiter(total.labels, np.float32))
    return label_map


def existing(name: str, lineage: dict[str, Any] | None, overwrite: bool) -> Dataset | None:
    """The data set to reuse, or None if there is room for a new one."""
    if not datasets.exists(name):
        return None
    try:
        there = Dataset(name)
    except DatasetError:
        if overwrite:
            return None
        raise
    if lineage is not None and there.manifest.lineage == lineage:
        notice(f"{name}: reused, it was made of the same source with the same options")
        return there
    if not overwrite:
        raise DatasetError(
            f"{name}: a data set of this name was made of something else; "
            "choose another name, or replace it with overwrite=True"
        )
    return None


def spans(n_rows: int) -> Iterator[tuple[int, int]]:
    """Row ranges of blocks."""
    for begin in range(0, n_rows, BLOCK_ROWS):
        yield begin, min(begin + BLOCK_ROWS, n_rows)


def row_slice(rows: CSR, begin: int, end: int) -> CSR:
    """Rows [begin, end) as views; indptr keeps counting in the whole."""
    return CSR(
        rows.labels[begin:end],
        rows.indptr[begin : end + 1],
        rows.indices,
        rows.data,
        rows.n_features,
        None if rows.weights is None else rows.weights[begin:end],
    )
