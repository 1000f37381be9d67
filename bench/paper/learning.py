"""How the loss falls with the rows seen: the same mathematics whatever moves the numbers.

`replayed` is a server of models whose workers have so many mini-batches under way: each gradient is
of the weights as they were that many steps before it is applied, by the kernels that the store's
module applies it with. Test rows are measured as the model goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cirrus_fast import Dataset, _kernels
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.bsp import make_scratch

Point = tuple[float, float]  # (rows, or seconds; loss)
_RATE = 0.6  # over the root of a row's entries: what training takes by itself
# The best of those tried for a low loss in few passes: docs/benchmarks.md.
FTRL = {"rate": 0.12, "l1_rows": 2.4}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in memory as training has them, and test rows for its weights."""

    train: CSR
    test: CSR
    n_ids: int
    intercept: float
    penalties: np.ndarray | None

    @classmethod
    def of(cls, train: str, test: str) -> Rows:
        dataset = Dataset(train)
        l1 = FTRL["l1_rows"] / dataset.n_rows
        scale = TrainingScale.of(
            dataset.columns, dataset.n_rows, optimizer="ftrl", l1=l1, l2=0, mean_weight=1
        )
        share = dataset.manifest.n_positive / dataset.n_rows
        return cls(
            _placed(dataset, scale),
            _placed(Dataset(test), scale),
            len(scale.ids),
            float(np.log(share / (1 - share))),
            scale.penalties,
        )


def _placed(dataset: Dataset, scale: TrainingScale) -> CSR:
    """Ids as places and values divided; what the training rows do not have is left out."""
    parts = list(iterate(dataset, range(len(dataset.blocks))))
    indices = np.concatenate([part.indices for part in parts])
    known = indices < len(scale.place)
    place = np.full(len(indices), 0xFFFFFFFF, np.uint32)
    place[known] = scale.place[indices[known]]
    known = place < len(scale.ids)
    data = np.concatenate([part.data for part in parts])
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    row = np.repeat(np.arange(len(lengths)), lengths)
    indptr = np.zeros(len(lengths) + 1, np.int64)
    indptr[1:] = np.cumsum(np.bincount(row[known], minlength=len(lengths)))
    labels = dataset.manifest.label_map.positives(np.concatenate([p.labels for p in parts]))
    places = place[known]
    return CSR(labels, indptr, places, data[known] / scale.divisor[places], len(scale.ids))


def replayed(
    rows: Rows, kind: str, size: int, under_way: int, *, epochs: float, looks: int
) -> list[Point]:
    """(rows seen, test log-loss), with so many mini-batches of `size` under way.

    kind : of optimizer; looks : how often in an epoch test rows are measured
    """
    train = rows.train
    entries = train.nnz / train.n_rows
    rate = FTRL["rate"] if kind == "ftrl" else _RATE / float(np.sqrt(entries))
    penalties = rows.penalties if kind == "ftrl" else None
    optimizer = _kernels.Optimizer(kind, rate)
    state = np.empty((rows.n_ids + 1) * optimizer.width, np.float32)
    optimizer.clear(state, rows.intercept)
    model = _kernels.TrainModel(optimizer, state, penalties)
    room = int(np.diff(train.indptr).max()) * size
    scratch = make_scratch(rows.n_ids, room)
    parts = train.labels, train.indptr, train.indices, train.data, None
    weights = np.empty(rows.n_ids, np.float32)
    margins = np.empty(rows.test.n_rows, np.float32)
    waiting: deque[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = deque()
    found, seen = [], 0
    every = train.n_rows / looks
    for order in _mini_batches(train.n_rows, size, epochs):
        n, intercept, _, _ = model.gradient(*parts, order, scratch, rows_seen=float(seen))
        waiting.append(
            (
                np.asarray(scratch.distinct)[:n].copy(),
                np.asarray(scratch.gradient)[:n].copy(),
                np.asarray(scratch.touches)[:n].copy(),
                intercept,
            )
        )
        if len(waiting) <= under_way:
            continue
        ids, gradient, touches, of_intercept = waiting.popleft()
        model.apply(ids, gradient, touches, of_intercept, scratch, rows_seen=float(seen))
        seen += size
        if seen // every > (seen - size) // every:
            bias = optimizer.weights(state, penalties, float(seen), weights)
            test = rows.test
            _kernels.logistic_margins(test.indptr, test.indices, test.data, weights, bias, margins)
            loss, total, _ = _kernels.logistic_loss(margins, test.labels, None)
            found.append((float(seen), loss / total))
    return found


def _mini_batches(n_rows: int, size: int, epochs: float) -> Iterator[np.ndarray]:
    draw, left = np.random.default_rng(1), int(n_rows * epochs)
    while left > 0:
        order = draw.permutation(n_rows).astype(np.uint32)[:left]
        for first in range(0, len(order) - size + 1, size):
            yield order[first : first + size]
        left -= len(order)


def reached(points: list[Point], target: float) -> float | None:
    """Where the loss is first at most that, in a straight line between points."""
    if points and points[0][1] <= target:
        return points[0][0]
    for (before, above), (after, below) in pairwise(points):
        if below <= target:
            return before + (after - before) * (above - target) / (above - below)
    return None


class Curves:
    """Losses by rows seen, for any number of rows under way: of the next larger one replayed."""

    def __init__(self, curves: dict[int, list[Point]]) -> None:
        self._curves = curves
        self.known = sorted(curves)

    def rows_to(self, target: float, rows_under_way: float) -> float | None:
        points = self.curve(rows_under_way)
        return None if points is None else reached(points, target)

    def curve(self, rows_under_way: float) -> list[Point] | None:
        """None: more are under way than was looked at."""
        place = bisect_left(self.known, rows_under_way)
        return self._curves[self.known[place]] if place < len(self.known) else None
