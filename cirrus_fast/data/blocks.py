"""Shard blocks: some thousand rows as compact bytes, and the dictionary a data set's blocks share.

The format is in docs/shard-format.md. Values, labels, weights (float32) and ids (uint32) survive
bit for bit, and rows keep their order. Everything here releases the GIL while it works and may be
called from many threads at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from mmap import mmap

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.columns import ColumnTable
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array

Buffer = bytes | bytearray | memoryview | mmap | npt.NDArray[np.uint8]

MAX_DICTIONARY_IDS = 4096 + 256 + 4096 + 65536
"""Most ids of a dictionary: those of its bitmap and of its numbers of 8, 12 and 16 bits."""
MAX_BLOCK_ENTRIES = 1 << 27
"""Most rows, and most entries, of one block."""


class Dictionary:
    """Popular ids of a data set and their usual values, which its blocks refer to.

    Made from a sample of the rows: ids and values it does not know are written out by the blocks.
    Immutable; any number of threads may use one.
    """

    __slots__ = ("_bytes", "_parsed", "identity")

    identity: str
    """Hash of the contents in 16 hex digits; every block names its dictionary by it."""

    def __init__(self, serialised: bytes) -> None:
        self._bytes = serialised
        self._parsed = _kernels.ParsedDictionary(serialised)
        self.identity = f"{self._parsed.identity:016x}"

    @classmethod
    def build(cls, rows: CSR, *, max_ids: int = MAX_DICTIONARY_IDS) -> Dictionary:
        """The dictionary of these rows, ids as written.

        max_ids : at most so many ids; ids seen only once are left out in any case

        Takes about as long as encoding the rows; 100,000 rows are a good sample.
        """
        if not 0 <= max_ids <= 1 << 20:
            raise ValueError(f"max_ids must lie between 0 and {1 << 20}, not {max_ids}")
        _check_rows(rows.labels, rows.indptr, rows.indices, rows.data, rows.weights)
        nnz = int(rows.indptr[-1] - rows.indptr[0])
        n_words, n_bytes = _kernels.dictionary_build_sizes(nnz, max_ids)
        scratch, out = np.empty(n_words, np.uint64), np.empty(n_bytes, np.uint8)
        n = _kernels.dictionary_build(rows.indptr, rows.indices, rows.data, max_ids, scratch, out)
        return cls(out[:n].tobytes())

    def to_bytes(self) -> bytes:
        return self._bytes

    @classmethod
    def from_bytes(cls, buf: Buffer) -> Dictionary:
        """Reads what to_bytes wrote; BlockError if it is damaged."""
        return cls(bytes(buf))

    def __len__(self) -> int:
        """How many ids it knows."""
        return self._parsed.n_ids

    def __repr__(self) -> str:
        return f"<Dictionary {self.identity}: {len(self)} ids, {len(self._bytes)} bytes>"

    def __reduce__(self) -> tuple[type[Dictionary], tuple[bytes]]:
        return Dictionary, (self._bytes,)


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What the first bytes of a block say.

    Attributes
    ----------
    n_rows, nnz : int, sizes of the arrays the block decodes into
    has_weights : bool
    n_bytes : int, of the whole block
    dictionary_identity : str in hex, or None if the block needs no dictionary
    """

    n_rows: int
    nnz: int
    has_weights: bool
    n_bytes: int
    dictionary_identity: str | None


def encode_block(
    labels: Float32Array,
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    weights: Float32Array | None = None,
    dictionary: Dictionary | None = None,
    columns: ColumnTable | None = None,
) -> bytes:
    """Encodes rows as one block.

    Parameters
    ----------
    labels : float32[n_rows]        indptr : int64[n_rows + 1]
    indices : uint32, strictly increasing within a row      data : float32
    weights : float32[n_rows] or None

    columns : the entries are added to it, which must be as wide as they ask for

    indptr need not start at 0: slices of a larger CSR's labels and indptr go with its whole
    indices and data, and nothing is copied.

    Raises
    ------
    ValueError : the arrays are no CSR, or are more than MAX_BLOCK_ENTRIES rows or entries
    """
    _check_rows(labels, indptr, indices, data, weights)
    nnz = int(indptr[-1] - indptr[0])
    if max(nnz, len(labels)) > MAX_BLOCK_ENTRIES:
        raise ValueError(f"{len(labels)} rows with {nnz} entries are too many for one block")
    parsed = _parsed(dictionary)
    scratch = _scratch(_kernels.block_encode_scratch(len(labels), nnz, parsed))
    rows = labels, indptr, indices, data, weights, parsed, scratch
    if columns is None:
        return _kernels.block_encode(*rows)[0]
    table = columns.ones, columns.others, columns.met, columns.n_met, columns.ones_by_rank(parsed)
    raw, columns.n_met = _kernels.block_encode(*rows, *table)
    return raw


def read_header(buf: Buffer) -> BlockHeader:
    """Reads the header of the block at the start of `buf`; its first 104 bytes suffice.

    The header's claims are checked against each other (n_rows and nnz are at most 8 n_bytes), not
    against the checksum.
    """
    n_rows, nnz, has_weights, n_bytes, identity, _ = _kernels.block_read_header(_view(buf))
    return BlockHeader(n_rows, nnz, has_weights, n_bytes, f"{identity:016x}" if identity else None)


def decode_block(
    buf: Buffer, dictionary: Dictionary | None = None, *, base: int = 0, ordered: bool = True
) -> CSR:
    """Decodes the block at the start of `buf`.

    Parameters
    ----------
    dictionary : the one the block names; a block without takes any, or None
    base : subtracted from every id, 1 for one-based data
    ordered : indices increase within a row. Without, entries come in the order they are stored
        in, which takes a third of the time.

    Raises
    ------
    BlockError : truncated, damaged or contradictory bytes, an id below base, another dictionary
    """
    header = read_header(buf)
    labels = np.empty(header.n_rows, np.float32)
    indptr = np.empty(header.n_rows + 1, np.int64)
    indices = np.empty(header.nnz, np.uint32)
    data = np.empty(header.nnz, np.float32)
    weights = np.empty(header.n_rows, np.float32) if header.has_weights else None
    n_features = decode_block_into(
        buf, dictionary, labels, indptr, indices, data, weights, base=base, ordered=ordered
    )
    return CSR(labels, indptr, indices, data, n_features, weights)


def decode_block_into(
    buf: Buffer,
    dictionary: Dictionary | None,
    labels: Float32Array,
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    weights: Float32Array | None,
    *,
    base: int = 0,
    ordered: bool = True,
    entry_offset: int = 0,
) -> int:
    """Decodes into slices of larger arrays, so that many blocks form one CSR without a copy.

    Every array has exactly the length the header asks for (indptr: n_rows + 1); indptr gets
    positions that start at entry_offset, where the slices of indices and data begin in the whole.
    weights may be None, which leaves them out; a block without weights fills in 1.

    Returns
    -------
    n_features : 1 + the largest index of the block
    """
    block = _view(buf)
    n_rows, _, has_weights, _, _, n_words = _kernels.block_read_header(block)
    if not 0 <= base < 1 << 32:
        raise ValueError(f"base must lie between 0 and 2**32 - 1, not {base}")
    if weights is not None and not has_weights:
        if len(weights) != n_rows:
            raise ValueError("the arrays' lengths are not those of the block's header")
        weights.fill(1)
    return _kernels.block_decode(
        block,
        _parsed(dictionary),
        labels,
        indptr,
        indices,
        data,
        weights if has_weights else None,
        _scratch(n_words),
        base,
        entry_offset,
        ordered,
    )


@dataclass(frozen=True, slots=True, eq=False)
class LocalizedBlock:
    """A block as mini-batches of consecutive rows, each with its distinct ids.

    Attributes
    ----------
    labels : float32[n_rows]      weights : float32[n_rows] or None
    indptr : int64[n_rows + 1]    data : float32[nnz]
    local : uint32[nnz], an entry's place among the ids of its mini-batch
    ids : uint32, distinct ids of one mini-batch behind those of the other, in no order. Blocks that
        were written by others may hold an id of the dictionary as one outside as well, which is
        then there twice
    offsets : int64[n_minibatches + 1], where those of each begin in `ids`
    minibatch_size : rows of each, but for the last
    n_features : 1 + the largest id

    Entries of a row come in the order in which the block stores them.
    """

    labels: Float32Array
    indptr: Int64Array
    local: UInt32Array
    data: Float32Array
    weights: Float32Array | None
    ids: UInt32Array
    offsets: Int64Array
    minibatch_size: int
    n_features: int


class MinibatchDecoder:
    """Decodes blocks to localised mini-batches, into arrays that it uses again.

    dictionary : the one that the blocks name, or None
    base : subtracted from every id, 1 for one-based data

    Of one thread; `decode` releases the GIL.
    """

    def __init__(self, dictionary: Dictionary | None = None, *, base: int = 0) -> None:
        if not 0 <= base < 1 << 32:
            raise ValueError(f"base must lie between 0 and 2**32 - 1, not {base}")
        self._dictionary = dictionary
        self._base = base
        self._table = _kernels.LocalTable()
        self._room = _Room(0, 0)

    def decode(self, buf: Buffer, minibatch_size: int) -> LocalizedBlock:
        """The block at the start of `buf`; its arrays are overwritten by the next call.

        Raises
        ------
        BlockError : as `decode_block`
        """
        if minibatch_size < 1:
            raise ValueError(f"minibatch_size must be at least 1, not {minibatch_size}")
        block = _view(buf)
        header = read_header(block)
        n, nnz = header.n_rows, header.nnz
        if len(self._room.labels) < n or len(self._room.data) < nnz:
            self._room = _Room(n, nnz)
        room = self._room
        out = LocalizedBlock(
            labels=room.labels[:n],
            indptr=room.indptr[: n + 1],
            local=room.local[:nnz],
            data=room.data[:nnz],
            weights=room.weights[:n] if header.has_weights else None,
            ids=room.ids[:nnz],
            offsets=room.offsets[: -(-n // minibatch_size) + 1],
            minibatch_size=minibatch_size,
            n_features=0,
        )
        n_features = _kernels.block_decode_minibatches(
            block,
            _parsed(self._dictionary),
            minibatch_size,
            self._table,
            out.labels,
            out.indptr,
            out.local,
            out.data,
            out.weights,
            out.ids,
            out.offsets,
            _scratch(_kernels.block_minibatches_scratch(block, minibatch_size)),
            self._base,
        )
        return replace(out, ids=out.ids[: out.offsets[-1]], n_features=n_features)


class _Room:
    """Arrays for blocks of up to so many rows and entries."""

    def __init__(self, n_rows: int, nnz: int) -> None:
        self.labels, self.weights = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
        self.indptr, self.offsets = np.empty(n_rows + 1, np.int64), np.empty(n_rows + 1, np.int64)
        self.local, self.ids = np.empty(nnz, np.uint32), np.empty(nnz, np.uint32)
        self.data = np.empty(nnz, np.float32)


_kept = threading.local()
_KEPT_WORDS = 1 << 21


def _scratch(n_words: int) -> npt.NDArray[np.uint64]:
    """At least so many words. Each thread keeps its own up to 16 MB: fresh pages for every block
    would take a quarter of the time of encoding it."""
    words: npt.NDArray[np.uint64] | None = getattr(_kept, "words", None)
    if words is None or len(words) < n_words:
        words = np.empty(n_words, np.uint64)
        if n_words <= _KEPT_WORDS:
            _kept.words = words
    return words


def _parsed(dictionary: Dictionary | None) -> _kernels.ParsedDictionary | None:
    return None if dictionary is None else dictionary._parsed


def _view(buf: Buffer) -> memoryview:
    view = memoryview(buf)  # type: ignore[arg-type]  # numpy's stubs say it from 3.12 on
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _check_rows(
    labels: Float32Array,
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    weights: Float32Array | None,
) -> None:
    """What the core cannot see: that the arrays are as long as indptr says."""
    if len(indptr) != len(labels) + 1:
        raise ValueError(f"indptr has {len(indptr)} positions for {len(labels)} labels")
    if not 0 <= indptr[0] <= indptr[-1] <= min(len(indices), len(data)):
        raise ValueError(
            f"indptr runs from {indptr[0]} to {indptr[-1]}, but there are {len(indices)} indices "
            f"and {len(data)} values"
        )
    if weights is not None and len(weights) != len(labels):
        raise ValueError(f"{len(weights)} weights for {len(labels)} rows")
