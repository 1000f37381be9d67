"""What a pass has come to, as bytes: models that have ended, and a pass that another goes on with.

Arrays are NumPy's, `about` beside them is JSON. Whoever goes on does so with the next row, in the
order that the pass had, so nobody can tell from its models that it was left.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.result import Record
from cirrus_fast.data.storage import Storage
from cirrus_fast.data.traffic import Reads
from cirrus_fast.runtime.grid_groups import Family, Lane, LaneSpec

Arrays = dict[str, npt.NDArray[Any]]
_ABOUT = "about"
# Of a lane, beside its spec, its history and its arrays.
_OF_LANE = (
    "slot",
    "best_loss",
    "auc",
    "intercept",
    "reference",
    "stale",
    "loss_sum",
    "weight_sum",
    "reason",
    "error",
)
_ARRAYS_OF_LANE = ("weights", "margins")


@dataclass(slots=True)
class PassTimes:
    """Seconds: start_up until rows are learnt from; waiting for storage and decoding; learning and
    measuring, all threads together."""

    start_up: float = 0.0
    storage_read: float = 0.0
    decode: float = 0.0
    compute: float = 0.0
    reads_by_epoch: list[Reads] = field(default_factory=list)

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> PassTimes:
        return cls(**raw | {"reads_by_epoch": [Reads(**one) for one in raw["reads_by_epoch"]]})


def pack(about: dict[str, Any], arrays: Arrays) -> bytes:
    into = io.BytesIO()
    told = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(into, **{_ABOUT: told}, **arrays)  # type: ignore[arg-type]
    return into.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], Arrays]:
    with np.load(io.BytesIO(data)) as found:
        arrays = dict(found)
    return json.loads(arrays.pop(_ABOUT).tobytes()), arrays


def put_lanes(lanes: Sequence[Lane], arrays: Arrays) -> list[dict[str, Any]]:
    """What is known of lanes, but for their specs; arrays go to the others."""
    raw = []
    for lane in lanes:
        number = lane.spec.number
        about = {name: getattr(lane, name) for name in _OF_LANE}
        about["history"] = [asdict(record) for record in lane.history]
        raw.append({"number": number} | about)
        for name in _ARRAYS_OF_LANE:
            if getattr(lane, name) is not None:
                arrays[f"{name}-{number}"] = np.ascontiguousarray(getattr(lane, name))
    return raw


def get_lanes(
    raw: Sequence[dict[str, Any]], arrays: Arrays, specs: dict[int, LaneSpec]
) -> list[Lane]:
    """specs : by number"""
    lanes = []
    for one in raw:
        number = one["number"]
        lane = Lane(specs[number], one["slot"])
        for name in _OF_LANE:
            setattr(lane, name, one[name])
        lane.history = [Record(**record) for record in one["history"]]
        for name in _ARRAYS_OF_LANE:
            setattr(lane, name, arrays.get(f"{name}-{number}"))
        lanes.append(lane)
    return lanes


@dataclass(slots=True)
class GroupState:
    """Lanes of a pass that still learn.

    Attributes
    ----------
    updates : made so far
    state : what they have learnt, where it is here; fill : puts it where it is wanted, where not
    """

    family: Family
    updates: int
    lanes: list[Lane]
    state: memoryview = field(default_factory=lambda: memoryview(b""))
    fill: Callable[[memoryview], None] | None = None


@dataclass(slots=True)
class LeftPass:
    """A pass between two rows.

    Attributes
    ----------
    rows, model_rows : that each running model, and all of them together, have learnt from
    elapsed, learning : seconds since the pass began, and since its first row if there was one
    ended : lanes that are in no group any more
    groups : the others
    """

    rows: int
    model_rows: int
    elapsed: float
    learning: float | None
    times: PassTimes
    ended: list[Lane]
    groups: list[GroupState]

    def write(self, storage: Storage, name: str) -> None:
        """Groups' states, which are large, are objects of their own, written first."""
        for i, group in enumerate(self.groups):
            storage.write(_state_name(name, i), bytes(group.state))
        arrays: Arrays = {}
        about = {
            "rows": self.rows,
            "model_rows": self.model_rows,
            "elapsed": self.elapsed,
            "learning": self.learning,
            "times": asdict(self.times),
            "ended": put_lanes(self.ended, arrays),
            "groups": [
                {
                    "family": asdict(group.family),
                    "updates": group.updates,
                    "lanes": put_lanes(group.lanes, arrays),
                }
                for group in self.groups
            ],
        }
        storage.write(name, pack(about, arrays))

    @classmethod
    def read(cls, storage: Storage, name: str, specs: dict[int, LaneSpec]) -> LeftPass:
        """specs : of all lanes, by number"""
        about, arrays = unpack(storage.read(name))
        groups = [
            GroupState(
                Family(**group["family"]),
                group["updates"],
                get_lanes(group["lanes"], arrays, specs),
                fill=partial(storage.read_into, _state_name(name, i), 0),
            )
            for i, group in enumerate(about.pop("groups"))
        ]
        return cls(
            ended=get_lanes(about.pop("ended"), arrays, specs),
            times=PassTimes.from_raw(about.pop("times")),
            groups=groups,
            **about,
        )


def _state_name(name: str, group: int) -> str:
    return f"{name}-{group}"
