"""Rows of a data set's blocks, or of a text's pieces, into the arrays of whoever learns from them.

One source a worker. It says which blocks had better be read together, is told their order, and is
then asked for them one by one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cirrus_fast.data.blocks import Dictionary, decode_block_into
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array
from cirrus_fast.data.dataset import Dataset, check_header, is_text_file
from cirrus_fast.data.early_reads import Piece
from cirrus_fast.data.storage import is_s3
from cirrus_fast.data.training_scale import Places
from cirrus_fast.errors import BlockError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.fetching import Fetcher
from cirrus_fast.runtime.memory import Memory

if TYPE_CHECKING:
    from cirrus_fast.data.text_dataset import TextDataset

# Blocks of this machine's disk need no large requests; small ones mix rows better.
_NEAR_RUN_BYTES = 1
# What is read ahead of the decoder, where nothing is kept.
_NEAR_AHEAD_BYTES = 1 << 20
# Blocks of so many runs are mixed, while as many are on their way, and one more.
_MOST_MIXED = 4


class RowArrays:
    """Memory for rows, taken once and used again: pages fresh from the system cost as much time as
    decoding into them."""

    __slots__ = ("data", "indices", "indptr", "labels", "weights")

    def __init__(self, n_rows: int, nnz: int, has_weights: bool) -> None:
        self.labels: Float32Array = np.empty(n_rows, np.float32)
        self.indptr: Int64Array = np.zeros(n_rows + 1, np.int64)
        self.indices: UInt32Array = np.empty(nnz, np.uint32)
        self.data: Float32Array = np.empty(nnz, np.float32)
        self.weights: Float32Array | None = np.empty(n_rows, np.float32) if has_weights else None

    def rows(self, n_rows: int, nnz: int, n_features: int) -> CSR:
        """The first rows."""
        return CSR(
            self.labels[:n_rows],
            self.indptr[: n_rows + 1],
            self.indices[:nnz],
            self.data[:nnz],
            n_features,
            None if self.weights is None else self.weights[:n_rows],
        )


class RowSource(Protocol):
    @property
    def runs(self) -> Sequence[Sequence[int]]:
        """The blocks' numbers, those together that are best read one after another."""

    @property
    def mixed(self) -> int:
        """How many runs may be gone through at once."""

    @property
    def first(self) -> Sequence[Sequence[int]]:
        """Those of the runs that are there first, if any are; they are the first."""

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for storage."""

    def expect(self, numbers: Sequence[int]) -> None:
        """Says which blocks are read next, in which order."""

    def pass_over(self, numbers: Sequence[int]) -> None:
        """Says that some of them are not read after all."""

    def read(self, numbers: Sequence[int], into: RowArrays, places: Places | None) -> int:
        """Puts the rows of some blocks behind one another, labels as written; indices 0-based, or
        in the places' terms. Returns the number of entries."""

    def place(self, number: int, row: int) -> str:
        """Where a block's row is, for errors that speak of it."""

    def close(self) -> None: ...


def begin_opening(path: str, reads_first: Sequence[Piece]) -> Future[Dataset]:
    """A data set in S3, opened on a thread; what is to be read first is on its way then."""
    import cirrus_fast.data.s3  # noqa: F401 -- here, not on a thread beside what else is imported

    aside = ThreadPoolExecutor(1, thread_name_prefix="cirrus-open")
    opening = aside.submit(Dataset, path, reads_first)
    aside.shutdown(wait=False)
    return opening


def open_rows(
    path: str, n_features: int, copy: tuple[str, str, str] | None
) -> Dataset | TextDataset:
    """The data set or text at the path of a worker's spec, or its copy of a text in S3."""
    if copy is not None:
        from cirrus_fast.data.s3_text import TextCopy
        from cirrus_fast.data.text_dataset import open_copy

        return open_copy(TextCopy(*copy), n_features)
    if is_s3(path) or not is_text_file(path):
        return Dataset(path)
    from cirrus_fast.data.text_dataset import open_text  # which few workers need, and all pay for

    return open_text(path, n_features)


def read_ahead_bytes(dataset: Dataset | TextDataset, memory: Memory) -> int:
    """What blocks take that are read once."""
    if not isinstance(dataset, Dataset):
        return 0
    if not dataset.is_remote:
        return min(memory.blocks, _NEAR_AHEAD_BYTES)
    return min(memory.blocks - memory.run, (2 * _MOST_MIXED + 1) * memory.run)


def source_of(
    dataset: Dataset | TextDataset,
    numbers: Sequence[int],
    memory: Memory,
    *,
    keep: bool,
    first: Sequence[Sequence[int]] = (),
) -> RowSource:
    """
    keep : whether blocks will be read again, in later epochs
    first : runs of blocks that are wanted first
    """
    if isinstance(dataset, Dataset):
        return StoredBlocks(dataset, numbers, memory, keep=keep, first=first)
    return TextPieces(dataset, numbers)


class StoredBlocks:
    """Blocks of a data set in storage."""

    def __init__(
        self,
        dataset: Dataset,
        numbers: Sequence[int],
        memory: Memory,
        *,
        keep: bool,
        first: Sequence[Sequence[int]] = (),
    ) -> None:
        self._dataset = dataset
        far = dataset.is_remote
        ahead = read_ahead_bytes(dataset, memory)
        self._fetcher = Fetcher(
            dataset,
            numbers,
            memory.blocks - memory.run if far and keep else ahead,
            keep=far and keep,
            run_bytes=memory.run if far else _NEAR_RUN_BYTES,
            first=first if far else (),
        )
        # Once for all blocks, while the first of them are on their way.
        self._dictionary = self._fetcher.meanwhile(lambda: dataset.dictionary)
        self.first = first if far else ()
        # By what is read ahead in any case, so that the order of rows does not depend on `keep`.
        self.mixed = max(1, (ahead // memory.run - 1) // 2) if far else 1

    @property
    def runs(self) -> Sequence[Sequence[int]]:
        return self._fetcher.runs

    @property
    def wait_s(self) -> float:
        return self._fetcher.wait_s

    def expect(self, numbers: Sequence[int]) -> None:
        self._fetcher.expect(numbers)

    def pass_over(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._fetcher.pass_over(number)

    def read(self, numbers: Sequence[int], into: RowArrays, places: Places | None) -> int:
        row = entry = 0
        for number in numbers:
            begin = entry
            entry += self._read(number, into, row, entry)
            row += self._dataset.blocks[number].n_rows
            if places is not None:
                places.put(into.indices[begin:entry], into.data[begin:entry])
        return entry

    def _read(self, number: int, into: RowArrays, row: int, entry: int) -> int:
        block = self._dataset.blocks[number]
        started = time.perf_counter()
        dictionary = self._dictionary.result()
        self._fetcher.wait_s += time.perf_counter() - started
        raw = self._fetcher.take(number)
        try:
            self._decode(number, raw, dictionary, into, row, entry)
        except BlockError as error:
            if not self._dataset.is_remote:
                raise
            # A bit may have turned over on its way here: what is stored decides.
            notice(f"{error}; read again")
            started = time.perf_counter()
            again = self._dataset.read_bytes(block)
            self._fetcher.wait_s += time.perf_counter() - started
            self._decode(number, again, dictionary, into, row, entry)
            self._fetcher.repair(number, again)
        return block.nnz

    def _decode(
        self,
        number: int,
        raw: bytes | memoryview,
        dictionary: Dictionary | None,
        into: RowArrays,
        row: int,
        entry: int,
    ) -> None:
        dataset = self._dataset
        block = dataset.blocks[number]
        at, of = slice(row, row + block.n_rows), slice(entry, entry + block.nnz)
        with dataset.naming(block):
            check_header(raw, block)
            decode_block_into(
                raw,
                dictionary,
                into.labels[at],
                into.indptr[row : row + block.n_rows + 1],
                into.indices[of],
                into.data[of],
                None if into.weights is None else into.weights[at],
                base=dataset.manifest.index_base,
                ordered=False,
                entry_offset=entry,
            )

    def place(self, number: int, row: int) -> str:
        block = self._dataset.blocks[number]
        return f"{self._dataset.uri}/{block.shard} at byte {block.offset}, row {row} of the block"

    def close(self) -> None:
        self._fetcher.close()


class TextPieces:
    """Pieces of a text, parsed anew each time."""

    wait_s = 0.0  # reading the file is part of parsing
    mixed = 1
    first: Sequence[Sequence[int]] = ()

    def __init__(self, text: TextDataset, numbers: Sequence[int]) -> None:
        self._text = text
        self.runs = [(number,) for number in numbers]

    def expect(self, numbers: Sequence[int]) -> None:
        """They are there."""

    def pass_over(self, numbers: Sequence[int]) -> None:
        """Nothing was begun."""

    def read(self, numbers: Sequence[int], into: RowArrays, places: Places | None) -> int:
        blocks = [self._text.blocks[number] for number in numbers]
        n_rows, room = sum(b.n_rows for b in blocks), sum(b.nnz for b in blocks)
        into.indptr[0] = 0
        return self._text.read_into(
            blocks,
            into.labels[:n_rows],
            into.indptr[1 : n_rows + 1],
            into.indices[:room],
            into.data[:room],
            places,
        )

    def place(self, number: int, row: int) -> str:
        return f"{self._text.uri}, line {self._text.line_of(self._text.blocks[number], row)}"

    def close(self) -> None: ...
