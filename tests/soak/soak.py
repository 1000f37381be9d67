"""Runs with random faults, for as long as asked: `make soak-runs MINUTES=10`.

Each round trains with random options on a random executor while a thread does something bad to it:
kills worker processes, stops and continues them, presses Ctrl-C once or twice, lets the time run
out, fills the disk under the checkpoints. A run that ended early goes on from its checkpoint, until
its epochs are done. After every run it is checked that

* it ended for a reason that the fault explains;
* a run to the end has learnt from every row exactly `epochs` times, and says how many more than
  that by an amount that the kills and resumes explain;
* with bsp or one worker, faults that kill nothing leave the model of the undisturbed run, bit for
  bit;
* no worker process, file descriptor or half-written file is left behind.

The first thing that is wrong ends it with exit status 1 and the options of the run.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import cirrus_fast
from cirrus_fast import LogisticRegression, TrainResult
from cirrus_fast.backend import checkpoint
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.data.storage import write_file
from cirrus_fast.errors import StorageError, TrainingError
from cirrus_fast.runtime.worker import CHUNK_ROWS

N_ROWS = 20_000
EXECUTORS = ("local", "processes", "processes", "threads", "pool")
FAULTS = ("none", "kill", "kill", "hang", "interrupt", "interrupt twice", "timeout", "stop", "full")
# The fault decides how a run may end; what ends early goes on from its checkpoint.
REASONS = {
    "none": {"epochs"},
    "kill": {"epochs", "error"},
    "hang": {"epochs"},
    "interrupt": {"epochs", "interrupted", "raised"},
    "interrupt twice": {"epochs", "interrupted", "raised"},
    "timeout": {"epochs", "timeout"},
    "stop": {"epochs", "callback"},
    "full": {"epochs"},
}
MOST_RESUMES = 20


class Wrong(Exception):
    """Something that must not be."""


class Soak:
    def __init__(self, seed: int, folder: Path, faults: Sequence[str] = FAULTS) -> None:
        self.faults = faults
        self.random = random.Random(seed)
        self.folder = folder
        self.tally: Counter[str] = Counter()
        self.references: dict[str, TrainResult] = {}
        self.children: list[ProcessExecutor] = []
        self.interruptible = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        init = ProcessExecutor.__init__

        def noted(executor: ProcessExecutor, *args: Any, **more: Any) -> None:
            init(executor, *args, **more)
            self.children = [executor]

        ProcessExecutor.__init__ = noted  # type: ignore[method-assign]
        cirrus_fast.configure(storage=folder / "store")
        cirrus_fast.make_clicks(folder / "clicks.svm", N_ROWS, seed=seed, hash_bits=12)
        cirrus_fast.load_libsvm(folder / "clicks.svm", "clicks")
        with _pool() as pool:  # the first one opens a file for all that follow
            pool.submit(os.getpid).result()

    def _on_interrupt(self, *_: object) -> None:
        if self.interruptible:  # a late one, when the run is over, is of no account
            raise KeyboardInterrupt

    # One run to its end, with as many resumes as that takes

    def round(self) -> None:
        options = self._options()
        executor = self.random.choice(EXECUTORS)
        killed = resumes = 0
        resume_from = None
        while True:
            # After some, the run is left alone, or it would never end.
            fault = self.random.choice(self.faults) if resumes < MOST_RESUMES else "none"
            more = {"checkpoint_interval": 0.01, "resume_from": resume_from}
            what = f"{options | more} executor={executor} fault={fault}"
            before = _descriptors()
            reason, result = self._run(options | more, executor, fault)
            killed += fault == "kill"
            self.tally[f"{fault}: {reason}"] += 1
            self._check_end(fault, reason, what)
            self._check_left(before, what)
            if reason == "epochs":
                assert result is not None
                self._check_rows(result, options, killed, resumes, what)
                self._check_model(result, options, killed, what)
                break
            if result is not None and result.checkpoint is not None:
                resume_from = result.checkpoint
            else:  # it ended with an error: what it last wrote is there
                resume_from = self._latest() or resume_from
            resumes += 1
        self.tally["rounds"] += 1
        self.tally["resumes"] += resumes
        for path in (self.folder / "store" / "checkpoints").glob("*"):
            path.unlink()

    def _options(self) -> dict[str, Any]:
        pick = self.random.choice
        consistency = pick(("async", "ssp", "bsp"))
        return {
            "dataset": "clicks",
            "epsilon": 0,
            "epochs": self.random.randint(5, 60),
            "eval_interval": pick((0.5, 1.0, 3.0)),
            "consistency": consistency,
            "n_workers": self.random.randint(1, 3),
            "minibatch_size": 2000 if consistency == "bsp" else pick((1, 20, 60)),
            "optimizer": pick(("adagrad", "ftrl", "sgd")),
            "progress": False,
        }

    def _run(
        self, options: dict[str, Any], executor: str, fault: str
    ) -> tuple[str, TrainResult | None]:
        with ExitStack() as stack:
            more: dict[str, Any] = {"executor": executor}
            victims: Callable[[], list[int]] = self._own_processes
            if executor in ("threads", "pool"):
                pool: Executor = ThreadPoolExecutor(3)
                if executor == "pool":
                    pool = _pool()
                    victims = lambda: list(pool._processes or ())  # type: ignore[attr-defined]  # noqa: E731
                more["executor"] = stack.enter_context(pool)
            if fault == "timeout":
                more["timeout"] = self.random.uniform(0.05, 2)
            if fault == "stop":
                after = self.random.randint(1, 20)
                more["callbacks"] = lambda record, seen=Counter(): (
                    seen.update("x") or seen.total() >= after
                )
            if fault == "full":
                stack.enter_context(self._full_disk())
            over = threading.Event()
            trouble = threading.Thread(target=self._trouble, args=(fault, victims, over))
            trouble.start()
            try:
                self.interruptible = True
                result = LogisticRegression(options | more).run()
                self.interruptible = False
                return result.stop_reason, result
            except KeyboardInterrupt:
                return "raised", None
            except TrainingError as error:
                if fault != "kill":
                    raise Wrong(f"{options}: {error}") from error
                return "error", None
            finally:
                self.interruptible = False
                over.set()
                trouble.join()

    def _trouble(self, fault: str, victims: Callable[[], list[int]], over: threading.Event) -> None:
        """What happens to a run meanwhile, in a thread of its own."""
        pause = self.random.uniform(0.05, 1.5)
        if fault == "kill":
            for _ in range(self.random.randint(1, 3)):
                if over.wait(pause):
                    return
                for pid in self.random.sample(found := victims(), min(1, len(found))):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        elif fault == "hang":
            over.wait(pause)
            stopped = victims()
            for what in (signal.SIGSTOP, signal.SIGCONT):
                for pid in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(pid, what)
                time.sleep(0.3)
        elif fault.startswith("interrupt"):
            for _ in range(2 if fault.endswith("twice") else 1):
                if over.wait(pause):
                    return
                os.kill(os.getpid(), signal.SIGINT)
                pause = self.random.uniform(0, 0.05)

    def _own_processes(self) -> list[int]:
        return [pid for executor in self.children for pid in executor.pids]

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Every third checkpoint cannot be written, or so."""

        def write(path: str, data: bytes) -> None:
            if self.random.random() < 0.3:
                raise StorageError(errno.ENOSPC, "No space left on device", path)
            write_file(path, data)

        checkpoint.write_file = write  # type: ignore[attr-defined]
        try:
            yield
        finally:
            checkpoint.write_file = write_file  # type: ignore[attr-defined]

    # What must hold

    def _check_end(self, fault: str, reason: str, what: str) -> None:
        if reason not in REASONS[fault]:
            raise Wrong(f"ended by {reason}: {what}")

    def _check_rows(
        self, result: TrainResult, options: dict[str, Any], killed: int, resumes: int, what: str
    ) -> None:
        wanted = options["epochs"] * N_ROWS
        if result.rows_processed != wanted:
            raise Wrong(f"{result.rows_processed} rows instead of {wanted}: {what}")
        chunk = max(CHUNK_ROWS, options["minibatch_size"])
        most = (3 * killed + 2 * options["n_workers"] * resumes) * chunk
        if not 0 <= result.rows_repeated <= most:
            raise Wrong(f"{result.rows_repeated} rows twice, more than {most}: {what}")

    def _check_model(
        self, result: TrainResult, options: dict[str, Any], killed: int, what: str
    ) -> None:
        weights = result.model.weights
        if not np.isfinite(weights).all():
            raise Wrong(f"the model has numbers that are none: {what}")
        repeatable = options["consistency"] == "bsp" or options["n_workers"] == 1
        if killed or not repeatable:
            return
        key = repr(sorted(options.items()))
        if key not in self.references:
            self.references = {key: LogisticRegression(options).run()}
        if weights.tobytes() != self.references[key].model.weights.tobytes():
            raise Wrong(f"not the model of the undisturbed run: {what}")

    def _check_left(self, descriptors: set[str], what: str) -> None:
        until = time.monotonic() + 20
        while self._own_processes() and time.monotonic() < until:
            time.sleep(0.01)
        if self._own_processes():
            raise Wrong(f"left processes {self._own_processes()}: {what}")
        while _descriptors() - descriptors and time.monotonic() < until:
            gc.collect()
            time.sleep(0.05)
        if _descriptors() - descriptors:
            raise Wrong(f"left open {_descriptors() - descriptors}: {what}")
        left = list((self.folder / "store" / "checkpoints").glob("*.tmp"))
        if left:
            raise Wrong(f"left {left}: {what}")

    def _latest(self) -> str | None:
        found = list((self.folder / "store" / "checkpoints").glob("*.npz"))
        return str(max(found, key=lambda path: path.stat().st_mtime_ns)) if found else None


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(3, mp_context=get_context("spawn"))


def _descriptors() -> set[str]:
    """Open files, by number and name."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            found.add(f"{link.name} {link.readlink()}")
    return {one for one in found if "/proc/" not in one}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--fault", choices=sorted(REASONS), action="append", help="only this one")
    given = parser.parse_args()
    logging.getLogger("cirrus_fast").setLevel(logging.ERROR)
    print(f"seed {given.seed}", flush=True)
    until = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(given.seed, Path(folder), given.fault or FAULTS)
        try:
            soak.round()
            while time.monotonic() < until:
                soak.round()
        except Wrong as wrong:
            print(f"wrong: {wrong}", file=sys.stderr)
            return 1
        finally:
            for what, times in sorted(soak.tally.items()):
                print(f"{times:6} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
