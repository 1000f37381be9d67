"""LibSVM text to sparse rows and back; the format is described in csrc/cf_libsvm.h."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.arguments import check_count, check_flag
from cirrus_fast.data.csr import CSR, Float32Array, Int64Array, UInt32Array
from cirrus_fast.errors import (
    DatasetError,
    LibsvmParseError,
    OptionError,
    ParseError,
    SkippedRowsWarning,
)

Buffer = bytes | bytearray | memoryview | mmap | npt.NDArray[np.uint8]

#: The largest index as written, without hashing: one more would not fit 0-based ids in 32 bits.
MAX_INDEX = 2**32 - 2

#: Fewer bytes than this are not worth a thread.
MIN_BYTES_PER_THREAD = 1 << 16

#: Entries, and rows, that `write_libsvm` formats at a time.
WRITE_CHUNK = 1 << 18

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class ParsedText:
    """The rows of a byte range.

    Attributes
    ----------
    labels : float32[n_rows]      indptr : int64[n_rows + 1]      data : float32[nnz]
    indices : uint32[nnz], as written or hashed, increasing within a row
    weights : float32[n_rows] with label_weights=True (1 where none is written), else None
    min_index, max_index : of `indices`; None without entries
    n_skipped : bad rows left out    first_skipped : what was wrong with the first, or None
    """

    labels: Float32Array
    indptr: Int64Array
    indices: UInt32Array
    data: Float32Array
    weights: Float32Array | None
    min_index: int | None
    max_index: int | None
    n_skipped: int
    first_skipped: LibsvmParseError | None


def parse_text(
    buffer: Buffer,
    begin: int = 0,
    end: int | None = None,
    *,
    zero_based: bool | None = None,
    max_index: int = MAX_INDEX,
    hash_bits: int | None = None,
    label_weights: bool = False,
    allow_nonfinite: bool = False,
    skip_bad_rows: bool = False,
) -> ParsedText:
    """Parse the rows whose first byte lies in buffer[begin:end].

    The last of them may end behind `end`; a row that began before `begin` belongs to the range
    before. So the ranges of any split, put together, are the rows of the whole.

    Parameters
    ----------
    buffer : contiguous bytes: bytes, bytearray, mmap, memoryview, uint8 array
    zero_based : False refuses index 0; indices are never shifted
    max_index : larger indices, as written, are refused; without meaning with hash_bits
    hash_bits : as in `parse_libsvm`
    label_weights, allow_nonfinite, skip_bad_rows : as in `parse_libsvm`, but nothing is announced

    Raises
    ------
    LibsvmParseError : offset, line and column are counted from the start of `buffer`

    Notes
    -----
    GIL released. The buffer must not change meanwhile.
    """
    settings = _as_written(
        zero_based, max_index, hash_bits, label_weights, allow_nonfinite, skip_bad_rows
    )
    text = as_text(buffer)
    begin, end = check_range(begin, end, len(text))
    return _parse_spans(text, [_kernels.libsvm_range(text, begin, end)], settings)


class TextParser:
    """Parses byte ranges into the same memory again and again.

    For who is done with the rows of one range before the next: once the arrays are large enough,
    nothing is allocated or touched for the first time, which costs as much as a third of the
    parsing, and nothing is counted beforehand. Ranges of 256 KB to 2 MB stay in the caches.

    Options as for `parse_text`. One thread at a time; give each its own.
    """

    def __init__(
        self,
        *,
        zero_based: bool | None = None,
        max_index: int = MAX_INDEX,
        hash_bits: int | None = None,
        label_weights: bool = False,
        allow_nonfinite: bool = False,
        skip_bad_rows: bool = False,
    ) -> None:
        self._settings = _as_written(
            zero_based, max_index, hash_bits, label_weights, allow_nonfinite, skip_bad_rows
        )
        self._arrays = _Arrays.empty(0, 0, self._settings)

    def parse(self, buffer: Buffer, begin: int = 0, end: int | None = None) -> ParsedText:
        """The rows whose first byte lies in buffer[begin:end], as `parse_text` has it.

        The arrays of the result are views, which the next call overwrites.
        """
        text = as_text(buffer)
        begin, end = check_range(begin, end, len(text))
        first, last = _kernels.libsvm_lines(text, begin, end)
        # A row is at least a label and a line end, an entry a blank, a digit, a colon and a digit.
        n_rows, n_entries = (last - first + 1) // 2, (last - first) // 4
        arrays = self._arrays
        if len(arrays.labels) < n_rows or len(arrays.data) < n_entries:
            # Memory that is never touched is never backed, so ample room is free.
            n_rows, n_entries = max(n_rows, len(arrays.labels)), max(n_entries, len(arrays.data))
            arrays = self._arrays = _Arrays.empty(n_rows, n_entries, self._settings)
        return arrays.result([arrays.fill(text, first, last, self._settings)])


def parse_libsvm(
    buffer: Buffer,
    *,
    zero_based: bool | Literal["auto"] = "auto",
    n_features: int | None = None,
    hash_bits: int | None = None,
    n_threads: int = 1,
    label_weights: bool = False,
    allow_nonfinite: bool = False,
    skip_bad_rows: bool = False,
) -> CSR:
    """Parse LibSVM text.

    Blank lines, comments from ``#`` to the end of the line, tabs, CRLF and a missing last line end
    are fine, ``qid:N`` after the label is skipped. Whatever is not a number where one belongs, and
    whatever would lose or invent data, is refused.

    Parameters
    ----------
    buffer : contiguous bytes: bytes, bytearray, mmap, memoryview, uint8 array
    zero_based : are indices written from 0? "auto": yes if an index 0 occurs
    n_features : width of the result; a larger index is refused. Default: the largest index seen
    hash_bits : 1 to 32: indices, here up to 2^64 - 1, become the top bits of splitmix64's
        finaliser of the index as written; the values of those that meet in a row are summed in
        float32. n_features is then 2 ** hash_bits
    n_threads : threads to parse with
    label_weights : accept ``label:weight`` (which is also what a row without a label looks like)
    allow_nonfinite : accept nan and inf as labels and values
    skip_bad_rows : leave bad rows out, with one SkippedRowsWarning, instead of raising

    Returns
    -------
    CSR with 0-based indices; values are float32(nearest double of the text). `weights` is set with
    label_weights=True, 1 where a row has none.

    Raises
    ------
    LibsvmParseError : the first bad row, with its reason, byte offset, line and column
    OptionError : an option that makes no sense

    Notes
    -----
    GIL released. The buffer must not change meanwhile.
    """
    text = as_text(buffer)
    if not (isinstance(zero_based, str) and zero_based == "auto"):
        zero_based = check_flag("zero_based", zero_based, 'True, False or "auto"')
    n_features = check_count("n_features", n_features, 0, 2**32)
    hash_bits = check_count("hash_bits", hash_bits, 1, 32)
    if check_count("n_threads", n_threads, 1, 1024) is None:
        raise OptionError("n_threads=None: give a whole number from 1 to 1024")
    if hash_bits is not None and n_features not in (None, 2**hash_bits):
        raise OptionError(
            f"n_features={n_features} contradicts hash_bits={hash_bits}: "
            f"leave it out, the width is {2**hash_bits}"
        )
    limit = MAX_INDEX
    if n_features is not None:
        limit = min(n_features - (zero_based is True), MAX_INDEX)
    settings = _Settings(
        refuse_zero=zero_based is False,
        hash_bits=hash_bits or 0,
        # "auto" bets on one-based text, by far the more common, and settles it at the end.
        base=int(hash_bits is None and zero_based is not True),
        max_id=limit,
        weights=check_flag("label_weights", label_weights),
        nonfinite=check_flag("allow_nonfinite", allow_nonfinite),
        skip=check_flag("skip_bad_rows", skip_bad_rows),
    )
    spans = _cut(text, min(n_threads, max(1, len(text) // MIN_BYTES_PER_THREAD)))
    parsed = _parse_spans(text, spans, settings)

    base = settings.base
    if zero_based == "auto" and base == 1 and parsed.min_index == 0:
        if n_features is not None and parsed.max_index == n_features:
            # Only now is it known that this index was one too large: again, to say where.
            settings = settings.zero_based(max_id=n_features - 1)
            parsed = _parse_spans(text, spans, settings)
        else:
            parsed.indices[:] += np.uint32(1)
        base = 0
    if parsed.first_skipped is not None:
        rows = "row" if parsed.n_skipped == 1 else "rows"
        warnings.warn(
            f"skipped {parsed.n_skipped} bad {rows}, the first: {parsed.first_skipped}",
            SkippedRowsWarning,
            stacklevel=2,
        )
    if hash_bits is not None:
        n_features = 2**hash_bits
    elif n_features is None:
        n_features = 0 if parsed.max_index is None else parsed.max_index - base + 1
    return CSR(
        parsed.labels, parsed.indptr, parsed.indices, parsed.data, n_features, parsed.weights
    )


def rebase(
    error: ParseError, *, offset: int, line: int | None = None, source: str | None = None
) -> ParseError:
    """The error of a chunk as an error of the file or object it was cut from.

    Parameters
    ----------
    offset : where in the file the chunk starts, in bytes
    line : the 1-based line that starts there; None if unknown, and the result says none either
    source : name of the file or object

    Use it as ``raise rebase(error, ...) from error``.
    """
    known = line is not None and error.line is not None
    return type(error)(
        error.reason,
        offset=error.offset + offset,
        line=error.line + line - 1 if error.line is not None and line is not None else None,
        column=error.column if known else None,
        source=source,
    )


def write_libsvm(
    csr: CSR, file: str | os.PathLike[str] | BinaryIO, *, zero_based: bool = False
) -> None:
    """Write rows as LibSVM text that parses back to the same bits.

    Parameters
    ----------
    csr : sorted rows without duplicates; weights, if any, are written as ``label:weight``
    file : path, or anything with ``write`` that takes bytes
    zero_based : write indices from 0; parse such text with zero_based=True, as "auto" cannot tell
        where index 0 does not occur

    Raises
    ------
    DatasetError : rows that no text can carry, before they are written; the ones before them are

    Notes
    -----
    GIL released while formatting. Not kept: trailing columns without entries (parse with
    n_features) and the payload of NaNs (parse with allow_nonfinite=True).
    """
    base = 0 if check_flag("zero_based", zero_based) else 1
    if isinstance(file, str | os.PathLike):
        with Path(file).open("wb") as opened:
            _write(csr, opened, base)
    else:
        _write(csr, file, base)


def _write(csr: CSR, file: BinaryIO, base: int) -> None:
    labels, indptr, indices, data = map(
        np.ascontiguousarray, (csr.labels, csr.indptr, csr.indices, csr.data)
    )
    weights = None if csr.weights is None else np.ascontiguousarray(csr.weights)
    n_rows = len(labels)
    if (
        len(indptr) != n_rows + 1
        or indptr[0] != 0
        or (indptr[1:] < indptr[:-1]).any()
        or not indptr[-1] == len(indices) == len(data)
        or (weights is not None and len(weights) != n_rows)
    ):
        raise DatasetError("labels, indptr, indices, data and weights do not fit together")
    begin = 0
    while begin < n_rows:
        room = np.searchsorted(indptr, indptr[begin] + WRITE_CHUNK, side="right") - 1
        end = min(max(int(room), begin + 1), begin + WRITE_CHUNK, n_rows)
        text, place = _kernels.libsvm_write(
            labels, indptr, indices, data, weights, begin, end, base
        )
        if place is not None:
            what = "row" if "weight" in str(text) else "entry"
            raise DatasetError(f"cannot be written as LibSVM text: {text} ({what} {place})")
        file.write(text)  # type: ignore[arg-type]
        begin = end


_Span = tuple[int, int, int, int]  # first, last, room for rows, room for entries
#: rows, entries, smallest and largest id, rows skipped, what was wrong with the first of them
_Filled = tuple[int, int, int | None, int | None, int, LibsvmParseError | None]


@dataclass(frozen=True, slots=True)
class _Settings:
    refuse_zero: bool
    hash_bits: int
    base: int
    max_id: int
    weights: bool
    nonfinite: bool
    skip: bool

    def zero_based(self, *, max_id: int) -> _Settings:
        return _Settings(False, self.hash_bits, 0, max_id, self.weights, self.nonfinite, self.skip)


def _as_written(
    zero_based: bool | None,
    max_index: int,
    hash_bits: int | None,
    label_weights: bool,
    allow_nonfinite: bool,
    skip_bad_rows: bool,
) -> _Settings:
    """Settings that keep ids as they are in the text, or hash them."""
    if zero_based is not None:
        zero_based = check_flag("zero_based", zero_based, "True, False or None")
    return _Settings(
        refuse_zero=zero_based is False,
        hash_bits=check_count("hash_bits", hash_bits, 1, 32) or 0,
        base=0,
        max_id=max_index,
        weights=check_flag("label_weights", label_weights),
        nonfinite=check_flag("allow_nonfinite", allow_nonfinite),
        skip=check_flag("skip_bad_rows", skip_bad_rows),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Arrays:
    """Memory for rows, and how they get there."""

    labels: Float32Array
    indptr: Int64Array
    indices: UInt32Array
    data: Float32Array
    weights: Float32Array | None
    scratch: npt.NDArray[np.uint64] | None

    @classmethod
    def empty(cls, n_rows: int, n_entries: int, settings: _Settings) -> _Arrays:
        indptr = np.empty(n_rows + 1, np.int64)
        indptr[0] = 0
        return cls(
            labels=np.empty(n_rows, np.float32),
            indptr=indptr,
            indices=np.empty(n_entries, np.uint32),
            data=np.empty(n_entries, np.float32),
            weights=np.empty(n_rows, np.float32) if settings.weights else None,
            # Never touched beyond the longest row, and memory that is not touched is not backed.
            scratch=np.empty(n_entries, np.uint64) if settings.hash_bits else None,
        )

    def fill(
        self,
        text: memoryview,
        first: int,
        last: int,
        settings: _Settings,
        rows: slice = slice(None),
        entries: slice = slice(None),
    ) -> _Filled:
        """Parses the lines text[first:last) into a part of the arrays."""
        return _kernels.libsvm_fill(
            text,
            first,
            last,
            self.labels[rows],
            self.indptr[1:][rows],
            self.indices[entries],
            self.data[entries],
            None if self.weights is None else self.weights[rows],
            None if self.scratch is None else self.scratch[entries],
            entries.start or 0,
            refuse_zero=settings.refuse_zero,
            nonfinite=settings.nonfinite,
            skip=settings.skip,
            hash_bits=settings.hash_bits,
            base=settings.base,
            max_id=settings.max_id,
        )

    def result(self, filled: Sequence[_Filled]) -> ParsedText:
        """The rows at the start of the arrays, as views."""
        n_rows, n_entries = sum(part[0] for part in filled), sum(part[1] for part in filled)
        return ParsedText(
            labels=self.labels[:n_rows],
            indptr=self.indptr[: n_rows + 1],
            indices=self.indices[:n_entries],
            data=self.data[:n_entries],
            weights=None if self.weights is None else self.weights[:n_rows],
            min_index=min((part[2] for part in filled if part[2] is not None), default=None),
            max_index=max((part[3] for part in filled if part[3] is not None), default=None),
            n_skipped=sum(part[4] for part in filled),
            first_skipped=next((part[5] for part in filled if part[5] is not None), None),
        )

    def trimmed(self, n_rows: int, n_entries: int) -> _Arrays:
        return replace(
            self,
            labels=trim(self.labels, n_rows),
            indptr=trim(self.indptr, n_rows + 1),
            indices=trim(self.indices, n_entries),
            data=trim(self.data, n_entries),
            weights=None if self.weights is None else trim(self.weights, n_rows),
        )


def _cut(text: memoryview, n_parts: int) -> list[_Span]:
    cuts = [len(text) * i // n_parts for i in range(n_parts + 1)]
    ranges = list(pairwise(cuts))
    if n_parts == 1:
        return [_kernels.libsvm_range(text, *ranges[0])]
    with ThreadPoolExecutor(n_parts) as pool:
        return list(pool.map(lambda cut: _kernels.libsvm_range(text, *cut), ranges))


def _parse_spans(text: memoryview, spans: Sequence[_Span], settings: _Settings) -> ParsedText:
    """Every span into its own part of shared arrays; gaps, where a bound was not met, closed."""
    row_starts = list(accumulate((span[2] for span in spans), initial=0))
    entry_starts = list(accumulate((span[3] for span in spans), initial=0))
    arrays = _Arrays.empty(row_starts[-1], entry_starts[-1], settings)

    def fill(part: int) -> _Filled:
        first, last, _, _ = spans[part]
        rows = slice(row_starts[part], row_starts[part + 1])
        entries = slice(entry_starts[part], entry_starts[part + 1])
        return arrays.fill(text, first, last, settings, rows, entries)

    if len(spans) == 1:
        filled = [fill(0)]
    else:
        with ThreadPoolExecutor(len(spans)) as pool:
            filled = list(pool.map(fill, range(len(spans))))  # raises the first error in the text

    row = entry = 0
    for part, (rows_filled, entries_filled, *_) in enumerate(filled):
        row_start, entry_start = row_starts[part], entry_starts[part]
        if entry != entry_start:
            _move(arrays.indices, entry_start, entry, entries_filled)
            _move(arrays.data, entry_start, entry, entries_filled)
            arrays.indptr[1:][row_start : row_start + rows_filled] -= entry_start - entry
        if row != row_start:
            _move(arrays.labels, row_start, row, rows_filled)
            _move(arrays.indptr[1:], row_start, row, rows_filled)
            if arrays.weights is not None:
                _move(arrays.weights, row_start, row, rows_filled)
        row += rows_filled
        entry += entries_filled
    return arrays.trimmed(row, entry).result(filled)


def _move(array: npt.NDArray[Any], source: int, target: int, n: int) -> None:
    array[target : target + n] = array[source : source + n]


def trim(array: npt.NDArray[_Scalar], n: int) -> npt.NDArray[_Scalar]:
    """The first n items; a copy only where a view would keep much more memory reserved."""
    if n == len(array):
        return array
    return array[:n].copy() if 2 * n < len(array) else array[:n]


def as_text(buffer: Buffer) -> memoryview:
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]  # mypy: arrays are buffers too
    except TypeError:
        hint = "; encode text first" if isinstance(buffer, str) else ""
        raise TypeError(f"buffer must hold bytes, not {type(buffer).__name__}{hint}") from None
    if view.itemsize != 1 or not view.c_contiguous:
        raise TypeError("buffer must hold contiguous single bytes")
    return view.cast("B")


def check_range(begin: int, end: int | None, n: int) -> tuple[int, int]:
    last = check_count("end", end, 0, n)
    last = n if last is None else last
    first = check_count("begin", begin, 0, last)
    if first is None:
        raise OptionError("begin=None: give a byte of the buffer")
    return first, last
