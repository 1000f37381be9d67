"""Runs with executor="lambda": real sandboxes from the built layer, a real Redis, a server that
speaks S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cirrus_fast
from cirrus_fast import Dataset, LogisticRegression
from cirrus_fast.local_lambda.server import LocalLambda

Start = Callable[..., LocalLambda]
N_ROWS = 110_000


@pytest.fixture(scope="session")
def clicks_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clicks") / "clicks.svm"
    cirrus_fast.make_clicks(path, N_ROWS, seed=5, hash_bits=12)
    return path


@pytest.fixture
def clicks(s3: Any, clicks_text: Path) -> Iterator[Dataset]:
    cirrus_fast.configure(storage="s3://bucket/data")
    yield cirrus_fast.load_libsvm(clicks_text, "clicks")
    cirrus_fast.configure(storage=None)


def options(redis: Any, **more: object) -> dict[str, object]:
    given = {"dataset": "clicks", "executor": "lambda", "param_store": redis.url}
    return given | {"worker_size": 256, "epochs": 3, "epsilon": 0, "progress": False} | more


def test_a_run_on_functions_is_one_like_any_other(
    clicks: Dataset, redis_server: Any, local_lambda: Start
) -> None:
    local = local_lambda(memory_mb=256)
    result = LogisticRegression(options(redis_server, n_workers=4, test_fraction=0.05)).run()
    here = LogisticRegression(
        options(redis_server, n_workers=4, test_fraction=0.05, executor="processes")
    ).run()
    assert result.stop_reason == "epochs"
    assert result.executor == "lambda"
    assert result.rows_processed == here.rows_processed
    assert result.rows_repeated == 0
    assert result.test_loss == pytest.approx(here.test_loss, rel=0.002)
    assert local.counts["cold"] == 4
