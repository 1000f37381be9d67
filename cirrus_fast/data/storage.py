"""Where data sets live: a folder of objects behind one small interface.

A plain path or ``file://`` URI is a folder on disk, ``s3://bucket/prefix`` one in S3. A bare name
(no slash) lies under the storage root: what `configure` set, else the environment's
CIRRUS_FAST_STORAGE, else ./cirrus_data.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from cirrus_fast.data.traffic import Traffic
from cirrus_fast.errors import StorageError

ENVIRONMENT_ROOT = "CIRRUS_FAST_STORAGE"
DEFAULT_ROOT = "cirrus_data"

_configured_root: str | None = None


class ObjectWriter(Protocol):
    """An object being written; it appears under its name, whole, at `commit` and not before."""

    def write(self, data: bytes) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Storage(Protocol):
    """A folder of named objects. Every failure is a StorageError that names the object."""

    uri: str
    traffic: Traffic  # what reading through this object has cost

    def read(self, name: str) -> bytes: ...
    def read_into(
        self,
        name: str,
        offset: int,
        out: memoryview,
        arrived: Callable[[int], object] | None = None,
    ) -> None:
        """Fills `out` with the object's bytes from `offset` on. May be called on many threads; an
        object of a server must stay the same from the first call to the last.

        arrived : is told how many bytes are there, where they come over time
        """
        ...

    def write(self, name: str, data: bytes) -> None: ...
    def writer(self, name: str) -> ObjectWriter: ...
    def names(self) -> list[str]: ...
    def folders(self) -> list[str]: ...
    def exists(self, name: str) -> bool: ...
    def size(self, name: str) -> int: ...
    def delete(self, name: str) -> None: ...
    def remove_folder(self) -> None: ...
    def abandon_uploads(self) -> None:
        """Gives up what writers that died had sent of objects. Nobody may be writing here."""
        ...

    # On S3 these are conditional puts (If-None-Match: *, and If-Match with the ETag of `old`).
    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless one is there; whether it did. Of several, one does."""
        ...

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Writes an object if it still holds `old`; whether it did. Of several, one does."""
        ...


def configure(*, storage: str | os.PathLike[str] | None) -> None:
    """Sets the storage root that bare data set names lie under; None goes back to the default."""
    global _configured_root
    root = None if storage is None else os.fspath(storage)
    if root is not None:
        check_scheme(root)
    _configured_root = root


def storage_root() -> str:
    """URI or path of the folder that bare data set names lie under."""
    return _configured_root or os.environ.get(ENVIRONMENT_ROOT) or DEFAULT_ROOT


def check_scheme(uri: str) -> None:
    """Refuses a URI that no storage here can serve."""
    scheme = urlsplit(uri).scheme
    if scheme not in ("", "file", "s3"):
        raise StorageError(
            f"{uri}: unknown storage scheme {scheme}://; use a path, file:// or s3://"
        )


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def resolve(name: str) -> str:
    """The full URI or path of a data set given by URI, path or bare name."""
    if not name or name in (".", ".."):
        raise StorageError(f"{name!r} is not a data set name")
    check_scheme(name)
    if "/" in name:
        return name
    return f"{storage_root().rstrip('/')}/{name}"


def open_storage(uri: str) -> Storage:
    """The folder at a full URI or path; it need not exist yet."""
    check_scheme(uri)
    if is_s3(uri):
        from cirrus_fast.data.s3 import S3Storage  # which few need, and workers pay for

        return S3Storage(uri)
    return FileStorage(local_path(uri))


def local_path(uri: str) -> Path:
    """The path behind a plain path or file:// URI."""
    if "\0" in uri:
        raise StorageError(f"{uri!r}: no path holds a NUL")
    if not uri.startswith("file:"):
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri):
            raise StorageError(f"{uri}: must be on disk: give a path or file:// here")
        return Path(uri)
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise StorageError(f"{uri}: file:// of another host")
    path = unquote(parts.path)
    if "\0" in path:
        raise StorageError(f"{uri!r}: no path holds a NUL")
    return Path(path)


def absolute(uri: str) -> str:
    """The same folder whatever the current one is; two of these are equal if they are the same."""
    return uri.rstrip("/") if is_s3(uri) else str(local_path(uri).resolve())


def is_file(uri: str) -> bool:
    """Whether a file, and no folder, is at a plain path or file:// URI."""
    path = local_path(uri)
    with _naming(path):
        return path.is_file()


def exists_locally(uri: str) -> bool:
    """Whether anything is at a plain path or file:// URI."""
    path = local_path(uri)
    with _naming(path):
        return path.exists()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except NotADirectoryError as error:
        file = next((p for p in path.parents if p.exists() and not p.is_dir()), path)
        raise StorageError(error.errno, "is a file; name a folder", str(file)) from error
    except OSError as error:
        raise StorageError(error.errno, f"{error.strerror or error}", str(path)) from error


class FileStorage:
    """Objects are files in one folder, written beside their place and renamed into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)
        self.traffic = Traffic()  # for servers: a disk is not asked

    def read(self, name: str) -> bytes:
        path = self.folder / name
        with _naming(path):
            return path.read_bytes()

    def read_into(
        self,
        name: str,
        offset: int,
        out: memoryview,
        arrived: Callable[[int], object] | None = None,
    ) -> None:
        path, done = self.folder / name, 0
        with _naming(path), path.open("rb", buffering=0) as file:
            while done < len(out):
                n = os.preadv(file.fileno(), [out[done:]], offset + done)
                if n == 0:
                    break
                done += n
                if arrived is not None:
                    arrived(done)
        if done != len(out):
            raise StorageError(
                f"{path}: {len(out)} bytes at {offset} were asked for, {done} are there; "
                "the file has been cut short"
            )

    def write(self, name: str, data: bytes) -> None:
        _write_whole(self.writer(name), data)

    def writer(self, name: str) -> ObjectWriter:
        return _FileWriter(self.folder / name)

    def names(self) -> list[str]:
        with _naming(self.folder):
            try:
                return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())
            except FileNotFoundError:
                return []

    def folders(self) -> list[str]:
        with _naming(self.folder):
            try:
                return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())
            except FileNotFoundError:
                return []

    def exists(self, name: str) -> bool:
        path = self.folder / name
        with _naming(path):
            return path.is_file()

    def size(self, name: str) -> int:
        path = self.folder / name
        with _naming(path):
            return path.stat().st_size

    def create(self, name: str, data: bytes) -> bool:
        for _ in range(_TRIES - 1):
            try:
                return self._create(name, data)
            except StorageError as error:
                # Else the folder was removed, being empty, while this was about to write there.
                if error.errno not in (errno.ENOENT, errno.EEXIST):
                    raise
        return self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        writer = _FileWriter(self.folder / name)
        try:
            writer.write(data)
            return writer.commit_new()
        finally:
            writer.abort()

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        path = self.folder / name
        with _naming(path):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return False
            try:
                # Who comes second waits here, and then finds another file under the name.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                there = os.pread(descriptor, len(old) + 1, 0)
                if there != old or not _is_open_as(descriptor, path):
                    return False
                self.write(name, new)
                return True
            finally:
                os.close(descriptor)

    def delete(self, name: str) -> None:
        path = self.folder / name
        with _naming(path):
            path.unlink(missing_ok=True)

    def abandon_uploads(self) -> None:
        """Their temporary files are objects' like any other."""

    def remove_folder(self) -> None:
        """Removes the folder if it is there and empty; what is not ours in it stays."""
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise StorageError(error.errno, str(error.strerror), str(self.folder)) from error


class _FileWriter:
    """Bytes go to the disk while later ones are being made, so that not all wait for the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsynced = 0
        self._pool: ThreadPoolExecutor | None = None
        self._syncing: Future[None] | None = None
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, self._temporary = tempfile.mkstemp(
                prefix=f"{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent
            )
            # mkstemp is private to the user; a data set is as readable as any file they make.
            os.fchmod(descriptor, 0o666 & ~_umask())
            self._file: IO[bytes] = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        with _naming(self._path):
            self._file.write(data)
            self._unsynced += len(data)
            if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
                self._file.flush()
                self._wait()
                self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="cirrus-sync")
                self._syncing = self._pool.submit(os.fsync, self._file.fileno())
                self._unsynced = 0

    def _wait(self) -> None:
        """Until nothing is on its way; a failure is told once."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()

    def _finish(self) -> None:
        self._wait()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._file.close()

    def commit(self) -> None:
        with _naming(self._path):
            self._finish()
            Path(self._temporary).replace(self._path)

    def commit_new(self) -> bool:
        """The same, but only if no file of the name is there; `abort` is to follow."""
        with _naming(self._path):
            self._finish()
            try:
                self._path.hardlink_to(self._temporary)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                return self._copy_new()  # a file system without links, such as a bucket's
            return True

    def _copy_new(self) -> bool:
        try:
            file = self._path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(Path(self._temporary).read_bytes())
        except BaseException:
            self._path.unlink()
            raise
        return True

    def abort(self) -> None:
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            Path(self._temporary).unlink(missing_ok=True)


TEMPORARY_SUFFIX = ".tmp"
# So much is sent to the disk at once while a file is written.
_SYNC_BYTES = 8 << 20
_TRIES = 5


def file_writer(path: str | os.PathLike[str]) -> ObjectWriter:
    """Writes one file of the user's choosing, a path or file:// URI, whole or not at all.

    A symbolic link stays one, and its target is written. What is not a regular file (/dev/null,
    /dev/stdout, a named pipe) is written to as it is: a rename would put a file in its place.
    """
    target = local_path(os.fspath(path))
    if target.exists() and not target.is_file():
        return _DeviceWriter(target)
    return _FileWriter(target.resolve())


class _DeviceWriter:
    def __init__(self, path: Path) -> None:
        self._path = path
        with _naming(path):
            self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        with _naming(self._path):
            self._file.write(data)

    def commit(self) -> None:
        with _naming(self._path):
            self._file.close()

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """`file_writer` for data at hand."""
    _write_whole(file_writer(path), data)


def _write_whole(writer: ObjectWriter, data: bytes) -> None:
    try:
        writer.write(data)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _umask() -> int:
    """The process's umask. Asking the system for it means setting it, for all threads at once, so
    it is read where Linux shows it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)[1], 8)  # type: ignore[index]
    except (OSError, TypeError):
        return 0o022
