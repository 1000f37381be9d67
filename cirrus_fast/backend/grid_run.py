"""A search's models, grouped by what they can share, and trained.

What differs in learning_rate, l1, l2, class_weight and when to stop shares one state in memory;
what differs in optimizer, minibatch_size and fit_intercept still shares the reading and decoding of
its rows. Whatever else differs is another pass, and what cannot be in a pass is a run of its own.
"""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.cost import Cost, Meter
from cirrus_fast.backend.function_memory import room_for_models
from cirrus_fast.backend.grid_executors import opened, run_passes
from cirrus_fast.backend.plan import DEFAULT_FUNCTIONS, Plan, on_lambda
from cirrus_fast.backend.store_choice import choose_store, named
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.result import PHASES, TrainResult
from cirrus_fast.data.storage import Storage, is_s3, open_storage, storage_root
from cirrus_fast.data.text_dataset import TextDataset
from cirrus_fast.data.traffic import Reads
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.data.trials import WithoutModel
from cirrus_fast.errors import OptionError, StorageError
from cirrus_fast.notices import notice
from cirrus_fast.options import Options, table
from cirrus_fast.runtime.grid_groups import LANES, Family, Lane, LaneSpec, state_bytes
from cirrus_fast.runtime.grid_pass import (
    GridPass,
    PassRows,
    PassSpec,
    Rung,
    made_ready,
)
from cirrus_fast.runtime.grid_state import PassTimes
from cirrus_fast.runtime.grid_worker import (
    STOPPED,
    GridTask,
    GridWorkerSpec,
    read_models,
    remove,
    rows_bytes,
    stop,
    write_rows,
)
from cirrus_fast.runtime.params.control import is_clustered, worker_bytes
from cirrus_fast.runtime.params.lanes import LaneStore
from cirrus_fast.runtime.params.local import Layout
from cirrus_fast.store_url import is_store_url, parse_urls, secrets

# What models of one pass may differ in.
_OF_LANE = {
    "learning_rate",
    "l1",
    "l2",
    "class_weight",
    "epochs",
    "epsilon",
    "patience",
    "threshold_loss",
}
_OF_GROUP = {"optimizer", "minibatch_size", "fit_intercept"}
_OF_NOBODY = {"progress"}
_NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Model:
    """One of a search."""

    number: int
    options: Options


@dataclass(slots=True)
class Outcome:
    """What came of it: a result, or an error."""

    number: int
    result: TrainResult | None
    error: str | None = None


def why_alone(options: Options) -> str:
    """Why a model with these options is a run of its own; empty if it can share a pass."""
    if on_lambda(options) and options.max_cost is not None:
        return f"max_cost={options.max_cost:g}"  # of one run; a search has its own
    if is_store_url(options.param_store):
        if on_lambda(options):
            return f"executor={options.executor_name} with a param_store"
        if parse_urls(options.param_store)[0].store == "bitfield":
            return f"param_store={options.param_store}"
        if options.sync_rows is not None:
            return f"sync_rows={options.sync_rows}"
        if (options.pipeline_depth or 1) > 1:
            return f"pipeline_depth={options.pipeline_depth}"
    if options.consistency == "ssp":
        return 'consistency="ssp"'
    for name in ("callbacks", "checkpoint_interval", "resume_from"):
        if getattr(options, name):
            return name
    return ""


def only_shared(options: Options) -> bool:
    """Whether a model cannot be a run of its own: on functions, without servers."""
    return on_lambda(options) and not is_store_url(options.param_store)


def why_not_there(options: Options) -> str:
    """Why a model that could share a pass cannot in the servers it names; empty if it can."""
    if not is_store_url(options.param_store) or choose_store(options) == "module":
        return ""
    return f"param_store={options.param_store}, which has not loaded our module"


def passes(models: Sequence[Model]) -> list[list[Model]]:
    """The models that share a pass, in the order of their first; all can share one."""
    found: dict[tuple[object, ...], list[Model]] = {}
    for model in models:
        found.setdefault(_pass_key(model.options), []).append(model)
    return list(found.values())


def _pass_key(options: Options) -> tuple[object, ...]:
    own = _OF_LANE | _OF_GROUP | _OF_NOBODY
    shared = tuple(getattr(options, row.name) for row in table() if row.name not in own)
    # Whether rows are held out; and what sgd's default rate does to the rows themselves.
    crowded = options.optimizer == "sgd" and options.learning_rate is None
    return shared, options.epsilon > 0, options.minibatch_size if crowded else 0


@dataclass(frozen=True, slots=True)
class PassState:
    """How a pass goes: of how many models, at which row of how many, the best loss so far."""

    running: int
    rows: int
    total_rows: int
    best: float

    @classmethod
    def of(cls, made: GridPass) -> PassState:
        best = min(lane.loss for lane in made.lanes)
        return cls(len(made.running), made.rows, made.total_rows, best)

    @classmethod
    def ended(cls, lanes: Sequence[Lane], rows_per_epoch: int) -> PassState:
        rows = max(lane.rows for lane in lanes)
        total = rows_per_epoch * max(lane.spec.epochs for lane in lanes)
        return cls(0, rows, total, min(lane.loss for lane in lanes))


class SharedRun:
    """A pass of a search, from plan to outcomes; several where one would take too much memory."""

    def __init__(
        self,
        models: Sequence[Model],
        *,
        keep: int,
        deadline: tuple[float, str] | None = None,
        max_cost: float = math.inf,
        halving: int | None = None,
        tell: Callable[[PassState, list[Outcome]], object] = lambda *_: None,
    ) -> None:
        """keep : of how many models, the best, the weights are wanted
        deadline : of the search, by time.perf_counter, and what it is for
        max_cost : dollars that functions may cost
        halving : the factor, or None
        tell : called after every evaluation, with what ended there
        """
        self._keep, self._deadline, self._halving = keep, deadline, halving
        self._tell, self._max_cost = tell, max_cost
        first = models[0].options
        self._plan = plan = Plan.make(replace(first, n_workers=1))
        self._plans = {
            model.number: plan.with_options(replace(model.options, n_workers=1)) for model in models
        }
        self._models = list(models)
        places = DEFAULT_FUNCTIONS if on_lambda(first) else available_cores()
        self.n_workers = first.n_workers or places  # threads, processes or functions
        self._meter: Meter | None = None
        self.worker_reads = Reads()
        self._rows = self._prepare()
        self._store = self._open_store()

    @property
    def reads(self) -> Reads:
        """From a server, by all models together."""
        return self._plan.reads + self.worker_reads

    def _open_store(self) -> LaneStore | None:
        options = self._plan.options
        if not is_store_url(options.param_store):
            return None
        clustered = is_clustered(parse_urls(options.param_store))
        return LaneStore(uuid.uuid4().hex[:12], options.param_store, options.n_ps, clustered)

    def _prepare(self) -> PassRows:
        plan, test = self._plan, self._plan.test
        # All models of a pass divide columns alike; but penalties are charged in two ways.
        scale = None
        penalties: dict[bool, Float32Array | None] = {}
        for one in (p.options for p in self._plans.values()):
            if (one.l1 or one.l2) and (one.optimizer == "ftrl") not in penalties:
                scale = self._scale(one.optimizer, 1.0)
                penalties[one.optimizer == "ftrl"] = scale.penalties
        if scale is None:
            scale = self._scale(plan.options.optimizer, 0.0)
        ready = None if test is None else made_ready(test.parts, test.positives, scale)
        return PassRows(plan.dataset, plan.holdout, scale, penalties, ready)

    def _scale(self, optimizer: str, strength: float) -> TrainingScale:
        plan = self._plan
        return TrainingScale.of(
            plan.dataset.columns,
            plan.dataset.n_rows,
            optimizer=optimizer,
            l1=strength,
            l2=strength,
            mean_weight=1.0,
            n_features=plan.model_size if isinstance(plan.dataset, TextDataset) else None,
            step_rows=plan.step_rows,
        )

    def run(self) -> None:
        """Trains all models; `tell` has what came of them."""
        known = {} if self._store is None else secrets(self._store.urls)
        with opened(self._plan.options.executor, known) as executor:
            if isinstance(executor, LambdaExecutor):
                self._meter = Meter.of(executor, self._plan.options.worker_size)
            groups = self._grouped()
            most = self._room(groups, executor)
            while groups:
                wave: list[tuple[Family, list[LaneSpec]]] = []
                used = 0
                while groups and (not wave or used + self._bytes(groups[0]) <= most):
                    used += self._bytes(groups[0])
                    wave.append(groups.pop(0))
                self._wave(wave, executor)

    def _bytes(self, group: tuple[Family, list[LaneSpec]]) -> int:
        """That a group takes where it is trained: its state, and the margins of the rows to
        measure on, of the best models and of the latest."""
        test = self._rows.test
        margins = 0 if test is None else 2 * 4 * LANES * test.n_rows
        return state_bytes(group[0], len(self._rows.scale.ids)) + margins

    def _room(
        self, groups: Sequence[tuple[Family, list[LaneSpec]]], executor: Executor | None
    ) -> int:
        """Bytes for groups at a time, all workers together."""
        if not isinstance(executor, LambdaExecutor):
            return self._plan.options.worker_size * 10**6 * self.n_workers
        rows, largest = self._rows, max(map(self._bytes, groups))
        kept = 2 * 4 * len(rows.scale.ids) * min(self._keep, len(self._models))
        others = 2 * rows_bytes(rows) + kept
        room = room_for_models(self._plan, self._model_bytes, others, largest, executor)
        # They are dealt in turn, and those of one function may be the larger ones.
        return max(1, room // largest) * largest * min(self.n_workers, len(groups))

    @property
    def cost(self) -> Cost:
        """Of functions, so far."""
        if self._meter is None:
            return Cost()
        return self._meter.so_far(self.worker_reads, run_s=0.0)

    def _grouped(self) -> list[tuple[Family, list[LaneSpec]]]:
        found: dict[Family, list[LaneSpec]] = {}
        for model in self._models:
            plan = self._plans[model.number]
            options = plan.options
            family = Family(
                options.optimizer,
                options.minibatch_size,
                options.fit_intercept,
                plan.intercept_rate,
                bool(options.l1 or options.l2),
            )
            lane = LaneSpec(
                model.number,
                plan.learning_rate,
                options.l1 * plan.mean_weight,
                options.l2 * plan.mean_weight,
                plan.class_weight,
                plan.start_intercept,
                options.epochs,
                options.epsilon,
                options.patience,
                options.threshold_loss,
            )
            found.setdefault(family, []).append(lane)
        return [
            (family, lanes[i : i + LANES])
            for family, lanes in found.items()
            for i in range(0, len(lanes), LANES)
        ]

    def _wave(self, groups: list[tuple[Family, list[LaneSpec]]], executor: Executor | None) -> None:
        plan = self._plan
        options = plan.options
        now = time.perf_counter()
        ends = [] if options.timeout is None else [(now + options.timeout, "timeout")]
        ends += [] if self._deadline is None else [self._deadline]
        end, reason = min(ends, default=(math.inf, "timeout"))
        spec = PassSpec(
            worker_size=options.worker_size,
            model_bytes=self._model_bytes,
            seed=options.seed,
            rows_per_epoch=plan.n_train,
            eval_rows=plan.eval_rows,
            n_threads=min(self.n_workers, len(groups)),
            seconds=max(0.0, end - now) if ends else None,
            seconds_for=reason,
            keep=self._keep,
            rungs=self._rungs(groups),
            store=self._store,
        )
        try:
            if executor is None:
                self._here(spec, groups)
            else:
                self._elsewhere(spec, groups, executor, (end, reason))
        finally:
            if self._store is not None:
                self._store.delete([lanes[0].number for _, lanes in groups])

    @property
    def _model_bytes(self) -> int:
        """Of one model in a run of its own."""
        plan, scale = self._plan, self._rows.scale
        if self._store is not None:
            return worker_bytes(len(scale.ids), len(scale.place), merged=False)
        pairs = self._rows.penalties.values()
        return Layout(
            model_size=plan.model_size,
            n_ids=len(scale.ids),
            n_places=len(scale.place),
            optimizer=plan.options.optimizer,
            learning_rate=plan.learning_rate,
            n_penalties=max((len(p) for p in pairs if p is not None), default=0),
            n_workers=1,
            n_hot=0,
            exchange_rows=0,
            room=0,
            n_blocks=0,
            task="",
            owner=0,
        ).n_bytes

    def _here(self, spec: PassSpec, groups: list[tuple[Family, list[LaneSpec]]]) -> None:
        """One pass over the data."""
        seen: set[int] = set()

        def look(made: GridPass) -> None:
            new = [lane for lane in made.lanes if lane.reason and lane.spec.number not in seen]
            new.sort(key=lambda lane: lane.spec.number)
            seen.update(lane.spec.number for lane in new)
            outcomes = [self._outcome(made.times, lane) for lane in new]
            self._tell(PassState.of(made), outcomes)

        GridPass(spec, groups, self._rows, tell=look).run()

    def _elsewhere(
        self,
        spec: PassSpec,
        groups: list[tuple[Family, list[LaneSpec]]],
        executor: Executor,
        end: tuple[float, str],
    ) -> None:
        """The groups dealt to workers, each of which goes through the data itself."""
        n = min(self.n_workers, len(groups))
        plan = self._plan
        copy = plan.dataset.copy if isinstance(plan.dataset, TextDataset) else None
        specs = [
            GridWorkerSpec(
                worker=worker,
                dataset=plan.dataset_path,
                dataset_id=plan.dataset.id,
                text_copy=None if copy is None else (copy.uri, copy.path, copy.identity),
                model_size=plan.model_size,
                holdout_seed=plan.holdout.seed,
                holdout_fraction=plan.holdout.fraction,
                shared=replace(spec, n_threads=1, rungs=self._rungs(groups[worker::n])),
                groups=groups[worker::n],
            )
            for worker in range(n)
        ]
        with _folder(executor) as storage:
            write_rows(storage, self._rows)
            for one in specs:
                one.write(storage)
            ending = _Ending(storage, end, self._too_dear)
            tasks = [GridTask(storage.uri, one.worker, generation=0) for one in specs]
            for task, billed_s in run_passes(executor, tasks, ending.look, ending.interrupt):
                times, lanes = read_models(storage, task, specs[task.worker].lanes)
                for lane in lanes:
                    if lane.reason == STOPPED:
                        lane.reason = ending.reason
                self._tell_of(times, lanes, task.generation + 1, billed_s)

    def _tell_of(self, times: PassTimes, lanes: list[Lane], calls: int, billed_s: float) -> None:
        """What came of a worker's models, which share what it has cost by the rows they took."""
        reads = sum(times.reads_by_epoch, Reads())
        self.worker_reads += reads
        cost = Cost()
        if self._meter is not None:
            cost = self._meter.rate.cost(billed_s, calls, reads=reads)
        rows = sum(lane.rows for lane in lanes)
        outcomes = [
            self._outcome(times, lane, cost.part(lane.rows / rows if rows else 1 / len(lanes)))
            for lane in sorted(lanes, key=lambda lane: lane.spec.number)
        ]
        self._tell(PassState.ended(lanes, self._plan.n_train), outcomes)

    def _too_dear(self) -> bool:
        """Whether functions would cost more than they may, ending counted."""
        if self._meter is None or self._max_cost == math.inf:
            return False
        return self.cost.total + self._meter.to_end() >= self._max_cost

    def _rungs(self, groups: list[tuple[Family, list[LaneSpec]]]) -> tuple[Rung, ...]:
        """A sixteenth of the rows for all, a quarter for the best quarter, all for the best
        sixteenth of the models, with a factor of 4."""
        if self._halving is None:
            return ()
        lanes = [lane for _, lanes in groups for lane in lanes]
        total = self._plan.n_train * max(lane.epochs for lane in lanes)
        factor, rungs = self._halving, []
        for power in (2, 1):
            keep = max(1, round(len(lanes) / factor ** (3 - power)))
            rows = max(1, round(total / factor**power))
            if keep < len(lanes):
                rungs.append(Rung(rows, keep))
        return tuple(rungs)

    def _outcome(self, times: PassTimes, lane: Lane, cost: Cost = _NOTHING) -> Outcome:
        plan, number = self._plans[lane.spec.number], lane.spec.number
        if lane.reason == "failed":
            return Outcome(number, None, lane.error)
        options, auc = plan.options, lane.auc
        history = list(lane.history)
        if lane.best_loss is not None:
            at = next(i for i, one in enumerate(history) if one.test_loss == lane.best_loss)
            history[at] = replace(history[at], auc=auc)
        breakdown = dict.fromkeys(PHASES, 0.0)
        breakdown |= {"start_up": times.start_up, "compute": times.compute}
        breakdown |= {"storage_read": times.storage_read, "decode": times.decode}
        values = {
            "history": history,
            "test_loss": lane.best_loss,
            "auc": auc,
            "breakdown": breakdown,
            "seconds": history[-1].seconds,
            "cost": cost.total,
            "cost_parts": cost.to_json() if cost.total else {},
            "rows_processed": history[-1].rows,
            "rows_repeated": 0,
            "stop_reason": lane.reason or "epochs",
            "n_workers": 1,
            "executor": options.executor_name,
            "param_store": named(options.param_store, plan.store),
            "checkpoint": None,
            "checkpoint_error": None,
            "exchanges": {},
            "params": plan.params,
            "reads": self.reads,
            "reads_by_epoch": list(times.reads_by_epoch),
        }
        if lane.weights is None:
            return Outcome(number, WithoutModel.of(values))
        scale = self._rows.scale
        weights = np.zeros(plan.model_size, np.float32)
        weights[scale.ids] = lane.weights / scale.divisor
        model = plan.model(weights, lane.intercept)
        return Outcome(number, TrainResult(model=model, **values))  # type: ignore[arg-type]


class _Ending:
    """Why a pass elsewhere is to end before its models have, if it is."""

    def __init__(
        self, storage: Storage, end: tuple[float, str], too_dear: Callable[[], bool]
    ) -> None:
        """end : by time.perf_counter, and what for; workers that begin late know it too late"""
        self._storage, self._at, self._too_dear = storage, end, too_dear
        self.reason: str | None = None

    def look(self) -> None:
        if self.reason is not None:
            return
        if self._too_dear():
            self._end("max_cost")
        elif time.perf_counter() >= self._at[0]:
            self._end(self._at[1])

    def interrupt(self) -> None:
        if self.reason is None:
            self._end("interrupted")

    def _end(self, reason: str) -> None:
        self.reason = reason
        stop(self._storage)


@contextmanager
def _folder(executor: Executor) -> Iterator[Storage]:
    """One that workers reach, for as long as they are wanted."""
    if not isinstance(executor, LambdaExecutor):
        with tempfile.TemporaryDirectory(prefix="cirrus-search-") as folder:
            yield open_storage(folder)
        return
    root = storage_root().rstrip("/")
    if not is_s3(root):
        raise OptionError(
            "executor=lambda: what functions make of a search's models goes to the storage root, "
            f'which is {root}: configure(storage="s3://bucket/prefix")'
        )
    storage = open_storage(f"{root}/search-{uuid.uuid4().hex[:12]}")
    try:
        yield storage
    finally:
        try:
            remove(storage)
        except StorageError as error:  # what came of the models is not lost for that
            notice(f"{storage.uri}: could not be removed, and nobody needs it any more ({error})")
