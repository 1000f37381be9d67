"""The peers: what they are called on PyPI, which are here, and the two that are driven as programs.

A peer that is not installed is skipped where it would run, and the report names it as missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# Module -> (distribution on PyPI, what it is here for). xLearn's is a source package that needs
# CMake and a C++ compiler, so it is not in the [bench] extra.
PEERS = {
    "sklearn": ("scikit-learn", "parsing, columns, training, scoring, evaluation"),
    "xgboost": ("xgboost-cpu", "parsing (dmlc)"),
    "svmloader": ("svmloader", "parsing"),
    "liblinear": ("liblinear-official", "training to convergence"),
    "vowpalwabbit": ("vowpalwabbit", "text to model, its cache"),
    "xlearn": ("xlearn==0.40a1", "one pass of AdaGrad"),
    "pyarrow": ("pyarrow", "Parquet"),
    "zstandard": ("zstandard", "zstd"),
}


def need(module: str) -> ModuleType:
    """The peer's module; without it this benchmark is skipped, with what to install."""
    distribution = PEERS[module.split(".")[0]][0]
    return pytest.importorskip(module, reason=f"pip install {distribution}", exc_type=ImportError)


def versions() -> dict[str, str]:
    """Peer -> version, of those that are here."""
    found = {}
    for module, (distribution, _) in PEERS.items():
        name = distribution.split("==")[0]
        if importlib.util.find_spec(module) is None:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # xgboost instead of xgboost-cpu
            found[name] = metadata.version(module)
    return found


def missing() -> list[str]:
    """Peers that are not here: what they would have shown, and how to get them."""
    return [
        f"{distribution} ({purpose}): `pip install {distribution}`"
        for module, (distribution, purpose) in PEERS.items()
        if importlib.util.find_spec(module) is None
    ]


# Vowpal Wabbit

VOWPAL_LEARNER = ("--loss_function", "logistic", "-b", "20", "--adaptive", "-l", "0.05")
"""The best of the settings tried on such rows; 2^20 weights, so that ids below 2^19 do not collide
with its constant."""


def vowpal(*arguments: object) -> None:
    """One run of its driver, in this process; what it prints is not wanted."""
    module = need("vowpalwabbit")
    module.Workspace(arg_list=["--quiet", *map(str, arguments)]).finish()


def vowpal_margins(model: Path, test: Path):
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "margins.txt"
        vowpal("-d", test, "-t", "-i", model, "-r", found)
        return np.loadtxt(found, np.float32, usecols=0)


# xLearn

_XLEARN = """
import sys
import xlearn
train, test, model, margins, threads, rate = sys.argv[1:]
learner = xlearn.create_linear()
learner.setTrain(train)
learner.disableEarlyStop()
settings = {"task": "binary", "opt": "adagrad", "lr": float(rate), "lambda": 0.0,
            "epoch": 1, "nthread": int(threads)}
learner.fit(settings, model)
learner.setTest(test)
learner.predict(model, margins)
"""


def xlearn_pass(train: Path, test: Path, *, threads: int, rate: float):
    """One pass of AdaGrad: seconds, as xLearn tells them of the pass alone, and test margins.

    A process of its own: it prints, and ends the process where it is unhappy.
    """
    need("xlearn")
    with tempfile.TemporaryDirectory() as scratch:
        model, found = Path(scratch) / "model", Path(scratch) / "margins"
        settings = map(str, (train, test, model, found, threads, rate))
        run = subprocess.run(
            [sys.executable, "-c", _XLEARN, *settings],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"USER": os.environ.get("USER", "bench")},  # it dies without
        )
        plain = re.sub(r"\x1b\[\d*m", "", run.stdout)
        told = re.search(r"100%\s*\]\s+1\s+([\d.]+)\s+([\d.]+)", plain)
        if told is None:
            raise RuntimeError(f"xLearn said something else than expected: {plain[-500:]!r}")
        return float(told[2]), np.loadtxt(found, np.float32)
