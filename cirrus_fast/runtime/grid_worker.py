"""A pass over the data somewhere else, for some of a search's models: in another process of this
machine, or in a function.

What is larger than an event goes through a folder that both sides see:

    rows.npz         the training scale and the rows to measure on; gone when nobody wants an answer
    spec-W.json      what worker W is told
    models-W-G.npz   what came of its models, by its generation G
    left-W-G         a pass that the next generation goes on with, since a function's time was up,
    left-W-G-I       and what its group I has learnt
    stop             all shall end soon, with what there is
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.storage import Storage, is_s3, open_storage
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.grid_groups import Family, Lane, LaneSpec, state_bytes
from cirrus_fast.runtime.grid_pass import GridPass, PassRows, PassSpec, Rung
from cirrus_fast.runtime.grid_state import (
    Arrays,
    LeftPass,
    PassTimes,
    get_lanes,
    pack,
    put_lanes,
    unpack,
)
from cirrus_fast.runtime.row_sources import open_rows

_CSR = ("labels", "indptr", "indices", "data", "weights")
_ROWS, _STOP = "rows.npz", "stop"
# Why models have ended that were asked to.
STOPPED = "stopped"
# How often a worker on another machine looks whether it shall end.
_LOOK_S = 2.0
# What a function leaves is written at this rate at least, before its time is up.
_LEAVING_BYTES_A_S = 25e6


@dataclass(frozen=True, slots=True)
class GridWorkerSpec:
    """All that a worker is told."""

    worker: int
    dataset: str
    dataset_id: str
    text_copy: tuple[str, str, str] | None
    model_size: int
    holdout_seed: int
    holdout_fraction: float
    shared: PassSpec
    groups: list[tuple[Family, list[LaneSpec]]]

    @property
    def lanes(self) -> dict[int, LaneSpec]:
        """By number."""
        return {lane.number: lane for _, lanes in self.groups for lane in lanes}

    def write(self, storage: Storage) -> None:
        storage.write(_spec_name(self.worker), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, storage: Storage, worker: int) -> GridWorkerSpec:
        values = json.loads(storage.read(_spec_name(worker)))
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


@dataclass(frozen=True, slots=True)
class GridTask:
    """What a worker is asked to do: small enough for an event.

    Attributes
    ----------
    folder : which is there as long as somebody wants the answer
    generation : of the worker; goes_on : after which it goes on, or None if it begins
    """

    folder: str
    worker: int
    generation: int
    goes_on: int | None = None

    def to_json(self) -> str:
        return json.dumps({"kind": "grid"} | asdict(self))

    @property
    def models(self) -> str:
        return f"models-{self.worker}-{self.generation}.npz"

    def left(self, generation: int) -> str:
        return f"left-{self.worker}-{generation}"


def _spec_name(worker: int) -> str:
    return f"spec-{worker}.json"


def write_rows(storage: Storage, rows: PassRows) -> None:
    """Leaves what workers need beside their specs."""
    storage.write(_ROWS, pack({}, _arrays(rows)))


def rows_bytes(rows: PassRows) -> int:
    """Of what `write_rows` leaves."""
    return sum(one.nbytes for one in _arrays(rows).values())


def _arrays(rows: PassRows) -> Arrays:
    scale = rows.scale
    arrays: Arrays = {"ids": scale.ids, "place": scale.place, "divisor": scale.divisor}
    for ftrl, pairs in rows.penalties.items():
        if pairs is not None:
            arrays[f"penalties-{int(ftrl)}"] = pairs
    for name in _CSR if rows.test is not None else ():
        part = getattr(rows.test, name)
        if part is not None:
            arrays[f"test-{name}"] = part
    return arrays


def stop(storage: Storage) -> None:
    """Asks workers to end soon, with what there is."""
    storage.write(_STOP, b"")


def remove(storage: Storage) -> None:
    """All that a pass has in its folder. The rows first: a worker that still runs finds them gone,
    and gives up."""
    for name in [_ROWS, *storage.names()]:
        storage.delete(name)
    storage.remove_folder()


def run_grid(task: GridTask, deadline: float = math.inf) -> dict[str, Any]:
    """Trains a worker's models, until they have ended or the monotonic clock is at `deadline`;
    says after how many rows, and whether another is to go on."""
    storage = open_storage(task.folder)
    spec = GridWorkerSpec.read(storage, task.worker)
    dataset = open_rows(spec.dataset, spec.model_size, spec.text_copy)
    if dataset.id != spec.dataset_id:
        raise TrainingError(f"{spec.dataset}: was replaced after the search began")
    _, arrays = unpack(storage.read(_ROWS))
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
    left = None
    if task.goes_on is not None:
        left = LeftPass.read(storage, task.left(task.goes_on), spec.lanes)
    n_bytes = sum(state_bytes(family, len(rows.scale.ids)) for family, _ in spec.groups)
    made = GridPass(
        spec.shared,
        spec.groups,
        rows,
        stopping=_Looks(storage),
        deadline=deadline - n_bytes / _LEAVING_BYTES_A_S,
        left=left,
    )
    lanes = made.run()
    if not storage.exists(_ROWS):
        raise TrainingError("the search has ended without this worker")
    if made.handed_over:
        made.leave().write(storage, task.left(task.generation))
    else:
        for lane in lanes:
            lane.margins = None  # whose AUC is known
        found: Arrays = {}
        about = {"lanes": put_lanes(lanes, found), "times": asdict(made.times)}
        storage.write(task.models, pack(about, found))
    return {"rows": made.rows, "handed_over": made.handed_over}


class _Looks:
    """Why a worker shall end, if it shall; far storage is not asked after each few rows."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._far = is_s3(storage.uri)
        self._next = time.monotonic() + _LOOK_S
        self._found: str | None = None

    def __call__(self) -> str | None:
        if self._found or (self._far and time.monotonic() < self._next):
            return self._found
        self._next = time.monotonic() + _LOOK_S
        if self._storage.exists(_STOP) or not self._storage.exists(_ROWS):
            self._found = STOPPED
        return self._found


def read_models(
    storage: Storage, task: GridTask, specs: dict[int, LaneSpec]
) -> tuple[PassTimes, list[Lane]]:
    """What came of a worker's models, as if they had been trained here."""
    about, arrays = unpack(storage.read(task.models))
    return PassTimes.from_raw(about["times"]), get_lanes(about["lanes"], arrays, specs)
