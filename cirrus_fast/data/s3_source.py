"""Text in S3 as a stream: some ranges of the object are always on their way."""

from __future__ import annotations

import errno
import fnmatch
import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.s3 import S3Storage, getter, split
from cirrus_fast.data.traffic import counted
from cirrus_fast.errors import StorageError

# Large enough that a request's fixed cost is nothing beside its bytes.
RANGE_BYTES = 8 << 20
CONNECTIONS = 4
# What is asked for at once beyond the end that was told, to reach the end of a line.
_BEYOND_BYTES = 1 << 18


def find(uri: str) -> list[str]:
    """The object at a URI, or those of one folder whose names match a pattern, sorted."""
    folder, _, name = uri.rpartition("/")
    if not any(c in name for c in "*?["):
        return [uri] if _head(uri) is not None else []
    return [f"{folder}/{n}" for n in S3Storage(folder).names() if fnmatch.fnmatchcase(n, name)]


def lineage(uri: str) -> dict[str, Any]:
    """What tells one version of the object from another."""
    head = _head(uri)
    if head is None:
        raise StorageError(errno.ENOENT, "no such object", uri)
    return {"path": uri, "bytes": head["ContentLength"], "etag": head["ETag"]}


def _head(uri: str) -> dict[str, Any] | None:
    bucket, key = split(uri)
    if not key:
        raise StorageError(f"{uri}: names a bucket, not an object")
    return S3Storage(f"s3://{bucket}").head(key)


class S3Stream(io.RawIOBase):
    """An object from a byte of it on; one that changes meanwhile is refused."""

    def __init__(self, uri: str, begin: int = 0, end: int | None = None) -> None:
        """end : up to there it is read ahead; who reads on gets what follows, too"""
        version = lineage(uri)
        self._etag, self._size = version["etag"], int(version["bytes"])
        bucket, self._key = split(uri)
        self._getter, self._traffic = getter(bucket), counted()
        self._end = self._size if end is None else min(end, self._size)
        self._ranges = self._spans(begin, self._end)
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cirrus-s3")
        self._coming: deque[Future[memoryview]] = deque()
        self._at_hand = memoryview(b"")
        for _ in range(CONNECTIONS):
            self._order()

    @staticmethod
    def _spans(begin: int, end: int) -> Iterator[tuple[int, int]]:
        for at in range(begin, end, RANGE_BYTES):
            yield at, min(RANGE_BYTES, end - at)

    def _order(self) -> None:
        span = next(self._ranges, None)
        if span is not None:
            self._coming.append(self._pool.submit(self._fetch, *span))

    def _fetch(self, begin: int, n_bytes: int) -> memoryview:
        out = fresh_memory(n_bytes)
        self._getter.read_into(self._key, begin, out, self._etag, self._traffic)
        return out

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._at_hand and self._coming:
            self._at_hand = self._coming.popleft().result()
            self._order()
        elif not self._at_hand and self._end < self._size:
            n_bytes = min(_BEYOND_BYTES, self._size - self._end)
            self._at_hand = self._fetch(self._end, n_bytes)
            self._end += n_bytes
        n = min(len(buffer), len(self._at_hand))
        buffer[:n] = self._at_hand[:n]
        self._at_hand = self._at_hand[n:]
        return n

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()
