"""A worker's blocks out of storage: read ahead in large pieces, and once only.

Blocks that lie side by side are read by one request, and handed out as they arrive. Requests run
on threads of their own, a bounded number of bytes before whoever decodes. What was read is kept, as
the compact bytes it came in, for the epochs to come: in memory up to a budget, beyond it in a
temporary file, and only where that has no room either is it read again.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cirrus_fast.data.block_runs import (
    CONNECTIONS,
    RUN_BYTES,
    connections_for,
    n_bytes,
    side_by_side,
)
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import end_pool, fresh_memory
from cirrus_fast.errors import StorageError
from cirrus_fast.notices import notice_once

Result = TypeVar("Result")


class BlockSource(Protocol):
    """Where blocks come from: `data.dataset.Dataset`. `read_into` is called on threads."""

    @property
    def blocks(self) -> Sequence[Block]: ...
    def read_into(self, block: Block, out: memoryview, arrived: Callable[[int], object]) -> None:
        """Fills `out` with the bytes from the block's first on, and may say how many are there."""


@dataclass(slots=True, eq=False)
class _Run:
    """Blocks that lie side by side, and where their bytes are."""

    numbers: tuple[int, ...]
    n_bytes: int
    pool: ThreadPoolExecutor  # that reads them
    memory: memoryview | None = None
    coming: Future[memoryview] | None = None
    arriving: memoryview | None = None  # what will be `memory`, so many bytes of it good already
    n_arrived: int = 0
    spilled_at: int | None = None  # in the temporary file
    untaken: int = 0  # of its blocks, since they were last expected


class Fetcher:
    """Hands out the bytes of some blocks, in an order that is told beforehand.

    Parameters
    ----------
    numbers : of the blocks
    budget : bytes of blocks to hold in memory, those on their way included; at least two requests'
        worth is used
    keep : whether blocks given out are kept, here or in the temporary file, to be given out again
    run_bytes : bytes of a request, about; fewer where there would be fewer requests than
        connections, or where two would not fit the budget
    first : runs of blocks that are wanted first, and may be on their way already: the connections
        are for the others

    Attributes
    ----------
    wait_s : seconds that `take` had to wait
    """

    def __init__(
        self,
        source: BlockSource,
        numbers: Sequence[int],
        budget: int,
        *,
        keep: bool = True,
        run_bytes: int = RUN_BYTES,
        connections: int | None = None,
        first: Sequence[Sequence[int]] = (),
    ) -> None:
        self._blocks = source.blocks
        self._source = source
        spread = -(-n_bytes(self._blocks, numbers) // (connections or CONNECTIONS))
        about = max(1, min(run_bytes, budget // 2, spread))
        alone = {number for run in first for number in run}
        others = [number for number in numbers if number not in alone]
        runs = side_by_side(self._blocks, others, about, max(1, budget // 2))
        self._pool = ThreadPoolExecutor(
            connections or connections_for(self._blocks, runs), thread_name_prefix="cirrus-fetch"
        )
        self._aside = ThreadPoolExecutor(len(first) + 1, thread_name_prefix="cirrus-first")
        self._runs = [
            _Run(tuple(run), n_bytes(self._blocks, run), pool)
            for part, pool in ((first, self._aside), (runs, self._pool))
            for run in part
        ]
        self._run_of = {number: run for run in self._runs for number in run.numbers}
        self._budget = max(budget, 2 * max((run.n_bytes for run in self._runs), default=0))
        self._keep = keep
        self._held = 0  # bytes in memory or on their way there
        self._used: deque[_Run] = deque()  # in memory, all blocks taken, longest ago first
        self._expected: deque[_Run] = deque()
        self._arrival = threading.Condition()
        self._spill: _SpillFile | None = _SpillFile() if keep else None
        # Memory of runs let go of, for the next: fresh pages cost as much as receiving into them.
        self._spare: memoryview | None = None
        self._lent: _Run | None = None  # whose bytes the caller may be looking at
        self._to_spare: memoryview | None = None  # is spare once the caller has looked
        self.wait_s = 0.0

    @property
    def runs(self) -> list[tuple[int, ...]]:
        """The numbers of the blocks, those that one request brings together; those wanted first
        are the first."""
        return [run.numbers for run in self._runs]

    def meanwhile(self, work: Callable[[], Result]) -> Future[Result]:
        """Does something else on a thread beside those that read."""
        return self._aside.submit(work)

    def expect(self, numbers: Sequence[int]) -> None:
        """Says which blocks are taken next, each once, in which order; reading begins."""
        self._expected.clear()
        for run in self._runs:
            run.untaken = 0
        for number in numbers:
            run = self._run_of[number]
            if run.untaken == 0:
                self._expected.append(run)
            run.untaken += 1
        self._used = deque(r for r in self._runs if r.memory is not None and r.untaken == 0)
        self._read_ahead()

    def pass_over(self, number: int) -> None:
        """An expected block is not taken after all. What of it is not on its way is not read."""
        run = self._run_of[number]
        if run.untaken > 1 or (run.memory is None and run.coming is None):
            run.untaken -= 1
        else:
            self.take(number)  # the run's memory must go its way

    def take(self, number: int) -> memoryview:
        """The bytes of an expected block, good until the next call. Raises what reading them
        raised."""
        if self._to_spare is not None:
            self._spare, self._to_spare = self._to_spare, None
        run = self._run_of[number]
        first = self._blocks[number].offset - self._blocks[run.numbers[0]].offset
        end = first + self._blocks[number].n_bytes
        if run.memory is None:
            started = time.perf_counter()
            if run.coming is None:  # expected later, or not at all
                self._make_room(run.n_bytes)
                self._order(run)
            self._wait_for(run, end if run.untaken > 1 else run.n_bytes)
            self.wait_s += time.perf_counter() - started
        memory = run.arriving if run.memory is None else run.memory
        assert memory is not None
        view = memory[first:end]
        run.untaken -= 1
        if run.untaken <= 0:
            self._used.append(run)
        self._lent = run
        self._read_ahead()
        return view

    def _wait_for(self, run: _Run, n_bytes: int) -> None:
        """Until the run's first bytes are there; until all is well where that is all of them."""
        coming = run.coming
        assert coming is not None
        with self._arrival:
            while run.n_arrived < n_bytes and not coming.done():
                self._arrival.wait()
        if n_bytes < run.n_bytes and not coming.done():
            return
        try:
            run.memory = coming.result()
        except BaseException:
            self._held -= run.n_bytes
            raise
        finally:
            run.coming = run.arriving = None

    def repair(self, number: int, data: bytes | memoryview) -> None:
        """Puts other bytes in the place of a block that was taken, for whoever takes it again."""
        run = self._run_of[number]
        memory = run.arriving if run.memory is None else run.memory
        if memory is not None:
            first = self._blocks[number].offset - self._blocks[run.numbers[0]].offset
            memory[first : first + len(data)] = data
        run.spilled_at = None  # what is in the file is what had to be mended

    def close(self) -> None:
        """Stops reading and gives everything up. Does not wait for long for what is under way: a
        server may not answer."""
        self._expected.clear()
        coming = [run.coming for run in self._runs if run.coming is not None]
        for pool in self._pool, self._aside:
            end_pool(pool, coming)
        self._spill = self._spare = self._to_spare = None

    def _read_ahead(self) -> None:
        while self._expected:
            run = self._expected[0]
            if run.untaken > 0 and run.memory is None and run.coming is None:
                if not self._make_room(run.n_bytes):
                    return
                self._order(run)
            self._expected.popleft()

    def _order(self, run: _Run) -> None:
        self._held += run.n_bytes
        out = None
        if self._spare is not None and self._spare.nbytes >= run.n_bytes:
            out, self._spare = self._spare[: run.n_bytes], None
        run.n_arrived = 0
        run.coming = run.pool.submit(self._fetch, run, out)
        run.coming.add_done_callback(lambda _done: self._wake())

    def _note_arrival(self, run: _Run, n_bytes: int) -> None:
        run.n_arrived = n_bytes
        self._wake()

    def _wake(self) -> None:
        with self._arrival:
            self._arrival.notify_all()

    def _fetch(self, run: _Run, out: memoryview | None) -> memoryview:
        if out is None:
            out = fresh_memory(run.n_bytes)
        run.arriving = out
        if run.spilled_at is None:
            self._source.read_into(
                self._blocks[run.numbers[0]], out, lambda n: self._note_arrival(run, n)
            )
        else:
            spill = self._spill
            assert spill is not None, "closed"
            spill.read(run.spilled_at, out)
        return out

    def _make_room(self, n_bytes: int) -> bool:
        """Lets go of blocks that were taken, the latest first: they are the last to be taken again
        where epochs go through them in a similar order. Whether there is room."""
        while self._held + n_bytes > self._budget and self._used:
            run = self._used.pop() if self._keep else self._used.popleft()
            if run.memory is None or run.untaken > 0:
                continue
            spill = self._spill
            if spill is not None and run.spilled_at is None:
                run.spilled_at = spill.write(run.memory)
            if run is self._lent:
                self._to_spare = run.memory
            else:
                self._spare = run.memory
            run.memory = None
            self._held -= run.n_bytes
        return self._held + n_bytes <= self._budget


# Full, forbidden, or no folder at all: mkstemp says so if none of those it tries can be used.
_NO_ROOM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
}


def _failed(error: OSError) -> StorageError:
    return StorageError(f"the temporary file of blocks: {error.strerror or error}")


class _SpillFile:
    """A temporary file without a name, which is gone when its last reader or writer is, or its
    process dies: to close it under them would give its number to another file."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._end = 0
        self._full = False

    def write(self, data: memoryview) -> int | None:
        """Where it lies, or None if there is no room."""
        if self._full:
            return None
        at, done = self._end, 0
        try:
            if self._descriptor is None:
                descriptor, path = tempfile.mkstemp(prefix="cirrus-blocks-")
                os.unlink(path)  # noqa: PTH108
                self._descriptor = descriptor
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], at + done)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise _failed(error) from error
            self._full = True
            notice_once(
                "no room in the temporary folder for blocks that do not fit worker_size "
                f"({error.strerror}): they are read from storage again, every epoch; TMPDIR names "
                "another folder"
            )
            return None
        self._end += done
        return at

    def read(self, at: int, out: memoryview) -> None:
        assert self._descriptor is not None
        done = 0
        try:
            while done < len(out):
                n = os.preadv(self._descriptor, [out[done:]], at + done)
                if n == 0:
                    raise OSError(errno.EIO, "it was cut short")
                done += n
        except OSError as error:
            raise _failed(error) from error

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
