"""What a search costs, and how much it may.

Runs on rented functions say what they cost. What is trained on this machine costs what an hour of
it does, which CIRRUS_FAST_MACHINE says: dollars, or a type of the price table.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

from cirrus_fast.backend.plan import on_lambda
from cirrus_fast.backend.prices import BASE_REGION, Prices
from cirrus_fast.errors import OptionError
from cirrus_fast.options import Options

MACHINE_VARIABLE = "CIRRUS_FAST_MACHINE"


def check_budget(max_cost: float | None, all_options: Sequence[Options]) -> None:
    """Raises OptionError for an amount that could not be kept to."""
    if max_cost is None:
        return
    number = isinstance(max_cost, int | float) and not isinstance(max_cost, bool)
    if not number or not 0 < max_cost < math.inf:
        raise OptionError(f"max_cost={max_cost!r}: must be dollars above 0")
    here = next((one for one in all_options if not on_lambda(one)), None)
    if here is not None and not _hour():
        raise OptionError(
            f"max_cost: nobody has said what this machine costs, and executor="
            f"{here.executor_name!r} trains on it: {MACHINE_VARIABLE} has dollars an hour, or a "
            "type like c7g.large"
        )


def _hour() -> float:
    """Dollars an hour of this machine; 0 if nobody says."""
    said = os.environ.get(MACHINE_VARIABLE)
    if not said:
        return 0.0
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or BASE_REGION
    try:
        return Prices.load(region).node(said)
    except OptionError as error:
        raise OptionError(f"{MACHINE_VARIABLE}: {error}") from error


class Budget:
    """Of one search, from now on."""

    def __init__(self, max_cost: float | None) -> None:
        self._most = math.inf if max_cost is None else max_cost
        self._hour = _hour()
        self._began = time.perf_counter()
        self._runs = 0.0

    def add(self, cost: float) -> None:
        """What a run on functions has cost."""
        self._runs += cost

    @property
    def spent(self) -> float:
        return self._runs + (time.perf_counter() - self._began) / 3600 * self._hour

    @property
    def left(self) -> float:
        return self._most - self.spent

    @property
    def deadline(self) -> float:
        """When it is spent by this machine alone, by time.perf_counter."""
        if self._most == math.inf or self._hour == 0:
            return math.inf
        return self._began + (self._most - self._runs) / self._hour * 3600
