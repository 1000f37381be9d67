"""Training with the model in servers that have our module loaded."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_server import Server, first_program, url_of, wait_for_steps
from module_server import one_server as server
from redis_server import Proxy

from cirrus_fast import Dataset, LogisticRegression, load_libsvm, make_clicks
from cirrus_fast.data.result import TrainResult
from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.runtime.params import module as module_store

__all__ = ["server"]  # a fixture

PLAIN: dict[str, Any] = {"epochs": 2, "epsilon": 0, "minibatch_size": 50, "worker_size": 256}


@pytest.fixture(scope="module")
def program() -> Path:
    return first_program()


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    make_clicks(folder / "clicks.svm", 20_000, seed=3, hash_bits=12)
    return load_libsvm(folder / "clicks.svm", str(folder / "clicks"))


def train(dataset: Dataset, store: str = "memory", **more: Any) -> TrainResult:
    options = {"dataset": dataset.uri, "param_store": store, "n_workers": 1}
    return LogisticRegression(options | PLAIN | more).run()


def assert_same_model(one: TrainResult, other: TrainResult) -> None:
    np.testing.assert_allclose(one.model.weights, other.model.weights, rtol=1e-5, atol=1e-7)
    assert one.model.intercept == pytest.approx(other.model.intercept, rel=1e-5)


@pytest.mark.parametrize("penalty", [0, 1e-5])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
def test_results_are_those_of_the_store_in_memory(server, clicks, optimizer, penalty):
    more = {"optimizer": optimizer, "l1": penalty, "l2": penalty, "class_weight": (1.0, 2.0)}
    held = train(clicks, url_of(server), **more)
    assert_same_model(held, train(clicks, **more))
    assert held.param_store == url_of(server, "?store=module")
    assert held.rows_processed == 2 * clicks.n_rows
    assert held.exchanges["exchanges"] == 2 * -(-clicks.n_rows // 50)


def test_the_store_is_empty_afterwards(server, clicks):
    train(clicks, url_of(server))
    wire = server.connect()
    assert wire("DBSIZE") == 0


def test_an_intercept_may_be_left_out(server, clicks):
    held = train(clicks, url_of(server), fit_intercept=False)
    assert held.model.intercept == 0
    assert_same_model(held, train(clicks, fit_intercept=False))


@pytest.mark.parametrize("n_ps", [2, 5])
def test_a_model_in_parts_is_the_same_model(server, program, tmp_path, clicks, n_ps):
    second = Server(program, tmp_path)
    try:
        urls = [url_of(server), url_of(second)]
        held = train(clicks, urls, n_ps=n_ps, optimizer="ftrl", l1=1e-5)  # type: ignore[arg-type]
        assert_same_model(held, train(clicks, optimizer="ftrl", l1=1e-5))
    finally:
        second.stop()


def test_steps_under_way_together_lose_no_row(server, clicks):
    held = train(clicks, url_of(server), pipeline_depth=8)
    assert held.rows_processed == 2 * clicks.n_rows
    assert np.abs(held.model.weights - train(clicks).model.weights).max() < 0.2


def test_how_many_steps_are_under_way_follows_from_the_workers(server, clicks):
    assert train(clicks, url_of(server), epochs=1).params["pipeline_depth"] == 1
    several = {"epochs": 1, "n_workers": 2, "minibatch_size": 25}
    # A hundredth of the rows, of both workers.
    assert train(clicks, url_of(server), **several).params["pipeline_depth"] == 4
    ssp = several | {"consistency": "ssp", "staleness": 2}
    assert train(clicks, url_of(server), **ssp).params["pipeline_depth"] == 1


def test_bsp_is_that_of_the_store_in_memory(server, clicks):
    more = {"consistency": "bsp", "n_workers": min(3, len(clicks.blocks))}
    held = train(clicks, url_of(server), **more)
    assert held.n_workers == more["n_workers"]
    assert_same_model(held, train(clicks, **more))


def test_ssp_takes_each_row_once(server, clicks):
    more = {"consistency": "ssp", "staleness": 1, "n_workers": 2}
    held = train(clicks, url_of(server), test_fraction=0.1, epsilon=1e-9, **more)
    assert held.rows_processed <= 2 * clicks.n_rows
    assert held.rows_repeated == 0
    assert held.test_loss is not None


def test_processes_share_the_model(server, clicks):
    held = train(clicks, url_of(server), n_workers=2, executor="processes")
    assert held.rows_processed == 2 * clicks.n_rows


def test_a_run_goes_on_from_a_checkpoint(server, clicks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = {"optimizer": "ftrl", "l1": 1e-5}
    half = train(clicks, url_of(server), epochs=1, checkpoint_interval=1e-3, **more)
    assert half.checkpoint is not None
    both = train(clicks, url_of(server), epochs=2, resume_from=half.checkpoint, **more)
    assert_same_model(both, train(clicks, epochs=2, **more))


# Learning on copies


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_a_worker_alone_learns_on_a_copy_as_with_plain_strings(server, clicks, optimizer, depth):
    more = {"optimizer": optimizer, "l2": 1e-5, "class_weight": (1.0, 2.0)}
    more |= {"sync_rows": 2000, "pipeline_depth": depth}
    held = train(clicks, url_of(server), **more)
    assert held.param_store == url_of(server, "?store=module")
    assert held.params["sync_rows"] == 2000
    assert held.rows_processed == 2 * clicks.n_rows
    assert held.exchanges["exchanges"] == 2 * clicks.n_rows // 2000
    assert held.exchanges["staleness_max"] == 0
    waited = held.breakdown["pull"] + held.breakdown["push"]
    assert 0 <= held.exchanges["for_a_core"] <= waited
    plain = train(clicks, url_of(server, "?store=bitfield"), **more)
    np.testing.assert_allclose(held.model.weights, plain.model.weights, atol=2e-6)
    assert held.model.intercept == pytest.approx(plain.model.intercept, abs=2e-6)


def test_copies_of_a_model_in_parts_are_of_the_same_model(server, clicks):
    more = {"sync_rows": 500, "minibatch_size": 50}
    one = train(clicks, url_of(server), **more)
    several = train(clicks, url_of(server), n_ps=3, **more)
    np.testing.assert_array_equal(several.model.weights, one.model.weights)
    assert several.model.intercept == one.model.intercept


@pytest.mark.parametrize(
    "more",
    [
        {"executor": "processes"},
        {"consistency": "ssp", "staleness": 10},
        {"n_ps": 2, "pipeline_depth": 3},
    ],
)
def test_workers_on_copies_share_the_model(server, clicks, more):
    more = {"n_workers": 2, "sync_rows": 500, "epochs": 4, "test_fraction": 0.2} | more
    held = train(clicks, url_of(server), **more)
    alone = train(clicks, epochs=4, test_fraction=0.2)
    assert held.rows_processed == alone.rows_processed
    assert held.rows_repeated == 0
    assert held.test_loss == pytest.approx(alone.test_loss, rel=0.02)
    assert server.connect()("DBSIZE") == 0


def test_a_run_on_copies_goes_on_from_a_checkpoint(server, clicks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = {"sync_rows": 1000}
    half = train(clicks, url_of(server), epochs=1, checkpoint_interval=1e-3, **more)
    assert half.checkpoint is not None
    both = train(clicks, url_of(server), epochs=2, resume_from=half.checkpoint, **more)
    expected = train(clicks, epochs=2)
    np.testing.assert_allclose(both.model.weights, expected.model.weights, atol=5e-4)


@pytest.mark.parametrize(
    ("more", "what"), [({"optimizer": "ftrl"}, "ftrl"), ({"consistency": "bsp"}, "bsp")]
)
def test_copies_are_refused_where_the_server_must_have_the_optimiser(server, clicks, more, what):
    with pytest.raises(OptionError, match=rf"sync_rows=500: .* cannot have \w+={what}"):
        train(clicks, url_of(server), sync_rows=500, n_workers=2, **more)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_moves_whose_connections_are_cut_count_once(server, clicks, n_workers):
    way, draw = Proxy(server.port), random.Random(1)
    lives: dict[tuple[str, int], int] = {}

    def cut(direction: str, connection: int, passed: int, data: bytes) -> bytes | None:
        """Each way of each connection ends somewhere, in mid-command."""
        end = lives.setdefault((direction, connection), draw.randint(20_000, 200_000))
        return data if passed + len(data) <= end else data[: max(0, end - passed)]

    way.rule = cut
    more = {"sync_rows": 500, "epochs": 3, "n_workers": n_workers}
    try:
        held = train(clicks, way.url, **more)
    finally:
        way.stop()
    assert way.connections > 8
    assert held.rows_processed == 3 * clicks.n_rows
    told = held.exchanges
    assert (told["doubtful"], told["lost"], told["rollbacks"]) == (0, 0, 0)
    if n_workers == 1:
        undisturbed = train(clicks, url_of(server), **more)
        np.testing.assert_array_equal(held.model.weights, undisturbed.model.weights)


def test_moves_that_a_server_lost_are_made_again(server, clicks):
    more = {"sync_rows": 100, "epochs": 10}
    done: list[TrainResult] = []
    runner = threading.Thread(target=lambda: done.append(train(clicks, url_of(server), **more)))
    runner.start()
    wire = server.connect()
    key = wait_for_steps(wire, 20)
    updates = wire.info(key)["updates"]
    older = wire("GET", key)
    wait_for_steps(wire, updates + 10)
    wire("MULTI")
    wire("SET", key, older)
    wire("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wire("EXEC")
    runner.join(120)
    (result,) = done
    assert (result.exchanges["rollbacks"], result.exchanges["lost"]) == (1, 0)
    undisturbed = train(clicks, url_of(server), **more)
    np.testing.assert_allclose(result.model.weights, undisturbed.model.weights, atol=1e-5)


# Which store


def test_the_url_may_force_plain_strings(server, clicks):
    held = train(clicks, url_of(server, "?store=bitfield"))
    assert held.param_store == url_of(server, "?store=bitfield")
    assert "sync_rows" in held.params


def test_a_server_without_the_module_is_told_apart(program, tmp_path, clicks):
    plain = Server(program, tmp_path, module=False)
    try:
        with pytest.raises(StoreError, match="has not loaded the module"):
            train(clicks, url_of(plain, "?store=module"))
        for more in ({"optimizer": "ftrl"}, {"consistency": "bsp"}):
            with pytest.raises(OptionError, match="a server with our module"):
                train(clicks, url_of(plain), **more)
        assert train(clicks, url_of(plain)).param_store.endswith("?store=bitfield")
    finally:
        plain.stop()


def test_a_module_of_another_version_is_refused(server, clicks, monkeypatch):
    monkeypatch.setattr(module_store, "PROTOCOL", 2)
    with pytest.raises(StoreError, match=r"speaks protocol 1; this version .* speaks 2"):
        train(clicks, url_of(server))


def test_steps_that_wait_for_others_are_one_at_a_time(server, clicks):
    with pytest.raises(OptionError, match="pipeline_depth=4: with consistency=ssp"):
        train(clicks, url_of(server), consistency="ssp", pipeline_depth=4, n_workers=2)


def test_the_urls_must_agree(clicks):
    with pytest.raises(OptionError, match=r"\?store= must be the same"):
        train(clicks, "redis://a?store=module,redis://b")


# Faults


def test_a_server_that_comes_back_with_its_data_loses_nothing(program, tmp_path, clicks):
    server = Server(program, tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    done: list[TrainResult] = []
    try:
        more = {"minibatch_size": 20}
        runner = threading.Thread(target=lambda: done.append(train(clicks, url_of(server), **more)))
        runner.start()
        wire = server.connect()
        key = wait_for_steps(wire, 100)
        before = wire.info(key)["updates"]
        server.stop()
        server.start()
        runner.join(120)
        (result,) = done
        assert before < 2 * clicks.n_rows / 20
        assert result.exchanges["rollbacks"] == 0
        assert_same_model(result, train(clicks, **more))
    finally:
        server.stop()


def test_a_model_that_is_deleted_ends_the_run(server, clicks):
    caught: list[Exception] = []

    def run() -> None:
        try:
            train(clicks, url_of(server), epochs=50, minibatch_size=20)
        except StoreError as error:
            caught.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    wire = server.connect()
    wire("DEL", wait_for_steps(wire, 50))
    runner.join(60)
    assert "has no model of this run" in str(caught[0])
