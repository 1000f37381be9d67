"""Workers that take over what a slow, stopped or dead one has left: each row once an epoch."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from counted_rows import (
    N_ROWS,
    Counts,
    Learning,
    all_of,
    each,
    learning,
    learnt,
    numbered,
    options,
    sharing_server,
    small_groups,
    store,
)

import cirrus_fast
from cirrus_fast import Dataset, LogisticRegression
from cirrus_fast.backend import workers
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor, WorkerDiedError
from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.options import parse_options
from cirrus_fast.runtime.claims import Claims
from cirrus_fast.runtime.params.control import RemotePort, control_link
from cirrus_fast.runtime.params.local import LocalStore, Port
from cirrus_fast.runtime.params.place import Place
from cirrus_fast.runtime.params.remote_claims import RemoteClaims
from cirrus_fast.store_url import parse_urls

# Those are fixtures.
__all__ = ["learning", "learnt", "numbered", "sharing_server", "small_groups", "store"]
pytestmark = pytest.mark.usefixtures("small_groups")


@pytest.fixture
def slow(learning: Learning) -> None:
    """The first worker takes its time."""
    learning.pause_s[0] = 0.01


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("held", [True, False])
def test_others_take_what_a_slow_worker_leaves(
    numbered: Dataset,
    learnt: Counts,
    store: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    held: bool,
) -> None:
    if not held:
        monkeypatch.setattr("cirrus_fast.runtime.memory.Memory.holds", lambda *_sizes: False)
    result = LogisticRegression(options(numbered, n_workers=3, epochs=3, **store)).run()
    assert result.rows_processed == 3 * N_ROWS
    assert result.rows_repeated == 0
    assert all_of(learnt) == each(3)
    assert learnt[0].total() < 0.7 * N_ROWS  # its share is one epoch's rows in all


@pytest.mark.usefixtures("slow")
def test_with_ssp_they_do_so_once_they_are_done_with_their_own(
    numbered: Dataset, learnt: Counts, store: dict[str, Any]
) -> None:
    ssp = store | {"consistency": "ssp", "staleness": 10_000, "n_workers": 3, "epochs": 3}
    result = LogisticRegression(options(numbered, **ssp)).run()
    assert result.rows_processed == 3 * N_ROWS
    assert all_of(learnt) == each(3)
    # The module's server lets none make more updates than others, so they keep to their own.
    assert (learnt[0].total() < 0.7 * N_ROWS) != ("module" in store.get("param_store", ""))


@pytest.mark.usefixtures("slow", "learnt")
@pytest.mark.parametrize("consistency", ["async", "ssp"])
def test_the_model_is_measured_when_all_are_done_with_an_epoch(
    numbered: Dataset, monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    monkeypatch.setattr("cirrus_fast.runtime.sharing.SMALL_SHARE", 1e-3)  # a great patience
    more = {"n_workers": 3, "epochs": 4, "consistency": consistency, "test_fraction": 0.1}
    result = LogisticRegression(options(numbered, eval_interval=1.0, **more)).run()
    n_train = result.rows_processed // 4
    assert [record.rows for record in result.history] == [n_train * n for n in (1, 2, 3, 4)]


@pytest.mark.usefixtures("slow")
def test_of_a_text_too(
    tmp_path: Path,
    storage_root: Path,
    learnt: Counts,
    store: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.data.text_dataset.PIECE_BYTES", 2000)
    lines = [f"{n % 2} 1:{n} {2 + n % 3}:1\n" for n in range(1, N_ROWS + 1)]
    (tmp_path / "rows.svm").write_text("".join(lines))
    result = LogisticRegression(
        dataset=str(tmp_path / "rows.svm"), model_size=5, epsilon=0, n_workers=3, epochs=2,
        minibatch_size=20, progress=False, **store,
    ).run()  # fmt: skip
    assert result.rows_processed == 2 * N_ROWS
    assert all_of(learnt) == each(2)
    assert learnt[0].total() < 0.6 * 2 * N_ROWS / 3


@pytest.mark.parametrize("consistency", ["async", "ssp"])
def test_held_out_rows_are_nobodys(
    numbered: Dataset, learnt: Counts, store: dict[str, Any], consistency: str
) -> None:
    more = store | {"test_fraction": 0.3, "epochs": 2, "n_workers": 4, "consistency": consistency}
    result = LogisticRegression(options(numbered, **more)).run()
    counts = all_of(learnt)
    assert set(counts.values()) == {2}
    assert result.rows_processed == counts.total()


class _Death(BaseException):
    """Of a worker, wherever it is."""


class _Mortal(ThreadPoolExecutor):
    """Workers that die as processes do, with nothing said."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def run() -> Any:
            try:
                return fn(*args, **kwargs)
            except _Death:
                raise WorkerDiedError("a worker process died (signal SIGKILL)") from None

        return super().submit(run)


@pytest.mark.parametrize("seed", range(6))
def test_no_row_is_lost_or_counted_twice_wherever_workers_die(
    numbered: Dataset,
    learnt: Counts,
    store: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    draw = random.Random(seed)
    lock, local = threading.Lock(), threading.local()
    left = sorted(draw.sample(range(20, 700), 4))
    calls = 0

    def mortal(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def call(self: Any, *arguments: Any, **more: Any) -> Any:
            nonlocal calls
            for when in ("before", "after"):
                with lock:
                    calls += 1
                    dies = bool(left) and calls >= left[0]
                    if dies:
                        left.pop(0)
                if dies:
                    local.dead = True
                    raise _Death
                if when == "before":
                    found = real(self, *arguments, **more)
            return found

        monkeypatch.setattr(kind, name, call)

    claims, port = (RemoteClaims, RemotePort) if store else (Claims, Port)
    for kind, name in (
        (claims, "take"),
        (claims, "done"),
        (Place, "leave_unit"),
        (Place, "begin_unit"),
        (port, "report"),
    ):
        mortal(kind, name)
    finish = port.finish
    monkeypatch.setattr(
        port, "finish", lambda self: None if getattr(local, "dead", False) else finish(self)
    )
    monkeypatch.setattr(workers, "_MOST_DEATHS", 10)
    with _Mortal(12) as executor:
        more = store | {"n_workers": 3, "epochs": 3, "executor": executor}
        result = LogisticRegression(options(numbered, **more)).run()
    assert not left, "all of them died"
    counts = all_of(learnt)
    assert set(counts) == set(range(1, N_ROWS + 1))
    assert min(counts.values()) >= 3
    # What died while it told of rows has learnt from them; whoever takes its place does again.
    # A server hears of rows ten times a second.
    untold = 4 * N_ROWS // 3 // 16 if store else 0
    assert counts.total() - 3 * N_ROWS <= result.rows_repeated + untold
    assert result.rows_processed == 3 * N_ROWS


def _wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[ProcessExecutor]:
    made: list[ProcessExecutor] = []
    real = ProcessExecutor.__init__

    def noted(self: ProcessExecutor, *arguments: Any, **more: Any) -> None:
        made.append(self)
        real(self, *arguments, **more)

    monkeypatch.setattr(ProcessExecutor, "__init__", noted)
    return made


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    def note(kind: type) -> None:
        real = kind.__init__  # type: ignore[misc]

        def noted(self: Any, *arguments: Any, **more: Any) -> None:
            real(self, *arguments, **more)
            made.append(self)

        monkeypatch.setattr(kind, "__init__", noted)

    note(LocalStore)
    note(RedisRun)
    return made


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("clicks")
    cirrus_fast.make_clicks(folder / "clicks.svm", 200_000, seed=3, hash_bits=12)
    return cirrus_fast.load_libsvm(folder / "clicks.svm", str(folder / "clicks"))


def test_a_stopped_workers_share_is_learnt_from_by_others(
    clicks: Dataset, processes: list[ProcessExecutor], stores: list[LocalStore]
) -> None:
    epochs = 3
    more = {"executor": "processes", "n_workers": 2, "epochs": epochs, "minibatch_size": 1}
    run = LogisticRegression(options(clicks, **more)).start()
    _wait_for(lambda: stores and (stores[0].slots["rows"] > 0).all())
    store, victim = stores[0], processes[0].pids[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        # The other goes on until what the stopped one is at is all that is left of an epoch.
        def over() -> bool:
            epoch = store.claims // (1 << 16)  # type: ignore[operator]
            stuck = store.claims % (1 << 16) != 0  # type: ignore[operator]
            return bool((epoch[~stuck] >= 1).all() and stuck.sum() < len(epoch) // 2)

        _wait_for(over)
        assert store.rows < epochs * clicks.n_rows
    finally:
        os.kill(victim, signal.SIGCONT)
    result = run.result(120)
    assert result.rows_processed == epochs * clicks.n_rows
    assert result.rows_repeated == 0


def test_a_stopped_worker_is_replaced_and_rows_are_accounted(
    clicks: Dataset,
    processes: list[ProcessExecutor],
    stores: list[LocalStore],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(workers, "_LATE_S", 5.0)
    more = {"executor": "processes", "n_workers": 3, "epochs": 3}
    run = LogisticRegression(options(clicks, **more)).start()
    _wait_for(lambda: stores and (stores[0].slots["rows"] > 0).all())
    os.kill(processes[0].pids[0], signal.SIGSTOP)
    result = run.result(120)
    assert "has given no sign for 5 s; it is ended" in caplog.text
    assert result.rows_processed == 3 * clicks.n_rows
    assert result.rows_repeated <= 16_384


def test_killed_worker_processes_are_replaced_and_rows_are_accounted(
    clicks: Dataset, processes: list[ProcessExecutor], stores: list[LocalStore]
) -> None:
    epochs = 15
    more = {"executor": "processes", "n_workers": 3, "epochs": epochs, "consistency": "ssp"}
    run = LogisticRegression(options(clicks, staleness=200, **more)).start()
    draw = random.Random(4)
    for _ in range(3):
        before = stores[0].rows if stores else 0
        _wait_for(lambda: stores and stores[0].rows > before + 50_000)  # noqa: B023
        os.kill(draw.choice(processes[0].pids), signal.SIGKILL)
    result = run.result(120)
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * clicks.n_rows
    assert result.rows_repeated <= 3 * 16_384


@pytest.mark.parametrize("consistency", ["async", "ssp"])
@pytest.mark.parametrize("store", ["bitfield", "module"], indirect=True)
def test_those_that_share_a_model_in_a_server_are_replaced_too(
    clicks: Dataset,
    processes: list[ProcessExecutor],
    stores: list[RedisRun],
    store: dict[str, Any],
    consistency: str,
) -> None:
    epochs = 4
    more = {"executor": "processes", "n_workers": 3, "epochs": epochs, "minibatch_size": 100}
    more |= {"consistency": consistency, "param_store": store["param_store"]}
    run = LogisticRegression(options(clicks, **more)).start()
    draw = random.Random(4)
    for _ in range(2):
        before = stores[0].slots["rows"].sum() if stores else 0
        _wait_for(lambda: stores and stores[0].slots["rows"].sum() > before + 50_000)  # noqa: B023
        os.kill(draw.choice(processes[0].pids), signal.SIGKILL)
    result = run.result(120)
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * clicks.n_rows


@pytest.mark.parametrize("store", ["bitfield", "module"], indirect=True)
def test_a_stopped_workers_share_goes_to_others_by_a_server_too(
    clicks: Dataset,
    processes: list[ProcessExecutor],
    stores: list[RedisRun],
    store: dict[str, Any],
) -> None:
    more = {"executor": "processes", "n_workers": 3, "epochs": 2, "minibatch_size": 100}
    more |= {"param_store": store["param_store"]}
    run = LogisticRegression(options(clicks, **more)).start()
    _wait_for(lambda: stores and (stores[0].slots["rows"] > 0).all())
    victim = processes[0].pids[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        # Others learn from all of an epoch, but for what the stopped one is at.
        _wait_for(lambda: stores[0].slots["rows"].sum() > 0.9 * clicks.n_rows)
    finally:
        os.kill(victim, signal.SIGCONT)
    result = run.result(120)
    assert result.rows_processed == 2 * clicks.n_rows
    assert result.rows_repeated == 0


def test_a_run_goes_on_from_a_checkpoint_with_every_row_once(
    numbered: Dataset, learnt: Counts, store: dict[str, Any]
) -> None:
    ends = options(numbered, n_workers=3, checkpoint_interval=0.001, eval_interval=0.1, **store)
    first = LogisticRegression(ends, epochs=2).run()
    assert all_of(learnt) == each(2)
    rest = LogisticRegression(ends, epochs=3, resume_from=first.checkpoint).run()
    assert all_of(learnt) == each(3)
    assert rest.rows_processed == 3 * N_ROWS


@pytest.mark.parametrize("order", [(0, 0), (0, 1), (1, 0)])
def test_a_run_that_was_stopped_goes_on_with_no_row_left_out(
    numbered: Dataset, learnt: Counts, store: dict[str, Any], order: tuple[int, int]
) -> None:
    """order : whether the model is in the store, or in memory, at first and then"""
    places = [store, {}]
    ends = options(numbered, n_workers=3, checkpoint_interval=1000.0, eval_interval=0.1, epochs=3)
    seen: list[int] = []

    def stop(record: Any) -> bool:
        seen.append(record.rows)
        return record.rows > 1.4 * N_ROWS

    first = LogisticRegression(ends | places[order[0]], callbacks=[stop]).run()
    assert first.stop_reason == "callback"
    before = all_of(learnt)
    rest = LogisticRegression(ends | places[order[1]], resume_from=first.checkpoint).run()
    assert rest.rows_processed == 3 * N_ROWS
    assert all_of(learnt) == each(3)
    assert before.total() < 3 * N_ROWS


def test_who_learns_from_others_blocks_is_reckoned_with(
    clicks: Dataset, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers weaken their moves by how many learn at once. Of one that takes others' blocks the
    store mostly hears between two of them."""
    given = options(clicks, param_store=redis_server.url, n_workers=3)
    run = Plan.make(parse_options(given)).create_store("task")
    assert isinstance(run, RedisRun)
    now = [time.monotonic()]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("cirrus_fast.backend.redis_run.time", clock)
    link = control_link(parse_urls(redis_server.url), "task", False, lambda: False)

    def learning() -> int:
        assert run.rows >= 0  # looks at what workers say, and tells them
        two[0].ask()
        return two[0].n_learning

    try:
        two = [RemotePort(link, "task", k, run.admit(k), 0, strict=False) for k in range(2)]
        for port in two:
            port.join()
            port._joined = -math.inf  # a while ago
            port.ask()
        assert learning() == 2
        for port in two:
            port.rest()
            port.report(100, 1, 50.0, 100.0)
            port.leave_unit()
            port.ask()
        assert learning() == 2
        for expected in (2, 1):  # only one goes on
            now[0] += 0.4
            two[0].report(100, 1, 50.0, 100.0)
            two[0].ask()
            assert learning() == expected
    finally:
        monkeypatch.undo()
        link.close()
        run.close()
