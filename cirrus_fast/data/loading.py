"""From rows in any form to a data set: read and encoded on threads, written in order.

Memory is bounded: only as many items as there are threads are in work at once. An item's rows come
in parts that caches hold, and each is done with before the next is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from cirrus_fast.data import dataset as datasets
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.columns import ColumnCounter, ColumnStatistics, CountedColumns, Scaling
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.dataset_writer import DatasetWriter, UnitWriter, tidy
from cirrus_fast.data.formats import LIBSVM
from cirrus_fast.data.labels import LabelMap, count_labels
from cirrus_fast.data.manifest import Manifest
from cirrus_fast.data.parallel import ordered_map
from cirrus_fast.data.reading import Part, TextReader
from cirrus_fast.data.rows import joined
from cirrus_fast.data.sources import Chunk, Source
from cirrus_fast.data.storage import Storage
from cirrus_fast.data.units import Damaged, MergedColumns, Sums, Unit, least, most, scan_unit
from cirrus_fast.errors import DatasetError, ParseError
from cirrus_fast.notices import notice

# Rows in a block: the unit of reading, shuffling and handing out to workers.
BLOCK_ROWS = 4096
# Items that wait, where they are but places in a file: some hundredths of a second's work.
_FEW = 8

Item = TypeVar("Item")
_Columns = TypeVar("_Columns", ColumnStatistics, CountedColumns)


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
    """What the units of a data set add up to."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.amount = 0
        self._others = MergedColumns()

    def add(self, unit: Unit, others: ColumnStatistics) -> None:
        """others : statistics of its columns, but for the ones that counters have"""
        self.sums.add(unit.sums)
        self.amount += unit.amount
        self._others.add(others)

    @property
    def max_index(self) -> int | None:
        return self.sums.max_index

    @property
    def min_index(self) -> int | None:
        return self.sums.min_index

    def columns(self, ones: _Columns) -> _Columns:
        return ones.merge(self._others.all())


@dataclass(slots=True)
class Encoded:
    """An item made into blocks, each with its numbers of rows and entries, and what the manifest
    wants to know of it."""

    blocks: list[tuple[bytes, int, int]] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)  # how many blocks of each
    sums: Sums = field(default_factory=Sums)
    others: ColumnStatistics = field(default_factory=ColumnStatistics.empty)
    first_skipped: Callable[[], ParseError] | None = None

    def look_at(self, part: Part) -> None:
        """Notes all but the columns of a part."""
        rows, sums = part.rows, self.sums
        labels, label_weights = count_labels(rows.labels, rows.weights)
        sums.n_rows += rows.n_rows
        sums.labels.update(labels)
        sums.label_weights.update(label_weights)
        lengths = np.diff(rows.indptr)
        sums.longest_row = max(sums.longest_row, int(lengths.max(initial=0)))
        ids = part.ids or _ends_of(rows, lengths > 0)
        if ids is not None:
            sums.min_index = least(sums.min_index, ids[0])
            sums.max_index = most(sums.max_index, ids[1])
        sums.has_weights |= rows.weights is not None
        sums.n_skipped += part.n_skipped
        self.first_skipped = self.first_skipped or part.first_skipped

    def add_blocks(self, rows: CSR, dictionary: Dictionary, counter: ColumnCounter | None) -> None:
        """counter : what counts the columns"""
        before = len(self.blocks)
        used = slice(int(rows.indptr[0]), int(rows.indptr[-1]))
        columns = None
        if counter is not None:
            columns = counter.table(rows.n_features, used.stop - used.start)
            if columns is None:
                counter.add(rows.indices[used], rows.data[used], rows.n_features)
        for begin, end in spans(rows.n_rows):
            piece = row_slice(rows, begin, end)
            raw = encode_block(
                piece.labels,
                piece.indptr,
                piece.indices,
                piece.data,
                piece.weights,
                dictionary,
                columns,
            )
            self.blocks.append((raw, piece.n_rows, int(piece.indptr[-1] - piece.indptr[0])))
        self.parts.append(len(self.blocks) - before)


def _ends_of(rows: CSR, there: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """The smallest and the largest id; there : which rows have any.

    Ids increase within a row, or it cannot be encoded."""
    if not there.any():
        return None
    lowest = rows.indices[rows.indptr[:-1][there]].min()
    highest = rows.indices[rows.indptr[1:][there] - 1].max()
    return int(lowest), int(highest)


class Encoder:
    """Makes items into blocks, on many threads. The first builds the dictionary, if there is none
    yet; until it is there, the others hold their rows."""

    def __init__(self, *, scan: bool) -> None:
        self.dictionary: Future[Dictionary] = Future()
        self._scan = scan
        self._counters: list[ColumnCounter] = []
        self._idle: list[ColumnCounter] = []

    def encode(self, parts: Iterable[Part], *, is_first: bool = False) -> Encoded:
        if not is_first or self.dictionary.done():
            return self._encode(parts, builds=False)
        try:
            return self._encode(parts, builds=True)
        except BaseException as error:
            if not self.dictionary.done():
                self.dictionary.set_exception(error)  # the others wait for it
            raise

    def _encode(self, parts: Iterable[Part], *, builds: bool) -> Encoded:
        found = Encoded()
        held: list[CSR] = []
        counter = self._counter()
        counted = counter if self._scan else None
        for part in parts:
            rows = part.rows
            found.look_at(part)
            if held or not self.dictionary.done():
                held.append(_copied(rows))
            else:
                found.add_blocks(rows, self.dictionary.result(), counted)
            while held and self.dictionary.done():
                found.add_blocks(held.pop(0), self.dictionary.result(), counted)
        if builds:
            self.dictionary.set_result(Dictionary.build(joined(held)))
        for rows in held:
            found.add_blocks(rows, self.dictionary.result(), counted)
        found.others = counter.take_part()
        self._idle.append(counter)
        return found

    def look_again(self, unit: Unit, storage: Storage) -> ColumnStatistics:
        """Of a unit that was encoded before: the statistics that `encode` would have given, merged;
        it is checked on the way."""
        if not self._scan:
            return scan_unit(unit, storage, self.dictionary.result(), None)
        counter = self._counter()
        others = scan_unit(unit, storage, self.dictionary.result(), counter)
        self._idle.append(counter)
        return others

    def _counter(self) -> ColumnCounter:
        """One that no other thread has; what is appended to a list or taken from it is whole."""
        try:
            return self._idle.pop()
        except IndexError:
            counter = ColumnCounter()
            self._counters.append(counter)
            return counter

    def ones(self) -> CountedColumns:
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


@dataclass(frozen=True, slots=True)
class Items(Generic[Item]):
    """What a data set is made of, in order.

    Attributes
    ----------
    of : those of the units that it says are wanted
    read : read(item), called on threads, gives its rows in parts, ids as to be stored; a thread is
        done with a part before it asks for the next
    unit, amount : of an item: the number of its unit, and how much progress it is
    ahead : how many may wait beyond those that are read, so that threads have work while a unit is
        finished
    """

    of: Callable[[Callable[[int], bool]], Iterable[Item]]
    read: Callable[[Item], Iterable[Part]]
    unit: Callable[[Item], int]
    amount: Callable[[Item], int]
    ahead: int = 1


def text_items(
    reader: TextReader, source: Source, read: Callable[[Chunk], Iterable[Part]]
) -> Items[Chunk]:
    return Items(
        lambda wanted: reader.chunks(source, wanted),
        read,
        lambda chunk: chunk.unit,
        lambda chunk: chunk.n_bytes,
        ahead=_FEW if source.is_cuttable else 1,  # others hold their bytes
    )


def write_dataset(
    name: str,
    items: Items[Item],
    ids: Callable[[Total], Ids],
    *,
    lineage: dict[str, Any],
    n_threads: int,
    overwrite: bool = False,
    goes_on: bool = True,
    positive_labels: Iterable[float] | None = None,
    parent: Dataset | None = None,
    scaling: Scaling | None = None,
    sample: Callable[[], CSR | None] = lambda: None,
    columns: ColumnStatistics | CountedColumns | None = None,
    on_progress: Callable[[int], object] | None = None,
    on_item: Callable[[Item, int | None], object] = lambda _item, _max_index: None,
    elsewhere: Elsewhere | None = None,
) -> Dataset:
    """Makes the data set `name`, whole or not at all.

    Parameters
    ----------
    ids : called at the end, with all that is known by then; says what the stored ids mean
    overwrite : whether a data set of this name may be replaced
    goes_on : whether the lineage tells sources apart, so that what a load of the same left is good
    positive_labels, parent : decide the label map; a parent's is taken over
    scaling : what the values went through
    sample : rows to build the blocks' dictionary from; by default those of the first item
    columns : statistics of all rows, by 0-based id, where they are known; else rows are scanned
    on_progress : is told the amount done
    on_item : called in order, after an item was written, with its largest stored id
    elsewhere : makes the units instead, and gives their total and columns; the rest is as here
    """
    kept = lineage if goes_on else None
    with DatasetWriter(name, overwrite=overwrite, lineage=kept) as writer:
        while True:
            try:
                found: ColumnStatistics | CountedColumns
                if elsewhere is None:
                    total, found = _write_here(
                        writer, items, n_threads, sample, columns is None, on_progress, on_item
                    )
                else:
                    total, found = elsewhere(writer)
                break
            except Damaged as damage:
                writer.begin_anew(str(damage))
        sums = total.sums
        if sums.n_rows == 0:
            raise DatasetError(f"{name}: {_no_rows(sums)}")
        meaning = ids(total)
        try:
            label_map = _label_map(sums, positive_labels, parent)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from error
        weight = sum(sums.label_weights.values())
        if not weight > 0:
            raise DatasetError(f"{name}: its rows weigh nothing: their sample weights are all 0")
        if columns is None:
            columns = found.shifted(meaning.index_base)
        writer.finish(
            n_features=meaning.n_features,
            longest_row=sums.longest_row,
            n_positive=sum(sums.labels[label] for label in label_map.positive),
            weight=weight,
            positive_weight=sum(sums.label_weights[label] for label in label_map.positive),
            index_base=meaning.index_base,
            hash_bits=meaning.hash_bits,
            text_format=meaning.text_format,
            label_weights=meaning.label_weights,
            allow_nonfinite=meaning.allow_nonfinite,
            label_map=label_map,
            has_weights=sums.has_weights,
            columns=columns,
            lineage=lineage,
            scaling=scaling,
        )
    if sums.n_skipped:
        notice(
            f"{name}: {sums.n_skipped} rows could not be read and were left out; "
            f"the first: {sums.first_skipped}"
        )
    return Dataset(name)


def _write_here(
    writer: DatasetWriter,
    items: Items[Item],
    n_threads: int,
    sample: Callable[[], CSR | None],
    scan: bool,
    on_progress: Callable[[int], object] | None,
    on_item: Callable[[Item, int | None], object],
) -> tuple[Total, CountedColumns]:
    """Writes all units that are not there, in order, on threads of this process."""
    encoder = Encoder(scan=scan)
    if writer.dictionary is not None:
        encoder.dictionary.set_result(writer.dictionary)
    elif (rows := sample()) is not None:
        encoder.dictionary.set_result(Dictionary.build(rows))
    left = writer.left

    def work() -> Iterator[Unit | Item]:
        waiting = deque(left)
        for item in items.of(lambda unit: unit not in left):
            while waiting and waiting[0] < items.unit(item):
                yield left[waiting.popleft()]
            yield item
        yield from (left[number] for number in waiting)

    def do(is_first: bool, thing: Unit | Item) -> Encoded | ColumnStatistics:
        if isinstance(thing, Unit):
            return encoder.look_again(thing, writer.storage)
        return encoder.encode(items.read(thing), is_first=is_first)

    total = Total()
    blocks: UnitWriter | None = None  # of the unit that is being written
    others = MergedColumns()

    def end_unit() -> None:
        if blocks is not None:
            writer.end_unit()
            total.add(blocks.unit, others.all())

    def tell() -> None:
        if on_progress is not None:
            on_progress(total.amount + (0 if blocks is None else blocks.unit.amount))

    numbered = ((number == 0, thing) for number, thing in enumerate(work()))
    each = ordered_map(lambda one: (one[1], do(*one)), numbered, n_threads, items.ahead)
    for thing, done in each:
        if isinstance(thing, Unit):
            assert isinstance(done, ColumnStatistics)
            end_unit()
            blocks = None
            writer.take_unit(thing)
            total.add(thing, done)
            tell()
            continue
        assert isinstance(done, Encoded)
        if blocks is None or blocks.unit.number != items.unit(thing):
            end_unit()
            blocks, others = writer.begin_unit(Unit(items.unit(thing))), MergedColumns()
        if writer.dictionary is None:
            writer.add_dictionary(encoder.dictionary.result())
        add_item(blocks, done, others, items.amount(thing))
        on_item(thing, done.sums.max_index)
        tell()
    with ThreadPoolExecutor(1) as aside:  # while the disk is waited for
        ones = aside.submit(encoder.ones)
        end_unit()
    return total, total.columns(ones.result())


def add_item(blocks: UnitWriter, done: Encoded, others: MergedColumns, amount: int) -> None:
    """Writes an item behind those of its unit."""
    unit = blocks.unit
    for block in done.blocks:
        blocks.add_block(*block)
    if unit.sums.first_skipped is None and done.first_skipped is not None:
        done.sums.first_skipped = done.first_skipped()
    unit.sums.add(done.sums)
    unit.items.append(done.parts)
    unit.amount += amount
    others.add(done.others)


# Makes the units of a data set that are not there: gives what all add up to, and the columns.
Elsewhere = Callable[[DatasetWriter], tuple[Total, ColumnStatistics]]


def _no_rows(total: Sums) -> str:
    if not total.n_skipped:
        return "its source has no rows; a data set needs at least one"
    return (
        f"none of the {total.n_skipped} rows of its source can be read; the first: "
        f"{total.first_skipped}"
    )


def _label_map(
    total: Sums, positive_labels: Iterable[float] | None, parent: Dataset | None
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
        tidy(there)
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
