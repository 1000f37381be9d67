"""Which worker learns from which block, in which epoch: words that workers share, in memory or by
a server (params/remote_claims.py).

The word of a block says which epoch it is to be learnt from in next, and who is at it. Each block
has a worker whose share it is in; that one takes it first if it can, but whoever takes it has it.
So a slow worker's blocks are learnt from by those that are done with theirs, every row once an
epoch. What a worker that died had taken is taken up by the one in its place.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Int64Array, UInt32Array

_WORKERS = 1 << 16
# Long enough to leave the core to who works, short enough to be nothing beside a chunk of rows.
NAP_S = 0.0002
Epoch = TypeVar("Epoch", int, Int64Array)
Mask = npt.NDArray[np.bool_]


class Claims:
    """One worker's view of the words; all 0 at first.

    Attributes
    ----------
    nap_s, longest_nap_s : how long to wait before one looks again
    """

    nap_s = longest_nap_s = NAP_S

    def __init__(self, words: Int64Array, worker: int) -> None:
        self._words = words
        self._worker = worker

    def __len__(self) -> int:
        return len(self._words)

    def look(self, epoch: int) -> None:
        """Finds out what others have taken: all there is to know of this epoch and those that it
        depends on. Memory needs no looking at."""

    def take(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Takes blocks; which of them this worker has now. Those that it had already are its."""
        return self._change(numbers, free_words(epoch), taken_words(epoch, self._worker))

    def done(self, numbers: UInt32Array, epoch: int) -> None:
        """Rows of these blocks have been learnt from; what another has meanwhile stays its."""
        self._change(numbers, taken_words(epoch, self._worker), free_words(epoch + 1))

    def _change(self, numbers: UInt32Array, expected: int, wanted: int) -> Mask:
        changed = np.empty(len(numbers), np.uint8)
        _kernels.claim(self._words, numbers, expected, wanted, changed)
        return changed.view(np.bool_)

    def open(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Which blocks this worker could take, or has."""
        words = self._words[numbers]
        found: Mask = (words == free_words(epoch)) | (words == taken_words(epoch, self._worker))
        return found

    def free(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Which nobody has taken."""
        found: Mask = self._words[numbers] == free_words(epoch)
        return found

    def mine(self) -> UInt32Array:
        """Blocks that this worker, or one before it in its place, has taken."""
        return np.flatnonzero(self._words % _WORKERS == self._worker + 1).astype(np.uint32)

    def takers(self) -> Int64Array:
        """Who has each block; -1: nobody."""
        return self._words % _WORKERS - 1

    def epochs(self, numbers: UInt32Array | slice = slice(None)) -> Int64Array:
        """The epoch that each block is to be learnt from in next, or is at."""
        return self._words[numbers] // _WORKERS


def takers(words: Int64Array) -> set[int]:
    """Workers that have blocks now."""
    return set(np.unique(Claims(words, 0).takers()).tolist()) - {-1}


def free_words(epoch: Epoch) -> Epoch:
    return epoch * _WORKERS


def taken_words(epoch: Epoch, worker: Epoch) -> Epoch:
    return epoch * _WORKERS + worker + 1
