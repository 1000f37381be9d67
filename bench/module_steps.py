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

from cirrus_fast import parse_libsvm, redis_module_path
from cirrus_fast._kernels import StepBatch, StepMessage, Stepper, StepRows

BATCHES = 64
# How a request begins that pushes and pulls, and where its number is (csrc/cf_step.h).
HEAD, NUMBER_AT = b"\x01\x03\0\0", 16
MOST_TEXT = 40_000_000


class Rows:
    """The first mini-batches of a text: ids as places by popularity."""

    def __init__(self, path: Path, size: int) -> None:
        with path.open("rb") as file:
            text = file.read(MOST_TEXT)
        csr = parse_libsvm(text[: text.rindex(b"\n") + 1])
        count = np.bincount(csr.indices)
        self.n_ids, self.size = len(count), size
        place = np.empty(len(count), np.uint32)
        place[np.argsort(-count, kind="stable")] = np.arange(len(count), dtype=np.uint32)
        order = np.arange(BATCHES * size, dtype=np.uint32)
        labels = (csr.labels > 0).astype(np.float32)
        self.taken = StepRows(labels, csr.indptr, place[csr.indices], csr.data, None, order)


def resp(*arguments: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += [b"$%d\r\n" % len(argument), argument, b"\r\n"]
    return b"".join(parts)


class Client:
    """A connection with its ready-made requests."""

    def __init__(self, port: int, worker: int, rows: Rows) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stepper = Stepper(rows.n_ids)
        batches = [StepBatch(stepper) for _ in range(BATCHES)]
        order = np.random.default_rng(worker).permutation(BATCHES)
        for batch, number in zip(batches, order.tolist(), strict=True):
            stepper.locate(batch, rows.taken, number * rows.size, rows.size)
            body = struct.pack("<BBHfdQQ", 1, 0, 0, 0.0, 0.0, 0, 0) + bytes(4 * batch.n)
            weights = b"$%d\r\n%s\r\n" % (len(body), body)
            batch.read(0, weights, 0, len(weights))
        self._requests, self._answers = [], []
        for batch, following in zip(batches, batches[1:] + batches[:1], strict=True):
            stepper.learn(batch)
            message = StepMessage(b"model", worker=worker)
            message.write(stepper, batch, following, number=1)
            request = bytearray(message.view)
            self._requests.append((request, request.index(HEAD) + NUMBER_AT))
            body_bytes = 32 + 4 * following.n
            self._answers.append(len(b"$%d\r\n" % body_bytes) + body_bytes + 2)
        self._number = 0
        self._buffer = bytearray(max(self._answers))
        sent = np.mean([len(request) for request, _ in self._requests])
        self.bytes_a_step = sent + np.mean(self._answers)
        self.distinct = np.mean([batch.n for batch in batches])

    def run(self, steps: int, depth: int) -> None:
        for step in range(steps + depth):
            if step >= depth:
                self._take(self._answers[(step - depth) % len(self._answers)])
            if step < steps:
                self._number += 1
                request, number_at = self._requests[step % len(self._requests)]
                struct.pack_into("<Q", request, number_at, self._number)
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
        f"{clients[0].bytes_a_step:8,.0f} bytes/step, {clients[0].distinct:,.0f} ids"
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
    rows = Rows(given.data, given.rows)
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
                    resp(b"CIRRUS.CREATE", b"model", b"IDS", b"%d" % rows.n_ids,
                         b"WORKERS", b"%d" % n, b"OPTIMIZER", given.optimizer.encode())
                )  # fmt: skip
                assert wire.recv(100) == b"+OK\r\n"
                clients = [Client(port, i, rows) for i in range(n)]
                measure(server.pid, clients, given.steps // n, given.depth)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
