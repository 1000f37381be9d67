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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cirrus_fast.backend.grid_executors import run_elsewhere
from cirrus_fast.backend.plan import Plan, on_lambda
from cirrus_fast.backend.store_choice import choose_store, named
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.result import PHASES, TrainResult
from cirrus_fast.data.text_dataset import TextDataset
from cirrus_fast.data.traffic import Reads
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.data.trials import WithoutModel
from cirrus_fast.options import Options, table
from cirrus_fast.runtime.grid_groups import LANES, Family, Lane, LaneSpec, state_bytes
from cirrus_fast.runtime.grid_pass import (
    GridPass,
    PassRows,
    PassSpec,
    PassTimes,
    Rung,
    made_ready,
)
from cirrus_fast.runtime.grid_worker import GridWorkerSpec, lanes_of, times_of, write_rows
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
    if is_store_url(options.param_store):
        if on_lambda(options):
            return f"executor={options.executor_name}"
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
        halving: int | None = None,
        tell: Callable[[PassState, list[Outcome]], object] = lambda *_: None,
    ) -> None:
        """keep : of how many models, the best, the weights are wanted
        deadline : of the search, by time.perf_counter, and what it is for
        halving : the factor, or None
        tell : called after every evaluation, with what ended there
        """
        self._keep, self._deadline, self._halving = keep, deadline, halving
        self._tell = tell
        first = models[0].options
        self._plan = plan = Plan.make(replace(first, n_workers=1))
        self._plans = {
            model.number: plan.with_options(replace(model.options, n_workers=1)) for model in models
        }
        self._models = list(models)
        self.n_threads = first.n_workers or available_cores()
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
        groups = self._grouped()
        n_ids = len(self._rows.scale.ids)
        most = self._plan.options.worker_size * 10**6 * self.n_threads
        while groups:
            wave: list[tuple[Family, list[LaneSpec]]] = []
            used = 0
            while groups and (not wave or used + state_bytes(groups[0][0], n_ids) <= most):
                used += state_bytes(groups[0][0], n_ids)
                wave.append(groups.pop(0))
            self._wave(wave)

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

    def _wave(self, groups: list[tuple[Family, list[LaneSpec]]]) -> None:
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
            n_threads=min(self.n_threads, len(groups)),
            seconds=max(0.0, end - now) if ends else None,
            seconds_for=reason,
            keep=self._keep,
            rungs=self._rungs(groups),
            store=self._store,
        )
        try:
            self._through(spec, groups)
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

    def _through(self, spec: PassSpec, groups: list[tuple[Family, list[LaneSpec]]]) -> None:
        """One pass over the data."""
        rows, options = self._rows, self._plan.options
        if options.executor != "local":
            self._elsewhere(spec, groups)
            return
        seen: set[int] = set()

        def look(made: GridPass) -> None:
            new = [lane for lane in made.lanes if lane.reason and lane.spec.number not in seen]
            new.sort(key=lambda lane: lane.spec.number)
            seen.update(lane.spec.number for lane in new)
            outcomes = [self._outcome(made.times, lane) for lane in new]
            self._tell(PassState.of(made), outcomes)

        GridPass(spec, groups, rows, tell=look).run()

    def _elsewhere(self, spec: PassSpec, groups: list[tuple[Family, list[LaneSpec]]]) -> None:
        """The groups dealt to worker processes, each of which goes through the data itself."""
        n = min(self.n_threads, len(groups))
        plan = self._plan
        copy = plan.dataset.copy if isinstance(plan.dataset, TextDataset) else None
        with tempfile.TemporaryDirectory(prefix="cirrus-search-") as folder:
            write_rows(folder, self._rows)
            specs = [
                GridWorkerSpec(
                    worker=worker,
                    folder=folder,
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
            known = {} if self._store is None else secrets(self._store.urls)
            for done, answer in run_elsewhere(plan.options.executor, specs, known):
                times, lanes = times_of(answer), lanes_of(answer, done)
                lanes.sort(key=lambda lane: lane.spec.number)
                self.worker_reads += sum(times.reads_by_epoch, Reads())
                outcomes = [self._outcome(times, lane) for lane in lanes]
                self._tell(PassState.ended(lanes, plan.n_train), outcomes)

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

    def _outcome(self, times: PassTimes, lane: Lane) -> Outcome:
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
            "cost": 0.0,
            "cost_parts": {},
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
