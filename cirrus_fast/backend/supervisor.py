"""Starting workers, watching them, measuring the model, stopping at the right time."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event

from cirrus_fast.backend.checkpoint import Best, Checkpoint
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor, WorkerDiedError
from cirrus_fast.backend.progress import Reporter, reporter
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.result import PHASES, Record, TrainResult
from cirrus_fast.data.storage import local_path, storage_root
from cirrus_fast.errors import TrainingError
from cirrus_fast.notices import notice
from cirrus_fast.options import Options
from cirrus_fast.runtime.params import local
from cirrus_fast.runtime.params.local import ACTIVE, WAITING, LocalStore
from cirrus_fast.runtime.worker import run_worker

# How soon a stop asked for, a timeout or a dead worker is seen.
_POLL_S = 0.05
# How often a worker's place is taken by another before the run is given up.
_MOST_DEATHS = 5
# How long an executor may take to start a worker that the others wait for.
_START_S = 60.0


class Supervisor:
    """One run. `run` may be called in any thread; `stop` and `last_record` from any other."""

    def __init__(self, options: Options) -> None:
        self._options = options
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
        plan = Plan.make(self._options)
        task = uuid.uuid4().hex[:12]
        store = plan.create_store(task)
        try:
            with (
                _executor(plan, task, store) as (executor, url),
                reporter(self._options.progress, self._options.epochs * plan.n_train) as shown,
            ):
                return _Watch(self, plan, task, store, url, executor, shown).follow(began)
        finally:
            store.close()


@contextmanager
def _executor(plan: Plan, task: str, store: LocalStore) -> Iterator[tuple[Executor, str]]:
    """Where workers run, and the store's URL for workers there."""
    chosen = plan.options.executor
    if chosen == "local":
        pool = ThreadPoolExecutor(plan.n_workers, thread_name_prefix="cirrus-worker")
        try:
            yield pool, local.publish(task, store)
        finally:
            store.stop()
            pool.shutdown()
            local.withdraw(task)
    elif chosen == "processes":
        processes = ProcessExecutor(inherited=[store.descriptor])
        try:
            yield processes, local.shared_url(store, inherited=True)
        finally:
            store.stop()
            processes.shutdown(cancel_futures=True)
    else:  # the user's own, which stays open
        assert isinstance(chosen, Executor)
        try:
            yield chosen, local.shared_url(store, inherited=False)
        finally:
            store.stop()


class _Watch:
    """The supervisor's view of a run under way."""

    def __init__(
        self,
        supervisor: Supervisor,
        plan: Plan,
        task: str,
        store: LocalStore,
        url: str,
        executor: Executor,
        shown: Reporter,
    ) -> None:
        self._supervisor = supervisor
        self._plan = plan
        self._options = plan.options
        self._task = task
        self._store = store
        self._url = url
        self._executor = executor
        self._shown = shown
        self._history: list[Record] = []
        self._best: Best | None = None
        self._reference = float("inf")
        self._stale = 0
        self._losses = (0.0, 0.0)
        self._seconds_before = 0.0
        self._futures: dict[int, Future[str]] = {}
        self._reports: list[dict[str, float]] = []
        self._deaths = 0
        self._repeated = 0
        self._checkpoint_path: str | None = None
        self._checkpoint_due = float("inf")

    # The course of a run

    def follow(self, began: float) -> TrainResult:
        options, plan, store = self._options, self._plan, self._store
        if options.resume_from is not None:
            self._resume(options.resume_from)
        self._due_rows = self._next_rows(store.rows)
        # Workers wait while the model is measured where that makes the run repeatable; else they
        # go on, and what is measured is a moment of theirs.
        self._paced = options.consistency == "bsp" or plan.n_workers == 1
        if self._paced:
            store.allow(self._due_rows)
        launched = time.perf_counter()
        self._deadline = began + (options.timeout or float("inf"))
        if options.checkpoint_interval is not None:
            self._checkpoint_path = _checkpoint_path(self._task)
            self._checkpoint_due = launched + options.checkpoint_interval
        for worker in range(plan.n_workers):
            self._launch(worker)
        try:
            reason = self._watch()
        except KeyboardInterrupt:
            reason = "interrupted"
        store.stop()
        self._gather()
        # Before the closing measurement, which a run that goes on would not make here.
        self._save_checkpoint()
        last = None
        if store.rows > self._rows_measured or not self._history:
            last = self._measure()
        if last is not None:
            for callback in options.callbacks:
                callback(last)
        breakdown = {
            phase: sum(report.get(phase, 0.0) for report in self._reports) for phase in PHASES
        }
        breakdown["start_up"] += launched - began
        test_loss, auc, model = self._chosen()
        return TrainResult(
            model=model,
            history=self._history,
            test_loss=test_loss,
            auc=auc,
            breakdown=breakdown,
            seconds=self._history[-1].seconds,
            cost=0.0,
            rows_processed=store.rows,
            rows_repeated=self._repeated,
            stop_reason=reason,
            n_workers=plan.n_workers,
            executor=options.executor_name,
            param_store=options.param_store,
            checkpoint=self._checkpoint_path,
            params=plan.params,
        )

    def _watch(self) -> str:
        """Follows the run to its end; returns why it ended."""
        while True:
            left = self._deadline - time.perf_counter()
            if left <= 0:
                return "timeout"
            if self._supervisor.stop_asked:
                return "stopped"
            rows = self._store.wait(self._due_rows, min(_POLL_S, left))
            self._shown.rows(rows)
            self._look_after_workers()
            if rows >= self._due_rows:
                record = self._measure()
                self._due_rows = self._next_rows(record.rows)
                reason = self._reason_to_stop(record)
                if reason:
                    return reason
                if time.perf_counter() >= self._checkpoint_due:
                    self._save_checkpoint()
                if self._paced:
                    self._store.allow(self._due_rows)
            elif not self._futures and self._store.rows < self._due_rows:
                return "epochs"

    def _next_rows(self, rows: int) -> int:
        """Rows at which the next evaluation is due, after these."""
        every = self._plan.eval_rows
        return (rows // every + 1) * every

    @property
    def _rows_measured(self) -> int:
        return self._history[-1].rows if self._history else 0

    # Workers

    def _launch(self, worker: int) -> None:
        generation = self._store.admit(worker)
        spec = self._plan.spec(self._task, worker, generation, self._url)
        self._launched = time.perf_counter()
        self._futures[worker] = self._executor.submit(run_worker, spec.to_json())

    def _look_after_workers(self) -> None:
        """Takes the reports of those that are done; puts others in the place of the dead."""
        for worker, future in list(self._futures.items()):
            if not future.done():
                continue
            del self._futures[worker]
            if isinstance(future.exception(), KeyboardInterrupt):  # Ctrl-C in a pool's process
                raise KeyboardInterrupt
            try:
                self._reports.append(json.loads(future.result()))
            except BrokenExecutor as error:
                raise TrainingError(
                    f"the executor broke: {error}; its processes may have run out of memory"
                ) from error
            except WorkerDiedError as error:
                self._deaths += 1
                if self._deaths > _MOST_DEATHS:
                    raise TrainingError(f"given up after {self._deaths} deaths: {error}") from error
                self._repeated += self._store.begun(worker)
                notice(f"{error}; another takes its place")
                self._launch(worker)
        states = self._store.slots["state"]
        late = time.perf_counter() - self._launched > _START_S
        if self._options.consistency != "async" and late and (states == WAITING).any():
            started = int((states != WAITING).sum())
            raise TrainingError(
                f"the executor has started {started} of {self._plan.n_workers} workers, and with "
                f"consistency={self._options.consistency!r} they wait for each other; "
                "give it as many processes, or lower n_workers"
            )

    def _gather(self) -> None:
        """Waits for the workers to end. What dies now is not replaced."""
        running = {w: f for w, f in self._futures.items() if not f.cancel()}
        wait(running.values())
        for worker, future in running.items():
            error = future.exception()
            if error is None:
                self._reports.append(json.loads(future.result()))
            elif isinstance(error, WorkerDiedError | BrokenExecutor | KeyboardInterrupt):
                self._repeated += self._store.begun(worker)
            else:
                raise error

    # Measuring and stopping

    def _measure(self) -> Record:
        """Takes a snapshot, measures it, keeps it if it is the best."""
        store = self._store
        loss_before, weight_before = self._losses
        self._losses = store.losses()
        loss, weight = self._losses[0] - loss_before, self._losses[1] - weight_before
        rows, updates = store.rows, store.updates
        first_step = store.first_step
        seconds = self._seconds_before
        if first_step is not None:
            seconds += time.monotonic() - first_step
        weights, intercept = store.snapshot()
        test_loss = auc = None
        if self._plan.test is not None:
            test_loss, auc = self._plan.test.measure(weights, intercept)
            if self._best is None or test_loss < self._best.test_loss:
                self._best = Best(test_loss, auc, weights, intercept)
        record = Record(
            seconds=seconds,
            rows=rows,
            updates=updates,
            train_loss=loss / weight if weight else float("nan"),
            test_loss=test_loss,
            auc=auc,
            cost=0.0,
        )
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
        """The best model on the test rows, or the last one without any."""
        if self._best is not None:
            best = self._best
            return best.test_loss, best.auc, self._plan.model(best.weights, best.intercept)
        return None, None, self._plan.model(*self._store.snapshot())

    # Checkpoints

    def _save_checkpoint(self) -> None:
        if self._checkpoint_path is None:
            return
        store = self._store
        # Positions first: a worker that moves on meanwhile repeats a few rows, and skips none.
        slots, state = store.slots.copy(), store.merged_state()
        Checkpoint(
            options=self._options.to_json(),
            dataset_id=self._plan.dataset.id,
            state=state,
            slots=slots,
            round=int(store.control["round"]),
            seconds=self._history[-1].seconds if self._history else 0.0,
            history=self._history,
            best=self._best,
            reference=self._reference,
            stale=self._stale,
        ).save(self._checkpoint_path)
        interval = self._options.checkpoint_interval or float("inf")
        self._checkpoint_due = time.perf_counter() + interval

    def _resume(self, path: str) -> None:
        kept = Checkpoint.load(path)
        store = self._store
        kept.check(self._options.to_json(), self._plan.dataset.id, path)
        if len(kept.slots) != len(store.slots) or len(kept.state) != len(store.state):
            raise TrainingError(
                f"{path}: has {len(kept.slots)} workers, this run {len(store.slots)}; "
                "give the same n_workers"
            )
        store.state[:] = kept.state
        store.slots[:] = kept.slots
        store.slots["state"] = ACTIVE
        store.slots["first_step"] = 0
        store.control["round"] = kept.round
        self._history = list(kept.history)
        self._best, self._reference, self._stale = kept.best, kept.reference, kept.stale
        self._seconds_before = kept.seconds
        self._losses = store.losses()


def _checkpoint_path(task: str) -> str:
    return str(local_path(storage_root()).resolve() / "checkpoints" / f"{task}.npz")
