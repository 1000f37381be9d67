"""The workers of a run: started, watched, replaced when they die, waited for at the end."""

from __future__ import annotations

import json
import time
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from typing import Any

from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor, WorkerDiedError
from cirrus_fast.backend.redis_run import RedisRun, Store
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import CirrusFastError, TrainingError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.params.local import ACTIVE, STARTED, WAITING
from cirrus_fast.runtime.worker import run_worker

# How often a worker's place is taken by another before the run is given up.
_MOST_DEATHS = 5
# How long an executor may take to start a worker that the others, or the run, wait for.
_START_S = 60.0
# How long a worker may hold the others up without a sign before another takes its place: longer
# than a read takes to be given up (data/s3_get.py). And how long it may look at its data, which it
# goes through where they are text.
_LATE_S, _LOOKING_S = 180.0, 1800.0
# How long one that says ten times a second in the store that it lives may say nothing: longer than
# the store may be away (params/resp.py).
_QUIET_S = 120.0
# What is counted of the time since it was last looked at, for the supervisor may have been held up
# itself.
_MOST_LOOK_S = 1.0
# How long a worker may take to end once it is told to. A chunk of rows takes milliseconds, reading
# the rows that fit its memory some seconds.
_END_S = 30.0


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
        self._launched = time.perf_counter()
        self._deaths = 0
        self._looked = time.perf_counter()
        self._quiet: set[int] = set()  # workers whose place was taken for being silent
        self._late: dict[int, tuple[tuple[int, int, int], float]] = {}
        self.reports: list[dict[str, Any]] = []
        self.rows_repeated = 0

    def launch(self) -> None:
        for worker in range(self._plan.n_workers):
            self._launch(worker)

    def _launch(self, worker: int) -> None:
        generation = self._store.admit(worker)
        clustered = isinstance(self._store, RedisRun) and self._store.clustered
        spec = self._plan.spec(self._task, worker, generation, self._url, clustered=clustered)
        self._launched = time.perf_counter()
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

    def reads_by_epoch(self) -> list[Reads]:
        """The same, without what was read before the first."""
        found: dict[int, Reads] = {}
        for report in self.reports:
            for epoch, reads in report["reads"].items():
                found[int(epoch)] = found.get(int(epoch), Reads()) + Reads(**reads)
        return [found.get(epoch, Reads()) for epoch in range(max(found, default=-1) + 1)]

    @property
    def running(self) -> bool:
        return bool(self._futures)

    def look_after(self) -> None:
        """Takes the reports of those that are done; puts others in the place of the dead."""
        for worker, future in list(self._futures.items()):
            if not future.done():
                continue
            del self._futures[worker]
            if isinstance(future.exception(), KeyboardInterrupt):  # Ctrl-C in a pool's process
                raise KeyboardInterrupt
            try:
                self.reports.append(json.loads(future.result()))
            except BrokenExecutor as error:
                raise _broken(error) from error
            except WorkerDiedError as error:
                self._deaths += 1
                if self._deaths > _MOST_DEATHS:
                    raise TrainingError(f"given up after {self._deaths} deaths: {error}") from error
                self._forfeit(worker)
                notice(f"{error}; another takes its place")
                self._launch(worker)
        if self._futures:
            self._check_start()
            self._end_late()
            self._replace_silent()

    def _replace_silent(self) -> None:
        """Where the model is in servers, a worker that says nothing there has no part in the run,
        whatever its executor thinks: it is stopped, cut off from them, or gone with its machine.
        Another takes its place, and should it wake up, it finds that out.
        """
        store = self._store
        if not isinstance(store, RedisRun):
            return
        for worker, future in list(self._futures.items()):
            state, silent = store.slots[worker]["state"], store.silent_s(worker)
            if state == WAITING and worker in self._quiet and silent > _START_S:
                raise TrainingError(
                    f"worker {worker} was silent, and the executor has started no other in its "
                    f"place in {_START_S:g} s: give it a process more than n_workers"
                )
            most = {STARTED: _LOOKING_S, ACTIVE: _QUIET_S}.get(int(state), silent)
            if silent <= most:
                continue
            if worker in self._quiet:
                raise TrainingError(f"worker {worker} was replaced for being silent, and is again")
            self._quiet.add(worker)
            notice(f"worker {worker} has said nothing for {most:g} s; another takes its place")
            if isinstance(self._executor, ProcessExecutor):
                self._executor.kill(future)
            self._forfeit(worker)
            self._launch(worker)

    def _end_late(self) -> None:
        """Ends a worker process that gives no sign while others wait for it: stopped, or waiting
        for a file system. Its end is then noticed as any other's. A thread cannot be ended."""
        executor = self._executor
        if not isinstance(executor, ProcessExecutor):
            return
        now = time.perf_counter()
        passed, self._looked = min(now - self._looked, _MOST_LOOK_S), now
        for worker, future in self._futures.items():
            stands = self._store.progress(worker)
            before, late = self._late.get(worker, (stands, 0.0))
            if stands != before or not self._store.holds_up(worker):
                late = -passed
            late += passed
            most = _LOOKING_S if stands[0] == STARTED else _LATE_S
            if late > most:
                notice(f"worker {worker} has given no sign for {most:g} s; it is ended")
                executor.kill(future)
                late = 0.0
            self._late[worker] = stands, late

    def _check_start(self) -> None:
        """Without this, a run would wait for ever for an executor that has no place."""
        if time.perf_counter() - self._launched <= _START_S:
            return
        waiting, wanted = self._store.slots["state"] == WAITING, self._plan.n_workers
        if waiting.all():
            raise TrainingError(
                f"the executor has started none of {wanted} workers in {_START_S:g} s; "
                "is it busy, or without processes?"
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
            elif isinstance(error, WorkerDiedError | BrokenExecutor | KeyboardInterrupt):
                self._forfeit(worker)
            else:
                raise error

    def _forfeit(self, worker: int) -> None:
        """A worker is gone: what it had begun may be in the model, and is not counted."""
        self.rows_repeated += self._store.begun(worker)
        self._store.forfeit(worker)


def _broken(error: BrokenExecutor) -> TrainingError:
    return TrainingError(f"the executor broke: {error}; its processes may have run out of memory")
