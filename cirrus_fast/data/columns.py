"""Statistics of the columns of a data set, and the scalings made from them.

Both are sparse: only columns that were stored somewhere appear, by 0-based id.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.errors import DatasetError, OptionError

MIN_MAX_SCALING = "min_max"
MAX_ABS_SCALING = "max_abs"
STANDARD_SCALING = "standard"
SCALINGS = (MIN_MAX_SCALING, MAX_ABS_SCALING, STANDARD_SCALING)

COLUMN = np.dtype(
    [("count", np.uint64), ("min", np.float32), ("max", np.float32), ("sum_squares", np.float64)],
    align=True,
)
assert COLUMN.itemsize == _kernels.COLUMN_BYTES

# A column's id is its place in a table, if that is no longer than this or than so many times what
# goes into it. Beyond, ids are renumbered first: a single large id must not cost gigabytes.
_SHORT_TABLE = 1 << 20
_FILLED_TABLE = 16
# The longest table that is kept from part to part, by each thread: 64 MB where every column has
# values, 8 MB where they are all ones.
_KEPT_TABLE = 1 << 21
# Entries after which counters are emptied, before those of 32 bits can overflow.
_COUNTED_AT_ONCE = (1 << 32) - 1
# Counts from here on do not share the byte of the others.
_MANY = 255
# Bytes up to which no field of a zip can be too short.
_MOST_ZIPPED = 1 << 31
# Up to this width distinct ids are found with a table of it, else by sorting.
_LOCALIZED_WIDTH = 1 << 28


def _fits_table(width: int, n_used: int) -> bool:
    return width <= max(_SHORT_TABLE, _FILLED_TABLE * n_used)


def _renumber(indices: UInt32Array, width: int) -> tuple[UInt32Array, UInt32Array]:
    """The distinct indices, in any order, and each index's place among them."""
    if width > _LOCALIZED_WIDTH:
        ids, places = np.unique(indices, return_inverse=True)
        return ids, places.astype(np.uint32)
    table = np.empty(width, np.uint32)  # whose contents do not matter: only used pages cost memory
    local, distinct = np.empty_like(indices), np.empty(len(indices) + 1, np.uint32)
    n = _kernels.localize(indices, table, local, distinct)
    return distinct[:n].copy(), local


def _as_bytes(columns: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    return columns.view(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class ColumnStatistics:
    """What is known of each stored column.

    Attributes
    ----------
    ids : uint32[k], increasing
    columns : record[k] of count, min, max, sum_squares over the stored entries
    """

    ids: UInt32Array
    columns: npt.NDArray[np.void]

    @classmethod
    def empty(cls) -> ColumnStatistics:
        return cls(np.empty(0, np.uint32), np.empty(0, COLUMN))

    @classmethod
    def scan(cls, indices: UInt32Array, data: Float32Array, width: int) -> ColumnStatistics:
        """Statistics of entries whose indices are below `width`."""
        if width <= 2 * len(data):
            return _scan(indices, data, width)
        ids, local = _renumber(indices, width)
        found = _scan(local, data, len(ids))
        order = np.argsort(ids)
        return cls(ids[order], found.columns[order])

    @classmethod
    def of_ones(
        cls, counts: npt.NDArray[np.unsignedinteger[Any]], ids: UInt32Array | None = None
    ) -> ColumnStatistics:
        """Of columns that have nothing but so many ones, by id; of these ids, or of all that have
        some."""
        if ids is None:
            ids = np.flatnonzero(counts).astype(np.uint32)
        columns = np.empty(len(ids), COLUMN)
        columns["count"] = columns["sum_squares"] = counts[ids]
        columns["min"] = columns["max"] = 1
        return cls(ids, columns)

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """Statistics of both sets of rows together."""
        room = len(self.ids) + len(other.ids)
        ids, columns = np.empty(room, np.uint32), np.empty(room, COLUMN)
        n = _kernels.columns_merge(
            self.ids,
            _as_bytes(self.columns),
            other.ids,
            _as_bytes(other.columns),
            ids,
            _as_bytes(columns),
        )
        if n < room // 2:  # else a view keeps little more than it needs
            ids, columns = ids[:n].copy(), columns[:n].copy()
        return ColumnStatistics(ids[:n], columns[:n])

    @classmethod
    def merge_all(cls, parts: Sequence[ColumnStatistics]) -> ColumnStatistics:
        """All of them merged, like with like, so that no long list is copied once for each."""
        if len(parts) > 2:
            middle = len(parts) // 2
            parts = [cls.merge_all(parts[:middle]), cls.merge_all(parts[middle:])]
        return parts[0].merge(parts[1]) if len(parts) == 2 else parts[0] if parts else cls.empty()

    def shifted(self, base: int) -> ColumnStatistics:
        """The same columns with `base` taken off every id."""
        return replace(self, ids=self.ids - np.uint32(base))

    @property
    def root_mean_square(self) -> Float32Array:
        """float32[k], root mean square of each column's stored entries."""
        mean = self.columns["sum_squares"] / np.maximum(self.columns["count"], 1)
        return np.asarray(np.sqrt(mean), np.float32)

    def to_bytes(self) -> bytes:
        """An .npz file. Most columns of hashed categories hold nothing but ones: for those the
        count says it all, and only the others' extremes are kept. Most counts fit a byte, and bytes
        take a quarter of the time to compress, while whoever loads the data waits."""
        others = self._others()
        return _packed(self.ids, self.columns["count"], others, self.columns[others])

    def _others(self) -> npt.NDArray[np.intp]:
        """Where columns are that hold more than ones."""
        c = self.columns
        plain = (c["min"] == 1) & (c["max"] == 1) & (c["sum_squares"] == c["count"])
        return np.flatnonzero(~plain)

    @classmethod
    def from_bytes(cls, raw: bytes, name: str) -> ColumnStatistics:
        arrays = load_npz(raw, name)
        try:
            ids = np.cumsum(arrays["id_steps"], dtype=np.uint32)
            columns = np.zeros(len(ids), COLUMN)
            columns["count"] = arrays["count"]
            columns["count"][arrays["count"] == _MANY] = arrays["many"]
            columns["min"] = columns["max"] = 1
            columns["sum_squares"] = columns["count"]
            for field in ("min", "max", "sum_squares"):
                columns[field][arrays["other"]] = arrays[field]
        except (KeyError, ValueError, IndexError) as error:
            raise DatasetError(f"{name}: not column statistics ({error})") from error
        return cls(ids, columns)


def _packed(
    ids: UInt32Array,
    count: npt.NDArray[np.uint64],
    places: npt.NDArray[np.intp],
    others: npt.NDArray[np.void],
) -> bytes:
    """What `ColumnStatistics.from_bytes` reads; others : columns that hold more than ones, and
    their places among all."""
    arrays = {
        "id_steps": _narrowed(np.diff(ids, prepend=np.uint32(0))),
        "count": np.minimum(count, _MANY).astype(np.uint8),
        "many": _narrowed(count[count >= _MANY]),
        "other": places.astype(np.uint32),
        **{name: others[name] for name in ("min", "max", "sum_squares")},
    }
    return store_npz(arrays)


@dataclass(frozen=True, slots=True, eq=False)
class CountedColumns:
    """Columns whose ones are counted by id, for who writes their statistics: to list them all as
    `ColumnStatistics` takes four times as long.

    Attributes
    ----------
    ones : uint64, by id
    others : statistics of all other entries
    """

    ones: npt.NDArray[np.uint64]
    others: ColumnStatistics

    def merge(self, others: ColumnStatistics) -> CountedColumns:
        """With statistics of other entries, which come first."""
        return CountedColumns(self.ones, others.merge(self.others))

    def shifted(self, base: int) -> CountedColumns:
        return CountedColumns(self.ones[base:], self.others.shifted(base))

    def listed(self) -> ColumnStatistics:
        return self.others.merge(ColumnStatistics.of_ones(self.ones))

    def to_bytes(self) -> bytes:
        """As those of `listed`."""
        ids = self.others.ids
        if len(ids) and ids[-1] >= len(self.ones):
            return self.listed().to_bytes()
        both = self.others.merge(ColumnStatistics.of_ones(self.ones, ids[self.ones[ids] > 0]))
        count = self.ones.copy()
        count[ids] = both.columns["count"]
        there = np.flatnonzero(count)
        others = both._others()
        places = np.searchsorted(there, ids[others])
        return _packed(there.astype(np.uint32), count[there], places, both.columns[others])


class ColumnTable:
    """Columns below a width, as entries are added to them. Zeros come from the system: of columns
    that hold nothing, or only ones, no page is ever touched.

    Encoding adds entries, too (blocks.py): to `others`, whose `met` columns are listed, and to
    `ones`, of ids of a dictionary by their rank in it.
    """

    def __init__(self, width: int) -> None:
        self.ones = np.zeros(width, np.uint32)
        self._others = np.zeros(width, COLUMN)
        self.others = _as_bytes(self._others)
        self.met, self.n_met = np.empty(width, np.uint32), 0
        self._dictionary: _kernels.ParsedDictionary | None = None
        self._by_rank = np.empty(0, np.uint32)

    def add(self, indices: UInt32Array, data: Float32Array) -> None:
        """Fewer than 2**32 entries in all."""
        self.n_met = _kernels.columns_scan(
            indices, data, self.ones, self.others, self.met, self.n_met
        )

    def ones_by_rank(self, dictionary: _kernels.ParsedDictionary | None) -> UInt32Array:
        """Where ones of a dictionary's ids are counted, until `settle`."""
        if self._dictionary is not dictionary:
            self.settle()
            self._dictionary = dictionary
            self._by_rank = np.zeros(dictionary.n_ids if dictionary else 0, np.uint32)
        return self._by_rank

    def settle(self) -> None:
        """Brings all ones to `ones`."""
        if self._dictionary is not None:
            self._dictionary.move_ones(self._by_rank, self.ones)

    def take_others(self) -> ColumnStatistics:
        """The statistics of entries that are not 1, which the table forgets."""
        ids = np.sort(self.met[: self.n_met])
        columns = self._others[ids]
        self._others[ids] = 0
        self.n_met = 0
        return ColumnStatistics(ids, columns)

    def put_others(self, others: ColumnStatistics) -> None:
        """Makes an empty table go on from there."""
        self.n_met = len(others.ids)
        self.met[: self.n_met] = others.ids
        self._others[others.ids] = others.columns


def _scan(indices: UInt32Array, data: Float32Array, width: int) -> ColumnStatistics:
    """With a table of all columns below `width`."""
    parts = []
    for begin in range(0, len(data) or 1, _COUNTED_AT_ONCE):
        part, table = slice(begin, begin + _COUNTED_AT_ONCE), ColumnTable(width)
        table.add(indices[part], data[part])
        parts += [table.take_others(), ColumnStatistics.of_ones(table.ones)]
    return ColumnStatistics.merge_all(parts)


class ColumnCounter:
    """The statistics of part after part of the rows, in a table that is kept.

    Ones are only counted, and listed at the end: numbers can be added up in any order. The sums of
    other values cannot, if they are to be the same each time; those of each part are handed out,
    for who knows the order of the parts. Of one thread at a time.
    """

    def __init__(self) -> None:
        self._table = ColumnTable(0)
        self._n_counted = 0
        self._full: list[ColumnStatistics] = []  # ones, from before their counters were full
        self._wide: list[tuple[UInt32Array, Float32Array]] = []

    def add(self, indices: UInt32Array, data: Float32Array, width: int) -> None:
        """Entries with indices below `width`."""
        table = self.table(width, len(data))
        if table is None:
            self._wide.append((indices.copy(), data.copy()))
        else:
            table.add(indices, data)

    def table(self, width: int, n_entries: int) -> ColumnTable | None:
        """What so many entries with indices below `width` can be added to next; None where that is
        left to `add`."""
        if width > _KEPT_TABLE or n_entries > _COUNTED_AT_ONCE:
            return None
        if width > len(self._table.ones):
            self._widen(width)
        if self._n_counted + n_entries > _COUNTED_AT_ONCE:
            self._full.append(ColumnStatistics.of_ones(self._ones()))
            self._table.ones[:] = 0
            self._n_counted = 0
        self._n_counted += n_entries
        return self._table

    def _ones(self) -> UInt32Array:
        self._table.settle()
        return self._table.ones

    def _widen(self, width: int) -> None:
        """To twice the width at least, so that it seldom happens."""
        ones = self._ones()
        table = ColumnTable(max(width, min(2 * len(ones), _KEPT_TABLE)))
        table.ones[: len(ones)] = ones
        table.put_others(self._table.take_others())
        self._table = table

    def take_part(self) -> ColumnStatistics:
        """The statistics of all that was added since the last part, but for the ones that `ones`
        has."""
        found = self._table.take_others()
        if self._wide:
            indices, data = map(np.concatenate, zip(*self._wide, strict=True))
            self._wide = []
            width = int(indices.max(initial=0)) + 1
            found = found.merge(ColumnStatistics.scan(indices, data, width))
        return found

    @staticmethod
    def ones(counters: Sequence[ColumnCounter]) -> CountedColumns:
        """The ones of all parts that these have counted."""
        tables = [counter._ones() for counter in counters]
        total = np.zeros(max(map(len, tables), default=0), np.uint64)
        for counter, ones in zip(counters, tables, strict=True):
            total[: len(ones)] += ones
            for full in counter._full:
                total[full.ids] += full.columns["count"]
        return CountedColumns(total, ColumnStatistics.empty())


def _narrowed(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In the narrowest type that holds the largest."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


# RuntimeError: a damaged flag asks for a password or (NotImplementedError) an unknown method.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
)


def store_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An .npz file, the same at any time of the day. As np.savez_compressed, whose harder
    compression takes several times as long for a sixth; and `zipfile` has no way to ask for what is
    best for bytes, runs of equal ones and the rest as Huffman codes."""
    whole = [np.asanyarray(array, order="C") for array in arrays.values()]
    if sum(array.nbytes for array in whole) > _MOST_ZIPPED:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()
    with ThreadPoolExecutor(2) as pool:  # whoever loads the data waits for it
        members = list(pool.map(_deflated, whole))
    parts, directory, offset = [], [], 0
    for name, (sums, packed) in zip(arrays, members, strict=True):
        path = f"{name}.npy".encode()
        # Version 2.0, deflated, at 1980-01-01.
        described = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, *sums, len(path), 0)
        parts += [b"PK\3\4", described, path, packed]
        where = struct.pack("<3H2L", 0, 0, 0, 0, offset)
        directory += [b"PK\1\2", struct.pack("<H", 20), described, where, path]
        offset += 4 + len(described) + len(path) + len(packed)
    n_bytes = sum(map(len, directory))
    end = struct.pack("<4H2LH", 0, 0, len(arrays), len(arrays), n_bytes, offset, 0)
    return b"".join([*parts, *directory, b"PK\5\6", end])


def _deflated(array: npt.NDArray[Any]) -> tuple[tuple[int, int, int], bytes]:
    """(checksum, length deflated, length), and an array's .npy file, deflated."""
    raw = io.BytesIO()
    np.lib.format.write_array(raw, array, allow_pickle=False)
    whole = raw.getbuffer()
    how = zlib.Z_RLE if array.itemsize == 1 else zlib.Z_DEFAULT_STRATEGY
    pack = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, how)
    packed = pack.compress(whole) + pack.flush()
    return (zlib.crc32(whole), len(packed), len(whole)), packed


def load_npz(raw: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an .npz file; zip's own checksums are checked on the way."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            methods = {info.compress_type for info in archive.infolist()}
        # Others are never written, and fail in ways of their own (ZstdError since Python 3.14).
        if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError(f"compression methods {sorted(methods)}")
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except _UNREADABLE as error:
        raise DatasetError(f"{name}: damaged or not an .npz file ({error})") from error


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """value -> (value - shift) / divisor, column by column; other columns are left alone.

    Attributes
    ----------
    method : one of SCALINGS
    ids : uint32[k], increasing: the columns that it changes
    shift, divisor : float32[k]
    """

    method: str
    ids: UInt32Array
    shift: Float32Array
    divisor: Float32Array
    _table: list[Float32Array] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def fit(cls, method: str, statistics: ColumnStatistics, n_rows: int) -> Scaling:
        """The scaling of a data set of n_rows rows with these statistics.

        Absent entries are zeros, so a column not stored in every row has a minimum of at most 0
        and a maximum of at least 0. Such a column is never shifted (an absent entry must stay
        absent); what the shift would add is a constant that the intercept absorbs.
        """
        c = statistics.columns
        low, high = c["min"].astype(np.float32), c["max"].astype(np.float32)
        shift = np.zeros(len(c), np.float32)
        if method == MIN_MAX_SCALING:
            full = c["count"] == n_rows
            low = np.where(full, low, np.minimum(low, 0))
            high = np.where(full, high, np.maximum(high, 0))
            with np.errstate(over="ignore"):
                divisor = high - low
            # A range that no number can hold is left as it is, like an infinite one.
            shift = np.where(full & np.isfinite(divisor), low, np.float32(0)).astype(np.float32)
        elif method == MAX_ABS_SCALING:
            divisor = np.maximum(np.abs(low), np.abs(high))
        elif method == STANDARD_SCALING:
            divisor = statistics.root_mean_square
        else:
            raise OptionError(f"unknown scaling {method!r}: choose one of {', '.join(SCALINGS)}")
        divisor = usable_divisor(divisor)
        # Most columns of hashed categories hold nothing but ones, and need no room here.
        changed = np.flatnonzero((shift != 0) | (divisor != 1))
        return cls(method, statistics.ids[changed], shift[changed], divisor[changed])

    @property
    def id(self) -> str:
        """16 hex digits that are equal for equal scalings and (in practice) only for them."""
        digest = hashlib.blake2b(self.method.encode(), digest_size=8)
        for array in (self.ids, self.shift, self.divisor):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def apply(self, indices: UInt32Array, data: Float32Array) -> Float32Array:
        """The scaled values of entries with 0-based indices; a new array."""
        out = np.empty_like(data)
        width = int(self.ids[-1]) + 1 if len(self.ids) else 0
        if _fits_table(width, len(self.ids)):
            _kernels.columns_scale(indices, data, self._pairs(width), out)
            return out
        place = np.minimum(np.searchsorted(self.ids, indices), len(self.ids) - 1)
        known = self.ids[place] == indices
        with np.errstate(all="ignore"):  # as in the kernel
            scaled = (data - self.shift[place]) / self.divisor[place]
        return np.where(known, scaled, data)

    def apply_rows(self, rows: CSR) -> CSR:
        return replace(rows, data=self.apply(rows.indices, rows.data))

    def scaled(self, statistics: ColumnStatistics) -> ColumnStatistics | None:
        """The statistics of scaled rows from those of the rows as they were, or None where it
        takes the rows: a shift's effect on a sum of squares is not in its statistics, nor how many
        values leave the range of float32.

        Extremes are exact, since division keeps the order of float32; sums of squares are those
        of values that were not rounded after the division.
        """
        if self.shift.any():
            return None
        columns = statistics.columns.copy()
        there = np.isin(self.ids, statistics.ids, assume_unique=True)
        place = np.searchsorted(statistics.ids, self.ids[there])
        divisor = self.divisor[there]
        with np.errstate(all="ignore"):  # as in the kernel
            columns["min"][place] /= divisor
            columns["max"][place] /= divisor
            columns["sum_squares"][place] /= divisor.astype(np.float64) ** 2
        largest = np.maximum(np.abs(columns["min"]), np.abs(columns["max"]))[place]
        # Another data set's scaling may take values out of the range of float32.
        all_zeros = columns["sum_squares"][place] == 0
        if not (all_zeros | (np.isfinite(largest) & (largest > SMALLEST_DIVISOR))).all():
            return None
        return ColumnStatistics(statistics.ids, columns)

    def _pairs(self, width: int) -> Float32Array:
        """(shift, divisor) by id, made once: many blocks are scaled alike."""
        if not self._table:
            pairs = np.empty((width, 2), np.float32)
            pairs[:] = (0, 1)
            pairs[self.ids, 0] = self.shift
            pairs[self.ids, 1] = self.divisor
            self._table.append(pairs)
        return self._table[0]


# Below, what is divided or divided by it may leave the range of float32.
SMALLEST_DIVISOR = 1e-36


def usable_divisor(divisor: npt.NDArray[np.float32]) -> Float32Array:
    """1 in place of what nothing can be divided by: a constant column, or one with infinities."""
    usable = np.isfinite(divisor) & (divisor > SMALLEST_DIVISOR)
    return np.where(usable, divisor, np.float32(1)).astype(np.float32)
