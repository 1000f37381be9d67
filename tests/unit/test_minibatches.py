"""A worker's rows: each once an epoch, in an order that mixes, within the memory allowed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cirrus_fast import CSR, Dataset, load_csr
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import DatasetError, KernelError
from cirrus_fast.runtime import minibatches, row_sources
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import MiniBatches, decoded_bytes

F32 = np.float32
N_ROWS, N_IDS = 6000, 50
PLENTY = Memory.of(2048, 0)


@pytest.fixture
def dataset(storage_root, monkeypatch):
    """Blocks of 100 rows; row i has the value i in column 0, the first half are of one class."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 100)
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 12, N_ROWS)
    ids = [np.append(0, 1 + np.sort(rng.choice(N_IDS - 1, n - 1, False))) for n in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = rng.normal(size=indptr[-1]).astype(F32)
    data[indptr[:-1]] = np.arange(1, N_ROWS + 1)
    labels = (np.arange(N_ROWS) < N_ROWS // 2).astype(F32)
    weights = np.arange(N_ROWS).astype(F32)
    rows = CSR(labels, indptr, np.concatenate(ids).astype(np.uint32), data, N_IDS, weights)
    return load_csr(rows, None, "d")


@pytest.fixture
def stream():
    """stream(dataset, ...): a worker's rows, given up at the end."""
    opened = []
    yield lambda *arguments, **options: opened.append(_stream(*arguments, **options)) or opened[-1]
    for one in opened:
        one.close()


def _stream(
    dataset, *, memory=PLENTY, holdout=None, seed=0, epochs=2, stopping=lambda: False, ahead=True
):
    scale = TrainingScale.of(
        dataset.columns, dataset.n_rows, optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0
    )
    numbers = range(len(dataset.blocks))
    held = holdout or HoldOut.none(dataset.blocks)
    return MiniBatches(
        dataset,
        numbers,
        held,
        scale,
        epochs=epochs,
        memory=memory,
        seed=seed,
        worker=0,
        stopping=stopping,
        ahead=ahead,
    )


def taken(windows):
    """Numbers of the rows in the order they come in."""
    found = []
    for window in windows:
        rows = window.rows
        found.append(rows.weights[window.order].astype(np.int64))
    return np.concatenate(found)


def allow(monkeypatch, dataset, share, group=0.1):
    """Memory for this share of the rows, and to mix this share at a time."""
    all_rows = sum(map(decoded_bytes, dataset.blocks))
    monkeypatch.setattr(minibatches, "GROUP_BYTES", group * all_rows)
    monkeypatch.setattr(minibatches, "RUN", 8)
    monkeypatch.setattr(minibatches, "SHUFFLED_RUN", 4)
    monkeypatch.setattr(row_sources, "_NEAR_AHEAD_BYTES", 10_000)
    beside = group * all_rows + 10_000
    return Memory(int(share * all_rows + beside) + 1, int(group * all_rows))


def put_far(monkeypatch):
    """Data sets are read as from a server."""
    monkeypatch.setattr(Dataset, "is_remote", property(lambda _: True))


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("share", [1.1, 0.3])
def test_every_training_row_comes_once_an_epoch_in_an_order_of_its_own(
    dataset, stream, monkeypatch, share, far
):
    memory = allow(monkeypatch, dataset, share)
    if far:
        put_far(monkeypatch)
    holdout = HoldOut.plan(dataset.blocks, 0.1, 3)
    kept = np.concatenate([~holdout.mask(i, b) for i, b in enumerate(dataset.blocks)])
    rows = stream(dataset, memory=memory, holdout=holdout)
    first, second = taken(rows.epoch(0)), taken(rows.epoch(1))
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), np.flatnonzero(kept))
    assert (first != second).mean() > 0.99
    again = stream(dataset, memory=memory, holdout=holdout)
    np.testing.assert_array_equal(taken(again.epoch(1)), second)
    np.testing.assert_array_equal(taken(again.epoch(1, skip=1234)), second[1234:])
    other = stream(dataset, memory=memory, holdout=holdout, seed=1)
    assert (taken(other.epoch(0)) != first).mean() > 0.99


@pytest.mark.parametrize("share", [1.1, 0.5])
def test_rows_sorted_by_class_come_mixed(dataset, stream, monkeypatch, share):
    """A model that sees thousands of rows of one class forgets the other."""
    memory = allow(monkeypatch, dataset, share, group=0.25)  # 15 blocks, as there are of clicks
    order = taken(stream(dataset, memory=memory).epoch(0))
    positive = (order < N_ROWS // 2).reshape(-1, 500).mean(axis=1)
    assert 0.2 < positive.min() < positive.max() < 0.8


def test_from_a_server_one_block_comes_first_and_runs_are_mixed(dataset, stream, monkeypatch):
    memory = allow(monkeypatch, dataset, 0.5, group=0.25)
    put_far(monkeypatch)
    rows = stream(dataset, memory=memory)
    assert rows._source.mixed == 2
    windows = rows.epoch(0)
    first = next(windows)
    assert len(first.order) == 100
    assert len({int(row) // 100 for row in first.rows.weights[first.order]}) == 1
    assert len(next(windows).order) > 1000
    assert len(next(iter(rows.epoch(1))).order) > 1000
    whole = taken(stream(dataset, memory=memory).epoch(0))
    again = stream(dataset, memory=memory, epochs=5)  # how long it will go on is of no account
    np.testing.assert_array_equal(taken(again.epoch(0)), whole)


def test_from_a_server_what_is_read_first_is_learnt_from_among_the_first(
    dataset, stream, monkeypatch
):
    put_far(monkeypatch)
    for seed in range(5):
        rows = stream(dataset, memory=allow(monkeypatch, dataset, 0.5, group=0.25), seed=seed)
        source = rows._source
        n_first = len(source.first)
        assert 1 < n_first < len(source.runs)
        assert list(source.runs[:n_first]) == [tuple(run) for run in source.first]
        order = [n for group, *_ in rows._groups(0) for n in group.blocks]
        assert order[0] == source.first[0][0]
        assert sorted(order) == list(range(len(dataset.blocks)))
        begins = [order.index(run[0]) for run in source.runs]
        assert max(begins[:n_first]) < min(begins[n_first:])


@pytest.mark.parametrize("mixed", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[], [1], [3, 3], [5, 1, 4, 2, 8, 3], [2, 2, 40]])
def test_blocks_are_taken_as_they_arrive_and_mixed(lengths, mixed):
    ends = np.cumsum(lengths, dtype=int)
    runs = [list(range(end - n, end)) for n, end in zip(lengths, ends, strict=True)]
    order = minibatches.as_they_arrive(runs, mixed)
    assert sorted(order) == list(range(sum(lengths)))
    at = {number: place for place, number in enumerate(order)}
    begin, end = [[at[run[i]] for run in runs] for i in (0, -1)]
    assert begin == sorted(begin)
    for run in runs:
        assert [at[n] for n in run] == sorted(at[n] for n in run)
    for place in range(len(order)):
        going_on = sum(b <= place <= e for b, e in zip(begin, end, strict=True))
        assert going_on <= mixed
    if lengths == [5, 1, 4, 2, 8, 3]:
        last = {next(i for i, run in enumerate(runs) if n in run) for n in order[-mixed - 1 :]}
        assert len(last) >= min(mixed, 3)


def test_groups_grow_and_get_smaller_towards_the_end_but_not_small(dataset):
    blocks = dataset.blocks
    numbers = list(range(len(blocks)))[::-1]
    sizes = {n: decoded_bytes(blocks[n]) for n in numbers}
    total = sum(sizes.values())
    most, least = total // 6, total // 40
    parts = list(minibatches._parts(blocks, numbers, most, least))
    assert [n for part in parts for n in part] == numbers
    held = [sum(sizes[n] for n in part) for part in parts]
    assert 0.8 * most < max(held) <= most
    for i, size in enumerate(held[:-1]):
        assert size <= max(least, min(sum(held[:i]), sum(held[i:]) // 2))
    assert held[-1] <= least
    assert min(held[:-1]) > least - max(sizes.values())
    even = list(minibatches._parts(blocks, numbers, most, most))
    assert len(even) < len(parts)


@pytest.mark.parametrize("epochs", [1, 2])
def test_rows_are_what_was_stored_in_the_scales_terms(dataset, stream, epochs):
    rows = stream(dataset, epochs=epochs)
    (window,) = rows.epoch(0)
    stored = [dataset.read_block(block) for block in dataset.blocks]
    scale, ready = rows._scale, window.rows
    assert ready.n_rows == N_ROWS
    for at in range(0, N_ROWS, 97):
        number = int(ready.weights[at])
        block, place = stored[number // 100], number % 100
        mine = slice(int(ready.indptr[at]), int(ready.indptr[at + 1]))
        theirs = slice(int(block.indptr[place]), int(block.indptr[place + 1]))
        ids = scale.ids[ready.indices[mine]]
        order = np.argsort(ids)
        np.testing.assert_array_equal(ids[order], block.indices[theirs])
        values = block.data[theirs] / scale.divisor[scale.place[block.indices[theirs]]]
        np.testing.assert_array_equal(ready.data[mine][order], values)
        assert ready.labels[at] == block.labels[place]


@pytest.mark.parametrize("share", [1.1, 0.3])
def test_rows_take_the_memory_they_may_take(dataset, stream, monkeypatch, share):
    memory = allow(monkeypatch, dataset, share)
    rows = stream(dataset, memory=memory)
    tracemalloc.start()
    for epoch in range(2):
        for window in rows.epoch(epoch):
            assert len(window.order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 1.1 * memory.rows + 50_000  # Python's own objects


def test_windows_take_turns_in_the_same_memory(dataset, stream, monkeypatch):
    memory = allow(monkeypatch, dataset, 0.3)
    where = {
        window.rows.indptr.__array_interface__["data"][0]
        for window in stream(dataset, memory=memory).epoch(0)
    }
    assert len(where) == 2


@pytest.mark.parametrize("share", [1.1, 0.3])
def test_rows_come_the_same_whether_made_ready_before_or_when_asked_for(
    dataset, stream, monkeypatch, share
):
    memory = allow(monkeypatch, dataset, share)
    streams = [stream(dataset, memory=memory, ahead=ahead) for ahead in (True, False)]
    for epoch in range(2):
        before, asked_for = (taken(one.epoch(epoch)) for one in streams)
        np.testing.assert_array_equal(before, asked_for)


def test_what_is_made_ready_when_asked_for_needs_the_memory_of_one_group(
    dataset, stream, monkeypatch
):
    memory = allow(monkeypatch, dataset, 0.3)
    windows = stream(dataset, memory=memory, ahead=False).epoch(0)
    where = {window.rows.indptr.__array_interface__["data"][0] for window in windows}
    assert len(where) == 1


@pytest.mark.parametrize("length", [1, 7, 128])
@pytest.mark.parametrize("n_rows", [0, 1, 6, 7, 1000])
def test_runs_are_all_rows_with_neighbours_together(n_rows, length):
    order = minibatches.runs_drawn(n_rows, length, np.random.default_rng(2))
    assert order.dtype == np.uint32
    np.testing.assert_array_equal(np.sort(order), np.arange(n_rows))
    if n_rows == 1000:
        together = (np.diff(order.astype(np.int64)) == 1).mean()
        assert together >= 1 - 1.2 / length if length > 1 else together < 0.1


def test_an_id_that_the_statistics_do_not_know_is_refused(dataset, stream):
    """A data set whose parts contradict each other must not lead outside the model."""
    rows = stream(dataset)
    rows._scale.place[7] = 2**32 - 1
    with pytest.raises(KernelError, match="outside the model"):
        next(rows.epoch(0))


def test_a_label_of_neither_class_is_placed(dataset, stream):
    known = dataset.manifest.label_map
    dataset.manifest = replace(dataset.manifest, label_map=LabelMap(known.negative, (7.0,)))
    says = r"\.cfs at byte \d+, row \d+ of the block: label 1 is neither"
    with pytest.raises(DatasetError, match=says):
        taken(stream(dataset).epoch(0))


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_ends_where_a_stop_is_seen(dataset, stream, monkeypatch, epoch):
    memory = allow(monkeypatch, dataset, 2.0)
    read = []
    rows = stream(dataset, memory=memory, stopping=lambda: len(read) > 0)
    plain = rows._read
    monkeypatch.setattr(rows, "_read", lambda *a: read.append(a) or plain(*a))
    assert list(rows.epoch(epoch)) == []
    assert len(read) == 1
