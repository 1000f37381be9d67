"""LibSVM text as rows to train on, without a data set in between: for text that is used once.

The text is cut into pieces that serve as blocks. What a manifest would say of a data set is counted
(rows), bounded (entries), or told from a sample (index base, labels, column statistics); what the
sample has wrong is noticed when a piece is parsed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.columns import ColumnCounter, ColumnStatistics, Scaling
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array
from cirrus_fast.data.formats import LIBSVM
from cirrus_fast.data.labels import LabelMap, count_labels
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.storage import local_path
from cirrus_fast.data.text import MAX_INDEX, TextParser, rebase
from cirrus_fast.data.text_file import TextFile
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import DatasetError, LibsvmParseError, ParseError, StorageError

if TYPE_CHECKING:
    from cirrus_fast.data.s3_text import FetchedText, TextCopy
    from cirrus_fast.data.training_scale import Places

# Some hundred rows: many pieces from all over the text make a window, so that text whose rows are
# sorted is mixed; and a window still fits into the caches.
PIECE_BYTES = 1 << 17
MOST_PIECES = 1 << 16
SAMPLED_PIECES = 32
# What is read at once: some pieces, which a cache holds.
BATCH_BYTES = 1 << 20
# The same where rows are only counted; and how many parts of the text each thread counts, since
# threads are not equally fast, and each part is handed over.
COUNTED_BYTES, PARTS_A_THREAD = 1 << 21, 8


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
        self.name, self.n_features = name, n_features
        self._file = TextFile(name if copy is None else copy.path)
        if copy is not None:
            self._file.uri = copy.uri  # what errors are to name
        self._fetched: FetchedText | None = None
        self.uri = self._file.uri
        if self._file.n_bytes == 0:
            raise DatasetError(f"{name}: the file is empty")
        identity = f"{Path(self.uri).resolve()} {self._file.version} {n_features}"
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

    def _cut(self) -> tuple[Block, ...]:
        size, n_threads = self._file.n_bytes, available_cores()
        step = max(PIECE_BYTES, size // MOST_PIECES)
        stride = step * max(1, COUNTED_BYTES // step)

        def pieces(marks: range) -> list[Block]:
            """Of the lines that begin between the first mark and `stride` bytes behind the last."""
            found = []
            last = self._file.line_start(marks[0])
            for mark in marks:
                first, last = last, self._file.line_start(min(mark + stride, size))
                text = self._file.read(first, last - first)
                for begin, end, n_rows, nnz in _kernels.libsvm_cut(text, first - mark, step):
                    offset = first + begin
                    found.append(Block(self.uri, offset, end - begin, n_rows, nnz, offset))
            return found

        marks = range(0, size, stride)
        n_marks = max(1, len(marks) // (PARTS_A_THREAD * n_threads))
        parts = [marks[i : i + n_marks] for i in range(0, len(marks), n_marks)]
        return tuple(chain.from_iterable(ordered_map(pieces, parts, n_threads)))

    def _sample(self) -> None:
        """Learns from pieces all over the text what a manifest would have said."""
        every = max(1, len(self.blocks) // SAMPLED_PIECES)
        sample = self._look_at(self.blocks[::every])
        if len(sample.labels) < 2:  # sorted by label, it seems
            sample = self._look_at(self.blocks)
        labels = sample.labels
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
        base = 0 if sample.has_zero else 1
        self.manifest = TextManifest(
            n_rows=n_rows,
            n_positive=share * n_rows,
            positive_weight=share * n_rows,
            nnz=sum(block.nnz for block in self.blocks),
            longest_row=max(block.nnz for block in self.blocks),
            index_base=base,
            label_map=label_map,
        )
        self.columns = sample.columns.shifted(base)

    def _look_at(self, blocks: Sequence[Block]) -> _Sample:
        """Ids as written."""
        parser, counter = TextParser(), ColumnCounter()
        labels: Counter[float] = Counter()
        has_zero = False
        for batch in _batches(blocks):
            try:
                text = parser.parse(self._text(batch))
            except LibsvmParseError as error:
                raise self._placed(error, batch) from error
            labels.update(count_labels(text.labels, None)[0])
            has_zero |= text.min_index == 0
            counter.add(text.indices, text.data, (text.max_index or 0) + 1)
        columns = ColumnCounter.ones([counter]).merge(counter.take_part()).listed()
        return _Sample(labels, has_zero, columns)

    def _text(self, blocks: Sequence[Block]) -> memoryview:
        return self._file.read_lines([(block.offset, block.n_bytes) for block in blocks])

    def _placed(self, error: LibsvmParseError, blocks: Sequence[Block]) -> ParseError:
        """The error of the text of some pieces, with its place in the file, whose lines are counted
        only now."""
        begin, first_line = 0, 1
        for block in blocks:
            text = bytes(self._file.read(block.offset, block.n_bytes))
            end = begin + len(text) + (not text.endswith(b"\n"))
            if error.offset < end:
                break
            begin, first_line = end, first_line + text.count(b"\n") + (not text.endswith(b"\n"))
        line = self._file.lines_before(block.offset) + 2 - first_line
        return rebase(error, offset=block.offset - begin, line=line, source=self.uri)

    def read_into(
        self,
        blocks: Sequence[Block],
        labels: Float32Array,
        row_ends: Int64Array,
        indices: UInt32Array,
        data: Float32Array,
        places: Places | None = None,
    ) -> int:
        """Parses pieces, one behind another, into arrays with room for what they hold; 0-based ids,
        or their places, which are put while a cache has the entries. Returns the number of entries.

        Raises
        ------
        LibsvmParseError : with line and byte in the file; also for ids beyond n_features
        """
        base = self.manifest.index_base
        row = entry = 0
        for batch in _batches(blocks):
            text = self._text(batch)
            try:
                n_rows, nnz, *_ = _kernels.libsvm_fill(
                    text,
                    0,
                    len(text),
                    labels[row:],
                    row_ends[row:],
                    indices[entry:],
                    data[entry:],
                    None,
                    None,
                    entry,
                    refuse_zero=base == 1,
                    nonfinite=False,
                    skip=False,
                    hash_bits=0,
                    base=base,
                    max_id=min(self.n_features - 1 + base, MAX_INDEX),
                )
            except LibsvmParseError as error:
                raise self._placed(error, batch) from error
            if n_rows != sum(block.n_rows for block in batch):
                raise self._file.changed()
            if places is not None:
                places.put(indices[entry : entry + nnz], data[entry : entry + nnz])
            row, entry = row + n_rows, entry + nnz
        return entry

    def line_of(self, block: Block, row: int) -> int:
        """The line of a piece's row, from 1."""
        line = self._file.lines_before(block.offset)
        for text in bytes(self._file.read(block.offset, block.n_bytes)).split(b"\n"):
            line += 1
            row -= _kernels.libsvm_count(text, 0, len(text))
            if row < 0:
                break
        return line

    def read_block(self, block: Block) -> CSR:
        """One piece's rows, labels as written, indices 0-based."""
        labels, indptr = np.empty(block.n_rows, np.float32), np.zeros(block.n_rows + 1, np.int64)
        indices, data = np.empty(block.nnz, np.uint32), np.empty(block.nnz, np.float32)
        nnz = self.read_into([block], labels, indptr[1:], indices, data)
        return CSR(labels, indptr, indices[:nnz], data[:nnz], self.n_features)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Of some pieces: labels with their numbers, whether an id is 0, columns by id as written."""

    labels: Counter[float]
    has_zero: bool
    columns: ColumnStatistics


def _batches(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """The pieces in turn, as many at once as a cache holds."""
    batch: list[Block] = []
    for block in blocks:
        if batch and sum(b.n_bytes for b in batch) + block.n_bytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


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
