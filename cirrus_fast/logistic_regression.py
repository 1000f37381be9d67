"""Training one model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Any

from cirrus_fast.backend.attach import LeftRun
from cirrus_fast.backend.supervisor import Supervisor
from cirrus_fast.data.result import Record, TrainResult
from cirrus_fast.options import Options, parse_options


class LogisticRegression:
    """Sparse logistic regression, trained by mini-batches on a data set.

    Parameters
    ----------
    params : options by name; docs/options.md lists them
    **more : further options, which win over `params`

    Raises
    ------
    OptionError : at once, for an option that is unknown, out of range, or means nothing here
    """

    def __init__(self, params: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.options: Options = parse_options({**(params or {}), **more})

    def run(self) -> TrainResult:
        """Trains and returns the result. Ctrl-C ends the run early with what there is."""
        return Supervisor(self.options).run()

    def start(self) -> Run:
        """Trains in the background."""
        return Run(Supervisor(self.options))

    @staticmethod
    def attach(task: str, param_store: str) -> Run:
        """Goes on, in the background, with a run whose supervisor died.

        Parameters
        ----------
        task : its name, which was in the line that told of its start
        param_store : URL of the store that it is in
        """
        left = LeftRun.read(task, param_store)
        return Run(Supervisor(left.options, left))


class Run:
    """A run under way."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._outcome: Future[TrainResult] = Future()
        Thread(target=self._train, name="cirrus-supervisor", daemon=True).start()

    def _train(self) -> None:
        try:
            self._outcome.set_result(self._supervisor.run())
        except BaseException as error:
            self._outcome.set_exception(error)

    def progress(self) -> Record | None:
        """The latest evaluation, or None before the first."""
        return self._supervisor.last_record

    def done(self) -> bool:
        return self._outcome.done()

    def stop(self) -> None:
        """Asks the run to end soon; `result` then has the best model so far."""
        self._supervisor.stop()

    def result(self, timeout: float | None = None) -> TrainResult:
        """Waits for the end, at most `timeout` seconds; raises what the run raised."""
        try:
            return self._outcome.result(timeout)
        except KeyboardInterrupt:  # the first Ctrl-C ends the run with what there is
            self.stop()
            return self._outcome.result(timeout)
