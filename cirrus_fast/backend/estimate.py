"""What a run on rented workers will cost, and which worker size is best, before it is begun.

A worker's time has two parts: what it computes, which takes the longer the less of a CPU it has,
and what it waits for (S3, the store), which does not change with its size but is paid for by it.
So computing costs the same at every size up to a whole CPU, and waiting makes small workers cheap;
a store that is rented by the hour makes fast ones cheap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cirrus_fast.backend.cost import FREE_TMP_MB, Cost, Rate, billed_s
from cirrus_fast.backend.prices import Prices
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import OptionError

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: one vCPU, and in
# proportion below. A worker computes on one thread, so more is of no use to it.
MB_OF_A_CPU = 1769
LEAST_MB, MOST_MB = 128, 10_240
# What is taken where nothing was measured, a worker with a whole CPU: half of what one was measured
# to do out of S3 over 75 MB/s (docs/benchmarks.md), a tenth of the time spent waiting.
ASSUMED_ROWS_PER_S, ASSUMED_WAITING = 600_000.0, 0.1
# Of a cold start until the first row.
ASSUMED_START_S = 1.0
# How long an invocation goes on before another takes its place.
INVOCATION_S = 890.0
# A request for blocks brings so much (docs/storage.md).
REQUEST_BYTES = 8 << 20
# Sizes that cost nearly the same are told apart by their speed.
_AS_GOOD = 1.05
_STEP_MB = 128


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one worker.

    Attributes
    ----------
    compute_s, wait_s : seconds a row takes it, of computing on a whole CPU, and of waiting
    start_s : until the first row
    measured : rather than assumed
    """

    compute_s: float
    wait_s: float
    start_s: float = ASSUMED_START_S
    measured: bool = True

    @classmethod
    def assumed(cls) -> Speed:
        a_row = 1 / ASSUMED_ROWS_PER_S
        return cls((1 - ASSUMED_WAITING) * a_row, ASSUMED_WAITING * a_row, measured=False)

    @classmethod
    def of_rate(
        cls, rows_per_s: float, worker_size: int, waiting: float = ASSUMED_WAITING
    ) -> Speed:
        """rows_per_s : of one worker of that size; waiting : share of its time, 0 to 1"""
        if rows_per_s <= 0:
            raise OptionError(f"rows_per_s={rows_per_s}: must be above 0")
        if not 0 <= waiting <= 1:
            raise OptionError(f"waiting={waiting}: must be from 0 to 1")
        a_row = 1 / rows_per_s
        return cls((1 - waiting) * a_row * cpu_of(worker_size), waiting * a_row)

    @classmethod
    def of_breakdown(cls, breakdown: Mapping[str, float], rows: int, worker_size: int) -> Speed:
        """As a result tells it (`TrainResult.breakdown`, `.rows_processed`): storage_read, pull
        and push are waiting."""
        waits = sum(breakdown.get(phase, 0.0) for phase in ("storage_read", "pull", "push"))
        works = sum(breakdown.get(phase, 0.0) for phase in ("decode", "compute", "other"))
        if rows <= 0 or works <= 0:
            raise OptionError("the result has no rows, or no time, to tell a speed from")
        return cls(works / rows * cpu_of(worker_size), waits / rows)

    def row_s(self, worker_size: int) -> float:
        return self.compute_s / cpu_of(worker_size) + self.wait_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one run.

    Attributes
    ----------
    seconds : from the first worker's start to the end
    worker_s : billed, of all workers; invocations : how many, relaunches counted
    rows_per_s : of one worker
    measured : the speed was, rather than assumed
    """

    worker_size: int
    n_workers: int
    seconds: float
    worker_s: float
    invocations: int
    rows_per_s: float
    measured: bool
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.cost.total}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is to do.

    Attributes
    ----------
    rows : of the data set; epochs : passes over them
    n_bytes : of the data set in S3, read once if it fits in memory or disk, as it does by default
    """

    rows: int
    epochs: int
    n_workers: int
    n_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "epochs", "n_workers"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: must be at least 1")


def cpu_of(worker_size: int) -> float:
    """Share of a CPU that a worker has, of the one it can use."""
    return min(1.0, worker_size / MB_OF_A_CPU)


def estimate(
    work: Work,
    *,
    worker_size: int,
    prices: Prices,
    arch: str = "x86_64",
    speed: Speed | None = None,
    node_hour: float = 0.0,
    nat: bool = False,
    tmp: int = FREE_TMP_MB,
) -> Estimate:
    """
    Parameters
    ----------
    worker_size : MB, which are taken for the function's
    speed : of a worker; by default assumed
    node_hour : dollars that the store costs an hour; nat : data come through a NAT gateway
    tmp : MB of disk that a worker has
    """
    if not LEAST_MB <= worker_size <= MOST_MB:
        raise OptionError(f"worker_size={worker_size}: must be {LEAST_MB} to {MOST_MB} MB")
    if arch not in prices.gb_second:
        raise OptionError(f"arch={arch!r}: prices are known of {', '.join(prices.gb_second)}")
    speed = Speed.assumed() if speed is None else speed
    rate = Rate(prices, arch, worker_size, tmp, node_hour, nat)
    share = math.ceil(work.rows / work.n_workers) * work.epochs
    learning_s = share * speed.row_s(worker_size)
    # Those that take the place of others start once more.
    start_s = speed.start_s / cpu_of(worker_size)
    invocations = max(1, math.ceil(learning_s / (INVOCATION_S - min(start_s, INVOCATION_S / 2))))
    seconds = learning_s + invocations * start_s
    worker_s = work.n_workers * billed_s(seconds)
    n_gets = work.n_workers * 2 + math.ceil(work.n_bytes / REQUEST_BYTES)
    reads = Reads(n_gets if work.n_bytes else 0, work.n_bytes)
    cost = rate.cost(worker_s, work.n_workers * invocations, reads=reads, run_s=seconds)
    return Estimate(
        worker_size,
        work.n_workers,
        seconds,
        worker_s,
        work.n_workers * invocations,
        1 / speed.row_s(worker_size),
        speed.measured,
        cost,
    )


def by_size(sizes: Sequence[int], work: Work, **given: Any) -> list[Estimate]:
    """The same at several sizes."""
    return [estimate(work, worker_size=size, **given) for size in sizes]


def best_size(work: Work, *, least: int = LEAST_MB, **given: Any) -> Estimate:
    """At the size that costs least, or one that costs hardly more and is faster.

    least : MB that a worker needs for the model, its blocks and Python
    """
    least = -(-max(least, LEAST_MB) // _STEP_MB) * _STEP_MB
    sizes = [*range(least, MB_OF_A_CPU, _STEP_MB), max(least, MB_OF_A_CPU)]
    found = by_size(sizes, work, **given)
    cheapest = min(one.cost.total for one in found)
    return min(
        (one for one in found if one.cost.total <= _AS_GOOD * cheapest),
        key=lambda one: (one.seconds, one.cost.total),
    )
