"""What a search gives back: its trials, best first."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.result import TrainResult
from cirrus_fast.data.storage import write_file
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import ModelError, TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS = (
    "loss",
    "test_loss",
    "auc",
    "seconds",
    "rows_processed",
    "cost",
    "stop_reason",
    "error",
)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One model of a search.

    Attributes
    ----------
    params : the options that were varied, with this model's values
    result : TrainResult, or None if the run failed; only the best trials of a search keep its
        model (see `GridSearch.run`), asking another for it is a ModelError
    error : why it failed, or None
    number : of the model in the search, from 0 on in the order that combinations are given in
    """

    params: Mapping[str, Any]
    result: TrainResult | None
    error: str | None = None
    number: int = 0

    @property
    def loss(self) -> float:
        """What trials are sorted by: the test loss, else the last training loss; inf if failed."""
        return math.inf if self.result is None else loss_of(self.result)

    @property
    def facts(self) -> dict[str, Any]:
        """What came out, under stable names."""
        result = self.result
        known = {
            "loss": self.loss,
            "test_loss": None if result is None else result.test_loss,
            "auc": None if result is None else result.auc,
            "seconds": None if result is None else result.seconds,
            "rows_processed": None if result is None else result.rows_processed,
            "cost": None if result is None else result.cost,
            "stop_reason": None if result is None else result.stop_reason,
            "error": self.error,
        }
        return {name: known[name] for name in FACTS}


def loss_of(result: TrainResult) -> float:
    loss = result.test_loss
    if loss is None:
        loss = result.history[-1].train_loss
    return loss if math.isfinite(loss) else math.inf


class WithoutModel(TrainResult):
    """A result whose model was let go."""

    __slots__ = ()

    @property
    def model(self) -> LinearModel:
        raise ModelError(
            "the model of this trial was not kept: a search keeps the best few, and more of them "
            "with run(keep_models=...); or train it again with the trial's params"
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> WithoutModel:
        """values : the other attributes"""
        bare = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(bare, name, value)
        return bare

    def __reduce__(self) -> tuple[object, ...]:
        return WithoutModel.of, (but_model(self),)

    def __repr__(self) -> str:
        named = (f"{name}={value!r}" for name, value in but_model(self).items())
        return f"TrainResult(model=<not kept>, {', '.join(named)})"


def but_model(result: TrainResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in TrainResult.__slots__ if name != "model"}


def has_model(trial: Trial) -> bool:
    return trial.result is not None and not isinstance(trial.result, WithoutModel)


def without_model(trial: Trial) -> Trial:
    result = trial.result
    if result is None or isinstance(result, WithoutModel):
        return trial
    return replace(trial, result=WithoutModel.of(but_model(result)))


class GridResults(list[Trial]):
    """Trials, best first.

    Attributes
    ----------
    reads : what reading data from a server has cost, models of a pass together
    seconds : the search took
    cost : dollars, of runs on functions, and of this machine where CIRRUS_FAST_MACHINE says what an
        hour of it costs
    stop_reason : "finished"; or "timeout", "max_cost" or "interrupted", where trials are missing or
        were cut short
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        super().__init__(trials)
        self.reads = Reads()
        self.seconds = self.cost = 0.0
        self.stop_reason = "finished"

    @property
    def best(self) -> Trial:
        """The trial with the lowest loss; an error if every run failed."""
        if not self or self[0].result is None:
            raise TrainingError("every run of the search failed")
        return self[0]

    @property
    def best_params_(self) -> Mapping[str, Any]:
        return self.best.params

    @property
    def best_model_(self) -> LinearModel:
        result = self.best.result
        assert result is not None
        return result.model

    @property
    def cv_results_(self) -> dict[str, list[Any]]:
        """Columns, a row a trial, for `pandas.DataFrame`: param_..., rank_test_score, and what
        `facts` has."""
        columns: dict[str, list[Any]] = {
            f"param_{name}": [trial.params.get(name) for trial in self]
            for name in dict.fromkeys(name for trial in self for name in trial.params)
        }
        columns["params"] = [dict(trial.params) for trial in self]
        columns["rank_test_score"] = list(range(1, len(self) + 1))
        facts = [trial.facts for trial in self]
        return columns | {name: [one[name] for one in facts] for name in FACTS}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """A line for each trial under a heading; values with all their digits."""
        write_file(path, self.csv_text().encode())

    def csv_text(self) -> str:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        names = list(dict.fromkeys(name for trial in self for name in trial.params))
        writer.writerow([*names, *FACTS])
        for trial in self:
            params = [_cell(trial.params.get(name)) for name in names]
            writer.writerow([*params, *trial.facts.values()])
        return lines.getvalue()

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, by: Sequence[str] = (), best: int = 10
    ) -> Figure:
        """The test losses of the best trials over the rows learnt from; or, with two options' names
        in `by`, the loss for each pair of their values. Saved to `path` if given. Needs the extra
        "plot"."""
        from cirrus_fast.plots import plot_map, plot_trials

        return plot_map(self, by, path) if by else plot_trials(self[:best], path)


def _cell(value: Any) -> Any:
    """A pair as it is written on the command line."""
    return ":".join(f"{item:g}" for item in value) if isinstance(value, tuple) else value
