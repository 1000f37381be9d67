"""What goes wrong between a run and its Redis, each against a real server."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from redis_server import Cluster, Proxy, RedisServer, keys_left, major_version

import cirrus_fast
from cirrus_fast import LogisticRegression
from cirrus_fast.backend import processes
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.backend.redis_server import find_server
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.result import Record, TrainResult
from cirrus_fast.errors import CirrusFastError, StoreError, TrainingError
from cirrus_fast.options import parse_options
from cirrus_fast.runtime.params import resp
from cirrus_fast.runtime.params.bitfield import Shard
from cirrus_fast.runtime.params.control import RECORD
from cirrus_fast.runtime.params.merged import Merger, inbox_of, write_moves
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.runtime.remote import RemoteWorker
from cirrus_fast.store_url import StoreUrl

# Intervals of a mini-batch, exchanged weight by weight (params/bitfield.py), and longer ones, which
# the supervisor merges (params/merged.py).
SINGLY, MERGED = 50, 500
both_ways = pytest.mark.parametrize("sync_rows", [SINGLY, MERGED], ids=["singly", "merged"])


@pytest.fixture
def clicks(storage_root: Path, tmp_path: Path) -> Dataset:
    cirrus_fast.make_clicks(tmp_path / "clicks.svm", 20_000, seed=3, hash_bits=12)
    return cirrus_fast.load_libsvm(tmp_path / "clicks.svm", "clicks")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits half a minute for a server that is gone for good."""
    monkeypatch.setattr(resp, "GIVE_UP_S", 3.0)


def train(dataset: Dataset, url: str, **more: object) -> TrainResult:
    plain: dict[str, object] = {
        "dataset": dataset.uri,
        "epsilon": 0,
        "epochs": 2,
        "test_fraction": 0.1,
    }
    plain |= {"param_store": url, "n_workers": 2, "minibatch_size": 50, "sync_rows": SINGLY}
    plain |= {"timeout": 60, "eval_interval": 0.1}
    return LogisticRegression(plain | more).run()


def at_row(
    n: int, act: Callable[[], object], ready: Callable[[], bool] = lambda: True
) -> Callable[[Record], None]:
    """A callback that acts once, in the middle of a run."""
    done: list[int] = []

    def look(record: Record) -> None:
        if record.rows >= n and not done and ready():
            done.append(record.rows)
            act()

    return look


def sound(result: TrainResult, dataset: Dataset) -> None:
    """The model is one that learnt: as good as an undisturbed one, nearly."""
    expected = train(dataset, "memory", sync_rows=None, n_workers=1).test_loss
    assert expected is not None
    assert result.test_loss is not None
    assert result.test_loss < expected * 1.03


# The server


@both_ways
def test_a_server_that_comes_back_with_its_data_goes_on(
    clicks: Dataset, own_redis: Any, sync_rows: int
) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")

    def restart() -> None:
        server.kill()
        server.start()

    result = train(clicks, server.url, sync_rows=sync_rows, callbacks=[at_row(10_000, restart)])
    assert result.stop_reason == "epochs"
    assert result.rows_processed == train(clicks, "memory", sync_rows=None).rows_processed
    assert result.exchanges["doubtful"] <= 2  # one a worker at most
    sound(result, clicks)


def back_to_an_older_model(server: RedisServer) -> list[Callable[[Record], None]]:
    """Callbacks: the server is saved, and later killed and started with what was saved."""
    saved: list[int] = []

    def save_or_restart(record: Record) -> None:
        if not saved and record.rows >= 6_000:
            saved.append(record.rows)
            with server.client() as client:
                client.save()
        elif len(saved) == 1 and record.rows >= saved[0] + 8_000:
            saved.append(record.rows)
            server.kill()
            server.start()

    return [save_or_restart]


@both_ways
def test_what_a_server_with_an_older_model_lost_is_made_again(
    clicks: Dataset, own_redis: Any, caplog: pytest.LogCaptureFixture, sync_rows: int
) -> None:
    """A worker alone learns the very same as one that nothing happens to."""
    server = own_redis()
    alone = {"n_workers": 1, "sync_rows": sync_rows, "pipeline_depth": 1}
    undisturbed = train(clicks, server.url, **alone)
    result = train(clicks, server.url, callbacks=back_to_an_older_model(server), **alone)
    assert result.stop_reason == "epochs"
    assert result.exchanges["rollbacks"] >= 1
    assert result.exchanges["lost"] == result.exchanges["doubtful"] == 0
    assert "came back with an older model" in caplog.text
    assert np.array_equal(result.model.weights, undisturbed.model.weights)
    assert result.model.intercept == undisturbed.model.intercept
    assert keys_left(server) == []


@both_ways
def test_workers_of_a_server_with_an_older_model_go_on(
    clicks: Dataset, own_redis: Any, sync_rows: int
) -> None:
    server = own_redis()
    callbacks = back_to_an_older_model(server)
    result = train(clicks, server.url, sync_rows=sync_rows, callbacks=callbacks, epochs=6)
    assert result.stop_reason == "epochs"
    assert result.exchanges["rollbacks"] >= 1
    assert result.exchanges["lost"] == 0
    sound(result, clicks)


def test_what_is_not_kept_any_more_is_counted_as_lost(
    clicks: Dataset,
    own_redis: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.runtime.params.bitfield.KEPT_BYTES", 20_000)
    server = own_redis()
    result = train(clicks, server.url, callbacks=back_to_an_older_model(server))
    assert result.stop_reason == "epochs"
    assert result.exchanges["lost"] > 0
    assert "additions to the model" in caplog.text
    sound(result, clicks)


@both_ways
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_server_that_comes_back_empty_ends_the_run_and_a_checkpoint_goes_on(
    clicks: Dataset, own_redis: Any, executor: str, storage_root: Path, sync_rows: int
) -> None:
    server = own_redis()

    def restart() -> None:
        server.kill()
        server.start()

    def kept() -> list[Path]:
        return list((storage_root / "checkpoints").glob("*.npz"))

    with pytest.raises(StoreError, match=r"lost|is over"):
        train(
            clicks,
            server.url,
            sync_rows=sync_rows,
            executor=executor,
            epochs=6,
            checkpoint_interval=0.01,
            callbacks=[at_row(16_000, restart, ready=lambda: bool(kept()))],
        )
    (checkpoint,) = kept()
    result = train(clicks, server.url, sync_rows=sync_rows, epochs=6, resume_from=str(checkpoint))
    assert result.stop_reason == "epochs"
    undisturbed = train(clicks, "memory", sync_rows=None, epochs=6)
    assert result.rows_processed == undisturbed.rows_processed
    sound(result, clicks)
    assert keys_left(server) == []


@both_ways
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_server_that_stays_away_ends_the_run_in_time(
    clicks: Dataset, own_redis: Any, executor: str, monkeypatch: pytest.MonkeyPatch, sync_rows: int
) -> None:
    server = own_redis()
    with pytest.raises(StoreError, match=r"cannot be reached.*given up after|closed|broke"):
        train(
            clicks,
            server.url,
            sync_rows=sync_rows,
            executor=executor,
            epochs=1000,
            timeout=30,
            callbacks=[at_row(6_000, server.kill)],
        )


@both_ways
def test_flushing_the_server_is_noticed_while_the_connection_stays(
    clicks: Dataset, own_redis: Any, sync_rows: int
) -> None:
    server = own_redis()

    def flush() -> None:
        with server.client() as client:
            client.flushall()

    with pytest.raises(StoreError, match=r"lost|is over"):
        train(clicks, server.url, sync_rows=sync_rows, epochs=50, callbacks=[at_row(6_000, flush)])


def test_a_lost_model_alone_is_noticed(clicks: Dataset, own_redis: Any) -> None:
    server = own_redis()

    def delete() -> None:
        with server.client() as client:
            (model,) = client.keys("*model")
            client.delete(model)

    with pytest.raises(StoreError, match="has no model of this run"):
        train(clicks, server.url, epochs=50, callbacks=[at_row(6_000, delete)])
    with server.client() as client:  # what a worker's addition made anew goes away by itself
        assert all(client.ttl(key) > 0 for key in client.keys("*model"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda c, k: c.pipeline().delete(k).lpush(k, 1).execute(), "holds something else"),
        (lambda c, k: c.set(k, b"short"), "has no model of this run"),
        (lambda c, k: c.set(k, bytes(c.strlen(k))), "has no model of this run"),
    ],
    ids=["type", "size", "content"],
)
def test_a_model_that_another_program_writes_to_is_noticed(
    clicks: Dataset, own_redis: Any, make: Callable[[Any, bytes], object], says: str
) -> None:
    server = own_redis()

    def spoil() -> None:
        with server.client() as client:
            (model,) = client.keys("*model")
            make(client, model)

    with pytest.raises(StoreError, match=says):
        train(clicks, server.url, epochs=50, callbacks=[at_row(6_000, spoil)])


def test_a_server_that_loads_its_data_is_waited_for(clicks: Dataset, own_redis: Any) -> None:
    slow = ["--key-load-delay", "200"]
    if major_version(find_server()) >= 7:  # which keep what is for debugging to themselves
        slow += ["--enable-debug-command", "yes"]
    server = own_redis(*slow)
    with server.client() as client:
        for i in range(3000):
            client.set(f"filler{i}", "x")
        client.save()

    def restart() -> None:
        with server.client() as client:
            client.save()
        server.kill()
        server.start()

    result = train(clicks, server.url, callbacks=[at_row(10_000, restart)])
    assert result.stop_reason == "epochs"
    sound(result, clicks)


@both_ways
def test_a_full_server_is_named(clicks: Dataset, own_redis: Any, sync_rows: int) -> None:
    server = own_redis("--maxmemory-policy", "noeviction")

    def fill() -> None:
        with server.client() as client:
            client.config_set("maxmemory", "1mb")

    with pytest.raises(StoreError, match=r"OOM.*memory is full"):
        train(clicks, server.url, sync_rows=sync_rows, epochs=50, callbacks=[at_row(6_000, fill)])


def test_a_replica_is_waited_for_to_become_a_master_and_then_named(
    clicks: Dataset, own_redis: Any
) -> None:
    master, replica = own_redis(), own_redis()
    with replica.client() as client:
        client.replicaof("127.0.0.1", master.port)
        until = time.monotonic() + 20
        while client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < until
            time.sleep(0.05)
    with pytest.raises(StoreError, match=r"READONLY.*address of its master"):
        train(clicks, replica.url)
    with replica.client() as client:
        client.replicaof("NO", "ONE")
    sound(train(clicks, replica.url), clicks)


@pytest.mark.parametrize(
    ("address", "says"),
    [("redis://127.0.0.1", "NOAUTH.*wants a password"), ("redis://:no@127.0.0.1", "WRONGPASS")],
)
def test_a_password_that_is_missing_or_wrong_is_named(
    clicks: Dataset, own_redis: Any, address: str, says: str
) -> None:
    server = own_redis("--requirepass", "yes")
    with pytest.raises(StoreError, match=says):
        train(clicks, f"{address}:{server.port}")


def test_rights_that_are_missing_are_named(clicks: Dataset, own_redis: Any) -> None:
    server = own_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-bitfield")
    with pytest.raises(StoreError, match=r"NOPERM.*docs/redis.md"):
        train(clicks, f"redis://poor:pw@127.0.0.1:{server.port}")
    assert keys_left(server) == []


def test_a_database_that_is_not_there_is_named(clicks: Dataset, own_redis: Any) -> None:
    with pytest.raises(StoreError, match="DB index is out of range"):
        train(clicks, f"{own_redis().url}/99")


def test_what_is_no_redis_is_named(clicks: Dataset, s3_process: Any) -> None:
    port = s3_process.url.rpartition(":")[2]
    with pytest.raises(StoreError, match=r"not Redis's protocol|closed|broke"):
        train(clicks, f"redis://127.0.0.1:{port}?timeout=1")


@both_ways
@pytest.mark.parametrize("n_workers", [1, 3])
def test_weights_that_no_place_can_hold_end_the_run(
    clicks: Dataset, redis_server: RedisServer, sync_rows: int, n_workers: int
) -> None:
    with pytest.raises(TrainingError, match=r"has left the range|no longer a finite"):
        train(
            clicks,
            redis_server.url,
            sync_rows=sync_rows,
            n_workers=n_workers,
            learning_rate=3000.0,
        )
    assert keys_left(redis_server) == []


# The way to it


@both_ways
def test_connections_that_are_cut_in_the_middle_of_commands_are_made_again(
    clicks: Dataset, redis_server: RedisServer, proxy: Callable[[int], Proxy], sync_rows: int
) -> None:
    way = proxy(redis_server.port)
    draw = random.Random(1)
    lives: dict[tuple[str, int], int] = {}

    def cut(direction: str, connection: int, passed: int, data: bytes) -> bytes | None:
        """Each way of each connection ends somewhere, in mid-command."""
        most = 2_000_000 if sync_rows == SINGLY else 400_000
        end = lives.setdefault((direction, connection), draw.randint(most // 10, most))
        return data if passed + len(data) <= end else data[: max(0, end - passed)]

    way.rule = cut
    result = train(clicks, way.url, sync_rows=sync_rows, epochs=3)
    assert way.connections > (8 if sync_rows == SINGLY else 5)
    assert result.stop_reason == "epochs"
    assert result.rows_processed == train(clicks, "memory", sync_rows=None, epochs=3).rows_processed
    assert result.exchanges["lost"] == 0
    # What was cut off behind a command may be carried out after it was sent again.
    assert result.exchanges["doubtful"] <= (3 if sync_rows == SINGLY else 0)
    sound(result, clicks)


@both_ways
def test_connections_that_stall_are_given_up_and_made_again(
    clicks: Dataset, redis_server: RedisServer, proxy: Callable[[int], Proxy], sync_rows: int
) -> None:
    way = proxy(redis_server.port)
    stalled: list[int] = []

    def stall(direction: str, connection: int, passed: int, data: bytes) -> bytes | None:
        pushes = b"INCRBY" in data or sync_rows != SINGLY
        if direction == "up" and passed > 50_000 and pushes and len(stalled) < 3:
            stalled.append(connection)
            time.sleep(2)
        return data

    way.rule = stall
    result = train(clicks, way.url + "?timeout=0.5", sync_rows=sync_rows)
    assert len(stalled) == 3
    assert result.stop_reason == "epochs"
    if sync_rows == SINGLY:  # what was stalled comes after it was done anew
        assert result.exchanges["doubtful"] <= 3
    else:
        assert result.exchanges["doubtful"] == 0
    sound(result, clicks)


def test_what_servers_do_late_changes_no_model(redis_server: RedisServer) -> None:
    """What a broken connection carried may come after all that was sent anew."""
    key, n, n_workers = b"{late}model", 5, 2
    link = Link((StoreUrl.parse(redis_server.url),), key, clustered=False)
    shard = Shard(0, 1, key, n, 77, link, n_workers)
    merger = Merger([shard], n_workers)
    with redis_server.client() as client:

        def push(worker: int, number: int, place: int, amount: int) -> None:
            moves = np.array([place], np.uint32), np.array([amount], np.int32)
            text = write_moves(worker, number, *moves)
            client.hset(inbox_of(shard), f"{worker}:{number}", text)

        merger.begin(np.zeros(n, np.int32))
        older = client.get(key)
        push(1, 2, 3, 20)
        push(1, 1, 3, 10)
        push(0, 1, 0, 1)
        assert merger.merge() == 3
        assert merger.whole.tolist() == [1, 0, 0, 30, 0]
        assert not client.exists(inbox_of(shard))
        push(1, 2, 3, 20)  # once more
        assert merger.merge() == 1
        newest = client.get(key)
        link.close()  # a connection broke, and what it carried is done now
        client.set(key, older)
        assert merger.merge() == 0
        assert client.get(key) == newest
        assert merger.whole.tolist() == [1, 0, 0, 30, 0]
        assert merger.lost == 0
        client.delete(key)  # that is no older model, but none
        assert merger.merge() == 0
        assert not client.exists(key)
    link.close()


def test_a_dead_part_of_the_model_is_an_error(clicks: Dataset, own_redis: Any) -> None:
    one, other = own_redis(), own_redis()
    with pytest.raises(StoreError, match=str(other.port)):
        train(
            clicks,
            f"{one.url},{other.url}",
            epochs=50,
            callbacks=[at_row(6_000, other.kill)],
        )
    assert keys_left(one) == []


def test_a_slot_that_moves_is_followed(clicks: Dataset, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        moved: list[int] = []

        def move() -> None:
            """The model's slot, with all its keys, to another server."""
            source = next(s for s in cluster.servers if any(b"model" in k for k in keys_left(s)))
            target = next(s for s in cluster.servers if s is not source)
            key = next(k for k in keys_left(source) if b"model" in k)
            slot = resp.key_slot(key)
            with source.client() as a, target.client() as b:
                ids = [c.execute_command("CLUSTER", "MYID").decode() for c in (a, b)]
                b.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
                a.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
                for one in a.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
                    a.execute_command("MIGRATE", "127.0.0.1", target.port, one, 0, 5000)
                for client in (b, a):
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
            moved.append(slot)

        result = train(clicks, cluster.servers[0].url, callbacks=[at_row(10_000, move)])
        assert moved
        assert result.stop_reason == "epochs"
        sound(result, clicks)
    finally:
        cluster.stop()


def test_a_dead_server_of_a_cluster_is_an_error(clicks: Dataset, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        with pytest.raises(StoreError):
            train(
                clicks,
                cluster.servers[0].url,
                n_ps=3,
                epochs=50,
                callbacks=[at_row(6_000, cluster.servers[2].kill)],
            )
    finally:
        cluster.stop()


@pytest.mark.parametrize("loses", [False, True], ids=["killed", "taken over"])
@both_ways
def test_a_replica_that_takes_its_masters_place_has_all_that_was_learnt(
    clicks: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sync_rows: int,
    loses: bool,
) -> None:
    """Killed, a master has passed on nearly all. Taken over, it goes on for a while, and what it
    answered meanwhile is lost."""
    monkeypatch.setattr(resp, "GIVE_UP_S", 30.0)
    cluster = Cluster(tmp_path / "cluster", replicas=True)
    try:
        alone = {"n_workers": 1, "sync_rows": sync_rows, "pipeline_depth": 1}
        url = ",".join(server.url for server in cluster.servers)
        undisturbed = train(clicks, url, n_ps=3, **alone)
        failed: list[RedisServer] = []

        def fail() -> None:
            at = next(
                i for i, s in enumerate(cluster.servers) if b"model" in b"".join(keys_left(s))
            )
            failed.append(cluster.servers[at])
            if loses:
                with cluster.replicas[at].client() as client:
                    client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
            else:
                failed[0].kill()

        result = train(clicks, url, n_ps=3, callbacks=[at_row(10_000, fail)], **alone)
        assert failed
        assert result.stop_reason == "epochs"
        assert result.exchanges["lost"] == result.exchanges["doubtful"] == 0
        assert np.array_equal(result.model.weights, undisturbed.model.weights)
        if not loses:  # the first of those named may be the dead one
            sound(train(clicks, url.replace(",", "?timeout=1,", 1), n_ps=3), clicks)
    finally:
        cluster.stop()


# Workers


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[processes.ProcessExecutor]:
    """Those that runs make."""
    found: list[processes.ProcessExecutor] = []
    made = processes.ProcessExecutor.__init__

    def remember(self: processes.ProcessExecutor, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        found.append(self)

    monkeypatch.setattr(processes.ProcessExecutor, "__init__", remember)
    return found


def test_ten_workers_are_killed_and_replaced_at_random(
    clicks: Dataset,
    redis_server: RedisServer,
    executors: list[processes.ProcessExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._MOST_DEATHS", 20)
    draw, killed, over = random.Random(4), [], threading.Event()

    def kill_some() -> None:
        while not over.wait(0.4) and len(killed) < 8:
            pids = executors[0].pids if executors else []
            if len(pids) > 3:
                killed.append(draw.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        result = train(
            clicks,
            redis_server.url,
            executor="processes",
            n_workers=10,
            minibatch_size=1,
            sync_rows=50,
            epochs=8,
        )
    finally:
        over.set()
        killer.join()
    expected = train(clicks, "memory", sync_rows=None, n_workers=1, epochs=8)
    assert len(killed) >= 3
    assert result.stop_reason == "epochs"
    assert result.rows_processed == expected.rows_processed
    assert result.rows_repeated <= len(killed) * 50 * 3
    assert result.test_loss is not None
    assert expected.test_loss is not None
    assert result.test_loss < expected.test_loss * 1.05
    assert keys_left(redis_server) == []


def test_a_dead_worker_does_not_hang_the_others(
    clicks: Dataset, redis_server: RedisServer, executors: list[processes.ProcessExecutor]
) -> None:
    def kill() -> None:
        os.kill(executors[0].pids[0], signal.SIGKILL)

    result = train(
        clicks,
        redis_server.url,
        executor="processes",
        n_workers=3,
        consistency="ssp",
        staleness=2,
        callbacks=[at_row(6_000, kill)],
    )
    assert result.stop_reason == "epochs"
    assert result.rows_processed == train(clicks, "memory", sync_rows=None).rows_processed


@both_ways
def test_a_silent_worker_is_replaced_though_its_process_lives(
    clicks: Dataset,
    redis_server: RedisServer,
    executors: list[processes.ProcessExecutor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sync_rows: int,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._QUIET_S", 4.0)
    stopped: list[int] = []

    def stop() -> None:
        stopped.append(executors[0].pids[0])
        os.kill(stopped[0], signal.SIGSTOP)

    result = train(
        clicks,
        redis_server.url,
        executor="processes",
        sync_rows=sync_rows,
        epochs=4,
        callbacks=[at_row(6_000, stop)],
    )
    assert stopped
    assert "has given no sign for 4 s; it is ended" in caplog.text
    assert result.stop_reason == "epochs"
    assert result.rows_processed == train(clicks, "memory", sync_rows=None, epochs=4).rows_processed
    sound(result, clicks)


def test_silence_counts_only_while_somebody_listens(
    clicks: Dataset, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that was stopped, or on a machine that slept, takes nobody for dead."""
    given = {"dataset": clicks.uri, "param_store": redis_server.url, "n_workers": 1, "epsilon": 0}
    store = Plan.make(parse_options(given)).create_store("task")
    assert isinstance(store, RedisRun)
    try:
        store.admit(0)
        assert store.rows == 0
        now = [time.monotonic() + 1000]
        clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
        monkeypatch.setattr("cirrus_fast.backend.redis_run.time", clock)
        assert store.rows == 0
        assert store.silent_s(0) <= 2.0
        for _ in range(10):
            now[0] += 0.5
            assert store.rows == 0
        assert 5.0 <= store.silent_s(0) <= 7.0
        store.admit(0)
        assert store.silent_s(0) == 0
    finally:
        monkeypatch.undo()
        store.close()


def n_learning(server: RedisServer) -> int:
    """Workers that have learnt from rows."""
    with server.client() as client:
        (key,) = client.keys("*:workers")
        records = [np.frombuffer(text, RECORD)[0] for text in client.hvals(key)]
    return sum(int(record["slot"]["rows"]) > 0 for record in records)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_silent_worker_of_anybodys_executor_is_replaced_and_does_no_harm_when_it_wakes_up(
    clicks: Dataset, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._QUIET_S", 4.0)
    epochs = 10
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        stopped: list[int] = []

        def stop() -> None:
            stopped.append(max(pool._processes, key=cpu_ticks))
            os.kill(stopped[0], signal.SIGSTOP)

        def both_learn() -> bool:
            """One that is still beginning would be waited for much longer."""
            return n_learning(redis_server) == 2

        try:
            result = train(
                clicks,
                redis_server.url,
                executor=pool,
                epochs=epochs,
                callbacks=[at_row(6_000, stop, both_learn)],
            )
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert stopped
    assert result.stop_reason == "epochs"
    undisturbed = train(clicks, "memory", sync_rows=None, epochs=epochs)
    assert result.rows_processed == undisturbed.rows_processed
    sound(result, clicks)
    # Model strings that were made anew have a minute.
    assert [key for key in keys_left(redis_server) if not key.endswith(b"model")] == []


def test_an_executor_without_a_place_for_another_worker_is_an_error(
    clicks: Dataset, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._QUIET_S", 5.0)
    monkeypatch.setattr("cirrus_fast.backend.workers._START_S", 4.0)
    monkeypatch.setattr("cirrus_fast.backend.workers._END_S", 1.0)
    asleep = threading.Event()
    window = RemoteWorker._window

    def hang(self: RemoteWorker, *arguments: Any) -> bool:
        if self._spec.worker == 0 and self._port.rows > 3_000:
            asleep.wait(60)
        return window(self, *arguments)

    monkeypatch.setattr(RemoteWorker, "_window", hang)
    try:
        with pytest.raises(TrainingError, match="was silent, and the executor has started no oth"):
            train(clicks, redis_server.url, epochs=50)
    finally:
        asleep.set()
    until = time.monotonic() + 10  # the worker that slept takes away what it says then
    while keys_left(redis_server) and time.monotonic() < until:
        time.sleep(0.05)
    assert keys_left(redis_server) == []


def test_stopping_and_time_running_out_end_a_run_with_a_model(
    clicks: Dataset, redis_server: RedisServer
) -> None:
    result = train(clicks, redis_server.url, epochs=10_000, timeout=3)
    assert result.stop_reason == "timeout"
    options = {"dataset": clicks.uri, "param_store": redis_server.url, "epochs": 10_000}
    run = LogisticRegression(options | {"epsilon": 0, "test_fraction": 0.1}).start()
    while run.progress() is None:
        time.sleep(0.05)
    run.stop()
    assert run.result(30).stop_reason == "stopped"
    assert keys_left(redis_server) == []


def test_errors_of_a_store_are_the_packages_own() -> None:
    assert issubclass(StoreError, CirrusFastError)
    assert issubclass(resp.Refused, StoreError)
