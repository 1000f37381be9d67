"""Workers as threads of this process, behind the executor interface."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# How long a worker may take to end when the run is over.
_GRACE_S = 5.0


class ThreadExecutor(ThreadPoolExecutor):
    """One that does not wait for ever for a thread that hangs, which nothing can end: it is left
    behind. Python itself waits for it when the program ends."""

    def __init__(self, n_workers: int) -> None:
        super().__init__(n_workers, thread_name_prefix="cirrus-worker")
        self._given: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self._given.append(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            futures.wait(self._given, _GRACE_S)
