"""Which worker learns from which block, in which epoch: words in the memory that workers share.

The word of a block says which epoch it is to be learnt from in next, and who is at it. Each block
has a worker whose share it is in; that one takes it first if it can, but whoever takes it has it.
So a slow worker's blocks are learnt from by those that are done with theirs, every row once an
epoch. What a worker that died had taken is taken up by the one in its place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Int64Array, UInt32Array

_WORKERS = 1 << 16
Mask = npt.NDArray[np.bool_]


class Claims:
    """One worker's view of the words; all 0 at first."""

    def __init__(self, words: Int64Array, worker: int) -> None:
        self._words = words
        self._worker = worker

    def take(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Takes blocks; which of them this worker has now. Those that it had already are its."""
        return self._change(numbers, _free(epoch), _taken(epoch, self._worker))

    def done(self, numbers: UInt32Array, epoch: int) -> None:
        """Rows of these blocks have been learnt from; what another has meanwhile stays its."""
        self._change(numbers, _taken(epoch, self._worker), _free(epoch + 1))

    def _change(self, numbers: UInt32Array, expected: int, wanted: int) -> Mask:
        changed = np.empty(len(numbers), np.uint8)
        _kernels.claim(self._words, numbers, expected, wanted, changed)
        return changed.view(np.bool_)

    def open(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Which blocks this worker could take, or has."""
        words = self._words[numbers]
        found: Mask = (words == _free(epoch)) | (words == _taken(epoch, self._worker))
        return found

    def free(self, numbers: UInt32Array, epoch: int) -> Mask:
        """Which nobody has taken."""
        found: Mask = self._words[numbers] == _free(epoch)
        return found

    def mine(self) -> UInt32Array:
        """Blocks that this worker, or one before it in its place, has taken."""
        return np.flatnonzero(self._words % _WORKERS == self._worker + 1).astype(np.uint32)

    def epochs(self, numbers: UInt32Array | slice = slice(None)) -> Int64Array:
        """The epoch that each block is to be learnt from in next, or is at."""
        return self._words[numbers] // _WORKERS


def takers(words: Int64Array) -> set[int]:
    """Workers that have blocks now."""
    return set((np.unique(words % _WORKERS) - 1).tolist()) - {-1}


def _free(epoch: int) -> int:
    return epoch * _WORKERS


def _taken(epoch: int, worker: int) -> int:
    return epoch * _WORKERS + worker + 1
