"""What reading a data set from S3 costs a worker: `python -m bench.reads TRAIN.svm`.

Against a server of its own on this machine (bench/objects.py). Prints

* CPU time of the read path for a row: the client alone, with checksum and decoding, and all of it,
  once for each way that workers go on: to localised mini-batches, and to rows shuffled in memory;
* seconds to the first rows to learn from, counted from `run_worker` and from the start of a
  worker's process, over a link of 75 MB/s with 30 ms to the first byte (bench/link.py);
* peak memory of a worker process that reads more than ten times its `worker_size`.

Parts by name: `python -m bench.reads TRAIN.svm cpu first memory`. The text is made into a data set
once, in a temporary folder; for `memory` its shards are listed often enough to be so much.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.objects import served, speak_to

RATE, FIRST_BYTE_S = 75e6, 0.030
_ROUNDS = 5
_WORKER_SIZE, _TIMES_LARGER = 128, 10


def cpu(uri: str) -> None:
    """CPU time for a row, by what takes it; the best of some rounds."""
    from cirrus_fast import Dataset, _kernels
    from cirrus_fast.data.blocks import MinibatchDecoder
    from cirrus_fast.data.holdout import HoldOut
    from cirrus_fast.data.training_scale import TrainingScale
    from cirrus_fast.runtime.fetching import Fetcher
    from cirrus_fast.runtime.memory import Memory
    from cirrus_fast.runtime.minibatches import MiniBatches
    from cirrus_fast.runtime.row_sources import RowArrays, StoredBlocks

    dataset = Dataset(uri)
    numbers = range(len(dataset.blocks))
    scale = TrainingScale.of(
        dataset.columns, dataset.n_rows, optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0
    )
    memory = Memory.of(2048, 16 << 20)
    crc = bytearray(1 << 23)
    largest = max(block.nnz for block in dataset.blocks), max(b.n_rows for b in dataset.blocks)
    into = RowArrays(largest[1], largest[0], dataset.manifest.has_weights)

    def fetch() -> None:
        fetcher = Fetcher(dataset, numbers, memory.run * 9, keep=False)
        fetcher.expect(numbers)
        for number in numbers:
            fetcher.take(number)
        fetcher.close()

    def fetch_and_decode() -> None:
        source = StoredBlocks(dataset, numbers, memory, keep=False)
        source.expect(numbers)
        for number in numbers:
            source.read([number], into)
        source.close()

    def localised() -> None:
        decoder = MinibatchDecoder(dataset.dictionary, base=dataset.manifest.index_base)
        fetcher = Fetcher(dataset, numbers, memory.run * 9, keep=False)
        fetcher.expect(numbers)
        for number in numbers:
            decoder.decode(fetcher.take(number), 200)
        fetcher.close()

    def everything() -> None:
        stream = MiniBatches(
            dataset,
            numbers,
            HoldOut.none(dataset.blocks),
            scale,
            epochs=1,
            memory=memory,
            seed=0,
            worker=0,
        )
        for _ in stream.epoch(0):
            pass
        stream.close()

    def checksum() -> None:
        for _ in range(len(crc) and dataset.n_bytes // len(crc)):
            _kernels.crc32c(crc)

    print(f"\nCPU time, us a row ({dataset.n_rows} rows, {dataset.n_bytes / dataset.n_rows:.1f} "
          f"bytes each; kernels {_kernels.active_impl()})\n")  # fmt: skip
    print("| what | us a row | seconds a GB |")
    print("|---|---|---|")
    for name, work in (
        ("client alone", fetch),
        ("checksum alone, of memory", checksum),
        ("client, checksum and decoding", fetch_and_decode),
        ("client, checksum, decoding into localised mini-batches of 200", localised),
        ("as training in memory does: decoded, shuffled, given places in the model", everything),
    ):
        took = []
        for _ in range(_ROUNDS):
            began = time.process_time()
            work()
            took.append(time.process_time() - began)
        best = min(took)
        print(
            f"| {name} | {best / dataset.n_rows * 1e6:.3f} | {best / dataset.n_bytes * 1e9:.2f} |"
        )


_FIRST = """
import json, sys, time
spawned = time.monotonic()
from cirrus_fast.runtime import worker
from cirrus_fast.runtime.params.local import Port
entered = None
granted = Port.grant
def grant(self, *arguments, **more):
    print(json.dumps([spawned, entered, time.monotonic()]), flush=True)
    return 0
Port.grant = grant
spec = sys.stdin.readline()
entered = time.monotonic()
worker.run_worker(spec)
"""


def first(uri: str) -> None:
    """Seconds until a worker has rows to learn from."""
    from cirrus_fast import Dataset
    from cirrus_fast.backend.plan import Plan
    from cirrus_fast.options import parse_options
    from cirrus_fast.runtime.params import local

    plan = Plan.make(parse_options({"dataset": uri, "epsilon": 0, "executor": "processes",
                                    "n_workers": 1, "epochs": 1}))  # fmt: skip
    dataset = Dataset(uri)
    block = max(block.n_bytes for block in dataset.blocks)
    waits: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        store = plan.create_store("bench")
        spec = plan.spec(
            "bench", 0, store.admit(0), local.shared_url(store, inherited=False), clustered=False
        )
        began = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", _FIRST],
            input=spec.to_json() + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
        _spawned, entered, ready = json.loads(process.stdout)
        waits.append((ready - entered, ready - began))
        store.close()
    called, started = (min(one) for one in zip(*waits, strict=True))
    middle = [statistics.median(one) for one in zip(*waits, strict=True)]
    print(
        f"\nFirst rows to learn from, over {RATE / 1e6:.0f} MB/s with "
        f"{FIRST_BYTE_S * 1e3:.0f} ms to the first byte; a block takes "
        f"{block / RATE * 1e3:.1f} ms\n"
    )
    print("| since | best, ms | median, ms |")
    print("|---|---|---|")
    print(f"| run_worker was called | {called * 1e3:.0f} | {middle[0] * 1e3:.0f} |")
    print(f"| its process was started | {started * 1e3:.0f} | {middle[1] * 1e3:.0f} |")


def memory(folder: Path, uri: str) -> None:
    """Peak memory of worker processes, watched from outside."""
    import cirrus_fast
    from cirrus_fast.backend.processes import ProcessExecutor

    larger = folder / "bucket" / "larger"
    stored = cirrus_fast.Dataset(uri).n_bytes
    times = math.ceil(_WORKER_SIZE * _TIMES_LARGER * 1e6 / stored)
    n_rows = multiply(folder / "bucket" / "set", larger, times)
    peaks: dict[int, int] = {}

    def watch(_record: object) -> bool:
        for executor in executors:
            for pid in executor.pids:
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                if found:
                    peaks[pid] = int(found[1]) * 1024
        return False

    executors: list[ProcessExecutor] = []
    made = ProcessExecutor.__init__

    def noted(self: ProcessExecutor, *arguments: object, **more: object) -> None:
        executors.append(self)
        made(self, *arguments, **more)  # type: ignore[arg-type]

    ProcessExecutor.__init__ = noted  # type: ignore[method-assign, assignment]
    try:
        result = cirrus_fast.LogisticRegression(
            dataset=uri.replace("/set", "/larger"),
            executor="processes",
            n_workers=1,
            worker_size=_WORKER_SIZE,
            epochs=2,
            epsilon=0,
            eval_interval=0.02,
            callbacks=[watch],
            progress=False,
        ).run()
    finally:
        ProcessExecutor.__init__ = made  # type: ignore[method-assign]
    decoded = sum(20 * b.n_rows + 8 * b.nnz for b in cirrus_fast.Dataset(uri).blocks)
    times = decoded * (n_rows / cirrus_fast.Dataset(uri).n_rows) / (_WORKER_SIZE * 1e6)
    assert result.rows_processed == 2 * n_rows
    print(f"\nPeak memory of a worker process, worker_size={_WORKER_SIZE} MB\n")
    print("| rows | decoded, times worker_size | read in epoch 1, 2 | peak, MB |")
    print("|---|---|---|---|")
    read = ", ".join(f"{one.bytes / 1e6:.0f} MB" for one in result.reads_by_epoch)
    print(f"| {n_rows} | {times:.0f} | {read} | {max(peaks.values()) / 1e6:.0f} |")


def multiply(source: Path, target: Path, times: int) -> int:
    """The data set with its shards listed so many times; how many rows that is."""
    from cirrus_fast import Dataset
    from cirrus_fast.data.columns import ColumnStatistics
    from cirrus_fast.data.manifest import MANIFEST

    once = Dataset(str(source))
    manifest = once.manifest
    target.mkdir(exist_ok=True)
    blocks, sizes, checksums = [], {}, dict(manifest.checksums)
    for i in range(times):
        names = {name: re.sub("-", f"-{i:02x}", name, count=1) for name in manifest.shard_sizes}
        names = {name: f"shard-{i:08x}-{name.rsplit('-', 1)[1]}" for name in names}
        for name, copied in names.items():
            (target / copied).unlink(missing_ok=True)
            os.link(source / name, target / copied)
            sizes[copied], checksums[copied] = manifest.shard_sizes[name], manifest.checksums[name]
        blocks += [
            replace(b, shard=names[b.shard], first_row=b.first_row + i * once.n_rows)
            for b in once.blocks
        ]
    for name in manifest.shard_sizes:
        del checksums[name]
    for name in filter(None, (manifest.dictionary, manifest.columns)):
        (target / name).write_bytes((source / name).read_bytes())
    columns = ColumnStatistics.merge_all([once.columns] * times)
    raw = columns.to_bytes()
    from cirrus_fast import _kernels

    (target / manifest.columns).write_bytes(raw)
    checksums[manifest.columns] = _kernels.crc32c(raw)
    more = replace(
        manifest,
        n_rows=manifest.n_rows * times,
        nnz=manifest.nnz * times,
        n_positive=manifest.n_positive * times,
        weight=manifest.weight * times,
        positive_weight=manifest.positive_weight * times,
        blocks=tuple(blocks),
        shard_sizes=sizes,
        checksums=checksums,
    )
    (target / MANIFEST).write_bytes(more.to_json())
    return more.n_rows


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    import cirrus_fast

    text, parts = sys.argv[1], sys.argv[2:] or ["cpu", "first", "memory"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cirrus_fast.load_libsvm(text, str(folder / "bucket" / "set"))
        with served(folder) as address:
            if "cpu" in parts:
                speak_to(address)
                cpu("s3://bucket/set")
            if "first" in parts:
                from bench.link import Link

                with Link(address, rate=RATE, round_trip=FIRST_BYTE_S) as link:
                    speak_to(link.address)
                    first("s3://bucket/set")
            if "memory" in parts:
                speak_to(address)
                memory(folder, "s3://bucket/set")


if __name__ == "__main__":
    main()
