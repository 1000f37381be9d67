"""Models of a search that share a pass, are drawn, are let go early, or go on after a crash."""

from __future__ import annotations

import csv
import io
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import loguniform

from cirrus_fast import GridSearch, LogisticRegression, load_csr, load_libsvm, make_clicks
from cirrus_fast.backend import grid_run
from cirrus_fast.backend.grid_run import Model, passes
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.data.storage import open_storage
from cirrus_fast.errors import CirrusFastError, ModelError, OptionError, TrainingError
from cirrus_fast.options import parse_options
from cirrus_fast.runtime import grid_pass

BASE = {"dataset": "d", "epochs": 3, "test_fraction": 0.2, "epsilon": 0, "eval_interval": 0.3}

pytestmark = pytest.mark.usefixtures("data")


@pytest.fixture
def data(storage_root):
    """The data set "d": 3,000 rows, sparse, in several blocks, with weights and rare columns."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(3000, 40)).astype(np.float32) * (rng.random((3000, 40)) < 0.2)
    X[:, 0] = rng.normal(size=3000)
    truth = rng.normal(size=40)
    y = (X @ truth + rng.normal(size=3000) > 0.3).astype(int)
    load_csr(X, y, "d", sample_weight=rng.choice([0.5, 1.0, 2.0], 3000).astype(np.float32))
    return storage_root


def search(names, values, base=BASE, **more):
    of_search = ("mode", "n_trials", "timeout", "max_cost", "name")
    modes = {k: more.pop(k) for k in of_search if k in more}
    return GridSearch(LogisticRegression, {**base, **more}, names, values, **modes)


def check_alone(trial, base=BASE, **more):
    alone = LogisticRegression({**base, **more, **trial.params}, n_workers=1).run()
    result = trial.result
    assert result.test_loss == pytest.approx(alone.test_loss, rel=2e-5)
    assert result.auc == pytest.approx(alone.auc, abs=1e-4)
    assert result.stop_reason == alone.stop_reason
    assert result.rows_processed == alone.rows_processed
    assert [r.rows for r in result.history] == [r.rows for r in alone.history]
    assert [r.updates for r in result.history] == [r.updates for r in alone.history]
    ours = [r.train_loss for r in result.history]
    assert ours == pytest.approx([r.train_loss for r in alone.history], rel=1e-4)
    np.testing.assert_allclose(
        result.model.weights, alone.model.weights, rtol=5e-3, atol=1e-4
    )  # float32 sums in another order, three epochs of them
    assert result.model.intercept == pytest.approx(alone.model.intercept, abs=1e-4)
    assert result.params == alone.params


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("size", [1, 30])
def test_each_model_is_the_one_of_its_own_run(optimizer, size):
    results = search(
        ["learning_rate", "l1", "l2", "class_weight"],
        [[0.02, 0.1], [0, 1e-3], [0, 1e-2], [None, (1, 3), "balanced"]],
        optimizer=optimizer,
        minibatch_size=size,
        seed=5,
    ).run(keep_models=24)
    assert len(results) == 24
    for trial in results:
        check_alone(trial, optimizer=optimizer, minibatch_size=size, seed=5)


def test_groups_of_all_kinds_share_a_pass(monkeypatch):
    made = []
    real = grid_pass.GridPass.run
    monkeypatch.setattr(grid_pass.GridPass, "run", lambda self: made.append(self) or real(self))
    results = search(
        ["optimizer", "minibatch_size", "fit_intercept", "epochs"],
        [["sgd", "adagrad", "ftrl"], [1, 7], [True, False], [1, 3]],
        learning_rate=0.05,
        n_workers=2,
    ).run(keep_models=24)
    assert len(made) == 1
    for trial in results:
        check_alone(trial, learning_rate=0.05)


def test_the_default_rates_of_sgd_divide_columns_by_the_size_of_its_mini_batches():
    results = search(["minibatch_size"], [[1, 20, 500]], optimizer="sgd").run()
    for trial in results:
        check_alone(trial, optimizer="sgd")


def test_threads_change_nothing():
    values = [np.geomspace(0.01, 1, 40), [1, 30]]
    found = [search(["learning_rate", "minibatch_size"], values, n_workers=n).run() for n in (1, 3)]
    assert [t.params for t in found[0]] == [t.params for t in found[1]]
    assert [t.loss for t in found[0]] == [t.loss for t in found[1]]
    weights = [results.best_model_.weights.tobytes() for results in found]
    assert weights[0] == weights[1]


def test_models_end_as_they_would_alone():
    """Some converge early, and their places are taken by others of their family."""
    base = {**BASE, "epsilon": 1e-3, "epochs": 30, "patience": 2}
    rates = np.geomspace(1e-3, 3, 40)
    results = search(["learning_rate"], [rates], base).run(keep_models=40)
    assert len({trial.result.rows_processed for trial in results}) > 3
    assert {"converged"} < {trial.result.stop_reason for trial in results} | {"x"}
    for trial in results[::5]:
        check_alone(trial, base)


def test_a_threshold_ends_a_model():
    losses = [t.loss for t in search(["learning_rate"], [[0.01, 0.3]]).run()]
    results = search(["learning_rate"], [[0.01, 0.3]], threshold_loss=sum(losses) / 2).run()
    assert [t.result.stop_reason for t in results] == ["threshold_loss", "epochs"]


def test_a_model_that_diverges_fails_alone():
    weights = [None, (3e38, 3e38), (1, 2)]
    results = search(["class_weight"], [weights], optimizer="sgd").run()
    assert [trial.error is None for trial in results] == [True, True, False]
    assert results[-1].params["class_weight"] == weights[1]
    assert "the likely cause is feature" in results[-1].error
    check_alone(results[0], optimizer="sgd")


def test_models_that_need_too_much_memory_at_once_take_turns(monkeypatch):
    monkeypatch.setattr(grid_run, "state_bytes", lambda *_: 10**12)
    results = search(["learning_rate"], [np.geomspace(0.01, 1, 20)]).run()
    assert len(results) == 20
    check_alone(results[0])


def test_what_differs_in_data_or_seed_is_another_pass():
    def options(**more):
        return parse_options({"dataset": "d", **more})

    same = [options(learning_rate=0.1), options(minibatch_size=9), options(optimizer="ftrl")]
    others = [options(seed=1), options(test_fraction=0.1), options(epsilon=0)]
    found = passes([Model(i, one) for i, one in enumerate([*same, *others])])
    assert [[m.number for m in part] for part in found] == [[0, 1, 2], [3], [4], [5]]


def test_what_cannot_share_is_run_alone(caplog):
    results = search(["learning_rate"], [[0.1, 0.2]], consistency="ssp", n_workers=1).run()
    assert 'consistency="ssp": models are trained one after another' in caplog.text
    assert len(results) == 2


def in_processes(executor):
    names = ["learning_rate", "minibatch_size", "l2", "optimizer"]
    values = [np.geomspace(0.01, 1, 12).tolist(), [1, 30], [0, 1e-3], ["adagrad", "ftrl"]]
    found = [
        search(names, values, executor=one, n_workers=2).run(keep_models=5)
        for one in ("local", executor)
    ]
    assert len(found[1]) == 96
    assert [t.params for t in found[0]] == [t.params for t in found[1]]
    assert [t.loss for t in found[0]] == [t.loss for t in found[1]]
    assert [t.result.auc for t in found[0]] == [t.result.auc for t in found[1]]
    for one, other in zip(found[0][:5], found[1][:5], strict=True):
        assert one.result.model.weights.tobytes() == other.result.model.weights.tobytes()
        assert one.result.model.intercept == other.result.model.intercept


def test_processes_give_the_same_answers():
    in_processes("processes")


def test_an_executor_of_the_users_gives_the_same_answers():
    with ThreadPoolExecutor(2) as executor:
        in_processes(executor)


def test_a_worker_that_dies_is_replaced(monkeypatch, caplog):
    real, killed = ProcessExecutor.submit, []

    def submit(self, *given):
        future = real(self, *given)
        if not killed:
            killed.append(future)
            self.kill(future)
        return future

    monkeypatch.setattr(ProcessExecutor, "submit", submit)
    results = search(["learning_rate"], [[0.1, 0.2]], executor="processes").run()
    assert "another takes its place" in caplog.text
    check_alone(results[0], executor="processes")


def test_an_executor_that_is_shut_down_is_told():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    results = search(["learning_rate"], [[0.1, 0.2]], executor=executor)
    with pytest.raises(TrainingError, match="takes no worker"):
        results.run()


def test_without_test_rows_the_last_models_are_kept():
    base = {"dataset": "d", "epochs": 2, "epsilon": 0}
    results = search(["learning_rate"], [[0.01, 0.1]], base).run()
    for trial in results:
        alone = LogisticRegression({**base, **trial.params}, n_workers=1).run()
        assert trial.result.test_loss is None
        assert trial.loss == pytest.approx(alone.history[-1].train_loss, rel=1e-4)
        np.testing.assert_allclose(
            trial.result.model.weights, alone.model.weights, rtol=5e-3, atol=1e-4
        )


def test_drawn_models_are_different_and_repeatable():
    names, values = ["learning_rate", "minibatch_size"], [np.geomspace(0.01, 1, 50), [1, 5, 9]]
    one, again = (search(names, values, mode="random", n_trials=20)._points for _ in range(2))
    assert one == again
    assert len({tuple(point.values()) for point in one}) == 20
    other = search(names, values, mode="random", n_trials=20, seed=1)._points
    assert one != other
    assert len(search(names, values, mode="random", n_trials=500)) == 150  # that is all


def test_models_may_be_given_one_by_one():
    points = [{"learning_rate": rate, "l2": rate / 1e3} for rate in (0.3, 0.01, 0.1)]
    results = GridSearch.of_points(points, BASE).run()
    assert sorted(trial.number for trial in results) == [0, 1, 2]
    for trial in results:
        assert trial.params == points[trial.number]
        check_alone(trial)
    for wrong, says in (
        ([], "at least one model"),
        ({"l2": 1}, "list of options"),
        ([{"l2": 1}, {"l1": 1}], "the same options"),
        ([{"l3": 1}], "unknown option"),
        ([{"l2": -1}], "at least 0"),
    ):
        with pytest.raises(OptionError, match=says):
            GridSearch.of_points(wrong, BASE)


def test_distributions_are_drawn_from():
    made = search(
        ["learning_rate", "l2"], [loguniform(1e-3, 1), [0, 1e-3]], mode="random", n_trials=30
    )
    rates = [point["learning_rate"] for point in made._points]
    assert len(set(rates)) == 30
    assert all(1e-3 <= rate <= 1 for rate in rates)
    assert {point["l2"] for point in made._points} == {0, 1e-3}


def test_halving_lets_most_models_go_early_and_finds_the_best(tmp_path):
    make_clicks(tmp_path / "clicks.svm", 30_000, seed=4)
    load_libsvm(str(tmp_path / "clicks.svm"), "clicks")
    base = {"dataset": "clicks", "epochs": 2, "epsilon": 0, "test_fraction": 0.2}
    values = [np.geomspace(1e-3, 3, 32)]
    full = search(["learning_rate"], values, base).run()
    halved = search(["learning_rate"], values, base, mode="halving").run()
    rows = [sum(trial.result.rows_processed for trial in one) for one in (full, halved)]
    assert rows[1] <= 0.25 * rows[0]
    assert halved.best.loss <= full.best.loss + 5e-4
    reasons = [trial.result.stop_reason for trial in halved]
    assert (reasons.count("halved"), reasons.count("epochs")) == (30, 2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"mode": "halfing"}, "did you mean halving"),
        ({"mode": "random"}, "n_trials"),
        ({"n_trials": 3}, "means nothing"),
        ({"mode": "random", "n_trials": 0}, "from 1 on"),
        ({"mode": "random", "n_trials": True}, "from 1 on"),
        ({"timeout": -1}, "seconds above 0"),
        ({"max_cost": 3.0}, "max_cost: nobody has said what this machine costs"),
        ({"max_cost": -1}, "dollars above 0"),
        ({"name": "../x"}, "letters, digits"),
    ],
)
def test_a_mode_that_makes_no_sense_is_refused(more, says):
    with pytest.raises(OptionError, match=says):
        GridSearch(LogisticRegression, BASE, ["l2"], [[0, 1]], **more)


@pytest.mark.parametrize(
    ("names", "values", "says"),
    [
        (["learning_rat"], [[]], "unknown option: did you mean learning_rate"),
        (["l2"], 3, "must be a list that has a list"),
        (["l2"], [3], "l2=3: must be a list of values"),
        (["l2"], ["0.1"], "must be a list of values"),
        ([3], [[1]], "list of option names"),
        (["l2"], [loguniform(1e-3, 1)], "needs mode"),
        (["l1", "l2", "seed"], [range(100)] * 3, "1,000,000 models; .*n_trials"),
    ],
)
def test_a_spread_that_makes_no_sense_is_refused(names, values, says):
    with pytest.raises(OptionError, match=says):
        search(names, values)


def test_halving_without_test_rows_is_refused():
    with pytest.raises(OptionError, match="needs test rows"):
        search(["l2"], [[0, 1]], {"dataset": "d", "epsilon": 0}, mode="halving")
    with pytest.raises(OptionError, match="trained together"):
        search(["l2"], [[0, 1]], mode="halving", consistency="ssp")


def test_a_search_ends_at_its_timeout_with_what_there_is():
    results = search(["learning_rate"], [[0.1, 0.2]], epochs=1_000_000, timeout=0.5).run()
    assert [trial.result.stop_reason for trial in results] == ["timeout", "timeout"]
    assert results.stop_reason == "timeout"
    assert results.best_model_.nnz > 0


def test_a_search_ends_when_its_money_is_spent(monkeypatch):
    monkeypatch.setenv("CIRRUS_FAST_MACHINE", "3600")  # a dollar a second
    names, values = ["learning_rate"], [[0.1, 0.2]]
    results = search(names, values, epochs=1_000_000, max_cost=0.5).run()
    assert [trial.result.stop_reason for trial in results] == ["max_cost", "max_cost"]
    assert results.stop_reason == "max_cost"
    assert 0.5 <= results.cost == pytest.approx(results.seconds, rel=0.2)
    assert results.best_model_.nnz > 0
    # One after another: the second is not begun.
    alone = search(names, values, epochs=1_000_000, consistency="ssp", max_cost=0.5).run()
    assert [trial.result.stop_reason for trial in alone] == ["max_cost"]
    assert (alone.stop_reason, len(alone)) == ("max_cost", 1)
    enough = search(names, values, max_cost=1e6).run()
    assert (enough.stop_reason, len(enough)) == ("finished", 2)
    assert 0 < enough.cost < 1e6
    monkeypatch.setenv("CIRRUS_FAST_MACHINE", "c7g.nosuch")
    with pytest.raises(OptionError, match=r"CIRRUS_FAST_MACHINE: .*no price"):
        search(names, values, max_cost=1.0)


def test_what_was_cut_off_by_money_is_trained_when_the_search_goes_on(monkeypatch):
    names, values = ["learning_rate"], [[0.1, 0.2]]
    monkeypatch.setenv("CIRRUS_FAST_MACHINE", "3600")
    search(names, values, epochs=40_000, max_cost=0.3, name="rates").run()
    results = search(names, values, epochs=40_000, max_cost=0.3, name="rates").run()
    assert [trial.result.stop_reason for trial in results] == ["max_cost", "max_cost"]


def test_ctrl_c_ends_a_pass_with_what_there_is(monkeypatch):
    made = search(["learning_rate"], [[0.1, 0.2]], epochs=1_000_000)
    before = threading.active_count()
    real, count = grid_pass.wait, iter(range(1000))

    def wait(given):
        if next(count) == 40:
            raise KeyboardInterrupt
        return real(given)

    monkeypatch.setattr(grid_pass, "wait", wait)
    results = made.run()
    assert [trial.result.stop_reason for trial in results] == ["interrupted"] * 2
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_named_search_goes_on_where_it_ended(data, caplog):
    def made(**more):
        return search(["learning_rate", "seed"], [[0.05, 0.1, 0.2], [1, 2]], name="mine", **more)

    whole = search(["learning_rate", "seed"], [[0.05, 0.1, 0.2], [1, 2]]).run()
    seen = []

    def crash(trial):
        seen.append(trial)
        if len(seen) == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made().run(crash)
    assert any(name.startswith("model-") for name in open_storage(f"{data}/searches/mine").names())
    results = made().run(seen.append)
    assert "goes on after 4 of its models" in caplog.text
    assert [trial.params for trial in results] == [trial.params for trial in whole]
    assert [trial.loss for trial in results] == [trial.loss for trial in whole]
    best = results.best_model_.weights
    assert best.tobytes() == whole.best_model_.weights.tobytes()
    again = made().run()  # nothing is left to do
    assert [trial.loss for trial in again] == [trial.loss for trial in whole]
    assert again.best_model_.weights.tobytes() == best.tobytes()
    with pytest.raises(OptionError, match="is another search"):
        made(l2=0.1).run()
    rng = np.random.default_rng(0)
    load_csr(rng.normal(size=(500, 3)), rng.integers(0, 2, 500), "d", overwrite=True)
    with pytest.raises(OptionError, match="other data"):
        made().run()


def test_results_as_columns_and_text(tmp_path):
    names, values = ["learning_rate", "class_weight"], [[0.1], [(1, 2), (3e38, 3e38)]]
    results = search(names, values, optimizer="sgd").run()
    columns = results.cv_results_
    assert {len(column) for column in columns.values()} == {2}
    assert columns["param_class_weight"] == values[1]
    assert columns["rank_test_score"] == [1, 2]
    assert columns["loss"] == [results[0].loss, math.inf]
    assert columns["stop_reason"] == ["epochs", None]
    results.to_csv(tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["class_weight"] for row in rows] == ["1:2", "3e+38:3e+38"]
    assert float(rows[0]["loss"]) == results[0].loss
    assert rows[1]["error"] == results[1].error


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    results = search(["learning_rate", "l2"], [[0.01, 0.1, 0.2], [0, 0.1]]).run()
    results.plot(tmp_path / "curves.png")
    figure = results.plot(tmp_path / "map.png", by=("l2", "learning_rate"))
    cells = figure.axes[0].images[0].get_array()
    assert cells.shape == (2, 3)
    assert float(cells.min()) == pytest.approx(results.best.loss)
    assert (tmp_path / "curves.png").stat().st_size > 1000
    with pytest.raises(CirrusFastError, match="two of what was varied"):
        results.plot(by=("l2", "seed"))


def test_the_last_model_of_a_search_that_goes_on_is_not_trained_otherwise(monkeypatch):
    monkeypatch.setattr("cirrus_fast.backend.search_file._LEAST_S", 0)
    whole = search(["learning_rate", "epochs"], [[0.1], [1, 2]], n_workers=3).run()

    def crash(_trial):
        raise ZeroDivisionError

    def made():
        return search(["learning_rate", "epochs"], [[0.1], [1, 2]], n_workers=3, name="two")

    with pytest.raises(ZeroDivisionError):
        made().run(crash)
    monkeypatch.setattr("cirrus_fast.grid_search.Supervisor", None)
    assert [trial.loss for trial in made().run()] == [trial.loss for trial in whole]


def test_a_model_that_was_let_go_for_one_that_failed_is_made_again(monkeypatch):
    real = grid_pass.GridPass._evaluate

    def evaluate(self, ending=None):
        real(self, ending)
        for lane in self.running:
            if lane.spec.number == 1 and len(lane.history) == 8:
                self._fail(lane, "it grew wild")

    monkeypatch.setattr(grid_pass.GridPass, "_evaluate", evaluate)
    results = search(["learning_rate"], [[0.05, 0.1]]).run(keep_models=1)
    assert [trial.number for trial in results] == [0, 1]
    assert results[1].error == "it grew wild"
    assert results.best_model_.nnz > 0


def test_asking_for_a_model_that_was_let_go_says_so():
    results = search(["learning_rate"], [[0.01, 0.1]]).run(keep_models=1)
    with pytest.raises(ModelError, match="not kept"):
        _ = results[1].result.model


def test_progress_tells_the_best_so_far(capsys):
    search(["learning_rate"], [[0.01, 0.1]], progress=True).run()
    said = capsys.readouterr().err.splitlines()
    assert any("2 models at" in line and "best 0." in line and "s left" in line for line in said)
