"""Workers' copies of models (csrc/cf_replica.h), as new."""

from __future__ import annotations

import numpy as np

from cirrus_fast import _kernels


def new_replica(n: int, kind: str = "sgd", n_workers: int = 1) -> _kernels.Replica:
    """n : coordinates, the intercept's last"""
    optimizer = _kernels.Optimizer(kind, 0.1)
    state = np.zeros(n * optimizer.width, np.float32)
    optimizer.clear(state)
    return _kernels.Replica(
        optimizer,
        state,
        np.zeros(n, np.int32),
        np.zeros(n, np.uint32),
        np.zeros(n, np.float32),
        np.zeros(n, np.uint32),
        n_workers,
    )
