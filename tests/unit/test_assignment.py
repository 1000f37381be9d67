"""Which blocks a worker learns from: all of them once, even in bytes, some neighbours together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cirrus_fast.data.block_runs import (
    CONNECTIONS,
    RUN_BYTES,
    beside,
    cut_evenly,
    n_bytes,
    side_by_side,
)
from cirrus_fast.data.manifest import Block
from cirrus_fast.runtime.assignment import (
    FIRST_BYTES,
    FIRST_PLACES,
    first_runs,
    share_of,
    shares,
)


@dataclass
class Blocks:
    blocks: tuple[Block, ...]
    is_remote: bool


def data(sizes, *, remote, shard_blocks=100):
    blocks, offset = [], 0
    for i, size in enumerate(sizes):
        if i % shard_blocks == 0:
            offset = 0
        blocks.append(Block(f"shard-{i // shard_blocks}", offset, size, 10, 20, i * 10))
        offset += size
    return Blocks(tuple(blocks), remote)


sizes = st.lists(st.integers(1, 3 << 20), min_size=1, max_size=200)


@given(sizes, st.integers(1, 20), st.booleans())
def test_every_block_is_one_workers_and_every_worker_has_some(sizes, n_workers, remote):
    dataset = data(sizes, remote=remote)
    dealt = shares(dataset, n_workers)
    assert sorted(n for share in dealt for n in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in dealt)
    if len(sizes) >= n_workers:
        assert all(dealt)
    assert [share_of(dataset, i, n_workers) for i in range(n_workers)] == dealt


@pytest.mark.parametrize("n_workers", [2, 3, 10])
@pytest.mark.parametrize("n_blocks", [245, 2450, 25_000])
def test_shares_of_a_server_are_even_and_in_runs_that_one_request_reads(n_workers, n_blocks):
    dataset = data(
        [214_000 + 37 * i % 5000 for i in range(n_blocks)], remote=True, shard_blocks=300
    )
    dealt = shares(dataset, n_workers)
    held = [n_bytes(dataset.blocks, share) for share in dealt]
    assert max(held) - min(held) <= 0.1 * sum(held) / n_workers
    for share in dealt:
        runs = side_by_side(dataset.blocks, share, RUN_BYTES)
        least = min(RUN_BYTES, sum(held) / n_workers / CONNECTIONS)
        # A shard's end cuts some runs in two.
        assert sum(held) / n_workers / len(runs) >= 0.6 * least


def test_shares_on_disk_come_in_turn():
    dataset = data([100] * 7, remote=False)
    assert shares(dataset, 3) == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_large_block_is_made_up_for():
    dataset = data([1000, 100, 100, 100, 100, 100, 100], remote=False)
    assert shares(dataset, 2) == [[0], [1, 2, 3, 4, 5, 6]]


@given(sizes, st.integers(1, 50))
def test_cuts_are_in_order_and_none_is_empty(sizes, parts):
    blocks = data(sizes, remote=True).blocks
    cut = cut_evenly(blocks, range(len(sizes)), parts)
    assert [n for part in cut for n in part] == list(range(len(sizes)))
    assert all(cut)
    assert len(cut) <= parts
    even = sum(sizes) / parts
    assert all(n_bytes(blocks, part) <= even + max(sizes) for part in cut)


@given(sizes, st.integers(1, 1 << 24), st.sets(st.integers(0, 199)))
def test_runs_are_neighbours_of_one_shard_and_as_large_as_they_may_be(sizes, most, some):
    blocks = data(sizes, remote=True, shard_blocks=30).blocks
    numbers = sorted(n for n in some if n < len(sizes))
    runs = side_by_side(blocks, numbers, most, most)
    assert [n for run in runs for n in run] == numbers
    for run in runs:
        assert len(run) == 1 or n_bytes(blocks, run) <= most
        for a, b in pairwise(run):
            assert b == a + 1
            assert blocks[a].shard == blocks[b].shard


@given(sizes, st.integers(1, 5), st.integers(0, 3), st.data())
def test_what_is_beside_a_block_is_one_request_of_no_more_bytes(sizes, n_workers, worker, drawn):
    dataset = data(sizes, remote=True, shard_blocks=7)
    share = share_of(dataset, worker % n_workers, n_workers)
    if not share:
        return
    number = drawn.draw(st.sampled_from(share))
    most = drawn.draw(st.integers(0, 20 << 20))
    found = beside(dataset.blocks, share, number, most)
    assert number in found
    assert set(found) <= set(share)
    assert side_by_side(dataset.blocks, found, 1 << 40) == [found]
    assert n_bytes(dataset.blocks, found) <= max(most, dataset.blocks[number].n_bytes)


@given(sizes, st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_what_is_read_first_are_requests_for_a_part_of_the_share(sizes, n_workers, worker, seed):
    dataset = data(sizes, remote=True, shard_blocks=7)
    share = share_of(dataset, worker % n_workers, n_workers)
    runs = first_runs(dataset.blocks, share, seed, worker)
    numbers = [n for run in runs for n in run]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(share)
    assert bool(runs) == bool(share)
    assert all(side_by_side(dataset.blocks, run, 1 << 40) == [run] for run in runs)


def test_what_is_read_first_is_drawn_and_about_as_much_wherever_that_is():
    blocks = data([200_000] * 255, remote=True).blocks
    firsts = [first_runs(blocks, range(255), seed, 0) for seed in range(50)]
    place = FIRST_BYTES // FIRST_PLACES // 200_000 * 200_000
    for runs in firsts:
        held = [n_bytes(blocks, run) for run in runs]
        assert max(held) == place
        assert sum(held) >= 0.7 * place * FIRST_PLACES  # where two are drawn that are close
    assert len({runs[0] for runs in firsts}) > 30
    assert first_runs(blocks, range(255), 3, 0) == firsts[3]
    few = first_runs(blocks, range(8), 3, 0)  # of all that is there a quarter
    assert [len(run) for run in few] == [1, 1]
