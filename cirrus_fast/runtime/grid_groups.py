"""Up to sixteen models of a search trained side by side: what each is, and how it goes.

A group is one state in memory and one call of a kernel for all of its models (csrc/cf_grid.h). Each
model, a lane, has its own constants, its own curve, and its own end; it learns what it would learn
alone, whoever is beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.data.evaluation import exact_auc
from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.result import Record

if TYPE_CHECKING:
    from cirrus_fast.runtime.params.lanes import LaneStore, ServedLanes

LANES = _kernels.GRID_LANES


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What one model has for itself.

    Attributes
    ----------
    number : of the model in the search
    l1, l2 : times the mean weight of a row
    intercept : to start from
    """

    number: int
    learning_rate: float
    l1: float
    l2: float
    class_weight: tuple[float, float]
    intercept: float
    epochs: int
    epsilon: float
    patience: int
    threshold_loss: float | None


@dataclass(frozen=True, slots=True)
class Family:
    """What models that may be in one group have in common."""

    optimizer: str
    minibatch_size: int
    fit_intercept: bool
    intercept_rate: float
    charged: bool  # whether any penalty is


@dataclass(slots=True)
class Lane:
    """One model as it goes.

    Attributes
    ----------
    reference, stale : the loss to beat by `epsilon`, and for how many evaluations it was not
    margins : of the test rows, by the best model seen, until its `auc` is known
    weights, intercept : of the best model seen, where it was kept
    reason : why it ended, or None; "failed" with an `error`
    """

    spec: LaneSpec
    slot: int
    history: list[Record] = field(default_factory=list)
    best_loss: float | None = None
    margins: Float32Array | None = None
    auc: float | None = None
    weights: Float32Array | None = None
    spare: Float32Array | None = None  # to keep others in
    intercept: float = 0.0
    reference: float = math.inf
    stale: int = 0
    loss_sum: float = 0.0  # since the last record, as is the next
    weight_sum: float = 0.0
    reason: str | None = None
    error: str | None = None
    improved: bool = False  # at the last evaluation

    def rank(self, test: CSR | None) -> None:
        """Finds the AUC of the best model seen, once the lane has ended."""
        if test is not None and self.margins is not None:
            margins, self.margins = np.ascontiguousarray(self.margins), None
            self.auc = exact_auc(margins, test.labels, test.weights)

    @property
    def loss(self) -> float:
        """What models are compared by."""
        if self.reason == "failed":
            return math.inf
        if self.best_loss is not None:
            return self.best_loss
        return self.history[-1].train_loss if self.history else math.inf

    @property
    def rows(self) -> int:
        """At the last evaluation; below 0 before the first."""
        return self.history[-1].rows if self.history else -1

    @property
    def latest(self) -> float:
        """The loss at the last evaluation."""
        loss = self.history[-1].test_loss
        return self.history[-1].train_loss if loss is None else loss

    def reason_to_stop(self, loss: float, seen_all: bool) -> str | None:
        """As backend/learning_curve.py has it for a run of one model."""
        spec = self.spec
        if spec.threshold_loss is not None and loss <= spec.threshold_loss:
            return "threshold_loss"
        if loss < self.reference - spec.epsilon:
            self.reference, self.stale = loss, 0
        else:
            self.stale += 1
        if spec.epsilon > 0 and self.stale >= spec.patience and seen_all:
            return "converged"
        return None


class Scratch:
    """What one thread needs beside a group's state, grown as mini-batches ask for it."""

    def __init__(self) -> None:
        self._made: _kernels.GridScratch | None = None

    def of(self, room: int) -> _kernels.GridScratch:
        if self._made is None or self._made.room < room:
            room += room // 4
            # From the system: what begins at a page has each id's lanes in one line of a cache.
            weights, gradient = (
                np.frombuffer(fresh_memory(4 * LANES * room), np.float32) for _ in range(2)
            )
            self._made = _kernels.GridScratch(weights, gradient, np.empty(room, np.float32))
        return self._made


class Batches:
    """Mini-batches of some rows in order, renumbered once for all groups that take them."""

    def __init__(self, n_ids: int) -> None:
        self._table = np.zeros(n_ids, np.uint32)
        self._made: _kernels.GridBatches | None = None
        self._room = self._most = 0
        self.distinct = 0

    def localize(self, rows: CSR, order: UInt32Array, size: int) -> None:
        entries = int((rows.indptr[1:][order] - rows.indptr[:-1][order]).sum())
        n = -(-len(order) // size)
        if self._made is None or self._room < entries or self._most < n:
            self._room, self._most = entries + entries // 8, n
            local, distinct = (np.empty(self._room + i, np.uint32) for i in range(2))
            counts = np.empty(self._most, np.uint32)
            self._made = _kernels.GridBatches(self._table, local, distinct, counts)
        self.distinct = self._made.localize(rows.indptr, rows.indices, rows.data, order, size)

    @property
    def kernel(self) -> _kernels.GridBatches:
        assert self._made is not None
        return self._made


def state_bytes(family: Family, n_ids: int) -> int:
    """Of one group."""
    return (1 if family.optimizer == "sgd" else 2) * LANES * 4 * (n_ids + 1)


class Group:
    """Lanes of one family.

    Attributes
    ----------
    in_memory : here; else servers have them
    """

    def __init__(
        self,
        family: Family,
        lanes: list[Lane],
        n_ids: int,
        penalties: Float32Array | None,
        store: LaneStore | None = None,
        fill: Callable[[memoryview], None] | None = None,
    ) -> None:
        """lanes : each in a slot of its own
        penalties : pairs for l1 = 1 and l2 = 1
        store : that has them, or None
        fill : puts what they had learnt into their state; in memory only
        """
        assert 0 < len(lanes) <= LANES
        self.family = family
        self.lanes = lanes
        self._n_ids = n_ids
        by_slot = {lane.slot: lane.spec for lane in lanes}
        given = [by_slot.get(slot, lanes[0].spec) for slot in range(LANES)]

        def of(name: str) -> Float32Array:
            return np.array([getattr(spec, name) for spec in given], np.float32)

        self.in_memory = store is None
        self._model: _kernels.GridModel | ServedLanes
        class_weight = np.ascontiguousarray(of("class_weight").T)
        constants = of("learning_rate"), of("l1"), of("l2"), class_weight
        charges = penalties if family.charged else None
        if store is None:
            self._model = _kernels.GridModel(
                family.optimizer,
                np.frombuffer(fresh_memory(state_bytes(family, n_ids)), np.float32),
                charges,
                *constants,
                fit_intercept=family.fit_intercept,
                intercept_rate=family.intercept_rate,
            )
        else:
            from cirrus_fast.runtime.params.lanes import ServedLanes

            self._model = ServedLanes(
                store,
                lanes[0].spec.number,
                family.optimizer,
                n_ids,
                charges,
                *constants,
                n_lanes=len(lanes),
                minibatch_size=family.minibatch_size,
                fit_intercept=family.fit_intercept,
                intercept_rate=family.intercept_rate,
            )
        if fill is None:
            self._model.clear(of("intercept"))
        else:
            fill(self.state)
        self._losses = np.zeros(LANES)
        self.updates = 0
        self.activate()

    @property
    def running(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.reason is None]

    @property
    def state(self) -> memoryview:
        """All that its lanes have learnt, as bytes; in memory only."""
        assert isinstance(self._model, _kernels.GridModel)
        return np.asarray(self._model.state).view(np.uint8).data

    def close(self) -> None:
        """It learns no more."""
        if not isinstance(self._model, _kernels.GridModel):
            self._model.close()

    def activate(self) -> None:
        """Those that have not ended learn on."""
        self._model.active = sum(1 << lane.slot for lane in self.running)

    def train(
        self,
        rows: CSR,
        order: UInt32Array,
        batches: Batches | None,
        scratch: Scratch,
        rows_seen: int,
        rate: float,
    ) -> None:
        _, updates, weight = self._model.train(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            order,
            None if batches is None else batches.kernel,
            None if batches is None else scratch.of(batches.distinct),
            self._losses,
            rows_seen=float(rows_seen),
            rate=rate,
        )
        self.updates += updates
        for lane in self.running:
            lane.weight_sum += weight
            lane.loss_sum += float(self._losses[lane.slot])

    @property
    def diverged(self) -> list[Lane]:
        return [lane for lane in self.running if not math.isfinite(lane.loss_sum)]

    def measure(
        self, test: CSR | None, rows_seen: int, seconds: float, ending: set[int] | None
    ) -> None:
        """A record for each running lane, or for those of these numbers alone."""
        losses, total = np.zeros(LANES), 0.0
        margins = None
        if test is not None:
            margins = np.empty((test.n_rows, LANES), np.float32)
            total = self._model.measure(
                test.labels,
                test.indptr,
                test.indices,
                test.data,
                test.weights,
                margins,
                losses,
                rows_seen=float(rows_seen),
            )
        for lane in self.running:
            lane.improved = False
            if ending is not None and lane.spec.number not in ending:
                continue
            loss = None if margins is None else float(losses[lane.slot]) / total
            best = math.inf if lane.best_loss is None else lane.best_loss
            lane.improved = loss is not None and loss < best  # which NaN is not
            if lane.improved and margins is not None:
                lane.best_loss = loss
                if lane.weights is not None:
                    lane.spare, lane.weights = lane.weights, None
                lane.margins = margins[:, lane.slot]
            elif lane.margins is not None:  # of its own, so that the others' can go
                lane.margins = np.ascontiguousarray(lane.margins)
            lane.history.append(
                Record(
                    seconds=seconds,
                    rows=rows_seen,
                    updates=self.updates,
                    train_loss=lane.loss_sum / lane.weight_sum if lane.weight_sum else math.nan,
                    test_loss=loss,
                    auc=None,
                    cost=0.0,
                )
            )
            lane.loss_sum = lane.weight_sum = 0.0

    def keep(self, lanes: Sequence[Lane], rows_seen: int) -> None:
        """Takes copies of lanes' weights, as the training scale has them, in the place of those
        that were taken before."""
        for lane in lanes:
            if lane.weights is None:
                spare, lane.spare = lane.spare, None
                lane.weights = np.empty(self._n_ids, np.float32) if spare is None else spare
        into = {lane.slot: lane.weights for lane in lanes if lane.weights is not None}
        intercepts = self._model.weights(into, rows_seen=float(rows_seen))
        for lane in lanes:
            lane.intercept = intercepts[lane.slot]

    def take(self, lane: Lane, other: Group) -> None:
        """Moves a running lane of another group here, in the place of one that has ended."""
        used = {one.slot for one in self.running}
        slot = next(slot for slot in range(LANES) if slot not in used)
        mine, its = self._model, other._model
        assert isinstance(mine, _kernels.GridModel)
        assert isinstance(its, _kernels.GridModel)
        its.move(lane.slot, mine, slot)
        if other is not self:
            other.lanes.remove(lane)
            self.lanes.append(lane)
        lane.slot = slot


def repack(groups: list[Group]) -> list[Group]:
    """The running lanes of groups of one family in as few groups as hold them, and in the first
    half of one where that is enough; groups without any are left out. What has ended stays listed
    where it was. Servers keep lanes where they are: of those that have ended nothing is sent."""
    if not all(group.in_memory for group in groups):
        left = [group for group in groups if group.running]
        for group in left:
            group.activate()
        return left
    left = sorted((g for g in groups if g.running), key=lambda g: -len(g.running))
    needed = -(-sum(len(g.running) for g in left) // LANES)
    while len(left) > needed:
        source = left.pop()
        for lane in source.running:
            next(g for g in left if len(g.running) < LANES).take(lane, source)
    for group in left:
        if len(group.running) <= LANES // 2:
            for lane in [lane for lane in group.running if lane.slot >= LANES // 2]:
                group.take(lane, group)
        group.activate()
    return left
