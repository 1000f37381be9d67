"""What bench.paper makes of measurements: costs taken apart and put together again, losses."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def networks(bench):
    return bench("paper.networks")


@pytest.fixture
def learning(bench):
    return bench("paper.learning")


@pytest.fixture
def cloud_place(bench):
    return bench("paper.places").CLOUD


@pytest.fixture
def measured(bench):
    Measured = bench("paper.measuring").Measured

    def make(system: str = "workers-sparse", **given: float):
        plain = {
            "place": "loopback", "n_workers": 1, "size": 200, "depth": 1, "seconds": 10.0,
            "steps": 1000, "rows": 200_000, "updates": 1000, "cpu_s": 0.004, "store_cpu_s": 0.003,
            "storage_cpu_s": 0.0, "store_up": 1000.0, "store_down": 2000.0, "storage_up": 0.0,
            "storage_down": 0.0,
        }  # fmt: skip
        return Measured(system=system, **plain | given)

    return make


@pytest.mark.parametrize("together", [1.0, 0.7])
@pytest.mark.parametrize(("system", "depth"), [("workers-sparse", 1), ("module", 4), ("pywren", 1)])
def test_one_worker_put_together_again_is_as_fast_as_it_was(
    networks, measured, together, system, depth
):
    storage_s = 0.002 if system == "pywren" else 0.0
    one = measured(system, depth=depth, storage_cpu_s=storage_s)
    costs = networks.taken_apart(one, together)
    found = networks.loopback(costs, 1, depth)
    assert found.steps_a_second == pytest.approx(100, rel=0.02)
    assert costs.rows == 200
    # What nobody is busy in is shared by the steps under way.
    assert costs.idle_s > 0


def test_workers_on_shared_cores_do_no_more_than_these_can(networks, measured):
    costs = networks.taken_apart(measured(), 0.8)
    found = networks.loopback(costs, 10, 1)
    # 7 ms of two cores a step, each 0.8 as fast as alone; but a server is one thread: 3 ms.
    assert found.steps_a_second == pytest.approx(2 * 0.8 / 0.007, rel=0.05)


def test_in_the_cloud_a_server_saturates_and_more_servers_help(networks, measured, cloud_place):
    costs = networks.taken_apart(measured(), 1.0)
    one, four = (networks.cloud(costs, cloud_place, 50, 1, n) for n in (1, 4))
    assert one.saturated == "server"
    assert one.steps_a_second == pytest.approx(1 / costs.store_s, rel=0.02)
    assert 3 < four.steps_a_second / one.steps_a_second <= 4


def test_one_worker_in_the_cloud_takes_the_sum_of_its_parts(networks, measured, cloud_place):
    costs = networks.taken_apart(measured(), 1.0)
    costs = networks.replace(costs, idle_s=0.0)
    step = (
        costs.cpu_s / cloud_place.share
        + 2 * cloud_place.store_s
        + 3000 * (1 / cloud_place.rate + 1 / networks.SERVER_RATE)
        + costs.store_s
    )
    found = networks.cloud(costs, cloud_place, 1, 1)
    assert found.step_s == pytest.approx(step, rel=0.01)


def test_idle_time_over_links_is_what_a_real_run_has(networks, measured, cloud_place):
    costs = networks.taken_apart(measured(), 1.0)
    there = networks.over_links(costs, cloud_place, measured(place="cloud", seconds=25.0))
    found = networks.cloud(there, cloud_place, 1, 1)
    assert found.steps_a_second == pytest.approx(40, rel=0.02)


def test_the_fixed_part_of_a_request_is_where_the_line_begins(networks, measured):
    # A request of b bytes: 5 us and 10 ns for each.
    large, small = (
        networks.taken_apart(
            measured("module", store_cpu_s=5e-6 + 1e-8 * b, store_up=b / 2, store_down=b / 2), 1.0
        )
        for b in (20_000, 4_000)
    )
    assert networks.with_fixed_part(large, small).request_s == pytest.approx(5e-6, rel=0.02)


def test_a_loss_is_reached_between_two_points(learning):
    points = [(10.0, 0.5), (20.0, 0.46), (30.0, 0.47), (40.0, 0.44)]
    assert learning.reached(points, 0.48) == pytest.approx(15)
    assert learning.reached(points, 0.455) == pytest.approx(35)
    assert learning.reached(points, 0.55) == 10
    assert learning.reached(points, 0.43) is None


def test_the_curve_is_of_as_many_rows_under_way_or_more(learning):
    curves = learning.Curves({0: [(1.0, 0.4)], 1000: [(2.0, 0.4)]})
    assert curves.rows_to(0.4, 0) == 1
    assert curves.rows_to(0.4, 1) == 2
    assert curves.rows_to(0.4, 1001) is None


def test_a_replay_with_nothing_under_way_is_plain_training(learning, tmp_path):
    import cirrus_fast

    cirrus_fast.make_clicks(tmp_path / "rows.svm", 4000, seed=1)
    train = cirrus_fast.load_libsvm(tmp_path / "rows.svm", str(tmp_path / "train"))
    rows = learning.Rows.of(train.uri, train.uri)
    assert rows.train.n_rows == 4000
    assert rows.train.nnz == train.manifest.nnz
    first, last = (
        learning.replayed(rows, "adagrad", 50, under_way, epochs=3, looks=1)[-1]
        for under_way in (0, 8)
    )
    result = cirrus_fast.LogisticRegression(
        dataset=train.uri, test_dataset=train.uri, epochs=3, epsilon=0, minibatch_size=50,
        n_workers=1, progress=False,
    ).run()  # fmt: skip
    assert first[0] == 12_000
    assert first[1] == pytest.approx(result.test_loss, rel=0.01)
    assert last[0] < 12_000  # what is under way at the end is not in the model
    assert last[1] < 0.6


def test_every_moment_is_in_one_phase(bench):
    make = bench("paper.phases").Clock
    before = time.perf_counter()
    clock = make()
    began = time.perf_counter()
    for phase in ("pull", "compute", "pull", "push"):
        clock.enter(phase)
        time.sleep(0.005)
    ended = time.perf_counter()
    clock.enter("other")
    after = time.perf_counter()
    assert ended - began <= sum(clock.wall.values()) <= after - before
    assert clock.wall["pull"] > clock.wall["push"] >= 0.005
    assert sum(clock.cpu.values()) < after - before
