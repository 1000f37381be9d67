"""One sandbox: a process of AWS's runtime client that serves one event after another.

Whoever invokes it looks after it meanwhile: takes what it prints, and ends it when its time is up
or its memory full.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

from cirrus_fast.local_lambda.function import Function, arn, sandbox_environment
from cirrus_fast.local_lambda.memory_group import MemoryGroup
from cirrus_fast.local_lambda.runtime_api import Event, RuntimeApi, Said, error_payload

# A function's imports may take so long. At AWS they are then begun again, with the function's
# timeout; here they just go on.
INIT_S = 10.0
# How often memory is looked at; where the kernel keeps the limit (memory_group.py), at what it did.
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation ended.

    Attributes
    ----------
    error : None, "Unhandled", or for Lambda's word of it "timeout" or "out of memory"
    usable : whether the sandbox can serve another event
    init_s : None where the sandbox was there already
    """

    payload: bytes
    error: str | None
    log: str
    duration_s: float
    peak_mb: int
    init_s: float | None
    usable: bool


class _Ended(Exception):
    """The process is gone, or was ended."""

    def __init__(self, kind: str, message: str, why: str = "Unhandled") -> None:
        super().__init__(message)
        self.kind, self.why = kind, why


class Sandbox:
    """Begins with the process; `invoke` waits for it to be ready."""

    def __init__(self, function: Function, region: str, runtime: Path) -> None:
        self.function, self._arn = function, arn(region, function.name)
        self._home = tempfile.TemporaryDirectory(prefix="cirrus_fast_sandbox_")
        home = Path(self._home.name)
        self._api = RuntimeApi()
        self._began = time.monotonic()
        self._init_s: float | None = None
        self._printed: list[bytes] = []
        self._peak, self._silent = 0, False
        self._process = subprocess.Popen(
            # Of the standard library and PYTHONPATH alone; not what lies in the folder.
            [sys.executable, "-s", "-S", "-P", "-m", "awslambdaric", function.handler],
            env=sandbox_environment(function, region, runtime, self._api.address, home),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._group = MemoryGroup.make(function.memory_mb << 20)
        if self._group is not None:
            self._group.take(self.pid)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def invoke(self, request: str, payload: bytes) -> Outcome:
        """Serves one event. Only one at a time."""
        function, cold = self.function, self._init_s is None
        began = time.monotonic()
        try:
            if cold:
                self._begin(request)
            began = time.monotonic()
            deadline = began + function.timeout_s
            self._api.offer(Event(request, payload, time.time() + function.timeout_s, self._arn))
            said = self._wait(("answer", "error"), deadline, request)
            took = time.monotonic() - began
            failed = said.what == "error"
            answer, error, usable = said.payload, "Unhandled" if failed else None, True
        except _Ended as end:
            took = time.monotonic() - began
            self.close()
            answer, error, usable = error_payload(end.kind, str(end)), end.why, False
        log = b"".join(self._printed).decode("utf-8", "replace")
        self._printed = []
        init_s = self._init_s if cold else None
        return Outcome(answer, error, log, took, self._peak >> 20, init_s, usable)

    def _begin(self, request: str) -> None:
        limit = max(INIT_S, self.function.timeout_s)
        said = self._wait(("ready", "init error"), self._began + limit, request)
        self._init_s = time.monotonic() - self._began
        if said.what == "init error":
            kind, message = _told(said.payload)
            raise _Ended(kind, message)

    def _wait(self, for_what: tuple[str, ...], deadline: float, request: str) -> Said:
        """What the process says next, of these."""
        while True:
            self._take_output()
            self._check_memory(request)
            with suppress(Empty):
                while True:
                    said = self._api.said.get_nowait()
                    os.read(self._api.wakes, 1)
                    if said.what in for_what:
                        self._take_output()
                        return said
            if not self.alive:
                self._take_output()
                status = self._process.returncode
                cause = f"signal: {_signal(-status)}" if status < 0 else f"exit status {status}"
                raise _Ended(
                    "Runtime.ExitError",
                    f"RequestId: {request} Error: Runtime exited with error: {cause}",
                )
            left = deadline - time.monotonic()
            if left <= 0:
                limit = self.function.timeout_s
                raise _Ended(
                    "Sandbox.Timedout",
                    f"RequestId: {request} Error: Task timed out after {limit:.2f} seconds",
                    "timeout",
                )
            ways = [self._api.wakes] if self._silent else [self._api.wakes, self._output]
            select.select(ways, [], [], min(left, _LOOK_S))

    def _take_output(self) -> None:
        with suppress(BlockingIOError):
            while text := os.read(self._output, 1 << 16):
                self._printed.append(text)
            self._silent = True  # the end of the file: the process is ending

    def _check_memory(self, request: str) -> None:
        most = self.function.memory_mb << 20
        self._peak = max(self._peak, peak_bytes(self.pid))
        if self._peak > most or (self._group is not None and self._group.has_killed):
            self._peak = most
            raise _Ended(
                "Runtime.OutOfMemory",
                f"RequestId: {request} Error: Runtime exited with error: signal: killed",
                "out of memory",
            )

    def kill(self) -> None:
        """Ends the process and all that it has started; whoever waits for it notices."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """The same, and gives up what this side has of it: nobody may be waiting."""
        self.kill()
        self._process.wait()
        if self._group is not None:
            self._group.remove()
        assert self._process.stdout is not None
        if not self._process.stdout.closed:
            self._take_output()
            self._process.stdout.close()
        self._api.close()
        self._home.cleanup()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had, its own children apart; 0 if it is gone."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("VmHWM:", "VmRSS:")):
                return int(line.split()[1]) << 10
    return 0


def _signal(number: int) -> str:
    return "killed" if number == signal.SIGKILL else signal.Signals(number).name


def _told(payload: bytes) -> tuple[str, str]:
    try:
        said = json.loads(payload)
        return str(said["errorType"]), str(said["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return "Runtime.Unknown", payload.decode("utf-8", "replace")
