"""The compiled core (pyx/, csrc/). Arrays are C-contiguous and of exactly the dtype named."""

from mmap import mmap
from typing import Literal

import numpy as np
import numpy.typing as npt

from cirrus_fast.errors import CriteoParseError, LibsvmParseError

_Bytes = bytes | bytearray | memoryview | mmap | npt.NDArray[np.uint8]
_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_U8 = npt.NDArray[np.uint8]
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
def libsvm_count(text: _Bytes, first: int, last: int) -> int: ...
def libsvm_cut(text: _Bytes, before: int, step: int) -> list[tuple[int, int, int, int]]: ...
def libsvm_skip(text: _Bytes, n_lines: int) -> tuple[int, int]: ...
def libsvm_lines(text: _Bytes, begin: int, end: int) -> tuple[int, int]: ...
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

# criteo.pxi

CRITEO_BITS: tuple[int, int]

def criteo_id(column: int, cell: _Bytes, bits: int) -> int: ...
def criteo_layout(text: _Bytes, has_label: bool) -> tuple[int, bool, bool, bool, int]: ...
def criteo_range(text: _Bytes, begin: int, end: int) -> tuple[int, int, int, int]: ...
def criteo_fill(
    text: _Bytes,
    first: int,
    last: int,
    labels: _F32,
    row_ends: _I64,
    indices: _U32,
    data: _F32,
    *,
    separator: int,
    has_id: bool,
    has_label: bool,
    bits: int,
    skip: bool,
) -> tuple[int, int, int, CriteoParseError | None]: ...

# csr.pxi

def csr_take(
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    order: _U32,
    out_labels: _F32,
    out_indptr: _I64,
    out_indices: _U32,
    out_data: _F32,
    out_weights: _F32 | None,
) -> int: ...

# columns.pxi

COLUMN_BYTES: int

def columns_scan(
    indices: _U32, data: _F32, ones: _U32, others: _U8, met: _U32, n_met: int
) -> int: ...
def columns_merge(a_ids: _U32, a: _U8, b_ids: _U32, b: _U8, out_ids: _U32, out: _U8) -> int: ...
def columns_scale(indices: _U32, data: _F32, pairs: _F32, out: _F32) -> None: ...

# localize.pxi

def localize(ids: _U32, table: _U32, local: _U32, distinct: _U32) -> int: ...

# logistic.pxi

def logistic_margins(
    indptr: _I64, indices: _U32, data: _F32, w: _F32, intercept: float, margins: _F32
) -> None: ...
def logistic_loss(
    margins: _F32, labels: _F32, weights: _F32 | None
) -> tuple[float, float, float]: ...
def logistic_probabilities(margins: _F32, out: _F32) -> None: ...
def logistic_gradient(
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    w: _F32,
    intercept: float,
    gradient: _F32,
) -> tuple[float, float, float]: ...
def auc(
    scores: _F32, labels: _F32, weights: _F32 | None, scratch: _U64
) -> tuple[float, float, float]: ...

# prepare.pxi

def prepare_rows(
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    order: _U32,
    places: _U32,
    n_places: int,
    divisors: _F32,
    first_entry: int,
    out_labels: _F32,
    out_indptr: _I64,
    out_indices: _U32,
    out_data: _F32,
    out_weights: _F32 | None,
) -> int: ...
def prepare_entries(
    indices: _U32,
    data: _F32,
    places: _U32,
    n_places: int,
    divisors: _F32,
) -> None: ...

# optimizer.pxi

class Optimizer:
    kind: str
    def __init__(self, kind: str, learning_rate: float, initial: float = 1.0) -> None: ...
    @property
    def width(self) -> int: ...
    def clear(self, state: _F32, intercept: float = 0.0) -> None: ...
    def weights(
        self, state: _F32, penalties: _F32 | None, rows_seen: float, out: _F32
    ) -> float: ...
    def update(self, state: _F32, gradient: float, l1: float = 0.0, l2: float = 0.0) -> None: ...

# train.pxi

class TrainScratch:
    table: _U32
    local: _U32
    distinct: _U32
    weights: _F32
    gradient: _F32
    touches: _F32
    def __init__(
        self,
        table: _U32,
        local: _U32,
        distinct: _U32,
        weights: _F32,
        gradient: _F32,
        touches: _F32,
    ) -> None: ...
    @property
    def room(self) -> int: ...

def claim(words: _I64, numbers: _U32, expected: int, wanted: int, claimed: _U8) -> int: ...
def claim_add(words: _I64, place: int, amount: int) -> None: ...

class HotCopies:
    published: _F32
    own: _F32
    def __init__(
        self, optimizer: Optimizer, published: _F32, thread: int, own: _F32, every: int
    ) -> None: ...

class TrainModel:
    optimizer: Optimizer
    state: _F32
    penalties: _F32 | None
    hot: HotCopies | None
    def __init__(
        self,
        optimizer: Optimizer,
        state: _F32,
        penalties: _F32 | None,
        *,
        fit_intercept: bool = True,
        negative_weight: float = 1.0,
        positive_weight: float = 1.0,
        intercept_rate: float = 1.0,
        hot: HotCopies | None = None,
    ) -> None: ...
    def train(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        weights: _F32 | None,
        order: _U32,
        minibatch_size: int,
        scratch: TrainScratch | None,
        *,
        rows_seen: float = 0.0,
        rate: float = 1.0,
    ) -> tuple[int, int, float, float]: ...
    def gradient(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        weights: _F32 | None,
        order: _U32,
        scratch: TrainScratch,
        *,
        rows_seen: float = 0.0,
    ) -> tuple[int, float, float, float]: ...
    def apply(
        self,
        ids: _U32,
        gradient: _F32,
        touches: _F32,
        intercept_gradient: float,
        scratch: TrainScratch,
        *,
        rows_seen: float = 0.0,
        rate: float = 1.0,
    ) -> None: ...

# grid.pxi

GRID_LANES: int

class GridBatches:
    table: _U32
    local: _U32
    distinct: _U32
    n_distinct: _U32
    def __init__(self, table: _U32, local: _U32, distinct: _U32, n_distinct: _U32) -> None: ...
    def localize(
        self, indptr: _I64, indices: _U32, data: _F32, order: _U32, minibatch_size: int
    ) -> int: ...

class GridScratch:
    weights: _F32
    gradient: _F32
    touches: _F32
    def __init__(self, weights: _F32, gradient: _F32, touches: _F32) -> None: ...
    @property
    def room(self) -> int: ...

class GridModel:
    kind: str
    state: _F32
    penalties: _F32 | None
    active: int
    def __init__(
        self,
        kind: str,
        state: _F32,
        penalties: _F32 | None,
        learning_rate: _F32,
        l1: _F32,
        l2: _F32,
        class_weight: _F32,
        *,
        initial: float = 1.0,
        fit_intercept: bool = True,
        intercept_rate: float = 1.0,
    ) -> None: ...
    def clear(self, intercept: _F32) -> None: ...
    def train(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        weights: _F32 | None,
        order: _U32,
        batches: GridBatches | None,
        scratch: GridScratch | None,
        losses: _F64,
        *,
        rows_seen: float = 0.0,
        rate: float = 1.0,
    ) -> tuple[int, int, float]: ...
    def measure(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        weights: _F32 | None,
        margins: _F32,
        losses: _F64,
        *,
        rows_seen: float = 0.0,
    ) -> float: ...
    def weights(self, into: dict[int, _F32], *, rows_seen: float = 0.0) -> dict[int, float]: ...
    def move(self, lane: int, to: GridModel, to_lane: int) -> None: ...

# step.pxi

class StepRows:
    n: int
    def __init__(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        weights: _F32 | None,
        order: _U32,
        *,
        negative_weight: float = 1.0,
        positive_weight: float = 1.0,
    ) -> None: ...

class Stepper:
    n_ids: int
    n_shards: int
    def __init__(self, n_ids: int, n_shards: int = 1, *, counts_touches: bool = False) -> None: ...
    def locate(self, batch: StepBatch, rows: StepRows, first: int, n: int) -> None: ...
    def learn(self, batch: StepBatch) -> float: ...
    def give(self, batch: StepBatch, n_rows: int, gradient: _F32, touches: _F32 | None) -> None: ...

class StepBatch:
    n_rows: int
    n: int
    status: int
    intercept: float
    rows_seen: float
    n_updates: int
    loss: float
    weight: float
    def __init__(self, stepper: Stepper) -> None: ...
    @property
    def whole(self) -> bool: ...
    def clear(self) -> None: ...
    def choose(self, ids: _U32) -> None: ...
    def take(self, weights: _F32) -> None: ...
    def read(self, shard: int, buffer: _Bytes, begin: int, end: int) -> int: ...

class StepMessage:
    def __init__(
        self, key: bytes, shard: int = 0, *, worker: int = 0, generation: int = 0
    ) -> None: ...
    @property
    def pushes(self) -> bool: ...
    @property
    def number(self) -> int: ...
    @property
    def view(self) -> memoryview: ...
    def write(
        self,
        stepper: Stepper,
        pushed: StepBatch | None,
        pulled: StepBatch | None,
        *,
        number: int = 0,
        rate: float = 1.0,
    ) -> None: ...

def step_answer(answer: _Bytes, weights: _F32) -> tuple[int, float, float, int, int]: ...

# bitfield.pxi, replica.pxi

BITFIELD_MOST: int

def bitfield_room(key_bytes: int, n_add: int, n_get: int) -> int: ...
def bitfield_pack(
    key: _Bytes, add_places: _U32, amounts: _I32, get_places: _U32, out: bytearray | _U8
) -> int: ...
def bitfield_decode(data: _Bytes, values: _I32) -> None: ...
def bitfield_encode(values: _I32, out: bytearray | memoryview | _U8) -> None: ...

class BitfieldReply:
    values: _I32
    def __init__(self, values: _I32) -> None: ...
    @property
    def complete(self) -> bool: ...
    def read(self, buffer: _Bytes, begin: int, end: int) -> int: ...

class Replica:
    state: _F32
    held: _I32
    sent: _U32
    residual: _F32
    count: _U32
    n_workers: int
    def __init__(
        self,
        optimizer: Optimizer,
        state: _F32,
        held: _I32,
        sent: _U32,
        residual: _F32,
        count: _U32,
        n_workers: int,
    ) -> None: ...
    def touch(
        self,
        labels: _F32,
        indptr: _I64,
        indices: _U32,
        data: _F32,
        order: _U32,
        ids: _U32,
        counts: _U32,
    ) -> int: ...
    def keep(self, ids: _U32, before: _F32) -> None: ...
    def take(
        self, ids: _U32, counts: _U32, before: _F32, places: _U32, amounts: _I32
    ) -> tuple[int, int]: ...
    def settle(self, ids: _U32, values: _I32, sent_then: _U32 | None) -> None: ...
    def settle_run(self, first: int, stride: int, values: _I32, sent_then: _U32 | None) -> None: ...
    def give(
        self,
        batch: StepBatch,
        places: _U32,
        amounts: _I32,
        *,
        n_rows: int = 0,
        loss: float = 0.0,
        weight: float = 0.0,
    ) -> None: ...
    def take_over(self, batch: StepBatch, sent_then: _U32 | None) -> int: ...
    def missing(self, ids: _U32, known: _U32, below: int, out: _U32) -> int: ...
    def dense(self, ids: _U32, bytes_alone: int) -> int: ...

# block.pxi

def crc32c(data: _Bytes, crc: int = 0) -> int: ...
def dictionary_build_sizes(nnz: int, max_ids: int) -> tuple[int, int]: ...
def dictionary_build(
    indptr: _I64,
    indices: _U32,
    data: _F32,
    max_ids: int,
    scratch: _U64,
    out: _U8,
) -> int: ...

class ParsedDictionary:
    identity: int
    n_ids: int
    def __init__(self, data: _Bytes) -> None: ...
    def move_ones(self, ones_by_rank: _U32, ones: _U32) -> None: ...

def block_read_header(block: _Bytes) -> tuple[int, int, bool, int, int, int]: ...
def block_decode(
    block: _Bytes,
    dictionary: ParsedDictionary | None,
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    scratch: _U64,
    base: int = 0,
    first_entry: int = 0,
    ordered: bool = True,
) -> int: ...

class LocalTable: ...

def block_minibatches_scratch(block: _Bytes, minibatch_size: int) -> int: ...
def block_decode_minibatches(
    block: _Bytes,
    dictionary: ParsedDictionary | None,
    minibatch_size: int,
    table: LocalTable,
    labels: _F32,
    indptr: _I64,
    local: _U32,
    data: _F32,
    weights: _F32 | None,
    ids: _U32,
    offsets: _I64,
    scratch: _U64,
    base: int = 0,
) -> int: ...
def block_encode_scratch(
    n_rows: int, nnz: int, dictionary: ParsedDictionary | None = None
) -> int: ...
def block_encode(
    labels: _F32,
    indptr: _I64,
    indices: _U32,
    data: _F32,
    weights: _F32 | None,
    dictionary: ParsedDictionary | None,
    scratch: _U64,
    ones: _U32 | None = None,
    others: _U8 | None = None,
    met: _U32 | None = None,
    n_met: int = 0,
    ones_by_rank: _U32 | None = None,
) -> tuple[bytes, int]: ...
