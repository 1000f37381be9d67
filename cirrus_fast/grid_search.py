"""Training many models that differ in some options."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.result import TrainResult
from cirrus_fast.errors import ModelError, OptionError, TrainingError
from cirrus_fast.logistic_regression import LogisticRegression

# A model takes 4 bytes a weight: all of a large search would not fit memory.
KEPT_MODELS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One model of a search.

    Attributes
    ----------
    params : the options that were varied, with this model's values
    result : TrainResult, or None if the run failed; only the best trials of a search keep its
        model (see `GridSearch.run`), asking another for it is a ModelError
    error : why it failed, or None
    """

    params: Mapping[str, Any]
    result: TrainResult | None
    error: str | None = None

    @property
    def loss(self) -> float:
        """What trials are sorted by: the test loss, else the last training loss; inf if failed."""
        if self.result is None:
            return math.inf
        loss = self.result.test_loss
        if loss is None:
            loss = self.result.history[-1].train_loss
        return loss if math.isfinite(loss) else math.inf


class _WithoutModel(TrainResult):
    """A result whose model was let go."""

    __slots__ = ()

    @property
    def model(self) -> LinearModel:
        raise ModelError(
            "the model of this trial was not kept: a search keeps the best few, and more of them "
            "with run(keep_models=...); or train it again with the trial's params"
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> _WithoutModel:
        """values : the other attributes"""
        bare = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(bare, name, value)
        return bare

    def __reduce__(self) -> tuple[object, ...]:
        return _WithoutModel.of, (_but_model(self),)

    def __repr__(self) -> str:
        named = (f"{name}={value!r}" for name, value in _but_model(self).items())
        return f"TrainResult(model=<not kept>, {', '.join(named)})"


def _but_model(result: TrainResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in TrainResult.__slots__ if name != "model"}


def _without_model(trial: Trial) -> Trial:
    result = trial.result
    if result is None or isinstance(result, _WithoutModel):
        return trial
    return replace(trial, result=_WithoutModel.of(_but_model(result)))


class GridResults(list[Trial]):
    """Trials, best first."""

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


class GridSearch:
    """Every combination of some options' values.

    Parameters
    ----------
    task : LogisticRegression
    param_base : options that all models share
    hyper_vars : names of the options that vary
    hyper_params : for each of them, its values

    Raises
    ------
    OptionError : at once, for unknown or repeated names, lengths that differ, no values, or a
        value that its option refuses
    """

    def __init__(
        self,
        task: type[LogisticRegression] = LogisticRegression,
        param_base: Mapping[str, Any] | None = None,
        hyper_vars: Sequence[str] = (),
        hyper_params: Sequence[Iterable[Any]] = (),
    ) -> None:
        if not (isinstance(task, type) and issubclass(task, LogisticRegression)):
            raise OptionError(f"task={task!r}: must be LogisticRegression")
        names, values = list(hyper_vars), [list(choices) for choices in hyper_params]
        if isinstance(hyper_vars, str) or not names:
            raise OptionError("hyper_vars: must be a list of option names")
        if len(names) != len(values):
            raise OptionError(
                f"hyper_vars names {len(names)} options but hyper_params has values for "
                f"{len(values)}"
            )
        for name, choices in zip(names, values, strict=True):
            if not choices:
                raise OptionError(f"hyper_params: no values for {name}")
            if names.count(name) > 1:
                raise OptionError(f"hyper_vars: {name} is named twice")
        points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
        # All are checked before the first is trained.
        self._tasks = [task({**(param_base or {}), **point}) for point in points]
        # As the options have them: plain numbers, where a range gave NumPy's.
        self._points = [{n: getattr(one.options, n) for n in names} for one in self._tasks]

    def __len__(self) -> int:
        return len(self._tasks)

    def run(
        self,
        on_trial: Callable[[Trial], object] | None = None,
        *,
        keep_models: int = KEPT_MODELS,
    ) -> GridResults:
        """Trains one model after another; returns the trials, best first.

        A run whose loss is no longer finite counts as failed and does not end the search. Ctrl-C
        ends it with what there is.

        Parameters
        ----------
        on_trial : called with each trial, whose model it may use, when that is trained
        keep_models : at least 1; of how many trials, the best, the models stay in memory
        """
        if isinstance(keep_models, bool) or not isinstance(keep_models, int) or keep_models < 1:
            raise OptionError(f"keep_models={keep_models!r}: must be a whole number from 1 on")
        results = GridResults()
        for point, task in zip(self._points, self._tasks, strict=True):
            try:
                trial = _trial(point, task)
                bisect.insort(results, trial, key=lambda one: one.loss)
                if len(results) > keep_models:
                    results[keep_models] = _without_model(results[keep_models])
                if on_trial is not None:
                    on_trial(trial)
            except KeyboardInterrupt:
                if not results:
                    raise
                break
            if trial.result is not None and trial.result.stop_reason == "interrupted":
                break
            del trial  # its model too, if it is not kept, before the next is trained
        return results


def _trial(point: Mapping[str, Any], task: LogisticRegression) -> Trial:
    try:
        return Trial(point, task.run())
    except TrainingError as error:
        return Trial(point, None, str(error))
