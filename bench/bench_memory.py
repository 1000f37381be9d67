"""Peak memory, seen from outside: private pages of a process of its own, beyond what it had before
the work. Pages of mapped files are the system's to take back, and are not counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import peers
from bench.conftest import told

LOADING = "peak memory of loading"
TRAINING = "peak memory of training"
ROOT = Path(__file__).parents[1]


def private_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(found[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


def watch(work: str) -> tuple[float, int, int]:
    """Seconds of the work, its peak beyond what was there before, bytes of buffers asked for."""
    program = [
        sys.executable,
        "-c",
        f"import sys; sys.path.append({str(ROOT)!r}); "
        f"sys.argv = ['', {work!r}]; from bench.memory import main; main()",
    ]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError(f"bench.memory {work} ended early")
        before = peak = private_bytes(child.pid)
        answer: list[str] = []
        reader = threading.Thread(target=lambda: answer.append(child.stdout.readline()))
        reader.start()
        began = time.perf_counter()
        child.stdin.write("go\n")
        child.stdin.flush()
        while reader.is_alive():
            try:
                peak = max(peak, private_bytes(child.pid))
            except (FileNotFoundError, ProcessLookupError, KeyError):  # it has ended
                break
            reader.join(0.002)
        reader.join()
        seconds = time.perf_counter() - began
    if not answer[0]:
        raise RuntimeError(f"bench.memory {work} failed")
    return seconds, peak - before, int(answer[0])


def note(measure, group: str, name: str, work: str, **notes: object) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    seconds, peak, asked = watch(work)
    measure.told(
        group,
        name,
        [seconds],
        peak_mb=peak / 1e6,
        asked_mb=asked / 1e6,
        beyond_mb=(peak - asked) / 1e6,
        **notes,
    )


@told
def bench_load(measure):
    note(measure, LOADING, "cirrus_fast load_libsvm, text to shards, 2 threads", "load_libsvm")


@told
def bench_parse(measure):
    note(measure, LOADING, "cirrus_fast parse_libsvm, text to a CSR", "parse_csr")


@told
@pytest.mark.parametrize(("module", "name"), [("xgboost", "xgboost DMatrix"), ("svmloader",) * 2])
def bench_peer(measure, module, name):
    peers.need(module)
    note(measure, LOADING, f"{name}, text to a CSR", module)


@told
def bench_train(measure):
    note(measure, TRAINING, "cirrus_fast, shards to a model, 2 workers", "train")


@told
def bench_train_scikit_learn(measure):
    peers.need("sklearn")
    name = "scikit-learn SGDClassifier, beyond the CSR it is given"
    note(measure, TRAINING, name, "scikit_learn")
