"""Runs whose server is replaced under way: by a replica, or by one with another module or none."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_server import ReplyError, Server, first_program, make, redis_module, wait_for_steps
from redis_server import Proxy, major_version

from cirrus_fast import Dataset, LogisticRegression, load_libsvm, make_clicks
from cirrus_fast.data.result import TrainResult
from cirrus_fast.errors import StoreError
from cirrus_fast.runtime.params.control import RECORD
from cirrus_fast.runtime.params.local import FINISHED

__all__ = ["make"]
# Slow enough that there is time to do something meanwhile.
PLAIN: dict[str, Any] = {"epochs": 3, "epsilon": 0, "minibatch_size": 10, "worker_size": 256}


@pytest.fixture(scope="module")
def program() -> Path:
    return first_program()


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    make_clicks(folder / "clicks.svm", 20_000, seed=3, hash_bits=12)
    return load_libsvm(folder / "clicks.svm", str(folder / "clicks"))


def load_ranges() -> list[str]:
    return ["--loadmodule", str(redis_module()), "REPLICATION", "RANGES"]


class Running:
    """A run in another thread."""

    def __init__(self, dataset: Dataset, url: str, **more: Any) -> None:
        options = {"dataset": dataset.uri, "param_store": url, "n_workers": 1} | PLAIN | more
        self._result: TrainResult | None = None
        self._error: Exception | None = None

        def run() -> None:
            try:
                self._result = LogisticRegression(options).run()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def result(self) -> TrainResult:
        self._thread.join(120)
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


def follow(make: Callable[..., Server], leader: Server, *options: str, module: bool) -> Server:
    follower = make("--replicaof", "127.0.0.1", str(leader.port), *options, module=module)
    wire = follower.connect()
    until = time.monotonic() + 30
    while b"master_link_status:up" not in wire("INFO", "replication"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return follower


class Gate:
    """A rule for a proxy: lets so many steps through, and no more until it is opened. So a run does
    not end before its server does, however busy the machine is."""

    def __init__(self, way: Proxy, steps: int) -> None:
        self._left, self._open = steps, threading.Event()
        way.rule = self

    def __call__(self, direction: str, _connection: int, _passed: int, data: bytes) -> bytes:
        if direction == "up" and b"CIRRUS.STEP" in data:
            self._left -= data.count(b"CIRRUS.STEP")
            if self._left < 0:
                self._open.wait(60)
        return data

    def open(self) -> None:
        self._open.set()


def fail_over(way: Proxy, leader: Server, follower: Server, gate: Gate) -> None:
    wire, last = follower.connect(), leader.connect()
    last("SET", "mark", "")
    last("DEL", "mark")
    assert last("WAIT", 1, 60_000) == 1  # it may be far behind, too
    leader.kill()
    wire("REPLICAOF", "NO", "ONE")
    way.target = follower.port
    gate.open()


@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_a_run_goes_on_at_a_replica_with_the_module(make, clicks, consistency):
    leader = make()
    follower = follow(make, leader, module=True)
    way = Proxy(leader.port)
    gate = Gate(way, 500)
    n = min(2, len(clicks.blocks))
    more = {"consistency": consistency, "n_workers": n} if n > 1 else {}
    try:
        run = Running(clicks, way.url, **more)
        wait_for_steps(leader.connect(), 200)
        fail_over(way, leader, follower, gate)
        result = run.result()
    finally:
        way.stop()
    assert result.stop_reason == "epochs"
    assert result.rows_processed == 3 * clicks.n_rows
    assert result.param_store.endswith("?store=module")
    # Steps that had not reached the replica are made again, but for those that are too old.
    alone = LogisticRegression({"dataset": clicks.uri, "n_workers": n} | PLAIN | more).run()
    apart = np.abs(result.model.weights - alone.model.weights).max()
    if result.exchanges["lost"] == 0:
        assert apart < (1e-4 if consistency == "bsp" else 0.3)
    assert follower.connect()("DBSIZE") == 0


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_run_on_copies_goes_on_at_a_replica_with_the_module(make, clicks, n_workers):
    more = {"sync_rows": 100, "n_workers": n_workers, "epochs": 10}
    leader = make()
    follower = follow(make, leader, module=True)
    way = Proxy(leader.port)
    gate = Gate(way, 100)
    try:
        run = Running(clicks, way.url, **more)
        wait_for_steps(leader.connect(), 50)
        fail_over(way, leader, follower, gate)
        result = run.result()
    finally:
        way.stop()
    assert result.stop_reason == "epochs"
    assert result.rows_processed == 10 * clicks.n_rows
    assert result.exchanges["lost"] == 0
    alone = Running(clicks, "memory", n_workers=1, epochs=10).result()
    if n_workers == 1:  # which learnt on whatever the servers had
        np.testing.assert_allclose(result.model.weights, alone.model.weights, atol=2e-4)
    assert follower.connect()("DBSIZE") == 0


# The state of a worker that left, and where that is of the first two (docs/redis-module.md).
LEFT, LEFT_AT = 2, (132, 196)


def ended(record: bytes) -> bool:
    return int(np.frombuffer(record, RECORD)["slot"]["state"][0]) == FINISHED


@pytest.mark.parametrize("consistency", ["ssp", "bsp"])
def test_nobody_waits_for_who_ended_before_its_server_lost_that(make, clicks, consistency):
    server = make()
    way = Proxy(server.port)
    gate = Gate(way, 5_400)  # of 6,000: one worker has rows left, and the other has none
    more = {"consistency": consistency, "n_workers": 2}
    run = Running(clicks, way.url, **more)
    wire = server.connect()
    key = wait_for_steps(wire, 50)
    workers = key.replace(":0}:model", "}:workers")
    while True:
        model, told = wire("GET", key), wire("HGETALL", workers)
        if any(map(ended, told[1::2])):
            break
        if all(model[at] != LEFT for at in LEFT_AT):
            before = model, told
    model, told = before
    model = model[:48] + bytes(8) + model[56:]  # workers may be silent for ever
    wire("MULTI")
    wire("SET", key, model)
    wire("HSET", workers, *told)
    wire("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wire("EXEC")
    gate.open()
    try:
        assert run.result().stop_reason == "epochs"
    finally:
        way.stop()


@pytest.mark.parametrize("ranges", [False, True])
def test_a_run_ends_in_a_clear_error_at_a_replica_without_it(
    make, clicks, tmp_path, monkeypatch, caplog, ranges
):
    monkeypatch.chdir(tmp_path)
    leader = make(*load_ranges(), module=False) if ranges else make()
    follower = follow(make, leader, module=False)
    way = Proxy(leader.port)
    gate = Gate(way, 3500)
    try:
        run = Running(clicks, way.url, checkpoint_interval=0.05)
        # The first model that was measured is kept.
        wait_for_steps(leader.connect(), 3000)
        fail_over(way, leader, follower, gate)
        with pytest.raises(StoreError, match="has the module no longer"):
            run.result()
    finally:
        way.stop()
    # What was kept goes on elsewhere, and is right.
    kept = re.search(r"resume_from=(\S+) goes on", caplog.text)
    assert kept is not None
    elsewhere = make()
    url = f"redis://127.0.0.1:{elsewhere.port}"
    result = Running(clicks, url, resume_from=kept[1]).result()
    assert result.rows_processed == 3 * clicks.n_rows
    alone = LogisticRegression({"dataset": clicks.uri, "n_workers": 1} | PLAIN).run()
    np.testing.assert_allclose(result.model.weights, alone.model.weights, rtol=1e-4, atol=1e-6)


def test_the_module_is_not_unloaded_under_a_run(make, clicks, program):
    command = ["--enable-module-command", "yes"] if major_version(program) >= 7 else []
    server = make(*command)
    run = Running(clicks, f"redis://127.0.0.1:{server.port}")
    wire = server.connect()
    wait_for_steps(wire, 10)
    with pytest.raises(ReplyError, match=r"(?i)unload"):
        wire("MODULE", "UNLOAD", "cirrus")
    assert run.result().rows_processed == 3 * clicks.n_rows


# A module of another version


@pytest.fixture(scope="module")
def other_module(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, but that it speaks another protocol."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("other") / "csrc"
    shutil.copytree(repository / "csrc", folder)
    header = folder / "cf_step.h"
    ours, theirs = "CF_STEP_VERSION = 1,", "CF_STEP_VERSION = 2,"
    assert ours in header.read_text()
    header.write_text(header.read_text().replace(ours, theirs))
    made = folder / "cirrus.so"
    files = [*sorted((folder / "redis_module").glob("*.c"))]
    files += [folder / f"cf_{name}.c" for name in ("id_set", "optimizer", "status", "step")]
    subprocess.run(
        [compiler, "-std=c11", "-O1", "-ffp-contract=off", "-fPIC", "-shared", f"-I{folder}",
         '-DCIRRUS_VERSION="9.9.9"', *map(str, files), "-lm", "-o", str(made)],
        check=True,
    )  # fmt: skip
    return made


def test_a_module_of_another_version_is_refused_with_both_named(make, clicks, other_module):
    server = make("--loadmodule", str(other_module), module=False)
    url = f"redis://127.0.0.1:{server.port}"
    words = r"has module version 9\.9\.9 loaded, which speaks protocol 2; .* speaks 1"
    with pytest.raises(StoreError, match=words):
        Running(clicks, url).result()
    held = Running(clicks, url + "?store=bitfield", epochs=1).result()
    assert held.param_store.endswith("?store=bitfield")


def test_a_module_of_another_version_at_a_replica_ends_a_run(make, clicks, other_module):
    leader = make()
    follower = follow(make, leader, "--loadmodule", str(other_module), module=False)
    way = Proxy(leader.port)
    gate = Gate(way, 500)
    try:
        run = Running(clicks, way.url)
        wait_for_steps(leader.connect(), 200)
        fail_over(way, leader, follower, gate)
        with pytest.raises(StoreError, match="speaks protocol 2"):
            run.result()
    finally:
        way.stop()
