"""Loads of small pieces, and how they are ended and compared, for several test files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast.data import dataset_writer, loading, sources
from cirrus_fast.data.sources import Source
from cirrus_fast.data.storage import open_storage

N_ROWS = 600

SMALL = """
import os
from cirrus_fast.data import dataset_writer, loading, sources
sources.Source.chunks.__defaults__ = (512,)
sources.UNIT_BYTES = int(os.environ.get("UNIT_BYTES", 2048))
loading.BLOCK_ROWS = 16
dataset_writer.SHARD_BYTES = 400
"""

# Ends itself after so many writes, commits and deletions, in the midst of one or after it.
KILLED = (
    SMALL
    + """
import logging, os, signal, sys
import cirrus_fast
from cirrus_fast.data import s3, storage
what, source, target, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def count():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(kind, name):
    real = getattr(kind, name)
    def do(*arguments, **more):
        count()
        found = real(*arguments, **more)
        count()
        return found
    setattr(kind, name, do)

for kind, names in (
    (storage._FileWriter, ("write", "commit")),
    (storage.FileStorage, ("create", "delete")),
    (s3.S3Storage, ("_put", "delete")),
):
    for name in names:
        counted(kind, name)
logging.basicConfig(format="%(message)s")
threads = {"n_threads": 1 + left % 2}
if what == "processes":
    end = lambda done: done > left and os.kill(os.getpid(), signal.SIGKILL)
    threads = {"executor": "processes", "n_threads": 2, "on_progress": end}
    count = lambda: None
if what in ("load", "processes"):
    cirrus_fast.load_libsvm(source, target, label_weights=True, skip_bad_rows=True, **threads)
else:
    cirrus_fast.normalize(source, target, **threads)
"""
)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SMALL does, in this process and for the time of a test."""
    monkeypatch.setattr(Source.chunks, "__defaults__", (512,))
    monkeypatch.setattr(sources, "UNIT_BYTES", 2048)
    monkeypatch.setattr(loading, "BLOCK_ROWS", 16)
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 400)


def text(n_rows: int = N_ROWS, seed: int = 5) -> bytes:
    """Rows whose values and weights make the sums depend on their order; some cannot be read."""
    draw = np.random.default_rng(seed)
    lines = []
    for i in range(n_rows):
        ids = np.sort(draw.choice(50, 3, replace=False)) + 1
        pairs = " ".join(f"{j}:{draw.normal():.4f}" for j in ids)
        lines.append(f"{i % 2}:{draw.random():.3f} {pairs}\n")
    lines[n_rows // 3] = "1 5:1 5:1\n"
    return "".join(lines).encode()


def put(place: str, content: bytes) -> str:
    open_storage(place).write("rows.svm", content)
    return f"{place}/rows.svm"


def objects(uri: str) -> dict[str, bytes]:
    """Of a data set by what they are called but for their writer's token."""
    folder = open_storage(uri)
    there: dict[str, bytes] = {}
    token = ""
    for name in folder.names():
        if name.startswith("columns-"):
            token = name.split("-")[1].split(".")[0]
    for name in folder.names():
        there[name.replace(token, "TOKEN")] = folder.read(name).replace(token.encode(), b"TOKEN")
    # The seal is of the token, too.
    there["manifest.json"] = there["manifest.json"].rpartition(b',\n "checksum"')[0]
    return there


def killed(*arguments: object) -> subprocess.CompletedProcess[str]:
    # What is small here is so in its worker processes too (sitecustomize).
    package = str(Path(cirrus_fast.__file__).parents[1])
    package = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
