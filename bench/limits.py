"""The limits of the machine (limits.c), built with the C compiler on first use."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).with_name("limits.c")


@cache
def _library() -> ctypes.CDLL:
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"the limits of the machine need a C compiler: no {compiler[0]} here")
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "limits.so"
        flags = ["-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))
    library.limit_separators.restype = ctypes.c_size_t
    library.limit_read.restype = ctypes.c_double
    library.limit_dots.restype = ctypes.c_double
    return library


def _at(array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def copy(to, source) -> None:
    _library().limit_copy(_at(to), _at(source), ctypes.c_size_t(source.nbytes))


def copy_fresh(source) -> None:
    if _library().limit_copy_fresh(_at(source), ctypes.c_size_t(source.nbytes)):
        raise MemoryError("no memory for the copy")


def separators(text) -> int:
    bytes_ = np.frombuffer(text, np.uint8)
    return int(_library().limit_separators(_at(bytes_), ctypes.c_size_t(bytes_.nbytes)))


def read(rows) -> float:
    n = ctypes.c_size_t(rows.nnz)
    return float(_library().limit_read(_at(rows.indices), _at(rows.data), n))


def dots(rows, w) -> float:
    n = ctypes.c_size_t(rows.n_rows)
    return float(
        _library().limit_dots(_at(rows.indptr), _at(rows.indices), _at(rows.data), _at(w), n)
    )
