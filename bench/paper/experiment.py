"""The real part: each piece is measured once and kept as JSON, so a run may be taken up again."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cirrus_fast
from bench import data, lambda_starts
from bench.ladder import Server
from bench.paper import measuring, vm
from bench.paper.learning import FTRL, Rows, replayed
from bench.paper.measuring import Machine, Measured
from bench.paper.places import CLOUD, LOOPBACK
from bench.paper.pywren import BUCKET, write_objects
from bench.paper.systems import LARGE, SIZE, SYSTEMS, depth
from cirrus_fast.runtime.minibatches import MiniBatches

# Mini-batches that are under way, in replays, of SIZE rows.
UNDER_WAY = (0, 10, 20, 30, 50)
_CHUNKS = 128
# What a worker waits for a function that is warm, if no Lambda of this machine can say.
_INVOCATION_S = 0.003


@dataclass(frozen=True, slots=True)
class Settings:
    """
    workers : of real runs; seconds : of each; targets : test losses
    """

    folder: Path
    quick: bool = False
    workers: tuple[int, ...] = (1, 2, 4, 10)
    seconds: float = 2.5
    targets: tuple[float, ...] = ()

    @property
    def kept(self) -> Path:
        return self.folder / "measured"

    @property
    def runs(self) -> int:
        """Of which the fastest counts, for one worker."""
        return 1 if self.quick else 2


@dataclass
class Experiment:
    settings: Settings
    _stack: ExitStack = field(default_factory=ExitStack)
    _machine: Machine | None = None
    _sets: tuple[str, str] | None = None

    def parts(self) -> dict[str, Callable[[], Any]]:
        """By name, in the order in which they are to be measured."""
        found: dict[str, Callable[[], Any]] = {"machine": self._this_machine}
        found["learning"] = self._learning
        for name in SYSTEMS:
            found[name] = lambda name=name: [asdict(one) for one in self._system(name)]
        found |= {
            "workers-learn": self._workers_learn,
            "bosen": lambda: self._bosen("library"),
            "bosen-digits": lambda: self._bosen("digits"),
            "ours-text": lambda: self._kernels(text=True),
            "ours-memory": lambda: self._kernels(text=False),
            "vowpal": vm.vowpal,
            "scikit-learn": lambda: vm.scikit_learn(1 if self.settings.quick else 3),
        }
        return found

    def measure(self, only: list[str], *, again: bool = False) -> None:
        """What is not kept yet."""
        self.settings.kept.mkdir(parents=True, exist_ok=True)
        parts = self.parts()
        try:
            for name in only or parts:
                path = self.settings.kept / f"{name}.json"
                if path.exists() and not again:
                    continue
                began = time.perf_counter()
                found = parts[name]()
                path.write_text(json.dumps(found, indent=1))
                print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        finally:
            self._stack.close()

    def kept(self, name: str) -> Any:
        path = self.settings.kept / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    # What the parts need

    def _datasets(self) -> tuple[str, str]:
        """On disk."""
        if self._sets is None:
            root = data.folder()
            cirrus_fast.configure(storage=str(root / "sets"))
            train = cirrus_fast.load_libsvm(data.train_path(), "paper_train")
            test = cirrus_fast.load_libsvm(data.test_path(), "paper_test", like="paper_train")
            self._sets = train.uri, test.uri
        return self._sets

    def _machine_now(self) -> Machine:
        if self._machine is None:
            train, _ = self._datasets()
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            most = 16 if self.settings.quick else _CHUNKS
            n_weights, n_chunks = write_objects(folder, train, (SIZE, LARGE), most)
            shutil.copytree(train, folder / BUCKET / "set")
            server = self._stack.enter_context(Server())
            address, pid = self._stack.enter_context(measuring.open_storage(folder))
            warm = (self.kept("machine") or {}).get("invocation_s") or _INVOCATION_S
            uri = f"s3://{BUCKET}/set"
            self._machine = Machine(
                server, address, pid, folder, uri, train, n_weights, n_chunks, warm
            )
        return self._machine

    # The parts

    def _this_machine(self) -> dict[str, Any]:
        starts = self._starts()
        train, _ = self._datasets()
        rows = cirrus_fast.Dataset(train)
        return starts | {
            "together": _together(),
            "decode_s": _decode_s(train),
            "bytes_a_row": rows.n_bytes / rows.n_rows,
            "n_rows": rows.n_rows,
            "text_bytes": data.train_path().stat().st_size,
            "rows": data.described(),
            "kernels": cirrus_fast.active_impl(),
            "cpu": _cpu(),
            "when": time.strftime("%Y-%m-%d"),
        }

    def _starts(self) -> dict[str, float | None]:
        """Of a function in the emulated cloud: a warm call, and what a sandbox takes to its first
        gradient, cold and warm. None where AWS's runtime client is not installed."""
        machine = self._machine_now()
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            layer = lambda_starts.installed_layer(folder / "opt")
        except cirrus_fast.CirrusFastError:
            return dict.fromkeys(("invocation_s", "cold_s", "warm_s"))
        with machine.reached(CLOUD) as redis:
            environment = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
            function = lambda_starts.Function("worker", layer, environment=environment)
            with _few(lambda_starts, 1 if self.settings.quick else 5):
                calls = lambda_starts.warm(function)
                cold, warm = (
                    lambda_starts.first_gradient(
                        function, machine.uri, redis, warm=warm, minibatch_size=SIZE
                    )
                    for warm in (False, True)
                )
        return {
            "invocation_s": statistics.median(calls),
            "cold_s": statistics.median(cold),
            "warm_s": statistics.median(warm),
        }

    def _system(self, name: str) -> Iterator[Measured]:
        machine, system, settings = self._machine_now(), SYSTEMS[name], self.settings
        seconds = settings.seconds

        def run(place: measuring.Place, n: int, size: int, how_deep: int) -> Measured:
            if not system.is_ours:
                return measuring.pywren(name, machine, place, n, size, seconds)
            more = dict(system.options)
            if system.under_way:
                more["pipeline_depth"] = how_deep
            every = system.every * (5 if settings.quick else 1)
            for longer in (1, 3, 9):
                with suppress(measuring.TooShort):
                    return measuring.cirrus(
                        name, machine, place, n, size, longer * (seconds + 1.5), every=every, **more
                    )[0]
            raise measuring.TooShort(f"{name}: this machine is too busy to measure it")

        def best(place: measuring.Place, size: int, how_deep: int) -> Measured:
            found = [run(place, 1, size, how_deep) for _ in range(settings.runs)]
            return max(found, key=lambda one: one.steps_a_second)

        near = system.near
        yield best(LOOPBACK, system.size, near)
        # Over links as deep as ten workers are.
        yield best(CLOUD, system.size, depth(system, 10))
        if not system.is_ours and not settings.quick:
            yield best(LOOPBACK, LARGE, 1)
            yield best(CLOUD, LARGE, 1)
        for n in settings.workers[1:] if system.compared else ():
            yield run(LOOPBACK, n, system.size, near)

    def _learning(self) -> dict[str, Any]:
        rows = Rows.of(*self._datasets())
        epochs, looks = (2.0, 10) if self.settings.quick else (2.0, 20)
        curves = {
            str(n * SIZE): replayed(rows, "ftrl", SIZE, n, epochs=epochs, looks=looks)
            for n in (UNDER_WAY[:3:2] if self.settings.quick else UNDER_WAY)
        }
        return {"curves": curves}

    def _workers_learn(self) -> dict[str, Any]:
        """Losses of real runs of ours, to be compared with replays, and taken for `sync`."""
        machine = self._machine_now()
        _, test = self._datasets()
        n_rows = data.train_rows().n_rows
        found = {}
        most = self.settings.workers[-1]
        for name, store, more in (
            ("module", "module", {"optimizer": "ftrl", "learning_rate": FTRL["rate"],
                                  "l1": FTRL["l1_rows"] / n_rows}),
            ("sync", "bitfield", {}),
        ):  # fmt: skip
            machine.server.clear()
            result = measuring.ours(
                f"{machine.server.url}?store={store}", machine.local, most, epochs=2,
                eval_interval=0.1, minibatch_size=SIZE, test_dataset=test, epsilon=1e-12,
                patience=1000, **more,
            )  # fmt: skip
            found[name] = [(record.rows, record.test_loss) for record in result.history]
            assert result.rows_processed == 2 * n_rows, "rows were lost"
        return found

    def _bosen(self, numbers: str) -> Any:
        epochs, runs = (2, 1) if self.settings.quick else (6, 3)
        return vm.bosen(numbers, self.targets(), epochs, runs)

    def _kernels(self, *, text: bool) -> dict[str, float]:
        return vm.kernels(self._datasets()[0], text=text)

    def targets(self) -> tuple[float, ...]:
        """Those given; else what one worker has learnt after 0.7 and 1.4 passes, where on
        Criteo-like rows 0.4467 and 0.4445 are."""
        if self.settings.targets:
            return self.settings.targets
        kept = self.kept("learning")
        n_rows = data.train_rows().n_rows
        alone = kept["curves"]["0"]
        return tuple(
            round(min(loss for rows, loss in alone if rows <= passes * n_rows) + 5e-5, 4)
            for passes in (0.72, 1.42)
        )


@contextmanager
def _few(module: Any, rounds: int) -> Iterator[None]:
    """lambda_starts, with so many rounds, and fewer warm calls."""
    before = module._ROUNDS, module._WARM
    module._ROUNDS, module._WARM = rounds, 40
    try:
        yield
    finally:
        module._ROUNDS, module._WARM = before


def _together() -> float:
    """Speed of each of two busy cores, beside that of one alone, at work such as workers do beside
    kernels: making messages, sending and receiving them."""

    def counted(n: int) -> int:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", _COUNT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(n)
        ]
        told = [process.communicate(b"")[0] for process in running]
        return sum(map(int, told))

    # One after the other, so that both see the same neighbours.
    found = [counted(2) / 2 / counted(1) for _ in range(7)]
    return min(1.0, max(0.5, statistics.median(found)))


# Begins at a full half of a second, so that all count at once.
_COUNT = """
import pickle, socket, time
near, far = socket.socketpair()
values, n = [i / 7 for i in range(500)], 0
time.sleep(1 - time.time() % 0.5)
until = time.monotonic() + 0.4
while time.monotonic() < until:
    message = pickle.dumps([float(b"%.6f" % x) for x in values])
    for _ in range(8):
        near.sendall(message)
        pickle.loads(far.recv(1 << 16))
    n += 1
print(n)
"""


def _decode_s(uri: str) -> float:
    """Of a core, to read, check, decode and localise a row."""
    from cirrus_fast.data.holdout import HoldOut
    from cirrus_fast.data.training_scale import TrainingScale
    from cirrus_fast.runtime.memory import Memory

    dataset = cirrus_fast.Dataset(uri)
    scale = TrainingScale.of(
        dataset.columns, dataset.n_rows, optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0
    )
    took = []
    for _ in range(3):
        stream = MiniBatches(
            dataset, range(len(dataset.blocks)), HoldOut.none(dataset.blocks), scale, epochs=1,
            memory=Memory.of(2048, 16 << 20), seed=0, worker=0,
        )  # fmt: skip
        began = time.process_time()
        for _ in stream.epoch(0):
            pass
        took.append(time.process_time() - began)
        stream.close()
    return min(took) / dataset.n_rows


def _cpu() -> str:
    with suppress(OSError, IndexError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{os.cpu_count()} cores"
