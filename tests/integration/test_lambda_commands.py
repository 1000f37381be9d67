"""The commands local-lambda, status, logs and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis_server import keys_left

import cirrus_fast
from cirrus_fast import LambdaExecutor, LogisticRegression
from cirrus_fast.cli import cli
from cirrus_fast.data.storage import is_s3
from cirrus_fast.errors import StoreError


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    home = str(Path(cirrus_fast.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cirrus_fast", "local-lambda", *arguments],
        env=os.environ | {"PYTHONPATH": home},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_lambda_of_this_machine_serves_until_it_is_told_to_end(
    tmp_path: Path, s3: Any, end: signal.Signals
) -> None:
    with start(tmp_path, "--function", "mine", "--json") as server:
        assert server.stdout is not None
        assert server.stderr is not None
        said = ""
        while not said.endswith("}\n"):
            said += server.stdout.readline()
        found = json.loads(said)
        assert found["function"] == "mine"
        functions = LambdaExecutor("mine", endpoint=found["url"])
        assert functions.submit(is_s3, "s3://x").result(60) is True
        functions.shutdown()
        server.send_signal(end)
        assert server.wait(30) == 0
        assert "REPORT RequestId: " in server.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_the_layer_that_was_built_is_what_is_served(
    tmp_path: Path, s3: Any, layer_zip: Path
) -> None:
    with start(tmp_path, "--layer", str(layer_zip), "--memory", "256", "--json") as server:
        assert server.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += server.stdout.readline()
        functions = LambdaExecutor(endpoint=json.loads(said)["url"])
        configuration = functions.configuration()
        assert configuration is not None
        assert configuration["MemorySize"] == 256
        assert functions.submit(is_s3, "x").result(60) is False
        functions.shutdown()
        server.send_signal(signal.SIGINT)
        server.wait(30)


def test_what_is_no_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"no zip")
    refused = run("local-lambda", "--layer", str(path))
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "x.zip: is no layer that can be unpacked (File is not a zip file)" in refused.stderr
    refused = run("local-lambda", "--env", "NO_SUCH_VARIABLE")
    assert "--env NO_SUCH_VARIABLE: the environment here has no NO_SUCH_VARIABLE" in refused.stderr


def test_a_run_is_watched_and_ended_from_elsewhere(
    s3: Any,
    redis_server: Any,
    local_lambda: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    local_lambda(memory_mb=256)
    cirrus_fast.make_clicks(tmp_path / "c.svm", 20_000, seed=3, hash_bits=10)
    cirrus_fast.load_libsvm(tmp_path / "c.svm", "s3://bucket/c")
    begun = LogisticRegression(
        dataset="s3://bucket/c",
        executor="lambda",
        param_store=redis_server.url,
        worker_size=256,
        n_workers=2,
        epochs=1_000_000,
        epsilon=0,
        progress=False,
    ).start()
    try:
        while begun.progress() is None and not begun.done():
            time.sleep(0.05)
        task = caplog.text.partition("run ")[2].partition(":")[0]
        store = ("--param-store", redis_server.url)
        states: set[str] = set()
        while states != {"learning"} and not begun.done():
            found = json.loads(run("status", task, *store, "--json").stdout)
            states = {worker["state"] for worker in found["workers"]}
        assert found["supervised"] is True
        assert found["stopping"] is False
        assert found["rows"] == sum(worker["rows"] for worker in found["workers"]) > 0
        assert 0.3 < found["train_loss"] < 0.7
        assert "learning" in run("status", task, *store).stdout
        assert run("stop", task, *store).stdout == f"run {task}: its supervisor ends it\n"
        assert begun.result(60).stop_reason == "stopped"
    finally:
        begun.stop()
    lines = json.loads(run("logs", task, "--json").stdout)["lines"]
    assert [line["message"] for line in lines].count("train ends") == 2
    of_one = json.loads(run("logs", task, "--worker", "1", "--json").stdout)["lines"]
    assert {line["worker"] for line in of_one} == {1}
    assert "train ends" in run("logs", task).stdout
    assert keys_left(redis_server) == []
    over = run("status", task, *store)
    assert f"has no run {task}: it is over, or in another store" in over.stderr
    assert run("stop", task, *store).exit_code == 1


SUPERVISOR = """
import sys
from cirrus_fast import LogisticRegression
LogisticRegression(
    dataset="s3://bucket/c", executor="lambda", param_store=sys.argv[1], worker_size=256,
    n_workers=2, epochs=int(sys.argv[2]), epsilon=0, progress=False, eval_interval=1, seed=7,
    test_fraction=0.1, sync_rows=100,
    callbacks=[lambda record: print("learning", flush=True) and None],
).run()
"""


@pytest.fixture
def orphaned(
    s3: Any, redis_server: Any, local_lambda: Callable[..., Any], tmp_path: Path
) -> Callable[[int], tuple[str, Any]]:
    """orphaned(epochs): a run whose supervisor was killed; its name, and the Lambda."""

    def begin(epochs: int) -> tuple[str, Any]:
        local = local_lambda(memory_mb=256)
        cirrus_fast.make_clicks(tmp_path / "c.svm", 20_000, seed=3, hash_bits=10)
        cirrus_fast.load_libsvm(tmp_path / "c.svm", "s3://bucket/c")
        with subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, redis_server.url, str(epochs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            program.stdout.readline()
            program.stdout.readline()
            program.kill()
            task = program.stderr.readline().partition("run ")[2].partition(":")[0]
        return task, local

    return begin


def idle(local: Any) -> bool:
    until = time.monotonic() + 30
    while local.busy and time.monotonic() < until:
        time.sleep(0.02)
    return not local.busy


def test_workers_without_a_supervisor_end_when_they_are_told_to(
    redis_server: Any, orphaned: Callable[[int], tuple[str, Any]]
) -> None:
    task, local = orphaned(1_000_000)
    shown = run("stop", task, "--param-store", redis_server.url)
    assert shown.stdout == f"run {task}: has no supervisor; its workers end\n"
    assert idle(local)


def test_a_run_whose_supervisor_died_goes_on_under_another(
    redis_server: Any,
    orphaned: Callable[[int], tuple[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.attach._PATIENCE_S", 2.0)
    task, local = orphaned(6)
    model = str(tmp_path / "m.npz")
    shown = run("attach", task, "--param-store", redis_server.url, "-o", model, "--json")
    assert shown.exit_code == 0, shown.stderr
    found = json.loads(shown.stdout)
    data = cirrus_fast.Dataset("s3://bucket/c")
    plain = {"dataset": data.uri, "epsilon": 0, "test_fraction": 0.1, "seed": 7, "epochs": 6}
    undisturbed = LogisticRegression(
        plain, n_workers=2, executor="processes", param_store=redis_server.url, sync_rows=100
    ).run()
    assert found["stop_reason"] == "epochs"
    assert found["rows_processed"] == undisturbed.rows_processed
    assert found["rows_repeated"] <= 0.15 * undisturbed.rows_processed
    # Workers that begin anew find accumulators of a second ago, and here that is none at all.
    assert found["test_loss"] == pytest.approx(undisturbed.test_loss, rel=0.03)
    rows = [record["rows"] for record in found["history"]]
    assert rows == sorted(rows)
    assert rows[0] < 0.4 * rows[-1]  # the evaluations of before are there
    assert found["params"]["seed"] == 7
    assert cirrus_fast.LinearModel.load(model).n_features == 1024
    assert idle(local)
    assert keys_left(redis_server) == []
    again = run("attach", task, "--param-store", redis_server.url)
    assert f"has no run {task}" in again.stderr


def test_a_run_with_a_supervisor_is_not_taken_from_it(
    redis_server: Any, s3: Any, local_lambda: Callable[..., Any], tmp_path: Path, caplog: Any
) -> None:
    local_lambda(memory_mb=256)
    cirrus_fast.make_clicks(tmp_path / "c.svm", 20_000, seed=3, hash_bits=10)
    cirrus_fast.load_libsvm(tmp_path / "c.svm", "s3://bucket/c")
    wanted = {"dataset": "s3://bucket/c", "executor": "lambda", "worker_size": 256, "epsilon": 0}
    begun = LogisticRegression(
        wanted, param_store=redis_server.url, n_workers=1, epochs=1_000_000
    ).start()
    try:
        while begun.progress() is None and not begun.done():
            time.sleep(0.05)
        task = caplog.text.partition("run ")[2].partition(":")[0]
        with pytest.raises(StoreError, match=f"run {task}: has a supervisor that lives"):
            LogisticRegression.attach(task, redis_server.url)
    finally:
        begun.stop()
    assert begun.result(60).stop_reason == "stopped"
