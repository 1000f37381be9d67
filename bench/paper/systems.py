"""What is compared: names, and what is measured of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIZE, LARGE, SMALL = 200, 1000, 20
# Of all workers of the module together: more would cost quality (learning.py). And of one of them.
ROWS_UNDER_WAY, MOST_STEPS = 4_000, 20


@dataclass(frozen=True, slots=True)
class System:
    """
    number : in the issue of the experiment; text : in tables; short : in figures
    size : rows of a mini-batch
    under_way : rows that all workers together have under way, if not a mini-batch each
    near : steps that each has under way while costs are measured beside the servers
    every : epochs between looks at a run of ours
    compared : real runs of several workers are compared with simulated ones
    overwrites : workers replace what others did meanwhile, so of W updates one survives
    """

    number: str
    text: str
    short: str
    size: int = SIZE
    options: dict[str, Any] = field(default_factory=dict)
    every: float = 0.0
    compared: bool = True
    overwrites: bool = False
    under_way: int = 0
    near: int = 1

    @property
    def is_ours(self) -> bool:
        return self.every > 0


SYSTEMS = {
    "pywren": System(
        "i", "PyWren style: a function per mini-batch, all in S3", "PyWren style", overwrites=True
    ),
    "pywren-redis": System(
        "ii", "+ the whole model in Redis", "+ model in Redis", overwrites=True
    ),
    "workers-model": System(
        "ii, iv", "the same by long-lived workers, rows in memory", "model in Redis,\nlong-lived",
        overwrites=True,
    ),
    "pywren-sparse": System("iii", "+ sparse pulls: HMGET, HINCRBYFLOAT", "+ sparse pulls"),
    "workers-sparse": System("iv", "+ long-lived workers, rows in memory", "+ long-lived"),
    "bitfield": System(
        "viii", "cirrus_fast, plain Redis, every mini-batch", "cirrus_fast,\nplain Redis",
        options={"sync_rows": SIZE}, every=0.02, under_way=2_000,
    ),
    "sync": System(
        "viii", "cirrus_fast, plain Redis, `sync_rows` by default", "cirrus_fast,\nsync_rows",
        every=0.1,
    ),
    "module": System(
        "ix", "cirrus_fast, the module", "cirrus_fast,\nmodule", every=0.1,
        under_way=ROWS_UNDER_WAY, near=4,
    ),
    "module-20": System(
        "ix", "cirrus_fast, the module, mini-batches of 20", "module, 20 rows", size=SMALL,
        every=0.1, under_way=ROWS_UNDER_WAY, near=4,
    ),
}  # fmt: skip


def depth(system: System, n_workers: int) -> int:
    """Steps that each worker has under way."""
    return max(1, min(MOST_STEPS, system.under_way // (n_workers * system.size)))
