"""What follows from the measurements: simulated throughput, times and dollars to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from bench.paper import networks
from bench.paper.experiment import Experiment
from bench.paper.learning import Curves, Point, reached
from bench.paper.measuring import Measured
from bench.paper.networks import Costs
from bench.paper.places import CLOUD, WORKER_MB
from bench.paper.pywren import KINDS
from bench.paper.simulate import Outcome
from bench.paper.systems import SIZE, SYSTEMS, depth
from cirrus_fast.backend.cost import Rate
from cirrus_fast.backend.prices import BASE_REGION, Prices
from cirrus_fast.data.traffic import Reads

WORKERS = (1, 2, 4, 10, 20, 50, 100, 200, 500, 1000)
SERVERS = (1, 2, 4, 8)
TEN = 10
# What AWS needs to make a sandbox before any of ours runs: no emulation shows it; a guess.
SANDBOX_S = 0.25
STORE_NODE, VM_NODE = "c7g.large", "c6i.large"
# EC2 bills by the second, a minute at least, and takes about so long to start a machine.
LEAST_BILLED_S, BOOT_S = 60.0, 40.0


@dataclass(frozen=True, slots=True)
class Compared:
    """A real run on this machine and the simulated one."""

    system: str
    n_workers: int
    real: float  # steps a second
    simulated: float

    @property
    def error(self) -> float:
        return self.simulated / self.real - 1


@dataclass(frozen=True, slots=True)
class Reached:
    """A loss, by how many workers and servers, when and for how much."""

    seconds: float
    dollars: float
    n_workers: int
    size: int
    n_ps: int = 1


class Results:
    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.machine: dict[str, Any] = experiment.kept("machine")
        self.targets = experiment.targets()
        self.n_rows: int = self.machine["n_rows"]
        prices = Prices.load(BASE_REGION)
        self._rate = Rate(prices, "x86_64", WORKER_MB, node_hour=prices.node(STORE_NODE))
        self.vm_second = prices.node(VM_NODE) / 3600
        self.store_second = prices.node(STORE_NODE) / 3600
        self._prices = prices
        quick = experiment.settings.quick
        self.workers = WORKERS[:4] if quick else WORKERS
        self.servers = SERVERS[:2] if quick else SERVERS
        self._simulated: dict[tuple[str, int, int, int], Outcome] = {}

    # What was measured

    @cached_property
    def measured(self) -> dict[str, list[Measured]]:
        found = {}
        for name in SYSTEMS:
            kept = self._experiment.kept(name)
            if kept is not None:
                found[name] = [Measured(**one) for one in kept]
        return found

    def one(self, name: str, place: str, size: int | None = None, n: int = 1) -> Measured:
        size = size or SYSTEMS[name].size
        return next(
            m for m in self.measured[name]
            if m.place == place and m.size == size and m.n_workers == n
        )  # fmt: skip

    def sizes(self, name: str) -> list[int]:
        return sorted({one.size for one in self.measured[name]})

    @cached_property
    def curves(self) -> Curves:
        kept = self._experiment.kept("learning")["curves"]
        return Curves({int(n): [tuple(p) for p in points] for n, points in kept.items()})

    @cached_property
    def real_curves(self) -> Mapping[str, list[Point]]:
        kept = self._experiment.kept("workers-learn") or {}
        return {name: [tuple(p) for p in points] for name, points in kept.items()}

    def points(self, name: str) -> list[Point] | None:
        """(seconds, loss) of what runs on one machine."""
        kept = self._experiment.kept(name)
        return None if kept is None else [tuple(point) for point in kept]

    @cached_property
    def kernels(self) -> dict[str, float]:
        """Rows a second of ours on the machine, by what it starts from."""
        found = {name: self._experiment.kept(f"ours-{name}") for name in ("text", "memory")}
        return {name: one["rows_a_second"] for name, one in found.items() if one}

    # Simulated

    @cached_property
    def costs(self) -> dict[tuple[str, int], Costs]:
        """By system and mini-batch, as on this machine."""
        together = self.machine["together"]
        found = {
            (name, size): networks.taken_apart(self.one(name, "loopback", size), together)
            for name in self.measured
            for size in self.sizes(name)
        }
        large, small = ("module", SIZE), ("module-20", 20)
        if large in found and small in found:
            both = networks.with_fixed_part(found[large], found[small])
            found[large] = both
            found[small] = replace(found[small], request_s=both.request_s, message_s=both.message_s)
        return found

    @cached_property
    def _linked(self) -> dict[tuple[str, int], Costs]:
        """The same over the emulated links."""
        return {
            (name, size): networks.over_links(costs, CLOUD, self.one(name, "cloud", size))
            for (name, size), costs in self.costs.items()
        }

    @cached_property
    def far_costs(self) -> dict[tuple[str, int], Costs]:
        """In the emulated cloud; ours read ahead, and decode, as in a first epoch."""
        found = dict(self._linked)
        for (name, size), costs in self._linked.items():
            if SYSTEMS[name].is_ours:
                found[name, size] = replace(
                    costs,
                    ahead=costs.rows * self.machine["bytes_a_row"],
                    cpu_s=costs.cpu_s + costs.rows * self.machine["decode_s"],
                )
        return found

    def compared(self) -> list[Compared]:
        found = []
        for name, runs in self.measured.items():
            costs = self.costs[name, SYSTEMS[name].size]
            for run in runs:
                if run.place == "loopback" and run.size == SYSTEMS[name].size:
                    simulated = networks.loopback(costs, run.n_workers, run.depth)
                    found.append(
                        Compared(name, run.n_workers, run.steps_a_second, simulated.steps_a_second)
                    )
        return found

    def compared_far(self, name: str) -> Compared:
        """One worker over the emulated links."""
        run = self.one(name, "cloud")
        costs = self._linked[name, run.size]
        simulated = networks.cloud(costs, CLOUD, 1, run.depth).steps_a_second
        return Compared(name, 1, run.steps_a_second, simulated)

    def simulated(self, name: str, n: int, size: int | None = None, n_ps: int = 1) -> Outcome:
        size = size or SYSTEMS[name].size
        key = name, n, size, n_ps
        if key not in self._simulated:
            costs = self.far_costs[name, size]
            self._simulated[key] = networks.cloud(costs, CLOUD, n, depth(SYSTEMS[name], n), n_ps)
        return self._simulated[key]

    def updates_a_second(self, name: str, n: int, size: int | None = None, n_ps: int = 1) -> float:
        size = size or SYSTEMS[name].size
        found = self.simulated(name, n, size, n_ps).steps_a_second
        return found * self.far_costs[name, size].updates

    def rows_a_second(self, name: str, n: int, size: int | None = None, n_ps: int = 1) -> float:
        size = size or SYSTEMS[name].size
        found = self.simulated(name, n, size, n_ps).steps_a_second
        return found * self.far_costs[name, size].rows

    # Times and dollars

    def start_s(self, name: str, *, warm: bool = False) -> float:
        """Until a worker learns: functions of the stateless ones are warm."""
        if name in KINDS and KINDS[name].stateless:
            return 0.0
        if warm:
            return self.machine["warm_s"] or 0.0
        return SANDBOX_S + (self.machine["cold_s"] or 0.0)

    def curve(self, name: str, n: int, size: int) -> list[Point] | None:
        """(rows, loss) with so many workers; None: nobody has looked."""
        system = SYSTEMS[name]
        if system.overwrites:
            alone = self.curves.curve(0)
            assert alone is not None
            return [(n * rows, loss) for rows, loss in alone]
        if name == "sync":
            return self.real_curves.get("sync") if n <= TEN else None
        return self.curves.curve(n * size * (depth(system, n) if system.is_ours else 1))

    def rows_to(self, name: str, target: float, n: int, size: int) -> float | None:
        curve = self.curve(name, n, size)
        return None if curve is None else reached(curve, target)

    def real_rows_to(self, name: str, target: float) -> float | None:
        """Of a real run of ours."""
        return reached(self.real_curves[name], target)

    def to_loss(self, name: str, target: float, n: int) -> Reached | None:
        """By the better size of mini-batch, with one server of models."""
        found = []
        for size in self.sizes(name):
            rows = self.rows_to(name, target, n, size)
            if rows is not None:
                took = self.start_s(name) + rows / self.rows_a_second(name, n, size)
                found.append(Reached(took, self.dollars(name, n, size, took, rows), n, size))
        return min(found, key=lambda one: one.seconds, default=None)

    def dollars(self, name: str, n: int, size: int, seconds: float, rows: float) -> float:
        """Workers, their calls, what they read, and the server of models meanwhile."""
        costs = self.far_costs[name, size]
        steps = rows / costs.rows
        calls = steps if name in KINDS and KINDS[name].stateless else n
        gets = costs.gets * steps
        if not gets:  # each its part of the rows once, some megabytes a request
            gets = n + min(rows, self.n_rows) * self.machine["bytes_a_row"] / 8e6
        puts = costs.puts * steps * self._prices.thousand_puts / 1e3
        store = seconds if costs.requests else 0.0
        return (
            puts
            + self._rate.cost(
                n * seconds, round(calls), reads=Reads(requests=round(gets)), run_s=store
            ).total
        )

    def cost_of_epoch(self, name: str, n: int) -> float:
        size = SYSTEMS[name].size
        return self.dollars(name, n, size, self.n_rows / self.rows_a_second(name, n), self.n_rows)

    def seconds_to(self, points: list[Point] | None, target: float) -> float | None:
        return None if points is None else reached(points, target)

    def kernels_to(self, which: str, target: float) -> float | None:
        """Ours on the machine: its threads exchange what they learn within some thousand rows."""
        rows = self.curves.rows_to(target, 0)
        return None if rows is None else rows / self.kernels[which]

    def best_rate(self, n: int, target: float) -> tuple[float, str, int] | None:
        """Rows a second of the module with so many workers, by the size and servers that are best
        of those with which the loss is reached."""
        found = []
        for name in ("module", "module-20"):
            if name in self.measured and self.rows_to(name, target, n, SYSTEMS[name].size):
                found += [(self.rows_a_second(name, n, n_ps=k), name, k) for k in self.servers]
        return max(found, default=None)

    def crossover(self, n: int, which: str, target: float) -> float | None:
        """Rows of a data set from which n functions are done before our own kernels on the VM;
        None: never. A larger set takes as many passes."""
        fast = self.best_rate(n, target)
        if fast is None or fast[0] <= self.kernels[which]:
            return None
        rows = self.rows_to(fast[1], target, n, SYSTEMS[fast[1]].size)
        alone = self.curves.rows_to(target, 0)
        assert rows is not None
        assert alone is not None
        per_row = alone / self.kernels[which] - rows / fast[0]
        return self.start_s("module") / per_row * self.n_rows if per_row > 0 else None


def billed_vm_s(seconds: float) -> float:
    """Of a machine that is started for it."""
    return max(LEAST_BILLED_S, BOOT_S + seconds)
