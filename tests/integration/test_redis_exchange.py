"""Exchanges by BITFIELD (params/bitfield.py), command by command, over connections that break."""

from __future__ import annotations

import random
import socket

import numpy as np
import pytest
from redis_server import RedisServer
from replicas import new_replica

from cirrus_fast.runtime.params import bitfield, resp
from cirrus_fast.runtime.params.bitfield import Exchange, Shard
from cirrus_fast.runtime.params.resp import Connection, Link, Lost
from cirrus_fast.store_url import StoreUrl

N, N_WORKERS = 400, 2
KEY = b"{exchange}model"
NOTHING, NO_AMOUNTS = np.empty(0, np.uint32), np.empty(0, np.int32)


class Worker:
    """One that learns nothing of its own: it moves what it is told to."""

    def __init__(self, server: RedisServer, number: int) -> None:
        self.replica = new_replica(N, n_workers=N_WORKERS)
        self.held = np.asarray(self.replica.held)
        link = Link((StoreUrl.parse(server.url),), KEY, clustered=False)
        self.shard = Shard(0, 1, KEY, N, 77, link, N_WORKERS, number)
        self.exchange = Exchange(self.replica, [self.shard])
        link.welcome = self.shard.welcome

    def add(self, place: int) -> None:
        ids = np.array([place], np.uint32)
        self.held[place] += 1  # as cf_replica_take leaves it
        self.exchange.submit(ids, np.ones(1, np.int32), NOTHING, ahead=True)


class Weather:
    """What happens to commands that add: they, or their answers, are lost with the connection; what
    was lost may come late after all, but no later than the second connection from there."""

    def __init__(self, seed: int, server: RedisServer, link: Link) -> None:
        self._draw = random.Random(seed)
        self._server, self._link = server, link
        self._late: list[tuple[int, bytes]] = []
        self._breaks: set[Connection] = set()
        self._send, self._receive = Connection.send, Connection._receive
        self.calm = False

    def send(self, connection: Connection, data: bytes | memoryview) -> None:
        if connection in self._breaks:
            raise Lost("broken")
        self.blow(self._link.connects - 2)
        adds = b"INCRBY" in bytes(data)
        chance = self._draw.random() if adds and not self.calm else 1.0
        if chance < 0.1:
            self._late.append((self._link.connects, bytes(data)))
            self._breaks.add(connection)
            return
        self._send(connection, data)
        if chance < 0.2:
            self._breaks.add(connection)

    def receive(self, connection: Connection) -> None:
        if connection in self._breaks:
            raise Lost("broken")
        self._receive(connection)

    def blow(self, until: int) -> None:
        """What was lost on connections until this one comes now."""
        while self._late and self._late[0][0] <= until:
            with socket.create_connection(("127.0.0.1", self._server.port)) as other:
                other.sendall(self._late.pop(0)[1])
                other.recv(1)  # it is done


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_what_is_done_twice_is_counted(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(resp, "_PAUSE_S", 0.0005)
    worker, other = Worker(redis_server, 1), Worker(redis_server, 0)
    bitfield.create([other.shard], np.zeros(N, np.float32))
    weather = Weather(seed, redis_server, worker.shard.link)
    with monkeypatch.context() as stormy:
        stormy.setattr(Connection, "send", lambda *a: weather.send(*a))
        stormy.setattr(Connection, "_receive", lambda c: weather.receive(c))
        draw = random.Random(seed)
        for place in range(N - 1):
            worker.add(place)
            while worker.exchange.n_under_way > draw.randrange(4):
                if draw.random() < 0.5:
                    weather.blow(worker.shard.link.connects)
                worker.exchange.settle()
        while worker.exchange.n_under_way:
            worker.exchange.settle()
        weather.blow(worker.shard.link.connects)
        weather.calm = True
        worker.exchange.submit(NOTHING, NO_AMOUNTS, np.array([N - 1], np.uint32), ahead=False)
        worker.exchange.settle()
    times = bitfield.read_weights([other.shard])[: N - 1]
    assert worker.shard.link.connects > 20
    assert times.min() == 1
    assert worker.exchange.lost == worker.exchange.rollbacks == 0
    assert 0 < worker.exchange.doubtful == (times - 1).sum()
    for one in (worker, other):
        one.shard.link.close()
    with redis_server.client() as client:
        client.delete(KEY)
