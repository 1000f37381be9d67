"""Workers as threads of this process, behind the executor interface."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cirrus_fast.data.parallel import end_pool

# How long a worker may take to end when the run is over.
_GRACE_S = 5.0


class ThreadExecutor(ThreadPoolExecutor):
    """One that `end` does not keep waiting for a thread that hangs."""

    def __init__(self, n_workers: int) -> None:
        super().__init__(n_workers, thread_name_prefix="cirrus-worker")
        self._given: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self._given.append(future)
        return future

    def end(self) -> None:
        end_pool(self, self._given, _GRACE_S)
