"""The rows that every benchmark shares, on disk and in memory, the same for all peers.

Made-up click rows by default; CIRRUS_FAST_BENCH_TEXT=train.svm:test.svm takes given LibSVM files.
CIRRUS_FAST_BENCH_ROWS bounds the training rows, CIRRUS_FAST_BENCH_DATA is a folder to keep files in
for the next run.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

import cirrus_fast
from cirrus_fast import _kernels
from cirrus_fast.data.columns import STANDARD_SCALING, ColumnStatistics, Scaling
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.text import write_libsvm

DEFAULT_ROWS = 1_000_000
MOST_ROWS = int(os.environ.get("CIRRUS_FAST_BENCH_ROWS", DEFAULT_ROWS))
TEST_SHARE = 10  # a test row for so many training rows
GIVEN = os.environ.get("CIRRUS_FAST_BENCH_TEXT", "")


def described() -> str:
    """What the rows are, for the report; paths of this machine are nobody's business."""
    kind = "given LibSVM files" if GIVEN else "made-up click rows (`make_clicks`, seed 1)"
    rows, test = train_rows(), test_rows()
    return (
        f"{kind}: {rows.n_rows:,} training rows, {train_path().stat().st_size / 1e6:.1f} MB of "
        f"text, {rows.nnz / rows.n_rows:.1f} stored entries a row, {rows.n_features:,} features; "
        f"{test.n_rows:,} test rows"
    )


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cirrus_fast_bench_")


@cache
def folder() -> Path:
    """Where files go: for this run and the processes it starts alone, unless a place is given."""
    if "CIRRUS_FAST_BENCH_DATA" not in os.environ:
        os.environ["CIRRUS_FAST_BENCH_DATA"] = _temporary().name
    root = Path(os.environ["CIRRUS_FAST_BENCH_DATA"])
    source = hashlib.blake2b(f"{GIVEN} {MOST_ROWS}".encode(), digest_size=4).hexdigest()
    path = root / f"{MOST_ROWS}_{source}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@cache
def train_path() -> Path:
    return _text(0, MOST_ROWS)


@cache
def test_path() -> Path:
    return _text(1, max(MOST_ROWS // TEST_SHARE, 1000))


def _text(stream: int, n_rows: int) -> Path:
    path = folder() / ("train.svm", "test.svm")[stream]
    if GIVEN:
        return _head(Path(GIVEN.split(":")[stream]), n_rows, path)
    if not path.exists():
        cirrus_fast.make_clicks(path, n_rows, seed=1, stream=stream)
    return path


def _head(source: Path, n_rows: int, copy: Path) -> Path:
    """The source, or where it is longer a copy of its first n_rows lines."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = 0
        for _ in range(n_rows):
            end = text.find(b"\n", end) + 1
            if end == 0:
                return source
        if end == len(text):
            return source
        if not copy.exists() or copy.stat().st_size != end:
            copy.write_bytes(text[:end])
    return copy


def mapped(path: Path) -> mmap.mmap:
    """A file's bytes, from the page cache, as every peer that takes a path reads them."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@cache
def _both() -> tuple[CSR, CSR]:
    train, test = (cirrus_fast.parse_libsvm(mapped(p)) for p in (train_path(), test_path()))
    width = max(train.n_features, test.n_features)
    return widened(train, width), widened(test, width)


def widened(rows: CSR, n_features: int) -> CSR:
    """The same rows with labels 1 and 0, and so many features."""
    return CSR(
        (rows.labels > 0).astype(np.float32), rows.indptr, rows.indices, rows.data, n_features
    )


def train_rows() -> CSR:
    return _both()[0]


def test_rows() -> CSR:
    return _both()[1]


def first(rows: CSR, n_rows: int) -> CSR:
    """The first rows; arrays are shared."""
    n = min(n_rows, rows.n_rows)
    end = int(rows.indptr[n])
    return CSR(
        rows.labels[:n], rows.indptr[: n + 1], rows.indices[:end], rows.data[:end], rows.n_features
    )


@cache
def short_path(n_rows: int) -> Path:
    """The text of the first rows, for peers that would take too long with all of them."""
    return _head(train_path(), n_rows, folder() / f"train_{n_rows}.svm")


@cache
def scaling() -> Scaling:
    """Every column is divided by the root mean square of its stored values, which every learner
    here does best with: ours does it by itself, the others are given such rows."""
    rows = train_rows()
    statistics = ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)
    return Scaling.fit(STANDARD_SCALING, statistics, rows.n_rows)


@cache
def scaled() -> tuple[CSR, CSR]:
    """Training and test rows by `scaling`."""
    return scaling().apply_rows(train_rows()), scaling().apply_rows(test_rows())


@cache
def scaled_paths() -> tuple[Path, Path]:
    """`scaled` as LibSVM text, for learners that read files."""
    return _written("scaled", write_libsvm)


@cache
def vowpal_paths() -> tuple[Path, Path]:
    """`scaled` as text of Vowpal Wabbit: labels 1 and -1, no namespace."""

    def write(rows: CSR, path: Path) -> None:
        write_libsvm(rows, path)
        text = path.read_bytes().replace(b"\n1 ", b"\n1 | ").replace(b"\n0 ", b"\n-1 | ")
        begin = b"1 | " if text[:1] == b"1" else b"-1 | "
        path.write_bytes(begin + text[2:])

    return _written("vowpal", write)


def _written(name: str, write: Callable[[CSR, Path], None]) -> tuple[Path, Path]:
    paths = folder() / f"train.{name}", folder() / f"test.{name}"
    for rows, path in zip(scaled(), paths, strict=True):
        if not path.exists():
            unfinished = path.with_suffix(".part")
            write(rows, unfinished)
            unfinished.rename(path)
    return paths


def margins(rows: CSR, weights, intercept: float):
    """Scores of rows by a linear model, whoever learnt it."""
    found = np.empty(rows.n_rows, np.float32)
    _kernels.logistic_margins(
        rows.indptr,
        rows.indices,
        rows.data,
        np.ascontiguousarray(weights, np.float32),
        float(intercept),
        found,
    )
    return found
