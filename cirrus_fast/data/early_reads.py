"""Parts of objects that are asked for before anybody has read where they are.

Whoever sends a worker has read the manifest, and tells it what it will read first. So that comes
together with the worker's manifest, not a round trip later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.storage import Storage


class Piece(NamedTuple):
    """A part of an object; n_bytes None: all of it."""

    name: str
    offset: int
    n_bytes: int | None


class EarlyReads:
    """Reads pieces of a storage's objects, each on a thread of its own, and gives each once: a
    reader gets what the storage would have given it, or raised, only sooner."""

    def __init__(self, storage: Storage, pieces: Sequence[Piece]) -> None:
        self._coming: dict[Piece, _Coming] = {}
        self._lock = threading.Lock()
        if not pieces:
            return
        pool = ThreadPoolExecutor(len(pieces), thread_name_prefix="cirrus-early")
        for piece in pieces:
            coming = self._coming[piece] = _Coming(piece)
            pool.submit(coming.read, storage)
        pool.shutdown(wait=False)

    def _take(self, piece: Piece) -> _Coming | None:
        with self._lock:
            return self._coming.pop(piece, None)

    def read(self, name: str) -> bytes | None:
        """A whole object, or None if it is not one of the pieces, or was given."""
        coming = self._take(Piece(name, 0, None))
        return None if coming is None else coming.whole()

    def read_into(
        self, name: str, offset: int, out: memoryview, arrived: Callable[[int], object] | None
    ) -> bool:
        """Fills `out` and says how many bytes are there, as `Storage.read_into` does. False if that
        is not one of the pieces, or was given."""
        coming = self._take(Piece(name, offset, len(out)))
        if coming is None:
            return False
        coming.into(out, arrived)
        return True


class _Coming:
    """A piece on its way."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._news = threading.Condition()
        self._bytes = fresh_memory(piece.n_bytes) if piece.n_bytes else memoryview(b"")
        self._n_there = 0
        self._done = False
        self._error: Exception | None = None

    def read(self, storage: Storage) -> None:
        name, offset, n_bytes = self._piece
        error: Exception | None = None
        try:
            if n_bytes is None:
                self._bytes = memoryview(storage.read(name))
            else:
                storage.read_into(name, offset, self._bytes, self._note)
        except Exception as raised:  # whoever wants the piece gets it
            error = raised
        with self._news:
            self._done, self._error = True, error
            if error is None:
                self._n_there = len(self._bytes)
            self._news.notify_all()

    def _note(self, n_there: int) -> None:
        with self._news:
            self._n_there = n_there
            self._news.notify_all()

    def whole(self) -> bytes:
        with self._news:
            while not self._done:
                self._news.wait()
        if self._error is not None:
            raise self._error
        return bytes(self._bytes)

    def into(self, out: memoryview, arrived: Callable[[int], object] | None) -> None:
        done, over = 0, False
        while not over:
            with self._news:
                while self._n_there == done and not self._done:
                    self._news.wait()
                n_there, over = self._n_there, self._done
            if self._error is not None:
                raise self._error
            out[done:n_there] = self._bytes[done:n_there]
            done = n_there
            if arrived is not None:
                arrived(done)
