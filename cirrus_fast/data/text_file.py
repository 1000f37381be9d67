"""A text file on disk, read at any place by any thread.

Read and not mapped: a mapped file that is cut short kills whoever looks at it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import local
from weakref import finalize

import numpy as np

from cirrus_fast.data.storage import local_path
from cirrus_fast.errors import DatasetError, StorageError

# What is read to find the end of a line, and to count lines.
_LINE_BYTES, _LOOK_BYTES = 1 << 12, 1 << 16
_NEWLINE = ord("\n")

_reused = local()


class TextFile:
    """
    Attributes
    ----------
    uri : str, its path
    version : (size, time of change in ns)
    """

    def __init__(self, name: str) -> None:
        path = local_path(name)
        self.uri = str(path)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(error.errno, error.strerror or str(error), self.uri) from error
        finalize(self, os.close, self._file)
        self.version = self._version()

    @property
    def n_bytes(self) -> int:
        return self.version[0]

    def _version(self) -> tuple[int, int]:
        stat = os.fstat(self._file)
        return stat.st_size, stat.st_mtime_ns

    def read(self, offset: int, n_bytes: int) -> memoryview:
        """Bytes of the file, in memory that each thread uses again at its next call."""
        return self.read_lines([(offset, n_bytes)])

    def read_lines(self, spans: Sequence[tuple[int, int]]) -> memoryview:
        """The same of several places, each an offset and a length, behind one another; a last line
        without a line end gets one where it is not the last."""
        room = sum(n_bytes for _, n_bytes in spans) + len(spans)
        held = getattr(_reused, "bytes", None)
        if held is None or len(held) < room:
            held = _reused.bytes = np.empty(room, np.uint8).data
        done = 0
        for offset, n_bytes in spans:
            if done and held[done - 1] != _NEWLINE:
                held[done] = _NEWLINE
                done += 1
            end, at = done + n_bytes, offset - done
            while done < end:
                got = os.preadv(self._file, [held[done:end]], at + done)
                if got == 0:
                    raise self.changed()
                done += got
        if self._version() != self.version:
            raise self.changed()
        return held[:done]

    def changed(self) -> DatasetError:
        return DatasetError(f"{self.uri}: changed while it was read")

    def line_start(self, pos: int) -> int:
        """The first byte of the first line that begins at `pos` or after it."""
        size = self.n_bytes
        at = max(pos - 1, 0)
        while pos > 0 and at < size:
            ahead = self.read(at, min(_LINE_BYTES, size - at))
            newline = bytes(ahead).find(b"\n")
            if newline >= 0:
                return at + newline + 1
            at += len(ahead)
        return 0 if pos == 0 else size

    def lines_before(self, offset: int) -> int:
        """Counted only when there is something to be said of a line."""
        lines = 0
        for at in range(0, offset, _LOOK_BYTES):
            lines += bytes(self.read(at, min(_LOOK_BYTES, offset - at))).count(b"\n")
        return lines
