"""Systems as networks of queues: what was measured of one worker, for any number, anywhere.

A measured run of one worker is taken apart first (`taken_apart`): processor times as they would be
without a neighbour on the other thread of the core, and what remains as time in which nobody was
busy. These costs are then put together again: `loopback`, on shared cores, to compare with real
runs of more workers; `cloud`, where every worker has its own share of a core and its own link, with
the idle time that a real run of one worker over emulated links has (`over_links`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.paper.measuring import Measured
from bench.paper.places import SERVER_RATE, Place
from bench.paper.pywren import KINDS
from bench.paper.simulate import Delay, Fork, Network, Outcome, Visit

CORES = 2
_ROUNDS, _HALVINGS, _FEW = 4, 10, 300
# What a command costs a server of Redis however small it is, where nothing else was measured.
_COMMAND_S = 15e-6


@dataclass(frozen=True, slots=True)
class Costs:
    """Of a step of one worker, with a core of its own.

    Attributes
    ----------
    cpu_s, message_s : of the worker; of it, what one more request to a store would add
    store_s, request_s : of the store's core, over `requests`; of it, what a request costs however
        small it is
    storage_s : of S3's stand-in on this machine
    idle_s : nobody is busy: a function is being called, processes are being woken
    together : speed of a core whose other thread is busy
    gets, puts : of S3 that the worker waits for; ahead : bytes that it reads while it works
    """

    system: str
    rows: float
    updates: float
    cpu_s: float
    message_s: float
    store_s: float
    request_s: float
    requests: int
    store_up: float
    store_down: float
    storage_s: float
    storage_up: float
    storage_down: float
    gets: int
    puts: int
    idle_s: float
    together: float
    ahead: float = 0.0


def taken_apart(one: Measured, together: float) -> Costs:
    """
    one : of a single worker, here; together : speed of a core whose other thread is busy
    """
    kind = KINDS.get(one.system)
    requests = 1 if kind is None else 2 * (kind.store != "s3")
    costs = Costs(
        system=one.system,
        rows=one.rows_a_step,
        updates=one.updates / one.steps,
        cpu_s=one.cpu_s,
        message_s=0.0,
        store_s=one.store_cpu_s if requests else 0.0,
        request_s=_COMMAND_S,
        requests=requests,
        store_up=one.store_up if requests else 0.0,
        store_down=one.store_down if requests else 0.0,
        storage_s=one.storage_cpu_s if kind is not None else 0.0,
        storage_up=one.storage_up,
        storage_down=one.storage_down,
        gets=0 if kind is None else kind.gets,
        puts=0 if kind is None else kind.puts,
        idle_s=0.0,
        together=together,
    )
    for _ in range(_ROUNDS):
        found = loopback(costs, 1, one.depth, _FEW)
        step = 1 / found.steps_a_second
        costs = replace(
            costs,
            cpu_s=_scaled(costs.cpu_s, one.cpu_s, found.busy.get("worker", 0.0) * step),
            store_s=_scaled(costs.store_s, one.store_cpu_s, found.busy.get("store", 0.0) * step),
            storage_s=_scaled(
                costs.storage_s, one.storage_cpu_s, found.busy.get("storage", 0.0) * step
            ),
        )

    def steps_a_second(idle_s: float) -> float:
        return loopback(replace(costs, idle_s=idle_s), 1, one.depth, _FEW).steps_a_second

    return replace(costs, idle_s=_idle(steps_a_second, one))


def over_links(costs: Costs, place: Place, one: Measured) -> Costs:
    """With the idle time of a real run of one worker there."""

    def steps_a_second(idle_s: float) -> float:
        there = replace(costs, idle_s=idle_s)
        return cloud(there, place, 1, one.depth, steps=_FEW).steps_a_second

    return replace(costs, idle_s=_idle(steps_a_second, one))


def _idle(steps_a_second: Callable[[float], float], one: Measured) -> float:
    """The idle time of a step with which it takes as long as it did; 0 if it took less."""
    low, high = 0.0, one.depth * one.seconds / one.steps
    if steps_a_second(low) <= one.steps_a_second:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if steps_a_second(middle) > one.steps_a_second:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _scaled(now: float, measured: float, simulated: float) -> float:
    return now * measured / simulated if simulated else now


def with_fixed_part(costs: Costs, smaller: Costs) -> Costs:
    """What does not depend on how much a request carries, by a run with smaller ones."""
    share = (costs.store_up + costs.store_down) / (smaller.store_up + smaller.store_down)
    if share <= 1.2:
        return costs

    def fixed(large: float, small: float) -> float:
        return min(small, max(0.0, (share * small - large) / (share - 1)))

    return replace(
        costs,
        request_s=fixed(costs.store_s, smaller.store_s),
        message_s=fixed(costs.cpu_s, smaller.cpu_s),
    )


def loopback(costs: Costs, n_workers: int, depth: int, steps: int = 2000) -> Outcome:
    """All on the cores of this machine."""
    network = Network()
    cores = network.cores(CORES, costs.together)
    store, storage = network.station("store", cores), network.station("storage", cores)
    parts = costs.requests + (costs.storage_s > 0)
    for _ in range(n_workers):
        worker = network.station("worker", cores)
        mine = Visit(worker, costs.cpu_s / max(1, parts))
        path: list[Visit | Delay | Fork] = []
        if costs.storage_s:
            path += [mine, Visit(storage, costs.storage_s)]
        for _ in range(costs.requests):
            path += [mine, Visit(store, costs.store_s / costs.requests)]
        if costs.idle_s:
            path.append(Delay(costs.idle_s))
        network.customers(path, depth)
    few = n_workers * depth
    return network.run(max(steps, 6 * few), max(steps // 10, 2 * few))


def cloud(
    costs: Costs, place: Place, n_workers: int, depth: int, n_ps: int = 1, steps: int = 2000
) -> Outcome:
    """Every worker on its own; the model on so many servers."""
    assert place.rate is not None
    network = Network()
    servers = [
        (network.station("server's link"), network.station("server"),
         network.station("server's link")) for _ in range(n_ps if costs.requests else 0)
    ]  # fmt: skip
    waits = costs.gets + costs.puts
    segments = waits + costs.requests
    cpu = (costs.cpu_s + costs.message_s * costs.requests * (n_ps - 1)) / place.share
    n = max(1, costs.requests)
    up, down = costs.store_up / n / n_ps, costs.store_down / n / n_ps
    every = costs.store_s / n
    one = costs.request_s + max(0.0, every - costs.request_s) / n_ps if n_ps > 1 else every
    for _ in range(n_workers):
        worker = network.station("worker")
        sending, receiving = network.station("worker's link"), network.station("worker's link")
        mine = Visit(worker, cpu / max(1, segments))
        path: list[Visit | Delay | Fork] = []
        if costs.idle_s:
            path.append(Delay(costs.idle_s))
        for _ in range(costs.gets):
            path += [mine, Delay(place.storage_s),
                     Visit(receiving, costs.storage_down / costs.gets / place.rate)]  # fmt: skip
        if costs.ahead:
            path.append(Visit(receiving, costs.ahead / place.rate))
        for _ in range(costs.requests):
            shards = tuple(
                (
                    Visit(sending, up / place.rate),
                    Delay(place.store_s / 2),
                    Visit(into, up / SERVER_RATE),
                    Visit(server, one),
                    Visit(out, down / SERVER_RATE),
                    Delay(place.store_s / 2),
                    Visit(receiving, down / place.rate),
                )
                for into, server, out in servers
            )
            path.append(mine)
            if n_ps == 1:
                path += shards[0]
            else:
                path.append(Fork(shards))
        for _ in range(costs.puts):
            path += [mine, Visit(sending, costs.storage_up / costs.puts / place.rate),
                     Delay(place.storage_s)]  # fmt: skip
        network.customers(path, depth)
    few = n_workers * depth
    return network.run(max(steps, 6 * few), max(steps // 10, 2 * few))
