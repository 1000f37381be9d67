"""Work on threads, results in order, memory bounded and given back."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

from cirrus_fast.data.arguments import check_count

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(n_threads: int | None) -> int:
    """So many as are asked for, by default one per core."""
    return check_count("n_threads", n_threads, 1, 1024) or available_cores()


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, ahead: int = 1
) -> Iterator[Result]:
    """function(item) for each item, in order, with at most n_threads + ahead results waiting."""
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads, thread_name_prefix="cirrus-fast") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= n_threads + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def end_pool(pool: ThreadPoolExecutor, given: Iterable[Future[Any]], seconds: float = 1.0) -> None:
    """Ends a pool that was given these calls: what has not begun is dropped, what has may take so
    long. A thread that hangs is left behind, as nothing can end it; Python itself waits for it when
    the program exits."""
    pool.shutdown(wait=False, cancel_futures=True)
    left = wait([call for call in given if not call.done()], seconds).not_done
    pool.shutdown(wait=not left)


def fresh_memory(n_bytes: int) -> memoryview:
    """Memory that goes back to the system when nobody has it any more. An allocator would keep much
    of it, apart for each thread that asked for some."""
    mapped = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)
