"""Text as a stream of chunks that end on row boundaries."""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cirrus_fast import _kernels
from cirrus_fast.data.dataset import Dataset, exists
from cirrus_fast.data.storage import check_scheme, exists_locally, is_file, is_s3, local_path
from cirrus_fast.data.text_file import TextFile
from cirrus_fast.errors import DatasetError, StorageError

CHUNK_BYTES = 16 << 20
# What is read of a chunk to learn how long its lines are.
_FIRST_BYTES = 1 << 16
STDIN = "-"
_Readable = IO[bytes] | io.BufferedIOBase | io.RawIOBase
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}


def names_text(name: str) -> bool:
    """Whether a name that may be a data set's is that of text: standard input, or a file, an object
    or a pattern and no data set."""
    if name == STDIN:
        return True
    if exists(name):
        return False
    if glob.has_magic(name):
        return True
    return names_object(name) if is_s3(name) else is_file(name)


def names_object(name: str) -> bool:
    """Whether an object is at an s3:// URI."""
    if not is_s3(name):
        return False
    from cirrus_fast.data import s3_source

    return bool(s3_source.find(name))


def identity_of(name: str) -> str:
    """16 hex digits that tell one version of a data set, or of text, from another."""
    if not names_text(name):
        return Dataset(name).id
    versions = json.dumps(Source.find(name).lineage())
    return hashlib.blake2b(versions.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a source.

    Attributes
    ----------
    source, offset, n_bytes : where they are
    held : their bytes, or the file that these are read from when they are asked for
    layout : what the reader of the text learnt from the start of the source
    """

    source: str
    offset: int
    n_bytes: int
    held: bytes | TextFile
    lines_before_held: int = 0
    layout: object = None

    def read(self, begin: int = 0, n_bytes: int | None = None) -> bytes | memoryview:
        """Some of the bytes; the next call on this thread may overwrite them."""
        n_bytes = self.n_bytes - begin if n_bytes is None else n_bytes
        if isinstance(self.held, TextFile):
            return self.held.read(self.offset + begin, n_bytes)
        return memoryview(self.held)[begin : begin + n_bytes]

    def pieces(self, n_lines: int) -> Iterator[tuple[int, bytes | memoryview]]:
        """So many lines at a time: where they begin in the chunk, and their bytes as of `read`."""
        begin, ahead = 0, _FIRST_BYTES
        while begin < self.n_bytes:
            left = self.n_bytes - begin
            text = self.read(begin, min(ahead, left))
            end, found = _kernels.libsvm_skip(text, n_lines)
            if found < n_lines and len(text) < left:
                ahead = max(2 * ahead, ahead * n_lines // max(1, found) * 17 // 16)
                continue
            yield begin, text[:end]
            begin += end
            ahead = end + end // 64 + _FIRST_BYTES // 16  # lines to come are about as long

    def lines_before(self, begin: int = 0) -> int:
        """Lines of the source before the one that begins there."""
        if isinstance(self.held, TextFile):
            return self.held.lines_before(self.offset + begin)
        return self.lines_before_held + self.held.count(b"\n", 0, begin)

    @property
    def starts_source(self) -> bool:
        return self.offset == 0


@dataclass(frozen=True, slots=True)
class Source:
    """Files (or standard input) to read one after another."""

    paths: tuple[str, ...]

    @classmethod
    def find(cls, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Source:
        """A path, file:// or s3:// URI, pattern, "-" for standard input, or a list of these."""
        given = [source] if isinstance(source, str | os.PathLike) else list(source)
        paths: list[str] = []
        for item in given:
            name = os.fspath(item)
            if name == STDIN:
                paths.append(name)
                continue
            check_scheme(name)
            if is_s3(name):
                from cirrus_fast.data import s3_source

                found_there = s3_source.find(name)
                if not found_there:
                    raise StorageError(errno.ENOENT, "no such object", name)
                paths += found_there
                continue
            path = str(local_path(name))
            matches = [path] if exists_locally(name) else sorted(glob.glob(path))  # noqa: PTH207
            if not matches:
                raise StorageError(f"{name}: no such file")
            paths += matches
        if not paths:
            raise StorageError("no source was given")
        for path in paths:
            if path != STDIN and not is_s3(path) and Path(path).is_dir():
                raise StorageError(f"{path}: is a folder; name its files, or a pattern such as /*")
        return cls(tuple(paths))

    @property
    def is_stdin(self) -> bool:
        return STDIN in self.paths

    def lineage(self) -> list[dict[str, Any]]:
        """What tells one version of the source from another."""
        found: list[dict[str, Any]] = []
        for path in self.paths:
            if path == STDIN:
                found.append({"path": path})
            elif is_s3(path):
                from cirrus_fast.data import s3_source

                found.append(s3_source.lineage(path))
            else:
                stat = Path(path).stat()
                found.append(
                    {
                        "path": str(Path(path).resolve()),
                        "bytes": stat.st_size,
                        "mtime_ns": stat.st_mtime_ns,
                    }
                )
        return found

    def n_bytes(self) -> int | None:
        """Bytes as stored, or None if standard input is among them."""
        if self.is_stdin:
            return None
        return sum(int(version["bytes"]) for version in self.lineage())

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
        """All the text in order, in pieces of about chunk_bytes."""
        for path in self.paths:
            opener = _OPENERS.get(Path(path).suffix.lower())
            try:
                if path == STDIN:
                    yield from _stream(sys.stdin.buffer, "standard input", chunk_bytes)
                elif is_s3(path):
                    from cirrus_fast.data.s3_source import S3Stream

                    with S3Stream(path) as stream:
                        unpacked: _Readable = stream if opener is None else opener(stream, "rb")
                        yield from _stream(unpacked, path, chunk_bytes)
                elif opener is not None:
                    with opener(path, "rb") as file:
                        yield from _stream(file, path, chunk_bytes)
                else:
                    yield from _cut(TextFile(path), path, chunk_bytes)
            except (OSError, EOFError, zlib.error) as error:
                if isinstance(error, StorageError):
                    raise
                raise StorageError(f"{path}: {error}") from error


def _cut(file: TextFile, source: str, chunk_bytes: int) -> Iterator[Chunk]:
    """The last chunks are shorter, so that threads end at about the same time."""
    begin = mark = 0
    while mark < file.n_bytes:
        left = file.n_bytes - mark
        mark += min(chunk_bytes, max(chunk_bytes // 8, left // 4, 1)) if mark else chunk_bytes
        end = file.line_start(min(mark, file.n_bytes))
        if end > begin:
            yield Chunk(source, begin, end - begin, file)
        begin = end


def _stream(file: _Readable, source: str, chunk_bytes: int) -> Iterator[Chunk]:
    """A stream cannot be looked back into, so what follows the last line end waits for more."""
    held = b""
    offset = line = 0
    while True:
        piece = file.read(chunk_bytes)
        text = held + piece
        cut = text.rfind(b"\n") + 1 if piece else len(text)
        held = text[cut:]
        if cut:
            yield Chunk(source, offset, cut, text[:cut], line)
            offset += cut
            line += text.count(b"\n", 0, cut)
        if not piece:
            return
        if len(held) > 64 * chunk_bytes:
            raise DatasetError(f"{source}: no line end in {len(held)} bytes; is this text?")
