"""What killing sandboxes costs a run: `python -m bench.lambda_kills [--seeds 5] [LAYER.zip]`.

On the Lambda of this machine (cirrus_fast/local_lambda), with a Redis and a server of S3's objects
beside it. Per seed, which decides rows and order, made-up click rows are learnt from once with the
same options three times: by one worker, by ten, and by ten of whose sandboxes one, drawn at random,
is killed every second from the first to the last. Prints a row for each seed: log-loss on test rows
of their own, how many sandboxes were killed in how many seconds, and which part of the rows may
have been learnt from twice. Rows are exchanged few at a time, so that a run is long and the model
always on the way; with `--module` fewer still, `--minibatch 2`. Then, over the seeds, mean and
standard deviation of each loss, and of what the ten and the killed ones differ from one and from
the undisturbed ten by, in per cent, and the most of it; exit status 1 if any is beyond 0.2 %, a row
is not accounted, or more than 15 % are twice. Give it a machine of its own: where a worker takes
longer to begin than it lives, runs are given up, as they should be.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import cirrus_fast
from bench.lambda_starts import store_password
from bench.objects import served, speak_to
from cirrus_fast import LogisticRegression, TrainResult
from cirrus_fast.backend.redis_server import LocalServer
from cirrus_fast.local_lambda.function import Function, installed_layer, unpack_layer
from cirrus_fast.local_lambda.server import Faults, LocalLambda

_MOST_OFF, _MOST_TWICE = 0.002, 0.15


def _data(folder: Path, seed: int, n_rows: int, n_test: int) -> dict[str, Any]:
    """Training and test rows of one law."""
    named: dict[str, Any] = {}
    for stream, (option, n) in enumerate((("dataset", n_rows), ("test_dataset", n_test))):
        text, like = folder / "clicks.svm", named.get("dataset")
        cirrus_fast.make_clicks(text, n, seed=seed, stream=stream)
        path = folder / "s3" / "bucket" / f"{option}-{seed}"
        cirrus_fast.load_libsvm(text, str(path), like=like and str(path.with_name(like)))
        text.unlink()
        named[option] = path.name
    return {option: f"s3://bucket/{name}" for option, name in named.items()}


def _run(function: Function, options: dict[str, Any], kill_every_s: float = 0.0) -> Any:
    """(result, sandboxes killed)"""
    faults = Faults(kill_every_s=kill_every_s)
    with LocalLambda([function], faults=faults) as local:
        os.environ["AWS_ENDPOINT_URL_LAMBDA"] = local.url
        return LogisticRegression(options).run(), local.counts["killed"]


def _per_cent(values: list[float]) -> str:
    mean, spread, most = statistics.mean(values), statistics.stdev(values), max(values, key=abs)
    return f"{100 * mean:+.3f} +- {100 * spread:.3f} %, at most {100 * most:+.3f} %"


def compare(
    function: Function, folder: Path, store: str, given: argparse.Namespace
) -> dict[str, list[TrainResult]]:
    """By kind of run, a result for each seed."""
    results: dict[str, list[TrainResult]] = {"one worker": [], "ten": [], "ten, killed": []}
    print("| seed |", " | ".join(results), "| killed | seconds | rows twice |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in range(1, given.seeds + 1):
        options: dict[str, Any] = {
            **_data(folder, seed, given.rows, given.rows // 5),
            "executor": "lambda",
            "param_store": store,
            "worker_size": 512,
            "minibatch_size": given.minibatch,
            **({} if given.module else {"sync_rows": given.minibatch}),
            "epochs": 1,
            "epsilon": 0,
            "seed": seed,
            "progress": False,
        }
        killed = 0
        for kind, found in results.items():
            every = given.every if "killed" in kind else 0.0
            workers = 1 if "one" in kind else given.workers
            result, killed = _run(function, options | {"n_workers": workers}, every)
            found.append(result)
        losses = " | ".join(f"{found[-1].test_loss:.5f}" for found in results.values())
        twice = result.rows_repeated / result.rows_processed
        print(f"| {seed} | {losses} | {killed} | {result.seconds:.0f} | {twice:.2%} |", flush=True)
    return results


def judge(results: dict[str, list[TrainResult]], n_rows: int) -> bool:
    """Prints means and spread; whether all is as it must be."""
    losses = {kind: [one.test_loss or 0.0 for one in found] for kind, found in results.items()}
    for kind, found in losses.items():
        print(f"{kind}: {statistics.mean(found):.5f} +- {statistics.stdev(found):.5f}")
    one, ten, killed = losses.values()
    good = True
    for name, ours, theirs in (
        ("ten beside one", ten, one),
        ("killed beside ten", killed, ten),
        ("killed beside one", killed, one),
    ):
        off = [a / b - 1 for a, b in zip(ours, theirs, strict=True)]
        print(f"{name}: {_per_cent(off)}")
        good = good and max(map(abs, off)) <= _MOST_OFF
    for found in results.values():
        for result in found:
            good = good and result.stop_reason == "epochs" and result.rows_processed == n_rows
            good = good and result.rows_repeated <= _MOST_TWICE * n_rows
    print("within 0.2 %, all rows accounted, few twice" if good else "NOT as it must be")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Sandboxes killed, beside runs undisturbed.")
    parser.add_argument("layer", nargs="?", help="what `cirrus-fast layer build` wrote")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 100), metavar="N")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--minibatch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--module", action="store_true", help="a Redis with our module")
    given = parser.parse_args()
    logging.getLogger("cirrus_fast").setLevel(logging.ERROR)  # not of each that dies
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "s3" / "bucket").mkdir(parents=True)
        opt = folder / "opt"
        layer = unpack_layer(given.layer, opt) if given.layer else installed_layer(opt)
        with served(folder / "s3") as address, LocalServer(module=given.module) as server:
            speak_to(address)
            os.environ["CIRRUS_FAST_FUNCTION"] = "worker"
            aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            environment = aws | store_password(server.url)
            function = Function("worker", layer, environment=environment, memory_mb=512)
            results = compare(function, folder, server.url, given)
    return 0 if judge(results, given.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
