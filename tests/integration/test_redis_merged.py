"""Strings that the supervisor merges (params/merged.py), move by move beside plain sums."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from redis_server import RedisServer
from replicas import new_replica

from cirrus_fast.runtime.params import merged
from cirrus_fast.runtime.params.bitfield import Shard
from cirrus_fast.runtime.params.merged import Layout, MergedExchange, Merger, bell_of, inbox_of
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import StoreUrl

N_WORKERS, GENERATION = 3, 1


def shards_of(server: RedisServer, n: int, n_shards: int) -> list[Shard]:
    found = []
    for k in range(n_shards):
        key = b"{merged:%d}model" % k
        link = Link((StoreUrl.parse(server.url),), key, clustered=False)
        found.append(Shard(k, n_shards, key, -(-(n - k) // n_shards), 77 + k, link, N_WORKERS))
    return found


class Worker:
    """One that learns nothing of its own: it moves what it is told to."""

    def __init__(self, server: RedisServer, number: int, n: int, n_shards: int) -> None:
        self.replica = new_replica(n, n_workers=N_WORKERS)
        self.held = np.asarray(self.replica.held)
        self.shards = shards_of(server, n, n_shards)
        self.exchange = MergedExchange(
            self.replica, self.shards, number, GENERATION, N_WORKERS, 4, lambda: False
        )

    def push(self, ids: np.ndarray, amounts: np.ndarray) -> None:
        np.add.at(self.held, ids, amounts)  # as cf_replica_take leaves it
        self.exchange.submit(ids, amounts, ids, ahead=False)


@pytest.fixture
def no_keys(redis_server: RedisServer) -> Iterator[None]:
    yield
    with redis_server.client() as client:
        for key in client.keys("{merged*"):
            client.delete(key)


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize(("n", "n_shards"), [(1, 1), (40, 1), (41, 2), (500, 1), (500, 3)])
def test_any_order_of_pushing_merging_and_reading_gives_the_sum_of_all_moves(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, n: int, n_shards: int
) -> None:
    """Workers see their own moves at once; popular weights as they were when they read, the others
    when they read all; and when all is done, everybody sees the sum."""
    monkeypatch.setattr(merged, "_LEAST_HEAD", 8)
    draw = random.Random(n * 10 + n_shards)
    total = np.zeros(n, np.int64)
    theirs = shards_of(redis_server, n, n_shards)
    merger = Merger(theirs, N_WORKERS)
    merger.begin(total.astype(np.int32))
    workers = [Worker(redis_server, k, n, n_shards) for k in range(N_WORKERS)]
    heads = {s.number: Layout(s, N_WORKERS) for s in workers[0].shards}

    def popular(i: int) -> bool:
        layout, place = heads[i % n_shards], i // n_shards
        return bool(layout.words(np.array([place], np.uint32))[0] >= layout.head)

    for _ in range(200):
        worker = draw.choice(workers)
        act = draw.random()
        if act < 0.4 and worker.exchange.n_under_way < 3:
            few = draw.sample(range(n), draw.randint(1, min(n, 30)))
            ids = np.array(few, np.uint32)
            amounts = np.array([draw.randint(-1000, 1000) for _ in few], np.int32)
            total[few] += amounts
            worker.push(ids, amounts)
        elif act < 0.7:
            merger.merge()
        elif worker.exchange.n_under_way:
            merger.merge()
            worker.exchange.settle()
            for i in filter(popular, range(n)):  # all is merged
                assert worker.held[i] == total[i]
    merger.merge()
    assert merger.whole.tolist() == total.tolist()
    assert merger.lost == 0
    for worker in workers:
        while worker.exchange.n_under_way:
            worker.exchange.settle()
        everything = np.arange(n, dtype=np.uint32)
        for _ in range(3):  # so many moves that all weights are written and read
            worker.push(everything, np.ones(n, np.int32))
            total += 1
            merger.merge()
            worker.exchange.settle()
    assert merger.whole.tolist() == total.tolist()
    assert workers[-1].held.tolist() == total.tolist()
    with redis_server.client() as client:
        for shard in workers[0].shards:
            assert not client.exists(inbox_of(shard), bell_of(shard))
    for shard in [*theirs, *(one for worker in workers for one in worker.shards)]:
        shard.link.close()


def test_popular_weights_and_the_intercept_are_one_piece_with_what_is_behind(
    redis_server: RedisServer,
) -> None:
    (shard,) = shards_of(redis_server, 20_000, 1)
    layout = Layout(shard, N_WORKERS)
    words = layout.words(np.arange(20_000, dtype=np.uint32))
    assert sorted(words.tolist()) == list(range(20_000))
    assert words[-1] == layout.mark - 1  # the intercept's, next to the mark
    assert words[0] == words[-1] - 1
    assert layout.head == 20_000 - 2_500
    assert layout.size == 20_000 + 2 + 2 * N_WORKERS
    values = np.arange(20_000, dtype=np.int32)
    there = np.empty_like(values)
    there[words] = values
    assert layout.by_place(there).tolist() == values.tolist()


@pytest.mark.usefixtures("no_keys")
def test_what_a_server_has_lost_is_pushed_and_written_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back without strings that it had taken, and with an older model."""
    monkeypatch.setattr(merged, "_LEAST_HEAD", 8)
    n = 64
    (theirs,) = shards_of(redis_server, n, 1)
    merger = Merger([theirs], N_WORKERS)
    merger.begin(np.zeros(n, np.int32))
    worker = Worker(redis_server, 0, n, 1)
    (own,) = worker.shards
    ids, ones = np.arange(n, dtype=np.uint32), np.ones(n, np.int32)
    with redis_server.client() as client:
        older = client.get(own.key)
        worker.push(ids, ones)
        merger.merge()
        worker.push(ids, ones)
        worker.push(ids, ones)
        client.delete(inbox_of(own))
        client.set(own.key, older)
    own.link.close()
    theirs.link.close()
    assert merger.merge() == 0  # but the model is written anew
    worker.exchange.settle()
    assert merger.merge() == 2
    while worker.exchange.n_under_way:
        worker.exchange.settle()
    assert merger.lost == 0
    assert merger.whole.tolist() == worker.held.tolist() == [3] * n
    other = Worker(redis_server, 1, n, 1)
    other.push(ids[:1], ones[:1])
    merger.merge()
    other.exchange.settle()
    assert other.held.tolist() == [4] + [3] * (n - 1)
    for shard in (theirs, own, *other.shards):
        shard.link.close()
