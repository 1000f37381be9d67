"""The compiled module; see pyx/ for what each function promises."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
Words = npt.NDArray[np.uint64]
Bytes = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

# status.pxi, dispatch.pxi
def status_texts() -> list[str]: ...
def implementations() -> list[str]: ...
def active_impl() -> str: ...

# block.pxi
def crc32c(data: Bytes, crc: int = 0) -> int: ...
def dictionary_build_sizes(nnz: int, max_ids: int) -> tuple[int, int]: ...
def dictionary_build(
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    max_ids: int,
    scratch: Words,
    out: npt.NDArray[np.uint8],
) -> int: ...
def dictionary_measure(data: Bytes) -> int: ...
def dictionary_parse(data: Bytes, memory: Words) -> tuple[int, int]: ...
def block_read_header(block: Bytes) -> tuple[int, int, bool, int, int, int]: ...
def block_decode(
    block: Bytes,
    dictionary: Words | None,
    labels: Float32Array,
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    weights: Float32Array | None,
    scratch: Words | None,
    base: int = 0,
    first_entry: int = 0,
) -> int: ...
def block_encode_scratch(n_rows: int, nnz: int) -> int: ...
def block_encode(
    labels: Float32Array,
    indptr: Int64Array,
    indices: UInt32Array,
    data: Float32Array,
    weights: Float32Array | None,
    dictionary: Words | None,
    scratch: Words,
) -> bytes: ...
