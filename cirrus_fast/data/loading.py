"""From rows in any form to a data set: read and encoded on threads, written in order.

Memory is bounded: only as many items as there are threads are in work at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from cirrus_fast.data import dataset as datasets
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.columns import ColumnStatistics, Scaling
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
# Parts whose column statistics wait to be merged: wide ones are merged seldom, memory is bounded.
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

    def add(self, part: _Encoded) -> None:
        self.n_rows += part.n_rows
        self.labels.update(part.labels)
        self.label_weights.update(part.label_weights)
        if len(self.labels) > MOST_LABELS:
            raise DatasetError(f"more than {MOST_LABELS} different labels; classes are needed")
        ids = part.columns.ids
        if len(ids):
            low, high = int(ids[0]), int(ids[-1])
            self.min_index = low if self.min_index is None else min(low, self.min_index)
            self.max_index = high if self.max_index is None else max(high, self.max_index)
        self._columns.append(part.columns)
        if len(self._columns) == MERGED_AT_ONCE:
            self._columns = [ColumnStatistics.merge_all(self._columns)]
        self.longest_row = max(self.longest_row, part.longest_row)
        self.has_weights |= part.has_weights
        self.n_skipped += part.n_skipped
        self.first_skipped = self.first_skipped or part.first_skipped

    @property
    def columns(self) -> ColumnStatistics:
        return ColumnStatistics.merge_all(self._columns)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A part made into blocks, with what the manifest wants to know of it."""

    blocks: list[tuple[bytes, int, int]]
    n_rows: int
    labels: Counter[float]
    label_weights: Counter[float]
    columns: ColumnStatistics
    longest_row: int
    has_weights: bool
    n_skipped: int
    first_skipped: ParseError | None


def write_dataset(
    name: str,
    items: Iterable[Item],
    read: Callable[[Item], Part],
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
    items, read : read(item), called on threads, gives the rows of each, ids as to be stored; the
        thread is done with them before it reads again
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
        first = next(todo, None)
        shared: Future[Dictionary | None] = Future()
        if sample is not None or first is None:
            shared.set_result(None if sample is None else Dictionary.build(sample))

        def encode(item: Item) -> tuple[Item, _Encoded]:
            try:
                part = read(item)
                if item is first and not shared.done():
                    shared.set_result(Dictionary.build(part.rows))
            except BaseException as error:
                if item is first and not shared.done():
                    shared.set_exception(error)  # the others wait for it
                raise
            return item, _encode(part, shared, scan=columns is None)

        total = Total()
        for item, part in ordered_map(
            encode, chain([] if first is None else [first], todo), n_threads
        ):
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
            dictionary=shared.result(),
            columns=total.columns.shifted(meaning.index_base) if columns is None else columns,
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


def _encode(part: Part, shared: Future[Dictionary | None], *, scan: bool) -> _Encoded:
    """Everything that needs no dictionary comes first: the first part's is still being built while
    other threads have read theirs."""
    rows = part.rows
    labels, label_weights = count_labels(rows.labels, rows.weights)
    columns = ColumnStatistics.empty()
    if scan:
        used = slice(int(rows.indptr[0]), int(rows.indptr[-1]))
        columns = ColumnStatistics.scan(rows.indices[used], rows.data[used], rows.n_features)
    longest_row = int(np.diff(rows.indptr).max(initial=0))
    dictionary = shared.result()
    blocks = []
    for begin, end in spans(rows.n_rows):
        piece = row_slice(rows, begin, end)
        raw = encode_block(
            piece.labels, piece.indptr, piece.indices, piece.data, piece.weights, dictionary
        )
        blocks.append((raw, piece.n_rows, int(piece.indptr[-1] - piece.indptr[0])))
    return _Encoded(
        blocks=blocks,
        n_rows=rows.n_rows,
        labels=labels,
        label_weights=label_weights,
        columns=columns,
        longest_row=longest_row,
        has_weights=rows.weights is not None,
        n_skipped=part.n_skipped,
        first_skipped=part.first_skipped,
    )
