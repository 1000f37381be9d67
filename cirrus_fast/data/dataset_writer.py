"""Writing a data set: shards as blocks come, everything else at the end, the manifest last."""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import Dictionary
from cirrus_fast.data.columns import ColumnStatistics, Scaling
from cirrus_fast.data.dataset import refuse_foreign, scaling_to_arrays, sweep
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.lock import Lock
from cirrus_fast.data.manifest import MANIFEST, Block, Manifest
from cirrus_fast.data.storage import ObjectWriter, open_storage, resolve
from cirrus_fast.errors import DatasetError

# Large enough that a shard is worth a connection, small enough to be retried.
SHARD_BYTES = 64 << 20


class DatasetWriter:
    """Use as a context manager: leaving it without `finish` removes what was written.

    Entering it is a DatasetError while another writes a data set of this name. Objects carry a
    token of this writer in their names, so a data set that is being replaced stays readable until
    the new manifest takes its place.
    """

    def __init__(self, name: str, *, overwrite: bool) -> None:
        """overwrite : whether a data set of this name may be there"""
        self._name = name
        self._overwrite = overwrite
        self._storage = open_storage(resolve(name))
        self._lock = Lock(self._storage, name)
        self._token = secrets.token_hex(4)
        self._written: list[str] = []
        self._shard: ObjectWriter | None = None
        self._shard_bytes = self._shard_crc = 0
        self._dictionary: str | None = None
        self._blocks: list[Block] = []
        self._sizes: dict[str, int] = {}
        self._checksums: dict[str, int] = {}
        self._n_rows = 0
        self._nnz = 0
        self._finished = False
        self._manifest: bytes | None = None

    def __enter__(self) -> DatasetWriter:
        self._lock.acquire()
        try:
            if self._storage.exists(MANIFEST):
                refuse_foreign(self._storage, self._name)
                if not self._overwrite:  # there was none when the caller looked
                    raise DatasetError(f"{self._name}: a data set of this name was made meanwhile")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._finished and not self._is_in_place():
                self._remove_written()
        finally:
            self._lock.release()

    def _remove_written(self) -> None:
        if self._shard is not None:
            self._shard.abort()
        for name in self._written:
            self._storage.delete(name)

    def _is_in_place(self) -> bool:
        """Whether the manifest was written after all, though the caller was interrupted then."""
        written = self._manifest is not None and self._storage.exists(MANIFEST)
        return written and self._storage.read(MANIFEST) == self._manifest

    @property
    def n_rows(self) -> int:
        return self._n_rows

    def add_dictionary(self, dictionary: Dictionary) -> None:
        """Writes what the blocks refer to."""
        self._dictionary = self._write("dictionary.cfd", dictionary.to_bytes())

    def add_block(self, raw: bytes, n_rows: int, nnz: int) -> None:
        """Appends one encoded block."""
        if self._shard is None:
            name = f"shard-{self._token}-{len(self._sizes):05d}.cfs"
            self._shard = self._storage.writer(name)
            self._shard_name = name
            self._shard_bytes = self._shard_crc = 0
        self._shard.write(raw)
        self._blocks.append(
            Block(self._shard_name, self._shard_bytes, len(raw), n_rows, nnz, self._n_rows)
        )
        self._shard_bytes += len(raw)
        self._shard_crc = _kernels.crc32c(raw, self._shard_crc)
        self._n_rows += n_rows
        self._nnz += nnz
        if self._shard_bytes >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.commit()
            self._written.append(self._shard_name)
            self._sizes[self._shard_name] = self._shard_bytes
            self._checksums[self._shard_name] = self._shard_crc
            self._shard = None

    def _write(self, stem: str, raw: bytes) -> str:
        name = stem.replace(".", f"-{self._token}.")
        self._storage.write(name, raw)
        self._written.append(name)
        self._checksums[name] = _kernels.crc32c(raw)
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
        columns: ColumnStatistics,
        lineage: Mapping[str, Any],
        scaling: Scaling | None = None,
    ) -> None:
        """Writes the rest, then the manifest, then removes what an earlier data set left here."""
        self._close_shard()
        scaling_name = None
        if scaling is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **scaling_to_arrays(scaling))
            scaling_name = self._write("scaling.npz", buffer.getvalue())
        manifest = Manifest(
            n_rows=self._n_rows,
            n_features=n_features,
            nnz=self._nnz,
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
            blocks=tuple(self._blocks),
            dictionary=self._dictionary,
            columns=self._write("columns.npz", columns.to_bytes()),
            lineage=lineage,
            scaling=scaling_name,
            scaling_id=None if scaling is None else scaling.id,
            shard_sizes=self._sizes,
            checksums=self._checksums,
        )
        gone = [written for written in self._written if not self._storage.exists(written)]
        if gone:
            raise DatasetError(
                f"{self._storage.uri}: {gone[0]} vanished while this data set was written; "
                "load it again"
            )
        self._manifest = manifest.to_json()
        self._storage.write(MANIFEST, self._manifest)
        self._finished = True
        sweep(self._storage, keep=self._written)
