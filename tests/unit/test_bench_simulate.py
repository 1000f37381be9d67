"""The simulator of bench.paper against closed forms."""

from __future__ import annotations

import math

import pytest


@pytest.fixture
def sim(bench):
    return bench("paper.simulate")


def closed(sim, n: int, think: float, service: float, *, drawn: bool) -> tuple[float, float]:
    """(steps a second, share of the time that the server is busy)"""
    network = sim.Network(seed=1)
    server = network.station("server")
    network.customers([sim.Delay(think, drawn), sim.Visit(server, service, drawn)], n)
    found = network.run(60_000, 6_000)
    return found.steps_a_second, found.busy["server"]


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 50])
def test_fixed_times_obey_the_saturation_law(sim, n):
    # n customers that need 9 ms by themselves and 1 ms of one server: n / 10 ms, at most 1 / 1 ms.
    rate, busy = closed(sim, n, 0.009, 0.001, drawn=False)
    assert rate == pytest.approx(min(n / 0.010, 1 / 0.001), rel=1e-3)
    assert busy == pytest.approx(min(n / 10, 1), rel=1e-3)


@pytest.mark.parametrize("n", [1, 4, 10, 30])
def test_drawn_times_obey_the_machine_repair_formula(sim, n):
    # M/M/1 with n customers: chance that k are at the server is n! / (n-k)! (s/z)^k p0.
    think, service = 0.010, 0.001
    weight = [math.perm(n, k) * (service / think) ** k for k in range(n + 1)]
    expected = (1 - weight[0] / sum(weight)) / service
    assert closed(sim, n, think, service, drawn=True)[0] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_many_customers_wait_as_in_m_d_1(sim, load):
    # So many that they come nearly as a Poisson process; the wait is load s / (2 (1 - load)).
    service, n = 0.001, 3000
    network = sim.Network(seed=2)
    server = network.station("server")
    think = n * service / load
    network.customers([sim.Delay(think, drawn=True), sim.Visit(server, service)], n)
    found = network.run(200_000, 50_000)
    load = found.busy["server"]
    assert found.steps_a_second * service == pytest.approx(load, rel=1e-3)
    assert found.wait_s["server"] == pytest.approx(service * load / (2 * (1 - load)), rel=0.05)


def test_steps_under_way_hide_the_way(sim):
    # One worker, 0.2 ms of its processor, 1 ms on the way: k steps under way, until it is busy.
    for k in (1, 2, 4, 8):
        network = sim.Network()
        worker = network.station("worker")
        network.customers([sim.Visit(worker, 0.0002), sim.Delay(0.001)], k)
        found = network.run(2000, 200)
        assert found.steps_a_second == pytest.approx(min(k / 0.0012, 1 / 0.0002), rel=1e-2)


def test_a_fork_takes_as_long_as_its_longest_path(sim):
    network = sim.Network()
    one, two = network.station("one"), network.station("two")
    network.customers(
        [sim.Fork(((sim.Visit(one, 0.001),), (sim.Visit(two, 0.003), sim.Delay(0.001))))]
    )
    found = network.run(100, 10)
    assert found.step_s == pytest.approx(0.004)
    assert found.busy == pytest.approx({"one": 0.25, "two": 0.75})
    assert found.saturated == "two"


def test_two_servers_take_twice_as_many(sim):
    network = sim.Network()
    one, two = network.station("server"), network.station("server")
    network.customers([sim.Fork(((sim.Visit(one, 0.001),), (sim.Visit(two, 0.001),)))], 4)
    assert network.run(1000, 100).steps_a_second == pytest.approx(1000, rel=1e-2)


@pytest.mark.parametrize(
    ("n", "together", "expected"), [(1, 1, 1), (2, 1, 2), (2, 0.7, 1.4), (6, 0.7, 1.4)]
)
def test_shared_cores_do_no_more_than_they_can(sim, n, together, expected):
    network = sim.Network()
    cores = network.cores(2, together)
    for _ in range(n):
        network.customers([sim.Visit(network.station("worker", cores), 0.001)])
    assert network.run(4000, 100).steps_a_second == pytest.approx(1000 * expected, rel=1e-2)


def test_processor_sharing_does_not_mind_how_times_are_drawn(sim):
    # One core shared by all: the same rate with fixed and with drawn service (insensitivity).
    rates = []
    for drawn in (False, True):
        network = sim.Network(seed=3)
        cores = network.cores(1)
        for _ in range(5):
            own = network.station("worker", cores)
            network.customers([sim.Delay(0.005, drawn=True), sim.Visit(own, 0.001, drawn)])
        rates.append(network.run(60_000, 5_000).steps_a_second)
    assert rates[0] == pytest.approx(rates[1], rel=0.02)


def test_one_customer_is_at_a_station_at_a_time(sim):
    # Two steps under way of one worker on two cores: its own work is not done twice as fast.
    network = sim.Network()
    cores = network.cores(2)
    network.customers([sim.Visit(network.station("worker", cores), 0.001)], 2)
    assert network.run(1000, 10).steps_a_second == pytest.approx(1000, rel=1e-2)
