"""The workers of a run: started, watched, replaced when they die, waited for at the end."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from typing import Any

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.backend.redis_run import MOST_LOOK_S, RedisRun, Store
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import CirrusFastError, FunctionError, TrainingError, WorkerDiedError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.params.local import ACTIVE, FINISHED, STARTED, WAITING
from cirrus_fast.runtime.worker import run_worker

# How often in a row a worker dies in one way, without learning from a row in between, before the
# run is given up. What is out of memory will be so again, however far it gets.
_MOST_DEATHS = 5
_MOST_OF = {"out of memory": 2, "timed out": 3, "sandbox died": 10, "unavailable": 20}
# How often in a row a worker hands over without having learnt from a row.
_MOST_IDLE = 3
# How long a rented function may give no sign once it is called, and one whose answer is lost. It
# gives ten a second.
_SILENT_S, _UNANSWERED_S = 60.0, 5.0
_NAP_S = 0.05
# How a worker ends that was told to, and whose report nobody needs.
_GONE = (WorkerDiedError, FunctionError, BrokenExecutor, KeyboardInterrupt)
# How long an executor may take to start a worker that the others, or the run, wait for.
_START_S = 60.0
# How long a worker may hold the others up without a sign before another takes its place: longer
# than a read takes to be given up (data/s3_get.py). And how long it may look at its data, which it
# goes through where they are text.
_LATE_S, _LOOKING_S = 180.0, 1800.0
# How long one that says ten times a second in the store that it lives may say nothing: longer than
# the store may be away (params/resp.py).
_QUIET_S = 120.0
# How long a worker may take to end once it is told to. A chunk of rows takes milliseconds, reading
# the rows that fit its memory some seconds.
_END_S = 30.0


def most_deaths(kind: str) -> int:
    """How often in a row workers may die in this way, until that is taken for the run's fault."""
    return _MOST_OF.get(kind, _MOST_DEATHS)


class Workers:
    """Those of one run, by number.

    Attributes
    ----------
    reports : of those that ended (`runtime.worker.WorkerReport`)
    rows_repeated : rows that may have been learnt from twice, or once without being counted, by
        workers that died
    """

    def __init__(self, plan: Plan, task: str, store: Store, url: str, executor: Executor) -> None:
        self._plan = plan
        self._task = task
        self._store = store
        self._url = url
        self._executor = executor
        self._futures: dict[int, Future[str]] = {}
        self._looked = time.perf_counter()
        self._since_launch = 0.0  # seconds, of those in which workers were looked after
        # By worker and way: how often in a row, and the rows learnt from by then.
        self._deaths: dict[tuple[int, str], tuple[int, int]] = {}
        self._unanswered: set[int] = set()  # workers whose answer is lost, and who may live
        # Where each worker stands, and how long that has kept others waiting.
        self._late: dict[int, tuple[tuple[int, int, int], float]] = {}
        self._silent: set[int] = set()  # workers whose place was taken for being silent
        self.reports: list[dict[str, Any]] = []
        self.rows_repeated = 0

    def launch(self) -> None:
        for worker in range(self._plan.n_workers):
            self._launch(worker)

    def _launch(self, worker: int) -> None:
        generation = self._store.admit(worker)
        clustered = isinstance(self._store, RedisRun) and self._store.clustered
        spec = self._plan.spec(self._task, worker, generation, self._url, clustered=clustered)
        self._since_launch = 0.0
        try:
            self._futures[worker] = self._executor.submit(run_worker, spec.to_json())
        except CirrusFastError:
            raise
        except BrokenExecutor as error:
            raise _broken(error) from error
        except (OSError, RuntimeError) as error:  # no process to be had; it was shut down
            raise TrainingError(f"the executor takes no worker: {error}") from error

    def reads(self) -> Reads:
        """From a server, by those that ended."""
        return sum((Reads(**one) for r in self.reports for one in r["reads"].values()), Reads())

    @property
    def for_a_core(self) -> float | None:
        """Seconds of pulls and pushes in which workers stood in line for a core, if they tell."""
        told = [r["for_a_core"] for r in self.reports if r.get("for_a_core") is not None]
        return sum(told) if told else None

    def reads_by_epoch(self) -> list[Reads]:
        """The same, without what was read before the first."""
        found: dict[int, Reads] = {}
        for report in self.reports:
            for epoch, reads in report["reads"].items():
                found[int(epoch)] = found.get(int(epoch), Reads()) + Reads(**reads)
        return [found.get(epoch, Reads()) for epoch in range(max(found, default=-1) + 1)]

    @property
    def running(self) -> bool:
        return bool(self._futures or self._unanswered)

    def look_after(self) -> None:
        """Takes the reports of those that are done; puts others in the place of the dead."""
        now = time.perf_counter()
        passed, self._looked = min(now - self._looked, MOST_LOOK_S), now
        self._since_launch += passed
        for worker, future in list(self._futures.items()):
            if not future.done():
                continue
            del self._futures[worker]
            if isinstance(future.exception(), KeyboardInterrupt):  # Ctrl-C in a pool's process
                raise KeyboardInterrupt
            try:
                report = json.loads(future.result())
            except BrokenExecutor as error:
                raise _broken(error) from error
            except WorkerDiedError as error:
                if error.answer_lost and isinstance(self._store, RedisRun):
                    self._unanswered.add(worker)
                else:
                    self._replace(worker, error)
                continue
            self.reports.append(report)
            if report["handed_over"]:
                self._go_on(worker)
            elif isinstance(self._store, RedisRun):
                self._store.ended(worker)
        for worker in list(self._unanswered):
            self._look_for(worker)
        if self._futures:
            self._check_start()
            self._replace_silent(passed)

    def _replace_silent(self, passed: float) -> None:
        """Ends workers that give no sign: stopped, cut off from the store, gone with their machine,
        or waiting for a file system. A thread cannot be ended. Of anybody's executor, and with the
        model in servers, another takes the place; should the silent one wake up, it finds that out.

        passed : seconds since this was last done
        """
        executor, store = self._executor, self._store
        for worker, future in list(self._futures.items()):
            most = self._silent_for(worker, future, passed)
            if not most:
                continue
            if isinstance(executor, ProcessExecutor | LambdaExecutor):
                notice(f"worker {worker} has given no sign for {most:g} s; it is ended")
                executor.kill(future)  # which is noticed as any other's end
            elif isinstance(store, RedisRun):
                if store.slots[worker]["state"] == WAITING:
                    raise TrainingError(
                        f"worker {worker} was silent, and the executor has started no other in its "
                        f"place in {most:g} s: give it a process more than n_workers"
                    )
                if worker in self._silent:
                    raise TrainingError(f"worker {worker} was replaced for silence, and is silent")
                self._silent.add(worker)
                notice(f"worker {worker} has given no sign for {most:g} s; another goes on")
                self._forfeit(worker)
                self._launch(worker)

    def _silent_for(self, worker: int, future: Future[str], passed: float) -> float:
        """How long a worker has given no sign, at least, if that is too long; else 0.

        A sign is what it says in the store, where the model is in servers; and that it gets on,
        while others wait for it.
        """
        store, executor = self._store, self._executor
        stands = store.progress(worker)
        starts_at_once = isinstance(executor, ProcessExecutor)
        before, late = self._late.get(worker, (stands, 0.0))
        awaited = store.holds_up(worker) and (starts_at_once or stands[0] != WAITING)
        late = late + passed if awaited and stands == before else 0.0
        self._late[worker] = stands, late
        most = _LOOKING_S if stands[0] == STARTED else _LATE_S
        if late > most:
            self._late[worker] = stands, 0.0
            return most
        if not isinstance(store, RedisRun):
            return 0.0
        silent = store.silent_s(worker)
        if isinstance(executor, LambdaExecutor):
            most, silent = _SILENT_S, min(silent, executor.running_s(future))
        elif stands[0] == ACTIVE:
            most = _QUIET_S
        elif stands[0] != STARTED:
            waited_for = stands[0] == WAITING and worker in self._silent
            most = _START_S if waited_for else math.inf
        return most if silent > most else 0.0

    def _replace(self, worker: int, error: WorkerDiedError) -> None:
        """Another takes the place of one that died, unless that happens again and again."""
        n = self._in_a_row(worker, error.kind)
        if n > most_deaths(error.kind):
            raise TrainingError(f"given up after {n} deaths: {error}") from error
        self._forfeit(worker)
        notice(f"worker {worker}: {error}; another takes its place")
        self._launch(worker)

    def _go_on(self, worker: int) -> None:
        """Another goes on where one handed over."""
        n = self._in_a_row(worker, "handed over")
        if n > _MOST_IDLE:
            raise TrainingError(
                f"worker {worker} has handed over {n} times without learning from a row: the "
                "function's timeout is too short for what a worker does first; raise it"
            )
        self._launch(worker)

    def _in_a_row(self, worker: int, way: str) -> int:
        """How often a worker has ended so by now; learning from rows begins the count again."""
        _ = self._store.rows  # all that it said
        rows = self._store.progress(worker)[1]
        n, before = self._deaths.get((worker, way), (0, -1))
        if rows > before and way != "out of memory":
            n = 0
        self._deaths[worker, way] = n + 1, rows
        return n + 1

    def _look_for(self, worker: int) -> None:
        """The truth is what a worker says in the store, and not what became of the way to it."""
        store = self._store
        assert isinstance(store, RedisRun)
        if store.progress(worker)[0] == FINISHED:
            self._unanswered.discard(worker)
            notice(f"worker {worker}: its report is lost; its rows are not")
        elif store.silent_s(worker) > _UNANSWERED_S:
            self._unanswered.discard(worker)
            why = "its answer is lost, and it gives no sign"
            self._replace(worker, WorkerDiedError(why, "sandbox died"))

    def _check_start(self) -> None:
        """Without this, a run would wait for ever for an executor that has no place."""
        executor = self._executor
        patience, trouble = _START_S, "is it busy, or without processes?"
        if isinstance(executor, LambdaExecutor):
            patience = executor.patience_s
            trouble = executor.trouble or "what does its log say? (cirrus-fast logs)"
        if self._since_launch <= patience:
            return
        waiting, wanted = self._store.slots["state"] == WAITING, self._plan.n_workers
        if waiting.all():
            raise TrainingError(
                f"the executor has started none of {wanted} workers in {patience:g} s; {trouble}"
            )
        consistency = self._plan.options.consistency
        if consistency != "async" and waiting.any():
            raise TrainingError(
                f"the executor has started {wanted - int(waiting.sum())} of {wanted} workers, and "
                f"with consistency={consistency!r} they wait for each other; "
                "give it as many processes, or lower n_workers"
            )

    def gather(self) -> None:
        """Waits for the workers to end, as they were told to. What dies now is not replaced."""
        running = {w: f for w, f in self._futures.items() if not f.cancel()}
        wait(running.values(), _END_S)
        for worker, future in running.items():
            if not future.done():
                notice(f"worker {worker} has not ended in {_END_S:g} s; the run ends without it")
                self._forfeit(worker)
                self._store.admit(worker)  # should it wake up, it must not touch the model
                continue
            error = future.exception()
            if error is None:
                self.reports.append(json.loads(future.result()))
            elif isinstance(error, _GONE):
                self._forfeit(worker)
            else:
                raise error

        until = time.perf_counter() + _UNANSWERED_S
        while self._unanswered and time.perf_counter() < until:
            _ = self._store.rows
            self._unanswered = {
                w for w in self._unanswered if self._store.progress(w)[0] != FINISHED
            }
            time.sleep(_NAP_S)
        for worker in self._unanswered:
            self._forfeit(worker)

    def _forfeit(self, worker: int) -> None:
        """A worker is gone: what it had begun may be in the model, and is not counted."""
        self.rows_repeated += self._store.begun(worker)
        self._store.forfeit(worker)


def _broken(error: BrokenExecutor) -> TrainingError:
    return TrainingError(f"the executor broke: {error}; its processes may have run out of memory")
