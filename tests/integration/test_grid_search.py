"""Searching over options."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cirrus_fast import GridSearch, LogisticRegression, LRegression, load_csr
from cirrus_fast.errors import (
    CirrusFastError,
    DatasetError,
    ModelError,
    OptionError,
    TrainingError,
)
from cirrus_fast.grid_search import GridResults, Trial

pytestmark = pytest.mark.usefixtures("data")

BASE = {"dataset": "d", "epochs": 2, "test_fraction": 0.2, "epsilon": 0, "consistency": "bsp"}


@pytest.fixture
def data(storage_root):
    """The data set "d": 600 rows of 4 numbers that say much about the label."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(600, 4)).astype(np.float32)
    y = (X @ [2, -1, 0.5, 0] + 0.3 * rng.normal(size=600) > 0).astype(int)
    load_csr(X, y, "d")
    return storage_root


def search(names, values, base=BASE, **more):
    return GridSearch(LogisticRegression, {**base, **more}, names, values)


def test_every_combination_is_trained_once_in_order():
    seen = []
    made = search(["learning_rate", "minibatch_size"], [np.array([0.01, 0.1, 1.0]), [1, 50]])
    assert len(made) == 6
    results = made.run(on_trial=lambda trial: seen.append(dict(trial.params)))
    assert [tuple(params.values()) for params in seen] == [
        (rate, size) for rate in (0.01, 0.1, 1.0) for size in (1, 50)
    ]
    assert len(results) == 6
    assert repr(seen[0]) == "{'learning_rate': 0.01, 'minibatch_size': 1}"  # and not NumPy's
    assert sorted(map(str, seen)) == sorted(str(dict(trial.params)) for trial in results)


def test_results_come_best_first_and_are_those_of_single_runs():
    results = search(["learning_rate", "l2"], [[1e-4, 0.3], [0, 5.0]]).run()
    losses = [trial.loss for trial in results]
    assert losses == sorted(losses)
    assert len(set(losses)) == 4
    best = results.best
    assert best is results[0]
    assert results.best_params_ == best.params == {"learning_rate": 0.3, "l2": 0}
    assert results.best_model_ is best.result.model
    for trial in results:
        alone = LogisticRegression({**BASE, **trial.params}).run()
        assert alone.test_loss == pytest.approx(trial.loss, rel=1e-5)
        assert alone.auc == pytest.approx(trial.result.auc, abs=1e-4)
        weights = trial.result.model.weights
        np.testing.assert_allclose(weights, alone.model.weights, rtol=1e-3, atol=1e-5)


def test_without_test_rows_trials_are_sorted_by_training_loss():
    base = {name: value for name, value in BASE.items() if name != "test_fraction"}
    results = search(["learning_rate"], [[1e-4, 0.3]], base).run()
    assert results.best_params_ == {"learning_rate": 0.3}
    assert results.best.loss == results.best.result.history[-1].train_loss


def test_any_option_may_vary():
    results = search(
        ["optimizer", "fit_intercept", "class_weight"],
        [["sgd", "ftrl"], [True, False], [None, (1, 2)]],
    ).run()
    assert len(results) == 8
    assert {trial.result.model.intercept == 0 for trial in results} == {True, False}


def test_what_varies_wins_over_the_base():
    results = search(["epochs"], [[1, 3]], epochs=7).run()
    assert {trial.result.history[-1].rows for trial in results} == {
        epochs * results.best.result.history[-1].rows // results.best_params_["epochs"]
        for epochs in (1, 3)
    }


@pytest.mark.parametrize(
    ("names", "values", "says"),
    [
        (["learning_rat"], [[1]], "did you mean learning_rate"),
        (["learning_rate"], [[0.1, -1.0]], "learning_rate=-1.0: must be above 0"),
        (["minibatch_size"], [np.arange(1.0, 3.0)], "must be a whole number"),
        (["l1", "l2"], [[1]], "names 2 options but hyper_params has values for 1"),
        (["l1"], [[1], [2]], "names 1 options but hyper_params has values for 2"),
        (["l1", "l1"], [[1], [2]], "l1 is named twice"),
        (["l1"], [[]], "no values for l1"),
        ([], [], "list of option names"),
        ("l1", [[1]], "list of option names"),
        (["staleness"], [[1]], "staleness: means nothing"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_anything_is_trained(names, values, says):
    with pytest.raises(OptionError, match=says):
        search(names, values)


def test_the_task_must_be_one_of_ours():
    with pytest.raises(OptionError, match="must be LogisticRegression"):
        GridSearch(
            task="LogisticRegression", param_base=BASE, hyper_vars=["l1"], hyper_params=[[1]]
        )
    assert len(GridSearch(LRegression, BASE, ["l1"], [[0, 1]])) == 2


@pytest.fixture
def wild(data):
    """The data set "wild": a column has a value that is no number."""
    X = np.ones((200, 2), np.float32)
    X[5, 1] = np.nan
    load_csr(X, np.arange(200) % 2, "wild", allow_nonfinite=True)


@pytest.mark.usefixtures("wild")
def test_runs_that_fail_come_last_and_do_not_end_the_search():
    results = search(["dataset", "l2"], [["wild", "d"], [0, 1e-3]]).run()
    assert [trial.params["dataset"] for trial in results] == ["d", "d", "wild", "wild"]
    failed = results[-1]
    assert failed.result is None
    assert "feature 1" in failed.error
    assert failed.loss == math.inf
    assert results.best.error is None
    lost = search(["l2"], [[0, 1]], dataset="wild").run()
    with pytest.raises(TrainingError, match="every run of the search failed"):
        _ = lost.best
    with pytest.raises(TrainingError, match="every run"):
        _ = GridResults().best_params_


def test_trouble_that_is_not_of_one_model_ends_the_search():
    with pytest.raises(DatasetError, match="absent: no data set"):
        search(["l2"], [[0, 1]], dataset="absent").run()


def test_an_interrupt_ends_the_search_with_what_there_is():
    count = 0

    def interrupt(_record):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    made = search(["l2"], [[0, 1e-3, 1e-2, 0.1]], callbacks=interrupt, eval_interval=1.0)
    results = made.run()
    assert len(results) == 3
    assert [trial.result.stop_reason for trial in results].count("interrupted") == 1


def test_a_loss_that_is_no_number_is_never_the_best():
    trial = search(["l2"], [[0]]).run().best
    nan = Trial({"l2": 9}, replace(trial.result, test_loss=math.nan))
    assert nan.loss == math.inf
    results = GridResults([nan, trial])
    results.sort(key=lambda one: one.loss)
    assert results.best is trial


def test_only_the_best_models_are_kept():
    rates = [[1e-3, 0.3, 1e-4, 0.1, 3.0]]
    seen = []
    made = search(["learning_rate"], rates)
    results = made.run(on_trial=lambda trial: seen.append(trial.params), keep_models=2)
    assert [params["learning_rate"] for params in seen] == rates[0]
    everything = made.run(keep_models=5)
    assert [trial.params for trial in results] == [trial.params for trial in everything]
    for kept, whole in zip(results[:2], everything[:2], strict=True):
        assert kept.result.model.weights.tobytes() == whole.result.model.weights.tobytes()
    assert results.best_model_ is results[0].result.model
    for trial, whole in zip(results[2:], everything[2:], strict=True):
        assert trial.loss == whole.loss
        assert trial.result.params == whole.result.params
        assert [r.test_loss for r in trial.result.history] == [
            r.test_loss for r in whole.result.history
        ]
        for use in (lambda r: r.model, lambda r: r.save("x.npz")):
            with pytest.raises(ModelError, match=r"not kept: .*keep_models"):
                use(trial.result)
        LogisticRegression({**BASE, **trial.params}).run()  # as the message says
        assert "model=<not kept>" in repr(trial)
        copy = pickle.loads(pickle.dumps(trial))
        assert copy.loss == trial.loss
        with pytest.raises(ModelError, match="not kept"):
            _ = copy.result.model


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None])
def test_a_search_keeps_at_least_its_best_model(wrong):
    with pytest.raises(OptionError, match="keep_models="):
        search(["l2"], [[0]]).run(keep_models=wrong)


def test_the_memory_of_a_search_does_not_grow_with_its_models():
    width = 1 << 19  # a model of 2 MB
    options = {"model_size": width, "epochs": 1}
    rates = np.geomspace(1e-3, 1, 12)
    search(["learning_rate"], [rates[:1]], **options).run()  # what is loaded once
    tracemalloc.start()
    try:
        results = search(["learning_rate"], [rates], **options).run(keep_models=2)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert results.best_model_.n_features == width
    assert 2 * 4 * width <= now < 4 * 4 * width  # two models and small things, not twelve


def test_errors_are_of_this_package():
    assert issubclass(OptionError, CirrusFastError)
    assert issubclass(TrainingError, CirrusFastError)
