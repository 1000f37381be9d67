"""Text in S3 to train on, brought here once: into a temporary file, from which it is read like any.

The text must be gone through before the first row is learnt from, to count the rows, and again to
learn; over a network it comes once, whatever the number of epochs and workers of this machine.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from weakref import finalize

from cirrus_fast.data import s3_source
from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.s3 import getter, split
from cirrus_fast.data.traffic import Reads, Traffic
from cirrus_fast.errors import StorageError


@dataclass(frozen=True, slots=True)
class TextCopy:
    """What a worker is told of it.

    path : of the copy, for processes of this machine and user, while the supervisor has it
    identity : the object and its version
    """

    uri: str
    path: str
    identity: str


class FetchedText:
    """A text in S3 and its copy here; the copy, which has no name, is gone with this object."""

    def __init__(self, uri: str) -> None:
        version = s3_source.lineage(uri)
        size, etag = int(version["bytes"]), version["etag"]
        self._traffic = Traffic()
        folder = "the temporary folder"
        try:
            folder = tempfile.gettempdir()
            descriptor, name = tempfile.mkstemp(prefix="cirrus-text-")
            finalize(self, os.close, descriptor)
            Path(name).unlink()
            if size:
                os.posix_fallocate(descriptor, 0, size)  # or the disk fills up later
        except OSError as error:
            raise _no_room(uri, size, folder, error) from error
        self.copy = TextCopy(uri, f"/proc/{os.getpid()}/fd/{descriptor}", f"{uri} {etag} {size}")
        bucket, key = split(uri)
        reader, buffers = getter(bucket), local()

        def bring(begin: int) -> None:
            if not hasattr(buffers, "one"):
                buffers.one = fresh_memory(s3_source.RANGE_BYTES)
            out = buffers.one[: min(s3_source.RANGE_BYTES, size - begin)]
            reader.read_into(key, begin, out, etag, self._traffic)
            done = 0
            try:
                while done < len(out):
                    done += os.pwrite(descriptor, out[done:], begin + done)
            except OSError as error:
                raise _no_room(uri, size, folder, error) from error

        with ThreadPoolExecutor(s3_source.CONNECTIONS, thread_name_prefix="cirrus-s3") as pool:
            coming = [pool.submit(bring, begin) for begin in range(0, size, s3_source.RANGE_BYTES)]
            try:
                for one in coming:
                    one.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @property
    def reads(self) -> Reads:
        """What bringing it has cost."""
        return self._traffic.so_far


def _no_room(uri: str, size: int, folder: str, error: OSError) -> StorageError:
    return StorageError(
        f"{uri}: its {size} bytes cannot be kept in {folder} ({error.strerror or error}); TMPDIR "
        "names another folder, or make a data set of it with load_libsvm"
    )
