"""A run on disk: everything it takes to go on as if it had not stopped.

One .npz file: the optimiser's state, where each worker stands, and the supervisor's history. The
seed and the rows a worker has done decide what comes next, so nothing of the shuffling is kept.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.model import npz_bytes, read_npz
from cirrus_fast.data.result import Record
from cirrus_fast.data.storage import file_writer, is_s3, local_path, storage_root, write_file
from cirrus_fast.errors import ModelError, OptionError, StorageError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.params.local import Positions

FORMAT = "cirrus_fast checkpoint"
FORMAT_VERSION = 4

# Options that may differ in the run that goes on: when to stop, where to run, what to show; and
# what data sets are called, since what they are is compared.
_FREE = {
    "dataset",
    "test_dataset",
    "epochs",
    "epsilon",
    "patience",
    "threshold_loss",
    "timeout",
    "max_cost",
    "checkpoint_interval",
    "resume_from",
    "executor",
    "param_store",
    "n_ps",
    "sync_rows",
    "pipeline_depth",
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
    options : as JSON, with what was decided from the data
    dataset_id, test_dataset_id : of the training and the test data; the latter None without any
    remote : whether the training data were in S3, on which the order of their rows depends
    state : float32, the optimiser's; positions : of the workers
    history : the evaluations so far; best : the best model, or None
    reference, stale : the early stopping's memory
    rows_repeated : rows that a run which goes on from here learns from once more, at most, and
        those of before
    """

    options: dict[str, Any]
    dataset_id: str
    test_dataset_id: str | None
    remote: bool
    state: Float32Array
    positions: Positions
    round: int
    seconds: float
    history: Sequence[Record]
    best: Best | None
    reference: float
    stale: int
    rows_repeated: int

    def save(self, path: str) -> None:
        """Writes the file, whole or not at all."""
        best = self.best
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "options": self.options,
            "dataset_id": self.dataset_id,
            "test_dataset_id": self.test_dataset_id,
            "remote": self.remote,
            "round": self.round,
            "seconds": self.seconds,
            "history": [asdict(record) for record in self.history],
            "reference": None if self.reference == float("inf") else self.reference,
            "stale": self.stale,
            "rows_repeated": self.rows_repeated,
            "best": None if best is None else [best.test_loss, best.auc, best.intercept],
        }
        arrays = {
            "checkpoint": np.array(json.dumps(header)),
            "state": self.state,
            "slots": self.positions.slots,
            "claims": self.positions.claims,
            "helped": self.positions.helped,
        }
        if best is not None:
            arrays["best_weights"] = best.weights
        write_file(path, npz_bytes(arrays | {"checksum": _checksum(arrays)}))

    @classmethod
    def load(cls, path: str) -> Checkpoint:
        """Reads a file; anything but a whole checkpoint is a ModelError that names it."""
        arrays = read_npz(path)
        checksum = arrays.pop("checksum", None)
        try:
            header = json.loads(str(arrays["checkpoint"]))
            if header["format"] != FORMAT:
                raise ModelError(f"{path}: not a checkpoint")
            if header["format_version"] != FORMAT_VERSION:
                raise ModelError(
                    f"{path}: a checkpoint of another version of cirrus-fast (format version "
                    f"{header['format_version']}, this one reads {FORMAT_VERSION})"
                )
            if checksum is None or str(checksum) != _checksum(arrays):
                raise ModelError(f"{path}: damaged (its checksum is another one)")
            best = None
            if header["best"] is not None:
                test_loss, auc, intercept = header["best"]
                weights = _floats(arrays["best_weights"])
                best = Best(float(test_loss), _number(auc), weights, float(intercept))
            reference = _number(header["reference"])
            return cls(
                options=dict(header["options"]),
                dataset_id=header["dataset_id"],
                test_dataset_id=header["test_dataset_id"],
                remote=bool(header["remote"]),
                state=_floats(arrays["state"]),
                positions=Positions(arrays["slots"], arrays["claims"], arrays["helped"]),
                round=int(header["round"]),
                seconds=float(header["seconds"]),
                history=[record_of(raw) for raw in header["history"]],
                best=best,
                reference=float("inf") if reference is None else reference,
                stale=int(header["stale"]),
                rows_repeated=int(header["rows_repeated"]),
            )
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{path}: damaged or not a checkpoint ({error})") from error

    def check_same_run(
        self,
        options: Mapping[str, Any],
        dataset_id: str,
        test_dataset_id: str | None,
        remote: bool,
        path: str,
    ) -> None:
        """Refuses to go on with other data or other options than those the run began with.

        path : what to call it
        """
        if dataset_id != self.dataset_id:
            raise OptionError(f"{path}: is of another data set, or it was replaced")
        if test_dataset_id != self.test_dataset_id:
            raise OptionError(f"{path}: is of a run with another test_dataset")
        if remote != self.remote:
            was, now = ("in S3", "on disk") if self.remote else ("on disk", "in S3")
            raise OptionError(
                f"{path}: that run's data set was {was}, this one is {now}, where rows "
                f"come in another order; give the one {was}"
            )
        plain = json.loads(json.dumps(options))
        other = [
            name
            for name, value in plain.items()
            if name not in _FREE and value != self.options.get(name)
        ]
        if other:
            was = ", ".join(f"{name}={self.options.get(name)!r}" for name in other)
            raise OptionError(f"{path}: that run had {was}; give the same")

    def check_fits(self, n_state: int, positions: Positions, n_features: int, path: str) -> None:
        """Refuses arrays that are not those of such a run, whatever their checksum says."""
        found, wanted = self.positions.slots, positions.slots
        if found.ndim == 1 and found.dtype == wanted.dtype and len(found) != len(wanted):
            raise OptionError(
                f"{path}: that run had {len(found)} workers, this one has "
                f"{len(wanted)}; give the same n_workers"
            )
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ModelError(f"{path}: damaged, or of another version (its slots do not fit)")
        if bool(len(self.positions.claims)) != bool(len(positions.claims)):
            raise OptionError(
                f"resume_from={path}: with ssp, workers take blocks from each other, but for "
                "those of a Redis with the module: give the same kind of param_store"
            )
        for ours, theirs in (
            (self.positions.claims, positions.claims),
            (self.positions.helped, positions.helped),
        ):
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype or (ours < 0).any():
                raise ModelError(f"{path}: damaged (its blocks do not fit)")
        if (found["rows"] < 0).any() or (found["updates"] < 0).any():
            raise ModelError(f"{path}: damaged (a worker's place is negative)")
        if self.state.shape != (n_state,):
            raise ModelError(f"{path}: damaged (its state does not fit the model)")
        if self.best is not None and self.best.weights.shape != (n_features,):
            raise ModelError(f"{path}: damaged (its best weights do not fit the model)")


def _floats(array: npt.NDArray[Any]) -> Float32Array:
    if array.dtype != np.float32:
        raise ValueError(f"{array.dtype} where there must be float32")
    return array


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def record_of(raw: Mapping[str, Any]) -> Record:
    return Record(
        seconds=float(raw["seconds"]),
        rows=int(raw["rows"]),
        updates=int(raw["updates"]),
        train_loss=float(raw["train_loss"]),
        test_loss=_number(raw["test_loss"]),
        auc=_number(raw["auc"]),
        cost=float(raw["cost"]),
    )


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """BLAKE2b of the arrays' names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.descr} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoint file of a run: when it is due, and what became of it.

    Attributes
    ----------
    path : the file, once it was written; else None
    error : why the latest write failed, or None. The file is then that of the last good one.
    """

    def __init__(self, task: str, interval: float | None) -> None:
        """interval : seconds, or None for no checkpoints. A place that cannot be written is refused
        here, before the run."""
        self.path: str | None = None
        self.error: str | None = None
        self._interval = interval
        self._written: Future[None] | None = None
        self._due = float("inf")
        if interval is None:
            return
        root = storage_root()
        if is_s3(root):
            raise StorageError(
                "checkpoint_interval: checkpoints need a folder on disk, and the storage root is "
                f"{root}; set it to a folder, and name data sets in full ({root.rstrip('/')}/...)"
            )
        folder = local_path(root).resolve() / "checkpoints"
        self._target = str(folder / f"{task}.npz")
        try:
            file_writer(self._target).abort()
        except OSError as error:
            raise StorageError(
                f"checkpoint_interval: {folder}: cannot be written ({error.strerror or error})"
            ) from error
        self._put_off()

    @property
    def due(self) -> bool:
        return time.perf_counter() >= self._due

    def save(self, take: Callable[[], Checkpoint]) -> None:
        """Writes what `take` gives. A run outlives a full disk: a failure is a notice, the file of
        before stays, and the next one is tried when it is due."""
        if self._interval is None:
            return
        if self._written is not None:  # an interrupt may have kept us from waiting for the last
            wait([self._written])
        # In a thread, which Ctrl-C does not reach: it must not tear a file that is being written.
        # Its end is seen by a future, since Python 3.11 takes a thread whose join was interrupted
        # for one that is over (https://github.com/python/cpython/issues/90882).
        self._written = Future()
        arguments = take, self._written
        Thread(target=self._write, args=arguments, name="cirrus-checkpoint").start()
        self._written.result()
        self._put_off()

    def _write(self, take: Callable[[], Checkpoint], written: Future[None]) -> None:
        try:
            take().save(self._target)
            self.path, self.error = self._target, None
        except (OSError, MemoryError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            kept = "the last good one is kept" if self.path else "there is none yet"
            if self.error is None:
                notice(f"{self._target}: checkpoint not written ({why}); {kept}, the run goes on")
            self.error = why
        except BaseException as error:
            written.set_exception(error)
            return
        written.set_result(None)

    def _put_off(self) -> None:
        assert self._interval is not None
        self._due = time.perf_counter() + self._interval
