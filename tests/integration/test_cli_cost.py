"""The command cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cirrus_fast import Dataset, Record, TrainResult, load_libsvm, make_clicks
from cirrus_fast.cli import cli
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.model import LinearModel

Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("CIRRUS_FAST_PRICES", raising=False)

    def call(*arguments: object, status: int = 0) -> Any:
        outcome = CliRunner().invoke(cli, ["cost", *map(str, arguments)])
        assert outcome.exit_code == status, outcome.output
        return outcome

    return call


def test_an_estimate_is_shown_with_its_assumptions(run: Run) -> None:
    shown = run("--rows", 45_000_000, "--store-node", "cache.t4g.small")
    assert "45,000,000 rows, 2 passes" in shown.stdout
    assert "(a guess)" in shown.stdout
    assert "List prices of us-east-1, noted 20" in shown.stdout
    assert "the speed is a guess; measure it" in shown.stderr


def test_numbers_are_those_of_the_library(run: Run) -> None:
    given = ("--rows", 10**8, "--rows-per-s", 50_000, "--measured-at", 884, "--waiting", 0.5)
    found = json.loads(run(*given, "--worker-size", 1769, "--arch", "arm64", "--json").stdout)
    estimate = found["estimate"]
    assert estimate["rows_per_s"] == pytest.approx(50_000 / (0.5 + 0.5 * 884 / 1769))
    assert estimate["worker_s"] == pytest.approx(
        10 * (2 * 10**7 / estimate["rows_per_s"] + 1), rel=1e-3
    )
    compute = estimate["worker_s"] * 1769 / 1024 * 0.0000133334
    assert estimate["cost"]["compute"] == pytest.approx(compute)
    assert found["best_worker_size"] == 128  # workers that wait half of their time
    nat = json.loads(run(*given, "--nat", "--tmp", 10_240, "--json").stdout)["estimate"]
    without = json.loads(run(*given, "--json").stdout)["estimate"]
    assert nat["cost"]["compute"] > without["cost"]["compute"]


def test_a_data_set_says_its_rows_and_bytes(run: Run, storage_root: Path, tmp_path: Path) -> None:
    make_clicks(tmp_path / "c.svm", 5000, seed=1)
    load_libsvm(tmp_path / "c.svm", "clicks")
    found = json.loads(run("clicks", "--nat", "--json").stdout)["estimate"]["cost"]
    assert found["s3_bytes"] == pytest.approx(Dataset("clicks").n_bytes / 1e9 * 0.045)


def test_a_result_says_how_fast_its_workers_were(run: Run, tmp_path: Path) -> None:
    model = LinearModel(np.zeros(3, np.float32), 0.0, LabelMap((0.0,), (1.0,)))
    breakdown = {"compute": 60.0, "storage_read": 40.0}
    record = Record(1.0, 1, 1, 0.5, None, None, 0.0)
    TrainResult(
        model=model,
        history=[record],
        test_loss=None,
        auc=None,
        breakdown=breakdown,
        seconds=10.0,
        cost=0.0,
        rows_processed=1_000_000,
        rows_repeated=0,
        stop_reason="epochs",
        n_workers=10,
        executor="lambda",
        param_store="redis://x",
        params={"worker_size": 1769},
    ).save(tmp_path / "run.npz")
    given = ("--rows", 1000, "--result", tmp_path / "run.npz", "--worker-size", 1769, "--json")
    assert json.loads(run(*given).stdout)["estimate"]["rows_per_s"] == pytest.approx(10_000)


def test_prices_are_shown_and_changed_by_a_file(run: Run, tmp_path: Path) -> None:
    table = json.loads(run("--show-prices").stdout)
    table["regions"]["us-east-1"]["gb_second"]["x86_64"] = 1.0
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"noted": "2031-01-01", "regions": table["regions"]}))
    given = ("--rows", 10**6, "--worker-size", 1024, "--json")
    dear = json.loads(run(*given, "--prices", path).stdout)
    assert dear["prices"]["noted"] == "2031-01-01"
    cheap = json.loads(run(*given).stdout)["estimate"]["cost"]["compute"]
    assert dear["estimate"]["cost"]["compute"] == pytest.approx(cheap / 0.0000166667)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "what is to be trained on"),
        (("x",), "no data set"),
        (("x", "--rows", 3), "give one of them"),
        (("--rows", 0), "rows=0"),
        (("--rows", 5, "--rows-per-s", 3), "Give --measured-at"),
        (("--rows", 5, "--waiting", 0.3), "give --rows-per-s too"),
        (("--rows", 5, "--store-node", "huge"), "no price is known"),
        (("--rows", 5, "--arch", "mips"), "arch='mips'"),
        (("--rows", 5, "--worker-size", 64), "128 to 10240"),
        (("--rows", 5, "--result", "none.npz"), "none.npz"),
    ],
)
def test_what_cannot_be_estimated_is_refused_in_one_line(
    run: Run, storage_root: Path, arguments: tuple[object, ...], text: str
) -> None:
    outcome = run(*arguments, status=1)
    assert text in outcome.stderr
    assert outcome.stderr.count("\n") == 1
