"""What a worker does with the memory it may use."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cirrus_fast.data.block_runs import RUN_BYTES
from cirrus_fast.notices import notice_once

# Python, NumPy, the kernels and a connection with TLS, measured.
_BASE_BYTES = 50e6
# What allocators keep, dictionaries and statistics take, arrays of a block or a few pass through.
_SLACK = 0.1
# Rows are shuffled across as many blocks as fit in this.
GROUP_BYTES = 16e6
_LEAST_GROUP_BYTES = 1e6
# Where rows come from a server, or others may take over what is left, groups are a smaller part of
# all: what is done when the last byte has come, or a slow worker is at, is one of them. Not less
# than this though, or rows of neighbours, which may be all of a class, would hardly be mixed.
SMALL_GROUP_BYTES, FEWEST_GROUPS = 4_000_000, 16
# One group learnt from, one being made; and as much for orders, masks, and what allocators keep.
GROUPS = 3
# Below this, blocks come one by one and rows are hardly mixed.
_LEAST_BYTES = 16e6


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by purpose.

    Attributes
    ----------
    rows : all that rows may take, decoded or as blocks
    group : of rows that are decoded, shuffled and learnt from together
    """

    rows: int
    group: int

    @classmethod
    def of(cls, worker_size_mb: int, model_bytes: int) -> Memory:
        """
        model_bytes : of the model, and of what a worker has to find its way in it
        """
        left = cls.left_beside(worker_size_mb, model_bytes)
        if left < _LEAST_BYTES:
            notice_once(
                f"worker_size={worker_size_mb} MB leaves {max(0, round(left / 1e6))} MB for rows "
                f"beside a model of {round(model_bytes / 1e6)} MB: workers will use more than that"
            )
        rows = max(left, _LEAST_BYTES)
        return cls(int(rows), int(max(_LEAST_GROUP_BYTES, min(GROUP_BYTES, rows / 8))))

    @classmethod
    def least_mb(cls, rows: float, model_bytes: int) -> int:
        """The `worker_size` that leaves so many bytes for rows."""
        left = max(rows, _LEAST_BYTES) + model_bytes
        return math.ceil((left / (1 - _SLACK) + _BASE_BYTES) / 1e6)

    @classmethod
    def left_beside(cls, size_mb: int, n_bytes: int) -> int:
        """Bytes that a worker of this size has beside so many, and itself."""
        return int((size_mb * 1e6 - _BASE_BYTES) * (1 - _SLACK) - n_bytes)

    @property
    def blocks(self) -> int:
        """What blocks may take beside the groups: kept, and on their way."""
        return max(self.rows - GROUPS * self.group, self.group)

    @property
    def run(self) -> int:
        """Bytes of a large request: two such are decoded from while three are on their way, and the
        memory of one waits to be used again."""
        return min(RUN_BYTES, self.blocks // 6)

    def small_group(self, n_bytes: int) -> int:
        """Bytes of a group of rows that have so many, where it should be small."""
        return min(self.group, max(SMALL_GROUP_BYTES, n_bytes // FEWEST_GROUPS))

    @property
    def for_others(self) -> Memory:
        """For some blocks of other workers, a group's worth, once a worker's own are done."""
        return Memory((GROUPS + 1) * self.group, self.group)

    def holds(self, decoded_bytes: int, ahead: int) -> bool:
        """Whether so many bytes of decoded rows can stay, beside one group and what is read ahead
        to make them."""
        return decoded_bytes + self.group + ahead <= self.rows
