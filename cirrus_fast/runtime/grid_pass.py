"""Many models trained in one pass over the data: read once, decoded once, learnt from by all.

Rows come as they come to a run of one worker (runtime/minibatches.py), in the same order and cut in
the same places, so each model is the one that its own run would have made. Threads take groups of
models in turn; which thread takes which changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np

from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.parallel import ordered_map
from cirrus_fast.data.traffic import Reads
from cirrus_fast.data.training_scale import NOWHERE, TrainingScale
from cirrus_fast.runtime.divergence import blame, blame_test
from cirrus_fast.runtime.grid_groups import Batches, Family, Group, Lane, LaneSpec, Scratch, repack
from cirrus_fast.runtime.grid_state import GroupState, LeftPass, PassTimes
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import MiniBatches
from cirrus_fast.runtime.worker import CHUNK_ROWS

if TYPE_CHECKING:
    from cirrus_fast.data.text_dataset import TextDataset
    from cirrus_fast.runtime.params.lanes import LaneStore

# Chunks that are renumbered at once: some tens of thousands of rows, so that threads seldom wait
# for each other and the rows stay near.
_CHUNKS = 4
# Rows learnt from before it is looked whether the pass shall end.
_LONGEST = 200_000


@dataclass(frozen=True, slots=True)
class Rung:
    """Where a search by halving lets models go: after so many rows it keeps so many of them."""

    rows: int
    keep: int


@dataclass(frozen=True, slots=True)
class PassSpec:
    """What all models of a pass have in common.

    Attributes
    ----------
    model_bytes : of one model in a run of its own, which decides how rows are grouped there
    eval_rows : rows between evaluations
    seconds : until the pass ends whatever has been reached, or None; and what for
    keep : of how many models, the best, the weights are kept
    store : servers that have the models, or None
    """

    worker_size: int
    model_bytes: int
    seed: int
    rows_per_epoch: int
    eval_rows: int
    n_threads: int
    seconds: float | None
    keep: int
    rungs: tuple[Rung, ...] = ()
    store: LaneStore | None = None
    seconds_for: str = "timeout"


@dataclass(slots=True)
class PassRows:
    """What a pass learns from and is measured on.

    penalties : by whether the optimiser is ftrl, pairs for l1 = 1 and l2 = 1, where there are any
    test : rows with the training scale's places and labels 1 and 0
    """

    dataset: Dataset | TextDataset
    holdout: HoldOut
    scale: TrainingScale
    penalties: dict[bool, Float32Array | None]
    test: CSR | None


class GridPass:
    """One pass. `run` returns when every model has ended."""

    def __init__(
        self,
        spec: PassSpec,
        families: list[tuple[Family, list[LaneSpec]]],
        rows: PassRows,
        *,
        tell: Callable[[GridPass], object] = lambda _: None,
        stopping: Callable[[], str | None] = lambda: None,
        deadline: float = math.inf,
        left: LeftPass | None = None,
    ) -> None:
        """families : of each group its family and up to LANES lanes
        tell : called after every evaluation
        stopping : why the pass shall end soon, if it shall
        deadline : by the monotonic clock, when the pass is left for another to go on with
        left : where it was left before
        """
        self._begun = self._started = time.perf_counter()
        self._deadline, self.handed_over = deadline, False
        self.spec = spec
        self.times = PassTimes()
        self._rows = rows
        self._tell, self._stop_asked = tell, stopping
        self._stopping: str | None = None
        self._pool: ThreadPoolExecutor
        n_ids = len(rows.scale.ids)
        self._families: dict[Family, list[Group]] = {}
        self.lanes: list[Lane] = []
        self._all_groups: list[Group] = []

        def make(one: GroupState) -> Group:
            penalties = rows.penalties.get(one.family.optimizer == "ftrl")
            made = Group(one.family, one.lanes, n_ids, penalties, spec.store, one.fill)
            made.updates = one.updates
            return made

        begun = left.groups if left else [_beginning(*one) for one in families]
        # Their memory comes from the system, which clears it first.
        for group in ordered_map(make, begun, spec.n_threads):
            self._families.setdefault(group.family, []).append(group)
            self._all_groups.append(group)
            self.lanes += group.lanes
        self.lanes += left.ended if left else []
        self._epochs = max(lane.epochs for _, lanes in families for lane in lanes)
        self._batches: dict[tuple[int, int], Batches] = {}
        self._n_ids = n_ids
        self._scratch: dict[int, Scratch] = {}
        self.rows = 0  # each running model has learnt from
        self._rungs = list(spec.rungs)
        self._first_step: float | None = None
        self.model_rows = 0  # learnt from, by all models together
        if left:
            self._go_on(left)

    def _go_on(self, left: LeftPass) -> None:
        self.rows, self.model_rows, self.times = left.rows, left.model_rows, left.times
        self._rungs = [rung for rung in self._rungs if rung.rows > left.rows]
        self._started -= left.elapsed
        if left.learning is not None:
            self._first_step = time.perf_counter() - left.learning

    def leave(self) -> LeftPass:
        """What another needs to go on, once it was handed over."""
        now = time.perf_counter()
        return LeftPass(
            rows=self.rows,
            model_rows=self.model_rows,
            elapsed=now - self._started,
            learning=None if self._first_step is None else now - self._first_step,
            times=self.times,
            ended=[lane for lane in self.lanes if lane.reason],
            groups=[
                GroupState(group.family, group.updates, group.running, group.state)
                for group in self._groups
            ],
        )

    @property
    def total_rows(self) -> int:
        """That the longest-running model may learn from."""
        return self._epochs * self.spec.rows_per_epoch

    @property
    def _groups(self) -> list[Group]:
        """That have a running lane; the costly ones first, so that threads end together."""
        running = [g for groups in self._families.values() for g in groups if g.running]
        return sorted(running, key=lambda g: -g.family.minibatch_size)

    @property
    def running(self) -> list[Lane]:
        return [lane for group in self._groups for lane in group.running]

    def run(self) -> list[Lane]:
        spec, rows = self.spec, self._rows
        blocks = range(len(rows.dataset.blocks))
        stream = MiniBatches(
            rows.dataset,
            blocks,
            rows.holdout,
            rows.scale,
            epochs=self._epochs,
            memory=Memory.of(spec.worker_size, spec.model_bytes),
            seed=spec.seed,
            worker=0,
            stopping=lambda: self._stopping is not None or self.handed_over,
        )
        self.times.start_up += time.perf_counter() - self._begun
        first, skip = divmod(self.rows, spec.rows_per_epoch)
        try:
            with ThreadPoolExecutor(spec.n_threads, thread_name_prefix="cirrus-grid") as pool:
                self._pool = pool
                for epoch in range(first, self._epochs):
                    before = self._reads
                    try:
                        for window in stream.epoch(epoch, skip):
                            self._window(window.rows, window.order)
                            if not self.running or self._look():
                                break
                    except KeyboardInterrupt:  # while it waited for rows
                        self._stopping = "interrupted"
                    skip = 0
                    self._count_reads(epoch, self._reads - before)
                    if self.handed_over and self.rows < (epoch + 1) * spec.rows_per_epoch:
                        break
                    self._end_epoch(epoch)
                    if self.handed_over or not self.running:
                        break
                self.handed_over = self.handed_over and bool(self.running)
                if not self.handed_over:
                    self._report()
        finally:
            stream.close()
            for group in self._all_groups:
                group.close()
        self.times.storage_read += stream.times.storage_read
        self.times.decode += stream.times.decode
        return self.lanes

    def _count_reads(self, epoch: int, reads: Reads) -> None:
        """An epoch may have been begun by another."""
        by_epoch = self.times.reads_by_epoch
        by_epoch += [Reads()] * (epoch + 1 - len(by_epoch))
        by_epoch[epoch] += reads

    @property
    def _reads(self) -> Reads:
        dataset = self._rows.dataset
        return dataset.reads if isinstance(dataset, Dataset) else Reads()

    def _look(self) -> bool:
        """Whether the pass shall end now, or another go on with it."""
        self.handed_over = self.handed_over or time.monotonic() >= self._deadline
        if self._stopping is None:
            seconds = self.spec.seconds
            if seconds is not None and time.perf_counter() - self._started >= seconds:
                self._stopping = self.spec.seconds_for
            else:
                self._stopping = self._stop_asked()
        return self._stopping is not None or self.handed_over

    def _each(self, work: Iterable[Callable[[], object]]) -> None:
        """Does all of it on the threads."""
        started = time.perf_counter()
        given = [self._pool.submit(one) for one in work]
        try:
            wait(given)
        except KeyboardInterrupt:  # all models come to the same row, so that the pass can end there
            self._stopping = "interrupted"
            wait(given)
        self.times.compute += time.perf_counter() - started
        for one in given:
            one.result()

    def _due(self) -> int:
        """Rows at which the next evaluation is."""
        every = self.spec.eval_rows
        due = (self.rows // every + 1) * every
        return min([due, *(rung.rows for rung in self._rungs if rung.rows > self.rows)])

    def _window(self, rows: CSR, order: UInt32Array) -> None:
        done = 0
        while done < len(order) and self.running and not self._look():
            due = self._due()
            n = min(len(order) - done, due - self.rows, self._most())
            self._learn(rows, order[done : done + n])
            done += n
            if self.rows >= due:
                self._evaluate()

    def _most(self) -> int:
        """Rows after which it is looked whether the pass shall end: where mini-batches end in all
        groups, and with sgd, whose rate depends on where rows are cut, what is cut."""
        families = {group.family for group in self._groups}
        together = math.lcm(
            *(
                _chunk(family.minibatch_size)
                if family.optimizer == "sgd"
                else family.minibatch_size
                for family in families
            )
        )
        if together > _LONGEST:
            return self.spec.eval_rows
        return _LONGEST // together * together

    def _learn(self, rows: CSR, order: UInt32Array) -> None:
        """From the rows in order, all groups, cut as each one's own run would cut them."""
        if self._first_step is None:
            self._first_step = time.perf_counter()
        groups = self._groups
        sizes = {group.family.minibatch_size for group in groups}
        chunks = {size: _chunks(len(order), size) for size in sizes}
        for first in range(0, max(map(len, chunks.values())), _CHUNKS):
            part = {size: cuts[first : first + _CHUNKS] for size, cuts in chunks.items()}
            self._localize(rows, order, part)
            self._each(partial(self._train, group, rows, order, part) for group in groups)
        self.rows += len(order)
        self.model_rows += len(order) * sum(len(group.running) for group in groups)
        for group in groups:
            for lane in group.diverged:
                why = blame(rows, self._rows.scale, self.rows, lane.spec.learning_rate)
                self._fail(lane, why)
            group.activate()

    def _shares_numbers(self, size: int) -> bool:
        """Whether groups take mini-batches of this size from what is renumbered for them all."""
        return size > 1 and self.spec.store is None

    def _localize(self, rows: CSR, order: UInt32Array, part: dict[int, list[slice]]) -> None:
        """Renumbers the mini-batches of some chunks, once for all groups."""
        work = []
        for size, cuts in part.items():
            for i, cut in enumerate(cuts if self._shares_numbers(size) else ()):
                batches = self._batches.setdefault((size, i), Batches(self._n_ids))
                work.append(partial(batches.localize, rows, order[cut], size))
        self._each(work)

    def _train(
        self, group: Group, rows: CSR, order: UInt32Array, part: dict[int, list[slice]]
    ) -> None:
        """One group on some chunks."""
        scratch = self._scratch.setdefault(get_ident(), Scratch())
        size = group.family.minibatch_size
        for i, cut in enumerate(part[size]):
            seen = self.rows + cut.start
            rate = 1.0
            if group.family.optimizer == "sgd":  # as runtime/worker.py has it
                rate = 1 / math.sqrt(1 + seen / self.spec.rows_per_epoch)
            batches = self._batches[size, i] if self._shares_numbers(size) else None
            group.train(rows, order[cut], batches, scratch, seen, rate)

    @staticmethod
    def _fail(lane: Lane, why: str) -> None:
        lane.reason, lane.error = "failed", why

    def _evaluate(self, ending: set[int] | None = None) -> None:
        """Measures all that run, keeps the best, lets go those that have a reason to end.

        ending : numbers of those that end here in any case, which alone are measured
        """
        seconds = time.perf_counter() - self._first_step if self._first_step else 0.0
        groups, test = self._groups, self._rows.test
        self._each(partial(group.measure, test, self.rows, seconds, ending) for group in groups)
        seen_all = self.rows >= self.spec.rows_per_epoch
        for group in groups:
            for lane in group.running:
                loss = lane.history[-1].test_loss if lane.history else None
                if loss is None:
                    continue
                if test is not None and not math.isfinite(loss):
                    self._fail(lane, blame_test(test, self._rows.scale))
        self._keep_best()
        if ending is not None:
            return
        for group in groups:
            for lane in group.running:
                loss = lane.history[-1].test_loss
                if loss is not None:
                    lane.reason = lane.reason_to_stop(loss, seen_all)
        self._climb()
        self._repack()
        self._report()

    def _report(self) -> None:
        test = self._rows.test
        ended = [lane for lane in self.lanes if lane.reason and lane.margins is not None]
        self._each(partial(lane.rank, test) for lane in ended)
        self._tell(self)

    def _keep_best(self) -> None:
        """Copies the weights of those that have just become one of the best. Who is not one now
        cannot become one later by the loss it has now, since the others' only get better."""
        measured = [lane for lane in self.lanes if lane.best_loss is not None and not lane.error]
        ranked = sorted(measured, key=lambda lane: lane.loss)
        best = {id(lane) for lane in ranked[: self.spec.keep]}
        for lane in measured:
            if id(lane) not in best:
                lane.weights = lane.spare = None
        self._each(
            partial(group.keep, kept, self.rows)
            for group in self._groups
            if (kept := [one for one in group.running if one.improved and id(one) in best])
        )

    def _climb(self) -> None:
        """Lets go all but the best where a rung is reached."""
        while self._rungs and self.rows >= self._rungs[0].rows:
            keep = self._rungs.pop(0).keep
            running = sorted(self.running, key=lambda lane: lane.latest)
            for lane in running[keep:]:
                lane.reason = "halved"

    def _repack(self) -> None:
        for family, groups in self._families.items():
            self._families[family] = repack(groups)

    def _end_epoch(self, epoch: int) -> None:
        """Ends those whose epochs are done, and all if the pass shall end."""
        reason = self._stopping
        ending = [lane for lane in self.running if reason or lane.spec.epochs <= epoch + 1]
        if not ending:
            return
        if any(lane.rows < self.rows for lane in ending):
            self._evaluate({lane.spec.number for lane in ending})
        without_test = [lane for lane in ending if lane.best_loss is None and not lane.error]
        best = sorted(without_test, key=lambda lane: lane.loss)[: self.spec.keep]
        for group in self._groups:
            kept = [lane for lane in group.running if lane in best]
            if kept:
                group.keep(kept, self.rows)
        for lane in ending:
            lane.reason = lane.reason or reason or "epochs"
        self._repack()
        self._report()


def _beginning(family: Family, specs: list[LaneSpec]) -> GroupState:
    """Lanes that have learnt from no row."""
    return GroupState(family, 0, [Lane(spec, slot) for slot, spec in enumerate(specs)])


def _chunk(size: int) -> int:
    """Rows that are given to the kernel at once, as runtime/worker.py does it."""
    return max(1, CHUNK_ROWS // size) * size


def _chunks(n: int, size: int) -> list[slice]:
    chunk = _chunk(size)
    return [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]


def made_ready(parts: list[CSR], positives: Float32Array, scale: TrainingScale) -> CSR:
    """Rows to measure on, ids replaced by the scale's places and values divided; entries that no
    training row has are left out, since their weight is 0."""
    indptr, indices, data, weights = [np.zeros(1, np.int64)], [], [], []
    at = 0
    places = np.append(scale.place, NOWHERE)  # where all ids beyond those of training rows are
    for part in parts:
        place = places.take(part.indices, mode="clip")
        known = place < len(scale.ids)
        kept = np.concatenate([[0], np.cumsum(known)])
        indptr.append(kept[part.indptr[1:]] + at)
        at = int(indptr[-1][-1]) if part.n_rows else at
        place = place[known]
        indices.append(place)
        data.append(part.data[known] / scale.divisor[place])
        if part.weights is not None:
            weights.append(part.weights)
    return CSR(
        np.ascontiguousarray(positives, np.float32),
        np.concatenate(indptr),
        np.concatenate(indices),
        np.concatenate(data).astype(np.float32),
        len(scale.ids),
        np.concatenate(weights) if weights else None,
    )
