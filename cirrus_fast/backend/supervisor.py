"""The course of a run: workers started, the model measured now and then, the end at its time."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Event

from cirrus_fast.backend.attach import LeftRun, best_bytes, plan_text
from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.checkpoint import Best, Checkpoint, Checkpoints
from cirrus_fast.backend.cost import Cost, Meter
from cirrus_fast.backend.function_memory import check_memory
from cirrus_fast.backend.learning_curve import LearningCurve
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.backend.progress import Reporter, reporter
from cirrus_fast.backend.redis_run import RedisRun, Store
from cirrus_fast.backend.store_choice import named
from cirrus_fast.backend.threads import ThreadExecutor
from cirrus_fast.backend.workers import Workers
from cirrus_fast.data.result import PHASES, Record, TrainResult
from cirrus_fast.data.sources import identity_of
from cirrus_fast.data.traffic import counting
from cirrus_fast.errors import CirrusFastError
from cirrus_fast.notices import notice
from cirrus_fast.options import Options, needs_store
from cirrus_fast.runtime.params import local
from cirrus_fast.runtime.params.control import end_here
from cirrus_fast.runtime.params.local import LocalStore
from cirrus_fast.store_url import secrets

# How soon a stop asked for, a timeout or a dead worker is seen.
_POLL_S = 0.05


class Supervisor:
    """One run. `run` may be called in any thread; `stop` and `last_record` from any other."""

    def __init__(self, options: Options, left: LeftRun | None = None) -> None:
        """left : another supervisor's run, which goes on"""
        self._options, self.left = options, left
        self._stop_asked = Event()
        self.last_record: Record | None = None

    def stop(self) -> None:
        """Asks the run to end soon, with the best model so far."""
        self._stop_asked.set()

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked.is_set()

    def run(self) -> TrainResult:
        """Trains until a reason to stop comes up.

        The first KeyboardInterrupt ends the run with what there is; a second one is raised.
        """
        began = time.perf_counter()
        if isinstance(self._options.executor, LambdaExecutor):
            needs_store(self._options)
        plan = Plan.make(self._options)
        task = uuid.uuid4().hex[:12]
        checkpoints = Checkpoints(task, self._options.checkpoint_interval)
        store = plan.create_store(task)
        try:
            with (
                _executor(plan, task, store) as (executor, url),
                reporter(self._options.progress, self._options.epochs * plan.n_train) as shown,
            ):
                workers = Workers(plan, task, store, url, executor)
                meter = None
                if isinstance(executor, LambdaExecutor):
                    meter = Meter.of(executor, self._options.worker_size)
                course = _Course(self, plan, store, workers, checkpoints, shown, meter)
                return course.follow(began)
        finally:
            store.close()


@contextmanager
def _executor(plan: Plan, task: str, store: Store) -> Iterator[tuple[Executor, str]]:
    """Where workers run, and the store's URL for workers there."""
    chosen = plan.options.executor
    url = plan.options.param_store
    if chosen == "local":
        threads = ThreadExecutor(plan.n_workers)
        try:
            yield threads, local.publish(task, store) if isinstance(store, LocalStore) else url
        finally:
            store.stop()
            end_here(task)
            threads.end()
            local.withdraw(task)
    elif chosen == "processes":
        if isinstance(store, LocalStore):
            processes = ProcessExecutor(inherited=[store.descriptor])
            url = local.shared_url(store, inherited=True)
        else:
            processes = ProcessExecutor(environment=secrets(store.urls))
        try:
            yield processes, url
        finally:
            store.stop()
            processes.shutdown(cancel_futures=True)
    elif chosen == "lambda":
        functions = LambdaExecutor()
        try:
            _announce(plan, task, store, functions)
            yield functions, url
        finally:
            store.stop()
            functions.shutdown(cancel_futures=True)
    else:  # the user's own, which stays open
        assert isinstance(chosen, Executor)
        if isinstance(chosen, LambdaExecutor):
            _announce(plan, task, store, chosen)
        if isinstance(store, LocalStore):
            url = local.shared_url(store, inherited=False)
        try:
            yield chosen, url
        finally:
            store.stop()


def _announce(plan: Plan, task: str, store: Store, functions: LambdaExecutor) -> None:
    """Once it is clear that workers have the memory they need."""
    assert isinstance(store, RedisRun)
    check_memory(plan, store.header.n_bytes, functions)
    notice(f"run {task}: {plan.n_workers} workers on function {functions.function}")


class _Course:
    """One run from its first worker's start to its result."""

    def __init__(
        self,
        supervisor: Supervisor,
        plan: Plan,
        store: Store,
        workers: Workers,
        checkpoints: Checkpoints,
        shown: Reporter,
        meter: Meter | None,
    ) -> None:
        self._supervisor = supervisor
        self._plan = plan
        self._options = plan.options
        self._store = store
        self._workers = workers
        self._checkpoints = checkpoints
        self._shown = shown
        self._meter = meter
        self._curve = LearningCurve(plan, store)
        self._began = time.perf_counter()
        self._cost_before = 0.0
        self._repeated_before = 0
        self._kept: Best | None = None  # the best model that the store has
        # Asked now: later the name may mean other data.
        test = plan.options.test_dataset
        with counting(plan.asked):
            self._test_dataset_id = None if test is None else identity_of(test)
        # Workers wait while the model is measured where that makes the run repeatable. Else what is
        # measured is a moment of theirs, but for the ends of epochs, where they wait while it is
        # copied: to have learnt once more from some hundredth of the rows makes a model worse by as
        # much as one more epoch makes it better.
        self._paced = plan.options.consistency == "bsp" or plan.n_workers == 1
        in_memory = isinstance(store, LocalStore)
        self._meet = in_memory and not self._paced and plan.test is not None
        self._rows_meanwhile = 0  # while the model was measured last

    def follow(self, began: float) -> TrainResult:
        options, store, curve, workers = self._options, self._store, self._curve, self._workers
        if options.resume_from is not None:
            path = options.resume_from
            self._go_on(Checkpoint.load(path), f"resume_from={path}")
        left = self._supervisor.left
        if left is not None:
            assert isinstance(store, RedisRun)
            self._go_on(left.checkpoint, f"run {left.task}")
            left.remove(store)
        self._keep()
        launched = time.perf_counter()
        deadline = began + (options.timeout or float("inf"))
        store.expect_end(deadline)
        try:
            reason = self._watch(deadline)
        except KeyboardInterrupt:
            reason = "interrupted"
        except CirrusFastError:
            if self._checkpoints.path is not None:
                notice(f"the run failed; resume_from={self._checkpoints.path} goes on from before")
            raise
        store.stop()
        workers.gather()
        # Before the closing measurement, which a run that goes on would not make here.
        self._checkpoints.save(self._checkpoint)
        if store.rows > curve.rows or not curve.history:
            self._call_back(self._measure())
        breakdown = {
            phase: sum(report.get(phase, 0.0) for report in workers.reports) for phase in PHASES
        }
        breakdown["start_up"] += launched - began
        exchanges = store.exchanges
        if workers.for_a_core is not None:
            exchanges["for_a_core"] = workers.for_a_core
        test_loss, auc, model = curve.chosen()
        cost = self._cost()
        return TrainResult(
            model=model,
            history=curve.history,
            test_loss=test_loss,
            auc=auc,
            breakdown=breakdown,
            seconds=curve.seconds,
            cost=cost.total,
            cost_parts=cost.to_json() if cost.total else {},
            rows_processed=store.rows,
            rows_repeated=self._rows_repeated,
            stop_reason=reason,
            n_workers=self._plan.n_workers,
            executor=options.executor_name,
            param_store=named(options.param_store, self._plan.store),
            exchanges=exchanges,
            checkpoint=self._checkpoints.path,
            checkpoint_error=self._checkpoints.error,
            params=self._plan.params,
            reads=self._plan.reads + workers.reads(),
            reads_by_epoch=workers.reads_by_epoch(),
        )

    def _watch(self, deadline: float) -> str:
        """Starts the workers and follows the run to its end; returns why it ended."""
        store, curve, workers = self._store, self._curve, self._workers
        due = self._due(store.rows)
        self._allow(due)
        workers.launch()
        while True:
            left = deadline - time.perf_counter()
            if left <= 0:
                return "timeout"
            if self._supervisor.stop_asked or store.stop_asked:
                return "stopped"
            rows = store.wait(due, min(_POLL_S, left))
            self._shown.rows(rows)
            workers.look_after()
            if self._too_dear():
                return "max_cost"
            if rows >= due:
                due = self._due(rows)
                record = self._measure(due)
                reason = curve.reason_to_stop(record)  # asked always: it remembers
                if self._call_back(record):
                    return "callback"
                if reason:
                    return reason
                self._keep()
                if self._checkpoints.due:
                    self._checkpoints.save(self._checkpoint)
                self._allow(due)
            elif not workers.running and store.rows < due:
                return "epochs"

    def _due(self, rows: int) -> int:
        """Rows at which the model is measured next, after these. Free workers had to wait at an
        epoch's end for a measurement that would not be over by then."""
        due = self._curve.next_rows(rows)
        end = self._curve.next_rows(self._plan.epoch_end(rows) - 1)
        return end if self._meet and end < due + self._rows_meanwhile else due

    def _allow(self, due: int) -> None:
        """due : rows at which the model is measured next"""
        if self._paced or (self._meet and due == self._plan.epoch_end(due - 1)):
            self._store.allow(due)
        elif self._meet:
            self._store.allow(math.inf)

    def _cost(self) -> Cost:
        """So far; nothing where nothing is rented."""
        if self._meter is None:
            return Cost(before=self._cost_before)
        reads = self._plan.reads + self._workers.reads()
        found = self._meter.so_far(reads, time.perf_counter() - self._began)
        return replace(found, before=self._cost_before)

    def _too_dear(self) -> bool:
        """Whether to go on would cost more than it may, ending counted."""
        most = self._options.max_cost
        if most is None or self._meter is None:
            return False
        return self._cost().total + self._meter.to_end() >= most

    def _measure(self, due: int | None = None) -> Record:
        """due : rows at which the next one is; free workers go on to it as soon as they can"""
        before = self._store.rows
        go_on = partial(self._allow, due) if self._meet and due is not None else lambda: None
        # Not kept by the curve, or rows would stay until their run is collected as a cycle.
        record = self._curve.measure(lambda: self._cost().total, go_on)
        self._rows_meanwhile = self._store.rows - before
        self._supervisor.last_record = record
        self._shown.record(record)
        return record

    def _call_back(self, record: Record) -> bool:
        """Whether any callback wants the run to stop; all are called."""
        answers = [callback(record) for callback in self._options.callbacks]
        return any(answers)

    @property
    def _rows_repeated(self) -> int:
        return self._repeated_before + self._workers.rows_repeated + self._store.repeated

    def _checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        store, curve = self._store, self._curve
        # Positions first: a worker that moves on meanwhile repeats a few rows, and skips none.
        positions, state = store.positions(), store.merged_state()
        moved = store.slots["rows"] + store.slots["granted"] - positions.slots["rows"]
        return Checkpoint(
            options=self._plan.params,
            dataset_id=self._plan.dataset.id,
            test_dataset_id=self._test_dataset_id,
            remote=self._plan.dataset.is_remote,
            state=state,
            positions=positions,
            round=store.rounds,
            seconds=curve.seconds,
            history=curve.history,
            best=curve.best,
            reference=curve.reference,
            stale=curve.stale,
            rows_repeated=self._rows_repeated + int(moved.sum()),
        )

    def _keep(self) -> None:
        """What another supervisor would have to know, where the model outlives this one."""
        plan, curve = self._plan, self._curve
        if not isinstance(self._store, RedisRun):
            return
        text = plan_text(
            plan.options,
            plan.params,
            plan.dataset.id,
            self._test_dataset_id,
            plan.dataset.is_remote,
            curve.history,
            curve.reference,
            curve.stale,
            self._rows_repeated,
        )
        best = None if curve.best is self._kept else curve.best
        self._store.keep(text, None if best is None else best_bytes(best))
        self._kept = curve.best

    def _go_on(self, kept: Checkpoint, path: str) -> None:
        store, plan = self._store, self._plan
        test, remote = self._test_dataset_id, plan.dataset.is_remote
        kept.check_same_run(plan.params, plan.dataset.id, test, remote, path)
        kept.check_fits(store.n_state, store.positions(), plan.model_size, path)
        store.restore(kept.state, kept.positions, kept.round)
        self._repeated_before = kept.rows_repeated
        self._cost_before = kept.history[-1].cost if kept.history else 0.0
        self._curve.go_on(list(kept.history), kept.best, kept.reference, kept.stale, kept.seconds)
