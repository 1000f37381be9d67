"""Passes of a search on an executor: processes of ours, functions, or the user's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.backend.workers import most_deaths
from cirrus_fast.errors import CirrusFastError, TrainingError, WorkerDiedError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.grid_worker import GridTask
from cirrus_fast.runtime.tasks import run_task

# How long a search may not know that it is to end.
_POLL_S = 0.2


@contextmanager
def opened(chosen: str | Executor, environment: Mapping[str, str]) -> Iterator[Executor | None]:
    """What an executor's name means; None: this process.

    environment : what processes of ours need beside
    """
    if isinstance(chosen, Executor) or chosen == "local":
        yield chosen if isinstance(chosen, Executor) else None
        return
    ours = LambdaExecutor() if chosen == "lambda" else ProcessExecutor(environment=environment)
    try:
        yield ours
    finally:
        ours.shutdown(cancel_futures=True)


def run_passes(
    executor: Executor,
    tasks: Sequence[GridTask],
    look: Callable[[], object],
    interrupted: Callable[[], object],
) -> Iterator[tuple[GridTask, float]]:
    """Workers' tasks as they end, each with the generation that ended it, and what all generations
    were billed: seconds, of functions. A worker that dies is begun anew, with the same answer; what
    one hands over another goes on with.

    look : called some times a second, and may ask them to end
    interrupted : called at the first KeyboardInterrupt, which asks them to; a second one is raised
    """
    asked = False
    billed = dict.fromkeys((task.worker for task in tasks), 0.0)
    deaths: Counter[tuple[int, str]] = Counter()
    stood = dict.fromkeys((task.worker for task in tasks), -1)
    running: dict[Future[str], GridTask] = {}
    try:
        running |= {_submit(executor, task): task for task in tasks}
        while running:
            try:
                done, _ = wait(running, _POLL_S, return_when=FIRST_COMPLETED)
                look()
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                interrupted()
                continue
            for future in done:
                task = running.pop(future)
                if isinstance(executor, LambdaExecutor):
                    billed[task.worker] += executor.billed_s(future)
                try:
                    answer: dict[str, Any] = json.loads(future.result())
                except BrokenExecutor as error:
                    raise TrainingError(f"the executor broke: {error}") from error
                except WorkerDiedError as error:
                    deaths[task.worker, error.kind] += 1
                    n = deaths[task.worker, error.kind]
                    if n > most_deaths(error.kind):
                        raise TrainingError(f"given up after {n} deaths: {error}") from error
                    notice(f"{error}; another takes its place")
                    following = replace(task, generation=task.generation + 1)
                else:
                    if not answer["handed_over"]:
                        yield task, billed[task.worker]
                        continue
                    _check_progress(task.worker, stood[task.worker], answer["rows"])
                    stood[task.worker] = answer["rows"]
                    following = replace(
                        task, generation=task.generation + 1, goes_on=task.generation
                    )
                running[_submit(executor, following)] = following
    finally:
        for future in running:
            future.cancel()


def _check_progress(worker: int, before: int, rows: int) -> None:
    if rows <= before:
        raise TrainingError(
            f"worker {worker} has handed over without learning from a row: the function's timeout "
            "is too short for what it does first; raise it, or give each function fewer models "
            "with n_workers"
        )


def _submit(executor: Executor, task: GridTask) -> Future[str]:
    try:
        return executor.submit(run_task, task.to_json())
    except CirrusFastError:
        raise
    except (OSError, RuntimeError) as error:  # no process to be had; it was shut down
        raise TrainingError(f"the executor takes no worker: {error}") from error
