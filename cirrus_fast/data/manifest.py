"""The manifest: what a data set is, as one JSON file that vouches for itself (docs/data.md).

Its last line holds a checksum of all bytes before it, so no edited, lost or added byte goes
unnoticed; every field is then checked for type, range and agreement with the others, since a
checksum says nothing about who wrote it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from cirrus_fast import _kernels
from cirrus_fast._version import __version__
from cirrus_fast.data.blocks import MAX_BLOCK_ENTRIES
from cirrus_fast.data.formats import CRITEO, LIBSVM
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.errors import DatasetError

MANIFEST = "manifest.json"
FORMAT = "cirrus_fast data set"
FORMAT_VERSION = 1
# The objects of a data set. TOKEN is a writer's own, so two loads never write the same object.
_TOKEN = "[0-9a-f]{8}"
SHARD_NAME = rf"shard-{_TOKEN}-\d{{5,}}\.cfs"
DICTIONARY_NAME = rf"dictionary-{_TOKEN}\.cfd"
COLUMNS_NAME = rf"columns-{_TOKEN}\.npz"
SCALING_NAME = rf"scaling-{_TOKEN}\.npz"
# Those of one that is not finished (units.py): what it is of, and what was made of it.
UNFINISHED = "cirrus_fast.unfinished"
RECORD_NAME = rf"unit-{_TOKEN}-\d{{5,}}(\.json|-(others|ones)\.npz)"

_SEAL = re.compile(rb',\n "checksum": "([0-9a-f]{8})"\n}\n\Z')
_MOST_ROWS = 2**63 - 1
# Sums of the same numbers in another order.
SAME_SUM = 1e-9

Value = TypeVar("Value")


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
    label_weights, allow_nonfinite : how LibSVM text of such rows is read
    hash_bits : what that text's ids, or categories, are hashed to
    weight, positive_weight : sums of the sample weights (1 a row where there are none) of all rows
    and of the positive ones
    checksums : CRC-32C of every object, by name; the other fields say what they are
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
    shard_sizes: Mapping[str, int]
    checksums: Mapping[str, int]
    scaling: str | None = None
    scaling_id: str | None = None
    text_format: str = LIBSVM
    label_weights: bool = False
    allow_nonfinite: bool = False
    written_by: str = f"cirrus-fast {__version__}"

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
        return seal(
            {
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
                "label_weights": self.label_weights,
                "allow_nonfinite": self.allow_nonfinite,
                "labels": self.label_map.to_json(),
                "weights": self.has_weights,
                "dictionary": self.dictionary,
                "columns": self.columns,
                "scaling": self.scaling,
                "scaling_id": self.scaling_id,
                "lineage": dict(self.lineage),
                "written_by": self.written_by,
                "shards": list(shards.values()),
                "crc32c": {name: f"{crc:08x}" for name, crc in sorted(self.checksums.items())},
            }
        )

    @classmethod
    def from_json(cls, raw: bytes, where: str) -> Manifest:
        """Reads what `to_json` wrote; anything else is a DatasetError that begins with `where`."""
        try:
            return _read(_Fields(_unseal(raw, where)))
        except (_Damaged, RecursionError) as damage:
            raise DatasetError(
                f"{where}: damaged manifest ({damage}); load it again with overwrite=True"
            ) from damage


def seal(body: Mapping[str, Any]) -> bytes:
    """The file of these fields: a last one is the CRC-32C of all bytes before it."""
    text = json.dumps(dict(body), indent=1).encode()
    text = text.removesuffix(b"\n}")
    return text + b',\n "checksum": "%08x"\n}\n' % _kernels.crc32c(text)


def is_sealed(raw: bytes) -> bool:
    """Whether a file is as `seal` made it."""
    found = _SEAL.search(raw)
    return found is not None and int(found[1], 16) == _kernels.crc32c(raw[: found.start()])


class _Damaged(Exception):
    """What is wrong with a manifest."""


def _unseal(raw: bytes, where: str) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _Damaged(error) from error
    # These two first: they say what the rest is.
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise DatasetError(f"{where}: not a manifest of a cirrus_fast data set")
    version = _Fields(body).whole("format_version", 1)
    if version > FORMAT_VERSION:
        raise DatasetError(
            f"{where}: format version {version} is newer than this package reads "
            f"({FORMAT_VERSION}); upgrade cirrus-fast"
        )
    found = _SEAL.search(raw)
    if found is None:
        raise _Damaged("its checksum is missing")
    if int(found[1], 16) != _kernels.crc32c(raw[: found.start()]):
        raise _Damaged("its checksum is another one: it was edited")
    return body


class _Fields:
    """Takes checked values out of a JSON object; one that is wrong is _Damaged and named."""

    def __init__(self, body: Any, of: str = "") -> None:
        if not isinstance(body, dict):
            raise _Damaged(f"{of or 'it'} is {_shown(body)}, not an object")
        self._body = body
        self._of = f"{of}: " if of else ""

    def take(self, key: str, good: bool, value: Value, wanted: str) -> Value:
        if not good:
            raise _Damaged(f"{self._of}{key} is {_shown(value)}, not {wanted}")
        return value

    def get(self, key: str) -> Any:
        if key not in self._body:
            raise _Damaged(f"{self._of}{key} is missing")
        return self._body[key]

    def whole(self, key: str, low: int = 0, high: int = _MOST_ROWS) -> int:
        value = self.get(key)
        good = _is_whole(value) and low <= value <= high
        limit = f"{low} up" if high == _MOST_ROWS else f"{low} to {high}"
        return int(self.take(key, good, value, f"a whole number from {limit}"))

    def number(self, key: str) -> float:
        value = self.get(key)
        good = _is_finite(value) and value >= 0
        return float(self.take(key, good, value, "a finite number from 0 up"))

    def flag(self, key: str) -> bool:
        value = self.get(key)
        return bool(self.take(key, isinstance(value, bool), value, "true or false"))

    def text(self, key: str, pattern: str) -> str:
        value = self.get(key)
        good = isinstance(value, str) and re.fullmatch(pattern, value) is not None
        return str(self.take(key, good, value, f"like {pattern}"))

    def optional(self, key: str, pattern: str) -> str | None:
        return None if self.get(key) is None else self.text(key, pattern)

    def items(self, key: str) -> list[Any]:
        value = self.get(key)
        return list(self.take(key, isinstance(value, list), value, "a list"))

    def fields(self, key: str) -> _Fields:
        return _Fields(self.get(key), key)

    def keys(self) -> set[str]:
        return set(self._body)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if not (_is_whole(value) or isinstance(value, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(fields: _Fields) -> Manifest:
    blocks, sizes = _shards(fields)
    n_rows = sum(block.n_rows for block in blocks)
    nnz = sum(block.nnz for block in blocks)
    for key, found in (("rows", n_rows), ("nnz", nnz)):
        if fields.whole(key) != found:
            raise _Damaged(f"{key} is {fields.whole(key)}, but its blocks add up to {found}")
    n_features = fields.whole("features", 0, 2**32)
    longest_row = fields.whole("longest_row", -(-nnz // max(n_rows, 1)), min(nnz, n_features))
    n_positive = fields.whole("positives", 0, n_rows)
    weight, positive_weight = fields.number("weight"), fields.number("positive_weight")
    has_weights = fields.flag("weights")
    if has_weights:
        good = positive_weight <= weight * (1 + SAME_SUM)
        fields.take("positive_weight", good, positive_weight, f"at most weight, {weight}")
    else:
        fields.take("weight", weight == n_rows, weight, f"the number of rows, {n_rows}")
        good = positive_weight == n_positive
        fields.take("positive_weight", good, positive_weight, f"positives, {n_positive}")
    text_format = fields.text("text_format", f"{LIBSVM}|{CRITEO}")
    low, high = _kernels.CRITEO_BITS if text_format == CRITEO else (1, 32)
    hash_bits = None
    if text_format == CRITEO or fields.get("hash_bits") is not None:
        hash_bits = fields.whole("hash_bits", low, high)
    scaling = fields.optional("scaling", SCALING_NAME)
    scaling_id = fields.optional("scaling_id", "[0-9a-f]{16}")
    if (scaling is None) != (scaling_id is None):
        raise _Damaged("scaling and scaling_id: one is null, the other is not")
    lineage = fields.fields("lineage")
    for item in lineage.items("source"):
        source = _Fields(item, "lineage: a source")
        for key in item.keys() & {"path", "dataset"}:
            source.take(key, isinstance(item[key], str), item[key], "text")
        if "bytes" in item:
            source.whole("bytes")
    lineage.fields("options")
    manifest = Manifest(
        n_rows=n_rows,
        n_features=n_features,
        nnz=nnz,
        longest_row=longest_row,
        n_positive=n_positive,
        weight=weight,
        positive_weight=positive_weight,
        index_base=fields.whole("index_base", 0, 0 if hash_bits is not None else 1),
        hash_bits=hash_bits,
        label_map=LabelMap(*_labels(fields.fields("labels"))),
        has_weights=has_weights,
        blocks=blocks,
        dictionary=fields.optional("dictionary", DICTIONARY_NAME),
        columns=fields.text("columns", COLUMNS_NAME),
        lineage=fields.get("lineage"),
        shard_sizes=sizes,
        checksums=_checksums(fields.fields("crc32c")),
        scaling=scaling,
        scaling_id=scaling_id,
        text_format=text_format,
        label_weights=fields.flag("label_weights"),
        allow_nonfinite=fields.flag("allow_nonfinite"),
        written_by=fields.text("written_by", r"[^\n]*"),
    )
    beside = (manifest.dictionary, manifest.columns, manifest.scaling)
    named = {*sizes, *(name for name in beside if name is not None)}
    if named != manifest.checksums.keys():
        odd = sorted(named ^ manifest.checksums.keys())[0]
        raise _Damaged(f"crc32c and the objects named disagree about {odd}")
    return manifest


def _shards(fields: _Fields) -> tuple[tuple[Block, ...], dict[str, int]]:
    """The blocks, which fill their shards without a gap, and the shards' sizes."""
    blocks: list[Block] = []
    sizes: dict[str, int] = {}
    first_row = 0
    for item in fields.items("shards"):
        shard = _Fields(item, "a shard")
        name = shard.text("object", SHARD_NAME)
        if name in sizes:
            raise _Damaged(f"{name} is named twice")
        end = 0
        for numbers in shard.items("blocks"):
            four = isinstance(numbers, list) and len(numbers) == 4
            if not four or not all(map(_is_whole, numbers)):
                raise _Damaged(f"{name}: a block is {_shown(numbers)}, not four whole numbers")
            offset, n_bytes, n_rows, nnz = numbers
            possible = n_bytes > 0 and 0 < n_rows <= MAX_BLOCK_ENTRIES
            if offset != end or not possible or not 0 <= nnz <= MAX_BLOCK_ENTRIES:
                raise _Damaged(f"{name}: a block at {end} has impossible numbers {numbers}")
            blocks.append(Block(name, offset, n_bytes, n_rows, nnz, first_row))
            end += n_bytes
            first_row += n_rows
        sizes[name] = shard.whole("bytes", 1)
        if sizes[name] != end:
            raise _Damaged(f"{name}: bytes is {sizes[name]}, but its blocks add up to {end}")
    return tuple(blocks), sizes


def _labels(fields: _Fields) -> list[tuple[float, ...]]:
    both = []
    for key, fewest in (("negative", 0), ("positive", 1)):
        labels = fields.items(key)
        ordered = all(map(_is_finite, labels)) and all(a < b for a, b in pairwise(labels))
        fields.take(key, ordered and len(labels) >= fewest, labels, "increasing numbers")
        both.append(tuple(labels))
    if set(both[0]) & set(both[1]):
        raise _Damaged("labels: one is both negative and positive")
    return both


def _checksums(fields: _Fields) -> dict[str, int]:
    return {name: int(fields.text(name, "[0-9a-f]{8}"), 16) for name in sorted(fields.keys())}
