"""Random commands for the module of Redis, well-formed and not, by the million.

    python tests/soak/module_commands.py [--commands 1000000] [--seed 1] [--server redis-server]

Models of all kinds are made, learnt from, written over, deleted, expired and saved, by several
connections at once, some of which hang up in the middle, and whose waits for other workers somebody
else ends. Beside that, one model that nobody else touches is stepped by the same numbers here and
there. At the end the server must be alive, its log clean, and that model must be what the store in
memory makes of the same steps, bit for bit.
"""

from __future__ import annotations

import argparse
import random
import re
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from module_server import ReplyError, Server, Wire, request, server_programs
from step_messages import step_request

from cirrus_fast import _kernels

PIPELINE = 200
# A busy machine may stop for long; a server that hangs is found in the end.
PATIENCE_S = 3600.0
# Who waits for other workers is let go after about so long, not after the module's second.
WAIT_S = 0.05
N_IDS = 500
KEYS = [f"model{i}" for i in range(12)] + ["text", "list"]


class Steady:
    """The model that must be right at the end."""

    def __init__(self, wire: Wire) -> None:
        self._rng = np.random.default_rng(1)
        self.optimizer = _kernels.Optimizer("adagrad", 0.1)
        self.state = np.empty((N_IDS + 1) * 2, np.float32)
        self.optimizer.clear(self.state, 0.5)
        self.model = _kernels.TrainModel(self.optimizer, self.state, None)
        self.number = 0
        made = ("IDS", N_IDS, "OPTIMIZER", "adagrad", "RATE", 0.1, "INTERCEPT", 0.5)
        wire("CIRRUS.CREATE", "steady", *made)

    def step(self) -> bytes:
        ids = np.unique(self._rng.integers(0, N_IDS, 40).astype(np.uint32))
        gradient = self._rng.normal(size=len(ids)).astype(np.float32)
        room = len(ids)
        scratch = _kernels.TrainScratch(
            np.zeros(N_IDS, np.uint32), np.empty(room, np.uint32), np.empty(room + 1, np.uint32),
            *(np.empty(room, np.float32) for _ in range(3)),
        )  # fmt: skip
        self.model.apply(ids, gradient, np.zeros(room, np.float32), 0.25, scratch)
        self.number += 1
        message = step_request(
            n_ids=N_IDS, number=self.number, n_rows=1, push_ids=ids, gradient=gradient,
            intercept_gradient=0.25, pull_ids=ids,
        )  # fmt: skip
        return request("CIRRUS.STEP", "steady", message)

    def check(self, wire: Wire) -> None:
        told = wire.info("steady")
        assert told["updates"] == self.number, (told["updates"], self.number)
        held = wire("GETRANGE", "steady", told["state_offset"], 10**9)
        np.testing.assert_array_equal(np.frombuffer(held, np.float32), self.state)


# Whose push a command is: key and worker.
Pusher = tuple[str, int]


class Noise:
    """Commands of any kind."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._rng = np.random.default_rng(seed)
        self._numbers: dict[Pusher, int] = {}  # of pushes, if all was as it should

    def commands(self, n: int, worker: int) -> list[tuple[bytes, Pusher | None]]:
        """worker : who sends them, for the most part"""
        made: list[tuple[bytes, Pusher | None]] = []
        while len(made) < n:
            key, what = self._random.choice(KEYS), self._random.random()
            if what < 0.72:
                made.append(self._step(key, worker))
            elif what < 0.79:
                if self._random.random() < 0.5:
                    made.append((request("DEL", key), None))
                    self._numbers = {at: n for at, n in self._numbers.items() if at[0] != key}
                made.append((request("CIRRUS.CREATE", key, *self._options()), None))
            else:
                made.append((self._other(key, what), None))
        return made

    def learn(self, pusher: Pusher, refusal: str) -> None:
        """Goes on from the number that the server knows of."""
        known = re.match(r"CIRRUSGAP the last push known of worker \d+ is (\d+) of", refusal)
        if known:
            self._numbers[pusher] = int(known[1])

    def _other(self, key: str, what: float) -> bytes:
        r = self._random
        if what < 0.83:
            place = r.choice([0, 1, 2, 3, -1, 2**40, "x"]), r.choice([0, 0, 0, 1, 2**32, ""])
            more = r.choice([(), (), ("AWAITED",), ("x",)])
            return request(r.choice(["CIRRUS.JOIN", "CIRRUS.LEAVE"]), key, *place, *more)
        if what < 0.86:
            part = r.choice([(), (0, 10), (N_IDS - 1, 1), (-1, 5), (5, 2**62), ("a", "b")])
            return request("CIRRUS.SNAPSHOT", key, *part)
        if what < 0.89:
            return request("CIRRUS.INFO", *r.choice([(), (key,), (key, key)]))
        if what < 0.91:
            at = r.choice([r.randrange(200), r.randrange(6000)])
            return request("SETRANGE", r.choice(KEYS[:12]), at, r.randbytes(r.choice([1, 1, 4, 8])))
        if what < 0.95:
            return request(r.choice(["UNLINK", "GET", "GET", "STRLEN", "TYPE"]), key)
        if what < 0.96:
            return request("RENAME", r.choice(KEYS[:12]), r.choice(KEYS[:12]))
        if what < 0.975:
            return request("COPY", r.choice(KEYS[:12]), r.choice(KEYS[:12]), "REPLACE")
        if what < 0.98:
            return request("PEXPIRE", key, r.randrange(1, 50))
        name = r.choice(["CIRRUS.STEP", "CIRRUS.CREATE", "CIRRUS.JOIN", "CIRRUS.PULL"])
        return request(name, *(r.randbytes(r.randrange(80)) for _ in range(r.randrange(5))))

    def _options(self) -> list[object]:
        r = self._random
        options: list[object] = []
        for name, values in (
            ("IDS", [N_IDS, 128, 5000, 0, 1, 63, 64, -1, 2**33]),
            ("OPTIMIZER", ["sgd", "adagrad", "ftrl", "x"]),
            ("RATE", [0.1, 1e-30, 1e30, "nan"]),
            ("WORKERS", [4, 3, 2, 1, 0]),
            ("CONSISTENCY", ["async", "ssp", "bsp"]),
            ("STALENESS", [0, 1, 5]),
            ("PENALTIES", [0, 1]),
            ("EXPIRY", [0, 1, 60_000]),
            ("TTL", [0, 20, 10_000]),
            ("INTERCEPTRATE", [0, 1]),
        ):
            often = 1 if name in ("IDS", "WORKERS") else 0.08 if name == "CONSISTENCY" else 0.4
            if r.random() < often:  # who waits for others waits a second
                # What is refused comes last in the lists, and not often.
                options += [name, r.choice(values if r.random() < 0.1 else values[:3])]
        return options

    def _ids(self) -> np.ndarray:
        n = self._random.choice([0, 1, 5, 60])
        below = self._random.choice([1, 64, 64, 64, N_IDS, N_IDS, 5000])
        return np.unique(self._rng.integers(0, below, n).astype(np.uint32))

    def _step(self, key: str, worker: int) -> tuple[bytes, Pusher | None]:
        r = self._random
        name = r.choice(["CIRRUS.STEP", "CIRRUS.STEP", "CIRRUS.PUSH", "CIRRUS.PULL"])
        if r.random() < 0.2:
            worker = r.randrange(4)
        message = self._message(name, key, worker)
        pusher = None if name == "CIRRUS.PULL" else (key, worker)
        return request(name, key, message), pusher

    def _message(self, name: str, key: str, worker: int) -> bytes:
        r = self._random
        fields: dict[str, object] = {}
        odd = r.random() < 0.1
        if (name != "CIRRUS.PULL") ^ odd:
            ids = self._ids()
            gradient = self._rng.normal(size=len(ids)).astype(np.float32)
            if r.random() < 0.02 and len(ids):
                gradient[0] = r.choice([np.nan, np.inf, 3e38])
            fields |= {"push_ids": ids, "gradient": gradient}
            if r.random() < 0.8:
                fields["touches"] = self._rng.integers(0, 300, len(ids)).astype(np.float32)
        if (name != "CIRRUS.PUSH") ^ odd:
            fields["pull_ids"] = self._ids()
        number = self._numbers.get((key, worker), 0) + r.choice([1, 1, 1, 1, 1, 1, 0, 2])
        if name != "CIRRUS.PULL":
            self._numbers[key, worker] = number
        message = bytearray(
            step_request(
                n_ids=5000, worker=worker, generation=r.choice([0] * 9 + [1]), number=number,
                n_rows=r.randrange(100), rate=r.choice([1.0] * 9 + [1e30]), **fields,
            )
        )  # fmt: skip
        if r.random() < 0.6:
            return bytes(message)
        while r.random() < 0.25:
            kind = r.randrange(4)
            if kind == 0:
                message[r.randrange(len(message))] = r.randrange(256)
            elif kind == 1:
                at = 4 * r.randrange(len(message) // 4 + 1)
                if at + 4 <= len(message):
                    struct.pack_into("<I", message, at, r.choice([0, 1, 2**31, 2**32 - 1]))
            elif kind == 2:
                del message[r.randrange(len(message)) :]
            else:
                message += r.randbytes(r.randrange(20))
            if not message:
                break
        return bytes(message)


@contextmanager
def waits_cut_short(server: Server, seed: int) -> Iterator[None]:
    """By CLIENT UNBLOCK, in both of its ways; now and then one lasts as the module has it."""
    wire, draw, over = server.connect(PATIENCE_S), random.Random(seed), threading.Event()

    def unblock() -> None:
        while not over.wait(WAIT_S):
            for told in wire("CLIENT", "LIST").decode().splitlines():
                about = dict(part.partition("=")[::2] for part in told.split())
                if "b" in about["flags"] and draw.random() < 0.9:
                    wire("CLIENT", "UNBLOCK", about["id"], draw.choice(["TIMEOUT", "ERROR"]))

    thread = threading.Thread(target=unblock, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read_all(wire: Wire, noise: Noise, pushers: list[Pusher | None]) -> int:
    """Reads answers to what these sent; how many were refusals."""
    refusals = 0
    for pusher in pushers:
        try:
            wire.read()
        except ReplyError as refusal:
            refusals += 1
            if pusher is not None:
                noise.learn(pusher, str(refusal))
    return refusals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", type=Path, default=server_programs()[0])
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(given.server, Path(folder))
        with ExitStack() as stack:
            stack.callback(server.stop)
            stack.enter_context(waits_cut_short(server, given.seed))
            wire = server.connect(PATIENCE_S)
            steady, noise = Steady(wire), Noise(given.seed)
            wire("SET", "text", "hello")
            wire("RPUSH", "list", 1)
            steps = sent = refusals = 0
            others = [server.connect(PATIENCE_S) for _ in range(4)]
            while sent < given.commands:
                pushers = []
                for worker, other in enumerate(others):
                    batch = noise.commands(PIPELINE, worker)
                    pushers.append([pusher for _, pusher in batch])
                    other.send_bytes(b"".join(made for made, _ in batch))
                for _ in range(5):
                    wire.send_bytes(steady.step())
                    wire.read()
                    steps += 1
                if sent // PIPELINE % 50 == 7:  # hang up with answers, and perhaps waits, open
                    others[0].close()
                    others[0] = server.connect(PATIENCE_S)
                    pushers[0] = []
                for other, sent_by in zip(others, pushers, strict=True):
                    refusals += read_all(other, noise, sent_by)
                sent += PIPELINE * len(others)
                if not server.alive:
                    sys.exit(f"the server is gone:\n{server.log()[-5000:]}")
                if sent % 100_000 < PIPELINE * len(others):
                    steady.check(wire)
                    print(f"{sent:,} commands, {time.monotonic() - began:.0f} s", flush=True)
            steady.check(wire)
            wire("SAVE")
            told = wire("INFO", "cirrus_parameter_server").decode()
            log = server.log()
            assert server.alive
            assert "BUG REPORT" not in log, log[-5000:]
            print(told)
            print(
                f"{sent:,} random commands ({refusals:,} refused) and {steps:,} steady steps in "
                f"{time.monotonic() - began:.0f} s: the server is right"
            )


if __name__ == "__main__":
    main()
