"""Training from S3 while requests fail, until so many have: `make soak-s3 S3_FAULTS=10000`.

Each round trains with random options, on a data set behind a real HTTP server that fails a random
share of requests in random ways: refusals (500, 503, SlowDown), connections closed, cut or stalled
after a random number of bytes, bodies shorter than asked for, bits that turn over. The temporary
folder may be full, or fill up. In some rounds something happens that does not pass: credentials
expire, a shard is deleted or replaced. In others the text is loaded anew meanwhile. After every
round it is checked that

* what passes was survived, with every row learnt from exactly `epochs` times; with bsp or one
  worker the model is that of the undisturbed run, bit for bit; text gave the same data set;
* or the run ended with an error of one line that names the object, where requests failed too often
  in a row, or for good;
* no descriptor, thread or temporary file is left.

The first thing that is wrong ends it with exit status 1 and the options of the run.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from s3_server import Faults, S3Server

import cirrus_fast
from cirrus_fast import LogisticRegression, TrainResult
from cirrus_fast.data import loading, s3, s3_source
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.s3 import S3Storage
from cirrus_fast.data.s3_get import Getter
from cirrus_fast.errors import CirrusFastError
from cirrus_fast.runtime import memory
from cirrus_fast.runtime.memory import Memory

N_ROWS, BLOCK_ROWS, RUN_BYTES = 20_000, 50, 2600
TIMEOUT_S = 0.5
# Stalls take long; so many of those that are drawn happen.
STALLS = 0.1
ROOT, SET, TEXT = "s3://bucket/sets", "s3://bucket/sets/clicks", "s3://bucket/text/clicks.svm"
REFUSALS = ("500 InternalError", "503 ServiceUnavailable", "503 SlowDown", "400 RequestTimeout")
# Those that bring some bytes may be more: six in a row that bring none are the end.
FRUITFUL = ("reset", "short", "truncated", "stall", "glitch")
# What does not pass, and what it is called.
LASTING = {
    "403 ExpiredToken": "the credentials have expired .403 ExpiredToken.; renew them",
    "403 AccessDenied": "403 AccessDenied; may these credentials read it",
    "deleted": "no such object .404 NoSuchKey.",
    # Who comes to it only then finds a block that is not what was written.
    "replaced": "was replaced while it was being read|checksum mismatch: the block is damaged",
}
GAVE_UP = r"(the server said|connection lost|the answer ended|no answer within).*\(attempt \d+\)"


class Wrong(Exception):
    """Something that must not be."""


class _Plan:
    """Which request fails how. Is asked on the server's threads, some of which may come late."""

    def __init__(
        self, soak: Soak, share: float, kinds: list[str], lasting: str | None, first: int
    ) -> None:
        """lasting : what happens with the blocks' request of number `first`, and stays"""
        self._soak = soak
        self._share, self._kinds = share, kinds
        self.lasting, self._left = lasting, first
        self._draw = random.Random(soak.random.random())
        self._lock = threading.Lock()
        self._over = self._changed = False

    def __call__(self, path: str) -> str | None:
        is_block = "/shard-" in path
        with self._lock:
            if self._over:
                return None
            self._left -= is_block
            if self.lasting and is_block and self._left <= 0:
                if self.lasting[0].isdigit():
                    return self.lasting
                if not self._changed:
                    self._changed = True
                    self._soak.change(self.lasting)
            fault = None
            if self._draw.random() < self._share:
                fault = self._draw.choice(self._kinds)
            if fault == "stall" and self._draw.random() > STALLS:
                return None
        # Damage beside the blocks is an error, and no trial of endurance.
        return None if fault in ("truncated", "glitch") and not is_block else fault

    def end(self) -> None:
        with self._lock:
            self._over = True


class Soak:
    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.tally: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.rows = 0
        self.references: dict[str, Float32Array] = {}
        self.memory = Memory(rows=90_000, group=20_000)
        self.server = S3Server()
        os.environ |= {
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "TMPDIR": str(folder / "temporary"),
        }
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        tempfile.tempdir = None
        self._shorten()
        s3.client().create_bucket(Bucket="bucket")
        cirrus_fast.make_clicks(folder / "clicks.svm", N_ROWS, seed=seed, hash_bits=12)
        self.text = (folder / "clicks.svm").read_bytes()
        S3Storage(TEXT.rpartition("/")[0]).write("clicks.svm", self.text)
        cirrus_fast.load_libsvm(TEXT, SET)
        storage = S3Storage(SET)
        (self.shard,) = (name for name in storage.names() if name.startswith("shard-"))
        self.content = storage.read(self.shard)

    def _shorten(self) -> None:
        """Nothing waits between attempts, nor long for an answer, and pieces are small."""
        at_once = partial(Getter, timeout=TIMEOUT_S, pause=lambda _seconds: None)
        for place, name, value in (
            (s3, "Getter", at_once),
            (Memory, "of", lambda *_sizes: self.memory),
            (memory, "RUN_BYTES", RUN_BYTES),
            (loading, "BLOCK_ROWS", BLOCK_ROWS),
            (s3_source, "RANGE_BYTES", 20_000),
        ):
            assert hasattr(place, name)
            setattr(place, name, value)

    def round(self) -> None:
        pick = self.random.choice
        what = pick(("run",) * 8 + ("load", *LASTING))
        consistency = pick(("async", "ssp", "bsp"))
        options = {
            "dataset": SET,
            "epsilon": 0,
            "epochs": self.random.randint(1, 6),
            "consistency": consistency,
            "n_workers": self.random.randint(1, 4),
            "minibatch_size": 500 if consistency == "bsp" else pick((1, 20, 100)),
            "optimizer": pick(("adagrad", "ftrl", "sgd")),
            "progress": False,
        }
        # From a worker that holds all decoded rows to one that holds a few blocks.
        rows = pick((70_000, 200_000, 1_000_000, 40_000_000))
        self.memory = Memory(rows=rows, group=rows // pick((5, 10)))
        fruitful = self.random.random() < 0.5
        share = self.random.uniform(0.3, 0.7) if fruitful else self.random.uniform(0.1, 0.25)
        choices = FRUITFUL if fruitful else (*FRUITFUL, *REFUSALS, "silence")
        kinds = self.random.sample(choices, self.random.randint(1, len(choices)))
        lasting = None if what in ("run", "load") else what
        plan = _Plan(self, share, kinds, lasting, self.random.randint(1, 40))
        faults = Faults(plan, after=None, stall_s=TIMEOUT_S * 1.5)
        told = f"{what}, {options}, {self.memory}, {share:.2f} of {kinds}"
        before = _left()
        try:
            with self._disk():
                if what == "load":
                    self._load(faults, told)
                else:
                    self._run(options, faults, plan, told)
        finally:
            self.injected += faults.injected
        self._check_left(before, told)
        self.tally["rounds"] += 1

    def change(self, how: str) -> None:
        if how == "deleted":
            S3Storage(SET).delete(self.shard)
        else:
            S3Storage(SET).write(self.shard, self.content[:-1] + bytes([self.content[-1] ^ 1]))

    def _run(self, options: dict[str, Any], faults: Faults, plan: _Plan, told: str) -> None:
        lasting = plan.lasting
        try:
            expected = self._expected(options)
            self.server.faults = faults
            result = LogisticRegression(options).run()
        except CirrusFastError as error:
            says = str(error)
            if lasting and re.search(LASTING[lasting], says) and f"{SET}/shard-" in says:
                self.tally[f"runs ended by: {lasting}"] += 1
            elif re.search(f"{SET}/.*{GAVE_UP}", says):
                self.tally["ended, since requests failed too often in a row"] += 1
            else:
                raise Wrong(f"{error}: {told}") from error
            if "\n" in says:
                raise Wrong(f"an error of several lines: {error}: {told}") from error
            return
        finally:
            self.server.faults = Faults()
            plan.end()
            if lasting in ("deleted", "replaced"):
                S3Storage(SET).write(self.shard, self.content)
        self.tally["runs to the end"] += 1
        self._check_rows(result, options, expected, told)

    def _expected(self, options: dict[str, Any]) -> Float32Array | None:
        """The undisturbed run's weights, where they are determined."""
        if options["n_workers"] > 1 and options["consistency"] != "bsp":
            return None
        key = repr(sorted(options.items())) + repr(self.memory)
        if key not in self.references:
            self.references[key] = LogisticRegression(options).run().model.weights
        return self.references[key]

    def _check_rows(
        self,
        result: TrainResult,
        options: dict[str, Any],
        expected: Float32Array | None,
        told: str,
    ) -> None:
        wanted = options["epochs"] * N_ROWS
        if (result.rows_processed, result.rows_repeated) != (wanted, 0):
            raise Wrong(f"{result.rows_processed} rows instead of {wanted}: {told}")
        self.rows += wanted
        weights = result.model.weights
        if not np.isfinite(weights).all():
            raise Wrong(f"the model has numbers that are none: {told}")
        if expected is not None:
            self.tally["models compared, all alike"] += 1
            if weights.tobytes() != expected.tobytes():
                raise Wrong(f"not the model of the undisturbed run: {told}")

    def _load(self, faults: Faults, told: str) -> None:
        self.server.faults = faults
        try:
            loaded = cirrus_fast.load_libsvm(TEXT, f"{ROOT}/loaded", overwrite=True)
        except CirrusFastError as error:
            if not re.search(GAVE_UP, str(error)):
                raise Wrong(f"{error}: {told}") from error
            self.tally["loads that gave up"] += 1
            return
        finally:
            self.server.faults = Faults()
        (shard,) = loaded.manifest.shard_sizes
        if S3Storage(f"{ROOT}/loaded").read(shard) != self.content:
            raise Wrong(f"another data set was loaded: {told}")
        self.tally["loads, all alike"] += 1

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """A temporary folder that has room, has none, or fills up."""
        room = self.random.choice((None, 0, 0, 30_000))
        if room is None:
            yield
            return
        pwrite = os.pwrite

        def write(descriptor: int, data: memoryview, at: int) -> int:
            if at >= room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwrite(descriptor, data[: room - at], at)

        os.pwrite = write  # type: ignore[assignment]
        self.tally["rounds without room on the disk"] += 1
        try:
            yield
        finally:
            os.pwrite = pwrite

    def _check_left(self, before: tuple[int, int], told: str) -> None:
        naps = iter(range(400))  # and not seconds: all of it may be held up meanwhile
        while any(now > then for now, then in zip(_left(), before, strict=True)):
            if next(naps, None) is None:
                raise Wrong(f"(descriptors, threads) were {before}, are {_left()}: {told}")
            gc.collect()
            time.sleep(0.05)
        if left := list(self.temporary.iterdir()):
            raise Wrong(f"left {left}: {told}")


def _left() -> tuple[int, int]:
    """(open descriptors, threads), those of connections that are kept aside."""
    s3.forget()
    threads = [t for t in threading.enumerate() if t.name.startswith("cirrus")]
    files = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            files += not str(link.readlink()).startswith("socket:")
        except OSError:  # that of the folder itself
            continue
    return files, len(threads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    logging.getLogger("cirrus_fast").setLevel(logging.ERROR)
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(given.seed, Path(folder))
        try:
            while soak.injected.total() < given.faults:
                soak.round()
        except Wrong as wrong:
            print(f"wrong: {wrong}", file=sys.stderr)
            return 1
        finally:
            took = time.monotonic() - began
            for what, times in sorted((soak.tally + soak.injected).items()):
                print(f"{times:8,} {what}")
            print(f"{soak.rows:8,} rows learnt from, as many as there should be")
            print(f"{soak.injected.total():8,} faults in {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
