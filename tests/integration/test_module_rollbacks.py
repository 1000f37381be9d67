"""Steps whose server comes back with an older model, as after a failover to a replica that lags."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from module_server import Server, Wire, first_program

from cirrus_fast._kernels import StepBatch, Stepper, StepRows
from cirrus_fast.runtime.params import module as module_store
from cirrus_fast.runtime.params.module import ModuleShard, Steps
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import StoreUrl

N_IDS, SIZE = 400, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    server = Server(first_program(), tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def wire(server: Server) -> Wire:
    wire = server.connect()
    wire("FLUSHALL")
    return wire


def create(wire: Wire, n_shards: int, n_workers: int, *options: object) -> None:
    for k in range(n_shards):
        n = -(-(N_IDS - k) // n_shards)
        wire("CIRRUS.CREATE", f"{k}:model", "IDS", n, "WORKERS", n_workers, *options)


def rows_of(worker: int, n: int) -> StepRows:
    rng = np.random.default_rng(worker)
    indptr = np.arange(0, 8 * n + 1, 8, dtype=np.int64)
    ids = [np.sort(rng.choice(N_IDS, 8, replace=False)) for _ in range(n)]
    labels = rng.integers(0, 2, n).astype(np.float32)
    data = rng.normal(size=8 * n).astype(np.float32)
    order = np.arange(n, dtype=np.uint32)
    return StepRows(labels, indptr, np.concatenate(ids).astype(np.uint32), data, None, order)


@dataclass
class Walker:
    """A worker that steps over its rows, as SteppingWorker does.

    before : called with the number of each step before its gradient is pushed
    """

    server: Server
    worker: int
    n_shards: int
    n_steps: int
    in_turn: bool = False
    depth: int = 1
    before: Callable[[int], None] = lambda _: None
    failed: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        url = StoreUrl.parse(f"redis://127.0.0.1:{self.server.port}")
        self._shards = [
            ModuleShard(
                *(k, self.n_shards, f"{k}:model".encode(), -(-(N_IDS - k) // self.n_shards)),
                Link((url,), b"", clustered=False),
            )
            for k in range(self.n_shards)
        ]
        self._stepper = Stepper(N_IDS, self.n_shards)
        self.steps = Steps(
            self._shards, self._stepper, self.worker, 1, lambda: False, in_turn=self.in_turn
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "it waits for ever"
        if self.failed:
            raise self.failed[0]

    def _run(self) -> None:
        try:
            self._walk()
            self.steps.leave()
        except BaseException as error:
            self.failed.append(error)
        finally:
            for shard in self._shards:
                shard.link.close()

    def _walk(self) -> None:
        rows = rows_of(self.worker, SIZE * self.n_steps)
        self.steps.connect()
        asked: list[StepBatch | None] = []
        ahead: list[StepBatch] = []
        nothing = StepBatch(self._stepper)

        def ask(pushed: StepBatch | None, number: int) -> None:
            following = None
            if number < self.n_steps:
                following = StepBatch(self._stepper)
                self._stepper.locate(following, rows, SIZE * number, SIZE)
                ahead.append(following)
            self.steps.submit(pushed, following or nothing, 1.0)
            asked.append(following)

        for number in range(self.depth):
            ask(None, number)
        for number in range(self.n_steps):
            batch = ahead[number]
            while not batch.whole:
                self.steps.settle(asked.pop(0) or nothing)
            self._stepper.learn(batch)
            self.before(number)
            ask(batch, number + self.depth)
        for pulled in asked:
            nothing.clear()
            self.steps.settle(pulled or nothing)


def models(wire: Wire, n_shards: int) -> list[bytes]:
    """The state of each key, without its workers."""
    found = []
    for k in range(n_shards):
        at = wire.info(f"{k}:model")["state_offset"]
        found.append(wire("GETRANGE", f"{k}:model", at, -1))
    return found


def slots_of(wire: Wire, key: str) -> np.ndarray:
    """A row for each worker: generation and state, last push, updates, ..."""
    return np.frombuffer(wire.info(key)["slots"], "<u8").reshape(-1, 8)


def roll_back(wire: Wire, keys: dict[str, bytes]) -> None:
    for key, old in keys.items():
        wire("SET", key, old)
    wire("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_pushes_that_a_server_lost_are_made_again(server, wire, n_shards, depth):
    n_steps = 20

    def walk(disturbed: bool) -> tuple[list[bytes], Walker]:
        wire("FLUSHALL")
        create(wire, n_shards, 1)
        old: dict[str, bytes] = {}

        def before(number: int) -> None:
            if disturbed and number == 6:
                old["0:model"] = wire("GET", "0:model")
            if disturbed and number == 12:
                roll_back(wire, old)

        walker = Walker(server, 0, n_shards, n_steps, depth=depth, before=before)
        walker.join()
        return models(wire, n_shards), walker

    expected, _ = walk(disturbed=False)
    found, walker = walk(disturbed=True)
    assert (walker.steps.rollbacks, walker.steps.lost) == (1, 0)
    if depth == 1:  # what is pulled again while more is under way comes from the older model
        assert found == expected
    assert [wire.info(f"{k}:model")["updates"] for k in range(n_shards)] == [n_steps] * n_shards


def test_of_pushes_that_are_not_kept_any_more_the_numbers_go_on(server, wire, monkeypatch):
    monkeypatch.setattr(module_store, "_KEPT_BYTES", 0)
    monkeypatch.setattr(module_store, "_LEAST_KEPT", 2)
    create(wire, 1, 1)
    old: dict[str, bytes] = {}

    def before(number: int) -> None:
        if number == 3:
            old["0:model"] = wire("GET", "0:model")
        if number == 12:
            roll_back(wire, old)

    walker = Walker(server, 0, 1, 20, before=before)
    walker.join()
    told = wire.info("0:model")
    assert (walker.steps.rollbacks, walker.steps.lost) == (1, 12 - 3 - 2)
    assert told["updates"] == 20
    assert float(told["rows_seen"]) == SIZE * (20 - walker.steps.lost)


@pytest.mark.parametrize(("consistency", "staleness"), [("bsp", 0), ("ssp", 0), ("ssp", 1)])
def test_workers_that_wait_for_each_other_do_so_after_keys_were_rolled_back_apart(
    server, wire, consistency, staleness
):
    """One key is rolled back to where one worker was ahead, the other to where the other was: were
    their pushes counted from there, each would wait for the other for ever."""
    n_steps = 10
    options = ["CONSISTENCY", consistency]
    if consistency == "ssp":
        options += ["STALENESS", staleness]

    def walk(disturbed: bool) -> tuple[list[bytes], list[Walker]]:
        wire("FLUSHALL")
        create(wire, 2, 2, *options)
        old: dict[str, bytes] = {}
        together = threading.Barrier(2)
        wires = server.connect(), server.connect()

        def pushed(key: str, number: int, worker: int) -> None:
            """Waits until a worker has pushed so often."""
            while slots_of(wires[1 - worker], key)[worker, 1] < number:
                time.sleep(0.001)

        def before(worker: int, number: int) -> None:
            if not disturbed:
                return
            ahead, key = (0, "0:model") if number == 3 else (1, "1:model")
            if number in (3, 5) and worker != ahead:
                pushed(key, number + 1, ahead)
                old[key] = wires[worker]("GET", key)
            if number == 7 and together.wait(30) == 0:
                roll_back(wire, old)
            if number == 7:
                together.wait(30)

        walkers = [
            Walker(
                server, worker, 2, n_steps, in_turn=True,
                before=lambda number, worker=worker: before(worker, number),
            )
            for worker in (0, 1)
        ]  # fmt: skip
        for walker in walkers:
            walker.join()
        return models(wire, 2), walkers

    expected, _ = walk(disturbed=False)
    found, walkers = walk(disturbed=True)
    assert all(walker.steps.rollbacks >= 1 for walker in walkers)
    assert all(walker.steps.lost == 0 for walker in walkers)
    if consistency == "bsp":
        assert found == expected
    updates = n_steps if consistency == "bsp" else 2 * n_steps
    assert [wire.info(f"{k}:model")["updates"] for k in (0, 1)] == [updates, updates]
