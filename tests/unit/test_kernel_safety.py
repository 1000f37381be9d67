"""Kernels refuse what would make them read or write outside the arrays they were given.

The package never calls them so; under `make asan` a kernel that trusts too much crashes here.
"""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import encode_block

F32, I64, U32 = np.float32, np.int64, np.uint32
EXTREMES = [-1, np.iinfo(I64).min, np.iinfo(I64).max, 1 << 32, 7]


@pytest.mark.parametrize("position", EXTREMES)
def test_writing_text_checks_every_position(position: int) -> None:
    indptr = np.array([0, position, 6], I64)
    text, place = _kernels.libsvm_write(
        np.zeros(2, F32), indptr, np.arange(6, dtype=U32), np.ones(6, F32), None, 0, 2, 0
    )
    assert (text, place) == ("indptr must start at 0, never decrease and end at nnz", 0)


@pytest.mark.parametrize("position", EXTREMES)
def test_encoding_checks_every_position(position: int) -> None:
    # A start above 0: differences to it may overflow.
    indptr = np.array([2, position, 6], I64)
    with pytest.raises(ValueError, match="indptr must start at 0"):
        encode_block(np.zeros(2, F32), indptr, np.arange(6, dtype=U32), np.ones(6, F32))


def test_probabilities_of_any_margin_lie_between_0_and_1_or_are_nan() -> None:
    margins = np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -1e38, 89, -89], F32)
    out = np.empty_like(margins)
    _kernels.logistic_probabilities(margins, out)
    assert np.isnan(out[:2]).all()
    assert ((out[2:] >= 0) & (out[2:] <= 1)).all()
    assert out[4] == 0.5
