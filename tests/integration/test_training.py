"""Whole training runs: quality, accounting, stopping, failing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import (
    CSR,
    Dataset,
    LinearModel,
    LogisticRegression,
    TrainResult,
    load_csr,
    load_libsvm,
    make_clicks,
    normalize,
)
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.errors import DatasetError, ModelError, TrainingError
from cirrus_fast.runtime import worker as worker_module
from cirrus_fast.runtime.params import local

pytestmark = pytest.mark.usefixtures("storage_root")


@pytest.fixture(scope="module")
def adult(tmp_path_factory, data_dir):
    """The names of a9a and its test part, loaded once."""
    root = tmp_path_factory.mktemp("adult")
    train = load_libsvm(data_dir / "a9a.gz", f"{root}/a9a")
    load_libsvm(data_dir / "a9a.t.gz", f"{root}/a9a.t", like=train)
    return f"{root}/a9a", f"{root}/a9a.t"


def clicks(n_rows=4000, seed=0, width=60):
    """Rows of 6 ones whose labels follow a linear model."""
    rng = np.random.default_rng([seed, 5])
    ids = np.sort(np.argsort(rng.random((n_rows, width)), axis=1)[:, :6], axis=1)
    truth = np.random.default_rng(3).normal(size=width)
    labels = (truth[ids].sum(axis=1) - 1 + rng.logistic(size=n_rows) > 0).astype(np.float32)
    indptr = np.arange(0, 6 * n_rows + 1, 6)
    data = np.ones(6 * n_rows, np.float32)
    return CSR(labels, indptr, ids.ravel().astype(np.uint32), data, width)


@pytest.fixture
def blocks(storage_root, monkeypatch):
    """The data set "clicks" in blocks of 500 rows, for any number of workers."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 500)
    monkeypatch.setattr("cirrus_fast.backend.plan.FEW_ROWS", 0)
    return load_csr(clicks(), None, "clicks")


def train(dataset="clicks", **options):
    return LogisticRegression({"dataset": dataset, **options}).run()


def same(left, right):
    return (
        left.model.weights.tobytes() == right.model.weights.tobytes()
        and left.model.intercept == right.model.intercept
    )


def objective(dataset, model, l2, l1=0.0):
    """F of the design, in float64, times the number of rows."""
    total = 0.0
    for rows in iterate(dataset):
        sign = np.where(dataset.manifest.label_map.positives(rows.labels) > 0, 1, -1)
        margins = rows.to_scipy().astype(np.float64) @ model.weights.astype(np.float64)
        total += np.logaddexp(0, -sign * (margins + model.intercept)).sum()
    w = model.weights.astype(np.float64)
    return total + dataset.n_rows * (l2 / 2 * (w @ w) + l1 * np.abs(w).sum())


# Quality


def test_defaults_train_adult_well(adult):
    result = train(adult[0])
    assert result.stop_reason in ("converged", "epochs")
    found = result.model.evaluate(adult[1])
    assert found.logloss <= 0.3255  # the optimum of F with l2 = 1/n has 0.32406
    assert found.auc >= 0.9015
    assert found.accuracy >= 0.848


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
@pytest.mark.parametrize("minibatch_size", [1, 100, 1000])
def test_every_optimiser_trains_adult(adult, optimizer, minibatch_size):
    result = train(adult[0], optimizer=optimizer, minibatch_size=minibatch_size)
    # sgd's steps never become small of themselves, so its last rows weigh more.
    assert result.model.evaluate(adult[1]).logloss <= (0.332 if optimizer == "sgd" else 0.329)


# F*, times n, with l2 = 1/n and a free intercept: Newton's method in double precision.
OPTIMA = {"heart_scale": 94.655224, "a1a": 515.530202, "rcv1_small.libsvm.gz": 476.664631}


@pytest.mark.parametrize(
    ("name", "optimizer", "epochs", "within"),
    [
        ("heart_scale", "adagrad", 1000, 1e-4),
        ("heart_scale", "ftrl", 1000, 2e-4),
        ("heart_scale", "sgd", 1000, 1e-4),
        ("a1a", "adagrad", 1000, 5e-4),
        ("a1a", "ftrl", 1000, 7e-4),
        ("a1a", "sgd", 1000, 5e-4),
        ("rcv1_small.libsvm.gz", "adagrad", 700, 1e-4),
        ("rcv1_small.libsvm.gz", "ftrl", 300, 1e-4),
    ],
)
def test_a_long_run_reaches_the_optimum_of_the_objective(data_dir, name, optimizer, epochs, within):
    dataset = load_libsvm(data_dir / name, "d")
    l2 = 1 / dataset.n_rows
    result = train(
        "d",
        l2=l2,
        optimizer=optimizer,
        epochs=epochs,
        epsilon=0,
        eval_interval=100,
        consistency="bsp",
    )
    found = objective(dataset, result.model, l2)
    assert OPTIMA[name] * (1 - 1e-7) <= found <= OPTIMA[name] * (1 + within)


def proximal_gradient(X, sign, l1):
    """(weights, intercept) of the mean loss plus l1 |w|, by accelerated steps in float64."""
    X = np.column_stack([X, np.ones(len(X))])
    step = 4 * len(X) / np.linalg.norm(X, 2) ** 2
    w, ahead, speed = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 1.0
    shrink = np.append(np.full(X.shape[1] - 1, step * l1), 0)
    for _ in range(20_000):
        slope = -sign / (1 + np.exp(sign * (X @ ahead)))
        moved = ahead - step * (X.T @ slope) / len(X)
        new = np.sign(moved) * np.maximum(np.abs(moved) - shrink, 0)
        faster = (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = new + (speed - 1) / faster * (new - w)
        w, speed = new, faster
    return w[:-1], w[-1]


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
def test_l1_reaches_the_optimum_and_its_zeros(data_dir, optimizer):
    dataset, l1 = load_libsvm(data_dir / "heart_scale", "d"), 0.02
    (rows,) = iterate(dataset)
    sign = np.where(rows.labels > 0, 1.0, -1.0)
    best, intercept = proximal_gradient(rows.to_scipy().toarray().astype(float), sign, l1)
    model = LinearModel(best.astype(np.float32), intercept, dataset.manifest.label_map)
    optimum = objective(dataset, model, 0, l1)
    assert 2 <= np.count_nonzero(best == 0) <= 10
    options = {"epochs": 1000, "epsilon": 0, "eval_interval": 100, "consistency": "bsp"}
    ours = train("d", l1=l1, optimizer=optimizer, **options).model
    found = objective(dataset, ours, 0, l1)
    assert optimum * (1 - 1e-6) <= found <= optimum * 1.002
    # ftrl, which thresholds sums of many rows, finds the zeros; the others hover around them, sgd
    # as far as its last steps are long.
    small = {"ftrl": 1e-12, "adagrad": 0.01, "sgd": 0.02}[optimizer]
    np.testing.assert_array_equal(np.abs(ours.weights) < small, best == 0)


def test_weights_and_class_weights_are_part_of_the_objective(data_dir):
    """A row of weight 2 counts as two rows; so does a class of weight 2."""
    loaded = load_libsvm(data_dir / "heart_scale", "d")
    (rows,) = iterate(loaded)
    positive = rows.labels > 0
    order = np.concatenate([np.arange(270), np.flatnonzero(positive)])
    load_csr(rows.to_scipy()[order], rows.labels[order], "twice")
    load_csr(rows.to_scipy(), rows.labels, "weights", sample_weight=np.where(positive, 2, 1))
    load_csr(rows.to_scipy(), rows.labels, "once")
    options = {"epochs": 500, "epsilon": 0, "eval_interval": 100, "l2": 0.01}
    doubled = train("twice", **options).model
    for other in (
        train("weights", **options).model,
        train("once", class_weight=(1, 2), **options).model,
    ):
        np.testing.assert_allclose(other.weights, doubled.weights, atol=0.01)
        assert other.intercept == pytest.approx(doubled.intercept, abs=0.01)


def test_numbers_of_any_scale_train_with_the_defaults(data_dir):
    """breast-cancer as it is: the first column is a patient's number, up to 1.3e7."""
    load_libsvm(data_dir / "breast-cancer", "d")
    result = train("d", epochs=30, epsilon=0, test_fraction=0.2)
    assert result.test_loss < 0.2
    assert result.auc > 0.97
    assert np.isfinite(result.model.weights).all()
    # Trained on the scaled data it is as good.
    normalize("d", "n")
    scaled = train("n", epochs=30, epsilon=0, test_fraction=0.2)
    assert abs(scaled.test_loss - result.test_loss) < 0.05


@pytest.mark.parametrize("factor", [1000.0, 2.0**-20])
@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
@pytest.mark.parametrize("l2", [0.0, 0.001])
def test_weights_are_of_the_data_as_given(factor, optimizer, l2):
    """A column times 1000 has a thousandth of the weight, and no loss changes."""
    rows = clicks()
    grown = np.where(rows.indices == 7, np.float32(factor), np.float32(1)) * rows.data
    load_csr(rows, None, "plain")
    load_csr(CSR(rows.labels, rows.indptr, rows.indices, grown, 60), None, "grown")
    options = {"epochs": 2, "epsilon": 0, "test_fraction": 0.1, "optimizer": optimizer}
    if l2:  # what the penalty does shows when the steps are short
        options["epochs"] = 20
    plain, other = train("plain", l2=l2, **options), train("grown", l2=l2, **options)
    if l2:  # a penalty speaks of the weights as given: free where they are small, and the reverse
        ratio = other.model.weights[7] * factor / plain.model.weights[7]
        assert ratio > 1.001 if factor > 1 else ratio < 0.5
        return
    assert other.test_loss == pytest.approx(plain.test_loss, rel=1e-5)
    expected = plain.model.weights.copy()
    expected[7] /= factor
    np.testing.assert_allclose(other.model.weights, expected, rtol=1e-3, atol=1e-7)


# Repeatability and accounting


def test_a_single_worker_repeats_itself_bit_for_bit(adult):
    for consistency in ("bsp", "async"):
        options = {"epochs": 3, "epsilon": 1e-9, "n_workers": 1, "consistency": consistency}
        first, second = train(adult[0], **options), train(adult[0], **options)
        assert same(first, second)
        records = [
            [(r.rows, r.updates, r.train_loss, r.test_loss, r.auc) for r in result.history]
            for result in (first, second)
        ]
        assert records[0] == records[1]
        other = train(adult[0], **options, seed=1)
        assert not same(first, other)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
@pytest.mark.usefixtures("blocks")
def test_every_row_is_learnt_from_once_an_epoch(n_workers, consistency):
    options = {"minibatch_size": 7, "epsilon": 0, "epochs": 3}
    result = train(n_workers=n_workers, consistency=consistency, **options)
    assert result.n_workers == n_workers
    assert result.rows_processed == 3 * 4000
    assert result.rows_repeated == 0
    assert result.history[-1].rows == 3 * 4000
    assert result.stop_reason == "epochs"
    rows = [record.rows for record in result.history]
    assert rows == sorted(rows)


@pytest.mark.usefixtures("blocks")
def test_each_row_comes_once_and_not_just_as_many(monkeypatch):
    """The rows given to the kernel, by what is in them, over all workers, who help each other."""
    seen = []
    real = worker_module.Worker._train

    def watched(self, rows, order):
        for i in order:
            part = slice(rows.indptr[i], rows.indptr[i + 1])
            seen.append((rows.indices[part].tobytes(), rows.data[part].tobytes()))
        real(self, rows, order)

    monkeypatch.setattr(worker_module.Worker, "_train", watched)
    result = train(n_workers=3, epsilon=0, epochs=2)
    times = Counter(seen)
    assert result.rows_processed == times.total() == 8000
    seen.clear()
    train(n_workers=1, epsilon=0, epochs=1)  # who learns from each once: test_minibatches.py
    assert times == {row: 2 * n for row, n in Counter(seen).items()}


@pytest.mark.usefixtures("blocks")
def test_several_workers_are_nearly_as_good_as_one():
    load_csr(clicks(seed=9), None, "test", like="clicks")
    losses = [
        train(n_workers=n, epsilon=0, epochs=3, test_dataset="test").test_loss for n in (1, 4)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # a small set: 4,000 rows


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl"])
def test_two_workers_learn_clicks_as_well_as_one(tmp_path, optimizer):
    """Popular columns are private to a worker for 500 rows; the loss hardly notices."""
    for name, n_rows, stream in (("train", 100_000, 0), ("test", 20_000, 1)):
        make_clicks(tmp_path / name, n_rows, seed=3, stream=stream)
    load_libsvm(tmp_path / "train", "train")
    load_libsvm(tmp_path / "test", "test", like="train")
    options = {"epsilon": 0, "epochs": 1, "eval_interval": 1.0, "optimizer": optimizer}
    one = train("train", n_workers=1, test_dataset="test", **options).test_loss
    # Who comes first where is chance: the loss of a run varies by a thousandth.
    two = [train("train", n_workers=2, test_dataset="test", **options).test_loss for _ in range(4)]
    assert np.mean(two) <= 1.0025 * one


def test_little_data_takes_fewer_workers_and_says_so(caplog):
    load_csr(clicks(300), None, "few")
    result = train("few", n_workers=4, epsilon=0)
    assert result.n_workers == 1
    assert "few: 1 of 4 workers are used" in caplog.text


# Hold-out and early stopping


def test_held_out_rows_are_not_trained_on():
    """Every row has a column of its own, so a row that was learnt from would be known by heart."""
    n = 2000
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n).astype(np.float32)
    rows = CSR(
        labels,
        np.arange(n + 1),
        np.arange(n, dtype=np.uint32),
        np.ones(n, np.float32),
        n,
    )
    dataset = load_csr(rows, None, "own")
    result = train("own", epochs=20, epsilon=0, test_fraction=0.3, learning_rate=1.0, seed=4)
    holdout = HoldOut.plan(dataset.blocks, 0.3, 4)
    held = np.concatenate([holdout.mask(i, block) for i, block in enumerate(dataset.blocks)])
    # The last weights, not the best ones.
    final = train("own", epochs=20, epsilon=0, learning_rate=1.0)
    assert (final.model.weights != 0).all()
    assert (result.model.weights[held] == 0).all()
    assert (result.model.weights[~held] != 0).any()
    assert result.rows_processed == 20 * int((~held).sum())
    assert result.test_loss > 0.68  # nothing can be known of them


def test_early_stopping_returns_the_best_model_not_the_last():
    """Labels of noise: every step after the first few makes the test loss worse."""
    rng = np.random.default_rng(1)
    rows = clicks(1000, width=400)
    noise = rng.integers(0, 2, 1000).astype(np.float32)
    load_csr(CSR(noise, rows.indptr, rows.indices, rows.data, 400), None, "noise")
    load_csr(rows, None, "test", like="noise")
    result = train(
        "noise",
        test_dataset="test",
        epochs=100,
        patience=3,
        learning_rate=1.0,
        eval_interval=0.2,
    )
    losses = [record.test_loss for record in result.history]
    assert result.stop_reason == "converged"
    assert result.test_loss == min(losses) < losses[-1]
    assert result.model.evaluate("test").logloss == pytest.approx(min(losses), rel=1e-9)
    assert result.auc == result.history[losses.index(min(losses))].auc


def test_test_loss_and_auc_are_those_of_the_models_own_evaluation(adult):
    result = train(adult[0], test_dataset=adult[1], epochs=1)
    found = result.model.evaluate(adult[1])
    assert result.test_loss == pytest.approx(found.logloss, rel=1e-12)
    assert result.auc == pytest.approx(found.auc, rel=1e-12)


def test_a_test_set_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "one.svm").write_bytes(b"1 1:1\n0 2:1\n" * 50)
    (tmp_path / "zero.svm").write_bytes(b"1 0:1\n0 1:1\n")
    load_libsvm(tmp_path / "one.svm", "one")
    load_libsvm(tmp_path / "zero.svm", "zero")
    with pytest.raises(DatasetError, match="zero: ids start at 0, the model's at 1"):
        train("one", test_dataset="zero")
    (tmp_path / "labels.svm").write_bytes(b"5 1:1\n3 2:1\n")
    load_libsvm(tmp_path / "labels.svm", "labels")
    with pytest.raises(DatasetError, match=r"^labels: in the test rows, label 5 is neither"):
        train("one", test_dataset="labels")
    normalize("one", "scaled")
    # A raw test set of a scaled training set goes through its scaling.
    raw, scaled = (train("scaled", test_dataset=name, epochs=1) for name in ("one", "scaled"))
    assert raw.test_loss == scaled.test_loss


def test_test_rows_without_any_weight_are_refused():
    rows = clicks(200)
    held = HoldOut.plan(load_csr(rows, None, "d").blocks, 0.2, 1).mask(0, Dataset("d").blocks[0])
    load_csr(rows, None, "d", sample_weight=~held, overwrite=True)
    with pytest.raises(DatasetError, match="weigh nothing"):
        train("d", test_fraction=0.2, seed=1)


def test_one_class_alone_trains_to_its_base_rate():
    load_csr(np.ones((50, 1)), np.ones(50), "ones")
    result = train("ones", epsilon=0, epochs=3)
    assert np.isfinite(result.model.intercept)
    assert result.model.predict_proba(np.ones((1, 1)))[0, 1] > 0.5


# Stopping


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("n_workers", [1, 3])
def test_ctrl_c_returns_what_there_is(n_workers):
    records = []

    def interrupt(record):
        records.append(record)
        if len(records) == 3:
            raise KeyboardInterrupt

    result = train(
        n_workers=n_workers, epochs=1000, epsilon=0, eval_interval=0.1, callbacks=interrupt
    )
    assert result.stop_reason == "interrupted"
    assert len(result.history) >= 3
    assert result.rows_processed < 100 * 4000
    assert np.isfinite(result.model.evaluate("clicks").logloss)


_INTERRUPTED = """
import signal, sys, numpy as np
from cirrus_fast import load_csr, LogisticRegression
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
load_csr(rng.random((2000, 5)), rng.integers(0, 2, 2000), "d")
print("ready", flush=True)
params = {"dataset": "d", "epochs": 1_000_000, "epsilon": 0, "executor": sys.argv[1]}
try:
    result = LogisticRegression(params, callbacks=lambda r: print("step", flush=True)).run()
    print(result.stop_reason, result.rows_processed > 0, len(result.history) > 0)
except KeyboardInterrupt:
    print("raised")
"""


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_real_interrupt_of_a_script_gives_a_result(tmp_path, executor):
    home = str(Path(cirrus_fast.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, executor],
        env=os.environ | {"PYTHONPATH": home},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line == "step\n":
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "interrupted True True"


@pytest.mark.usefixtures("blocks")
def test_a_run_can_be_started_watched_and_stopped():
    run = LogisticRegression(dataset="clicks", epochs=1_000_000, epsilon=0, eval_interval=1).start()
    assert not run.done()
    while run.progress() is None:
        time.sleep(0.001)
    first = run.progress()
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    run.stop()
    result = run.result(timeout=60)
    assert run.done()
    assert result.stop_reason == "stopped"
    assert result.history[-1].rows >= first.rows > 0
    assert run.progress() == result.history[-1]
    assert run.result() is result


@pytest.mark.usefixtures("blocks")
def test_a_run_stopped_before_it_began_still_gives_a_model():
    run = LogisticRegression(dataset="clicks", epochs=1_000_000, epsilon=0).start()
    run.stop()
    result = run.result(timeout=60)
    assert result.stop_reason == "stopped"
    assert len(result.history) >= 1
    assert result.model.n_features == 60


def test_an_error_of_a_started_run_is_raised_by_result():
    run = LogisticRegression(dataset="absent").start()
    with pytest.raises(DatasetError, match="absent: no data set"):
        run.result(timeout=60)


@pytest.mark.usefixtures("blocks")
def test_runs_in_several_threads_do_not_disturb_each_other():
    options = {"epochs": 2, "epsilon": 0, "consistency": "bsp"}
    alone = [train(seed=seed, **options) for seed in range(3)]
    runs = [LogisticRegression(dataset="clicks", seed=seed, **options).start() for seed in range(3)]
    for run, expected in zip(runs, alone, strict=True):
        assert same(run.result(timeout=60), expected)


# Failing


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_an_error_in_one_worker_is_raised_and_nothing_hangs(monkeypatch, consistency):
    real = worker_module.MiniBatches._read

    def broken(self, *arguments):
        if self._worker == 1:
            raise RuntimeError("decoder on fire")
        return real(self, *arguments)

    monkeypatch.setattr(worker_module.MiniBatches, "_read", broken)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="decoder on fire"):
        train(n_workers=3, consistency=consistency, epochs=1_000_000, epsilon=0)
    assert threading.active_count() == before
    assert local._published == {}


def test_a_damaged_shard_is_named(storage_root):
    load_csr(clicks(), None, "d")
    (shard,) = (storage_root / "d").glob("*.cfs")
    raw = bytearray(shard.read_bytes())
    raw[-100] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(cirrus_fast.CirrusFastError, match=str(shard)):
        train("d")
    with pytest.raises(cirrus_fast.CirrusFastError, match=str(shard)):
        train("d", epsilon=0, executor="processes")


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("minibatch_size", [1, 32])
def test_a_loss_that_is_no_number_names_the_column(value, minibatch_size):
    rows = clicks(500)
    rows.data[np.flatnonzero(rows.indices == 17)] = value
    load_csr(rows, None, "d", allow_nonfinite=True)
    with pytest.raises(TrainingError, match=r"feature 17 \(0-based\)") as caught:
        train("d", epsilon=0, minibatch_size=minibatch_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_test_loss_that_is_no_number_names_the_column(value):
    load_csr(clicks(500), None, "d")
    rows = clicks(500, seed=1)
    rows.data[np.flatnonzero(rows.indices == 23)] = value
    load_csr(rows, None, "t", like="d", allow_nonfinite=True)
    with pytest.raises(
        TrainingError, match=r"test loss.* feature 23 \(0-based\), .* in a test row"
    ):
        train("d", test_dataset="t")


def test_a_data_set_replaced_under_a_run_is_noticed(monkeypatch):
    load_csr(clicks(), None, "d")
    real = worker_module.connect

    def replaced(url, task):
        load_csr(clicks(seed=1), None, "d", overwrite=True)
        return real(url, task)

    monkeypatch.setattr(worker_module, "connect", replaced)
    with pytest.raises(TrainingError, match="was replaced after the run began"):
        train("d", epsilon=0)


# The result


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_data_set_may_be_named_by_uri(storage_root, executor):
    load_csr(clicks(), None, "d")
    uri = f"file://{storage_root}/d"
    by_name = train("d", epsilon=0, epochs=1, executor=executor)
    assert same(train(uri, epsilon=0, epochs=1, executor=executor), by_name)


@pytest.mark.usefixtures("blocks")
def test_the_breakdown_accounts_for_the_workers_time():
    began = time.perf_counter()
    result = train(n_workers=2, epochs=60, epsilon=0)
    wall = time.perf_counter() - began
    spent = sum(result.breakdown.values())
    assert set(result.breakdown) == {
        *("start_up", "storage_read", "decode", "pull", "compute", "push", "other")
    }
    assert min(result.breakdown.values()) >= 0
    assert 0.3 * 2 * result.seconds <= spent <= 3 * 2 * wall
    assert result.breakdown["compute"] > 0
    assert result.breakdown["decode"] > 0
    assert 0 < result.seconds <= wall
    assert result.cost == 0


def test_a_result_survives_its_file(tmp_path, adult):
    result = train(adult[0], epochs=1, class_weight="balanced")
    result.save(tmp_path / "r")
    back = TrainResult.load(tmp_path / "r")
    assert same(back, result)
    assert back.history == result.history
    names = (
        "test_loss",
        "auc",
        "seconds",
        "cost",
        "rows_processed",
        "rows_repeated",
        "stop_reason",
    )
    for name in (*names, "n_workers", "executor", "param_store", "params", "breakdown"):
        assert getattr(back, name) == getattr(result, name), name
    model = LinearModel.load(tmp_path / "r")
    assert model.weights.tobytes() == result.model.weights.tobytes()
    assert model.params["class_weight"] == "balanced"
    result.model.save(tmp_path / "m")
    with pytest.raises(ModelError, match="a model but no result"):
        TrainResult.load(tmp_path / "m")
    raw = (tmp_path / "r").read_bytes()
    (tmp_path / "cut").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ModelError, match="cut"):
        TrainResult.load(tmp_path / "cut")


def test_a_result_without_test_rows_has_none(tmp_path):
    load_csr(clicks(), None, "d")
    result = train("d", epsilon=0, epochs=1)
    assert (result.test_loss, result.auc) == (None, None)
    assert all(record.test_loss is None for record in result.history)
    result.save(tmp_path / "r")
    assert TrainResult.load(tmp_path / "r").history == result.history


def test_a_model_of_scaled_data_scores_raw_rows(adult):
    raw = Dataset(adult[0])
    folder = Path(raw.uri).parent
    normalize(raw, f"{folder}/scaled", "standard")
    result = train(f"{folder}/scaled", epochs=2)
    scaled_test = normalize(adult[1], f"{folder}/ts", "standard", like=f"{folder}/scaled")
    assert result.model.evaluate(adult[1]) == result.model.evaluate(scaled_test)
    assert result.model.evaluate(adult[1]).logloss < 0.33


def test_a_fraction_that_holds_out_nothing_is_refused() -> None:
    load_csr(clicks(), None, "few", overwrite=True)
    with pytest.raises(DatasetError, match="is none; raise it"):
        LogisticRegression(dataset="few", test_fraction=1e-9, epsilon=0).run()


def test_a_program_without_standard_error_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    load_csr(clicks(), None, "quiet", overwrite=True)
    monkeypatch.setattr("sys.stderr", None)
    assert LogisticRegression(dataset="quiet", epochs=1, progress=True).run().rows_processed


def test_values_too_small_to_divide_by_train_a_finite_model() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=500), np.full(500, 1e-40)])
    load_csr(X, rng.integers(0, 2, 500), "tiny")
    model = LogisticRegression(dataset="tiny", epsilon=0, epochs=2).run().model
    assert np.isfinite(model.weights).all()
    assert np.isfinite(model.evaluate("tiny").logloss)
