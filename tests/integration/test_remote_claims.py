"""Words in a Redis that say who learns from which block, whatever becomes of connections, commands
and servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from redis_server import Proxy, RedisServer

from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.claims import Claims
from cirrus_fast.runtime.params.control import RECORD, SAYS, Names, RemotePort, control_link
from cirrus_fast.runtime.params.remote_claims import RemoteClaims, check_claims, string_of, words_of
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import StoreUrl

TASK, N_BLOCKS, N_WORKERS = "claimed", 40, 4
ALL = np.arange(N_BLOCKS, dtype=np.uint32)


@dataclass
class Member:
    """A worker as far as it claims blocks; each has 10 rows."""

    link: Link
    port: RemotePort
    claims: RemoteClaims

    @classmethod
    def join(cls, url: str, worker: int) -> Member:
        link = control_link((StoreUrl.parse(url),), TASK, False, lambda: False)
        port = RemotePort(link, TASK, worker, 1, 0, strict=False)
        claims = RemoteClaims(port, TASK, N_BLOCKS, lambda numbers: 10 * len(numbers))
        return cls(link, port, claims)

    def learn(self, numbers: np.ndarray, epoch: int) -> None:
        self.port.report(10 * len(numbers), 1, 0.0, 0.0)
        self.claims.done(numbers, epoch)


Join = Callable[[int], Member]


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.stop()


@pytest.fixture
def join(run: None, proxy: Proxy) -> Iterator[Join]:
    made: list[Member] = []

    def one(worker: int) -> Member:
        made.append(Member.join(proxy.url, worker))
        return made[-1]

    yield one
    for member in made:
        member.link.close()


@pytest.fixture
def run(redis_server: RedisServer) -> Iterator[None]:
    """The control of a run of so many workers."""
    names = Names(TASK)
    says = np.zeros(1, SAYS)[0].tobytes() + np.ones(N_WORKERS, np.int64).tobytes()
    with redis_server.client() as client:
        client.set(names.control, says)
        for worker in range(N_WORKERS):
            client.hset(names.workers, f"{worker}.1", np.zeros(1, RECORD)[0].tobytes())
        yield
        client.delete(*names.all())


def words(server: RedisServer) -> np.ndarray:
    with server.client() as client:
        return words_of(client.get(Names(TASK).claims), N_BLOCKS)


def test_of_many_that_try_at_once_one_has_each(join: Join) -> None:
    members = [join(worker) for worker in range(N_WORKERS)]

    def work(member: Member) -> np.ndarray:
        order = np.random.default_rng(member.port.worker).permutation(ALL)
        parts = [order[i : i + 3] for i in range(0, N_BLOCKS, 3)]
        return np.concatenate([part[member.claims.take(part, 0)] for part in parts])

    with ThreadPoolExecutor(N_WORKERS) as pool:
        taken = list(pool.map(work, members))
    assert np.array_equal(np.sort(np.concatenate(taken)), ALL)
    for member, mine in zip(members, taken, strict=True):
        member.claims.look(0)
        assert np.array_equal(np.sort(mine), member.claims.mine())


def test_a_block_goes_from_epoch_to_epoch(join: Join, redis_server: RedisServer) -> None:
    ours, theirs = join(0), join(3)
    blocks = np.array([1, 3], np.uint32)
    assert ours.claims.take(blocks, 0).tolist() == [True, True]
    assert theirs.claims.take(np.array([0, 1], np.uint32), 0).tolist() == [True, False]
    assert ours.claims.take(blocks, 0).tolist() == [True, True]  # it has them still
    assert not theirs.claims.take(blocks, 1).any()  # an epoch ahead
    ours.learn(blocks, 0)
    assert not theirs.claims.take(blocks, 1).any()  # it has not said so yet
    ours.claims.look(0)
    assert ours.claims.epochs()[:4].tolist() == [0, 1, 0, 1]
    assert theirs.claims.take(blocks, 1).all()
    assert theirs.claims.mine().tolist() == [0, 1, 3]
    assert np.array_equal(words(redis_server), theirs.claims._words)


def test_what_is_kept_of_words_is_what_they_say() -> None:
    draw = np.random.default_rng(5)
    told = draw.integers(0, 5, N_BLOCKS) * (1 << 16) + draw.integers(0, 9, N_BLOCKS)
    assert np.array_equal(words_of(string_of(told), N_BLOCKS), told)
    assert np.array_equal(words_of(None, N_BLOCKS), np.zeros(N_BLOCKS, np.int64))


def test_commands_of_broken_connections_change_nothing(
    join: Join, proxy: Proxy, redis_server: RedisServer
) -> None:
    """Answers are lost: what was asked may be done, and is asked again."""
    draw, cut = random.Random(3), []

    def rule(direction: str, connection: int, passed: int, data: bytes) -> bytes | None:
        if len(cut) < 30 and draw.random() < 0.2:
            cut.append(connection)
            return None
        return data

    members = [join(worker) for worker in range(N_WORKERS)]
    proxy.rule = rule
    for epoch in range(3):
        order = draw.sample(range(N_BLOCKS), N_BLOCKS)
        for i in range(0, N_BLOCKS, 4):
            part, member = np.array(order[i : i + 4], np.uint32), draw.choice(members)
            assert member.claims.take(part, epoch).all()
            member.learn(part, epoch)
            member.claims.look(epoch)
        assert (words(redis_server) == (epoch + 1) << 16).all()
    assert len(cut) > 10
    assert sum(member.port.rows for member in members) == 3 * 10 * N_BLOCKS
    assert not any(member.port.record["repeated"] for member in members)


@pytest.mark.parametrize("said", ["taken", "done"])
def test_what_a_server_has_lost_is_said_again(
    join: Join, redis_server: RedisServer, said: str
) -> None:
    member, other = join(1), join(2)
    part = ALL[:5]
    assert member.claims.take(part, 0).all()
    if said == "done":
        member.learn(part, 0)
        member.claims.look(0)
    with redis_server.client() as client:
        client.delete(Names(TASK).claims)
    if said == "taken":
        member.learn(part, 0)
    member.claims.look(0)  # sees it
    member.claims.look(0)  # has said it
    assert not other.claims.take(part, 0).any()
    assert (words(redis_server)[:5] == 1 << 16).all()
    assert (member.port.rows, int(member.port.record["repeated"])) == (50, 0)


@pytest.mark.parametrize("later", [0, 1])
def test_rows_of_two_since_the_server_lost_who_had_them_count_once(
    join: Join, redis_server: RedisServer, later: int
) -> None:
    """later : which of the two is done after the other"""
    both = [join(1), join(2)]
    assert both[0].claims.take(ALL[:5], 0).all()
    with redis_server.client() as client:
        client.delete(Names(TASK).claims)
    assert both[1].claims.take(ALL[2:7], 0).all()
    for member, mine in sorted(
        [(both[0], ALL[:5]), (both[1], ALL[2:7])], key=lambda pair: pair[0] is both[later]
    ):
        member.learn(mine, 0)
        member.claims.look(0)
    for member in both:
        member.claims.look(0)
    assert (words(redis_server)[:7] == 1 << 16).all()
    assert sum(member.port.rows for member in both) == 70
    assert sum(int(member.port.record["repeated"]) for member in both) == 30


def test_who_was_asleep_and_replaced_says_nothing_more(
    join: Join, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = join(1)
    assert member.claims.take(ALL[:5], 0).all()
    member.learn(ALL[:5], 0)
    names = Names(TASK)
    with redis_server.client() as client:
        says = np.zeros(1, SAYS)[0].tobytes() + np.array([1, 2, 1, 1], np.int64).tobytes()
        client.set(names.control, says)
    monkeypatch.setattr("cirrus_fast.runtime.params.control._ASLEEP_S", 0)
    member.claims.look(0)
    assert member.port.fenced
    assert (words(redis_server)[:5] == 2).all()  # it is for the one in its place to say


def test_who_was_asleep_and_dies_has_not_told_of_rows_before_their_blocks(
    join: Join, proxy: Proxy, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the one in its place would learn from them again, and count them twice."""
    member = join(1)
    member.port.begin_unit(1, 1)
    assert member.claims.take(ALL[:5], 0).all()
    member.learn(ALL[:5], 0)
    member.port.leave_unit()
    monkeypatch.setattr("cirrus_fast.runtime.params.control._ASLEEP_S", 0)
    seen = b""

    def rule(direction: str, _connection: int, _passed: int, data: bytes) -> bytes:
        nonlocal seen
        seen += data if direction == "up" else b""
        return data

    proxy.rule = rule
    assert member.claims.take(ALL[5:7], 0).all()
    told = [i for i in range(len(seen)) if seen.startswith((b"HSET", b"INCRBY"), i)]
    assert seen[told[0] :].startswith(b"HSET")  # the rows, of the unit that they are of
    first = np.frombuffer(seen[told[0] :].split(b"\r\n", 6)[6][: RECORD.itemsize], RECORD)[0]
    assert (int(first["slot"]["rows"]), int(first["slot"]["unit"])) == (50, 1)
    assert seen[told[1] :].startswith(b"INCRBY")  # then, that their blocks are done
    assert (words(redis_server)[:5] == 1 << 16).all()


def test_a_worker_beyond_those_that_words_have_room_for_is_refused() -> None:
    check_claims(16_383, 1000, 10)
    with pytest.raises(TrainingError, match="n_workers: 16383 at most"):
        check_claims(16_384, 1000, 10)
    with pytest.raises(TrainingError, match="epochs: with 1000 blocks of data, 268435 at most"):
        check_claims(2, 1000, 300_000)


def test_words_of_other_workers_are_as_memory_has_them(join: Join) -> None:
    member = join(2)
    member.claims.take(ALL[::3], 0)
    mirrored: Any = Claims(member.claims._words, 2)
    assert np.array_equal(mirrored.mine(), ALL[::3])
