"""Runs with executor="lambda": real sandboxes from the built layer, a real Redis, a server that
speaks S3."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from module_server import Server, first_program
from redis_server import keys_left
from unfinished_loads import objects, put

import cirrus_fast
from cirrus_fast import Dataset, LogisticRegression
from cirrus_fast.backend import workers
from cirrus_fast.errors import OptionError, TrainingError
from cirrus_fast.local_lambda.server import Faults, LocalLambda

Start = Callable[..., LocalLambda]
N_ROWS = 110_000


@pytest.fixture(scope="session")
def clicks_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clicks") / "clicks.svm"
    cirrus_fast.make_clicks(path, N_ROWS, seed=5, hash_bits=12)
    return path


@pytest.fixture
def clicks(s3: Any, clicks_text: Path) -> Iterator[Dataset]:
    cirrus_fast.configure(storage="s3://bucket/data")
    yield cirrus_fast.load_libsvm(clicks_text, "clicks")
    cirrus_fast.configure(storage=None)


def options(redis: Any, **more: object) -> dict[str, object]:
    given = {"dataset": "clicks", "executor": "lambda", "param_store": redis.url}
    return given | {"worker_size": 256, "epochs": 3, "epsilon": 0, "progress": False} | more


def test_a_run_on_functions_is_one_like_any_other(
    clicks: Dataset, redis_server: Any, local_lambda: Start
) -> None:
    local = local_lambda(memory_mb=256)
    result = LogisticRegression(options(redis_server, n_workers=4, test_fraction=0.05)).run()
    here = LogisticRegression(
        options(redis_server, n_workers=4, test_fraction=0.05, executor="processes")
    ).run()
    assert result.stop_reason == "epochs"
    assert result.executor == "lambda"
    assert result.rows_processed == here.rows_processed
    assert result.rows_repeated == 0
    # Of so few rows, who begins first has learnt from many before the last one begins.
    assert result.test_loss == pytest.approx(here.test_loss, rel=0.005)
    assert local.counts["cold"] == 4


def test_functions_make_data_sets_from_s3_to_s3(
    clicks: Dataset, clicks_text: Path, local_lambda: Start
) -> None:
    local = local_lambda(memory_mb=512)
    text = put("s3://bucket/text", clicks_text.read_bytes())
    cirrus_fast.load_libsvm(text, "made", executor="lambda")
    cirrus_fast.normalize("made", "scaled", "standard", executor="lambda")
    cirrus_fast.normalize("clicks", "scaled here", "standard")
    assert local.counts["cold"] >= 1
    for made, here in (("made", "clicks"), ("scaled", "scaled here")):
        ours, theirs = (objects(f"s3://bucket/data/{name}") for name in (made, here))
        assert ours.keys() == theirs.keys()
        assert {n for n in ours if ours[n] != theirs[n]} == {"manifest.json"}  # another source
        Dataset(made).verify()


def test_functions_are_not_asked_for_what_is_on_this_machine(
    clicks: Dataset, clicks_text: Path, local_lambda: Start, tmp_path: Path
) -> None:
    local = local_lambda(memory_mb=512)
    with pytest.raises(OptionError, match="is on this machine"):
        cirrus_fast.load_libsvm(clicks_text, "made", executor="lambda")
    with pytest.raises(OptionError, match="is on this machine"):
        cirrus_fast.normalize("clicks", str(tmp_path / "scaled"), "standard", executor="lambda")
    assert local.counts["cold"] == 0


# Faults


def test_ten_workers_whose_sandboxes_are_killed_at_random_end_all_the_same(
    clicks: Dataset, redis_server: Any, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How often a worker gets to no row before it is killed is the machine's affair.
    monkeypatch.setitem(workers._MOST_OF, "sandbox died", 100)
    wanted = options(redis_server, n_workers=10, test_fraction=0.05, epochs=8, sync_rows=500)
    undisturbed = LogisticRegression(wanted | {"executor": "processes"}).run()
    # Some six times in a run, or it would be the machine's too how many rows are repeated.
    faults = Faults(kill_every_s=max(0.7, undisturbed.seconds / 6))
    local = local_lambda(memory_mb=256, server={"faults": faults})
    result = LogisticRegression(wanted).run()
    assert local.counts["killed"] >= 2
    assert result.stop_reason == "epochs"
    assert result.rows_processed == undisturbed.rows_processed
    assert result.rows_repeated <= 0.15 * result.rows_processed
    # Two runs of ten workers differ by 0.2 % on so few rows, whatever befalls them, and more where
    # few of them get on at a time (bench/lambda_kills.py has more rows).
    assert result.test_loss == pytest.approx(undisturbed.test_loss, rel=0.01)
    assert keys_left(redis_server) == []


Short = Callable[[dict[str, Any]], tuple[LocalLambda, int]]


@pytest.fixture
def short(local_lambda: Start, monkeypatch: pytest.MonkeyPatch) -> Short:
    """short(options): a Lambda whose workers have little time, and epochs that take them longer: by
    what an epoch takes on this machine now, with all that comes before it."""
    # How often they get to no row all the same is the machine's affair.
    monkeypatch.setattr("cirrus_fast.backend.workers._MOST_IDLE", 100)

    def begin(options: dict[str, Any]) -> tuple[LocalLambda, int]:
        began = time.monotonic()
        tried = LogisticRegression(options | {"executor": "processes", "epochs": 1}).run()
        has_s = min(50.0, max(0.5, 1.2 * (time.monotonic() - began)))
        variables = {"CIRRUS_FAST_HAND_OVER_S": str(60 - has_s)}
        local = local_lambda(memory_mb=256, timeout_s=60, environment=variables)
        return local, math.ceil(2.2 * has_s / tried.history[-1].seconds)

    return begin


def test_a_function_whose_time_runs_out_hands_over(
    clicks: Dataset, redis_server: Any, short: Short, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = options(redis_server, n_workers=2, sync_rows=200)
    local, epochs = short(wanted)
    result = LogisticRegression(wanted | {"epochs": epochs}).run()
    assert len(local.logged("worker", "train hands over")) >= 2
    assert (local.counts["timeout"], local.counts["Unhandled"]) == (0, 0)
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * N_ROWS
    assert result.rows_repeated == 0
    assert "another takes its place" not in caplog.text


def test_a_function_without_the_time_to_begin_is_given_up(
    clicks: Dataset, redis_server: Any, local_lambda: Start
) -> None:
    local_lambda(timeout_s=0.05)
    with pytest.raises(TrainingError, match=r"timed out|has handed over 4 times without"):
        LogisticRegression(options(redis_server, n_workers=1)).run()
    assert keys_left(redis_server) == []


def test_a_function_that_is_too_small_is_refused_before_it_is_called(
    clicks: Dataset, redis_server: Any, local_lambda: Start, tmp_path: Path
) -> None:
    wide_text = tmp_path / "wide.svm"
    wide_text.write_text("1 1:1\n0 20000000:1\n" * 100)
    local = local_lambda(memory_mb=192)
    cirrus_fast.load_libsvm(wide_text, "wide", n_features=20_000_000)
    with pytest.raises(OptionError, match="worker_size=256: function worker has 192 MB; give work"):
        LogisticRegression(options(redis_server)).run()
    with pytest.raises(
        OptionError, match=r"worker_size=128: is too little .* model .* take \d+ MB"
    ):
        LogisticRegression(options(redis_server, worker_size=128, dataset="wide")).run()
    assert not local.counts
    assert keys_left(redis_server) == []


def test_a_function_that_runs_out_of_memory_ends_the_run(
    clicks: Dataset, redis_server: Any, local_lambda: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_lambda(memory_mb=32)
    monkeypatch.setattr("cirrus_fast.backend.supervisor.check_memory", lambda *_: None)
    says = r"given up after 3 deaths: function worker: out of memory: 32 MB are too few"
    with pytest.raises(TrainingError, match=says):
        LogisticRegression(options(redis_server, n_workers=1)).run()


def test_a_limit_below_the_workers_and_refusals_lose_none(
    clicks: Dataset, redis_server: Any, local_lambda: Start
) -> None:
    local = local_lambda(
        memory_mb=256, concurrency=2, server={"faults": Faults(0.3, (500, 502, 503))}
    )
    result = LogisticRegression(options(redis_server, n_workers=5, epochs=1)).run()
    assert result.rows_processed == N_ROWS
    assert result.rows_repeated == 0
    assert local.counts["429"] > 0


def test_workers_whose_answers_are_lost_are_known_by_what_they_say(
    clicks: Dataset,
    redis_server: Any,
    local_lambda: Start,
    proxy: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = local_lambda(memory_mb=256)
    way = proxy(int(local.url.rpartition(":")[2]))
    # Whatever Lambda answers to an invocation never comes.
    way.rule = lambda direction, _connection, _passed, data: (
        None if direction == "down" and b"X-Amz-Log-Result" in data else data
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{way.port}")
    result = LogisticRegression(options(redis_server, n_workers=2)).run()
    assert result.stop_reason == "epochs"
    assert result.rows_processed == 3 * N_ROWS
    assert result.rows_repeated == 0
    assert "its report is lost; its rows are not" in caplog.text
    assert local.counts["cold"] == 2


def test_a_function_that_gives_no_sign_is_given_up_and_its_rows_are_learnt(
    clicks: Dataset,
    redis_server: Any,
    local_lambda: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda._GRACE_S", 0.5)
    local = local_lambda(memory_mb=256)
    run = LogisticRegression(options(redis_server, n_workers=2, epochs=20)).start()
    while run.progress() is None and not run.done():
        time.sleep(0.02)
    os.kill(local.busy[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    # Long enough for the one in its place to start on a machine that is busy.
    monkeypatch.setattr("cirrus_fast.backend.workers._SILENT_S", 4.0)
    result = run.result(120)
    assert "has given no sign for 4 s; it is ended" in caplog.text
    assert "gave no sign any more; another takes its place" in caplog.text
    assert result.stop_reason == "epochs"
    assert result.rows_processed == 20 * N_ROWS
    assert result.rows_repeated < N_ROWS


CTRL_C = """
import sys, threading, time, signal, os
import cirrus_fast
from cirrus_fast import LogisticRegression
cirrus_fast.configure(storage="s3://bucket/data")
run = LogisticRegression(
    dataset="clicks", executor="lambda", param_store=sys.argv[1], worker_size=256, n_workers=4,
    epochs=100_000, epsilon=0, eval_interval=0.1, progress=False,
    callbacks=[lambda record: print("learning", flush=True) and None],
)
result = run.run()
print("ended", result.stop_reason, result.rows_processed > 0, flush=True)
"""


def test_ctrl_c_leaves_nothing_running(
    clicks: Dataset, redis_server: Any, local_lambda: Start
) -> None:
    local = local_lambda(memory_mb=256)
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C, redis_server.url], stdout=subprocess.PIPE, text=True
    ) as program:
        _press_ctrl_c(program, local)
    assert keys_left(redis_server) == []
    assert local.counts["answered"] == local.counts["cold"] + local.counts["warm"]


def _press_ctrl_c(program: subprocess.Popen[str], local: LocalLambda) -> None:
    assert program.stdout is not None
    assert program.stdout.readline() == "learning\n"
    assert local.busy
    program.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    while local.busy and time.monotonic() - pressed < 30:
        time.sleep(0.01)
    print(f"idle after {time.monotonic() - pressed:.2f} s")
    assert not local.busy
    rest = program.stdout.read()
    assert program.wait(30) == 0
    assert rest.splitlines()[-1] == "ended interrupted True"


# What is refused before anything is called


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"param_store": "memory"}, "executor=lambda cannot reach this machine's memory; give"),
        ({"param_store": "unix:///tmp/x"}, "executor=lambda cannot reach a socket of this"),
        ({"executor": "lambdas"}, "did you mean lambda"),
    ],
)
def test_stores_out_of_reach_are_refused_by_the_options(more: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        LogisticRegression({"dataset": "d", "executor": "lambda"} | more)


def test_data_out_of_reach_is_refused(
    storage_root: Path, clicks_text: Path, redis_server: Any, s3: Any
) -> None:
    cirrus_fast.load_libsvm(clicks_text, "here")
    with pytest.raises(OptionError, match=r"on this machine, where .* configure\(storage="):
        LogisticRegression(options(redis_server, dataset="here")).run()
    with pytest.raises(OptionError, match="is text, and executor=lambda reads data sets"):
        LogisticRegression(
            options(redis_server, dataset=str(clicks_text), model_size=1 << 13)
        ).run()


@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_workers_of_a_server_with_our_module_hand_over_too(
    clicks: Dataset, short: Short, tmp_path: Path, consistency: str
) -> None:
    server = Server(first_program(), tmp_path)
    wanted: dict[str, Any] = {
        "dataset": "clicks",
        "executor": "lambda",
        "param_store": f"redis://127.0.0.1:{server.port}",
        "consistency": consistency,
        "minibatch_size": 20 if consistency != "bsp" else 100,
        "worker_size": 256,
        "n_workers": 2,
        "epsilon": 0,
        "progress": False,
    }
    try:
        local, epochs = short(wanted)
        result = LogisticRegression(wanted | {"epochs": epochs}).run()
    finally:
        server.stop()
    assert "store=module" in result.param_store
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * N_ROWS
    assert result.rows_repeated == 0
    assert local.logged("worker", "train hands over")
