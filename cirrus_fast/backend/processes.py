"""Workers as processes of this machine, behind the executor interface.

Each call is a process of its own, forked from one that has imported what workers need
(runtime/nursery.py), with the spec on its standard input. The pipe stays open as a sign of life: a
worker whose supervisor is gone ends itself. Workers are in another session, so that Ctrl-C reaches
the supervisor alone, which then ends them in order.
"""

from __future__ import annotations

import json
import os
import signal
import socket
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
from cirrus_fast.runtime.nursery import NEWS, STARTED
from cirrus_fast.runtime.tasks import run_task
from cirrus_fast.runtime.worker import run_worker

_LAST_WORDS = 2000
# How long a worker may take to end by itself once its pipe is closed.
_GRACE_S = 5.0


class _Worker:
    """A process that a nursery has started."""

    def __init__(self, pid: int, streams: Sequence[int]) -> None:
        """streams : this side's ends of its standard ones"""
        self.pid = pid
        self.stdin = os.fdopen(streams[0], "w", encoding="utf-8")
        self.stdout = os.fdopen(streams[1], encoding="utf-8")
        self.stderr = os.fdopen(streams[2], encoding="utf-8", errors="replace")
        self._status: Future[int] = Future()

    def wait(self) -> int:
        """Its exit status, as subprocess has it."""
        return self._status.result()

    def end(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)

    def kill(self) -> None:
        if not self._status.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """With all that it has started."""
        if not self._status.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)


class _Nursery:
    """The process that starts workers."""

    def __init__(self, inherited: Sequence[int], environment: Mapping[str, str]) -> None:
        self._news, theirs = socket.socketpair()
        # -P: not what happens to lie in the current folder.
        command = [sys.executable, "-P", "-m", "cirrus_fast.runtime.nursery", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(*inherited, theirs.fileno()),
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            self._news.close()
            raise
        finally:
            theirs.close()
        self._workers: dict[int, _Worker] = {}
        self._awaited: tuple[Future[_Worker], tuple[int, ...]] | None = None
        self._lock = threading.Lock()
        self.gone = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self) -> _Worker:
        """One more; one at a time."""
        pipes = [os.pipe() for _ in range(3)]  # standard input is read there, the others here
        theirs = [pipe[number > 0] for number, pipe in enumerate(pipes)]
        ours = tuple(pipe[number == 0] for number, pipe in enumerate(pipes))
        begun: Future[_Worker] = Future()
        try:
            with self._lock:
                if self.gone:
                    raise OSError("has ended")
                self._awaited = begun, ours
            socket.send_fds(self._news, [b"+"], theirs)
            return begun.result()
        except OSError as error:
            for one in ours:
                os.close(one)
            raise OSError(f"the process that starts workers: {error}") from error
        finally:
            for one in theirs:
                os.close(one)

    def _listen(self) -> None:
        with suppress(OSError):
            while len(news := self._news.recv(NEWS.size, socket.MSG_WAITALL)) == NEWS.size:
                pid, status = NEWS.unpack(news)
                if status == STARTED:
                    assert self._awaited is not None
                    begun, streams = self._awaited
                    self._awaited = None
                    self._workers[pid] = _Worker(pid, streams)
                    begun.set_result(self._workers[pid])
                else:
                    self._workers.pop(pid).end(os.waitstatus_to_exitcode(status))
        with self._lock:
            self.gone = True
            self._news.close()
            if self._awaited is not None:
                self._awaited[0].set_exception(OSError("has ended"))
        for worker in self._workers.values():  # who knows; nobody can tell
            worker.kill()
            worker.end(-signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """When its workers are gone."""
        with suppress(OSError):
            self._news.shutdown(socket.SHUT_RDWR)
        self._listener.join()


class ProcessExecutor(Executor):
    """Runs `run_worker` and `run_task`, and nothing else, one process a call."""

    def __init__(
        self, inherited: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """inherited : file descriptors that workers shall have under the same numbers
        environment : variables that they shall have beside ours
        """
        self._more = dict(environment or {})
        self._inherited = tuple(inherited)
        self._nursery: _Nursery | None = None
        self._processes: set[_Worker] = set()
        self._futures: dict[Future[str], _Worker] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn not in (run_worker, run_task) or len(args) != 1 or kwargs:
            raise TrainingError("worker processes run run_worker only, and run_task")
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down")
            if self._nursery is None or self._nursery.gone:
                self._nursery = _Nursery(self._inherited, _environment() | self._more)
            process = self._nursery.start()
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

    def _attend(self, process: _Worker, spec: str, future: Future[str]) -> None:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.append(stderr.read()), daemon=True)
        listener.start()
        with suppress(BrokenPipeError):
            stdin.write(spec + "\n")
            stdin.flush()
        answer = stdout.read()
        with suppress(BrokenPipeError):
            stdin.close()
        status = process.wait()
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
            future.set_result(_report(answer, status, words))
        except BaseException as error:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes the workers' pipes, which ends them; with `wait`, until they are gone."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        if cancel_futures:
            for process in processes:
                process.terminate()
        if not wait:
            return
        self._join(_GRACE_S if cancel_futures else None)
        with self._lock:
            left = list(self._processes)
        for process in left:
            process.kill()
        self._join(_GRACE_S)
        if self._nursery is not None:
            self._nursery.close()

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
    """Ours, with the package we run findable, wherever this process found it.

    NumPy's linear algebra, which no worker uses, else starts a thread per core in each of them:
    half of what its import costs.
    """
    home = str(Path(cirrus_fast.__file__).resolve().parent.parent)
    path = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OPENBLAS_NUM_THREADS": "1"}
    return threads | os.environ | {"PYTHONPATH": os.pathsep.join(path)}
