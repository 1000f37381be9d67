"""What rented workers cost, by parts, while they run and afterwards."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.prices import Prices
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import OptionError

# What the model's server is, for its share of the costs: a type of the price table, several of one
# ("2 c7g.large"), or dollars an hour.
STORE_NODE_VARIABLE = "CIRRUS_FAST_STORE_NODE"
# 1 where what is read from S3 comes through a NAT gateway, for want of a gateway endpoint: to look
# at routes takes rights that a run should not need.
NAT_VARIABLE = "CIRRUS_FAST_NAT"

FREE_TMP_MB = 512
# How long a worker goes on, at most in the usual case, after it was told to end.
ENDING_S = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars, by what they are for.

    Attributes
    ----------
    compute : memory and disk of workers, for as long as they ran
    requests : invocations
    s3_requests, s3_bytes : reading data
    store : the server that holds the model, for as long as the run took
    before : what the run had cost that this one goes on from
    """

    compute: float = 0.0
    requests: float = 0.0
    s3_requests: float = 0.0
    s3_bytes: float = 0.0
    store: float = 0.0
    before: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.to_json().values())

    def part(self, share: float) -> Cost:
        return Cost(**{name: share * dollars for name, dollars in self.to_json().items()})

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rate:
    """What workers of one kind cost.

    Attributes
    ----------
    memory, tmp : MB of memory and of disk that a worker has
    node_hour : dollars that the store costs an hour
    nat : data come through a NAT gateway
    """

    prices: Prices
    arch: str
    memory: int
    tmp: int = FREE_TMP_MB
    node_hour: float = 0.0
    nat: bool = False

    @property
    def second(self) -> float:
        """Of one worker, for a second."""
        disk = max(0, self.tmp - FREE_TMP_MB) / 1024
        return (
            self.memory / 1024 * self.prices.gb_second[self.arch] + disk * self.prices.tmp_gb_second
        )

    def cost(
        self,
        worker_s: float,
        requests: int,
        *,
        reads: Reads | None = None,
        run_s: float = 0.0,
    ) -> Cost:
        """
        worker_s : billed, of all workers; requests : invocations
        reads : from S3; run_s : from begin to end, for which the store is needed
        """
        prices = self.prices
        reads = Reads() if reads is None else reads
        gb = prices.s3_gb + (prices.nat_gb if self.nat else 0.0)
        return Cost(
            compute=worker_s * self.second,
            requests=requests / 1e6 * prices.million_requests,
            s3_requests=reads.requests / 1e3 * prices.thousand_gets,
            s3_bytes=reads.bytes / 1e9 * gb,
            store=run_s / 3600 * self.node_hour,
        )


def _through_nat() -> bool:
    said = os.environ.get(NAT_VARIABLE, "0")
    if said not in ("0", "1"):
        raise OptionError(f"{NAT_VARIABLE}={said}: must be 1, where S3 is behind a NAT, or 0")
    return said == "1"


def billed_s(seconds: float) -> float:
    """Lambda bills by the millisecond, and each that was begun."""
    # Binary fractions: what is a whole number of milliseconds must stay one.
    return math.ceil(round(seconds * 1000, 6)) / 1000


class Meter:
    """The costs of one run on functions, as it goes on.

    What ended is billed as Lambda reports it; what is under way, for as long as it has been.
    """

    def __init__(self, executor: LambdaExecutor, rate: Rate) -> None:
        self._executor = executor
        self.rate = rate
        # An executor may have had other runs before.
        self._before = executor.usage_so_far

    @classmethod
    def of(cls, executor: LambdaExecutor, worker_size: int) -> Meter:
        """By the function's own settings; where they may not be asked for, by the run's."""
        found: Mapping[str, Any] = executor.configuration() or {}
        prices = Prices.load(executor.region)
        node = os.environ.get(STORE_NODE_VARIABLE)
        rate = Rate(
            prices,
            arch=(found.get("Architectures") or ["x86_64"])[0],
            memory=int(found.get("MemorySize", worker_size)),
            tmp=int((found.get("EphemeralStorage") or {}).get("Size", FREE_TMP_MB)),
            node_hour=prices.node(node) if node else 0.0,
            nat=_through_nat(),
        )
        return cls(executor, rate)

    def so_far(self, reads: Reads, run_s: float) -> Cost:
        """
        reads : of workers that ended, and before them; run_s : since the run began
        """
        usage, under_way = self._executor.usage_so_far, self._executor.under_way_s
        before = self._before
        worker_s = usage.billed_s - before.billed_s + usage.lost_s - before.lost_s
        requests = usage.requests - before.requests + usage.lost - before.lost
        return self.rate.cost(
            worker_s + sum(map(billed_s, under_way)),
            requests + len(under_way),
            reads=reads,
            run_s=run_s,
        )

    def to_end(self) -> float:
        """Dollars that it takes to end now."""
        return len(self._executor.under_way_s) * ENDING_S * self.rate.second
