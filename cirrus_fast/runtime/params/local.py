"""The model in this process's memory, and the control of its run.

Workers are threads that update one array without locks (csrc/cf_train.h); what they tell each other
and their supervisor goes through one condition variable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Condition
from typing import Literal

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.training_scale import TrainingScale


@dataclass(slots=True)
class Progress:
    """What all workers have done so far.

    loss_sum and weight_sum are of the rows since the last `take_losses`, each measured before it
    was learnt from.
    """

    rows: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0


@dataclass(slots=True)
class LocalStore:
    """Model and control of one run.

    Attributes
    ----------
    optimizer : kind and constants of the updates
    scale : column divisors and penalties that every worker uses
    state : float32[(n_features + 1) * width]; the last coordinate is the intercept
    """

    optimizer: _kernels.Optimizer
    scale: TrainingScale
    state: Float32Array
    _changed: Condition = field(default_factory=Condition)
    _progress: Progress = field(default_factory=Progress)
    _allowed_rows: float = math.inf
    _stopping: bool = False

    @classmethod
    def create(
        cls, optimizer: _kernels.Optimizer, scale: TrainingScale, intercept: float
    ) -> LocalStore:
        state = np.empty((len(scale.divisor) + 1) * optimizer.width, np.float32)
        optimizer.clear(state, intercept)
        return cls(optimizer, scale, state)

    # For workers

    def grant(self, wanted: int) -> int:
        """How many of the wanted rows may be taken now; waits while that is none. 0: stop."""
        with self._changed:
            while not self._stopping and self._progress.rows >= self._allowed_rows:
                self._changed.wait()
            if self._stopping:
                return 0
            return int(min(wanted, self._allowed_rows - self._progress.rows))

    def report(self, rows: int, updates: int, loss_sum: float, weight_sum: float) -> None:
        """Adds what a worker has just done."""
        with self._changed:
            self._progress.rows += rows
            self._progress.updates += updates
            self._progress.loss_sum += loss_sum
            self._progress.weight_sum += weight_sum
            self._changed.notify_all()

    @property
    def rows_seen(self) -> int:
        return self._progress.rows

    # For the supervisor

    def allow(self, rows: float) -> None:
        """Workers pause once this many rows are done in all."""
        with self._changed:
            self._allowed_rows = rows
            self._changed.notify_all()

    def stop(self) -> None:
        """Workers end at their next chunk."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def notify(self) -> None:
        """Wakes whoever waits: a worker has ended."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, rows: float, timeout: float) -> int:
        """Waits until this many rows are done, or something changed; returns the rows done."""
        with self._changed:
            if self._progress.rows < rows:
                self._changed.wait(timeout)
            return self._progress.rows

    def take_losses(self) -> tuple[float, float, int]:
        """(loss sum, weight sum) since the last call, and the updates in all."""
        with self._changed:
            p = self._progress
            taken = p.loss_sum, p.weight_sum, p.updates
            p.loss_sum = p.weight_sum = 0.0
            return taken

    def snapshot(self) -> tuple[Float32Array, float]:
        """Weights for the data as given, float32[n_features], and the intercept."""
        weights = np.empty(len(self.scale.divisor), np.float32)
        intercept = self.optimizer.weights(
            self.state, self.scale.penalties, float(self.rows_seen), weights
        )
        weights /= self.scale.divisor
        return weights, intercept


_stores: dict[str, LocalStore] = {}
PREFIX: Literal["memory://"] = "memory://"


def publish(task: str, store: LocalStore) -> str:
    """Makes a store reachable by the workers of this process; returns its URL."""
    _stores[task] = store
    return PREFIX + task


def withdraw(task: str) -> None:
    _stores.pop(task, None)


def connect(url: str) -> LocalStore:
    return _stores[url.removeprefix(PREFIX)]
