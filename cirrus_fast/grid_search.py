"""Training many models that differ in some options."""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from cirrus_fast.backend.grid_run import (
    Model,
    Outcome,
    PassState,
    SharedRun,
    only_shared,
    passes,
    why_alone,
    why_not_there,
)
from cirrus_fast.backend.plan import on_lambda
from cirrus_fast.backend.search_budget import Budget, check_budget
from cirrus_fast.backend.search_file import SearchFile, check_name
from cirrus_fast.backend.search_progress import SearchProgress
from cirrus_fast.backend.supervisor import Supervisor
from cirrus_fast.data.result import TrainResult
from cirrus_fast.data.trials import GridResults, Trial, has_model, without_model
from cirrus_fast.errors import OptionError, TrainingError
from cirrus_fast.logistic_regression import LogisticRegression
from cirrus_fast.notices import notice_once
from cirrus_fast.options import Options, needs_store, parse_options, table

__all__ = ["GridResults", "GridSearch", "Trial"]

# A model takes 4 bytes a weight: all of a large search would not fit memory.
KEPT_MODELS = 10
# More models than anybody means to train.
MOST_MODELS = 100_000
MODES = ("grid", "random", "halving")
# Of halving: a quarter of the models goes on to four times the rows.
FACTOR = 4


class GridSearch:
    """Models that differ in some options: all combinations of their values, or some of them.

    Models that can share it are trained together, from one reading of the data (docs/grid.md); each
    of these is the one that its own run with n_workers=1 would make.

    Parameters
    ----------
    task : LogisticRegression
    param_base : options that all models share
    hyper_vars : names of the options that vary
    hyper_params : for each of them, its values; with n_trials also a distribution of scipy.stats
    mode : "grid", every combination; "random", n_trials of them, drawn by the seed; "halving": all
        or n_trials of them start, and after a sixteenth and a quarter of the rows only the best
        quarter goes on
    n_trials : how many models are drawn
    timeout : seconds after which the search ends with what there is
    max_cost : dollars after which the search ends with what there is: of runs on functions, and of
        this machine, where CIRRUS_FAST_MACHINE says what an hour of it costs
    name : keeps the search in the storage root, searches/NAME: run again after a crash or an
        interrupt, it goes on with the models that had not ended; another search of this name is
        refused

    Raises
    ------
    OptionError : at once, for unknown or repeated names, lengths that differ, no values, too many
        models, or a value that its option refuses
    """

    def __init__(
        self,
        task: type[LogisticRegression] = LogisticRegression,
        param_base: Mapping[str, Any] | None = None,
        hyper_vars: Sequence[str] = (),
        hyper_params: Sequence[Iterable[Any]] = (),
        *,
        mode: str = "grid",
        n_trials: int | None = None,
        timeout: float | None = None,
        max_cost: float | None = None,
        name: str | None = None,
    ) -> None:
        if not (isinstance(task, type) and issubclass(task, LogisticRegression)):
            raise OptionError(f"task={task!r}: must be LogisticRegression")
        _check_mode(mode, n_trials, timeout)
        names, values = _check_spread(hyper_vars, hyper_params, drawn=n_trials is not None)
        base = dict(param_base or {})
        points = _points(names, values, n_trials, base.get("seed", 0))
        self._begin(base, points, mode, timeout, max_cost, name)

    @classmethod
    def of_points(
        cls,
        points: Iterable[Mapping[str, Any]],
        param_base: Mapping[str, Any] | None = None,
        *,
        task: type[LogisticRegression] = LogisticRegression,
        mode: str = "grid",
        timeout: float | None = None,
        max_cost: float | None = None,
        name: str | None = None,
    ) -> GridSearch:
        """A search of these models instead of all combinations.

        points : of each model the options that it has for itself; all have the same
        """
        if not (isinstance(task, type) and issubclass(task, LogisticRegression)):
            raise OptionError(f"task={task!r}: must be LogisticRegression")
        if mode == "random":
            raise OptionError('mode="random": points are given, not drawn')
        _check_mode(mode, None, timeout)
        if isinstance(points, str | Mapping) or not isinstance(points, Iterable):
            raise OptionError("points: must be a list of options by name")
        given = list(points)
        if not given or not all(isinstance(point, Mapping) for point in given):
            raise OptionError("points: must be a list of options by name, of at least one model")
        names = list(given[0])
        if not names or any(set(point) != set(names) for point in given):
            raise OptionError(f"points: all must have the same options; the first has {names}")
        _check_spread(names, [[given[0][one]] for one in names], drawn=False)
        search = cls.__new__(cls)
        ordered = [{one: point[one] for one in names} for point in given]
        search._begin(dict(param_base or {}), ordered, mode, timeout, max_cost, name)
        return search

    def _begin(
        self,
        base: Mapping[str, Any],
        points: Sequence[Mapping[str, Any]],
        mode: str,
        timeout: float | None,
        max_cost: float | None,
        name: str | None,
    ) -> None:
        self.mode, self.timeout, self.max_cost, self.name = mode, timeout, max_cost, name
        if name is not None:
            check_name(name)
        names = list(points[0])
        # All are checked before the first is trained.
        all_options = [parse_options({**base, **point}, searched=True) for point in points]
        self._options = all_options
        # As the options have them: plain numbers, where a range gave NumPy's.
        self._points = [{n: getattr(one, n) for n in names} for one in all_options]
        for options in all_options:
            if on_lambda(options) and why_alone(options):
                needs_store(options)
        if mode == "halving":
            _check_halving(all_options)
        check_budget(max_cost, all_options)

    def __len__(self) -> int:
        return len(self._options)

    def run(
        self,
        on_trial: Callable[[Trial], object] | None = None,
        *,
        keep_models: int = KEPT_MODELS,
    ) -> GridResults:
        """Trains the models; returns the trials, best first.

        A run whose loss is no longer finite counts as failed and does not end the search. Ctrl-C
        ends it with what there is.

        Parameters
        ----------
        on_trial : called with each trial, whose model it may use if it is among the best so far,
            when that is trained
        keep_models : at least 1; of how many trials, the best, the models stay in memory
        """
        if isinstance(keep_models, bool) or not isinstance(keep_models, int) or keep_models < 1:
            raise OptionError(f"keep_models={keep_models!r}: must be a whole number from 1 on")
        return _Course(self._options, self._points, self, on_trial, keep_models).follow()


class _Course:
    """One search from its first model to its results."""

    def __init__(
        self,
        options: Sequence[Options],
        points: Sequence[Mapping[str, Any]],
        search: GridSearch,
        on_trial: Callable[[Trial], object] | None,
        keep: int,
    ) -> None:
        self._options, self._points = options, points
        self._on_trial, self._keep = on_trial, keep
        self._results = GridResults()
        self._started = time.perf_counter()
        self._halving = FACTOR if search.mode == "halving" else None
        self._name, self._mode = search.name, search.mode
        self._file: SearchFile | None = None
        self._deadline = None
        if search.timeout is not None:
            self._deadline = self._started + search.timeout
        self._limited = search.max_cost is not None
        self._budget = Budget(search.max_cost)
        self._interrupted = self._too_dear = self._cut = False

    def follow(self) -> GridResults:
        results = self._results
        if self._name is not None:
            self._file = SearchFile(self._name, self._mode, self._options, self._keep)
        with SearchProgress(self._options[0].progress, len(self._options)) as shown:
            self._shown = shown
            try:
                self._go_on()
                for models in self._parts():
                    if self._why_over:
                        break
                    if isinstance(models, list):
                        self._together(models)
                    else:
                        self._alone(models)
            except KeyboardInterrupt:
                self._interrupted = True
                if not results:
                    raise
            finally:
                if self._file is not None:
                    self._file.write()
        if len(results) < len(self._options) or self._cut:
            results.stop_reason = self._why_over or "interrupted"
        else:
            self._restore()
        results.seconds = time.perf_counter() - self._started
        results.cost = self._budget.spent
        return results

    @property
    def _why_over(self) -> str:
        """Why nothing more is to be begun; empty if nothing speaks against it."""
        if self._interrupted:
            return "interrupted"
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            return "timeout"
        return "max_cost" if self._too_dear or self._budget.left <= 0 else ""

    @property
    def _end(self) -> tuple[float, str] | None:
        """When the search ends at the latest, and what for."""
        ends = [(self._budget.deadline, "max_cost")]
        ends += [] if self._deadline is None else [(self._deadline, "timeout")]
        return min(ends) if min(ends)[0] < math.inf else None

    def _go_on(self) -> None:
        """Takes what had ended when the search was kept."""
        if self._file is not None:
            for outcome in list(self._file.outcomes.values()):
                self._take(outcome, anew=False)

    def _parts(self) -> Iterator[list[Model] | Model]:
        """Models that share a pass, and others, in the order that they were given in."""
        done = self._file.outcomes if self._file is not None else {}
        models = [Model(i, options) for i, options in enumerate(self._options)]
        reasons = {model.number: why_alone(model.options) for model in models}
        servers: dict[str, str] = {}  # asked once
        for model in models:
            number, store = model.number, model.options.param_store
            if not reasons[number]:
                if store not in servers:
                    servers[store] = why_not_there(model.options)
                reasons[number] = servers[store]
                if reasons[number] and self._halving:
                    raise OptionError(_needs_company(reasons[number]))
        shared = passes([model for model in models if not reasons[model.number]])
        # Whether a model is alone is decided by all of the search, or it would be another one when
        # the search goes on.
        together = [
            part
            for part in shared
            if len(part) > 1 or self._halving or only_shared(part[0].options)
        ]
        inside = {model.number for part in together for model in part}
        models = [model for model in models if model.number not in done]
        left = [[model for model in part if model.number not in done] for part in together]
        begins = {part[0].number: part for part in left if part}
        for model in models:
            if model.number in begins:
                yield begins[model.number]
            elif model.number not in inside:
                if reasons[model.number] and len(models) > 1:
                    notice_once(
                        f"{reasons[model.number]}: models are trained one after another, each "
                        "reading the data anew"
                    )
                yield model

    def _together(self, models: list[Model]) -> None:
        ended: list[Outcome] = []

        def tell(state: PassState, outcomes: list[Outcome]) -> None:
            self._shown.evaluated(state)
            if self._halving:  # which is done when all of them are
                ended.extend(outcomes)
                return
            for outcome in outcomes:
                self._take(outcome)

        run = SharedRun(
            models,
            keep=self._keep,
            deadline=self._end,
            max_cost=self._budget.left,
            halving=self._halving,
            tell=tell,
        )
        try:
            run.run()
        finally:
            self._results.reads += run.reads
            self._budget.add(run.cost.total)
        for outcome in sorted(ended, key=lambda one: one.number):
            self._take(outcome)

    def _alone(self, model: Model) -> None:
        options, own = model.options, model.options.timeout or math.inf
        rented, end = on_lambda(options), self._end
        left = math.inf
        if end is not None:
            left = max(1e-3, end[0] - time.perf_counter())
            options = replace(options, timeout=min(left, own))
        if rented and self._limited:
            most = min(self._budget.left, options.max_cost or math.inf)
            options = replace(options, max_cost=most)
        try:
            result = Supervisor(options).run()
        except TrainingError as error:
            self._take(Outcome(model.number, None, str(error)))
            return
        self._results.reads += result.reads
        if rented:
            self._budget.add(result.cost)
        if end is not None and end[1] == "max_cost" and result.stop_reason == "timeout":
            result = result if own <= left else replace(result, stop_reason="max_cost")
        self._take(Outcome(model.number, result))

    def _take(self, outcome: Outcome, *, anew: bool = True) -> None:
        results = self._results
        reason = "" if outcome.result is None else outcome.result.stop_reason
        self._interrupted |= reason == "interrupted"
        self._too_dear |= reason == "max_cost" and self._limited
        cut = reason == "interrupted" or (reason == "timeout" and self._deadline is not None)
        cut |= reason == "max_cost" and self._limited
        self._cut |= cut
        if self._file is not None and anew and not cut:
            self._file.add(outcome)
        number = outcome.number
        trial = Trial(self._points[number], outcome.result, outcome.error, number)
        bisect.insort(results, trial, key=lambda one: one.loss)
        if len(results) > self._keep:
            results[self._keep] = without_model(results[self._keep])
        self._shown.ended(trial)
        if self._on_trial is not None:
            self._on_trial(trial)

    def _restore(self) -> None:
        """Trains anew the few of the best whose models were let go, in the place of others that
        were better until they diverged."""
        for i, trial in enumerate(self._results[: self._keep]):
            if trial.result is None or has_model(trial) or self._halving:
                continue
            again = Model(trial.number, replace(self._options[trial.number], n_workers=1))
            with suppress(TrainingError):
                self._results[i] = replace(trial, result=self._once_more(again))

    def _once_more(self, model: Model) -> TrainResult | None:
        if not only_shared(model.options):
            return Supervisor(model.options).run()
        found: list[Outcome] = []
        run = SharedRun([model], keep=1, tell=lambda _, outcomes: found.extend(outcomes))
        run.run()
        self._budget.add(run.cost.total)
        return found[0].result


def _check_mode(mode: Any, n_trials: Any, timeout: float | None) -> None:
    if mode not in MODES:
        near = difflib.get_close_matches(str(mode), MODES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(MODES)}"
        raise OptionError(f"mode={mode!r} is not known: {hint}")
    if n_trials is not None:
        if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
            raise OptionError(f"n_trials={n_trials!r}: must be a whole number from 1 on")
        if mode == "grid":
            raise OptionError('n_trials: means nothing with mode="grid", which trains them all')
    elif mode == "random":
        raise OptionError('n_trials: mode="random" needs to know how many models to draw')
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        raise OptionError(f"timeout={timeout!r}: must be a number of seconds above 0")


def _check_spread(
    hyper_vars: Any, hyper_params: Any, *, drawn: bool
) -> tuple[list[str], list[Any]]:
    if isinstance(hyper_vars, str) or not isinstance(hyper_vars, Iterable):
        raise OptionError("hyper_vars: must be a list of option names")
    names = list(hyper_vars)
    if not names or not all(isinstance(name, str) for name in names):
        raise OptionError("hyper_vars: must be a list of option names")
    if isinstance(hyper_params, str | Mapping) or not isinstance(hyper_params, Iterable):
        raise OptionError("hyper_params: must be a list that has a list of values for each option")
    given = list(hyper_params)
    if len(names) != len(given):
        raise OptionError(
            f"hyper_vars names {len(names)} options but hyper_params has values for {len(given)}"
        )
    known = [row.name for row in table()]
    values: list[Any] = []
    for name, choices in zip(names, given, strict=True):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]}?" if near else f"; options are {', '.join(known)}"
            raise OptionError(f"hyper_vars: {name}: unknown option{hint}")
        if names.count(name) > 1:
            raise OptionError(f"hyper_vars: {name} is named twice")
        if hasattr(choices, "rvs"):
            if not drawn:
                raise OptionError(
                    f'hyper_params: {name} has a distribution, which needs mode="random" or '
                    '"halving", and n_trials'
                )
            values.append(choices)
            continue
        if isinstance(choices, str | Mapping) or not isinstance(choices, Iterable):
            raise OptionError(f"hyper_params: {name}={choices!r}: must be a list of values")
        values.append(list(choices))
        if not values[-1]:
            raise OptionError(f"hyper_params: no values for {name}")
    return names, values


def _points(
    names: Sequence[str], values: Sequence[Any], n_trials: int | None, seed: Any
) -> list[dict[str, Any]]:
    lists = [one for one in values if isinstance(one, list)]
    count = math.prod(map(len, lists))
    if n_trials is None or (n_trials >= count and len(lists) == len(values)):
        if count > MOST_MODELS:
            raise OptionError(
                f"hyper_params: {count:,} models; for so many take "
                'mode="random" or "halving", and n_trials'
            )
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    if n_trials > MOST_MODELS:
        raise OptionError(f"n_trials={n_trials:,}: at most {MOST_MODELS:,}")
    draw = np.random.default_rng([seed if isinstance(seed, int) else 0, 6])
    drawn: list[list[Any]] = []
    if len(lists) == len(values):  # different ones
        chosen: set[int] = set()
        while len(chosen) < n_trials:
            chosen |= set(draw.integers(count, size=n_trials - len(chosen)).tolist())
        for number in sorted(chosen):
            point = []
            for choices in reversed(values):
                number, i = divmod(number, len(choices))
                point.append(choices[i])
            drawn.append(point[::-1])
    else:
        columns = [
            [one[i] for i in draw.integers(len(one), size=n_trials)]
            if isinstance(one, list)
            else [_plain(value) for value in one.rvs(size=n_trials, random_state=draw)]
            for one in values
        ]
        drawn = [list(point) for point in zip(*columns, strict=True)]
    return [dict(zip(names, point, strict=True)) for point in drawn]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _needs_company(why: str) -> str:
    return f'{why}: mode="halving" is for models that are trained together'


def _check_halving(all_options: Sequence[Options]) -> None:
    for options in all_options:
        why = why_alone(options)
        if why:
            raise OptionError(_needs_company(why))
        if not (options.epsilon > 0 or options.test_dataset or options.test_fraction):
            raise OptionError(
                'mode="halving": needs test rows; give test_dataset or test_fraction, or '
                "epsilon > 0"
            )
