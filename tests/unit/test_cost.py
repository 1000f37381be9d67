"""Prices, what comes of them, and the worker size that is best by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cirrus_fast.backend.aws_lambda import Usage
from cirrus_fast.backend.cost import Cost, Meter, Rate, billed_s
from cirrus_fast.backend.estimate import (
    MB_OF_A_CPU,
    Speed,
    Work,
    best_size,
    by_size,
    cpu_of,
    estimate,
)
from cirrus_fast.backend.prices import BASE_REGION, Prices, table_of_prices
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import OptionError


@pytest.fixture(autouse=True)
def _no_prices_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIRRUS_FAST_PRICES", raising=False)


@pytest.fixture
def prices() -> Prices:
    return Prices.load(BASE_REGION)


# Prices


def test_the_table_says_when_and_from_where_it_is() -> None:
    table = table_of_prices()
    assert len(table["noted"]) == len("2026-11-25")
    assert set(table["sources"]) == {"lambda", "s3", "network", "nodes"}
    assert "Check them" in table["note"]


def test_prices_are_those_of_the_public_list(prices: Prices) -> None:
    """https://aws.amazon.com/lambda/pricing/, first tier, and S3 Standard's requests."""
    assert prices.gb_second == {"x86_64": 0.0000166667, "arm64": 0.0000133334}
    assert prices.million_requests == 0.20
    assert (prices.thousand_gets, prices.thousand_puts) == (0.0004, 0.005)


def test_another_regions_prices_are_said_to_be_stood_in_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Prices.load("eu-west-9")
    assert found.region == BASE_REGION
    assert "no prices for eu-west-9: those of us-east-1" in caplog.text


def test_a_file_changes_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.json"
    own = {"gb_second": {"arm64": 0.5}, "node_hour": {"my-node": 3}, "thousand_gets": 7}
    path.write_text(json.dumps({"noted": "2030-01-02", "regions": {"eu-west-1": own}}))
    monkeypatch.setenv("CIRRUS_FAST_PRICES", str(path))
    found = Prices.load("eu-west-1")
    assert (found.region, found.noted) == ("eu-west-1", "2030-01-02")
    assert found.gb_second == {"x86_64": 0.0000166667, "arm64": 0.5}
    assert found.thousand_gets == 7
    assert found.thousand_puts == 0.005
    assert found.node("2 my-node") == 6
    assert Prices.load(BASE_REGION).thousand_gets == 0.0004


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("no json", "cannot be read as prices"),
        ("[1]", "must be {"),
        ('{"regions": {"x": 1}}', "x: must have prices by name"),
        ('{"regions": {"x": {"gb": 1}}}', "gb: is no price; there are gb_second"),
        ('{"regions": {"x": {"thousand_gets": -1}}}', "-1 is no price"),
        ('{"regions": {"x": {"thousand_gets": "1"}}}', "'1' is no price"),
        ('{"regions": {"x": {"gb_second": 1}}}', "gb_second: must have prices by name"),
        ('{"regions": {"x": {"gb_second": {"arm64": null}}}}', "None is no price"),
    ],
)
def test_a_file_that_says_no_prices_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=match):
        Prices.load(BASE_REGION, path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read as prices"):
        Prices.load(BASE_REGION, tmp_path / "none.json")


def test_a_store_is_priced_by_type_number_or_dollars(prices: Prices) -> None:
    assert prices.node("cache.t4g.small") == 0.032
    assert prices.node("3 c7g.large") == pytest.approx(0.2175)
    assert prices.node("0.25") == 0.25
    for bad in ("c9.huge", "x c7g.large", "nan", "-1", ""):
        with pytest.raises(OptionError, match="no price is known"):
            prices.node(bad)


# What comes of them


@pytest.mark.parametrize(
    ("seconds", "billed"),
    [(0.0, 0.0), (0.0001, 0.001), (0.001, 0.001), (0.0011, 0.002), (1.0, 1.0), (2.3, 2.3)],
)
def test_milliseconds_that_were_begun_are_billed(seconds: float, billed: float) -> None:
    assert billed_s(seconds) == billed
    assert billed_s(0.1 + 0.2) == 0.3  # 0.30000000000000004, and no 301 ms


def test_parts_by_hand(prices: Prices) -> None:
    rate = Rate(prices, "x86_64", memory=2048, tmp=1536, node_hour=0.36, nat=True)
    cost = rate.cost(1000, 5_000_000, reads=Reads(10_000, 3 * 10**9), run_s=100)
    assert cost.compute == pytest.approx(1000 * (2 * 0.0000166667 + 1 * 0.0000000309))
    assert cost.requests == pytest.approx(1.0)
    assert cost.s3_requests == pytest.approx(0.004)
    assert cost.s3_bytes == pytest.approx(3 * 0.045)
    assert cost.store == pytest.approx(0.01)
    assert cost.total == pytest.approx(sum(cost.to_json().values()))
    assert rate.cost(0, 0) == Cost()


def test_the_first_disk_and_bytes_of_the_region_are_free(prices: Prices) -> None:
    rate = Rate(prices, "arm64", memory=1024)
    assert rate.second == 0.0000133334
    assert rate.cost(0, 0, reads=Reads(0, 10**12)).total == 0


class FakeExecutor:
    """What the meter asks of an executor."""

    region = BASE_REGION

    def __init__(self) -> None:
        self.usage_so_far = Usage()
        self.under_way_s: list[float] = []
        self.found: Any = {
            "MemorySize": 1024,
            "Architectures": ["arm64"],
            "EphemeralStorage": {"Size": 512},
        }

    def configuration(self) -> Any:
        return self.found


def test_a_meter_counts_what_ended_what_is_under_way_and_what_is_lost() -> None:
    executor: Any = FakeExecutor()
    executor.usage_so_far = Usage(requests=7, billed_s=100)  # of a run before
    meter = Meter.of(executor, worker_size=128)
    assert meter.so_far(Reads(), 0).total == 0
    executor.usage_so_far = Usage(requests=9, billed_s=130, lost=1, lost_s=5)
    executor.under_way_s = [10.0, 0.0005]
    cost = meter.so_far(Reads(1000), 0)
    assert cost.compute == pytest.approx((30 + 5 + 10 + 0.001) * 0.0000133334)
    assert cost.requests == pytest.approx(5 * 0.20 / 1e6)
    assert cost.s3_requests == pytest.approx(0.0004)
    assert meter.to_end() == pytest.approx(2 * 2 * 0.0000133334)


def test_a_meter_goes_by_the_run_where_the_function_may_not_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor: Any = FakeExecutor()
    executor.found = None
    monkeypatch.setenv("CIRRUS_FAST_STORE_NODE", "2 cache.t4g.small")
    meter = Meter.of(executor, worker_size=512)
    executor.under_way_s = [100.0]
    cost = meter.so_far(Reads(), 3600)
    assert cost.compute == pytest.approx(50 * 0.0000166667)
    assert cost.store == pytest.approx(0.064)


def test_a_meter_counts_bytes_through_a_nat_where_it_is_told_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor: Any = FakeExecutor()
    read = Reads(0, 2_000_000_000)
    assert Meter.of(executor, worker_size=512).so_far(read, 0).s3_bytes == 0
    monkeypatch.setenv("CIRRUS_FAST_NAT", "1")
    assert Meter.of(executor, worker_size=512).so_far(read, 0).s3_bytes == pytest.approx(0.09)
    monkeypatch.setenv("CIRRUS_FAST_NAT", "yes")
    with pytest.raises(OptionError, match=r"CIRRUS_FAST_NAT=yes: must be 1.* or 0"):
        Meter.of(executor, worker_size=512)


# Before a run


def test_an_estimate_by_hand(prices: Prices) -> None:
    speed = Speed(compute_s=1e-5, wait_s=1e-5, start_s=1.0)
    work = Work(rows=10_000_000, epochs=2, n_workers=10, n_bytes=550_000_000)
    size = MB_OF_A_CPU
    found = estimate(work, worker_size=size, prices=prices, speed=speed, node_hour=0.36)
    assert found.rows_per_s == pytest.approx(50_000)
    assert found.seconds == pytest.approx(2_000_000 / 50_000 + 1)
    assert found.invocations == 10
    assert found.worker_s == pytest.approx(410)
    assert found.cost.compute == pytest.approx(410 * size / 1024 * 0.0000166667)
    assert found.cost.store == pytest.approx(41 * 0.0001)
    assert found.cost.s3_requests == pytest.approx((20 + 66) * 0.0004 / 1000)
    assert found.to_json()["total"] == found.cost.total


def test_long_runs_take_further_invocations(prices: Prices) -> None:
    speed = Speed(compute_s=1e-3, wait_s=0, start_s=1)
    one = estimate(Work(800_000, 1, 1), worker_size=1769, prices=prices, speed=speed)
    two = estimate(Work(1_600_000, 1, 1), worker_size=1769, prices=prices, speed=speed)
    assert (one.invocations, two.invocations) == (1, 2)
    assert two.seconds == pytest.approx(1602)


def test_a_part_of_a_cpu_computes_so_much_slower_and_waits_as_long() -> None:
    assert cpu_of(MB_OF_A_CPU // 2) == pytest.approx(0.5, abs=1e-3)
    assert cpu_of(4 * MB_OF_A_CPU) == 1
    speed = Speed.of_rate(10_000, worker_size=884, waiting=0.5)
    assert 1 / speed.row_s(884) == pytest.approx(10_000)
    assert 1 / speed.row_s(1769) == pytest.approx(1 / (0.5e-4 + 0.25e-4), rel=1e-3)


def test_a_speed_is_told_from_a_result() -> None:
    breakdown = {"start_up": 9, "storage_read": 1, "pull": 2, "push": 1, "compute": 5, "decode": 1}
    speed = Speed.of_breakdown(breakdown, rows=1000, worker_size=1769)
    assert speed.wait_s == pytest.approx(0.004)
    assert speed.compute_s == pytest.approx(0.006)
    with pytest.raises(OptionError, match="no rows, or no time"):
        Speed.of_breakdown({}, rows=0, worker_size=1769)


def test_the_assumed_speed_is_said_to_be_assumed(prices: Prices) -> None:
    work = Work(1_000_000, 1, 10)
    assert not estimate(work, worker_size=1024, prices=prices).measured
    speed = Speed.of_rate(100_000, 1024)
    assert estimate(work, worker_size=1024, prices=prices, speed=speed).measured


WORK = Work(rows=100_000_000, epochs=3, n_workers=10)


def test_waiting_workers_had_better_be_small(prices: Prices) -> None:
    waiting = Speed(compute_s=1e-7, wait_s=1e-5)
    assert best_size(WORK, prices=prices, speed=waiting).worker_size == 128


def test_computing_workers_had_better_have_a_whole_cpu(prices: Prices) -> None:
    """It costs the same, and is done sooner."""
    computing = Speed(compute_s=1e-5, wait_s=0)
    assert best_size(WORK, prices=prices, speed=computing).worker_size == MB_OF_A_CPU


def test_a_rented_store_is_worth_some_speed(prices: Prices) -> None:
    mixed = Speed(compute_s=1e-6, wait_s=1e-6)
    alone = best_size(WORK, prices=prices, speed=mixed)
    beside = best_size(WORK, prices=prices, speed=mixed, node_hour=5)
    assert beside.worker_size > alone.worker_size


def test_a_size_is_not_less_than_a_worker_needs(prices: Prices) -> None:
    waiting = Speed(compute_s=1e-7, wait_s=1e-5)
    assert best_size(WORK, least=700, prices=prices, speed=waiting).worker_size == 768
    assert best_size(WORK, least=3000, prices=prices, speed=waiting).worker_size == 3072


def test_the_best_size_costs_hardly_more_than_any(prices: Prices) -> None:
    speed = Speed(compute_s=1e-6, wait_s=3e-7)
    found = best_size(WORK, prices=prices, speed=speed)
    sizes = by_size(range(128, 4096, 64), WORK, prices=prices, speed=speed)
    assert found.cost.total <= 1.06 * min(one.cost.total for one in sizes)


def test_what_cannot_be_estimated_is_refused(prices: Prices) -> None:
    for make, match in (
        (lambda: Work(0, 1, 1), "rows=0"),
        (lambda: Work(1, 0, 1), "epochs=0"),
        (lambda: Work(1, 1, 0), "n_workers=0"),
        (lambda: Speed.of_rate(0, 1024), "rows_per_s=0"),
        (lambda: Speed.of_rate(1, 1024, waiting=2), "waiting=2"),
        (lambda: estimate(WORK, worker_size=64, prices=prices), "128 to 10240 MB"),
        (lambda: estimate(WORK, worker_size=1024, prices=prices, arch="mips"), "arch='mips'"),
    ):
        with pytest.raises(OptionError, match=match):
            make()
