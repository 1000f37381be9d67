"""Blocks that lie side by side, which one request reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from cirrus_fast.data.manifest import Block

# A request to a server costs some milliseconds whatever it brings, on the link and of the CPU; this
# many bytes make them small change, and few enough requests are under way that they fit a small
# worker.
RUN_BYTES = 8 << 20
CONNECTIONS = 4
# Small requests are mostly waited for, so there may be more of them.
SMALL_BYTES, MOST_CONNECTIONS = 1 << 20, 16


_SMALL_REST = 0.25


def n_bytes(blocks: Sequence[Block], numbers: Sequence[int]) -> int:
    return sum(blocks[number].n_bytes for number in numbers)


def connections_for(blocks: Sequence[Block], runs: Sequence[Sequence[int]]) -> int:
    """How many requests to have under way."""
    size = sum(n_bytes(blocks, run) for run in runs) / max(1, len(runs))
    return CONNECTIONS if size >= SMALL_BYTES else MOST_CONNECTIONS


def side_by_side(
    blocks: Sequence[Block], numbers: Sequence[int], run_bytes: int, most: int | None = None
) -> list[tuple[int, ...]]:
    """Numbers of blocks, those together that lie one behind another in about so many bytes.

    most : bytes of a run, unless it is a single block
    """
    runs: list[tuple[int, ...]] = []
    for stretch in _stretches(blocks, numbers):
        # A request more for a small rest would not be worth it.
        parts = max(1, math.ceil(n_bytes(blocks, stretch) / run_bytes - _SMALL_REST))
        cut = cut_evenly(blocks, stretch, parts)
        while most is not None and any(len(run) > 1 and n_bytes(blocks, run) > most for run in cut):
            parts += 1
            cut = cut_evenly(blocks, stretch, parts)
        runs += cut
    return runs


def beside(
    blocks: Sequence[Block], numbers: Sequence[int], number: int, most: int
) -> tuple[int, ...]:
    """One of the numbers and those of what lies behind it, or else before it, in up to so many
    bytes together."""
    stretch = next(one for one in _stretches(blocks, numbers) if number in one)
    first = stretch.index(number)
    end, size = first + 1, blocks[number].n_bytes
    while end < len(stretch) and size + blocks[stretch[end]].n_bytes <= most:
        size += blocks[stretch[end]].n_bytes
        end += 1
    while first > 0 and size + blocks[stretch[first - 1]].n_bytes <= most:
        first -= 1
        size += blocks[stretch[first]].n_bytes
    return tuple(stretch[first:end])


def cut_evenly(
    blocks: Sequence[Block], numbers: Sequence[int], n_parts: int
) -> list[tuple[int, ...]]:
    """The numbers in order, in up to so many parts of about equal bytes; none is empty."""
    total, before = n_bytes(blocks, numbers), 0
    placed: list[tuple[int, int]] = []
    for number in numbers:
        size = blocks[number].n_bytes
        placed.append((n_parts * (2 * before + size) // (2 * total), number))
        before += size
    return [tuple(n for _, n in part) for _, part in groupby(placed, lambda pair: pair[0])]


def _stretches(blocks: Sequence[Block], numbers: Sequence[int]) -> Iterator[list[int]]:
    stretch: list[int] = []
    end: tuple[str, int] | None = None
    for number in sorted(numbers):
        block = blocks[number]
        if stretch and end != (block.shard, block.offset):
            yield stretch
            stretch = []
        stretch.append(number)
        end = (block.shard, block.offset + block.n_bytes)
    if stretch:
        yield stretch
