"""Real runs of systems on this machine: steps, bytes, processor time and phases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.ladder import Server
from bench.objects import serving, speak_to
from bench.paper.phases import PHASES
from bench.paper.places import Place
from bench.paper.pywren import KINDS, Outcome, Task
from bench.redis_stores import ours
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.data.result import Record, TrainResult

ROOT = Path(__file__).parents[2]
# An installed package comes before that of the source tree.
_WORKER = "import sys; sys.path.append({root!r}); from bench.paper.pywren import main; main()"
_TICKS = os.sysconf("SC_CLK_TCK")
# Of ours, phases that training reports under its names.
_OURS = ("storage_read", "decode", "pull", "compute", "push", "other")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a real run was seen to do; numbers by step are of all workers together, per step.

    Attributes
    ----------
    seconds : in which so many steps and rows were done; steps exchange something with the store
    updates : mini-batches, of which a step may have many
    cpu_s, store_cpu_s, storage_cpu_s : of workers, Redis and S3's stand-in, a step
    store_up, store_down : bytes to and from the store, a step
    storage_down, storage_up : bytes of S3's objects, a step
    wall : seconds by phase and worker, a step
    wall_s : seconds of a worker, a step, by another clock
    """

    system: str
    place: str
    n_workers: int
    size: int
    depth: int
    seconds: float
    steps: float
    rows: float
    updates: float
    cpu_s: float
    store_cpu_s: float
    storage_cpu_s: float
    store_up: float
    store_down: float
    storage_up: float
    storage_down: float
    wall: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def steps_a_second(self) -> float:
        return self.steps / self.seconds

    @property
    def rows_a_step(self) -> float:
        return self.rows / self.steps

    @property
    def updates_a_second(self) -> float:
        return self.updates / self.seconds


@dataclass(frozen=True, slots=True)
class Machine:
    """The servers that runs use, and what is in them.

    Attributes
    ----------
    uri : of the data set in S3; local : the same on disk
    n_chunks : mini-batches in S3, of each size
    invocation_s : of a warm function
    """

    server: Server
    storage: str
    storage_pid: int
    folder: Path
    uri: str
    local: str
    n_weights: int
    n_chunks: int
    invocation_s: float

    @contextmanager
    def reached(self, place: Place) -> Iterator[str]:
        """URL of Redis; S3 is found by its environment."""
        with ExitStack() as stack:
            redis = stack.enter_context(place.way(self.server.address, place.store_s))
            speak_to(stack.enter_context(place.way(self.storage, place.storage_s)))
            yield f"redis://{redis}"


@contextmanager
def open_storage(folder: Path) -> Iterator[tuple[str, int]]:
    with serving(folder) as (address, pid):
        speak_to(address)
        yield address, pid


class TooShort(RuntimeError):
    """On a machine that is busy with other things; a longer run may do."""


class _Since:
    """What servers have done since."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        server = self._machine.server
        came, went = server.traffic()
        return server.used()[0], _process_s(self._machine.storage_pid), came, went

    def a_step(self, steps: float) -> dict[str, float]:
        now = self._now()
        names = ("store_cpu_s", "storage_cpu_s", "store_up", "store_down")
        pairs = zip(names, now, self._before, strict=True)
        return {name: (after - before) / steps for name, after, before in pairs}


def _process_s(pid: int) -> float:
    """Seconds of processor time, of all its threads."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / _TICKS


def pywren(
    kind: str, machine: Machine, place: Place, n_workers: int, size: int, seconds: float
) -> Measured:
    """Workers of pywren.KINDS."""
    machine.server.clear()
    with machine.reached(place) as redis:
        running = []
        for worker in range(n_workers):
            mine = list(range(worker, machine.n_chunks, n_workers))
            task = Task(kind, redis, size, mine, machine.n_weights, seconds, machine.invocation_s)
            running.append(_start(task))
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker of {kind} did not begin")
        since = _Since(machine)
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [Outcome(**json.loads(process.communicate()[0])) for process in running]
    steps = sum(one.steps for one in found)
    how = KINDS[kind]
    chunk = sum(p.stat().st_size for p in (machine.folder / "bucket/chunks" / str(size)).iterdir())
    down = how.stateless * (chunk / machine.n_chunks + 10_500)
    model = 4 * machine.n_weights * (how.store == "s3")
    return Measured(
        system=kind,
        place=place.name,
        n_workers=n_workers,
        size=size,
        depth=1,
        seconds=sum(one.seconds for one in found) / n_workers,
        steps=steps,
        rows=sum(one.rows for one in found),
        updates=steps,
        cpu_s=sum(sum(one.cpu.values()) for one in found) / steps,
        storage_up=2_000 * how.stateless + model,
        storage_down=down + model,
        wall={name: sum(one.wall[name] for one in found) / steps for name in PHASES},
        wall_s=sum(one.seconds for one in found) / steps,
        **since.a_step(steps),
    )


def _start(task: Task) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER.format(root=str(ROOT))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(task)) + "\n")
    process.stdin.flush()
    return process


# When, what was done so far, processor time of workers and of the store, its bytes, who was there.
_Look = tuple[float, Record, float, float, tuple[int, int], list[int]]


class _Window:
    """Looks at a run of ours each time it is evaluated: what was done once all had begun."""

    def __init__(self, machine: Machine, executor: ProcessExecutor) -> None:
        self._machine, self._executor = machine, executor
        self.looks: list[_Look] = []

    def __call__(self, record: Record) -> bool:
        server = self._machine.server
        pids = self._executor.pids
        workers = sum(map(_process_s, pids))
        now = time.perf_counter()
        self.looks.append((now, record, workers, server.used()[0], server.traffic(), pids))
        return False


def cirrus(
    system: str,
    machine: Machine,
    place: Place,
    n_workers: int,
    size: int,
    seconds: float,
    *,
    every: float,
    **options: Any,
) -> tuple[Measured, TrainResult]:
    """Ours with a store in Redis, until `seconds` are over, once its rows are in memory.

    every : epochs between looks
    """
    machine.server.clear()
    executor = ProcessExecutor()
    window = _Window(machine, executor)
    store = "module" if system.startswith("module") else "bitfield"
    with machine.reached(place) as redis:
        plain: dict[str, Any] = {"epochs": 10_000, "timeout": seconds, "eval_interval": every}
        plain |= {"minibatch_size": size, "executor": executor, "callbacks": [window]}
        result = ours(f"{redis}?store={store}", machine.local, n_workers, **plain | options)
    executor.shutdown()
    first, last = _settled(window.looks)
    rows = last[1].rows - first[1].rows
    updates = last[1].updates - first[1].updates
    # With a plain Redis a step is an exchange, after so many rows.
    steps = rows / max(size, int(result.params.get("sync_rows") or 0))
    spent = {phase: result.breakdown[phase] for phase in _OURS}
    whole = sum(spent.values())
    took = last[1].seconds - first[1].seconds
    wall_s = n_workers * took / steps
    return Measured(
        system=system,
        place=place.name,
        n_workers=n_workers,
        size=size,
        depth=int(result.params["pipeline_depth"]),
        seconds=took,
        steps=steps,
        rows=rows,
        updates=updates,
        cpu_s=(last[2] - first[2]) / steps,
        store_cpu_s=(last[3] - first[3]) / steps,
        storage_cpu_s=0.0,
        store_up=(last[4][0] - first[4][0]) / steps,
        store_down=(last[4][1] - first[4][1]) / steps,
        storage_up=0.0,
        storage_down=0.0,
        wall={name: wall_s * spent.get(name, 0.0) / whole for name in PHASES},
        wall_s=wall_s,
    ), result


def _settled(looks: list[_Look]) -> tuple[_Look, _Look]:
    """From a third of the time on, to the last look while all workers ran."""
    most = max(len(look[5]) for look in looks)
    whole = [look for look in looks if len(look[5]) == most]
    last = whole[-1]
    begin = (whole[0][1].seconds + last[1].seconds * 0.5) / 1.5
    first = next((look for look in whole if look[1].seconds >= begin), whole[0])
    if first[1].rows == last[1].rows:
        raise TooShort("the run was looked at too seldom to measure it")
    return first, last
