"""What a training run gives back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cirrus_fast.data.columns import load_npz
from cirrus_fast.data.model import LinearModel, npz_bytes, read_npz
from cirrus_fast.data.storage import write_file
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import DatasetError, ModelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES = ("start_up", "storage_read", "decode", "pull", "compute", "push", "other")


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation.

    Attributes
    ----------
    seconds : since the first step; starting up is a phase of its own
    rows, updates : rows learnt from and optimiser steps so far, over all workers
    train_loss : mean over the rows since the last record, each before it was learnt from
    test_loss, auc : on the test rows; None without any
    cost : dollars so far; 0 where nothing is rented. Of workers under way all time since they were
        called is counted, which is a little more than will be billed
    """

    seconds: float
    rows: int
    updates: int
    train_loss: float
    test_loss: float | None
    auc: float | None
    cost: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """A trained model and how it came about.

    Attributes
    ----------
    model : LinearModel, the best seen on the test rows; the last one without test rows
    history : list of Record
    test_loss, auc : of `model` on the test rows; None without any
    breakdown : seconds summed over workers, by phase (start_up, storage_read, decode, pull,
        compute, push, other)
    seconds : from the first step to the last
    cost : dollars, of rented workers (docs/deploying.md); cost_parts : the same by what they are
        for: compute, requests, s3_requests, s3_bytes, store, and before, of the run it goes on
        from; empty where nothing is rented
    rows_processed : rows learnt from, over all workers and epochs
    rows_repeated : rows that may have been learnt from once more, after workers that died or a
        checkpoint that was taken while workers went on
    stop_reason : "epochs", "converged", "timeout", "max_cost", "threshold_loss", "callback",
        "stopped" or "interrupted"; in a search by halving also "halved", of a model that others
        were better than
    reads : Reads, what reading data from a server (S3) has cost, by the workers that ended and
        before them (manifests, held-out rows, a test data set); 0 for data on disk
    reads_by_epoch : list of Reads, the workers' own; what `reads` has more was read before
    n_workers, executor, param_store : what it ran on
    exchanges : with a parameter store over a network (docs/redis.md): how many, how many of them
        are in doubt, how stale what was learnt from was; empty for the model in memory
    checkpoint : file to give as resume_from, or None if none was asked for or written
    checkpoint_error : why the last checkpoint could not be written, or None; `checkpoint` is then
        that of an earlier moment
    """

    model: LinearModel
    history: list[Record]
    test_loss: float | None
    auc: float | None
    breakdown: Mapping[str, float]
    seconds: float
    cost: float
    rows_processed: int
    rows_repeated: int
    stop_reason: str
    n_workers: int
    executor: str
    param_store: str
    checkpoint: str | None = None
    checkpoint_error: str | None = None
    exchanges: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    cost_parts: Mapping[str, float] = field(default_factory=dict)
    reads: Reads = field(default_factory=Reads)
    reads_by_epoch: list[Reads] = field(default_factory=list)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one .npz file, whole or not at all; `LinearModel.load` reads it too."""
        write_file(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainResult:
        return cls._from_arrays(read_npz(path), os.fspath(path))

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        return npz_bytes(self.model.to_arrays() | {"result": json.dumps(self.summary())})

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> TrainResult:
        """`where` they are from, for errors"""
        try:
            return cls._from_arrays(load_npz(raw, where), where)
        except DatasetError as error:
            raise ModelError(f"{error}; is it a saved model?") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, Any], where: str) -> TrainResult:
        if "result" not in arrays:
            raise ModelError(f"{where}: holds a model but no result; use LinearModel.load")
        try:
            values = cls.values_of(json.loads(str(arrays["result"])))
            return cls(model=LinearModel.from_arrays(arrays, where), **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{where}: damaged result ({error})") from error

    def summary(self) -> dict[str, Any]:
        """All but the model, for JSON."""
        summary = {
            name: getattr(self, name)
            for name in TrainResult.__slots__
            if name not in ("model", "history")
        }
        summary["history"] = [asdict(record) for record in self.history]
        summary["reads"] = asdict(self.reads)
        summary["reads_by_epoch"] = [asdict(reads) for reads in self.reads_by_epoch]
        return summary

    @staticmethod
    def values_of(summary: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes but the model, out of a summary."""
        values = _known(TrainResult, summary)
        values["history"] = [Record(**_known(Record, record)) for record in summary["history"]]
        values["reads"] = _reads(summary.get("reads", {}))
        values["reads_by_epoch"] = [_reads(one) for one in summary.get("reads_by_epoch", [])]
        return values

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The loss over time; saved to `path` if given. Needs the extra "plot"."""
        from cirrus_fast.plots import plot_history

        return plot_history({"": self}, path)


def _reads(raw: Mapping[str, int]) -> Reads:
    return Reads(**_known(Reads, raw))


def _known(kind: type[Record | TrainResult | Reads], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys of later versions."""
    names = {one.name for one in fields(kind)} - {"model", "history"}
    return {name: value for name, value in raw.items() if name in names}
