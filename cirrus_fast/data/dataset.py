"""A data set: shard objects under a folder, and the manifest that makes them one.

The manifest is written last, so a folder without one is an incomplete data set and never reads as
a complete one. Shards are sequences of blocks (docs/shard-format.md); a block is the unit of
reading. Rows keep the ids and labels of their source; what those mean (index base, which labels
are positive) is in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.data.blocks import Dictionary, decode_block, read_header
from cirrus_fast.data.columns import ColumnStatistics, Scaling, load_npz
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.storage import (
    TEMPORARY_SUFFIX,
    Storage,
    open_storage,
    resolve,
    storage_root,
)
from cirrus_fast.errors import BlockError, DatasetError

MANIFEST = "manifest.json"
FORMAT = "cirrus_fast data set"
FORMAT_VERSION = 1
# Large enough that a shard is worth a connection, small enough to be retried.
SHARD_BYTES = 64 << 20
# What a DatasetWriter makes, finished or not; nothing else in the folder is ever deleted.
_OURS = re.compile(
    r"(shard-[0-9a-f]{8}-\d{5,}\.cfs|dictionary-[0-9a-f]{8}\.cfd"
    r"|(columns|scaling)-[0-9a-f]{8}\.npz|manifest\.json(?=\.))"
    rf"(\..+{re.escape(TEMPORARY_SUFFIX)})?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """Where one block lies."""

    shard: str
    offset: int
    n_bytes: int
    n_rows: int
    nnz: int
    first_row: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a data set is. Written as JSON, with `blocks` grouped by shard.

    longest_row : entries of the row that has most
    text_format : "libsvm" or "criteo": what text is read as whose ids are these
    hash_bits : what that text's ids, or categories, are hashed to
    weight, positive_weight : sums of the sample weights (1 a row where there are none) of all rows
    and of the positive ones; the other fields say what they are
    """

    n_rows: int
    n_features: int
    nnz: int
    longest_row: int
    n_positive: int
    weight: float
    positive_weight: float
    index_base: int
    hash_bits: int | None
    label_map: LabelMap
    has_weights: bool
    blocks: tuple[Block, ...]
    dictionary: str | None
    columns: str
    lineage: Mapping[str, Any]
    scaling: str | None = None
    scaling_id: str | None = None
    text_format: str = "libsvm"
    shard_sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def numbering(self) -> tuple[int, int | None, str]:
        """What must be equal where ids are to mean the same."""
        return self.index_base, self.hash_bits, self.text_format

    def to_json(self) -> bytes:
        shards: dict[str, dict[str, Any]] = {
            name: {"object": name, "bytes": size, "blocks": []}
            for name, size in self.shard_sizes.items()
        }
        for block in self.blocks:
            shards[block.shard]["blocks"].append(
                [block.offset, block.n_bytes, block.n_rows, block.nnz]
            )
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "rows": self.n_rows,
            "features": self.n_features,
            "nnz": self.nnz,
            "longest_row": self.longest_row,
            "positives": self.n_positive,
            "weight": self.weight,
            "positive_weight": self.positive_weight,
            "index_base": self.index_base,
            "hash_bits": self.hash_bits,
            "text_format": self.text_format,
            "labels": self.label_map.to_json(),
            "weights": self.has_weights,
            "dictionary": self.dictionary,
            "columns": self.columns,
            "scaling": self.scaling,
            "scaling_id": self.scaling_id,
            "lineage": dict(self.lineage),
            "written_by": f"cirrus-fast {__version__}",
            "shards": list(shards.values()),
        }
        return (json.dumps(body, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, raw: bytes, where: str) -> Manifest:
        try:
            body = json.loads(raw)
            if body["format"] != FORMAT:
                raise DatasetError(f"{where}: not a manifest of a cirrus_fast data set")
            if body["format_version"] > FORMAT_VERSION:
                raise DatasetError(
                    f"{where}: format version {body['format_version']} is newer than this "
                    f"package reads ({FORMAT_VERSION}); upgrade cirrus-fast"
                )
            blocks, sizes, first_row = [], {}, 0
            for shard in body["shards"]:
                sizes[shard["object"]] = shard["bytes"]
                for offset, n_bytes, n_rows, nnz in shard["blocks"]:
                    blocks.append(Block(shard["object"], offset, n_bytes, n_rows, nnz, first_row))
                    first_row += n_rows
            manifest = cls(
                n_rows=body["rows"],
                n_features=body["features"],
                nnz=body["nnz"],
                longest_row=body["longest_row"],
                n_positive=body["positives"],
                weight=body["weight"],
                positive_weight=body["positive_weight"],
                index_base=body["index_base"],
                hash_bits=body["hash_bits"],
                label_map=LabelMap.from_json(body["labels"]),
                has_weights=body["weights"],
                blocks=tuple(blocks),
                dictionary=body["dictionary"],
                columns=body["columns"],
                lineage=body["lineage"],
                scaling=body["scaling"],
                scaling_id=body["scaling_id"],
                text_format=body.get("text_format", "libsvm"),
                shard_sizes=sizes,
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"{where}: damaged manifest ({error}); load it again with overwrite=True"
            ) from error
        for what, good in (
            ("features", isinstance(manifest.n_features, int)),
            ("index_base", manifest.index_base in (0, 1)),
            ("columns", isinstance(manifest.columns, str)),
        ):
            if not good:
                raise DatasetError(f"{where}: damaged manifest ({what} is {body[what]!r})")
        numbers = (n for b in blocks for n in (b.offset, b.n_bytes, b.n_rows, b.nnz))
        if not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise DatasetError(f"{where}: damaged manifest (a block with impossible numbers)")
        named = [*sizes, manifest.columns, manifest.dictionary or "", manifest.scaling or ""]
        for other in named:
            # A manifest from elsewhere must not lead out of its folder.
            if not isinstance(other, str) or "/" in other or other in (".", ".."):
                raise DatasetError(f"{where}: damaged manifest (an object named {other!r})")
        if first_row != manifest.n_rows or sum(b.nnz for b in blocks) != manifest.nnz:
            raise DatasetError(f"{where}: damaged manifest (its blocks do not add up)")
        return manifest


class Dataset:
    """A complete data set, read only.

    Attributes
    ----------
    name : str, as it was asked for; uri : str, the folder it is in
    manifest : Manifest
    """

    def __init__(self, name: str) -> None:
        """Opens a data set by bare name, path or URI; see `cirrus_fast.configure`."""
        self.name = name
        self.uri = resolve(name)
        self._storage = open_storage(self.uri)
        self.manifest = read_manifest(self._storage, name)
        self._dictionary: Dictionary | None = None
        self._columns: ColumnStatistics | None = None

    def __repr__(self) -> str:
        return f"<Dataset {self.uri}: {self.n_rows} rows, {self.n_features} features>"

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
            raw = self._storage.read(self.manifest.dictionary)
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
            self._columns = ColumnStatistics.from_bytes(
                self._storage.read(name), f"{self.uri}/{name}"
            )
        return self._columns

    @property
    def scaling(self) -> Scaling | None:
        """The scaling its values went through, or None for values as loaded."""
        name = self.manifest.scaling
        if name is None:
            return None
        arrays = load_npz(self._storage.read(name), f"{self.uri}/{name}")
        return scaling_from_arrays(arrays, f"{self.uri}/{name}")

    def read_bytes(self, block: Block) -> bytes:
        """A block as stored."""
        return self._storage.read_range(block.shard, block.offset, block.n_bytes)

    def read_block(self, block: Block) -> CSR:
        """One block's rows: labels as written, indices 0-based and increasing within a row."""
        raw = self.read_bytes(block)
        with self.naming(block):
            rows = decode_block(raw, self.dictionary, base=self.manifest.index_base)
            check_header(raw, block)
        if rows.n_features > self.n_features:
            raise DatasetError(f"{self.uri}: a feature id is beyond the manifest's width")
        return CSR(rows.labels, rows.indptr, rows.indices, rows.data, self.n_features, rows.weights)

    def naming(self, block: Block) -> _Naming:
        """A context that puts the block's place in front of a BlockError."""
        return _Naming(f"{self.uri}/{block.shard} at byte {block.offset}")

    def delete(self) -> None:
        """Removes the data set from storage: the manifest first, so it is never half there."""
        self._storage.delete(MANIFEST)
        sweep(self._storage, keep=())


def check_header(raw: bytes, block: Block) -> None:
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


def list_datasets() -> list[str]:
    """Names of the complete data sets under the storage root."""
    root = open_storage(storage_root())
    return [name for name in root.folders() if exists(f"{root.uri}/{name}")]


def remove(name: str) -> None:
    """Deletes a data set, complete or not; what is no data set is left alone."""
    storage = open_storage(resolve(name))
    if storage.exists(MANIFEST):
        read_manifest(storage, name)
        storage.delete(MANIFEST)
    elif not _ours(storage):
        raise _missing(storage, name)
    sweep(storage, keep=())


def _ours(storage: Storage) -> list[str]:
    return [name for name in storage.names() if _OURS.fullmatch(name)]


def sweep(storage: Storage, keep: Sequence[str]) -> None:
    """Deletes every object of ours but those to keep, and the folder if nothing is left."""
    for name in _ours(storage):
        if name not in keep:
            storage.delete(name)
    if not storage.names():
        storage.remove_folder()


def _missing(storage: Storage, name: str) -> DatasetError:
    if storage.names():
        return DatasetError(
            f"{name}: incomplete data set (no {MANIFEST} in {storage.uri}); load it again"
        )
    return DatasetError(
        f"{name}: no data set in {storage.uri}; `cirrus-fast ls` lists what there is"
    )


def read_manifest(storage: Storage, name: str) -> Manifest:
    if not storage.exists(MANIFEST):
        raise _missing(storage, name)
    return Manifest.from_json(storage.read(MANIFEST), f"{storage.uri}/{MANIFEST}")


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


def iterate(dataset: Dataset) -> Iterator[CSR]:
    """All blocks in order."""
    for block in dataset.blocks:
        yield dataset.read_block(block)
