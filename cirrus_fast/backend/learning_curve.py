"""How good the model is as the run goes on, which was the best, and when that is enough."""

from __future__ import annotations

import time
from collections.abc import Callable

from cirrus_fast.backend.checkpoint import Best
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.redis_run import Store
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.result import Record


class LearningCurve:
    """The evaluations of one run.

    Attributes
    ----------
    history : list of Record
    best : the best model on the test rows so far, or None
    reference, stale : the loss to beat by `epsilon`, and for how many evaluations it was not
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        self._store = store
        self.history: list[Record] = []
        self.best: Best | None = None
        self.reference = float("inf")
        self.stale = 0
        self._losses = (0.0, 0.0)
        self._seconds_before = 0.0

    def go_on(
        self,
        history: list[Record],
        best: Best | None,
        reference: float,
        stale: int,
        seconds: float,
    ) -> None:
        """From where another run stopped, whose model is in the store."""
        self.history, self.best = history, best
        self.reference, self.stale = reference, stale
        self._seconds_before = seconds
        self._losses = self._store.losses()

    @property
    def seconds(self) -> float:
        """When the last evaluation was."""
        return self.history[-1].seconds if self.history else self._seconds_before

    @property
    def rows(self) -> int:
        """Rows that the last evaluation saw."""
        return self.history[-1].rows if self.history else 0

    def next_rows(self, rows: int) -> int:
        """Rows at which the next evaluation is due, after these."""
        every, an_epoch = self._plan.eval_rows, self._plan.n_train
        parts = round(an_epoch / every)
        if abs(parts * every - an_epoch) <= parts:  # of an epoch, but for rounding
            begin = rows // an_epoch * an_epoch
            part = (rows - begin) // every + 1
            return begin + (an_epoch if part >= parts else part * every)
        return (rows // every + 1) * every

    def measure(
        self, cost: Callable[[], float], go_on: Callable[[], object] = lambda: None
    ) -> Record:
        """Takes a snapshot, measures it, keeps it if it is the best; without test rows nothing asks
        for one.

        cost : dollars so far; go_on : called when the model may change again
        """
        store = self._store
        loss_before, weight_before = self._losses
        self._losses = store.losses()
        loss, weight = self._losses[0] - loss_before, self._losses[1] - weight_before
        rows, updates = store.rows, store.updates
        first_step = store.first_step
        seconds = self._seconds_before
        if first_step is not None:
            seconds += time.monotonic() - first_step
        test_loss = auc = None
        if self._plan.test is not None:
            weights, intercept = store.snapshot()
            go_on()
            test_loss, auc = self._plan.test.measure(weights, intercept)
            if self.best is None or test_loss < self.best.test_loss:
                self.best = Best(test_loss, auc, weights, intercept)
        record = Record(
            seconds=seconds,
            rows=rows,
            updates=updates,
            train_loss=loss / weight if weight else float("nan"),
            test_loss=test_loss,
            auc=auc,
            cost=cost(),
        )
        self.history.append(record)
        return record

    def reason_to_stop(self, record: Record) -> str | None:
        options = self._plan.options
        if record.test_loss is None:
            return None
        if options.threshold_loss is not None and record.test_loss <= options.threshold_loss:
            return "threshold_loss"
        if record.test_loss < self.reference - options.epsilon:
            self.reference, self.stale = record.test_loss, 0
        else:
            self.stale += 1
        # Not before every row was seen once: the first steps of some data lead nowhere for a while.
        seen_all = record.rows >= self._plan.n_train
        if options.epsilon > 0 and self.stale >= options.patience and seen_all:
            return "converged"
        return None

    def chosen(self) -> tuple[float | None, float | None, LinearModel]:
        """(test loss, AUC, model): the best on the test rows, or the last one without any."""
        if self.best is not None:
            best = self.best
            return best.test_loss, best.auc, self._plan.model(best.weights, best.intercept)
        return None, None, self._plan.model(*self._store.snapshot())
