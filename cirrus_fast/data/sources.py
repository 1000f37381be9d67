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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from cirrus_fast import _kernels
from cirrus_fast.data.dataset import Dataset, exists
from cirrus_fast.data.storage import check_scheme, exists_locally, is_file, is_s3, local_path
from cirrus_fast.data.text_file import TextFile
from cirrus_fast.data.traffic import counted
from cirrus_fast.errors import DatasetError, StorageError

CHUNK_BYTES = 16 << 20
# Text that is written together, by one worker where there are many; what a load that broke off has
# done of it stays done. Of all sources as if they lay behind one another.
UNIT_BYTES = 256 << 20
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
        dataset, traffic = Dataset(name), counted()
        if traffic is not None:
            traffic.include(dataset.reads)
        return dataset.id
    versions = json.dumps(Source.find(name).lineage())
    return hashlib.blake2b(versions.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a source.

    Attributes
    ----------
    source, offset, n_bytes : where they are
    held : their bytes, or the file that these are read from when they are asked for
    lines_before_held : of the source, where held are bytes; None where they have not been counted
    unit : number of the unit they are of
    layout : what the reader of the text learnt from the start of the source
    """

    source: str
    offset: int
    n_bytes: int
    held: bytes | TextFile
    lines_before_held: int | None = 0
    unit: int = 0
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

    def lines_before(self, begin: int = 0) -> int | None:
        """Lines of the source before the one that begins there; None if that is not known."""
        if isinstance(self.held, TextFile):
            return self.held.lines_before(self.offset + begin)
        if self.lines_before_held is None:
            return None
        return self.lines_before_held + self.held.count(b"\n", 0, begin)

    @property
    def starts_source(self) -> bool:
        return self.offset == 0


Wanted = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Source:
    """Files (or standard input) to read one after another.

    Attributes
    ----------
    paths : as they are opened
    sizes : their bytes where they are known, so that who wants some units opens no other files
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...] | None = None

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

    @property
    def is_cuttable(self) -> bool:
        """Whether it can be read from anywhere on."""
        return all(path != STDIN and _opener(path) is None for path in self.paths)

    def n_bytes(self) -> int | None:
        """Bytes as stored, or None if standard input is among them."""
        if self.is_stdin:
            return None
        return sum(int(version["bytes"]) for version in self.lineage())

    def chunks(
        self, chunk_bytes: int = CHUNK_BYTES, *, wanted: Wanted | None = None
    ) -> Iterator[Chunk]:
        """All the text in order, in pieces of about chunk_bytes. A row is of the piece, and of the
        unit, that its first byte lies in.

        wanted : which units' pieces are asked for; text of others is passed over
        """
        before = 0
        for number, path in enumerate(self.paths):
            marks = _Marks(before, chunk_bytes, wanted)
            if self.sizes is not None and not marks.wants_any(self.sizes[number]):
                before += self.sizes[number]
                continue
            try:
                before += yield from _chunks(path, marks)
            except (OSError, EOFError, zlib.error) as error:
                if isinstance(error, StorageError):
                    raise
                raise StorageError(f"{path}: {error}") from error


def _opener(path: str) -> Any:
    return _OPENERS.get(Path(path).suffix.lower())


Chunks = Generator[Chunk, None, int]


def _chunks(path: str, marks: _Marks) -> Chunks:
    """Of one file; returns how many bytes of text it has."""
    opener = _opener(path)
    if path == STDIN:
        return (yield from _stream(sys.stdin.buffer, "standard input", marks))
    if is_s3(path) and opener is None:
        return (yield from _ranges(path, marks))
    if is_s3(path):
        from cirrus_fast.data.s3_source import S3Stream

        with S3Stream(path) as stream:
            return (yield from _stream(opener(stream, "rb"), path, marks))
    if opener is not None:
        with opener(path, "rb") as file:
            return (yield from _stream(file, path, marks))
    return (yield from _cut(TextFile(path), path, marks))


@dataclass(frozen=True, slots=True)
class _Marks:
    """Where a file is cut into chunks.

    before : bytes of text of the files before it
    n_bytes : of this one, where that is known before it is read
    """

    before: int
    chunk_bytes: int
    wanted: Wanted | None
    n_bytes: int | None = None

    def spans(self) -> Iterator[tuple[int, int]]:
        """The spans of bytes that chunks are of. Where the end is known the last are shorter, so
        that threads end at about the same time."""
        begin = 0
        while self.n_bytes is None or begin < self.n_bytes:
            n = self.chunk_bytes - (self.before + begin) % self.chunk_bytes
            if self.n_bytes is not None and begin:
                n = min(n, max(self.chunk_bytes // 8, (self.n_bytes - begin) // 4, 1))
            yield begin, begin + n
            begin += n

    def unit(self, begin: int) -> int:
        return (self.before + begin) // UNIT_BYTES

    def wants(self, begin: int) -> bool:
        return self.wanted is None or self.wanted(self.unit(begin))

    def wants_any(self, n_bytes: int) -> bool:
        """Of a file of so many."""
        return any(self.wants(begin) for begin, _ in replace(self, n_bytes=n_bytes).spans())


def _cut(file: TextFile, source: str, marks: _Marks) -> Chunks:
    marks = replace(marks, n_bytes=file.n_bytes)
    known, at = 0, 0  # where the line begins that is the first from there on
    for mark, end_mark in marks.spans():
        if not marks.wants(mark):
            continue
        begin = at if mark == known else file.line_start(mark)
        end = file.line_start(min(end_mark, file.n_bytes))
        if end > begin:
            yield Chunk(source, begin, end - begin, file, unit=marks.unit(mark))
        known, at = end_mark, end
    return file.n_bytes


def _ranges(path: str, marks: _Marks) -> Chunks:
    """Of an object in S3, no more than is wanted."""
    from cirrus_fast.data import s3_source

    n_bytes = int(s3_source.lineage(path)["bytes"])
    marks = replace(marks, n_bytes=n_bytes)
    for wants, spans in groupby(marks.spans(), lambda span: marks.wants(span[0])):
        if wants:
            together = list(spans)
            begin, end = together[0][0], min(together[-1][1], n_bytes)
            with s3_source.S3Stream(path, max(0, begin - 1), end) as stream:
                yield from _stream(stream, path, marks, begin, end)
    return n_bytes


def _stream(
    file: _Readable, source: str, marks: _Marks, begin: int = 0, last: int | None = None
) -> Chunks:
    """A stream cannot be looked back into, so what follows the last line end waits for more.

    begin, last : the lines that begin there and before `last`; the stream stands a byte before
    """
    most = 64 * marks.chunk_bytes
    held = b""
    offset, line = max(0, begin - 1), None if begin else 0
    ended = False

    def line_start(mark: int) -> int:
        """How much of what is held comes before the first line that begins at the mark or later."""
        nonlocal held, ended
        looked = max(0, mark - 1 - offset)
        if mark <= offset:
            return 0
        while True:
            newline = held.find(b"\n", looked)
            if newline >= 0:
                return newline + 1
            if ended:
                return len(held)
            looked = max(looked, len(held))
            if len(held) > most:
                raise DatasetError(f"{source}: no line end in {len(held)} bytes; is this text?")
            piece = file.read(marks.chunk_bytes)
            ended = not piece
            held += piece

    cut = line_start(begin)
    held, offset = held[cut:], offset + cut
    for mark, end in marks.spans():
        if mark < begin:
            continue
        if last is not None and mark >= last:
            break
        cut = line_start(end if last is None else min(end, last))
        if cut:
            if marks.wants(mark):
                yield Chunk(source, offset, cut, held[:cut], line, marks.unit(mark))
            if line is not None:
                line += held.count(b"\n", 0, cut)
            held, offset = held[cut:], offset + cut
        if ended and not held:
            break
    return offset
