"""The model in a real Redis: runs that go well, and what is left behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis_server import Cluster, RedisServer, keys_left

import cirrus_fast
from cirrus_fast import LogisticRegression
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.result import TrainResult
from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.runtime.params import control

ROWS = 20_000


@pytest.fixture
def clicks(storage_root: Path, tmp_path: Path) -> Dataset:
    cirrus_fast.make_clicks(tmp_path / "clicks.svm", ROWS, seed=3, hash_bits=12)
    return cirrus_fast.load_libsvm(tmp_path / "clicks.svm", "clicks")


def train(dataset: Dataset, server: RedisServer | str, **more: object) -> TrainResult:
    url = server if isinstance(server, str) else server.url
    plain = {"dataset": dataset.uri, "epsilon": 0, "epochs": 2, "test_fraction": 0.1}
    return LogisticRegression(plain | {"param_store": url} | more).run()


def in_memory(dataset: Dataset, **more: object) -> TrainResult:
    return train(dataset, "memory", n_workers=1, **more)


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
@pytest.mark.parametrize("size", [1, 50])
def test_a_single_worker_learns_what_it_learns_in_memory(
    clicks: Dataset, redis_server: RedisServer, optimizer: str, size: int
) -> None:
    same: dict[str, object] = {"optimizer": optimizer, "minibatch_size": size}
    expected = in_memory(clicks, **same)
    for sync_rows in (max(size, 100), 700, None):
        result = train(clicks, redis_server, n_workers=1, sync_rows=sync_rows, **same)
        if optimizer == "adagrad":  # sgd's rate falls from interval to interval
            np.testing.assert_allclose(result.model.weights, expected.model.weights, atol=2e-4)
        assert result.test_loss == pytest.approx(expected.test_loss, rel=2e-3)
        assert result.rows_processed == expected.rows_processed
        assert result.stop_reason == "epochs"
    assert keys_left(redis_server) == []


@pytest.mark.parametrize("executor", ["local", "processes"])
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_several_workers_learn_together(
    clicks: Dataset, redis_server: RedisServer, executor: str, optimizer: str
) -> None:
    alone = in_memory(clicks, optimizer=optimizer)
    result = train(clicks, redis_server, n_workers=3, executor=executor, optimizer=optimizer)
    assert result.n_workers == 3
    assert result.rows_processed == alone.rows_processed
    assert result.rows_repeated == 0
    assert result.exchanges["doubtful"] == 0
    assert result.exchanges["exchanges"] > 6
    assert result.exchanges["bytes_sent"] > 1000
    assert result.test_loss is not None
    assert alone.test_loss is not None
    # Rows in flight are a noticeable part of so few rows.
    assert result.test_loss < alone.test_loss * 1.02
    assert result.param_store == redis_server.url + "?store=bitfield"
    assert keys_left(redis_server) == []


def test_a_users_executor_reaches_the_store_by_its_url(
    clicks: Dataset, redis_server: RedisServer
) -> None:
    with ThreadPoolExecutor(2) as pool:
        result = train(clicks, redis_server, n_workers=2, executor=pool)
    assert result.executor == "ThreadPoolExecutor"
    assert result.stop_reason == "epochs"


def test_penalties_are_charged_as_in_memory(clicks: Dataset, redis_server: RedisServer) -> None:
    penalties: dict[str, object] = {"l1": 1e-4, "l2": 1e-3}
    expected = in_memory(clicks, **penalties)
    result = train(clicks, redis_server, n_workers=1, **penalties)
    assert result.test_loss == pytest.approx(expected.test_loss, abs=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_worker_alone_learns_the_same_however_many_exchanges_are_under_way(
    clicks: Dataset, redis_server: RedisServer, depth: int
) -> None:
    alone: dict[str, object] = {"n_workers": 1, "minibatch_size": 50, "sync_rows": 50}
    expected = train(clicks, redis_server, pipeline_depth=depth, **alone)
    result = train(clicks, redis_server, **alone)
    assert result.params["pipeline_depth"] == 8  # by default
    assert np.array_equal(result.model.weights, expected.model.weights)
    assert result.rows_processed == expected.rows_processed
    together = train(clicks, redis_server, **alone | {"n_workers": 2})
    assert together.params["pipeline_depth"] == 1  # 180 rows are a hundredth


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_exchanges_under_way_at_once_lose_nothing(
    clicks: Dataset, redis_server: RedisServer, depth: int
) -> None:
    more: dict[str, object] = {"pipeline_depth": depth, "minibatch_size": 50, "sync_rows": 50}
    alone = train(clicks, redis_server, n_workers=1, **more)
    assert alone.exchanges["staleness_max"] == 0  # of others' exchanges, and there are none
    together = train(clicks, redis_server, n_workers=2, **more)
    assert together.exchanges["staleness_mean"] > 0
    assert together.exchanges["staleness_max"] >= together.exchanges["staleness_mean"]
    assert together.rows_processed == alone.rows_processed
    expected = in_memory(clicks, minibatch_size=50)
    assert expected.test_loss is not None
    assert alone.test_loss is not None
    assert together.test_loss is not None
    assert alone.test_loss < expected.test_loss * 1.01
    assert together.test_loss < expected.test_loss * 1.02


def test_ssp_keeps_workers_level(clicks: Dataset, redis_server: RedisServer) -> None:
    result = train(
        clicks,
        redis_server,
        n_workers=3,
        consistency="ssp",
        staleness=4,
        minibatch_size=50,
        sync_rows=50,
    )
    assert result.stop_reason == "epochs"
    assert result.rows_processed == in_memory(clicks, minibatch_size=50).rows_processed


@pytest.mark.parametrize("n_ps", [2, 3])
def test_the_model_in_several_strings_is_the_same(
    clicks: Dataset, redis_server: RedisServer, n_ps: int
) -> None:
    one = train(clicks, redis_server, n_workers=1, minibatch_size=50, sync_rows=500)
    several = train(clicks, redis_server, n_workers=1, minibatch_size=50, sync_rows=500, n_ps=n_ps)
    np.testing.assert_array_equal(several.model.weights, one.model.weights)
    assert several.model.intercept == one.model.intercept
    assert keys_left(redis_server) == []


def test_the_model_on_several_servers_is_the_same(
    clicks: Dataset, redis_server: RedisServer, own_redis: Any
) -> None:
    one = train(clicks, redis_server, n_workers=1, minibatch_size=50, sync_rows=500)
    other = own_redis()
    seen = []
    urls = [redis_server.url, other.url]
    several = train(
        clicks,
        ",".join(urls),
        n_workers=1,
        minibatch_size=50,
        sync_rows=500,
        eval_interval=1,
        callbacks=[lambda _: seen.append([len(keys_left(s)) for s in (redis_server, other)])],
    )
    np.testing.assert_array_equal(several.model.weights, one.model.weights)
    assert min(seen[0]) > 0
    assert several.params["n_ps"] == 2
    assert keys_left(redis_server) == keys_left(other) == []
    two = LogisticRegression({"dataset": clicks.uri, "param_store": urls})
    assert two.options.param_store == ",".join(urls)


def test_a_cluster_holds_a_part_on_each_server(clicks: Dataset, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        seen: list[list[int]] = []

        def look(_record: object) -> None:
            seen.append([sum(b"model" in k for k in keys_left(s)) for s in cluster.servers])

        one = train(clicks, cluster.servers[0], n_workers=1, n_ps=1, eval_interval=1)
        result = train(
            clicks, cluster.servers[1], n_workers=1, n_ps=3, eval_interval=1, callbacks=[look]
        )
        assert seen[0] == [1, 1, 1]
        np.testing.assert_array_equal(result.model.weights, one.model.weights)
        together = train(clicks, cluster.servers[2], n_workers=3, n_ps=3, executor="processes")
        assert together.rows_processed == one.rows_processed
        assert [keys_left(server) for server in cluster.servers] == [[], [], []]
    finally:
        cluster.stop()


def test_every_key_has_a_time_to_live(clicks: Dataset, redis_server: RedisServer) -> None:
    found: dict[bytes, int] = {}

    def look(_record: object) -> None:
        with redis_server.client() as client:
            for key in client.scan_iter():
                ttl = int(client.ttl(key))
                if ttl != -2:  # gone meanwhile
                    found[key] = ttl

    train(clicks, redis_server, n_workers=2, callbacks=[look], checkpoint_interval=0.1)
    ends = {key.rpartition(b":")[2] for key in found}
    assert {b"run", b"scale", b"control", b"workers", b"model"} <= ends
    assert all(0 < ttl <= control.TTL_S for ttl in found.values()), found


def test_a_checkpoint_goes_on_in_memory_and_the_other_way_round(
    clicks: Dataset, redis_server: RedisServer
) -> None:
    base: dict[str, object] = {"n_workers": 1, "checkpoint_interval": 60}
    whole = in_memory(clicks, epochs=4)
    for first_in, then_in in ((redis_server, "memory"), ("memory", redis_server)):
        first = train(clicks, first_in, epochs=2, **base)
        assert first.checkpoint is not None
        rest = train(clicks, then_in, epochs=4, n_workers=1, resume_from=first.checkpoint)
        assert rest.rows_processed == whole.rows_processed
        assert rest.test_loss == pytest.approx(whole.test_loss, abs=1e-4)
    assert keys_left(redis_server) == []


def test_leftovers_under_the_same_name_are_refused_and_left_alone(
    clicks: Dataset, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed:
        hex = "0123456789ab"

    monkeypatch.setattr("cirrus_fast.backend.supervisor.uuid.uuid4", Fixed)
    for key in ("{cirrus_fast:0123456789ab}:run", "{cirrus_fast:0123456789ab:0}:model"):
        with redis_server.client() as client:
            client.set(key, "something")
        with pytest.raises(StoreError, match=r"is there already.*goes away by itself"):
            train(clicks, redis_server, n_workers=1)
        with redis_server.client() as client:
            assert client.get(key) == b"something"
            client.delete(key)
        assert keys_left(redis_server) == []


def test_a_password_is_shown_nowhere(
    clicks: Dataset, own_redis: Any, caplog: pytest.LogCaptureFixture, storage_root: Path
) -> None:
    server = own_redis("--requirepass", "s3same")
    url = f"redis://:s3same@127.0.0.1:{server.port}/2"
    search = LogisticRegression({"dataset": clicks.uri, "param_store": url})
    assert "s3same" not in repr(search.options)
    result = train(clicks, url, n_workers=2, executor="processes", checkpoint_interval=60)
    result.save(storage_root / "result.npz")
    texts = [repr(result), json.dumps(dict(result.params)), caplog.text]
    for path in storage_root.rglob("*"):
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    assert not any("s3same" in text for text in texts)
    assert result.param_store == f"redis://127.0.0.1:{server.port}/2?store=bitfield"


def test_a_password_may_come_from_the_environment(
    clicks: Dataset, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_redis("--requirepass", "other")
    monkeypatch.setenv("CIRRUS_FAST_REDIS_PASSWORD", "other")
    assert train(clicks, server, n_workers=2, executor="processes").stop_reason == "epochs"


def test_a_user_of_few_rights_is_enough(clicks: Dataset, own_redis: Any) -> None:
    server = own_redis()
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "trainer", "on", ">pw", "~{cirrus_fast:*", "-@all", *control.COMMANDS
        )
    url = f"redis://trainer:pw@127.0.0.1:{server.port}"
    result = train(clicks, url, n_workers=2, executor="processes", checkpoint_interval=0.2)
    assert result.stop_reason == "epochs"
    assert keys_left(server) == []


PLAIN_STRINGS = {"param_store": "redis://h?store=bitfield"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PLAIN_STRINGS | {"optimizer": "ftrl"}, "optimizer=ftrl: its state does not add up"),
        (PLAIN_STRINGS | {"consistency": "bsp"}, "consistency=bsp: a plain Redis cannot sum"),
        ({"minibatch_size": 100, "sync_rows": 50}, "less than one mini-batch"),
        ({"param_store": "redis://a,redis://b", "n_ps": 1}, "less than the 2 servers"),
        ({"param_store": "redis://a?store=string"}, "choose bitfield or module"),
        ({"param_store": "redis://a?kind=x"}, r"\?kind is unknown"),
        ({"param_store": "redis://"}, "needs a host"),
        ({"param_store": "redis://h:99999"}, "not a number up to 65535"),
        ({"param_store": "redis://h/x"}, "the database must be a number"),
        ({"param_store": "redis://h?timeout=0"}, "must be seconds above 0"),
        ({"param_store": "redis://h?ssl_ca_certs=f"}, "means nothing without TLS"),
        ({"param_store": "unix://host/x"}, "needs the path of a socket"),
        ({"param_store": "redis://h,redis://h:6379/0"}, "names a server twice"),
        ({"param_store": "http://h"}, "is not known"),
        ({"param_store": "memory", "sync_rows": 10}, "sync_rows=10: means nothing"),
        ({"param_store": "memory", "pipeline_depth": 2}, "pipeline_depth=2: means nothing"),
        ({"param_store": "memory", "n_ps": 2}, "n_ps=2: means nothing"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        LogisticRegression({"dataset": "x", "param_store": "redis://h"} | options)


def test_an_error_in_a_url_does_not_repeat_the_password() -> None:
    for url in (
        "redis://u:hemlig@h:port",
        "redis://u:hemlig@h/x",
        "redis://u:hem#lig@h",
        "reddis://u:hemlig@h",
        "redis://u:hemlig@[h",
    ):
        with pytest.raises(OptionError) as caught:
            LogisticRegression({"dataset": "x", "param_store": url})
        assert "hem" not in str(caught.value), str(caught.value)
