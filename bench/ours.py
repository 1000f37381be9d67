"""What is measured of cirrus_fast: the one place that knows which of its functions a benchmark, or
the count of instructions, calls. A faster way to do the same work is named here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cirrus_fast
from bench import data
from cirrus_fast import _kernels
from cirrus_fast.data.blocks import (
    Dictionary,
    LocalizedBlock,
    MinibatchDecoder,
    decode_block,
    encode_block,
)
from cirrus_fast.data.columns import MAX_ABS_SCALING, STANDARD_SCALING, ColumnStatistics, Scaling
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.loading import BLOCK_ROWS
from cirrus_fast.data.result import TrainResult
from cirrus_fast.data.text import TextParser
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime import minibatches as minibatches_module
from cirrus_fast.runtime.bsp import make_scratch
from cirrus_fast.runtime.grid_groups import LANES, Batches, Family, Group, Lane, LaneSpec, Scratch

# Text a streaming parser is given at a time.
CHUNK_BYTES = 1 << 20

# Text


def parse_csr(text, n_threads: int = 1) -> CSR:
    return cirrus_fast.parse_libsvm(text, n_threads=n_threads)


def parse_blocks(text) -> tuple[int, int]:
    """Rows and entries of the text, parsed piece by piece, nothing kept."""
    rows = entries = 0
    parser = TextParser()
    for begin in range(0, len(text), CHUNK_BYTES):
        block = parser.parse(text, begin, min(begin + CHUNK_BYTES, len(text)))
        rows, entries = rows + len(block.labels), entries + len(block.data)
    return rows, entries


def load(path: Path, folder: Path, n_threads: int, like: Dataset | None = None) -> Dataset:
    return cirrus_fast.load_libsvm(
        path, str(folder), overwrite=True, n_threads=n_threads, like=like
    )


# Blocks


@dataclass(frozen=True, slots=True)
class Coded:
    """A data set's blocks in memory."""

    dataset: Dataset
    blocks: list[bytes]


def coded(dataset: Dataset) -> Coded:
    return Coded(dataset, [dataset.read_bytes(block) for block in dataset.blocks])


def build_dictionary(rows: CSR) -> Dictionary:
    return Dictionary.build(rows)


def encode(rows: CSR, dictionary: Dictionary | None) -> list[bytes]:
    return [
        encode_block(
            rows.labels[begin : begin + BLOCK_ROWS],
            rows.indptr[begin : begin + BLOCK_ROWS + 1],
            rows.indices,
            rows.data,
            None,
            dictionary,
        )
        for begin in range(0, rows.n_rows, BLOCK_ROWS)
    ]


def decode(coded: Coded, *, ordered: bool) -> Iterator[CSR]:
    dictionary, base = coded.dataset.dictionary, coded.dataset.manifest.index_base
    for raw in coded.blocks:
        yield decode_block(raw, dictionary, base=base, ordered=ordered)


def _localized(coded: Coded, size: int) -> Iterator[LocalizedBlock]:
    dataset = coded.dataset
    decoder = MinibatchDecoder(dataset.dictionary, base=dataset.manifest.index_base)
    return (decoder.decode(raw, size) for raw in coded.blocks)


def decode_minibatches(coded: Coded, size: int) -> int:
    """Decodes and localises all rows; how many distinct ids the mini-batches have, summed."""
    return sum(len(block.ids) for block in _localized(coded, size))


def minibatches(coded: Coded, size: int) -> Iterator[tuple[UInt32Array, Float32Array]]:
    """Ids and values of each mini-batch, found again through its local indices: for comparing."""
    for block in _localized(coded, size):
        for number, begin in enumerate(range(0, len(block.labels), size)):
            end = min(begin + size, len(block.labels))
            at = slice(int(block.indptr[begin]), int(block.indptr[end]))
            ids = block.ids[block.offsets[number] : block.offsets[number + 1]]
            yield ids[block.local[at]], block.data[at]


# Columns


def statistics(rows: CSR) -> ColumnStatistics:
    return ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)


class MaxAbs:
    """The scaling that makes every column's largest magnitude 1."""

    def __init__(self, rows: CSR) -> None:
        self._scaling = Scaling.fit(MAX_ABS_SCALING, statistics(rows), rows.n_rows)

    def scale(self, rows: CSR) -> Float32Array:
        return self._scaling.apply(rows.indices, rows.data)


# Training


def run(dataset: str, n_workers: int, **options: object) -> TrainResult:
    """A training run by the public way."""
    return cirrus_fast.LogisticRegression(
        dataset=dataset, n_workers=n_workers, progress=False, epsilon=0, **options
    ).run()


def passes(
    dataset: str, n_workers: int, *, seed: int, minibatch_size: int = 1
) -> tuple[list[float], TrainResult]:
    """Seconds of passes over rows held in memory, the third to the fifth of a run: during the first
    they are still being decoded, and in the second one thread may wait for another that was late
    with it. And the result of a run of one pass."""
    options = {"eval_interval": 1.0, "minibatch_size": minibatch_size, "seed": seed}
    ends = [record.seconds for record in run(dataset, n_workers, epochs=5, **options).history]
    seconds = np.diff(ends)[1:].tolist()
    return seconds, run(dataset, n_workers, epochs=1, **options)


class Entries:
    """Made ready to learn from, where they are."""

    def __init__(self, rows: CSR) -> None:
        self._rows = rows
        self._indices, self._data = np.empty_like(rows.indices), np.empty_like(rows.data)
        self._places = TrainingScale.of(
            statistics(rows), rows.n_rows, optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0
        ).places()

    def make_ready(self) -> None:
        self._indices[:], self._data[:] = self._rows.indices, self._rows.data
        self._places.put(self._indices, self._data)


class Trainer:
    """Rows in memory and a model to learn from them, without data set, workers and supervisor."""

    def __init__(self, rows: CSR, optimizer: str = "adagrad", *, minibatch_size: int = 1) -> None:
        scaling = Scaling.fit(STANDARD_SCALING, statistics(rows), rows.n_rows)
        self._rows = scaling.apply_rows(rows)
        self._divisor = np.ones(rows.n_features, np.float32)
        self._divisor[scaling.ids] = scaling.divisor
        entries_a_row = rows.nnz / rows.n_rows
        rate = {
            "adagrad": 0.6 / math.sqrt(entries_a_row),
            "ftrl": 0.15,
            "sgd": 0.7 / entries_a_row,
        }[optimizer]
        self.rate = rate
        self._optimizer = _kernels.Optimizer(optimizer, rate)
        self._state = np.empty((rows.n_features + 1) * self._optimizer.width, np.float32)
        self._model = _kernels.TrainModel(self._optimizer, self._state, None)
        self._order = np.arange(rows.n_rows, dtype=np.uint32)
        self._size = minibatch_size
        self._room = int(np.diff(rows.indptr).max()) * minibatch_size
        base = float((rows.labels > 0).mean())
        self.intercept = math.log(base / (1 - base))

    def one_pass(self, n_threads: int = 1) -> None:
        """From nothing, every row once."""
        self._optimizer.clear(self._state, self.intercept)
        if n_threads == 1:
            self._train(self._order)
            return
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(self._train, np.array_split(self._order, n_threads)))

    def _train(self, order: UInt32Array) -> None:
        rows = self._rows
        self._model.train(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            None,
            order,
            self._size,
            make_scratch(rows.n_features, self._room),
        )

    def logloss(self, test: CSR) -> float:
        weights = np.empty(self._rows.n_features, np.float32)
        intercept = self._optimizer.weights(self._state, None, 0.0, weights)
        return logloss(weights / self._divisor, intercept, test)


class GridTrainer:
    """Sixteen models on rows in memory, one pass side by side."""

    def __init__(self, rows: CSR, optimizer: str = "adagrad", *, minibatch_size: int = 1) -> None:
        alone = Trainer(rows, optimizer, minibatch_size=minibatch_size)
        self._rows, self._order, self._size = alone._rows, alone._order, minibatch_size
        self._n_ids = rows.n_features
        rate = alone.rate
        family = Family(optimizer, minibatch_size, True, 1.0, False)
        rates = [rate * 1.2 ** (i - 8) for i in range(LANES)]
        specs = [
            LaneSpec(i, one, 0.0, 0.0, (1.0, 1.0), alone.intercept, 1, 0.0, 1, None)
            for i, one in enumerate(rates)
        ]
        lanes = [Lane(spec, slot) for slot, spec in enumerate(specs)]
        self._group = Group(family, lanes, rows.n_features, None)
        self._batches, self._scratch = Batches(rows.n_features), Scratch()

    def one_pass(self) -> None:
        """From where it stands, every row once."""
        batches = self._batches if self._size > 1 else None
        step = max(1, 16_384 // self._size) * self._size
        for first in range(0, len(self._order), step):
            order = self._order[first : first + step]
            if batches is not None:
                batches.localize(self._rows, order, self._size)
            self._group.train(self._rows, order, batches, self._scratch, first, 1.0)


def logloss(weights: Float32Array, intercept: float, test: CSR) -> float:
    return evaluate(data.margins(test, weights, intercept), test).logloss


def text_to_model(path: Path, n_workers: int) -> TrainResult:
    """A text file to a model in memory, one pass."""
    width = data.train_rows().n_features
    return run(str(path), n_workers, model_size=width, epochs=1, eval_interval=1.0)


def losses_over_time(
    dataset: str, test_dataset: str, n_workers: int, *, seed: int
) -> list[tuple[float, float]]:
    """The public way: (seconds from the first step, test loss) at each evaluation, which are
    counted; as if rows had been decoded before: the first two passes (see passes) are counted as
    long as the later ones are, by their median."""
    n_rows = Dataset(dataset).n_rows
    history = run(
        dataset,
        n_workers,
        test_dataset=test_dataset,
        optimizer="ftrl",
        learning_rate=0.12,
        l1=2.7 / n_rows,
        epochs=8,
        eval_interval=0.5,
        seed=seed,
    ).history
    rows = np.array([record.rows for record in history])
    seconds = np.array([record.seconds for record in history])
    ends = np.searchsorted(rows, n_rows * np.arange(2, 9))
    second_ends = ends[0]
    a_row = float(np.median(np.diff(seconds[ends]) / np.diff(rows[ends])))
    decoded = np.minimum(rows, rows[second_ends]) * a_row
    decoded += np.maximum(0.0, seconds - seconds[second_ends])
    losses = [math.inf if r.test_loss is None else r.test_loss for r in history]
    return list(zip(decoded.tolist(), losses, strict=True))


def decoded_bytes(dataset: Dataset) -> int:
    """What training holds of the rows."""
    return sum(map(minibatches_module.decoded_bytes, dataset.blocks))


class Gradient:
    """The gradient of one localised mini-batch."""

    def __init__(self, rows: CSR, size: int = 200) -> None:
        part = data.first(rows, size)
        table = np.empty(rows.n_features, np.uint32)
        local, distinct = np.empty_like(part.indices), np.empty(part.nnz + 1, np.uint32)
        n = _kernels.localize(part.indices, table, local, distinct)
        draw = np.random.default_rng(2)
        self.w = draw.normal(0, 0.1, n).astype(np.float32)
        self.rows = CSR(part.labels, part.indptr, local, part.data, n)
        self.intercept = 0.1
        self.gradient = np.empty(n, np.float32)

    def compute(self):
        rows = self.rows
        _kernels.logistic_gradient(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            None,
            self.w,
            self.intercept,
            self.gradient,
        )
        return self.gradient


# Scoring


def score(rows: CSR, weights, intercept: float):
    return data.margins(rows, weights, intercept)


def evaluate(margins, rows: CSR) -> Evaluation:
    return Evaluation.of(margins, rows.labels)
