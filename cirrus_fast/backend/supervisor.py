"""Starting workers, watching them, measuring the model, stopping at the right time."""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from threading import Event

from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.progress import Reporter, reporter
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.result import PHASES, Record, TrainResult
from cirrus_fast.options import Options
from cirrus_fast.runtime.params import local
from cirrus_fast.runtime.params.local import LocalStore
from cirrus_fast.runtime.worker import run_worker

# How soon a stop asked for, a timeout or a dead worker is seen.
_POLL_S = 0.05


class Supervisor:
    """One run. `run` may be called in any thread; `stop` and `last_record` from any other."""

    def __init__(self, options: Options) -> None:
        self._began = time.perf_counter()
        self._options = options
        self._stop_asked = Event()
        self.last_record: Record | None = None

    def stop(self) -> None:
        """Asks the run to end soon, with the best model so far."""
        self._stop_asked.set()

    def run(self) -> TrainResult:
        """Trains until a reason to stop comes up.

        The first KeyboardInterrupt ends the run with what there is; a second one is raised.
        """
        options = self._options
        plan = Plan.make(options)
        task = uuid.uuid4().hex[:12]
        store = plan.create_store()
        url = local.publish(task, store)
        total_rows = options.epochs * plan.n_train
        try:
            with (
                ThreadPoolExecutor(plan.n_workers, thread_name_prefix="cirrus-worker") as executor,
                reporter(options.progress, total_rows) as shown,
            ):
                watch = _Watch(self, plan, store, shown)
                return watch.follow(
                    executor, [s.to_json() for s in plan.specs(task, url)], self._began
                )
        finally:
            local.withdraw(task)

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked.is_set()


class _Watch:
    """The supervisor's view of a run under way."""

    def __init__(
        self, supervisor: Supervisor, plan: Plan, store: LocalStore, shown: Reporter
    ) -> None:
        self._supervisor = supervisor
        self._plan = plan
        self._options = plan.options
        self._store = store
        self._shown = shown
        self._history: list[Record] = []
        self._best: tuple[float, float | None, Float32Array, float] | None = None
        self._reference = float("inf")
        self._stale = 0
        self._paced = self._options.consistency == "bsp"

    def follow(self, executor: Executor, specs: list[str], began: float) -> TrainResult:
        plan, store = self._plan, self._store
        if self._paced:
            store.allow(plan.eval_rows)
        self._first_step = time.perf_counter()
        self._deadline = began + (self._options.timeout or float("inf"))
        futures = [executor.submit(run_worker, spec) for spec in specs]
        try:
            reason = self._watch(futures)
        except KeyboardInterrupt:
            reason = "interrupted"
        except BaseException:
            store.stop()
            raise
        store.stop()
        wait(futures)
        reports = [json.loads(future.result()) for future in futures]
        if store.rows_seen > self._rows_measured or not self._history:
            self._measure()
        breakdown = {phase: sum(report[phase] for report in reports) for phase in PHASES}
        breakdown["start_up"] += self._first_step - began
        test_loss, auc, model = self._chosen()
        return TrainResult(
            model=model,
            history=self._history,
            test_loss=test_loss,
            auc=auc,
            breakdown=breakdown,
            seconds=self._history[-1].seconds,
            cost=0.0,
            rows_processed=sum(report["rows"] for report in reports),
            stop_reason=reason,
            n_workers=plan.n_workers,
            executor=self._options.executor,
            param_store=self._options.param_store,
            params=self._options.to_json(),
        )

    @property
    def _rows_measured(self) -> int:
        return self._history[-1].rows if self._history else 0

    def _watch(self, futures: list[Future[str]]) -> str:
        """Follows the run to its end; returns why it ended."""
        next_rows = self._plan.eval_rows
        while True:
            left = self._deadline - time.perf_counter()
            if left <= 0:
                return "timeout"
            if self._supervisor.stop_asked:
                return "stopped"
            rows = self._store.wait(next_rows, min(_POLL_S, left))
            self._shown.rows(rows)
            failed = [f for f in futures if f.done() and f.exception() is not None]
            if failed:
                raise failed[0].exception() or AssertionError
            if rows >= next_rows:
                record = self._measure()
                reason = self._reason_to_stop(record)
                if reason:
                    return reason
                while next_rows <= rows:
                    next_rows += self._plan.eval_rows
                if self._paced:
                    self._store.allow(next_rows)
            elif all(future.done() for future in futures):
                return "epochs"

    def _measure(self) -> Record:
        """Takes a snapshot, measures it, keeps it if it is the best."""
        store = self._store
        loss_sum, weight_sum, updates = store.take_losses()
        rows, seconds = store.rows_seen, time.perf_counter() - self._first_step
        weights, intercept = store.snapshot()
        test_loss = auc = None
        if self._plan.test is not None:
            test_loss, auc = self._plan.test.measure(weights, intercept)
        record = Record(
            seconds=seconds,
            rows=rows,
            updates=updates,
            train_loss=loss_sum / weight_sum if weight_sum else float("nan"),
            test_loss=test_loss,
            auc=auc,
            cost=0.0,
        )
        if test_loss is None:
            self._best = None
        elif self._best is None or test_loss < self._best[0]:
            self._best = test_loss, auc, weights, intercept
        self._history.append(record)
        self._supervisor.last_record = record
        self._shown.record(record)
        return record

    def _reason_to_stop(self, record: Record) -> str | None:
        options = self._options
        called = [callback(record) for callback in options.callbacks]
        if any(called):
            return "callback"
        if record.test_loss is None:
            return None
        if options.threshold_loss is not None and record.test_loss <= options.threshold_loss:
            return "threshold_loss"
        if record.test_loss < self._reference - options.epsilon:
            self._reference, self._stale = record.test_loss, 0
        else:
            self._stale += 1
        # Not before every row was seen once: the first steps of some data lead nowhere for a while.
        seen_all = record.rows >= self._plan.n_train
        if options.epsilon > 0 and self._stale >= options.patience and seen_all:
            return "converged"
        return None

    def _chosen(self) -> tuple[float | None, float | None, LinearModel]:
        if self._best is not None:
            test_loss, auc, weights, intercept = self._best
            return test_loss, auc, self._plan.model(weights, intercept)
        weights, intercept = self._store.snapshot()
        return None, None, self._plan.model(weights, intercept)
