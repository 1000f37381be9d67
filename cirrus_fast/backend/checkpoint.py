"""A run on disk: everything it takes to go on as if it had not stopped.

One .npz file: the optimiser's state, where each worker stands, and the supervisor's history. The
seed and the rows a worker has done decide what comes next, so nothing of the shuffling is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.model import npz_bytes, read_npz
from cirrus_fast.data.result import Record
from cirrus_fast.data.storage import write_file
from cirrus_fast.errors import ModelError, OptionError

FORMAT = "cirrus_fast checkpoint"
FORMAT_VERSION = 1

# Options that may differ in the run that goes on: when to stop, where to run, what to show.
_FREE = {
    "epochs",
    "epsilon",
    "patience",
    "threshold_loss",
    "timeout",
    "checkpoint_interval",
    "resume_from",
    "executor",
    "progress",
}


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The best model so far."""

    test_loss: float
    auc: float | None
    weights: Float32Array
    intercept: float


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What is kept.

    Attributes
    ----------
    options : as JSON; dataset_id : of the training data
    state : float32, the optimiser's; slots : record[n_workers] of the workers
    history : the evaluations so far; best : the best model, or None
    reference, stale : the early stopping's memory
    """

    options: dict[str, Any]
    dataset_id: str
    state: Float32Array
    slots: npt.NDArray[np.void]
    round: int
    seconds: float
    history: Sequence[Record]
    best: Best | None
    reference: float
    stale: int

    def save(self, path: str) -> None:
        """Writes the file, whole or not at all."""
        best = self.best
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "options": self.options,
            "dataset_id": self.dataset_id,
            "round": self.round,
            "seconds": self.seconds,
            "history": [asdict(record) for record in self.history],
            "reference": None if self.reference == float("inf") else self.reference,
            "stale": self.stale,
            "best": None if best is None else [best.test_loss, best.auc, best.intercept],
        }
        arrays = {"checkpoint": json.dumps(header), "state": self.state, "slots": self.slots}
        if best is not None:
            arrays["best_weights"] = best.weights
        write_file(path, npz_bytes(arrays))

    @classmethod
    def load(cls, path: str) -> Checkpoint:
        arrays = read_npz(path)
        try:
            header = json.loads(str(arrays["checkpoint"]))
            if header["format"] != FORMAT or header["format_version"] > FORMAT_VERSION:
                raise ModelError(f"{path}: not a checkpoint this package reads")
            best = None
            if header["best"] is not None:
                test_loss, auc, intercept = header["best"]
                best = Best(test_loss, auc, arrays["best_weights"], intercept)
            return cls(
                options=header["options"],
                dataset_id=header["dataset_id"],
                state=arrays["state"],
                slots=arrays["slots"],
                round=header["round"],
                seconds=header["seconds"],
                history=[Record(**record) for record in header["history"]],
                best=best,
                reference=float("inf") if header["reference"] is None else header["reference"],
                stale=header["stale"],
            )
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{path}: damaged or not a checkpoint ({error})") from error

    def check(self, options: dict[str, Any], dataset_id: str, path: str) -> None:
        """Refuses to go on with other data or other options than those the run began with."""
        if dataset_id != self.dataset_id:
            raise OptionError(f"resume_from={path}: is of another data set, or it was replaced")
        plain = json.loads(json.dumps(options))
        other = [
            name
            for name, value in plain.items()
            if name not in _FREE and value != self.options.get(name)
        ]
        if other:
            was = ", ".join(f"{name}={self.options.get(name)!r}" for name in other)
            raise OptionError(f"resume_from={path}: that run had {was}; give the same")
