"""What a unit of a data set adds up to, and the record of it that a load leaves as it goes on.

A unit is a part of the source that is written together (`sources.UNIT_BYTES` of text, a shard of a
data set). It has shards of its own, so that units can be made in any order and by anyone, and those
that a load has made when it breaks off are taken over by the next one of the same source.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cirrus_fast import _kernels, errors
from cirrus_fast._version import __version__
from cirrus_fast.data.blocks import Dictionary, decode_block
from cirrus_fast.data.columns import ColumnCounter, ColumnStatistics
from cirrus_fast.data.manifest import is_sealed, seal
from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.rows import joined
from cirrus_fast.data.storage import Storage
from cirrus_fast.errors import BlockError, DatasetError, ParseError, StorageError

FORMAT = "cirrus_fast unfinished data set"
# Distinct labels after which data are taken for something else than classes.
MOST_LABELS = 10_000
# Column statistics that wait to be merged: wide ones are merged seldom, memory is bounded.
MERGED_AT_ONCE = 32
# Shards of a unit have numbers of their own; a unit has fewer.
MOST_SHARDS = 100


class MergedColumns:
    """Statistics of part after part. Sums depend on how they are grouped: the same parts in the
    same order give the same, bit for bit."""

    def __init__(self) -> None:
        self._parts: list[ColumnStatistics] = []

    def add(self, part: ColumnStatistics) -> None:
        self._parts.append(part)
        if len(self._parts) == MERGED_AT_ONCE:
            self._parts = [ColumnStatistics.merge_all(self._parts)]

    def all(self) -> ColumnStatistics:
        return ColumnStatistics.merge_all(self._parts)


@dataclass(slots=True)
class StoredShard:
    """An object with blocks, each as (bytes, rows, entries)."""

    name: str
    n_bytes: int = 0
    crc32c: int = 0
    blocks: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, raw: bytes, n_rows: int, nnz: int) -> None:
        self.blocks.append((len(raw), n_rows, nnz))
        self.n_bytes += len(raw)
        self.crc32c = _kernels.crc32c(raw, self.crc32c)


@dataclass(slots=True)
class Sums:
    """What rows add up to, but for their columns.

    Attributes
    ----------
    min_index, max_index : of the stored ids; None without entries
    n_skipped, first_skipped : rows that could not be read, and why the first could not
    """

    n_rows: int = 0
    labels: Counter[float] = field(default_factory=Counter)
    label_weights: Counter[float] = field(default_factory=Counter)
    min_index: int | None = None
    max_index: int | None = None
    longest_row: int = 0
    has_weights: bool = False
    n_skipped: int = 0
    first_skipped: ParseError | None = None

    def add(self, other: Sums) -> None:
        self.n_rows += other.n_rows
        self.labels.update(other.labels)
        self.label_weights.update(other.label_weights)
        if len(self.labels) > MOST_LABELS:
            raise DatasetError(f"more than {MOST_LABELS} different labels; classes are needed")
        self.min_index = least(self.min_index, other.min_index)
        self.max_index = most(self.max_index, other.max_index)
        self.longest_row = max(self.longest_row, other.longest_row)
        self.has_weights |= other.has_weights
        self.n_skipped += other.n_skipped
        if self.first_skipped is None:
            self.first_skipped = other.first_skipped


def least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def most(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


@dataclass(slots=True)
class Unit:
    """
    Attributes
    ----------
    items : of each item that was encoded at once, how many blocks each of its parts has become
    amount : of the source, as progress is told in
    """

    number: int
    shards: list[StoredShard] = field(default_factory=list)
    items: list[list[int]] = field(default_factory=list)
    amount: int = 0
    sums: Sums = field(default_factory=Sums)

    def to_json(self) -> dict[str, Any]:
        sums = self.sums
        first = sums.first_skipped
        return {
            "number": self.number,
            "shards": [[s.name, s.n_bytes, s.crc32c, s.blocks] for s in self.shards],
            "items": self.items,
            "amount": self.amount,
            "n_rows": sums.n_rows,
            "labels": list(sums.labels.items()),
            "label_weights": list(sums.label_weights.items()),
            "min_index": sums.min_index,
            "max_index": sums.max_index,
            "longest_row": sums.longest_row,
            "has_weights": sums.has_weights,
            "n_skipped": sums.n_skipped,
            "first_skipped": None if first is None else [type(first).__name__, vars(first)],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Unit:
        first = raw["first_skipped"]
        return cls(
            number=raw["number"],
            shards=[
                StoredShard(name, n_bytes, crc, [(b[0], b[1], b[2]) for b in blocks])
                for name, n_bytes, crc, blocks in raw["shards"]
            ],
            items=raw["items"],
            amount=raw["amount"],
            sums=Sums(
                n_rows=raw["n_rows"],
                labels=Counter(dict(raw["labels"])),
                label_weights=Counter(dict(raw["label_weights"])),
                min_index=raw["min_index"],
                max_index=raw["max_index"],
                longest_row=raw["longest_row"],
                has_weights=raw["has_weights"],
                n_skipped=raw["n_skipped"],
                first_skipped=None if first is None else getattr(errors, first[0])(**first[1]),
            ),
        )


class Damaged(Exception):
    """What a load left is not whole; the message says what."""


def scan_unit(
    unit: Unit, storage: Storage, dictionary: Dictionary, counter: ColumnCounter | None
) -> ColumnStatistics:
    """Reads a unit's shards back. Returns the statistics of its columns, grouped as when it was
    encoded, but for the ones that `counter` keeps; without a counter, none.

    Raises
    ------
    Damaged : a shard is not what was written, or is gone
    """
    merged = MergedColumns()
    if counter is None:
        for _ in _shards(unit, storage):
            continue
        return merged.all()
    blocks = _blocks(unit, storage)
    for item in unit.items:
        for n_blocks in item:
            rows = joined([decode_block(next(blocks), dictionary) for _ in range(n_blocks)])
            counter.add(rows.indices, rows.data, int(rows.indices.max(initial=0)) + 1)
        merged.add(counter.take_part())
    return merged.all()


def _blocks(unit: Unit, storage: Storage) -> Iterator[memoryview]:
    for shard, raw in _shards(unit, storage):
        begin = 0
        for n_bytes, _, _ in shard.blocks:
            yield raw[begin : begin + n_bytes]
            begin += n_bytes


def _shards(unit: Unit, storage: Storage) -> Iterator[tuple[StoredShard, memoryview]]:
    """As they were written."""
    for shard in unit.shards:
        raw = fresh_memory(shard.n_bytes)
        try:
            if storage.size(shard.name) != shard.n_bytes:
                raise Damaged(f"{storage.uri}/{shard.name} has another size")
            storage.read_into(shard.name, 0, raw)
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            raise Damaged(f"{storage.uri}/{shard.name} is gone") from error
        if _kernels.crc32c(raw) != shard.crc32c:
            raise Damaged(f"{storage.uri}/{shard.name} is damaged")
        yield shard, raw


@dataclass(frozen=True, slots=True)
class Header:
    """What an unfinished data set is of.

    Attributes
    ----------
    token : in the names of its objects
    dictionary, checksum : object that the blocks are coded with, and its CRC-32C
    """

    lineage: Mapping[str, Any]
    token: str
    dictionary: str
    checksum: int

    def to_bytes(self) -> bytes:
        return seal(
            {
                "format": FORMAT,
                "written_by": __version__,
                "lineage": dict(self.lineage),
                "token": self.token,
                "dictionary": self.dictionary,
                "crc32c": self.checksum,
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Header | None:
        """None for what is damaged, or of another version of the package."""
        body = _unsealed(raw)
        if body is None or body.get("format") != FORMAT or body.get("written_by") != __version__:
            return None
        return cls(body["lineage"], body["token"], body["dictionary"], body["crc32c"])


def record_name(token: str, number: int) -> str:
    return f"unit-{token}-{number:05d}.json"


def columns_name(token: str, number: int, kind: str) -> str:
    """Of an object that lies there while workers make units: kind is "others" or "ones"."""
    return f"unit-{token}-{number:05d}-{kind}.npz"


def write_record(storage: Storage, token: str, unit: Unit) -> None:
    storage.write(record_name(token, unit.number), seal(unit.to_json()))


def read_record(storage: Storage, name: str) -> Unit | None:
    """None for one that is damaged."""
    body = _unsealed(storage.read(name))
    return None if body is None else Unit.from_json(body)


def _unsealed(raw: bytes) -> dict[str, Any] | None:
    return json.loads(raw) if is_sealed(raw) else None


def read_dictionary(storage: Storage, header: Header) -> Dictionary | None:
    """None if it is not what was written."""
    try:
        raw = storage.read(header.dictionary)
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    if _kernels.crc32c(raw) != header.checksum:
        return None
    try:
        return Dictionary.from_bytes(raw)
    except BlockError:
        return None
