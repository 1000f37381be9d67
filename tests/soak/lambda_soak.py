"""Runs on Lambda of this machine with every fault mixed: `make soak-lambda MINUTES=2`.

Each round trains with random options on sandboxes from what is installed, while several things go
wrong at once: sandboxes are killed, time runs out and workers hand over, Lambda refuses calls (429
beyond a limit, 5xx at random), answers to invocations are lost, requests to S3 fail, the connection
to Redis is cut; some rounds are ended by Ctrl-C or `stop`. After every round it is checked that

* it ended for a reason that the faults explain;
* a run to the end has learnt from every row exactly `epochs` times, and says that no more than 15 %
  may have been learnt from twice; its loss is within 1.5 % of one undisturbed worker's, where as
  many undisturbed ones end up to 0.7 % off on so few rows;
* all sandboxes are idle soon (how soon at most is printed), and the run has left no key in Redis;
* no descriptor and no thread is left.

The first thing that is wrong ends it with exit status 1 and the options of the round.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import s3_server
from redis_server import Proxy, RedisServer, keys_left

import cirrus_fast
from cirrus_fast import LogisticRegression
from cirrus_fast.backend import workers
from cirrus_fast.data import loading, s3
from cirrus_fast.local_lambda.function import Function, installed_layer
from cirrus_fast.local_lambda.server import Faults, LocalLambda

N_ROWS, BLOCK_ROWS = 100_000, 1000
DATA = "s3://bucket/clicks"
FAULTS = (
    "kill",
    "kill",
    "hand over",
    "limit",
    "refuse",
    "lose",
    "s3",
    "redis",
    "interrupt",
    "stop",
)
# How long sandboxes that are killed live on average, and how long they may be busy after the end
# of a run: as long as a machine that is busy otherwise may need.
SANDBOX_LIVES_S, IDLE_S = 5.0, 30.0
MOST_LOSS = 1.015


class Wrong(Exception):
    """Something that must not be."""


class Soak:
    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.tally: Counter[str] = Counter()
        self.idle_s = 0.0  # that it took, at most, until sandboxes were idle
        self.s3 = s3_server.S3Server()
        self.redis = RedisServer(folder / "redis")
        self.layer = installed_layer(folder / "opt")
        for name in [name for name in os.environ if name.startswith(("AWS_", "CIRRUS_FAST_"))]:
            del os.environ[name]
        self.aws = {
            "AWS_ENDPOINT_URL": self.s3.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull + "/none",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull + "/none",
        }
        os.environ |= self.aws | {"CIRRUS_FAST_FUNCTION": "worker"}
        s3.forget()
        s3.client().create_bucket(Bucket="bucket")
        loading.BLOCK_ROWS = BLOCK_ROWS
        cirrus_fast.make_clicks(folder / "clicks.svm", N_ROWS, seed=seed, hash_bits=12)
        cirrus_fast.load_libsvm(folder / "clicks.svm", DATA)
        self.losses: dict[int, float] = {}

    def loss(self, epochs: int) -> float:
        """Of an undisturbed run of one worker."""
        if epochs not in self.losses:
            plain = {"dataset": DATA, "epochs": epochs, "epsilon": 0, "test_fraction": 0.05}
            found = LogisticRegression(plain, n_workers=1).run().test_loss
            assert found is not None
            self.losses[epochs] = found
        return self.losses[epochs]

    def round(self) -> None:
        faults = set(self.random.sample(FAULTS, self.random.randint(1, 4)))
        if self.random.random() < 0.5:
            faults -= {"interrupt", "stop"}
        options = self._options()
        what = f"{options} faults={sorted(faults)}"
        expected = self.loss(options["epochs"])
        before = self._left()
        with ExitStack() as stack:
            local, url = self._begin(stack, faults, options["n_workers"])
            os.environ["AWS_ENDPOINT_URL_LAMBDA"] = url
            store = self._store(stack, faults)
            run = LogisticRegression(options, param_store=store)
            stack.enter_context(self._disturbed(faults))
            try:
                result = self._run(run, faults)
            except Exception as error:
                raise Wrong(f"{type(error).__name__}: {error}: {what}") from error
            ended = time.monotonic()
            while local.busy and time.monotonic() - ended < IDLE_S:
                time.sleep(0.02)
            self.idle_s = max(self.idle_s, time.monotonic() - ended)
            if local.busy:
                raise Wrong(f"{len(local.busy)} sandboxes are busy after {IDLE_S} s: {what}")
            self.tally.update({f"sandboxes: {k}": n for k, n in local.counts.items()})
        left = keys_left(self.redis)
        if left:
            raise Wrong(f"keys are left: {left}: {what}")
        self._check(result, options, expected, faults, what)
        self._check_left(before, what)
        self.tally.update(f"rounds with {fault}" for fault in faults)
        self.tally[f"ended: {result.stop_reason}"] += 1
        self.tally["rows repeated"] += result.rows_repeated
        self.tally["rows"] += result.rows_processed

    def _options(self) -> dict[str, Any]:
        pick = self.random.choice
        options: dict[str, Any] = {
            "dataset": DATA,
            "executor": "lambda",
            "worker_size": 256,
            "n_workers": self.random.randint(2, 10),
            "epochs": self.random.randint(2, 8),
            "epsilon": 0,
            "test_fraction": 0.05,
            "optimizer": pick(("adagrad", "adagrad", "sgd")),
            "sync_rows": pick((200, 500, 2000)),
            "pipeline_depth": pick((1, 2)),
            "progress": False,
        }
        return options

    def _begin(self, stack: ExitStack, faults: set[str], n_workers: int) -> tuple[LocalLambda, str]:
        environment = dict(self.aws)
        if "hand over" in faults:
            environment["CIRRUS_FAST_HAND_OVER_S"] = str(900 - self.random.uniform(1, 3))
        function = Function("worker", self.layer, environment=environment, memory_mb=256)
        wrong = Faults(
            0.2 if "refuse" in faults else 0,
            kill_every_s=max(1.0, SANDBOX_LIVES_S / n_workers) if "kill" in faults else 0.0,
            draw=self.random,
        )
        limit = 4 if "limit" in faults else 1000
        local = stack.enter_context(LocalLambda([function], concurrency=limit, faults=wrong))
        if "lose" not in faults:
            return local, local.url
        way = Proxy(int(local.url.rpartition(":")[2]))
        stack.callback(way.stop)
        way.rule = lambda direction, _connection, _passed, data: (
            None if direction == "down" and self.random.random() < 0.3 else data
        )
        return local, f"http://127.0.0.1:{way.port}"

    def _store(self, stack: ExitStack, faults: set[str]) -> str:
        if "redis" not in faults:
            return self.redis.url
        way = Proxy(self.redis.port)
        stack.callback(way.stop)
        way.rule = lambda _direction, _connection, _passed, data: (
            None if self.random.random() < 0.0005 else data
        )
        return way.url

    @contextmanager
    def _disturbed(self, faults: set[str]) -> Iterator[None]:
        if "s3" in faults:
            kinds = ("500", "503", "silence", "reset", "short", "glitch")
            self.s3.faults = s3_server.Faults.some(0.05, kinds, self.random.randint(0, 99))
        try:
            yield
        finally:
            self.s3.faults = s3_server.Faults()

    def _run(self, task: LogisticRegression, faults: set[str]) -> Any:
        """In a thread of its own, so that it can be stopped."""
        run = task.start()
        if faults & {"interrupt", "stop"}:
            until = time.monotonic() + self.random.uniform(1, 6)
            while time.monotonic() < until and not run.done():
                time.sleep(0.05)
            run.stop()
        return run.result(600)

    def _check(
        self, result: Any, options: dict[str, Any], expected: float, faults: set[str], what: str
    ) -> None:
        reasons = {"epochs", "stopped"} if faults & {"interrupt", "stop"} else {"epochs"}
        if result.stop_reason not in reasons:
            raise Wrong(f"ended by {result.stop_reason}: {what}")
        if result.stop_reason != "epochs":
            return
        wanted = self._rows(options["epochs"])
        if result.rows_processed != wanted:
            raise Wrong(f"{result.rows_processed} rows, not {wanted}: {what}")
        if result.rows_repeated > 0.15 * wanted:
            raise Wrong(f"{result.rows_repeated} of {wanted} rows repeated: {what}")
        if options["optimizer"] == "adagrad" and result.test_loss > MOST_LOSS * expected:
            raise Wrong(f"loss {result.test_loss}, undisturbed {expected}: {what}")

    def _rows(self, epochs: int) -> int:
        from cirrus_fast.backend.plan import Plan
        from cirrus_fast.options import parse_options

        plain = {"dataset": DATA, "epsilon": 0, "test_fraction": 0.05, "n_workers": 1}
        return epochs * Plan.make(parse_options(plain)).n_train

    def _left(self) -> tuple[int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    def _check_left(self, before: tuple[int, int], what: str) -> None:
        """Connections are closed a moment later by those at their other end."""
        until = time.monotonic() + 20
        while True:
            after = self._left()
            # Connections to S3 are kept, of one thread each at both ends.
            if after[0] <= before[0] + 40 and after[1] <= before[1] + 20:
                return
            if time.monotonic() > until:
                raise Wrong(f"descriptors and threads: {before} before, {after} after: {what}")
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    logging.getLogger("cirrus_fast").setLevel(logging.ERROR)
    # How often a worker gets to no row before it is killed is the machine's affair.
    workers._MOST_OF["sandbox died"] = workers._MOST_IDLE = 100
    print(f"seed {given.seed}", flush=True)
    until = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(given.seed, Path(folder))
        try:
            soak.round()
            while time.monotonic() < until:
                soak.round()
        except Wrong as wrong:
            print(f"wrong: {wrong}", file=sys.stderr)
            return 1
        finally:
            soak.redis.stop()
            for what, times in sorted(soak.tally.items()):
                print(f"{times:8} {what}")
            print(f"{soak.idle_s:8.2f} s until all sandboxes were idle, at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
