"""Passes of a search on an executor: processes of ours, or the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Any

from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.errors import CirrusFastError, TrainingError, WorkerDiedError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.grid_worker import GridWorkerSpec
from cirrus_fast.runtime.worker import run_worker

# How often workers may die before a search is given up. Another begins anew, with the same answer.
_MOST_DEATHS = 5


def run_elsewhere(
    chosen: str | Executor, specs: Sequence[GridWorkerSpec], environment: Mapping[str, str]
) -> Iterator[tuple[GridWorkerSpec, dict[str, Any]]]:
    """The answers of workers with these specs, as they come.

    environment : what processes of ours need beside
    """
    ours = ProcessExecutor(environment=environment) if not isinstance(chosen, Executor) else None
    executor: Executor = ours if ours is not None else chosen  # type: ignore[assignment]
    deaths = 0
    running: dict[Future[str], GridWorkerSpec] = {}
    try:
        running |= {_submit(executor, spec): spec for spec in specs}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                spec = running.pop(future)
                try:
                    answer = json.loads(future.result())
                except BrokenExecutor as error:
                    raise TrainingError(f"the executor broke: {error}") from error
                except WorkerDiedError as error:
                    deaths += 1
                    if deaths > _MOST_DEATHS:
                        raise TrainingError(f"given up after {deaths} deaths: {error}") from error
                    notice(f"{error}; another takes its place")
                    running[_submit(executor, spec)] = spec
                    continue
                yield spec, answer
    finally:
        for future in running:
            future.cancel()
        if ours is not None:
            ours.shutdown(cancel_futures=True)


def _submit(executor: Executor, spec: GridWorkerSpec) -> Future[str]:
    try:
        return executor.submit(run_worker, json.dumps(spec.to_raw()))
    except CirrusFastError:
        raise
    except (OSError, RuntimeError) as error:  # no process to be had; it was shut down
        raise TrainingError(f"the executor takes no worker: {error}") from error
