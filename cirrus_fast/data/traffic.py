"""What reading from a server has cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads from a server, counted.

    Attributes
    ----------
    requests : sent, those that failed among them
    bytes : received, of objects
    retries : requests that asked again for what an earlier one failed to bring
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0

    def __add__(self, other: Reads) -> Reads:
        return Reads(
            self.requests + other.requests,
            self.bytes + other.bytes,
            self.retries + other.retries,
        )

    def __sub__(self, other: Reads) -> Reads:
        return Reads(
            self.requests - other.requests,
            self.bytes - other.bytes,
            self.retries - other.retries,
        )


@dataclass(slots=True)
class Traffic:
    """A count that goes on, on any number of threads."""

    _reads: Reads = field(default_factory=Reads)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, *, requests: int = 0, retries: int = 0, n_bytes: int = 0) -> None:
        with self._lock:
            self._reads += Reads(requests, n_bytes, retries)

    def include(self, reads: Reads) -> None:
        """What another has counted."""
        with self._lock:
            self._reads += reads

    @property
    def so_far(self) -> Reads:
        return self._reads

    @property
    def requests(self) -> int:
        return self._reads.requests

    @property
    def retries(self) -> int:
        return self._reads.retries

    @property
    def bytes(self) -> int:
        return self._reads.bytes


_counted: ContextVar[Traffic | None] = ContextVar("_counted", default=None)


@contextmanager
def counting(traffic: Traffic) -> Iterator[None]:
    """Counts what is asked of servers here beside the blocks of data sets, which count themselves:
    what objects there are and how large, what is put, text."""
    before = _counted.set(traffic)
    try:
        yield
    finally:
        _counted.reset(before)


def counted() -> Traffic | None:
    """What counts here, if anything does; threads started from here have to be told."""
    return _counted.get()
