"""LibSVM text as rows to train on, without a data set in between: for text that is used once.

The text is cut into pieces that serve as blocks. What a manifest would say of a data set is counted
(rows), bounded (entries), or told from a sample (index base, labels, column statistics); what the
sample has wrong is noticed when a piece is parsed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock, local
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary, finalize

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.columns import ColumnStatistics, Scaling
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array
from cirrus_fast.data.formats import LIBSVM
from cirrus_fast.data.labels import LabelMap, count_labels
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.storage import local_path
from cirrus_fast.data.text import MAX_INDEX, parse_text, rebase
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import DatasetError, LibsvmParseError, ParseError, StorageError

if TYPE_CHECKING:
    from cirrus_fast.data.s3_text import FetchedText, TextCopy

# Some hundred rows: many pieces from all over the text make a window, so that text whose rows are
# sorted is mixed; and a window still fits into the caches.
PIECE_BYTES = 1 << 17
MOST_PIECES = 1 << 16
SAMPLED_PIECES = 32
# What is read to find the end of a line, and to count lines.
_LINE_BYTES, _LOOK_BYTES = 1 << 12, 1 << 16


@dataclass(frozen=True, slots=True)
class TextManifest:
    """The fields of `data.dataset.Manifest` that training asks for.

    n_positive, positive_weight : estimates from the sample
    nnz, longest_row : upper bounds
    """

    n_rows: int
    n_positive: float
    positive_weight: float
    nnz: int
    longest_row: int
    index_base: int
    label_map: LabelMap
    hash_bits: int | None = None
    has_weights: bool = False
    label_weights: bool = False
    allow_nonfinite: bool = False
    text_format: str = LIBSVM

    @property
    def weight(self) -> float:
        return float(self.n_rows)


class TextDataset:
    """The rows of one LibSVM text file.

    Attributes
    ----------
    name : str, as it was asked for; uri : str, the file
    n_features : int, as given: ids beyond are refused when they are met
    blocks : pieces of the text; n_rows is exact, nnz a bound, first_row the piece's first byte
    manifest : TextManifest
    columns : statistics of the sampled rows
    """

    scaling: Scaling | None = None

    def __init__(self, name: str, n_features: int, copy: TextCopy | None = None) -> None:
        """copy : of a text in S3, which is then read instead"""
        path = local_path(name if copy is None else copy.path)
        self.name, self.n_features = name, n_features
        self.uri = str(path) if copy is None else copy.uri
        self._fetched: FetchedText | None = None
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(error.errno, error.strerror or str(error), self.uri) from error
        finalize(self, os.close, self._file)
        self._version = _version(self._file)
        if self._version[0] == 0:
            raise DatasetError(f"{name}: the file is empty")
        identity = f"{path.resolve()} {self._version} {n_features}"
        if copy is not None:
            identity = f"{copy.identity} {n_features}"
        self.id = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        self.blocks = self._cut()
        if not self.blocks:
            raise DatasetError(f"{name}: the file holds no rows")
        self._sample()

    def __repr__(self) -> str:
        return f"<TextDataset {self.uri}: {self.n_rows} rows>"

    @property
    def is_remote(self) -> bool:
        return False  # text in S3 is brought here first

    @property
    def copy(self) -> TextCopy | None:
        """What workers read instead of a text in S3."""
        return None if self._fetched is None else self._fetched.copy

    @property
    def reads(self) -> Reads:
        """What bringing it from S3 has cost."""
        return Reads() if self._fetched is None else self._fetched.reads

    @property
    def n_rows(self) -> int:
        return self.manifest.n_rows

    def _read(self, offset: int, n_bytes: int) -> memoryview:
        """Bytes of the file, in memory that each thread uses again.

        Read and not mapped: a mapped file that is cut short kills whoever looks at it.
        """
        held = getattr(_reused, "bytes", None)
        if held is None or len(held) < n_bytes:
            held = _reused.bytes = bytearray(n_bytes)
        view, done = memoryview(held)[:n_bytes], 0
        while done < n_bytes:
            n = os.preadv(self._file, [view[done:]], offset + done)
            if n == 0:
                break
            done += n
        if done < n_bytes or _version(self._file) != self._version:
            raise self._changed()
        return view

    def _changed(self) -> DatasetError:
        return DatasetError(f"{self.uri}: changed while it was read")

    def _line_start(self, pos: int) -> int:
        """The first byte of the first line that begins at `pos` or after it."""
        size = self._version[0]
        at = max(pos - 1, 0)
        while pos > 0 and at < size:
            ahead = self._read(at, min(_LINE_BYTES, size - at))
            newline = bytes(ahead).find(b"\n")
            if newline >= 0:
                return at + newline + 1
            at += len(ahead)
        return 0 if pos == 0 else size

    def _cut(self) -> tuple[Block, ...]:
        size = self._version[0]
        step = max(PIECE_BYTES, size // MOST_PIECES)

        def piece(span: tuple[int, int]) -> Block:
            first, n_bytes = span[0], span[1] - span[0]
            text = self._read(first, n_bytes)
            n_rows = _kernels.libsvm_count(text, 0, n_bytes)
            *_, nnz = _kernels.libsvm_range(text, 0, n_bytes)
            return Block(self.uri, first, n_bytes, n_rows, nnz, first)

        cuts = [*map(self._line_start, range(0, size, step)), size]
        pieces = ordered_map(piece, pairwise(cuts), available_cores())
        return tuple(block for block in pieces if block.n_rows)

    def _sample(self) -> None:
        """Learns from pieces all over the text what a manifest would have said."""
        every = max(1, len(self.blocks) // SAMPLED_PIECES)
        parts = self._parsed(self.blocks[::every])
        if len(_labels(parts)) < 2:  # sorted by label, it seems
            parts = self._parsed(self.blocks)
        labels = _labels(parts)
        base = 0 if any(p.nnz and p.indices.min() == 0 for p in parts) else 1
        try:
            label_map = LabelMap.decide(labels)
        except DatasetError as error:
            raise DatasetError(
                f"{self.name}: {error}"
                if len(labels) < 3
                else f"{self.name}: {error}; for that, make a data set of it with load_libsvm"
            ) from error
        n_sampled = sum(labels.values())
        share = sum(labels[label] for label in label_map.positive) / n_sampled
        n_rows = sum(block.n_rows for block in self.blocks)
        self.manifest = TextManifest(
            n_rows=n_rows,
            n_positive=share * n_rows,
            positive_weight=share * n_rows,
            nnz=sum(block.nnz for block in self.blocks),
            longest_row=max(block.nnz for block in self.blocks),
            index_base=base,
            label_map=label_map,
        )
        scanned = [ColumnStatistics.scan(p.indices, p.data, p.n_features) for p in parts]
        self.columns = ColumnStatistics.merge_all(scanned).shifted(base)

    def _parsed(self, blocks: Sequence[Block]) -> list[CSR]:
        """Rows with ids as written."""
        parts = []
        for block in blocks:
            try:
                text = parse_text(self._read(block.offset, block.n_bytes))
            except LibsvmParseError as error:
                raise self._placed(error, block) from error
            width = 0 if text.max_index is None else text.max_index + 1
            parts.append(CSR(text.labels, text.indptr, text.indices, text.data, width))
        return parts

    def _placed(self, error: LibsvmParseError, block: Block) -> ParseError:
        """The same error with its place in the file, whose lines are counted only now."""
        line = self._lines_before(block) + 1
        return rebase(error, offset=block.offset, line=line, source=self.uri)

    def _lines_before(self, block: Block) -> int:
        lines = 0
        for at in range(0, block.offset, _LOOK_BYTES):
            lines += bytes(self._read(at, min(_LOOK_BYTES, block.offset - at))).count(b"\n")
        return lines

    def read_into(
        self,
        block: Block,
        labels: Float32Array,
        row_ends: Int64Array,
        indices: UInt32Array,
        data: Float32Array,
        first_entry: int,
    ) -> int:
        """Parses a piece into arrays with room for block.n_rows and block.nnz; 0-based ids.

        row_ends count from first_entry on. Returns the number of entries.

        Raises
        ------
        LibsvmParseError : with line and byte in the file; also for ids beyond n_features
        """
        base = self.manifest.index_base
        try:
            n_rows, nnz, *_ = _kernels.libsvm_fill(
                self._read(block.offset, block.n_bytes),
                0,
                block.n_bytes,
                labels,
                row_ends,
                indices,
                data,
                None,
                None,
                first_entry,
                refuse_zero=base == 1,
                nonfinite=False,
                skip=False,
                hash_bits=0,
                base=base,
                max_id=min(self.n_features - 1 + base, MAX_INDEX),
            )
        except LibsvmParseError as error:
            raise self._placed(error, block) from error
        if n_rows != block.n_rows:
            raise self._changed()
        return nnz

    def line_of(self, block: Block, row: int) -> int:
        """The line of a piece's row, from 1."""
        line = self._lines_before(block)
        for text in bytes(self._read(block.offset, block.n_bytes)).split(b"\n"):
            line += 1
            row -= _kernels.libsvm_count(text, 0, len(text))
            if row < 0:
                break
        return line

    def read_block(self, block: Block) -> CSR:
        """One piece's rows, labels as written, indices 0-based."""
        labels, indptr = np.empty(block.n_rows, np.float32), np.zeros(block.n_rows + 1, np.int64)
        indices, data = np.empty(block.nnz, np.uint32), np.empty(block.nnz, np.float32)
        nnz = self.read_into(block, labels, indptr[1:], indices, data, 0)
        return CSR(labels, indptr, indices[:nnz], data[:nnz], self.n_features)


def _labels(parts: Sequence[CSR]) -> Counter[float]:
    total: Counter[float] = Counter()
    for part in parts:
        total.update(count_labels(part.labels, None)[0])
    return total


def _version(file: int) -> tuple[int, int]:
    """(size, time of change in ns)"""
    stat = os.fstat(file)
    return stat.st_size, stat.st_mtime_ns


_reused = local()
_opened: WeakValueDictionary[tuple[object, ...], TextDataset] = WeakValueDictionary()
_opening = Lock()


def fetch_text(uri: str, n_features: int) -> TextDataset:
    """A text in S3, brought here."""
    from cirrus_fast.data.s3_text import FetchedText  # which few need

    fetched = FetchedText(uri)
    text = TextDataset(uri, n_features, fetched.copy)
    text._fetched = fetched
    with _opening:
        _opened[fetched.copy, n_features] = text
    return text


def open_copy(copy: TextCopy, n_features: int) -> TextDataset:
    """For workers: a text that the supervisor has brought; those on threads share its own."""
    with _opening:
        found = _opened.get((copy, n_features))
    return TextDataset(copy.uri, n_features, copy) if found is None else found


def open_text(name: str, n_features: int) -> TextDataset:
    """The text at a path; workers on threads of one process share it, and its pieces are counted
    once."""
    path = local_path(name)
    try:
        stat = path.stat()
    except OSError as error:
        raise StorageError(error.errno, error.strerror or str(error), str(path)) from error
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, n_features)
    with _opening:
        found = _opened.get(key)
        if found is None:
            found = _opened[key] = TextDataset(name, n_features)
    return found
