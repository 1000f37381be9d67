"""Workers, links and servers as a network of queues, event by event.

A customer goes round a path again and again: one round is a step of training. On its way it visits
stations, which serve one customer at a time in the order they come, and is delayed in between; at a
fork it goes on along several paths at once, and waits until all are done. So a worker with three
steps under way is three customers that share the stations of that worker: its processor and both
ways of its link.

Stations may share cores. Who is served there runs on them with the others, each at the same speed;
busy cores may be slower than a core that is alone, as the two threads of one core are.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Visit:
    """Of a station, by its number, for so long; `drawn`: exponential with that mean."""

    station: int
    seconds: float
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    seconds: float
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Fork:
    """Paths that are gone at once, each to its end."""

    paths: tuple[Path, ...]


Path = tuple["Visit | Delay | Fork", ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    steps_a_second : of all customers
    step_s : mean time of a round
    busy : share of the time that a station was, or had somebody on cores it shares; by its name,
        the busiest of that name
    wait_s : mean time in the queue of a visit, by the station's name
    """

    steps_a_second: float
    step_s: float
    busy: dict[str, float]
    wait_s: dict[str, float]

    @property
    def saturated(self) -> str:
        """What was busiest."""
        return max(self.busy, key=self.busy.__getitem__)


@dataclass(slots=True)
class _Customer:
    path: Path
    parent: _Customer | None = None
    at: int = 0
    branches: int = 0  # that are not done
    began: float = 0.0


@dataclass(slots=True)
class _Station:
    name: str
    cores: _Cores | None
    queue: deque[tuple[_Customer, float, float]] = field(default_factory=deque)
    serving: bool = False
    since: float = 0.0
    busy_s: float = 0.0
    waited_s: float = 0.0
    visits: int = 0


@dataclass(slots=True)
class _Cores:
    """Shared by whoever runs: everybody goes on at `speed`."""

    n: int
    together: float
    running: list[tuple[float, int, _Customer]] = field(default_factory=list)  # work left
    looked_at: float = 0.0
    version: int = 0

    @property
    def speed(self) -> float:
        k = len(self.running)
        if k <= 1:
            return 1.0
        return self.together * min(1.0, self.n / k)

    def go_on(self, now: float) -> None:
        done = (now - self.looked_at) * self.speed
        self.running = [(left - done, station, who) for left, station, who in self.running]
        self.looked_at = now


# Of an event: a customer goes on, a station has served, cores have served.
_GO, _SERVED, _RAN = 0, 1, 2


class Network:
    """Build it with `cores`, `station` and `customers`, then `run` it once."""

    def __init__(self, seed: int = 0) -> None:
        self._draw = random.Random(seed)
        self._stations: list[_Station] = []
        self._cores: list[_Cores] = []
        self._customers: list[_Customer] = []
        self._events: list[tuple[float, int, int, object, int]] = []
        self._number = 0
        self._now = 0.0
        self._done = 0
        self._in_steps = 0.0
        self._from = 0.0

    def cores(self, n: int, together: float = 1.0) -> int:
        """together : speed of each of them while more than one is busy"""
        self._cores.append(_Cores(n, together))
        return len(self._cores) - 1

    def station(self, name: str, cores: int | None = None) -> int:
        """Stations of one name are told of together."""
        self._stations.append(_Station(name, None if cores is None else self._cores[cores]))
        return len(self._stations) - 1

    def customers(self, path: Sequence[Visit | Delay | Fork], n: int = 1) -> None:
        self._customers += [_Customer(tuple(path)) for _ in range(n)]

    def run(self, steps: int, warm_up: int) -> Outcome:
        """Until so many steps were done; the first are not counted."""
        for customer in self._customers:
            # Not all at once: a moment within what a first step might take.
            self._event(1e-6 * self._draw.random(), _GO, customer, 0)
        self._advance_until(warm_up)
        self._done, self._in_steps, self._from = 0, 0.0, self._now
        for station in self._stations:
            station.busy_s, station.since = 0.0, self._now
            station.waited_s, station.visits = 0.0, 0
        self._advance_until(steps)
        took = self._now - self._from
        busy: dict[str, float] = {}
        waits: dict[str, tuple[float, int]] = {}
        for station in self._stations:
            if station.serving:
                station.busy_s += self._now - station.since
            busy[station.name] = max(busy.get(station.name, 0.0), station.busy_s / took)
            waited, visits = waits.get(station.name, (0.0, 0))
            waits[station.name] = waited + station.waited_s, visits + station.visits
        wait = {name: waited / visits for name, (waited, visits) in waits.items() if visits}
        return Outcome(self._done / took, self._in_steps / self._done, busy, wait)

    def _advance_until(self, steps: int) -> None:
        while self._done < steps:
            self._now, _, kind, subject, version = heapq.heappop(self._events)
            if kind == _GO:
                self._advance(subject)  # type: ignore[arg-type]
            elif kind == _SERVED:
                self._leave(version, subject)  # type: ignore[arg-type]
            else:
                self._ran(subject, version)  # type: ignore[arg-type]

    def _event(self, when: float, kind: int, subject: object, version: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, kind, subject, version))

    def _time(self, of: Visit | Delay) -> float:
        if of.drawn:
            return self._draw.expovariate(1 / of.seconds)
        return of.seconds

    def _advance(self, customer: _Customer) -> None:
        """To where it has to wait."""
        while customer.at == len(customer.path):
            if customer.parent is not None:
                customer = customer.parent
                customer.branches -= 1
                if customer.branches:
                    return
            else:
                self._done += 1
                # What began before the clock did is counted from there on.
                self._in_steps += self._now - customer.began
                customer.began, customer.at = self._now, 0
                if not customer.path:
                    raise ValueError("a path must have something in it")
                break
        step = customer.path[customer.at]
        customer.at += 1
        if isinstance(step, Visit):
            self._visit(customer, step)
        elif isinstance(step, Delay):
            self._event(self._now + self._time(step), _GO, customer, 0)
        else:
            customer.branches = len(step.paths)
            for path in step.paths:
                self._event(self._now, _GO, _Customer(path, customer), 0)

    def _visit(self, customer: _Customer, visit: Visit) -> None:
        station = self._stations[visit.station]
        station.visits += 1
        if station.serving:
            station.queue.append((customer, self._time(visit), self._now))
        else:
            station.serving, station.since = True, self._now
            self._serve(visit.station, customer, self._time(visit))

    def _serve(self, number: int, customer: _Customer, seconds: float) -> None:
        cores = self._stations[number].cores
        if cores is None:
            self._event(self._now + seconds, _SERVED, customer, number)
            return
        cores.go_on(self._now)
        cores.running.append((seconds, number, customer))
        self._foresee(cores)

    def _foresee(self, cores: _Cores) -> None:
        """The next to be done, as things are."""
        cores.version += 1
        if cores.running:
            left = min(one[0] for one in cores.running)
            self._event(self._now + max(0.0, left) / cores.speed, _RAN, cores, cores.version)

    def _ran(self, cores: _Cores, version: int) -> None:
        if version != cores.version:
            return  # somebody came or went meanwhile
        cores.go_on(self._now)
        place = min(range(len(cores.running)), key=lambda i: cores.running[i][0])
        _, number, customer = cores.running.pop(place)
        self._foresee(cores)
        self._leave(number, customer)

    def _leave(self, number: int, customer: _Customer) -> None:
        station = self._stations[number]
        if station.queue:
            following, seconds, came = station.queue.popleft()
            station.waited_s += self._now - came
            self._serve(number, following, seconds)
        else:
            station.serving = False
            station.busy_s += self._now - station.since
        self._advance(customer)
