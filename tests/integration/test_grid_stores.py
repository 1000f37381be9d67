"""Searches whose models are in a parameter store: a STEP carries what all of a group learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from module_server import Server, first_program, url_of
from module_server import one_server as server

from cirrus_fast import GridSearch, LogisticRegression, load_csr
from cirrus_fast.errors import OptionError, StoreError

__all__ = ["server"]  # a fixture

BASE = {"dataset": "d", "epochs": 2, "test_fraction": 0.2, "epsilon": 0, "minibatch_size": 30}
VARIED = ["learning_rate", "l1", "l2", "class_weight"]
VALUES = [[0.02, 0.1, 0.3], [0, 1e-3], [0, 1e-2], [None, (1, 3)]]  # 24 models: more than a group


@pytest.fixture(scope="module")
def program() -> Path:
    return first_program()


@pytest.fixture(autouse=True)
def data(storage_root):
    """The data set "d": 2,000 rows, sparse, with weights and rare columns."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(2000, 40)).astype(np.float32) * (rng.random((2000, 40)) < 0.2)
    X[:, 0] = rng.normal(size=2000)
    y = (X @ rng.normal(size=40) + rng.normal(size=2000) > 0.3).astype(int)
    load_csr(X, y, "d", sample_weight=rng.choice([0.5, 1.0, 2.0], 2000).astype(np.float32))
    return storage_root


def search(store, names=VARIED, values=VALUES, *, mode="grid", **more):
    return GridSearch(
        LogisticRegression, {**BASE, "param_store": store, **more}, names, values, mode=mode
    )


def check_alone(trial, store, **more):
    """It is the model of its own run with that store."""
    options = {**BASE, "param_store": store, **more, **trial.params}
    alone, result = LogisticRegression(options, n_workers=1).run(), trial.result
    assert result.test_loss == pytest.approx(alone.test_loss, rel=2e-5)
    assert [r.rows for r in result.history] == [r.rows for r in alone.history]
    assert [r.updates for r in result.history] == [r.updates for r in alone.history]
    ours = [r.train_loss for r in result.history]
    assert ours == pytest.approx([r.train_loss for r in alone.history], rel=1e-4)
    np.testing.assert_allclose(result.model.weights, alone.model.weights, rtol=5e-3, atol=1e-4)
    assert result.model.intercept == pytest.approx(alone.model.intercept, abs=1e-4)
    assert (result.params, result.param_store) == (alone.params, alone.param_store)


def n_steps(server: Server) -> int:
    """Pushes that the module has taken so far."""
    wire = server.connect()
    told = wire("INFO", "everything").decode()
    wire.close()
    return int(told.partition("_pushes:")[2].split()[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("size", [1, 30])
def test_each_model_is_the_one_of_its_own_run(server, optimizer, size):
    more = {"optimizer": optimizer, "minibatch_size": size, "epochs": 1, "seed": 5}
    results = search(url_of(server), **more).run(keep_models=24)
    assert len(results) == 24
    for trial in results[::5]:
        check_alone(trial, url_of(server), **more)
    in_memory = search("memory", **more).run(keep_models=24)
    both = [{t.number: t.result.test_loss for t in one} for one in (results, in_memory)]
    assert both[0] == pytest.approx(both[1], rel=2e-5)


def test_a_step_carries_what_a_group_learnt(server):
    before = n_steps(server)
    results = search(url_of(server), ["learning_rate"], [np.geomspace(0.01, 0.3, 16)]).run()
    updates = {trial.result.history[-1].updates for trial in results}
    assert {n_steps(server) - before} == updates  # of one model, not of sixteen


def test_nothing_is_left_behind(server):
    search(url_of(server)).run()
    wire = server.connect()
    assert wire("DBSIZE") == 0
    wire.close()


@pytest.mark.parametrize("n_ps", [2, 3])
def test_groups_may_be_in_parts(server, program, tmp_path, n_ps):
    second = Server(program, tmp_path)
    try:
        urls = [url_of(server), url_of(second)]
        results = search(urls, n_ps=n_ps, optimizer="ftrl").run()
        check_alone(results[0], urls, n_ps=n_ps, optimizer="ftrl")
    finally:
        second.stop()


def test_processes_share_the_groups(server):
    answers = [
        search(url_of(server), executor=executor, n_workers=2).run()
        for executor in ("local", "processes")
    ]
    losses = [{t.number: t.loss for t in one} for one in answers]
    assert losses[0] == losses[1]
    check_alone(answers[1][0], url_of(server), executor="processes")


def test_an_intercept_may_be_left_out(server):
    results = search(url_of(server), fit_intercept=False).run()
    assert results.best_model_.intercept == 0
    check_alone(results[0], url_of(server), fit_intercept=False)


def test_one_that_diverges_ends_and_touches_no_other(server):
    weights = [None, (3e38, 3e38), (1, 2)]
    mixed = search(url_of(server), ["class_weight"], [weights], optimizer="sgd").run()
    assert [trial.error is None for trial in mixed] == [True, True, False]
    assert "the likely cause is feature" in mixed[-1].error
    plain = search(url_of(server), ["class_weight"], [weights[::2]], optimizer="sgd").run()
    assert [t.loss for t in mixed[:2]] == [t.loss for t in plain]


def test_halving_in_a_store_keeps_the_same_models(server):
    rates = np.geomspace(1e-3, 1, 40)
    found = [
        search(store, ["learning_rate"], [rates], mode="halving").run()
        for store in ("memory", url_of(server))
    ]
    ends = [{t.number: (t.result.stop_reason, t.result.rows_processed) for t in f} for f in found]
    assert ends[0] == ends[1]
    assert len({reason for reason, _ in ends[0].values()}) == 2


def test_without_the_module_models_are_trained_one_after_another(server, caplog, capsys):
    plain = url_of(server, "?store=bitfield")
    results = search(plain, ["learning_rate"], [[0.05, 0.1]], n_workers=1).run()
    assert [trial.error for trial in results] == [None, None]
    assert "one after another" in capsys.readouterr().err + caplog.text
    with pytest.raises(OptionError, match="halving"):
        search(plain, ["learning_rate"], [[0.05, 0.1]], mode="halving")


def test_a_server_that_loses_the_models_ends_the_search(server):
    def flush(_):
        wire = server.connect()
        wire("FLUSHALL")
        wire.close()

    values = [[0.05, 0.1], [1, 2]]
    with pytest.raises(StoreError, match="lost it"):
        search(url_of(server), ["learning_rate", "epochs"], values, eval_interval=0.1).run(flush)
