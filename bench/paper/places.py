"""Where a worker is: on this machine beside everything, or where a Lambda would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.link import Link


@dataclass(frozen=True, slots=True)
class Place:
    """
    store_s : round trip to Redis
    storage_s : to the first byte of an object
    rate : bytes a second each way of a worker's link; None: nothing limits it
    share : of a core that a worker has
    """

    name: str
    store_s: float = 0.0
    storage_s: float = 0.0
    rate: float | None = None
    share: float = 1.0

    @contextmanager
    def way(self, address: str, round_trip: float) -> Iterator[str]:
        """HOST:PORT by which a worker there reaches a server of this machine."""
        if self.rate is None:
            yield address
            return
        with Link(address, rate=self.rate, round_trip=round_trip) as link:
            yield link.address


LOOPBACK = Place("loopback")
# Lambda gives a whole core at 1,769 MB, and less in proportion; worker_size of the figures: 1.7 GB.
WORKER_MB, MB_OF_A_CORE = 1700, 1769
CLOUD = Place("cloud", 0.00055, 0.030, 75e6, WORKER_MB / MB_OF_A_CORE)
# Of a server of models: what c7g.large has, "up to 12.5 Gbit/s" each way.
SERVER_RATE = 12.5e9 / 8
