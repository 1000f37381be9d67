"""What a type checker says of the public API. Checked by mypy in `make check`, never run."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import cirrus_fast
from cirrus_fast import (
    CSR,
    MAX_ABS_SCALING,
    MIN_MAX_SCALING,
    STANDARD_SCALING,
    CirrusFastError,
    CriteoParseError,
    Dataset,
    Evaluation,
    GridSearch,
    LambdaExecutor,
    LibsvmParseError,
    LinearModel,
    LogisticRegression,
    LRegression,
    Reads,
    Record,
    TrainResult,
    active_impl,
    configure,
    export_libsvm,
    list_datasets,
    load_criteo,
    load_csr,
    load_libsvm,
    make_clicks,
    normalize,
    parse_libsvm,
    redis_module_path,
    remove_dataset,
)
from cirrus_fast.data.evaluation import CalibrationBin
from cirrus_fast.grid_search import GridResults, Trial
from cirrus_fast.logistic_regression import Run

Float32Array = npt.NDArray[np.float32]

assert_type(cirrus_fast.__version__, str)
assert_type(active_impl(), str)
assert_type(redis_module_path(), str)
assert_type((MIN_MAX_SCALING, MAX_ABS_SCALING, STANDARD_SCALING), tuple[str, str, str])


def data(X: npt.NDArray[np.float64], y: list[int]) -> None:
    configure(storage="folder")
    configure(storage=Path("folder"))
    configure(storage=None)
    configure("folder")  # type: ignore[call-arg]
    make_clicks("clicks.svm", 1000, seed=3, hash_bits=12)
    loaded = load_libsvm("clicks.svm", "clicks", zero_based="auto", positive_labels=[2, 3])
    assert_type(loaded, Dataset)
    assert_type(load_libsvm([Path("a"), "b.gz"], "both", like=loaded), Dataset)
    load_libsvm("clicks.svm", "clicks", zero_based="perhaps")  # type: ignore[arg-type]
    assert_type(load_criteo("day_0.gz", "day", 19), Dataset)
    assert_type(load_csr(X, y, "arrays", sample_weight=None), Dataset)
    assert_type(normalize("clicks", "scaled", MIN_MAX_SCALING), Dataset)
    export_libsvm("clicks", "clicks.svm", overwrite=True)
    assert_type(loaded.n_rows, int)
    assert_type(loaded.n_features, int)
    assert_type(loaded.name, str)
    assert_type(loaded.id, str)
    assert_type(list_datasets(), list[str])
    remove_dataset("clicks")


def rows(text: bytes) -> None:
    for buffer in (text, bytearray(text), memoryview(text)):
        assert_type(parse_libsvm(buffer, n_threads=2), CSR)
    parsed = parse_libsvm(text, hash_bits=20)
    assert_type(parsed.labels, Float32Array)
    assert_type(parsed.indptr, npt.NDArray[np.int64])
    assert_type(parsed.indices, npt.NDArray[np.uint32])
    assert_type(parsed.data, Float32Array)
    assert_type(parsed.weights, Float32Array | None)
    assert_type(parsed.n_features, int)
    parse_libsvm("1 1:1")  # type: ignore[arg-type]


def errors(error: CirrusFastError) -> None:
    if isinstance(error, LibsvmParseError | CriteoParseError):
        assert_type(error.reason, str)
        assert_type(error.offset, int)
        assert_type(error.line, int | None)
        assert_type(error.column, int | None)
        assert_type(error.source, str | None)


def training(params: Mapping[str, Any]) -> None:
    assert_type(LRegression(params), LogisticRegression)
    with ThreadPoolExecutor(1) as pool:
        result = LogisticRegression(params, dataset="clicks", executor=pool).run()
    with LambdaExecutor("worker", region="eu-central-1") as functions:
        result = LogisticRegression(params, executor=functions).run()
    assert_type(result, TrainResult)
    assert_type(result.model, LinearModel)
    assert_type(result.history, list[Record])
    assert_type(result.reads, Reads)
    assert_type(result.reads_by_epoch, list[Reads])
    assert_type(result.test_loss, float | None)
    assert_type(result.auc, float | None)
    assert_type(result.breakdown, Mapping[str, float])
    assert_type(result.cost, float)
    assert_type(result.rows_processed, int)
    assert_type(result.rows_repeated, int)
    assert_type(result.stop_reason, str)
    assert_type(result.checkpoint, str | None)
    assert_type(result.checkpoint_error, str | None)
    assert_type(result.save(Path("result.npz")), None)
    assert_type(TrainResult.load("result.npz"), TrainResult)
    record = result.history[0]
    assert_type((record.seconds, record.train_loss, record.cost), tuple[float, float, float])
    assert_type((record.rows, record.updates), tuple[int, int])
    assert_type((record.test_loss, record.auc), tuple[float | None, float | None])
    record.rows = 3  # type: ignore[misc]
    result.model = result.model  # type: ignore[misc]


def in_the_background(task: LogisticRegression) -> None:
    run = task.start()
    assert_type(run, Run)
    assert_type(run.progress(), Record | None)
    assert_type(run.done(), bool)
    assert_type(run.result(timeout=3), TrainResult)
    run.stop()


def using(model: LinearModel, X: npt.NDArray[np.float32], text: bytes, part: CSR) -> None:
    for chosen in (X, text, part, "clicks"):
        assert_type(model.decision_function(chosen), Float32Array)
        assert_type(model.predict_proba(chosen), Float32Array)
        assert_type(model.predict(chosen), Float32Array)
    assert_type(model.weights, Float32Array)
    assert_type(model.intercept, float)
    assert_type(model.to_text(), str)
    assert_type(LinearModel.load("model.npz"), LinearModel)
    found = model.evaluate(X, y=[0, 1])
    assert_type(found, Evaluation)
    assert_type(found.logloss, float)
    assert_type(found.auc, float | None)
    assert_type(found.calibration, tuple[CalibrationBin, ...])


def searching() -> None:
    search = GridSearch(
        task=LogisticRegression,
        param_base={"dataset": "clicks"},
        hyper_vars=["learning_rate", "minibatch_size"],
        hyper_params=[np.arange(0.1, 1, 0.1), [100, 1000]],
    )
    assert_type(len(search), int)
    results = search.run(on_trial=print, keep_models=3)
    assert_type(results, GridResults)
    assert_type(results[0], Trial)
    assert_type(results.best, Trial)
    assert_type(results.best_params_, Mapping[str, Any])
    assert_type(results.best_model_, LinearModel)
    assert_type(results[0].loss, float)
    assert_type(results[0].result, TrainResult | None)
    assert_type(results[0].error, str | None)
    GridSearch(task="LogisticRegression")  # type: ignore[arg-type]
