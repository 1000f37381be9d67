"""Searches whose models functions train, a group or more in each; and passes that are left before
their models have ended, which other workers go on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import GridSearch, LogisticRegression, make_clicks
from cirrus_fast.backend import grid_executors, grid_run, workers
from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.data.storage import open_storage
from cirrus_fast.errors import OptionError, TrainingError
from cirrus_fast.grid_search import GridResults
from cirrus_fast.local_lambda.server import Faults, LocalLambda
from cirrus_fast.runtime import grid_pass

Start = Callable[..., LocalLambda]
BASE = {"dataset": "clicks", "epochs": 3, "test_fraction": 0.1, "epsilon": 0, "worker_size": 256}
NAMES = ["learning_rate", "minibatch_size", "optimizer"]
VALUES = [np.geomspace(0.01, 1, 8).tolist(), [1, 30], ["adagrad", "ftrl", "sgd"]]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clicks") / "clicks.svm"
    make_clicks(path, 40_000, seed=5, hash_bits=12)
    return path


@pytest.fixture
def clicks(s3: Any, text: Path) -> Iterator[None]:
    cirrus_fast.configure(storage="s3://bucket/data")
    cirrus_fast.load_libsvm(text, "clicks")
    yield
    cirrus_fast.configure(storage=None)


@pytest.fixture
def clicks_here(storage_root: Path, text: Path) -> None:
    cirrus_fast.load_libsvm(text, "clicks")


def search(names: list[str] = NAMES, values: list[Any] = VALUES, **more: Any) -> GridSearch:
    modes = {k: more.pop(k) for k in ("mode", "timeout", "max_cost", "name") if k in more}
    return GridSearch(LogisticRegression, BASE | more, names, values, **modes)


def check_same(ours: GridResults, theirs: GridResults) -> None:
    assert [t.params for t in ours] == [t.params for t in theirs]
    assert [t.error for t in ours] == [t.error for t in theirs]
    assert [t.loss for t in ours] == [t.loss for t in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one.result is None or other.result is None:
            continue
        assert one.result.auc == other.result.auc
        assert one.result.stop_reason == other.result.stop_reason
        shown = [(r.rows, r.updates, r.test_loss) for r in one.result.history]
        assert shown == [(r.rows, r.updates, r.test_loss) for r in other.result.history]
        # When a lane's losses are summed up depends on what is beside it.
        losses = [r.train_loss for r in one.result.history]
        assert losses == pytest.approx([r.train_loss for r in other.result.history], rel=1e-12)
    best, its = ours.best_model_, theirs.best_model_
    assert best.weights.tobytes() == its.weights.tobytes()
    assert best.intercept == its.intercept


def left_there() -> list[str]:
    return [name for name in open_storage("s3://bucket/data").folders() if name != "clicks"]


class Hasty(Executor):
    """Whose workers may look `n` times whether they shall end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: float) -> None:
        self._n, self._looks, self.calls = n, 0, 0
        clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=self._look)
        monkeypatch.setattr(grid_pass, "time", clock)
        monkeypatch.setattr(grid_pass, "_LONGEST", 5_000)  # looks are many

    def _look(self) -> int:
        self._looks += 1
        return self._looks

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, self._looks + self._n))
        except BaseException as error:
            future.set_exception(error)
        return future


# Passes that are left


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"epochs": 6, "eval_interval": 0.3},  # rows are held, and get another order
        {"epsilon": 1e-4, "patience": 1, "epochs": 8},  # lanes end early, and others move up
        {"l2": 1e-5, "class_weight": (1.0, 2.0)},
        {"threshold_loss": 0.47},
    ],
)
def test_nobody_can_tell_that_a_pass_was_left(
    clicks_here: None, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    executor = Hasty(monkeypatch, 4)
    parts = search(executor=executor, n_workers=2, **more).run()
    assert executor.calls > 4
    check_same(parts, search(**more).run())


def test_halving_goes_on_where_it_was_left(
    clicks_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"names": ["learning_rate"], "values": [np.geomspace(0.01, 1, 32)], "mode": "halving"}
    executor = Hasty(monkeypatch, 4)
    parts = search(**wanted, executor=executor, n_workers=1).run()
    assert executor.calls > 3
    check_same(parts, search(**wanted).run())


def test_a_model_that_diverged_before_is_not_forgotten(
    clicks_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, Any] = {
        "names": ["class_weight"],
        "values": [[None, (3e38, 3e38), (1, 2)]],
        "optimizer": "sgd",
    }
    executor = Hasty(monkeypatch, 4)
    parts = search(**wanted, executor=executor, n_workers=1).run()
    assert executor.calls > 2
    assert parts[-1].error is not None
    check_same(parts, search(**wanted).run())


def test_a_worker_that_never_gets_to_a_row_is_not_asked_for_ever(
    clicks_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="handed over without learning from a row"):
        search(executor=Hasty(monkeypatch, 0)).run()


def test_the_first_ctrl_c_ends_workers_with_what_there_is(
    clicks_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = grid_executors.wait, iter(range(1000))

    def wait(*given: Any, **more: Any) -> Any:
        if next(count) == 8:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(grid_executors, "wait", wait)
    made = search(["learning_rate"], [[0.1, 0.2]], executor="processes", epochs=1_000_000)
    results = made.run()
    assert [trial.result.stop_reason for trial in results if trial.result] == ["interrupted"] * 2
    assert results.stop_reason == "interrupted"
    assert results.best_model_.nnz > 0


# Functions


def test_functions_give_the_answers_of_this_machine(clicks: None, local_lambda: Start) -> None:
    local = local_lambda(memory_mb=512)
    here = search().run()
    there = search(executor="lambda", n_workers=3).run()
    check_same(there, here)
    assert local.counts["cold"] == 3
    # Each function reads what one model does, and once what that has been told of columns.
    alone = LogisticRegression(BASE, n_workers=1).run().reads
    for trial in (*here, *there):
        assert trial.result is not None
        assert 0 < sum(read.bytes for read in trial.result.reads_by_epoch) <= alone.bytes
    costs = [trial.result.cost for trial in there if trial.result]
    assert min(costs) > 0
    assert sum(costs) == pytest.approx(there.cost, rel=1e-6)
    assert here.cost == 0
    assert left_there() == []


def test_the_program_in_the_docs_runs(
    clicks: None, local_lambda: Start, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = local_lambda(memory_mb=1024)
    page = (repository / "docs" / "grid.md").read_text()
    code = page.partition("```python functions\n")[2].partition("```")[0]
    names = {"GridSearch": GridSearch, "np": np, "LogisticRegression": LogisticRegression}
    exec(code.replace("s3://my-bucket/cirrus", "s3://bucket/data"), names)
    assert 0 < float(capsys.readouterr().out.split()[-1]) < 0.10
    assert local.counts["answered"] == 10


def test_a_single_model_is_trained_by_a_function_too(clicks: None, local_lambda: Start) -> None:
    local_lambda(memory_mb=512)
    there = search(["l2"], [[0]], executor="lambda").run()
    here = search(["l2"], [[0]], n_workers=1).run()
    assert there.best.loss == pytest.approx(here.best.loss, rel=1e-6)
    assert there.best.result is not None
    assert there.best.result.executor == "lambda"


def test_functions_hand_over_before_their_time_is_up(
    clicks: None, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all they need to begin within a share of it that this machine decides."""
    made = search(executor="lambda", n_workers=1, epochs=40)
    began = time.monotonic()
    whole = search(epochs=40, executor="processes", n_workers=1).run()
    took = time.monotonic() - began
    has_s = min(50.0, max(1.0, took / 3))
    local = local_lambda(
        memory_mb=512, timeout_s=60, environment={"CIRRUS_FAST_HAND_OVER_S": str(60 - has_s)}
    )
    check_same(made.run(), whole)
    assert local.counts["answered"] > 1
    assert left_there() == []


def test_functions_that_are_killed_are_replaced(
    clicks: None, local_lambda: Start, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setitem(workers._MOST_OF, "sandbox died", 1000)
    wanted = {"n_workers": 3, "epochs": 12}
    faults = Faults(kill_every_s=0.5)
    local = local_lambda(memory_mb=512, server={"faults": faults})

    def relent() -> None:
        while local.counts["killed"] < 2:
            time.sleep(0.01)
        faults.kill_every_s = 1e6

    Thread(target=relent, daemon=True).start()
    there = search(**wanted, executor="lambda").run()
    assert local.counts["killed"] >= 2
    check_same(there, search(**wanted).run())
    assert left_there() == []


def test_functions_end_when_the_money_is_spent_and_when_the_time_is_up(
    clicks: None, local_lambda: Start
) -> None:
    local_lambda(memory_mb=512)
    names, values = ["learning_rate"], [[0.1, 0.2]]
    long = {"executor": "lambda", "epochs": 1_000_000}
    results = search(names, values, **long, max_cost=1e-4).run()
    assert [trial.result.stop_reason for trial in results if trial.result] == ["max_cost"] * 2
    assert results.stop_reason == "max_cost"
    assert 0.5e-4 <= results.cost <= 2e-4
    results = search(names, values, **long, timeout=3).run()
    assert [trial.result.stop_reason for trial in results if trial.result] == ["timeout"] * 2
    assert results.stop_reason == "timeout"
    assert results.best_model_.nnz > 0
    assert left_there() == []


def test_more_models_than_functions_have_memory_for_take_turns(
    clicks: None, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = local_lambda(memory_mb=512)
    names, values = ["learning_rate"], [np.geomspace(0.01, 1, 40)]
    monkeypatch.setattr(grid_run, "state_bytes", lambda *_: 100_000_000)
    check_same(
        search(names, values, executor="lambda", n_workers=1).run(), search(names, values).run()
    )
    assert local.counts["answered"] == 2
    monkeypatch.setattr(grid_run, "state_bytes", lambda *_: 10**9)
    with pytest.raises(OptionError, match="sixteen of these take 100"):
        search(names, values, executor="lambda").run()


def test_what_functions_cannot_do_is_refused(
    clicks: None, local_lambda: Start, tmp_path: Path, redis_server: Any
) -> None:
    local = local_lambda(memory_mb=512)
    for more in ({"consistency": "ssp"}, {"checkpoint_interval": 5.0}, {"max_cost": 1.0}):
        given = {k: v for k, v in more.items() if k != "max_cost"}
        with pytest.raises(OptionError, match="redis:// URL of a server"):
            GridSearch(
                LogisticRegression,
                BASE | {"executor": "lambda"} | given | more,
                ["l2"],
                [[0, 1]],
            )
    with pytest.raises(OptionError, match=r"worker_size=1024: function .* has 512 MB"):
        search(executor="lambda", worker_size=1024).run()
    dataset = "s3://bucket/data/clicks"
    cirrus_fast.configure(storage=str(tmp_path))
    with pytest.raises(OptionError, match="goes to the storage root"):
        search(executor="lambda", dataset=dataset).run()
    with pytest.raises(OptionError, match="cannot reach this machine's memory"):
        LogisticRegression(BASE | {"executor": LambdaExecutor()}).run()
    assert local.counts["cold"] == 0
