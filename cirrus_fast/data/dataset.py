"""A data set: shard objects under a folder, and the manifest that makes them one.

The manifest is written last, so a folder without one is an incomplete data set and never reads as
a complete one. Shards are sequences of blocks (docs/shard-format.md); a block is the unit of
reading. Rows keep the ids and labels of their source; what those mean (index base, which labels
are positive) is in the manifest.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from cirrus_fast import _kernels
from cirrus_fast.data.block_runs import RUN_BYTES, connections_for, n_bytes, side_by_side
from cirrus_fast.data.blocks import Dictionary, decode_block, read_header
from cirrus_fast.data.columns import ColumnStatistics, Scaling, load_npz
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.early_reads import EarlyReads, Piece
from cirrus_fast.data.lock import LOCK, Lock, refuse_if_held
from cirrus_fast.data.manifest import (
    COLUMNS_NAME,
    DICTIONARY_NAME,
    FORMAT,
    MANIFEST,
    RECORD_NAME,
    SCALING_NAME,
    SHARD_NAME,
    UNFINISHED,
    Block,
    Manifest,
)
from cirrus_fast.data.parallel import fresh_memory, ordered_map
from cirrus_fast.data.storage import (
    TEMPORARY_SUFFIX,
    Storage,
    is_file,
    is_s3,
    open_storage,
    resolve,
    storage_root,
)
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import BlockError, DatasetError, StorageError
from cirrus_fast.notices import notice

# What a DatasetWriter makes, finished or not; nothing else in the folder is ever deleted. The
# manifest, the lock and what says what an unfinished data set is of are deleted by name.
_OURS = re.compile(
    rf"({SHARD_NAME}|{DICTIONARY_NAME}|{COLUMNS_NAME}|{SCALING_NAME}|{RECORD_NAME}"
    rf"|({re.escape(MANIFEST)}|{re.escape(LOCK)}|{re.escape(UNFINISHED)})(?=\.))"
    rf"(\..+{re.escape(TEMPORARY_SUFFIX)})?"
)


Checked = TypeVar("Checked")


class Dataset:
    """A complete data set, read only.

    Attributes
    ----------
    name : str, as it was asked for; uri : str, the folder it is in
    manifest : Manifest
    """

    def __init__(self, name: str, reads_first: Sequence[Piece] = ()) -> None:
        """Opens a data set by bare name, path or URI; see `cirrus_fast.configure`.

        reads_first : of its objects, what will be read next and is asked for at once, by whoever
            knows
        """
        self.name = name
        self.uri = resolve(name)
        self._storage = open_storage(self.uri)
        if reads_first:
            reads_first = [Piece(MANIFEST, 0, None), *reads_first]
        self._early = EarlyReads(self._storage, reads_first)
        self.manifest = read_manifest(self._storage, name, self._early)
        self._dictionary: Dictionary | None = None
        self._columns: ColumnStatistics | None = None

    def __repr__(self) -> str:
        return f"<Dataset {self.uri}: {self.n_rows} rows, {self.n_features} features>"

    @property
    def is_remote(self) -> bool:
        """Whether reading it means asking a server."""
        return is_s3(self.uri)

    @property
    def reads(self) -> Reads:
        """What reading it from a server has cost so far."""
        return self._storage.traffic.so_far

    @property
    def n_rows(self) -> int:
        return self.manifest.n_rows

    @property
    def n_features(self) -> int:
        return self.manifest.n_features

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.manifest.blocks

    @property
    def n_bytes(self) -> int:
        """Bytes of the shards in storage."""
        return sum(self.manifest.shard_sizes.values())

    @property
    def id(self) -> str:
        """16 hex digits of the manifest's contents: another load gives another id."""
        return hashlib.blake2b(self.manifest.to_json(), digest_size=8).hexdigest()

    @property
    def dictionary(self) -> Dictionary | None:
        """The dictionary all blocks are coded with, or None."""
        if self._dictionary is None and self.manifest.dictionary is not None:
            raw = self._read(self.manifest.dictionary)
            try:
                self._dictionary = Dictionary.from_bytes(raw)
            except BlockError as error:
                raise BlockError(f"{self.uri}/{self.manifest.dictionary}: {error}") from error
        return self._dictionary

    @property
    def columns(self) -> ColumnStatistics:
        """Statistics of the stored columns, by 0-based id."""
        if self._columns is None:
            name = self.manifest.columns
            self._columns = ColumnStatistics.from_bytes(self._read(name), f"{self.uri}/{name}")
        return self._columns

    @property
    def scaling(self) -> Scaling | None:
        """The scaling its values went through, or None for values as loaded."""
        name = self.manifest.scaling
        if name is None:
            return None
        where = f"{self.uri}/{name}"
        scaling = _scaling_of(self._read(name), where)
        if scaling.id != self.manifest.scaling_id:
            raise DatasetError(f"{where}: is another scaling than its manifest speaks of")
        return scaling

    def _read(self, name: str) -> bytes:
        """A whole object, as it was written."""

        def checked(raw: bytes) -> bytes:
            if _kernels.crc32c(raw) != self.manifest.checksums[name]:
                raise DatasetError(
                    f"{self.uri}/{name}: damaged, its checksum is not the manifest's; load the "
                    "data again with overwrite=True"
                )
            return raw

        return _twice(self._storage, name, checked, self._early.read(name))

    def size_of(self, shard: str) -> int:
        """Bytes of a shard in storage."""
        return self._storage.size(shard)

    def read_bytes(self, block: Block) -> bytes:
        """A block as stored."""
        out = bytearray(block.n_bytes)
        self.read_into(block, memoryview(out))
        return bytes(out)

    def read_into(
        self, block: Block, out: memoryview, arrived: Callable[[int], object] | None = None
    ) -> None:
        """Fills `out` with what is stored from the block's first byte on: it and more of its
        shard's blocks. May be called on many threads.

        arrived : is told how many bytes are there, where they come over time
        """
        if not self._early.read_into(block.shard, block.offset, out, arrived):
            self._storage.read_into(block.shard, block.offset, out, arrived)

    def read_block(self, block: Block) -> CSR:
        """One block's rows: labels as written, indices 0-based and increasing within a row."""
        return self.decode(block, self.read_bytes(block))

    def decode(self, block: Block, raw: bytes | memoryview) -> CSR:
        """The rows of a block as stored; the same."""
        with self.naming(block):
            rows = decode_block(raw, self.dictionary, base=self.manifest.index_base)
            check_header(raw, block)
        if rows.n_features > self.n_features:
            raise DatasetError(f"{self.uri}: a feature id is beyond the manifest's width")
        return CSR(rows.labels, rows.indptr, rows.indices, rows.data, self.n_features, rows.weights)

    def naming(self, block: Block) -> _Naming:
        """A context that puts the block's place in front of a BlockError."""
        return _Naming(f"{self.uri}/{block.shard} at byte {block.offset}")

    def verify(
        self,
        *,
        n_threads: int | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        """Reads everything and compares it with the manifest and with each other.

        n_threads : threads that decode, by default one per core
        on_progress : called with the number of rows done

        DatasetError names the first fault, and how many more there are.
        """
        from cirrus_fast.data.verification import find_faults

        faults = list(find_faults(self, n_threads=n_threads, on_progress=on_progress))
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise DatasetError(f"{faults[0]}{more}")


def check_header(raw: bytes | memoryview, block: Block) -> None:
    """Refuses a block that is not the one its manifest speaks of."""
    header = read_header(raw)
    if (header.n_rows, header.nnz) != (block.n_rows, block.nnz):
        raise BlockError("the block is not the one its manifest speaks of")


class _Naming:
    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, BlockError):
            raise BlockError(f"{self._where}: {error}") from error


def exists(name: str) -> bool:
    """Whether a complete data set is there."""
    return open_storage(resolve(name)).exists(MANIFEST)


_COMPRESSED = (".gz", ".bz2", ".zst", ".xz")


def is_text_file(name: str) -> bool:
    """Whether what to train on is a file, which is then LibSVM text: one from the current folder,
    like every file, unless there is a data set of that name."""
    if is_s3(resolve(name)) or not is_file(name) or exists(name):
        return False
    refuse_compressed(name)
    return True


def refuse_compressed(name: str) -> None:
    if name.lower().endswith(_COMPRESSED):
        raise DatasetError(
            f"{name}: compressed text cannot be read piece by piece; unpack it, or make a data set "
            "of it with load_libsvm"
        )


def list_datasets() -> list[str]:
    """Names of the complete data sets under the storage root."""
    root = open_storage(storage_root())
    return [name for name in root.folders() if exists(f"{root.uri}/{name}")]


def remove_dataset(name: str) -> None:
    """Deletes a data set, complete or not; what is no data set is left alone, and what is being
    written is refused."""
    storage = check_removable(name)
    with Lock(storage, name):
        storage.delete(MANIFEST)  # first, so that it is never half there
        storage.delete(UNFINISHED)
        sweep(storage, keep=())
        storage.abandon_uploads()


def check_removable(name: str) -> Storage:
    """Refuses what `remove_dataset` would refuse; the folder."""
    storage = open_storage(resolve(name))
    if storage.exists(MANIFEST):
        refuse_foreign(storage, name)
    elif not _ours(storage) and not storage.exists(LOCK) and not storage.exists(UNFINISHED):
        raise _missing(storage, name)
    refuse_if_held(storage, name)
    return storage


def refuse_foreign(storage: Storage, name: str) -> None:
    """A manifest may be damaged, but must be ours to be replaced or deleted (or be empty)."""
    raw = storage.read(MANIFEST)
    if raw and FORMAT.encode() not in raw:
        raise DatasetError(
            f"{name}: {storage.uri}/{MANIFEST} is not a manifest of a cirrus_fast data set"
        )


def _ours(storage: Storage) -> list[str]:
    return [name for name in storage.names() if _OURS.fullmatch(name)]


def remove_written(storage: Storage, token: str) -> None:
    """Deletes every object that was written with a token."""
    for name in _ours(storage):
        if f"-{token}" in name:
            storage.delete(name)


def sweep(storage: Storage, keep: Sequence[str]) -> None:
    """Deletes every object of ours but those to keep."""
    for name in _ours(storage):
        if name not in keep:
            storage.delete(name)


def _may_be_a_file(name: str) -> bool:
    return ("/" in name or "." in name) and not is_s3(name)


def _missing(storage: Storage, name: str) -> DatasetError:
    """What to say of a folder without a manifest."""
    try:
        refuse_if_held(storage, name)
    except DatasetError as busy:
        return busy
    if storage.names():
        return DatasetError(
            f"{name}: incomplete data set (no {MANIFEST} in {storage.uri}); load it again, which "
            "goes on where it broke off if it can"
        )
    text = ", and no text file of that name" if _may_be_a_file(name) else ""
    return DatasetError(
        f"{name}: no data set in {storage.uri}{text}; `cirrus-fast ls` lists what there is"
    )


def read_manifest(storage: Storage, name: str, early: EarlyReads | None = None) -> Manifest:
    where = f"{storage.uri}/{MANIFEST}"
    try:
        raw = None if early is None else early.read(MANIFEST)
        return _twice(storage, MANIFEST, lambda raw: Manifest.from_json(raw, where), raw)
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
        raise _missing(storage, name) from error


def _twice(
    storage: Storage,
    name: str,
    checked: Callable[[bytes], Checked],
    raw: bytes | None = None,
) -> Checked:
    """An object that says whether it is whole. From a server it is read once more if it is not: a
    bit may have turned over on its way here.

    raw : what was read of it already, or None
    """
    if raw is None:
        raw = storage.read(name)
    try:
        return checked(raw)
    except DatasetError as error:
        if not is_s3(storage.uri):
            raise
        again = storage.read(name)
        if again == raw:
            raise
        notice(f"{error}; read again")
        return checked(again)


def scaling_to_arrays(scaling: Scaling) -> dict[str, Any]:
    """What an .npz file keeps of a scaling; see `scaling_from_arrays`."""
    return {
        "scaling_method": scaling.method,
        "scaling_ids": scaling.ids,
        "scaling_shift": scaling.shift,
        "scaling_divisor": scaling.divisor,
    }


def scaling_from_arrays(arrays: Mapping[str, Any], where: str) -> Scaling:
    try:
        return Scaling(
            str(arrays["scaling_method"]),
            arrays["scaling_ids"],
            arrays["scaling_shift"],
            arrays["scaling_divisor"],
        )
    except KeyError as error:
        raise DatasetError(f"{where}: holds no scaling ({error} is missing)") from error


def _scaling_of(raw: bytes, where: str) -> Scaling:
    return scaling_from_arrays(load_npz(raw, where), where)


def read_scaling(storage: Storage, name: str) -> Scaling:
    """One of a data set that is not finished."""
    return _scaling_of(storage.read(name), f"{storage.uri}/{name}")


def read_ahead(
    dataset: Dataset, numbers: Sequence[int] | None = None
) -> Iterator[tuple[Block, memoryview | None]]:
    """All blocks in order, or those with these numbers, increasing, and what is stored of each:
    read ahead from a server; None on this machine's disk, which is read fast enough when asked."""
    blocks = dataset.blocks
    if numbers is None:
        numbers = range(len(blocks))
    if not dataset.is_remote:
        for number in numbers:
            yield blocks[number], None
        return

    def read(run: tuple[int, ...]) -> tuple[tuple[int, ...], memoryview]:
        out = fresh_memory(n_bytes(blocks, run))
        dataset.read_into(blocks[run[0]], out)
        return run, out

    runs = side_by_side(blocks, numbers, RUN_BYTES)
    for run, raw in ordered_map(read, runs, connections_for(blocks, runs)):
        for number in run:
            block = blocks[number]
            first = block.offset - blocks[run[0]].offset
            yield block, raw[first : first + block.n_bytes]


def rows_of(dataset: Dataset, block: Block, raw: memoryview | None) -> CSR:
    """The rows of what `read_ahead` gave. May be called on many threads."""
    if raw is None:
        return dataset.read_block(block)
    try:
        return dataset.decode(block, raw)
    except BlockError as error:
        # A bit may have turned over on its way here: what is stored decides.
        notice(f"{error}; read again")
        return dataset.read_block(block)


def iterate(dataset: Dataset, numbers: Sequence[int] | None = None) -> Iterator[CSR]:
    """The rows of all blocks in order, or of those with these numbers, increasing."""
    for block, raw in read_ahead(dataset, numbers):
        yield rows_of(dataset, block, raw)
