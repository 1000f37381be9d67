"""What runs on functions cost, on a Lambda of this machine: real invocations, its own reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cirrus_fast
from cirrus_fast import GridSearch, LogisticRegression, TrainResult
from cirrus_fast.local_lambda.server import LocalLambda

Start = Callable[..., LocalLambda]


@pytest.fixture(scope="session")
def costly_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("costly") / "clicks.svm"
    cirrus_fast.make_clicks(path, 20_000, seed=6, hash_bits=12)
    return path


@pytest.fixture
def clicks(
    s3: Any, costly_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The data set "clicks", and prices at which seconds cost something."""
    prices = tmp_path / "prices.json"
    own = {"gb_second": {"x86_64": 4.0}, "million_requests": 1e5, "thousand_gets": 1.0}
    prices.write_text(json.dumps({"regions": {"us-east-1": own}}))
    monkeypatch.setenv("CIRRUS_FAST_PRICES", str(prices))
    monkeypatch.setenv("CIRRUS_FAST_STORE_NODE", "36")
    cirrus_fast.configure(storage="s3://bucket/data")
    cirrus_fast.load_libsvm(costly_text, "clicks")
    yield
    cirrus_fast.configure(storage=None)


def run(redis: Any, **more: object) -> TrainResult:
    given = {"dataset": "clicks", "executor": "lambda", "param_store": redis.url, "n_workers": 1}
    given |= {"worker_size": 256, "epsilon": 0, "progress": False, "test_fraction": 0.1}
    return LogisticRegression(given | more).run()


def test_costs_are_what_lambda_reports_and_the_parts_say_what_for(
    clicks: None, redis_server: Any, local_lambda: Start, tmp_path: Path
) -> None:
    local = local_lambda(memory_mb=256)
    run(redis_server, epochs=1)  # a cold start, which this Lambda does not bill
    before = len(reports_of(local))
    result = run(redis_server, epochs=3)
    reports = reports_of(local)[before:]
    billed_ms = sum(int(line.split("Billed Duration: ")[1].split(" ms")[0]) for line in reports)
    parts = result.cost_parts
    assert parts["compute"] == pytest.approx(billed_ms / 1000 * 0.25 * 4.0)
    assert parts["requests"] == pytest.approx(len(reports) * 0.1)
    assert parts["s3_requests"] == pytest.approx(result.reads.requests / 1000)
    assert parts["store"] > 0.01 * result.seconds  # 36 dollars an hour, from before the first step
    assert result.cost == pytest.approx(sum(parts.values()))
    first, *_, last = [record.cost for record in result.history]
    assert parts["requests"] < first < last
    # As Lambda has not billed it yet: with the start, and until the model was measured.
    assert 0.3 * result.cost < last < 3 * result.cost
    result.save(tmp_path / "run.npz")
    assert TrainResult.load(tmp_path / "run.npz").cost_parts == parts


def reports_of(local: LocalLambda) -> list[str]:
    return [line for _, _, line in local._logs if line.startswith("REPORT")]


def test_a_run_stops_before_it_costs_more_than_it_may(
    clicks: None, redis_server: Any, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second costs a dollar, and to end may take longer on a machine that is busy.
    monkeypatch.setattr("cirrus_fast.backend.cost.ENDING_S", 10.0)
    local_lambda(memory_mb=256)
    result = run(redis_server, epochs=1_000_000, max_cost=13.0)
    assert result.stop_reason == "max_cost"
    assert 1.0 < result.cost < 13.0
    assert result.test_loss is not None


def test_a_search_ends_when_its_money_is_spent(
    clicks: None, redis_server: Any, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.cost.ENDING_S", 10.0)
    local_lambda(memory_mb=256)
    base = {"dataset": "clicks", "executor": "lambda", "param_store": redis_server.url}
    base |= {"n_workers": 1, "worker_size": 256, "epsilon": 0, "progress": False}
    base |= {"test_fraction": 0.1, "epochs": 1_000_000}
    values = [[0.0, 1e-6, 1e-5]]
    results = GridSearch(LogisticRegression, base, ["l2"], values, max_cost=13.0).run()
    assert [trial.result.stop_reason for trial in results] == ["max_cost"]
    assert results.stop_reason == "max_cost"
    assert results.cost == pytest.approx(results[0].result.cost)
    assert 1.0 < results.cost < 13.0


def test_what_costs_nothing_much_is_not_stopped(
    clicks: None, redis_server: Any, local_lambda: Start
) -> None:
    local_lambda(memory_mb=256)
    assert run(redis_server, epochs=1, max_cost=1e6).stop_reason == "epochs"


def test_costs_go_on_where_a_run_does(
    clicks: None,
    redis_server: Any,
    local_lambda: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local_lambda(memory_mb=256)
    cirrus_fast.configure(storage=tmp_path)  # checkpoints lie on disk
    uri = "s3://bucket/data/clicks"
    first = run(redis_server, dataset=uri, epochs=1, checkpoint_interval=1e6)
    rest = run(redis_server, dataset=uri, epochs=2, resume_from=first.checkpoint)
    assert rest.cost_parts["before"] in [record.cost for record in first.history]
    assert rest.cost > rest.cost_parts["before"] > 0
