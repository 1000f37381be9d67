"""Which blocks each worker learns from: decided by the data set and the number of workers alone."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cirrus_fast.data.block_runs import CONNECTIONS, RUN_BYTES, beside, cut_evenly, n_bytes
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.early_reads import Piece
from cirrus_fast.data.manifest import Block

if TYPE_CHECKING:
    from cirrus_fast.data.text_dataset import TextDataset

# What a worker reads first: as much as a fast link brings until what is asked for when the manifest
# is there begins to come, a round trip later. From some places, so that rows are mixed from the
# first.
FIRST_BYTES, FIRST_PLACES = 4 << 20, 4


def share_of(dataset: Dataset | TextDataset, worker: int, n_workers: int) -> list[int]:
    """Numbers of a worker's blocks, increasing.

    Shares are even in bytes, and from all over the data set, so that workers get like parts of data
    that are sorted somehow. Of a data set that a server has, they are runs of neighbours: one
    request's worth each where there is enough for that.
    """
    return shares(dataset, n_workers)[worker]


def shares(dataset: Dataset | TextDataset, n_workers: int) -> list[list[int]]:
    """Of all workers. Each has something where there are as many blocks."""
    blocks = dataset.blocks
    numbers = range(len(blocks))
    if n_workers == 1:
        return [list(numbers)]
    units: Sequence[Sequence[int]] = [(number,) for number in numbers]
    sizes = [block.n_bytes for block in blocks]
    if dataset.is_remote:
        # As many for each, or shares would differ by a run.
        each = max(CONNECTIONS, round(n_bytes(blocks, numbers) / n_workers / RUN_BYTES))
        runs = cut_evenly(blocks, numbers, each * n_workers)
        if len(runs) >= n_workers:
            units, sizes = runs, [n_bytes(blocks, run) for run in runs]
    # The next one goes to who has least: in turn, but for differences in size.
    dealt: list[list[int]] = [[] for _ in range(n_workers)]
    least = [(0, worker) for worker in range(n_workers)]
    for unit, more in zip(units, sizes, strict=True):
        size, worker = least[0]
        dealt[worker] += unit
        heapq.heapreplace(least, (size + more, worker))
    return dealt


def first_runs(
    blocks: Sequence[Block], share: Sequence[int], seed: int, worker: int
) -> list[tuple[int, ...]]:
    """Numbers of the blocks of a worker's share that it reads first, from a server: neighbours at
    places drawn, a request for each. It begins to learn from the first of them."""
    total = n_bytes(blocks, share)
    most = min(FIRST_BYTES, total // CONNECTIONS)
    draw = np.random.default_rng([seed, 4, worker])
    places = min(FIRST_PLACES, len(share), max(1, most * len(share) // max(1, total)))
    left, runs = list(share), []
    for number in draw.choice(share, places, replace=False).tolist() if places else ():
        if number in left:
            runs.append(beside(blocks, left, number, most // places))
            left = [one for one in left if one not in runs[-1]]
    return runs


def first_reads(dataset: Dataset, share: Sequence[int], seed: int, worker: int) -> list[Piece]:
    """What a worker need not wait for the manifest to ask a server for."""
    blocks, name = dataset.blocks, dataset.manifest.dictionary
    pieces = [] if name is None else [Piece(name, 0, None)]
    for run in first_runs(blocks, share, seed, worker):
        begin = blocks[run[0]]
        pieces.append(Piece(begin.shard, begin.offset, n_bytes(blocks, run)))
    return pieces
