"""Telling a person how a search goes: how many models have ended, the best, the time left."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType

from cirrus_fast.backend.grid_run import PassState
from cirrus_fast.backend.progress import moving_line
from cirrus_fast.data.trials import Trial


class SearchProgress:
    """Use as a context manager around the search. On a terminal a line that moves; else, if it is
    wanted, a line for each evaluation."""

    def __init__(self, wanted: bool | None, n_models: int) -> None:
        self._n_models = n_models
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = sys.stderr is not None and (terminal if wanted is None else wanted)
        self._live = None
        if self._shown and terminal:
            counted = "{task.completed:.0f}/{task.total:.0f}"
            self._live = moving_line("models", counted, n_models)
        self._ended = 0
        self._best = math.inf
        self._began = time.perf_counter()

    def __enter__(self) -> SearchProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, trial: Trial) -> None:
        """A model has ended."""
        self._ended += 1
        self._best = min(self._best, trial.loss)
        if self._live is not None:
            self._say(f"best {self._best:.4f}")

    def evaluated(self, state: PassState) -> None:
        """The models of a pass were measured."""
        self._best = min(self._best, state.best)
        if not self._shown:
            return
        seconds = time.perf_counter() - self._began
        text = f"{state.running} models at {state.rows:,} rows, best {self._best:.4f}"
        if state.running and state.rows:
            left = seconds / state.rows * (state.total_rows - state.rows)
            text += f", at most {left:.0f} s left"
        self._say(text)

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self._ended, said=text)
            return
        seconds = time.perf_counter() - self._began
        line = f"{seconds:8.2f} s  {self._ended} of {self._n_models} models done; {text}"
        print(line, file=sys.stderr, flush=True)
