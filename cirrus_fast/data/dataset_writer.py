"""Writing a data set: shards as blocks come, everything else at the end, the manifest last.

Blocks are written unit by unit (units.py). Where another load of the same source may go on, each
unit but the last leaves a record, so that what is finished stays finished when a load breaks off.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from cirrus_fast import _kernels
from cirrus_fast.data import units as records
from cirrus_fast.data.blocks import Dictionary
from cirrus_fast.data.columns import ColumnStatistics, CountedColumns, Scaling, store_npz
from cirrus_fast.data.dataset import (
    Dataset,
    read_manifest,
    refuse_foreign,
    remove_written,
    scaling_to_arrays,
    sweep,
)
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.lock import Lock
from cirrus_fast.data.manifest import MANIFEST, UNFINISHED, Block, Manifest
from cirrus_fast.data.storage import ObjectWriter, Storage, open_storage, resolve
from cirrus_fast.data.units import Header, StoredShard, Unit
from cirrus_fast.errors import CirrusFastError, DatasetError, StorageError
from cirrus_fast.notices import notice

# Large enough that a shard is worth a connection, small enough to be retried.
SHARD_BYTES = 64 << 20


class UnitWriter:
    """Writes the shards of a unit, one block after another."""

    def __init__(self, storage: Storage, token: str, unit: Unit) -> None:
        self._storage = storage
        self._token = token
        self.unit = unit
        self._shard: ObjectWriter | None = None

    def add_block(self, raw: bytes, n_rows: int, nnz: int) -> None:
        """Appends one encoded block."""
        shards = self.unit.shards
        if self._shard is None:
            number = self.unit.number * records.MOST_SHARDS + len(shards)
            name = f"shard-{self._token}-{number:05d}.cfs"
            self._shard = self._storage.writer(name)
            shards.append(StoredShard(name))
        self._shard.write(raw)
        shards[-1].add(raw, n_rows, nnz)
        # Those of the last number go on: what follows is another unit's.
        if shards[-1].n_bytes >= SHARD_BYTES and len(shards) < records.MOST_SHARDS:
            self.close()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.commit()
            self._shard = None

    def remove(self) -> None:
        if self._shard is not None:
            self._shard.abort()
        for shard in self.unit.shards:
            self._storage.delete(shard.name)


class DatasetWriter:
    """Use as a context manager: leaving it without `finish` removes what was written, or keeps it
    for a load that goes on.

    Entering it is a DatasetError while another writes a data set of this name. Objects carry a
    token of this writer in their names, so a data set that is being replaced stays readable until
    the new manifest takes its place.

    Attributes
    ----------
    left : units by number that a load of the same which broke off has made
    dictionary : what blocks are coded with, once it is there; dictionary_name : its object
    token : in the names of all objects; storage : where they are; units : those that are made
    """

    def __init__(
        self, name: str, *, overwrite: bool, lineage: Mapping[str, Any] | None = None
    ) -> None:
        """overwrite : whether a data set of this name may be there
        lineage : of what is written, if another load of it may go on where this one breaks off
        """
        self._name = name
        self._overwrite = overwrite
        self._lineage = lineage
        self.storage = open_storage(resolve(name))
        self._lock = Lock(self.storage, name)
        self.left: dict[int, Unit] = {}
        self._begin_empty()
        self._finished = False
        self._manifest: bytes | None = None

    def _begin_empty(self) -> None:
        self.token = secrets.token_hex(4)
        self.dictionary: Dictionary | None = None
        self.dictionary_name: str | None = None
        self.units: dict[int, Unit] = {}
        self._writer: UnitWriter | None = None
        self._unrecorded: Unit | None = None
        self._recorded: dict[int, int] = {}  # rows of units, by number
        self._beside: dict[str, int] = {}  # other objects, with their checksums
        self._is_headed = False

    def __enter__(self) -> DatasetWriter:
        self._lock.acquire()
        try:
            if self.storage.exists(MANIFEST):
                refuse_foreign(self.storage, self._name)
                if not self._overwrite:  # there was none when the caller looked
                    raise DatasetError(f"{self._name}: a data set of this name was made meanwhile")
            self._look_back()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _look_back(self) -> None:
        """Takes over what a load left that broke off, or removes it."""
        self.storage.abandon_uploads()
        if not self.storage.exists(UNFINISHED):
            return
        header = Header.from_bytes(self.storage.read(UNFINISHED))
        same = header is not None and header.lineage == self._lineage and not self._overwrite
        if header is not None and same:
            self.left = _records(self.storage, header.token)
            self.dictionary = records.read_dictionary(self.storage, header)
            same = bool(self.left) and self.dictionary is not None
        if header is None or not same:
            why = "it was of something else"
            if self._overwrite:
                why = "as overwrite=True asks"
            elif header is not None and header.lineage == self._lineage:
                why = "nothing of it is whole"
            notice(f"{self._name}: what an unfinished load left is removed, {why}")
            self.left, self.dictionary = {}, None
            clear_unfinished(self.storage, self._name)
            return
        self.token = header.token
        self.dictionary_name = header.dictionary
        self._beside[header.dictionary] = header.checksum
        self._is_headed = True
        self._recorded = {number: unit.sums.n_rows for number, unit in self.left.items()}
        there = [records.record_name(self.token, number) for number in self.left]
        shards = [shard.name for unit in self.left.values() for shard in unit.shards]
        sweep(self.storage, keep=[header.dictionary, *there, *shards])
        n_rows = sum(self._recorded.values())
        notice(f"{self._name}: goes on where a load broke off, {n_rows} rows are there")

    def begin_anew(self, why: str) -> None:
        """Removes all that was written."""
        notice(f"{self._name}: {why}; it begins anew")
        self._remove_all()
        self.left = {}
        self._begin_empty()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._finished and not self._is_in_place():
                if self._may_go_on(error):
                    self._keep()
                else:
                    self._remove_all()
        finally:
            self._lock.release()

    def _may_go_on(self, error: BaseException | None) -> bool:
        """Whether another try might come further: not where the rows themselves are at fault, nor
        where it would begin anew."""
        at_fault = isinstance(error, CirrusFastError) and not isinstance(error, StorageError)
        there = bool(self._recorded) and not self._overwrite
        return there and error is not None and not at_fault

    def _keep(self) -> None:
        """What has a record; the storage may be out of reach."""
        with suppress(StorageError):
            if self._writer is not None:
                self._writer.remove()
            if self._unrecorded is not None:
                self._record(self._unrecorded)
        n_rows = sum(self._recorded.values())
        notice(
            f"{self._name}: the load broke off; {n_rows} rows are kept, and the same load goes on "
            "from there; `cirrus-fast rm` removes them"
        )

    def _remove_all(self) -> None:
        if self._writer is not None:
            self._writer.remove()
        if self._is_headed:  # others may have written, too
            self.storage.delete(UNFINISHED)
            remove_written(self.storage, self.token)
            return
        shards = [shard.name for unit in self.units.values() for shard in unit.shards]
        for name in (*self._beside, *shards):
            self.storage.delete(name)

    def _is_in_place(self) -> bool:
        """Whether the manifest was written after all, though the caller was interrupted then."""
        written = self._manifest is not None and self.storage.exists(MANIFEST)
        return written and self.storage.read(MANIFEST) == self._manifest

    def add_dictionary(self, dictionary: Dictionary) -> None:
        """Writes what the blocks refer to."""
        self.dictionary = dictionary
        self.dictionary_name = self._write("dictionary.cfd", dictionary.to_bytes())

    def take_dictionary(self, name: str) -> None:
        """One that another has written."""
        raw = self.storage.read(name)
        self.dictionary, self.dictionary_name = Dictionary.from_bytes(raw), name
        self._beside[name] = _kernels.crc32c(raw)

    def begin_unit(self, unit: Unit) -> UnitWriter:
        """What writes its blocks, until `end_unit`."""
        if self._unrecorded is not None and self._lineage is not None:
            self.head()
            self._record(self._unrecorded)
        self._unrecorded = None
        self._writer = UnitWriter(self.storage, self.token, unit)
        return self._writer

    def end_unit(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._unrecorded = self._writer.unit
        self.take_unit(self._writer.unit)
        self._writer = None

    def take_unit(self, unit: Unit) -> None:
        """Makes a unit part of the data set whose shards are there."""
        self.units[unit.number] = unit

    def _record(self, unit: Unit) -> None:
        records.write_record(self.storage, self.token, unit)
        self.note_record(unit)

    def note_record(self, unit: Unit) -> None:
        """Of a unit whose record another has written."""
        self._recorded[unit.number] = unit.sums.n_rows

    def head(self) -> None:
        """Says what the units that have records are of; those of others are found by it."""
        if self._is_headed:
            return
        assert self._lineage is not None
        assert self.dictionary_name is not None
        name = self.dictionary_name
        header = Header(self._lineage, self.token, name, self._beside[name])
        self._is_headed = True
        self.storage.write(UNFINISHED, header.to_bytes())

    def _write(self, stem: str, raw: bytes) -> str:
        name = stem.replace(".", f"-{self.token}.")
        self._beside[name] = _kernels.crc32c(raw)
        self.storage.write(name, raw)
        return name

    def finish(
        self,
        *,
        n_features: int,
        longest_row: int,
        n_positive: int,
        weight: float,
        positive_weight: float,
        index_base: int,
        hash_bits: int | None,
        text_format: str,
        label_weights: bool,
        allow_nonfinite: bool,
        label_map: LabelMap,
        has_weights: bool,
        columns: ColumnStatistics | CountedColumns,
        lineage: Mapping[str, Any],
        scaling: Scaling | None = None,
    ) -> None:
        """Writes the rest, then the manifest, then removes what an earlier data set left here."""
        scaling_name = None
        if scaling is not None:
            scaling_name = self.write_scaling(scaling)
        columns_name = self._write("columns.npz", columns.to_bytes())
        blocks, sizes = self._blocks()
        shards = [shard for unit in self.units.values() for shard in unit.shards]
        manifest = Manifest(
            n_rows=sum(block.n_rows for block in blocks),
            n_features=n_features,
            nnz=sum(block.nnz for block in blocks),
            longest_row=longest_row,
            n_positive=n_positive,
            weight=weight,
            positive_weight=positive_weight,
            index_base=index_base,
            hash_bits=hash_bits,
            text_format=text_format,
            label_weights=label_weights,
            allow_nonfinite=allow_nonfinite,
            label_map=label_map,
            has_weights=has_weights,
            blocks=blocks,
            dictionary=self.dictionary_name,
            columns=columns_name,
            lineage=lineage,
            scaling=scaling_name,
            scaling_id=None if scaling is None else scaling.id,
            shard_sizes=sizes,
            checksums=self._beside | {shard.name: shard.crc32c for shard in shards},
        )
        written = [*self._beside, *sizes]
        gone = [name for name in written if not self.storage.exists(name)]
        if gone:
            raise DatasetError(
                f"{self.storage.uri}: {gone[0]} vanished while this data set was written; "
                "load it again"
            )
        self._manifest = manifest.to_json()
        self.storage.write(MANIFEST, self._manifest)
        self._finished = True
        sweep(self.storage, keep=written)
        if self._is_headed:  # last: it tells the next load that there is something to remove
            self.storage.delete(UNFINISHED)

    def write_scaling(self, scaling: Scaling) -> str:
        """Once, before the end where others need it."""
        name = f"scaling-{self.token}.npz"
        if name not in self._beside:
            self._write("scaling.npz", store_npz(scaling_to_arrays(scaling)))
        return name

    def _blocks(self) -> tuple[tuple[Block, ...], dict[str, int]]:
        """All blocks in order, and the sizes of their shards."""
        blocks: list[Block] = []
        sizes: dict[str, int] = {}
        first_row = 0
        for _, unit in sorted(self.units.items()):
            for shard in unit.shards:
                offset = 0
                for n_bytes, n_rows, nnz in shard.blocks:
                    blocks.append(Block(shard.name, offset, n_bytes, n_rows, nnz, first_row))
                    offset += n_bytes
                    first_row += n_rows
                sizes[shard.name] = shard.n_bytes
        return tuple(blocks), sizes


def _records(storage: Storage, token: str) -> dict[int, Unit]:
    """Units with whole records, by number."""
    found: dict[int, Unit] = {}
    for name in storage.names():
        if name.startswith(f"unit-{token}-") and name.endswith(".json"):
            unit = records.read_record(storage, name)
            if unit is not None and records.record_name(token, unit.number) == name:
                found[unit.number] = unit
    return dict(sorted(found.items()))


def clear_unfinished(storage: Storage, name: str) -> None:
    """Removes what an unfinished load left beside the data set, if there is one. The lock must be
    held."""
    try:
        sweep(storage, list(read_manifest(storage, name).checksums))
    except DatasetError:
        # Of one that is damaged it is not known what is of it before it is replaced.
        if not storage.exists(MANIFEST):
            sweep(storage, ())
    storage.delete(UNFINISHED)


def tidy(dataset: Dataset) -> None:
    """Removes what an unfinished load that was to replace a data set has left beside it."""
    storage = open_storage(dataset.uri)
    if not storage.exists(UNFINISHED):
        return
    try:
        with Lock(storage, dataset.name):
            storage.abandon_uploads()
            clear_unfinished(storage, dataset.name)
    except DatasetError:  # it is at work
        return
    notice(f"{dataset.name}: what an unfinished load left is removed")
