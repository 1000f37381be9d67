"""What holds the model, from what one would write first to what is here, on the same rows.

    python -m bench.ladder TRAIN.svm --test TEST.svm [--output bench/LADDER.md]

starts a server with our module and measures, mini-batches of 200 rows each pulled, learnt from and
pushed: each way to keep a model in Redis beside the module and the memory of one machine, by one
worker, by ten, and by one over a link of 75 MB/s each way and a round trip of 0.55 ms; then ten
workers of the module with what users have by default; where the time of a row goes; and the test
loss beside that of one worker. --only measures some of it, and leaves the rest of the file as it
is.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cirrus_fast
from bench.link import Link
from bench.module_steps import cpu_seconds
from bench.redis_stores import ours, peer
from cirrus_fast.backend.redis_server import find_server
from cirrus_fast.data.result import Record
from cirrus_fast.runtime.params.resp import Connection
from cirrus_fast.store_url import StoreUrl

RATE, ROUND_TRIP_S = 75e6, 0.00055
SIZE = 200
# What a row's time is made of; start-up is not of rows.
PHASES = ("storage_read", "decode", "pull", "compute", "push", "other")
WAITING = ("storage_read", "pull", "push")


@dataclass(frozen=True)
class Rung:
    """name : in the table
    peer : of redis_stores.PEERS; None: ours, with these options
    rows_under_way : of all workers together, more than a step of each
    """

    name: str
    peer: str | None = None
    store: str = "?store=module"
    options: tuple[tuple[str, Any], ...] = ()
    rows_under_way: int = 0


RUNGS = (
    Rung("pickled model, GET and SET", "model"),
    Rung("HMGET, HINCRBYFLOAT", "hash"),
    Rung("Lua script", "lua"),
    Rung("BITFIELD, packed by redis-py", "bitfield-py"),
    Rung("BITFIELD, packed in C", store="?store=bitfield", options=(("sync_rows", SIZE),)),
    Rung("module, a step at a time", options=(("pipeline_depth", 1),)),
    Rung("module, 4,000 rows under way", rows_under_way=4_000),
    Rung("memory of one machine", store="memory"),
)


class Server:
    """A redis-server with our module, by TCP and by a socket in the file system."""

    def __enter__(self) -> Server:
        self._folder = tempfile.mkdtemp(prefix="cirrus_fast_bench_")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.socket = f"{self._folder}/socket"
        self._process = subprocess.Popen(
            [
                str(find_server()), "--port", str(self.port), "--dir", self._folder, "--save", "",
                "--unixsocket", self.socket, "--loadmodule", cirrus_fast.redis_module_path(),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"redis://{self.address}"
        while not Path(self.socket).exists():
            time.sleep(0.02)
        self._wire = Connection(StoreUrl.parse(self.url))
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)

    def clear(self) -> None:
        self._wire.ask("FLUSHALL")

    def used(self) -> tuple[float, int]:
        """(seconds of processor time, bytes in and out)"""
        return cpu_seconds(self._process.pid), sum(self.traffic())

    def traffic(self) -> tuple[int, int]:
        """Bytes in, bytes out."""
        told = bytes(self._wire.ask("INFO", "stats")).decode()
        came, went = re.findall(r"total_net_(?:in|out)put_bytes:(\d+)", told)
        return int(came), int(went)


def measure(
    rung: Rung, server: Server, url: str, uri: str, n_workers: int, seconds: float
) -> tuple[float, float, float]:
    """(steps a second, bytes a step, microseconds of the server's processor a step)"""
    server.clear()
    cpu, moved = server.used()
    if rung.peer is not None:
        rate = peer(rung.peer, url, uri, n_workers, seconds)
        steps = rate * seconds
    else:
        where = "memory" if rung.store == "memory" else url + rung.store
        more: dict[str, Any] = {"epochs": 1000, "timeout": seconds + 2, "minibatch_size": SIZE}
        if rung.rows_under_way:
            more["pipeline_depth"] = max(1, rung.rows_under_way // (n_workers * SIZE))
        result = ours(where, uri, n_workers, **more | dict(rung.options))
        last = result.history[-1]
        steps, rate = last.updates, settled(result.history)
    more_cpu, more_moved = server.used()
    return rate, (more_moved - moved) / steps, (more_cpu - cpu) / steps * 1e6


def settled(history: list[Record]) -> float:
    """Updates a second once all workers have begun: from a third of the time on."""
    last = history[-1]
    first = next(record for record in history if record.seconds >= last.seconds / 3)
    return (last.updates - first.updates) / (last.seconds - first.seconds)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


Table = Iterator[list[str]]


def ladder(server: Server, uri: str, n_workers: int, seconds: float, *, far: bool = False) -> Table:
    yield ["", "steps/s", "bytes a step", "server, us a step"]
    for rung in RUNGS:
        if rung.store == "memory" and far:
            continue
        with contextlib.ExitStack() as stack:
            url = server.url
            if far:
                way = stack.enter_context(Link(server.address, rate=RATE, round_trip=ROUND_TRIP_S))
                url = f"redis://{way.address}"
            figures = measure(rung, server, url, uri, n_workers, seconds)
        shown = figures if rung.store != "memory" else figures[:1]
        yield [rung.name, *map(number, shown), *["-"] * (len(figures) - len(shown))]


def one(server: Server, uri: str, given: argparse.Namespace) -> Table:
    return ladder(server, uri, 1, given.seconds)


def many(server: Server, uri: str, given: argparse.Namespace) -> Table:
    return ladder(server, uri, given.workers, given.seconds)


def far(server: Server, uri: str, given: argparse.Namespace) -> Table:
    return ladder(server, uri, 1, given.seconds, far=True)


def workers(server: Server, uri: str, given: argparse.Namespace) -> Table:
    """What users have by default, and by a socket of the file system."""
    yield ["rows a mini-batch", "way", "updates/s", "bytes a step", "server, us a step",
           "workers with their start, us a step", "steps under way"]  # fmt: skip
    for size in (200, 20):
        for way, url in (("TCP", server.url), ("unix socket", f"unix://{server.socket}")):
            server.clear()
            cpu, _ = server.used()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = ours(
                url + "?store=module", uri, given.workers, epochs=1000, minibatch_size=size,
                timeout=given.seconds + 3,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            last, traffic = result.history[-1], result.exchanges
            n, steady = last.updates, settled(result.history)
            mine = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            yield [
                str(size), way, number(steady),
                number((traffic["bytes_sent"] + traffic["bytes_received"]) / n),
                number((server.used()[0] - cpu) / n * 1e6), number(mine / n * 1e6),
                str(result.params["pipeline_depth"]),
            ]  # fmt: skip


def phases(server: Server, uri: str, given: argparse.Namespace) -> Table:
    """TrainResult.breakdown of workers together, a row. Of what they waited, the time in line for a
    core is not the store's: the last column is without it, where workers tell (core_wait.py)."""
    names = (name.replace("_", " ") for name in PHASES)
    yield ["microseconds a row", *names, "waiting", "but for a core"]
    stores: list[tuple[str, str, int, dict[str, object]]] = []
    for n in (1, 2, given.workers):
        s = "" if n == 1 else "s"
        stores += [
            (f"memory, {n} worker{s}", "memory", n, {}),
            (f"module, {n} worker{s}", server.url + "?store=module", n, {}),
            (f"module, sync_rows=20000, {n} worker{s}", server.url + "?store=module", n,
             {"sync_rows": 20_000}),
            (f"plain strings, sync_rows=20000, {n} worker{s}", server.url + "?store=bitfield", n,
             {"sync_rows": 20_000}),
        ]  # fmt: skip
    for name, url, n, more in stores:
        server.clear()
        result = ours(url, uri, n, epochs=2 if n == 1 else 10, minibatch_size=SIZE, **more)
        spent = {phase: result.breakdown[phase] for phase in PHASES}
        a_row = [f"{1e6 * s / result.rows_processed:.2f}" for s in spent.values()]
        waiting, whole = sum(spent[phase] for phase in WAITING), sum(spent.values())
        for_a_core = result.exchanges.get("for_a_core")
        held_up = "-" if for_a_core is None else f"{(waiting - for_a_core) / whole:.0%}"
        yield [name, *a_row, f"{waiting / whole:.0%}", held_up]


def loss(server: Server, uri: str, given: argparse.Namespace) -> Table:
    """Two epochs; the model at their end."""
    yield ["2 epochs, adagrad", "test logloss", "beside one worker in memory", "rows/s"]
    first = None
    served = server.url + "?store=module"
    runs: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
        ("memory, 1 worker", "memory", 1, {}),
        ("module, 1 worker", served, 1, {}),
        (f"module, {given.workers} workers", served, given.workers, {}),
        *(
            (f"module, sync_rows=20000, {n} workers", served, n, {"sync_rows": 20_000})
            for n in (2, given.workers)
        ),
    )
    for name, url, n, more in runs:
        server.clear()
        result = ours(
            url, uri, n, epochs=2, epsilon=1e-12, patience=1000, eval_interval=2.0,
            minibatch_size=SIZE, test_dataset=given.test_uri, **more,
        )  # fmt: skip
        last = result.history[-1]
        found = float(last.test_loss)
        first = first or found
        yield [name, f"{found:.5f}", f"{found / first - 1:+.2%}", number(last.rows / last.seconds)]


@dataclass(frozen=True)
class Part:
    title: str
    rows: Callable[[Server, str, argparse.Namespace], Table]


PARTS = {
    "one": Part("One worker, steps of 200 rows", one),
    "many": Part("Ten workers, steps of 200 rows", many),
    "far": Part("One worker over a link of 75 MB/s and 0.55 ms", far),
    "workers": Part("Ten workers of the module, as by default", workers),
    "phases": Part("Where the time of a row goes", phases),
    "loss": Part("How good the model is", loss),
}


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def replaced(text: str, sections: dict[str, str]) -> str:
    """The report with these sections; others stay as they were."""
    heads = {part.title for part in PARTS.values()}
    found = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    found = {title: body.strip() for title, body in found.items() if title in heads} | sections
    parts = [f"## {p.title}\n\n{found[p.title]}\n" for p in PARTS.values() if p.title in found]
    about = "Written by `python -m bench.ladder`; docs/benchmarks.md says how to read it."
    return "\n".join(["# Where the model is kept\n", about + "\n", *parts])


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.ladder", description=__doc__.split("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, help="for the loss")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--storage", help="a folder for the data set, to be used again")
    parser.add_argument("--output", type=Path, help="where the report goes")
    given = parser.parse_args()
    chosen = given.only or [name for name in PARTS if name != "loss" or given.test]
    sections = {}
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        cirrus_fast.configure(storage=given.storage or folder)
        uri = cirrus_fast.load_libsvm(str(given.train), "train").uri
        given.test_uri = (
            given.test and cirrus_fast.load_libsvm(str(given.test), "test", like="train").uri
        )
        for name in chosen:
            part = PARTS[name]
            table = []
            for row in part.rows(server, uri, given):
                table.append(row)
                print(" | ".join(row), flush=True)
            sections[part.title] = markdown(table)
    if given.output:
        before = given.output.read_text() if given.output.exists() else ""
        given.output.write_text(replaced(before, sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
