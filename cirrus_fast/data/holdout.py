"""Which rows of a data set are kept from training, to measure the model on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.manifest import Block

# Unless told otherwise: enough rows to see a difference of 1e-4, few enough to cost little.
DEFAULT_FRACTION = 0.05
MOST_ROWS = 100_000
# In data of many blocks the rows come from some of them only, so that who wants just the held-out
# rows need not read everything; this share of such a block, and never from fewer blocks.
_SHARE_OF_BLOCK = 0.25
_FEWEST_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class HoldOut:
    """A row is held out by a hash of the seed and its number: anyone can tell, reading any block.

    Attributes
    ----------
    seed : int
    fraction : of all rows, about; seed and fraction decide everything
    shares : per block, the share of its rows that is held out
    """

    seed: int
    fraction: float
    shares: tuple[float, ...]

    @classmethod
    def plan(cls, blocks: tuple[Block, ...], fraction: float, seed: int) -> HoldOut:
        """About `fraction` of all rows."""
        share = fraction
        chosen: set[int] = set(range(len(blocks)))
        wanted = max(_FEWEST_BLOCKS, round(len(blocks) * fraction / _SHARE_OF_BLOCK))
        if fraction < _SHARE_OF_BLOCK and len(blocks) > wanted:
            drawn = np.random.default_rng([seed, 1]).choice(len(blocks), wanted, replace=False)
            chosen = set(drawn.tolist())
            share = fraction * len(blocks) / wanted
        shares = tuple(share if i in chosen else 0.0 for i in range(len(blocks)))
        return cls(seed, fraction, shares)

    @classmethod
    def default(cls, blocks: tuple[Block, ...], seed: int) -> HoldOut:
        n_rows = sum(block.n_rows for block in blocks)
        return cls.plan(blocks, min(DEFAULT_FRACTION, MOST_ROWS / max(n_rows, 1)), seed)

    @classmethod
    def none(cls, blocks: tuple[Block, ...]) -> HoldOut:
        return cls.plan(blocks, 0.0, 0)

    def takes_from(self, i: int) -> bool:
        """Whether the i-th block may have held-out rows: of a text's thousands most have none."""
        return self.shares[i] > 0

    def mask(self, i: int, block: Block) -> npt.NDArray[np.bool_]:
        """bool[n_rows], True for the held-out rows of the i-th block."""
        if not self.takes_from(i):
            return np.zeros(block.n_rows, np.bool_)
        rows = np.arange(block.first_row, block.first_row + block.n_rows, dtype=np.uint64)
        draw = _mix(rows + _mix(np.array([self.seed], np.uint64))) >> np.uint64(11)
        return draw < np.uint64(round(self.shares[i] * 2**53))


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
