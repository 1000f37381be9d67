"""A data set's blocks, scaled: what `normalize` makes another data set of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cirrus_fast.data.columns import Scaling
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset, read_ahead, rows_of
from cirrus_fast.data.loading import Items
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.reading import Part

# Blocks that a dictionary is made from, over all of a data set so that it fits the last as well as
# the first; fewer of long rows.
_SAMPLED_BLOCKS = 8
_SAMPLED_ENTRIES = 1 << 21

Stored = tuple[Block, memoryview | None]


def scaled_items(source: Dataset, scaling: Scaling) -> Items[Stored]:
    """A block is an item, a shard a unit, of both data sets."""
    unit = {shard: number for number, shard in enumerate(source.manifest.shard_sizes)}
    numbers = range(len(source.blocks))
    return Items(
        lambda wanted: read_ahead(
            source, [n for n in numbers if wanted(unit[source.blocks[n].shard])]
        ),
        lambda stored: [Part(_scaled(source, scaling, stored))],
        lambda stored: unit[stored[0].shard],
        lambda stored: stored[0].n_rows,
    )


def _scaled(source: Dataset, scaling: Scaling, stored: Stored) -> CSR:
    rows = scaling.apply_rows(rows_of(source, *stored))
    base = source.manifest.index_base
    if base == 0:
        return rows
    return CSR(
        rows.labels,
        rows.indptr,
        rows.indices + np.uint32(base),
        rows.data,
        rows.n_features + base,
        rows.weights,
    )


def sample_scaled(source: Dataset, scaling: Scaling) -> CSR | None:
    """Rows for the dictionary of all."""
    return sample_blocks(source, lambda block: _scaled(source, scaling, (block, None)))


def sample_blocks(source: Dataset, read: Callable[[Block], CSR]) -> CSR | None:
    """Rows of what `read` makes of some blocks."""
    blocks = source.blocks
    if not blocks:
        return None
    longest = max(block.nnz for block in blocks)
    n = max(1, min(len(blocks), _SAMPLED_BLOCKS, _SAMPLED_ENTRIES // max(1, longest)))
    parts = [read(blocks[i * len(blocks) // n]) for i in range(n)]
    lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    return CSR(
        np.concatenate([part.labels for part in parts]),
        np.cumsum(lengths, dtype=np.int64),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
        source.n_features + source.manifest.index_base,
    )
