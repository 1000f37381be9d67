"""A pass over the data in another process of this machine, for some of a search's models.

What is large comes and goes in files of a folder that both sides see: `rows.npz` has the training
scale and the rows to measure on, `models-N.npz` the weights of the best of worker N's models.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.result import Record
from cirrus_fast.data.traffic import Reads
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.grid_groups import Family, Lane, LaneSpec
from cirrus_fast.runtime.grid_pass import GridPass, PassRows, PassSpec, PassTimes, Rung
from cirrus_fast.runtime.row_sources import open_rows

_CSR = ("labels", "indptr", "indices", "data", "weights")
_ROWS = "rows.npz"


@dataclass(frozen=True, slots=True)
class GridWorkerSpec:
    """All that a worker is told."""

    worker: int
    folder: str  # which is there as long as somebody wants the answer
    dataset: str
    dataset_id: str
    text_copy: tuple[str, str, str] | None
    model_size: int
    holdout_seed: int
    holdout_fraction: float
    shared: PassSpec
    groups: list[tuple[Family, list[LaneSpec]]]

    def to_raw(self) -> dict[str, Any]:
        """For JSON."""
        return {"grid": asdict(self)}

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> GridWorkerSpec:
        values = dict(raw["grid"])
        shared, copy = dict(values["shared"]), values["text_copy"]
        shared["rungs"] = tuple(Rung(**rung) for rung in shared["rungs"])
        if shared["store"] is not None:
            from cirrus_fast.runtime.params.lanes import LaneStore

            shared["store"] = LaneStore(**shared["store"])
        values["shared"] = PassSpec(**shared)
        values["text_copy"] = None if copy is None else tuple(copy)
        values["groups"] = [
            (
                Family(**family),
                [LaneSpec(**{**one, "class_weight": tuple(one["class_weight"])}) for one in lanes],
            )
            for family, lanes in values["groups"]
        ]
        return cls(**values)


def write_rows(folder: str, rows: PassRows) -> None:
    """Leaves what workers need beside their spec."""
    scale = rows.scale
    arrays = {"ids": scale.ids, "place": scale.place, "divisor": scale.divisor}
    for ftrl, pairs in rows.penalties.items():
        if pairs is not None:
            arrays[f"penalties-{int(ftrl)}"] = pairs
    for name in _CSR if rows.test is not None else ():
        part = getattr(rows.test, name)
        if part is not None:
            arrays[f"test-{name}"] = part
    np.savez(Path(folder, _ROWS), **arrays)  # type: ignore[arg-type]


def run_grid(raw: dict[str, Any]) -> dict[str, Any]:
    """Trains the spec's models; the answer says what came of each."""
    spec = GridWorkerSpec.from_raw(raw)
    dataset = open_rows(spec.dataset, spec.model_size, spec.text_copy)
    if dataset.id != spec.dataset_id:
        raise TrainingError(f"{spec.dataset}: was replaced after the search began")
    with np.load(Path(spec.folder, _ROWS)) as found:
        arrays = dict(found)
    test = None
    if "test-labels" in arrays:
        parts = {name: arrays.get(f"test-{name}") for name in _CSR}
        test = CSR(n_features=len(arrays["ids"]), **parts)  # type: ignore[arg-type]
    rows = PassRows(
        dataset,
        HoldOut.plan(dataset.blocks, spec.holdout_fraction, spec.holdout_seed),
        TrainingScale(arrays["ids"], arrays["place"], arrays["divisor"], None),
        {ftrl: arrays.get(f"penalties-{int(ftrl)}") for ftrl in (False, True)},
        test,
    )

    def stopping() -> str | None:
        return None if Path(spec.folder).exists() else "stopped"

    made = GridPass(spec.shared, spec.groups, rows, stopping=stopping)
    lanes = made.run()
    kept = {str(lane.spec.number): lane.weights for lane in lanes if lane.weights is not None}
    if stopping():
        raise TrainingError("the search has ended without this worker")
    np.savez(models_file(spec.folder, spec.worker), **kept)  # type: ignore[arg-type]
    return {
        "lanes": [
            {
                "number": lane.spec.number,
                "history": [asdict(record) for record in lane.history],
                "best_loss": lane.best_loss,
                "auc": lane.auc,
                "intercept": lane.intercept,
                "reason": lane.reason,
                "error": lane.error,
            }
            for lane in lanes
        ],
        "times": asdict(made.times),
    }


def models_file(folder: str, worker: int) -> Path:
    return Path(folder, f"models-{worker}.npz")


def times_of(answer: dict[str, Any]) -> PassTimes:
    times = dict(answer["times"])
    times["reads_by_epoch"] = [Reads(**one) for one in times["reads_by_epoch"]]
    return PassTimes(**times)


def lanes_of(answer: dict[str, Any], spec: GridWorkerSpec) -> list[Lane]:
    """What came of a worker's models, as if they had been trained here."""
    specs = {lane.number: lane for _, lanes in spec.groups for lane in lanes}
    found = []
    with np.load(models_file(spec.folder, spec.worker)) as weights:
        for one in answer["lanes"]:
            lane = Lane(specs[one["number"]], 0)
            lane.history = [Record(**record) for record in one["history"]]
            lane.best_loss, lane.auc, lane.intercept = (
                one["best_loss"],
                one["auc"],
                one["intercept"],
            )
            lane.reason, lane.error = one["reason"], one["error"]
            name = str(one["number"])
            lane.weights = weights.get(name)
            found.append(lane)
    return found
