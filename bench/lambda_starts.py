"""What a worker on Lambda costs before it learns: `python -m bench.lambda_starts [LAYER.zip]`.

On the Lambda of this machine (cirrus_fast/local_lambda), with a Redis and a server of S3's objects
beside it; 100,000 generated rows. LAYER.zip is what `cirrus-fast layer build` wrote; without it
what is installed stands for the layer. Prints, each the best and the median of some rounds,

* imports: seconds to `import cirrus_fast.runtime.handler` in a new process with only the layer on
  its path, less those of an empty program; beside NumPy, boto3 and redis-py alone;
* cold start to first gradient: from the call of `invoke` to when a worker was first seen to learn;
  and the same in a sandbox that has run another task before;
* warm invocation: round trip of a function that does nothing, sandbox and connection being there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cirrus_fast
from bench.objects import served, speak_to
from cirrus_fast import LambdaExecutor, LogisticRegression
from cirrus_fast.backend import aws_lambda
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.backend.redis_server import LocalServer
from cirrus_fast.data.storage import is_s3
from cirrus_fast.local_lambda.function import Function, installed_layer, link_runtime, unpack_layer
from cirrus_fast.local_lambda.server import LocalLambda

_ROUNDS, _WARM, _N_ROWS = 7, 200, 100_000
_GOALS = {"imports": "400", "first gradient": "700", "warm": "5"}


def _seconds(command: str, paths: list[Path]) -> float:
    """Of a program in a process of its own."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-s", "-S", "-P", "-B", "-c", command],
        env={"PYTHONPATH": os.pathsep.join(map(str, paths)), "PATH": os.environ["PATH"]},
        check=True,
    )
    return time.perf_counter() - began


def imports(layer: Path, runtime: Path) -> dict[str, list[float]]:
    """By what is imported; rounds in turn, so that all see the same machine."""
    programs = {
        "our handler, with NumPy and kernels": "import cirrus_fast.runtime.handler",
        "NumPy alone": "import numpy",
        "boto3 and a client of S3": "import boto3; boto3.client('s3', 'us-east-1')",
    }
    paths = [layer / "python", runtime]
    took: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(_ROUNDS):
        empty = _seconds("pass", paths)
        for name, program in programs.items():
            took[name].append(_seconds(program, paths) - empty)
    return took


def first_gradient(
    function: Function, uri: str, store: str, *, warm: bool = False, **options: Any
) -> list[float]:
    """With a sandbox of its own each time; warm: that has run a task before."""
    took = []
    runs: list[RedisRun] = []
    create = Plan.create_store

    def remembered(plan: Plan, task: str) -> Any:
        runs.append(create(plan, task))  # type: ignore[arg-type]
        return runs[-1]

    Plan.create_store = remembered  # type: ignore[method-assign]
    calls: list[aws_lambda._Call] = []

    class Noting(LambdaExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
            calls.append(super().submit(fn, *args, **more))  # type: ignore[arg-type]
            return calls[-1]

    for _ in range(_ROUNDS):
        with LocalLambda([function]) as local, Noting("worker", endpoint=local.url) as functions:
            plain = {"dataset": uri, "executor": functions, "param_store": store}
            plain |= {"n_workers": 1, "epochs": 1, "epsilon": 0}
            for _ in range(1 + warm):
                LogisticRegression(plain | options).run()
            assert local.counts["cold"] == 1
        sent_at, began = calls[-1].sent_at, runs[-1].first_step
        assert sent_at is not None
        assert began is not None
        took.append(began - sent_at)
    Plan.create_store = create  # type: ignore[method-assign]
    return took


def warm(function: Function) -> list[float]:
    took = []
    with (
        LocalLambda([function]) as local,
        LambdaExecutor("worker", endpoint=local.url) as functions,
    ):
        for _ in range(_WARM):
            began = time.perf_counter()
            functions.submit(is_s3, "x").result()
            took.append(time.perf_counter() - began)
    return took[10:]


def _row(what: str, took: list[float], goal: str = "") -> None:
    best, middle = min(took) * 1e3, statistics.median(took) * 1e3
    print(f"| {what} | {best:.1f} | {middle:.1f} | {goal} |", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        opt = folder / "opt"
        layer = unpack_layer(sys.argv[1], opt) if len(sys.argv) > 1 else installed_layer(opt)
        runtime = link_runtime(folder / "runtime")
        (folder / "s3" / "bucket").mkdir(parents=True)
        cirrus_fast.make_clicks(folder / "clicks.svm", _N_ROWS, seed=1)
        cirrus_fast.load_libsvm(folder / "clicks.svm", str(folder / "s3" / "bucket" / "clicks"))
        print("| what, ms | best | median | goal |\n|---|---|---|---|")
        for name, took in imports(layer, runtime).items():
            _row(f"import {name}", took, _GOALS["imports"] if "our" in name else "")
        with served(folder / "s3") as address, LocalServer() as server:
            speak_to(address)
            aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            function = Function("worker", layer, environment=aws | store_password(server.url))
            uri = "s3://bucket/clicks"
            cold = first_gradient(function, uri, server.url)
            _row("cold start to first gradient", cold, _GOALS["first gradient"])
            again = first_gradient(function, uri, server.url, warm=True)
            _row("warm sandbox to first gradient", again)
            _row("warm invocation", warm(function), _GOALS["warm"])


def store_password(url: str) -> dict[str, str]:
    """Of the server, for the function's environment: no event has it."""
    from urllib.parse import urlsplit

    from cirrus_fast.store_url import PASSWORD_VARIABLE

    return {PASSWORD_VARIABLE: urlsplit(url).password or ""}


if __name__ == "__main__":
    main()
