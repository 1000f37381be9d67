"""Workers as processes of this machine, behind the executor interface.

Each call is a fresh `python -m cirrus_fast.runtime.worker` with the spec on its standard input. The
pipe stays open as a sign of life: a worker whose supervisor is gone ends itself. Workers have a
session of their own, so that Ctrl-C reaches the supervisor alone, which then ends them in order.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import cirrus_fast
from cirrus_fast.errors import TrainingError, WorkerDiedError, told
from cirrus_fast.notices import notice
from cirrus_fast.runtime.worker import run_worker

_LAST_WORDS = 2000
# How long a worker may take to end by itself once its pipe is closed.
_GRACE_S = 5.0


class ProcessExecutor(Executor):
    """Runs `run_worker`, and nothing else, one process a call."""

    def __init__(
        self, inherited: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """inherited : file descriptors that workers shall have under the same numbers
        environment : variables that they shall have beside ours
        """
        self._more = dict(environment or {})
        self._inherited = tuple(inherited)
        self._processes: set[subprocess.Popen[str]] = set()
        self._futures: dict[Future[str], subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is not run_worker or len(args) != 1 or kwargs:
            raise TrainingError("worker processes run cirrus_fast.runtime.worker.run_worker only")
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down")
            process = subprocess.Popen(
                # -P: not what happens to lie in the current folder.
                [sys.executable, "-P", "-m", "cirrus_fast.runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=self._inherited,
                start_new_session=True,
                env=_environment() | self._more,
            )
            self._processes.add(process)
        future: Future[str] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._futures[future] = process
        thread = threading.Thread(target=self._attend, args=(process, args[0], future), daemon=True)
        self._threads.append(thread)
        thread.start()
        return future

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        with self._lock:
            return [process.pid for process in self._processes]

    def kill(self, future: Future[str]) -> None:
        """Ends the process of a call, which then fails with WorkerDiedError."""
        with self._lock:
            process = self._futures.get(future)
            if process is not None:
                process.kill()

    def _attend(self, process: subprocess.Popen[str], spec: str, future: Future[str]) -> None:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.append(stderr.read()), daemon=True)
        listener.start()
        with suppress(BrokenPipeError):
            stdin.write(spec + "\n")
            stdin.flush()
        answer = stdout.read()
        with suppress(BrokenPipeError):
            stdin.close()
        process.wait()
        listener.join()
        stdout.close()
        stderr.close()
        with self._lock:
            self._processes.discard(process)
            del self._futures[future]
        words = "".join(said)
        if answer:  # else they are its last words, which the error tells
            for line in filter(None, map(str.strip, words.splitlines())):
                notice(line)
        try:
            future.set_result(_report(answer, process.returncode, words))
        except BaseException as error:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes the workers' pipes, which ends them; with `wait`, until they are gone."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        if cancel_futures:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
        if not wait:
            return
        self._join(_GRACE_S if cancel_futures else None)
        with self._lock:
            left = list(self._processes)
        for process in left:
            process.kill()
        self._join(_GRACE_S)

    def _join(self, seconds: float | None) -> None:
        """Waits for the workers to be gone, at most so long for all of them."""
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))


def _report(answer: str, status: int, said: str) -> str:
    """The report in a worker's answer, or its error raised here."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        words = said.strip()[-_LAST_WORDS:]
        cause = f"signal {_signal_name(-status)}" if status < 0 else f"exit status {status}"
        tail = f"; its last words: {words}" if words else ""
        raise WorkerDiedError(f"a worker process died ({cause}){tail}") from None
    if "error" in parsed:
        raise told(*parsed["error"])
    return json.dumps(parsed["report"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have none
        return str(number)


def _environment() -> dict[str, str]:
    """Ours, with the package we run findable, wherever this process found it."""
    home = str(Path(cirrus_fast.__file__).resolve().parent.parent)
    path = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}
