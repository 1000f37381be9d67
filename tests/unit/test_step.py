"""Mini-batches that learn from pulled weights, and the messages of their steps."""

from __future__ import annotations

import socket
import threading
from itertools import pairwise

import numpy as np
import pytest
from replicas import new_replica
from step_messages import encode_ids, read_command, step_reply

from cirrus_fast import _kernels
from cirrus_fast._kernels import StepBatch, StepMessage, Stepper, StepRows
from cirrus_fast.errors import KernelError
from cirrus_fast.runtime.params.resp import Connection, Lost
from cirrus_fast.store_url import StoreUrl

KEY = b"{run}:model"


def make_rows(n_ids: int, n_rows: int = 50, seed: int = 0, most: int = 12):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, most, n_rows)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    popular = (n_ids * rng.random(int(indptr[-1])) ** 4).astype(np.uint32)
    rows = [np.unique(popular[b:e]) for b, e in pairwise(indptr)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate([*rows, np.empty(0, np.uint32)]).astype(np.uint32)
    data = rng.normal(size=len(indices)).astype(np.float32)
    labels = rng.integers(0, 2, n_rows).astype(np.float32)
    return labels, indptr, indices, data


def step_rows(rows, order=None, **weights: float) -> StepRows:
    labels, indptr, indices, data = rows
    order = np.arange(len(labels), dtype=np.uint32) if order is None else order
    return StepRows(labels, indptr, indices, data, None, order, **weights)


def weights_of(n_ids: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=n_ids).astype(np.float32)


def pull(stepper: Stepper, batch: StepBatch, w: np.ndarray, intercept: float = 0.0) -> list[int]:
    """Has the batch's weights pulled from w; returns its ids."""
    found = []
    for shard in range(stepper.n_shards):
        message = StepMessage(KEY, shard)
        message.write(stepper, None, batch)
        asked = read_command(bytes(message.view))
        assert (asked.name, asked.key) == (b"CIRRUS.PULL", KEY)
        ids = [id_ * stepper.n_shards + shard for id_ in asked.pull_ids]
        found += ids
        reply = step_reply(w[ids], intercept=intercept, rows=7.0)
        assert batch.read(shard, reply, 0, len(reply)) == len(reply)
    assert batch.whole
    assert (batch.status, batch.rows_seen) == (0, 7.0)
    return sorted(found)


@pytest.mark.parametrize("n_ids", [1, 63, 64, 65, 4096, 4097, 300_000, 1_100_000])
@pytest.mark.parametrize("n_rows", [0, 1, 50])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_pull_asks_for_the_ids_of_the_rows(n_ids, n_rows, n_shards):
    rows = make_rows(n_ids, 60, seed=n_ids)
    order = np.random.default_rng(1).permutation(60).astype(np.uint32)
    stepper = Stepper(n_ids, n_shards)
    batch, w = StepBatch(stepper), weights_of(n_ids)
    for first in (0, 60 - n_rows, 5 if n_rows < 50 else 10):  # nothing is left from one to the next
        stepper.locate(batch, step_rows(rows, order), first, n_rows)
        chosen = order[first : first + n_rows]
        entries = [rows[2][rows[1][i] : rows[1][i + 1]] for i in chosen]
        expected = np.unique(np.concatenate([*entries, np.empty(0, np.uint32)]))
        assert pull(stepper, batch, w) == expected.tolist()
        assert (batch.n_rows, batch.n) == (n_rows, len(expected))


def test_sets_are_as_short_as_those_of_arrays():
    """A Zipf draw as of click data: under 2 bytes an id, where a plain list has 4; and no bitmap
    of another length would make it shorter."""
    rng = np.random.default_rng(5)
    ids = np.unique((500_000 * rng.random(7000) ** 6).astype(np.uint32))
    row = np.zeros(1, np.float32), np.array([0, len(ids)]), ids, np.ones(len(ids), np.float32)
    stepper, message = Stepper(500_000), StepMessage(KEY)
    batch = StepBatch(stepper)
    stepper.locate(batch, step_rows(row), 0, 1)
    message.write(stepper, None, batch)
    around = b"*3\r\n$11\r\nCIRRUS.PULL\r\n$11\r\n" + KEY + b"\r\n$1234\r\n\r\n"
    n = len(message.view) - len(around) - 64
    assert n < 1.7 * len(ids)
    assert n == min(len(encode_ids(ids, words)) for words in range(900))


def test_rows_that_cannot_be_are_refused_and_leave_nothing():
    labels, indptr, indices, data = make_rows(100)
    order = np.arange(50, dtype=np.uint32)
    stepper = Stepper(100)
    batch = StepBatch(stepper)
    good = step_rows((labels, indptr, indices, data))
    for change in ("row", "id", "indptr"):
        some, places, starts = order.copy(), indices.copy(), indptr.copy()
        if change == "row":
            some[30] = 50
        elif change == "id":
            places[len(places) // 2] = 100
        else:
            starts[20] = 10**9
        with pytest.raises(KernelError):
            stepper.locate(batch, step_rows((labels, starts, places, data), some), 0, 50)
        assert (batch.n, batch.n_rows) == (0, 0)
        stepper.locate(batch, good, 0, 50)
        assert pull(stepper, batch, weights_of(100)) == np.unique(indices).tolist()
    with pytest.raises(ValueError, match="not so many rows"):
        stepper.locate(batch, good, 1, 50)


@pytest.mark.parametrize("n_shards", [1, 2, 5])
def test_a_push_has_the_gradient_of_a_model_in_memory(n_shards):
    n_ids = 500
    rows = make_rows(n_ids, 80)
    labels, indptr, indices, data = rows
    order = np.random.default_rng(1).permutation(80).astype(np.uint32)
    optimizer = _kernels.Optimizer("sgd", 0.1)
    state = weights_of(n_ids + 1)
    penalties = np.full((n_ids, 2), 0.1, np.float32)  # so that touches are counted
    model = _kernels.TrainModel(
        optimizer, state, penalties, negative_weight=0.5, positive_weight=2.0
    )
    room = len(indices)
    scratch = _kernels.TrainScratch(
        np.zeros(n_ids, np.uint32), np.empty(room, np.uint32), np.empty(room + 1, np.uint32),
        *(np.empty(room, np.float32) for _ in range(3)),
    )  # fmt: skip
    k, intercept, loss, weight = model.gradient(labels, indptr, indices, data, None, order, scratch)
    expected = dict.fromkeys(range(n_ids), (0.0, 0.0))
    parts = (np.asarray(x)[:k] for x in (scratch.distinct, scratch.gradient, scratch.touches))
    expected = {int(i): (float(g), float(t)) for i, g, t in zip(*parts, strict=True)}

    stepper = Stepper(n_ids, n_shards, counts_touches=True)
    batch, following = StepBatch(stepper), StepBatch(stepper)
    taken = step_rows(rows, order, negative_weight=0.5, positive_weight=2.0)
    stepper.locate(batch, taken, 0, 80)
    pull(stepper, batch, state, float(state[-1]))
    assert stepper.learn(batch) == loss
    assert (batch.loss, batch.weight) == (loss, weight)
    stepper.locate(following, taken, 3, 20)
    found, pulled = {}, []
    for shard in range(n_shards):
        message = StepMessage(KEY, shard, worker=4, generation=2)
        message.write(stepper, batch, following, number=8, rate=0.5)
        assert (message.pushes, message.number) == (True, 8)
        said = read_command(bytes(message.view))
        assert said.name == b"CIRRUS.STEP"
        assert (said.worker, said.generation, said.number, said.rate) == (4, 2, 8, 0.5)
        assert (said.n_rows, said.loss_sum, said.weight_sum) == (80, loss, weight)
        assert said.intercept_gradient == intercept
        for id_, g, t in zip(said.push_ids, said.gradient, said.touches, strict=True):
            found[id_ * n_shards + shard] = (float(g), float(t))
        pulled += [id_ * n_shards + shard for id_ in said.pull_ids]
    assert found == expected
    assert sorted(pulled) == sorted(
        {int(id_) for i in order[3:23] for id_ in indices[indptr[i] : indptr[i + 1]]}
    )


def test_only_what_was_learnt_last_is_pushed():
    rows = step_rows(make_rows(40))
    stepper, message = Stepper(40), StepMessage(KEY)
    one, other = StepBatch(stepper), StepBatch(stepper)
    for batch in (one, other):
        stepper.locate(batch, rows, 0, 10)
        with pytest.raises(ValueError, match="has no weights"):
            stepper.learn(batch)
        pull(stepper, batch, weights_of(40))
        stepper.learn(batch)
    with pytest.raises(ValueError, match="not the last learnt from"):
        message.write(stepper, one, None)
    message.write(stepper, other, None, number=1)
    assert message.pushes
    assert read_command(bytes(message.view)).name == b"CIRRUS.PUSH"
    stepper.locate(other, rows, 10, 10)
    with pytest.raises(ValueError, match="not the last learnt from"):
        message.write(stepper, other, None)


def test_rows_that_changed_meanwhile_are_refused():
    rows = make_rows(40)
    stepper = Stepper(40)
    batch = StepBatch(stepper)
    stepper.locate(batch, step_rows(rows), 0, 50)
    pull(stepper, batch, weights_of(40))
    rows[1][-1] -= 1
    with pytest.raises(KernelError):
        stepper.learn(batch)


def test_what_is_another_steppers_is_refused():
    rows = step_rows(make_rows(40))
    mine, other = Stepper(40), Stepper(40)
    batch = StepBatch(other)
    with pytest.raises(ValueError, match="another stepper"):
        mine.locate(batch, rows, 0, 1)
    with pytest.raises(ValueError, match="another stepper"):
        StepMessage(KEY).write(mine, None, batch)
    with pytest.raises(ValueError, match="no such shard"):
        StepMessage(KEY, 1).write(mine, None, None)


# Answers


def located(n_shards: int = 1) -> tuple[Stepper, StepBatch]:
    stepper = Stepper(40, n_shards)
    batch = StepBatch(stepper)
    stepper.locate(batch, step_rows(make_rows(40)), 0, 10)
    return stepper, batch


def test_an_answer_may_come_byte_by_byte():
    stepper, batch = located()
    reply = step_reply(np.ones(batch.n), intercept=0.5)
    for n in range(len(reply)):
        assert batch.read(0, b"xx" + reply, 2, 2 + n) == 0
        assert not batch.whole
    assert batch.read(0, b"xx" + reply + reply, 2, 2 + 2 * len(reply)) == 2 + len(reply)
    assert (batch.whole, batch.intercept) == (True, 0.5)
    stepper.learn(batch)


def test_an_answer_that_says_wait_brings_no_weights():
    _, batch = located()
    reply = step_reply([], status=2)
    assert batch.read(0, reply, 0, len(reply)) == len(reply)
    assert (batch.status, batch.whole) == (2, False)


@pytest.mark.parametrize(
    "reply", [b"-ERR no\r\n", b":1\r\n", b"$\r\n", b"$x", b"$1\rx", b"$99999999999", b"$1\r\nabc"]
)
def test_what_is_no_string_is_told_apart(reply):
    _, batch = located()
    assert batch.read(0, reply, 0, len(reply)) == -1


def test_an_answer_of_another_length_is_refused():
    _, batch = located()
    good = step_reply(np.ones(batch.n))
    for bad in (
        step_reply(np.ones(batch.n + 1)),
        step_reply(np.ones(batch.n - 1)),
        b"$0\r\n\r\n",
        good.replace(b"\r\n\1\0", b"\r\n\2\0", 1),
        good.replace(b"\r\n\1\0", b"\r\n\1\3", 1),
    ):
        with pytest.raises(KernelError, match="malformed"):
            batch.read(0, bad, 0, len(bad))
    answer = good[good.index(b"\n") + 1 : -2]
    out = np.empty(batch.n, np.float32)
    assert _kernels.step_answer(answer, out)[0] == 0
    with pytest.raises(KernelError, match="malformed"):
        _kernels.step_answer(answer[:-1], out)


def test_an_answer_may_be_longer_than_what_is_received_at_once():
    n = 100_000
    row = np.zeros(1, np.float32), np.array([0, n]), np.arange(n, dtype=np.uint32), np.ones(n, "f4")
    stepper = Stepper(n)
    batches = [StepBatch(stepper) for _ in range(2)]
    for batch in batches:
        stepper.locate(batch, step_rows(row), 0, 1)
    replies = step_reply(np.ones(n), intercept=0.5) + step_reply(np.ones(n), intercept=0.25)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = StoreUrl.parse(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        connection = Connection(url)
        server, _ = listener.accept()
        sender = threading.Thread(target=server.sendall, args=(replies,))
        sender.start()
        for batch in batches:
            connection.read_step(batch, 0)
        sender.join()
        server.close()
        assert [batch.intercept for batch in batches] == [0.5, 0.25]
        assert not connection.has_more
        batches[0].clear()
        with pytest.raises(Lost, match="closed the connection"):
            connection.read_step(batches[0], 0)
        connection.close()


def test_a_server_that_is_silent_is_lost_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}?timeout=0.05"
        connection = Connection(StoreUrl.parse(url))
        with pytest.raises(Lost, match="no answer in time"):
            connection.read()
        connection.close()


def test_shards_answer_in_turn():
    _, batch = located(2)
    reply = step_reply([])
    for shard in (1, 2):
        with pytest.raises(ValueError, match="another's turn"):
            batch.read(shard, reply, 0, len(reply))
    with pytest.raises(ValueError, match="not so many bytes"):
        batch.read(0, reply, 5, len(reply) + 1)
    batch.clear()
    for shard in (0, 1):
        assert batch.read(shard, reply, 0, len(reply)) == len(reply)
    assert batch.whole


# Moves of a worker that learns on a copy


@pytest.mark.parametrize("n_shards", [1, 3])
def test_moves_are_pushed_as_the_gradient_of_sgd_at_rate_1(n_shards: int):
    n_ids, unit = 500, 2.0**-24
    replica, stepper = new_replica(n_ids + 1), Stepper(n_ids, n_shards)
    places = np.array([0, 5, 77, 400, n_ids], np.uint32)
    amounts = np.array([1, -3, 2**24, 5, 7], np.int32)
    batch, following = StepBatch(stepper), StepBatch(stepper)
    replica.give(batch, places, amounts, n_rows=9, loss=2.5, weight=8.0)
    following.choose(np.array([2, 77], np.uint32))
    found, pulled = {}, []
    for shard in range(n_shards):
        message = StepMessage(KEY, shard)
        message.write(stepper, batch, following, number=1)
        said = read_command(bytes(message.view))
        assert (said.n_rows, said.loss_sum, said.weight_sum, said.rate) == (9, 2.5, 8.0, 1.0)
        assert said.intercept_gradient == -7 * unit
        for id_, g in zip(said.push_ids, said.gradient, strict=True):
            found[id_ * n_shards + shard] = float(g)
        pulled += [id_ * n_shards + shard for id_ in said.pull_ids]
    assert found == {0: -unit, 5: 3 * unit, 77: -1.0, 400: -5 * unit}
    assert sorted(pulled) == [2, 77]


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_copy_takes_over_weights_and_keeps_what_it_sent_since(n_shards: int):
    n_ids = 40
    replica, stepper = new_replica(n_ids + 1, "adagrad"), Stepper(n_ids, n_shards)
    weights = np.linspace(-2, 2, n_ids).astype(np.float32)
    batch, ids = StepBatch(stepper), np.array([1, 7, 39], np.uint32)
    batch.choose(ids)
    pull(stepper, batch, weights, 0.25)
    sent = np.asarray(replica.sent)
    sent_then = sent[[1, 7, 39, n_ids]]
    sent[7] += np.uint32(2**22)  # sent after these were asked for
    assert replica.take_over(batch, sent_then) == 0
    found = np.asarray(replica.state)[::2]
    expected = np.zeros(n_ids + 1, np.float32)
    expected[ids], expected[-1] = weights[ids], 0.25
    expected[7] += 0.25
    np.testing.assert_allclose(found, expected, atol=2**-24)


@pytest.mark.parametrize("weight", [200.0, -200.0, float("nan"), float("inf")])
def test_weights_that_a_copy_cannot_hold_are_counted(weight: float):
    replica, stepper = new_replica(4), Stepper(3)
    batch = StepBatch(stepper)
    batch.choose(np.array([0, 1], np.uint32))
    pull(stepper, batch, np.array([1, weight, 0], np.float32))
    assert replica.take_over(batch, None) == 1
    assert np.isfinite(replica.state).all()


@pytest.mark.parametrize("ids", [[3, 2], [2, 2], [1, 40]])
def test_ids_that_are_chosen_must_increase_within_the_model(ids: list[int]):
    with pytest.raises(ValueError, match="ids must increase"):
        StepBatch(Stepper(40)).choose(np.array(ids, np.uint32))


def test_a_push_of_nothing_has_a_number_and_nothing_else():
    stepper, message = Stepper(40, counts_touches=True), StepMessage(KEY)
    nothing = StepBatch(stepper)
    message.write(stepper, nothing, nothing, number=5, rate=0.5)
    said = read_command(bytes(message.view))
    assert (said.name, said.number, said.rate) == (b"CIRRUS.STEP", 5, 0.5)
    assert (said.push_ids, said.pull_ids, said.n_rows, said.intercept_gradient) == ([], [], 0, 0)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_gradient_that_was_found_elsewhere_is_pushed(n_shards: int):
    n_ids, w = 100, weights_of(100)
    stepper = Stepper(n_ids, n_shards, counts_touches=True)
    batch, ids = StepBatch(stepper), np.array([2, 3, 50, 77, 99], np.uint32)
    batch.choose(ids)
    with pytest.raises(ValueError, match="no weights"):
        stepper.give(batch, 7, w[ids], w[ids])
    assert pull(stepper, batch, w) == ids.tolist()
    pulled = np.empty(len(ids), np.float32)
    batch.take(pulled)
    np.testing.assert_array_equal(pulled, w[ids])
    gradient, touches = -w[ids], np.arange(5, dtype=np.float32)
    stepper.give(batch, 7, gradient, touches)
    pushed: dict[int, tuple[float, float]] = {}
    for shard in range(n_shards):
        message = StepMessage(KEY, shard)
        message.write(stepper, batch, None, number=1)
        told = read_command(bytes(message.view))
        assert (told.name, told.n_rows, told.intercept_gradient) == (b"CIRRUS.PUSH", 7, 0)
        there = [id_ * n_shards + shard for id_ in told.push_ids]
        pushed |= dict(zip(there, zip(told.gradient, told.touches, strict=True), strict=True))
    assert pushed == dict(zip(ids.tolist(), zip(gradient, touches, strict=True), strict=True))
    for wrong in ((gradient[1:], touches), (gradient, None), (gradient, touches[1:])):
        with pytest.raises(ValueError, match="a place for every id"):
            stepper.give(batch, 7, *wrong)
    with pytest.raises(ValueError, match="a place for every id"):
        batch.take(pulled[1:])
