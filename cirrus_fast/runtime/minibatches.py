"""A worker's rows, epoch after epoch: blocks read, decoded, rescaled and shuffled.

Rows are shuffled a group of randomly drawn blocks at a time, by short runs of neighbours. The next
group is made ready while one is learnt from, unless all cores are busy anyway.

Where all rows fit in what `worker_size` allows, they are held after the first epoch, and get
another order each epoch by runs of neighbours, single rows where they fit in a cache. They are
moved into a group's order while they are made ready, so that later epochs walk forward through
memory for the most part. If not, each epoch goes through the blocks again, whose bytes are kept
near (runtime/fetching.py); rows that are learnt from once stay where they were decoded, since to
move them would take as long as the learning, and to jump does not where caches have them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.data.dataset import Dataset, iterate
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import end_pool
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import DatasetError
from cirrus_fast.runtime.assignment import first_runs
from cirrus_fast.runtime.memory import GROUP_BYTES, SMALL_GROUP_BYTES, Memory
from cirrus_fast.runtime.row_sources import RowArrays, read_ahead_bytes, source_of

if TYPE_CHECKING:
    from cirrus_fast.data.text_dataset import TextDataset

# How many neighbours stay together where the rows are more than a cache takes: when a group is
# shuffled, and when rows that are held get another order.
SHUFFLED_RUN, RUN = 16, 128
_BYTES_A_ROW = 4 + 8 + 4 + 4  # label, indptr, weight, order
_BYTES_AN_ENTRY = 4 + 4
# How soon a stop is seen while storage does not answer.
_POLL_S = 0.05


@dataclass(slots=True)
class Window:
    """Decoded rows and the order to take them in."""

    rows: CSR
    order: UInt32Array


@dataclass(slots=True, eq=False)
class Group:
    """Blocks that are decoded, shuffled and learnt from together.

    Attributes
    ----------
    number, epoch : which group of which epoch
    of, there : where others may take blocks (sharing.py): at each place of the order which of the
        blocks the row is from; which of them were decoded
    """

    number: int
    epoch: int
    blocks: list[int]
    of: npt.NDArray[np.uint16] | None = None
    there: npt.NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Ready:
    """What a group was made into.

    Attributes
    ----------
    rows : its own, or all that are held so far
    order : in which to take its own
    waiting : what share of the time was spent waiting for storage
    """

    rows: CSR
    order: UInt32Array
    waiting: float


@dataclass(frozen=True, slots=True)
class Later:
    """A call that is made when its result is asked for, in place of a future."""

    result: Callable[[], Ready]


@dataclass(slots=True)
class ReadTimes:
    """Seconds spent waiting for rows: for storage, and for decoding."""

    storage_read: float = 0.0
    decode: float = 0.0


def decoded_bytes(block: Block) -> int:
    return block.n_rows * _BYTES_A_ROW + block.nnz * _BYTES_AN_ENTRY


def training_rows(blocks: Sequence[Block], holdout: HoldOut, numbers: Sequence[int]) -> int:
    """In some blocks."""
    held_out = sum(int(holdout.mask(i, blocks[i]).sum()) for i in numbers if holdout.takes_from(i))
    return sum(blocks[i].n_rows for i in numbers) - held_out


class MiniBatches:
    """The training rows of the blocks with these numbers.

    Rows carry labels 1 and 0, the training scale's places for ids, and values divided by it.

    Attributes
    ----------
    times : ReadTimes
    rows_wait : whether rows are made ready before they are asked for
    """

    def __init__(
        self,
        dataset: Dataset | TextDataset,
        numbers: Sequence[int],
        holdout: HoldOut,
        scale: TrainingScale,
        *,
        epochs: int,
        memory: Memory,
        seed: int,
        worker: int,
        stopping: Callable[[], bool] = lambda: False,
        ahead: bool = True,
    ) -> None:
        """stopping : whether no more rows are wanted; epochs end where it is seen
        ahead : make the next rows ready, on a thread, while some are learnt from
        """
        self.times = ReadTimes()
        self._dataset = dataset
        self._holdout = holdout
        self._seed, self._worker = seed, worker
        self._stopping = stopping
        self._n_bytes = self._bytes(numbers)
        self._n_rows, _ = self._sizes(numbers)
        self._group_bytes, self._least_bytes = memory.group, SMALL_GROUP_BYTES
        if dataset.is_remote:
            self._group_bytes = memory.small_group(self._n_bytes)
        read_ahead = read_ahead_bytes(dataset, memory)
        self._holds = epochs > 1 and memory.holds(self._n_bytes, read_ahead)
        keep = epochs > 1 and not self._holds
        first = first_runs(dataset.blocks, numbers, seed, worker) if dataset.is_remote else ()
        self._source = source_of(dataset, numbers, memory, keep=keep, first=first)
        if first:  # on their way while the rest is made ready
            self._source.expect([number for run in first for number in run])
        self._scale, self._places = scale, scale.places()
        self._held: CSR | None = None
        self.rows_wait = ahead or self._holds
        self._aside = None
        if ahead:
            self._aside = ThreadPoolExecutor(1, thread_name_prefix="cirrus-decode")
        self._ready: Future[Ready] | Later | None = None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """Every training row once, in an order of this epoch's own; the first `skip` left out.
        Ends early where the run is stopping."""
        if self._holds and epoch > 0:
            if self._held is None:  # the run goes on where another ended
                for _ in self._groups(0):
                    pass
            if self._held is None:  # it is stopping
                return
            order = runs_drawn(self._held.n_rows, self._run(RUN), self._draw(2, epoch))
            yield Window(self._held, order[skip:])
            return
        for _, rows, order in self._groups(epoch):
            if skip < len(order):
                yield Window(rows, order[skip:])
            skip = max(0, skip - len(order))

    def count(self, numbers: Sequence[int]) -> int:
        """Training rows in some blocks."""
        return training_rows(self._dataset.blocks, self._holdout, numbers)

    def close(self) -> None:
        """Gives up what is being read; the rows stay."""
        if self._aside is not None:
            end_pool(self._aside, [self._ready] if isinstance(self._ready, Future) else [])
        self._source.close()

    def _draw(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *purpose, self._worker])

    def _bytes(self, numbers: Sequence[int]) -> int:
        return sum(decoded_bytes(self._dataset.blocks[i]) for i in numbers)

    def _run(self, length: int) -> int:
        """How many rows stay together."""
        return 1 if self._n_bytes <= GROUP_BYTES else length

    def _sizes(self, numbers: Sequence[int]) -> tuple[int, int]:
        """(rows, entries) of some blocks, training rows or not."""
        blocks = [self._dataset.blocks[i] for i in numbers]
        return sum(block.n_rows for block in blocks), sum(block.nnz for block in blocks)

    def _order(self, draw: np.random.Generator, epoch: int) -> list[int]:
        """The blocks' numbers, drawn from some runs at a time; in the first epoch in the order that
        they arrive in."""
        runs, mixed = self._source.runs, self._source.mixed
        drawn = draw.permutation(len(runs))
        if epoch == 0:
            n_first = len(self._source.first)
            others = drawn[drawn >= n_first].tolist()
            # Small ones at the end, so that the last requests end together.
            others[-2 * mixed :] = sorted(others[-2 * mixed :], key=lambda run: -len(runs[run]))
            return as_they_arrive([runs[run] for run in (*range(n_first), *others)], mixed)
        order: list[int] = []
        for i in range(0, len(runs), mixed):
            together = [runs[run] for run in drawn[i : i + mixed]]
            if len(together) == len(together[0]) == 1:  # nothing to draw, thousands of times
                order += together[0]
            else:
                order += draw.permutation(np.concatenate(together)).tolist()
        return order

    def _groups(self, epoch: int) -> Iterator[tuple[Group, CSR, UInt32Array]]:
        """Rows made ready, and the order to take those in that are new; the next ones may already
        be in the making. What is not held is good until the next is asked for."""
        draw = self._draw(3, epoch)
        numbers = self._order(draw, epoch)
        begins = []
        most = least = self._group_bytes
        if epoch == 0 and self._source.first:
            # So that learning begins as soon as one block is there, and ends soon after the last.
            begins = numbers[:1]
            del numbers[0]
            least = min(most, self._least_bytes)
        parts = list(_parts(self._dataset.blocks, numbers, most, least))
        numbers, parts = begins + numbers, [begins] * bool(begins) + parts
        if not parts:
            return
        groups = [Group(number, epoch, part) for number, part in enumerate(parts)]
        self._source.expect(numbers)
        sizes = [self._sizes(part) for part in parts]
        most_rows, most_entries = (max(size) for size in zip(*sizes, strict=True))
        has_weights = self._dataset.manifest.has_weights
        n = 1 if self._holds or self._aside is None else min(2, len(groups))
        decoded = [RowArrays(most_rows, most_entries, has_weights) for _ in range(n)]
        held = RowArrays(*self._sizes(numbers), has_weights) if self._holds else None
        self._ready = None
        row = entry = 0
        for i in range(len(groups) + 1):
            started = time.perf_counter()
            done: Future[Ready] | Later | None = self._ready
            if done is not None:
                while isinstance(done, Future) and not done.done():
                    with suppress(TimeoutError):
                        done.exception(_POLL_S)
                    if self._stopping():
                        return
                made = done.result()
                self._ready = None
                took = time.perf_counter() - started
                self.times.storage_read += took * made.waiting
                self.times.decode += took * (1 - made.waiting)
                row, entry = made.rows.n_rows, made.rows.nnz
            if self._stopping():
                return
            if i < len(groups):
                call = partial(self._prepare, groups[i], draw, decoded[i % n], held, row, entry)
                self._ready = Later(call) if self._aside is None else self._aside.submit(call)
            if done is not None:
                if self._holds and i == len(groups):
                    self._held = made.rows
                yield groups[i - 1], made.rows, made.order

    def _prepare(
        self,
        group: Group,
        draw: np.random.Generator,
        decoded: RowArrays,
        held: RowArrays | None,
        row: int,
        entry: int,
    ) -> Ready:
        """The training rows of some blocks, ready to learn from, in an order drawn. Where rows are
        held, behind the ones that are there."""
        started, waited = time.perf_counter(), self._source.wait_s
        rows, order = self._shuffled(group, draw, decoded)
        if held is not None:
            rows, order = self._moved(rows, order, held, row, entry)
        took, waited = time.perf_counter() - started, self._source.wait_s - waited
        return Ready(rows, order, min(1.0, waited / took) if took > 0 else 0.0)

    def _moved(
        self, rows: CSR, order: UInt32Array, into: RowArrays, row: int, entry: int
    ) -> tuple[CSR, UInt32Array]:
        """Rows as they are stored, made ready and put in order behind those that are there."""
        last, places = row + len(order), self._places
        ended = _kernels.prepare_rows(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            order,
            places.of,
            places.n,
            places.divisors,
            entry,
            into.labels[row:last],
            into.indptr[row : last + 1],
            into.indices[entry:],
            into.data[entry:],
            None if into.weights is None else into.weights[row:last],
        )
        return into.rows(last, ended, places.n), np.arange(row, last, dtype=np.uint32)

    def _shuffled(
        self, group: Group, draw: np.random.Generator, into: RowArrays
    ) -> tuple[CSR, UInt32Array]:
        """A group's rows, and the training rows among them in an order drawn."""
        rows, training = self._read(group.blocks, into)
        return rows, training[runs_drawn(len(training), self._run(SHUFFLED_RUN), draw)]

    def _read(self, numbers: Sequence[int], into: RowArrays) -> tuple[CSR, UInt32Array]:
        """The rows of some blocks, with labels 1 and 0, and which are training rows. Ids and values
        are as stored where rows are held, and ready to learn from where they are not."""
        row, held_out = 0, []
        entry = self._source.read(numbers, into, None if self._holds else self._places)
        for number in numbers:
            block = self._dataset.blocks[number]
            if self._holdout.takes_from(number):
                held_out.append(np.flatnonzero(self._holdout.mask(number, block)) + row)
            row += block.n_rows
        training = np.arange(row, dtype=np.uint32)
        if held_out:
            training = np.delete(training, np.concatenate(held_out))
        n_features = self._dataset.n_features if self._holds else self._places.n
        rows = into.rows(row, entry, n_features)
        try:
            rows.labels[:] = self._dataset.manifest.label_map.positives(rows.labels)
        except DatasetError as error:
            raise DatasetError(f"{self._unknown_label(numbers, rows.labels)}: {error}") from error
        return rows, training

    def _unknown_label(self, numbers: Sequence[int], labels: Float32Array) -> str:
        """Where the first label is that is of neither class."""
        row = int(self._dataset.manifest.label_map.unknown(labels).argmax())
        for number in numbers:
            n_rows = self._dataset.blocks[number].n_rows
            if row < n_rows:
                break
            row -= n_rows
        return self._source.place(number, row)


def as_they_arrive(runs: Sequence[Sequence[int]], mixed: int) -> list[int]:
    """All numbers, from so many runs in turn; where one ends, the next one begins. The last runs
    end together, so that what is learnt from at the end is mixed, too."""
    waiting, going_on = deque(map(deque, runs)), list[deque[int]]()
    order: list[int] = []
    while True:
        while waiting and len(going_on) < mixed:
            going_on.append(waiting.popleft())
        if not waiting:
            break
        order += [run.popleft() for run in going_on]
        going_on = [run for run in going_on if run]
    last = [(i / max(1, len(run) - 1), n) for run in going_on for i, n in enumerate(run)]
    return order + [number for _, number in sorted(last, key=lambda one: one[0])]


def _parts(
    blocks: Sequence[Block], numbers: Sequence[int], most: int, least: int
) -> Iterator[list[int]]:
    """The numbers in turn, in as long parts as have so many bytes decoded; a block that has more is
    alone. Those of the first parts are as many as came before, those of the last half of what is
    left, but not less than `least`."""
    part: list[int] = []
    size = done = 0
    total = sum(decoded_bytes(blocks[number]) for number in numbers)
    room = least
    for number in numbers:
        more = decoded_bytes(blocks[number])
        if part and size + more > room:
            yield part
            done += size
            room = min(most, max(least, min(done, (total - done) // 2)))
            part, size = [], 0
        part.append(number)
        size += more
    if part:
        yield part


def runs_drawn(n_rows: int, length: int, draw: np.random.Generator) -> UInt32Array:
    """All row numbers, runs of neighbours in an order drawn, which begin elsewhere each time."""
    if length == 1:
        order = np.arange(n_rows, dtype=np.uint32)
        draw.shuffle(order)
        return order
    starts = np.arange(int(draw.integers(length)) - length, n_rows, length)
    draw.shuffle(starts)
    # The first run begins below 0, where numbers without a sign are beyond the last row.
    runs = np.add.outer(starts.astype(np.uint32), np.arange(length, dtype=np.uint32))
    order = runs.ravel()
    return order[order < n_rows]


def held_out_rows(dataset: Dataset | TextDataset, holdout: HoldOut) -> list[CSR]:
    """The rows that `holdout` keeps from training, values as stored."""
    blocks = dataset.blocks
    masks = (
        (number, holdout.mask(number, block))
        for number, block in enumerate(blocks)
        if holdout.takes_from(number)
    )
    chosen = {n: np.flatnonzero(mask).astype(np.uint32) for n, mask in masks if mask.any()}
    if isinstance(dataset, Dataset):
        parts = iterate(dataset, list(chosen))
    else:
        parts = (dataset.read_block(blocks[number]) for number in chosen)
    return [_take(rows, order) for rows, order in zip(parts, chosen.values(), strict=True)]


def _take(rows: CSR, order: UInt32Array) -> CSR:
    nnz = int(np.diff(rows.indptr)[order].sum())
    out = CSR(
        np.empty(len(order), np.float32),
        np.empty(len(order) + 1, np.int64),
        np.empty(nnz, np.uint32),
        np.empty(nnz, np.float32),
        rows.n_features,
        None if rows.weights is None else np.empty(len(order), np.float32),
    )
    _kernels.csr_take(
        rows.labels,
        rows.indptr,
        rows.indices,
        rows.data,
        rows.weights,
        order,
        out.labels,
        out.indptr,
        out.indices,
        out.data,
        out.weights,
    )
    return out
