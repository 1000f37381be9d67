"""The compiled core (pyx/, csrc/). Arrays are C-contiguous and of exactly the dtype named."""

from mmap import mmap
from typing import Literal

import numpy as np
import numpy.typing as npt

from cirrus_fast.errors import LibsvmParseError

_Bytes = bytes | bytearray | memoryview | mmap | npt.NDArray[np.uint8]
_F32 = npt.NDArray[np.float32]
_I64 = npt.NDArray[np.int64]
_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]

# status.pxi, dispatch.pxi

def status_texts() -> list[str]: ...
def implementations() -> list[str]: ...
def active_impl() -> str: ...

# libsvm.pxi

def number_read(text: _Bytes) -> tuple[Literal[0, 1, 2], float, int]: ...
def number_format(value: float) -> str: ...
def libsvm_hash(index: int, bits: int) -> int: ...
def libsvm_range(text: _Bytes, begin: int, end: int) -> tuple[int, int, int, int]: ...
def libsvm_fill(
    text: _Bytes,
    first: int,
    last: int,
    labels: _F32,
    row_ends: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    scratch: _U64 | None,
    entry_base: int,
    *,
    refuse_zero: bool,
    nonfinite: bool,
    skip: bool,
    hash_bits: int,
    base: int,
    max_id: int,
    careful: bool = False,
) -> tuple[int, int, int | None, int | None, int, LibsvmParseError | None]: ...
def libsvm_write(
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    begin: int,
    end: int,
    base: int,
) -> tuple[memoryview, None] | tuple[str, int]: ...
