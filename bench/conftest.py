"""The data every benchmark shares: made-up click rows, the same for all peers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast.data.csr import CSR

ROWS = int(os.environ.get("CIRRUS_FAST_BENCH_ROWS", "200000"))


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where benchmark data are kept between runs."""
    root = Path(os.environ.get("CIRRUS_FAST_BENCH_DATA", tempfile.gettempdir()))
    path = root / f"cirrus_fast_bench_{ROWS}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _text(folder: Path, name: str, n_rows: int, stream: int) -> bytes:
    path = folder / name
    if not path.exists():
        cirrus_fast.make_clicks(path, n_rows, seed=1, stream=stream)
    return path.read_bytes()


@pytest.fixture(scope="session")
def text(folder: Path) -> bytes:
    """Training rows as LibSVM text."""
    return _text(folder, "train.svm", ROWS, 0)


@pytest.fixture(scope="session")
def rows(text: bytes) -> CSR:
    return cirrus_fast.parse_libsvm(text, n_features=1 << 19)


@pytest.fixture(scope="session")
def test_rows(folder: Path) -> CSR:
    text = _text(folder, "test.svm", ROWS // 10, 1)
    return cirrus_fast.parse_libsvm(text, n_features=1 << 19)


@pytest.fixture
def peer(benchmark):
    """Notes who is measured, on what, so that the report can set peers side by side."""

    def note(name: str, group: str, *, n_bytes: int = 0, n_rows: int = 0, **more: object) -> None:
        benchmark.group = group
        benchmark.extra_info.update(peer=name, n_bytes=n_bytes, n_rows=n_rows, **more)
        benchmark.extra_info["impl"] = cirrus_fast.active_impl()
        benchmark.extra_info["numpy"] = np.__version__

    return note
