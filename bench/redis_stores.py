"""Plain Redis as a parameter store: ours beside what one would write first, on the same rows.

    python -m bench.redis_stores TRAIN.svm [--workers 10] [--seconds 5] [--only steps]

Starts a redis-server of its own. A step is: get the weights of a mini-batch's distinct ids, sum its
gradient, add what follows to the model. `model` is a pickled array (GET, then SET; moves of others
are lost), `hash` keeps a weight a field of a hash (HMGET, then HINCRBYFLOAT in a pipeline), `lua`
runs a script on a string of floats, `bitfield-py` has redis-py pack our own BITFIELD command; all
by redis-py with hiredis. Ours is the product, reading and all: worker processes of
`LogisticRegression(param_store=...)` that exchange every mini-batch.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cirrus_fast
from bench.link import Link
from cirrus_fast import LogisticRegression, _kernels
from cirrus_fast.backend.redis_server import LocalServer
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset, iterate
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.bsp import make_scratch

SIZE = 200
SCALE = 2.0**24
RATE = 0.01


class PickledStore:
    """All weights in one value."""

    def __init__(self, client: Any, n_weights: int) -> None:
        self.client = client
        self.client.set("pickled", pickle.dumps(np.zeros(n_weights, np.float32)), nx=True)
        self.weights = np.empty(0, np.float32)

    def pull(self, ids: np.ndarray) -> np.ndarray:
        self.weights = pickle.loads(self.client.get("pickled"))
        return self.weights[ids]

    def push(self, ids: np.ndarray, moves: np.ndarray) -> None:
        self.weights[ids] += moves
        self.client.set("pickled", pickle.dumps(self.weights))


class HashStore:
    """A field a weight."""

    def __init__(self, client: Any, n_weights: int) -> None:  # noqa: ARG002
        self.client = client

    def pull(self, ids: np.ndarray) -> np.ndarray:
        found = self.client.hmget("model", ids.tolist())
        return np.array([float(one or 0) for one in found], np.float32)

    def push(self, ids: np.ndarray, moves: np.ndarray) -> None:
        pipe = self.client.pipeline(transaction=False)
        for field, move in zip(ids.tolist(), moves.tolist(), strict=True):
            pipe.hincrbyfloat("model", field, move)
        pipe.execute()


class LuaStore:
    """A script that adds and reads, one call a step."""

    SCRIPT = """
        local unpack, pack, call, key = struct.unpack, struct.pack, redis.call, KEYS[1]
        for at = 1, #ARGV[1], 4 do
            local place = 4 * unpack('<I4', ARGV[1], at)
            local weight = unpack('<f', call('GETRANGE', key, place, place + 3))
            call('SETRANGE', key, place, pack('<f', weight + unpack('<f', ARGV[2], at)))
        end
        local found = {}
        for at = 1, #ARGV[3], 4 do
            local place = 4 * unpack('<I4', ARGV[3], at)
            found[#found + 1] = call('GETRANGE', key, place, place + 3)
        end
        return table.concat(found)
    """

    def __init__(self, client: Any, n_weights: int) -> None:
        client.setrange("floats", 4 * n_weights - 1, b"\0")
        self.script = client.register_script(self.SCRIPT)
        self.added = b"", b""

    def pull(self, ids: np.ndarray) -> np.ndarray:
        found = self.script(keys=["floats"], args=[*self.added, ids.astype("<u4").tobytes()])
        return np.frombuffer(found, "<f4")

    def push(self, ids: np.ndarray, moves: np.ndarray) -> None:
        self.added = ids.astype("<u4").tobytes(), moves.astype("<f4").tobytes()


class BitfieldStore:
    """Our command, packed by redis-py: one a step, that adds and reads."""

    def __init__(self, client: Any, n_weights: int) -> None:  # noqa: ARG002
        self.client = client
        self.added: list[Any] = []
        self.n_added = 0

    def pull(self, ids: np.ndarray) -> np.ndarray:
        command: list[Any] = ["BITFIELD", "string", *self.added]
        for place in ids.tolist():
            command += ("GET", "i32", f"#{place}")
        found = self.client.execute_command(*command)[self.n_added :]
        return np.array(found, np.float32) / np.float32(SCALE)

    def push(self, ids: np.ndarray, moves: np.ndarray) -> None:
        whole = np.rint(moves * SCALE).astype(np.int64)
        self.added, self.n_added = ["OVERFLOW", "SAT"], len(ids)
        for place, amount in zip(ids.tolist(), whole.tolist(), strict=True):
            self.added += ("INCRBY", "i32", f"#{place}", amount)


PEERS = {
    "model": PickledStore,
    "hash": HashStore,
    "lua": LuaStore,
    "bitfield-py": BitfieldStore,
}


def worker(kind: str, url: str, uri: str, number: int, seconds: float) -> None:
    """Prints how many steps it made in so many seconds, once the parent says go."""
    import redis

    dataset = Dataset(uri)
    scale = TrainingScale.of(
        dataset.columns, dataset.n_rows, optimizer="sgd", l1=0, l2=0, mean_weight=1
    )
    (rows,) = iterate(dataset, [number % len(dataset.blocks)])
    rows.labels[:] = dataset.manifest.label_map.positives(rows.labels)
    places = CSR(rows.labels, rows.indptr, scale.place[rows.indices], rows.data, len(scale.ids))
    optimizer = _kernels.Optimizer("sgd", RATE)
    state = np.zeros(len(scale.ids) + 1, np.float32)
    model = _kernels.TrainModel(optimizer, state, None)
    scratch = make_scratch(len(scale.ids), int(np.diff(rows.indptr).max()) * SIZE)
    store = PEERS[kind](redis.Redis.from_url(url), len(scale.ids) + 1)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        first = steps * SIZE % max(1, rows.n_rows - SIZE)
        order = np.arange(first, first + SIZE, dtype=np.uint32)
        parts = (places.labels, places.indptr, places.indices, places.data, None)
        n, _, _, _ = model.gradient(*parts, order, scratch)
        ids = np.asarray(scratch.distinct)[:n].copy()
        state[ids] = store.pull(ids)
        n, _, _, _ = model.gradient(*parts, order, scratch)
        store.push(ids, -RATE * np.asarray(scratch.gradient)[:n])
        steps += 1
    print(steps, flush=True)


def peer(kind: str, url: str, uri: str, n_workers: int, seconds: float) -> float:
    """Steps a second of all workers together."""
    command = [sys.executable, "-m", "bench.redis_stores", "--worker", kind, url, uri]
    running = [
        subprocess.Popen(
            [*command, str(number), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(n_workers)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    steps = sum(int(one.communicate()[0]) for one in running)
    return steps / seconds


def ours(url: str, uri: str, n_workers: int, **more: object) -> Any:
    plain: dict[str, object] = {"dataset": uri, "epsilon": 0, "epochs": 1, "param_store": url}
    plain |= {"n_workers": n_workers, "executor": "processes"}
    return LogisticRegression(plain | more).run()


def steps(url: str, uri: str, n_workers: int, seconds: float) -> Iterator[dict[str, object]]:
    """Updates a second, exchanging every mini-batch."""
    for kind in PEERS:
        yield {"store": kind, "updates/s": round(peer(kind, url, uri, n_workers, seconds))}
    more = {"minibatch_size": SIZE, "sync_rows": SIZE, "timeout": seconds + 3}
    result = ours(url, uri, n_workers, **more)
    last = result.history[-1]
    yield {
        "store": "ours",
        "updates/s": round(last.updates / last.seconds),
        "staleness": round(result.exchanges["staleness_mean"], 1),
    }


def rows(url: str, uri: str, test: str | None, n_workers: int) -> Iterator[dict[str, object]]:
    """Rows a second with the default interval, and the loss beside that of one in memory."""
    tests: dict[str, object] = {"test_dataset": test} if test else {"test_fraction": 0.05}
    tests |= {"epochs": 2, "eval_interval": 2}
    for name, where in (("memory, 1 worker", "memory"), (f"redis, {n_workers} workers", url)):
        alone = where == "memory"
        result = ours(where, uri, 1 if alone else n_workers, **tests)
        last = result.history[-1]
        yield {
            "store": name,
            "rows/s": round(last.rows / last.seconds),
            "test loss": round(float(result.test_loss), 5),
        }


def link(url: str, uri: str, seconds: float) -> Iterator[dict[str, object]]:
    """One worker over a round trip of 0.55 ms and 75 MB/s each way; the last time as by default."""
    place, rate = url.rpartition("@")[2], 75e6
    for depth in (1, 2, 4, None):
        with Link(place, rate=rate, round_trip=0.00055) as way:
            there = url.replace(place, f"{way.host}:{way.port}")
            more = {"minibatch_size": SIZE, "sync_rows": SIZE, "timeout": seconds + 2}
            result = ours(there, uri, 1, pipeline_depth=depth, **more)
        last, exchanges = result.history[-1], result.exchanges
        made = exchanges["exchanges"]
        most = max(exchanges["bytes_sent"], exchanges["bytes_received"]) / made
        measured = last.updates / last.seconds
        yield {
            "pipeline_depth": depth or result.params["pipeline_depth"],
            "steps/s": round(measured, 1),
            "bytes a step, up and down": [
                round(exchanges["bytes_sent"] / made),
                round(exchanges["bytes_received"] / made),
            ],
            "of what the bytes allow": round(measured / (rate / most), 3),
        }


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] == "--worker":
        kind, url, uri, number, seconds = sys.argv[2:]
        worker(kind, url, uri, int(number), float(seconds))
        return 0
    parser = argparse.ArgumentParser("python -m bench.redis_stores", description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", choices=("steps", "rows", "link"))
    parser.add_argument("--storage", help="a folder for the data set, to be used again")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server:
        cirrus_fast.configure(storage=chosen.storage or folder)
        dataset = cirrus_fast.load_libsvm(str(chosen.train), "train")
        test = None
        if chosen.test:
            test = cirrus_fast.load_libsvm(str(chosen.test), "test", like="train").uri
        parts = {
            "steps": lambda: steps(server.url, dataset.uri, chosen.workers, chosen.seconds),
            "rows": lambda: rows(server.url, dataset.uri, test, chosen.workers),
            "link": lambda: link(server.url, dataset.uri, chosen.seconds),
        }
        for name, part in parts.items():
            if chosen.only in (None, name):
                for line in part():
                    print(json.dumps({"part": name} | line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
