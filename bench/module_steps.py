"""Steps a second of the module for Redis, with nothing beside the server: ready-made requests.

    python -m bench.module_steps train.svm [--server redis-server] [--rows 200] [--clients 1 4 10]

Each client is a process that sends steps of real mini-batches over a socket of its own, `--depth`
of them under way, and throws the answers away. What is told: steps a second, the server's CPU
microseconds and the bytes of a step, both ways.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cirrus_fast import _kernels, parse_libsvm, redis_module_path

BATCHES = 64
NUMBER_AT = 16  # in a request (csrc/cf_step.h)
MOST_TEXT = 40_000_000


def mini_batches(path: Path, rows: int, n: int) -> tuple[int, list[np.ndarray]]:
    """(ids in all, the distinct places by popularity of each of n mini-batches)"""
    with path.open("rb") as file:
        text = file.read(MOST_TEXT)
    csr = parse_libsvm(text[: text.rindex(b"\n") + 1])
    count = np.bincount(csr.indices)
    place = np.empty(len(count), np.uint32)
    place[np.argsort(-count, kind="stable")] = np.arange(len(count), dtype=np.uint32)
    found = []
    for i in range(n):
        first, last = csr.indptr[i * rows], csr.indptr[(i + 1) * rows]
        found.append(np.unique(place[csr.indices[first:last]]).astype(np.uint32))
    return len(count), found


def resp(*arguments: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += [b"$%d\r\n" % len(argument), argument, b"\r\n"]
    return b"".join(parts)


class Client:
    """A connection with its ready-made requests."""

    def __init__(
        self, port: int, worker: int, n_ids: int, batches: list[np.ndarray], rows: int
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rng = np.random.default_rng(worker)
        order = rng.permutation(len(batches))
        self._requests, self._answers = [], []
        for one, other in zip(order, np.roll(order, -1), strict=True):
            ids, following = batches[one], batches[other]
            step = _kernels.step_request(
                worker=worker, n_rows=rows, push_ids=_kernels.StepIds(ids, n_ids),
                gradient=rng.normal(0, 0.1, len(ids)).astype(np.float32),
                pull_ids=_kernels.StepIds(following, n_ids),
            )  # fmt: skip
            self._requests.append(bytearray(resp(b"CIRRUS.STEP", b"model", bytes(step))))
            body = 32 + 4 * len(following)
            self._answers.append(len(b"$%d\r\n" % body) + body + 2)
        self._head = len(b"*3\r\n$11\r\nCIRRUS.STEP\r\n$5\r\nmodel\r\n$12345\r\n")
        self._number = 0
        self._buffer = bytearray(max(self._answers))
        self.bytes_a_step = np.mean([len(r) for r in self._requests]) + np.mean(self._answers)

    def run(self, steps: int, depth: int) -> None:
        for step in range(steps + depth):
            if step >= depth:
                self._take(self._answers[(step - depth) % len(self._answers)])
            if step < steps:
                self._number += 1
                request = self._requests[step % len(self._requests)]
                at = request.index(b"\r\n", self._head - 9) + 2
                struct.pack_into("<Q", request, at + NUMBER_AT, self._number)
                self._socket.sendall(request)

    def _take(self, n: int) -> None:
        view = memoryview(self._buffer)[:n]
        got = 0
        while got < n:
            more = self._socket.recv_into(view[got:])
            if got == 0 and self._buffer[0] == ord("-"):
                sys.exit(bytes(view[:more]).decode())
            got += more


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(pid: int, clients: list[Client], steps: int, depth: int) -> None:
    cpu, began = cpu_seconds(pid), time.perf_counter()
    children = []
    for client in clients:
        child = os.fork()
        if child == 0:
            client.run(steps, depth)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a client failed")
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    n = steps * len(clients)
    print(
        f"clients {len(clients):3}  {n / seconds:9,.0f} steps/s  "
        f"server {cpu / n * 1e6:6.1f} us/step, busy {cpu / seconds:4.0%}  "
        f"{clients[0].bytes_a_step:8,.0f} bytes/step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--server", default=shutil.which("redis-server"))
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20_000, help="of all clients together")
    parser.add_argument("--optimizer", default="adagrad")
    given = parser.parse_args()
    n_ids, batches = mini_batches(given.data, given.rows, BATCHES)
    print(f"{np.mean([len(ids) for ids in batches]):.0f} distinct ids of {n_ids}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                given.server, "--port", str(port), "--dir", folder, "--save", "",
                "--loadmodule", redis_module_path(),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep(0.5)
            for n in given.clients:
                wire = socket.create_connection(("127.0.0.1", port))
                wire.sendall(resp(b"FLUSHALL"))
                wire.recv(100)
                wire.sendall(
                    resp(b"CIRRUS.CREATE", b"model", b"IDS", b"%d" % n_ids, b"WORKERS", b"%d" % n,
                         b"OPTIMIZER", given.optimizer.encode())
                )  # fmt: skip
                assert wire.recv(100) == b"+OK\r\n"
                clients = [Client(port, i, n_ids, batches, given.rows) for i in range(n)]
                measure(server.pid, clients, given.steps // n, given.depth)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
