"""A run whose supervisor died goes on under another, from what it keeps in the store.

Beside model, scale and the workers' places there are a JSON text, {cirrus_fast:TASK}:plan: the
options as they were given, without a password, and the evaluations so far; and the best model of
those. The run that goes on has a name and keys of its own; workers of the old one that still live
find it over, and end.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast._version import __version__
from cirrus_fast.backend.checkpoint import Best, Checkpoint, record_of
from cirrus_fast.backend.redis_run import RedisRun, joined_state
from cirrus_fast.backend.run_control import RunControl
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.result import Record
from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.options import Options, parse_options, table
from cirrus_fast.runtime.params import bitfield, module
from cirrus_fast.runtime.params.accumulators import read_accumulators
from cirrus_fast.runtime.params.control import RECORD, Names, RunHeader, read_run
from cirrus_fast.runtime.params.local import Positions
from cirrus_fast.runtime.params.remote_claims import read_positions
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import StoreUrl, parse_urls

# A supervisor that has said nothing for so long is taken for dead, and its run from it: longer than
# it takes to measure a model on a machine that is busy.
_PATIENCE_S = 15.0

Shards = Sequence[bitfield.Shard] | Sequence[module.ModuleShard]


def plan_text(
    options: Options,
    params: dict[str, Any],
    dataset_id: str,
    test_dataset_id: str | None,
    remote: bool,
    history: Sequence[Record],
    reference: float,
    stale: int,
    rows_repeated: int,
) -> str:
    """What `LeftRun.read` wants to know."""
    return json.dumps(
        {
            "version": __version__,
            "options": options.to_json(),
            "params": params,
            "dataset_id": dataset_id,
            "test_dataset_id": test_dataset_id,
            "remote": remote,
            "history": [asdict(record) for record in history],
            "reference": None if reference == float("inf") else reference,
            "stale": stale,
            "rows_repeated": rows_repeated,
        }
    )


# A model that is larger than a string of a Redis by far is not kept: the best begins anew.
_MOST_BEST = 1 << 28


def best_bytes(best: Best) -> bytes | None:
    """The best model so far, for a key of its own; None where it is too large."""
    if best.weights.nbytes > _MOST_BEST:
        return None
    head = json.dumps([best.test_loss, best.auc, best.intercept]).encode()
    return head + b"\n" + zlib.compress(best.weights.tobytes(), 1)


def _best_of(data: bytes | None) -> Best | None:
    if data is None:
        return None
    head, _, packed = data.partition(b"\n")
    test_loss, auc, intercept = json.loads(head)
    weights = np.frombuffer(bytearray(zlib.decompress(packed)), np.float32)
    return Best(test_loss, auc, weights, intercept)


@dataclass(frozen=True, slots=True, eq=False)
class LeftRun:
    """What a run has left in the store.

    Attributes
    ----------
    options : of the run that goes on; checkpoint : from where
    """

    task: str
    options: Options
    checkpoint: Checkpoint
    _link: Link
    _shards: Shards

    @classmethod
    def read(cls, task: str, param_store: str) -> LeftRun:
        """Refuses a run that has a supervisor, or is of another version."""
        control = RunControl(task, param_store)
        try:
            return cls._read(task, param_store, control)
        except BaseException:
            control.close()
            raise

    @classmethod
    def _read(cls, task: str, param_store: str, control: RunControl) -> LeftRun:
        if control.status(_PATIENCE_S).supervised:
            raise StoreError(
                f"run {task}: has a supervisor that lives; cirrus-fast status {task} shows it"
            )
        urls, link = parse_urls(param_store), control.link
        header, _ = read_run(link, task)
        raw = json.loads(link.ask("GET", Names(task).plan) or "null")
        if raw is None or raw["version"] != __version__:
            was = "another one" if raw is None else raw["version"]
            raise StoreError(f"run {task}: is of cirrus-fast {was}, this is {__version__}")
        if raw["options"]["executor"] not in ("local", "processes", "lambda"):
            raise OptionError(
                f"run {task}: was on an executor of your own, {raw['options']['executor']}; "
                "checkpoints and resume_from are for those"
            )
        # What was left at its default may not be given: some of it means nothing beside the rest.
        defaults = {row.name: row.default for row in table()}
        given = {name: one for name, one in raw["options"].items() if one != defaults[name]}
        given |= {"param_store": param_store, "resume_from": None}
        optimizer = _kernels.Optimizer(header.optimizer, header.learning_rate)
        shards, state = _model(urls, header, optimizer)
        records = np.zeros(header.n_workers, RECORD)
        for worker, record in control.records().items():
            records[worker] = record
        slots, positions = records["slot"].copy(), Positions.of_slots(records["slot"])
        if header.n_blocks:
            positions = read_positions(link.ask_all, Names(task), slots, header.n_blocks)
        reference = raw["reference"]
        history = [record_of(one) for one in raw["history"]]
        return cls(
            task=task,
            options=parse_options(given),
            checkpoint=Checkpoint(
                options=raw["params"],
                dataset_id=raw["dataset_id"],
                test_dataset_id=raw["test_dataset_id"],
                remote=raw["remote"],
                state=state,
                positions=positions,
                round=0,
                seconds=history[-1].seconds if history else 0.0,
                history=history,
                best=_best_of(link.ask("GET", Names(task).best)),
                reference=float("inf") if reference is None else float(reference),
                stale=raw["stale"],
                rows_repeated=raw["rows_repeated"]
                + int(slots["granted"].sum())
                + int(records["repeated"].sum()),
            ),
            _link=link,
            _shards=shards,
        )

    def remove(self, store: RedisRun) -> None:
        """Once `store` has all of it. Workers of the old run end when they see that."""
        store.remove(self._shards)
        self._link.ask("UNLINK", *Names(self.task).all())
        self._link.close()
        for shard in self._shards:
            shard.link.close()


def _model(
    urls: Sequence[StoreUrl], header: RunHeader, optimizer: _kernels.Optimizer
) -> tuple[Shards, Float32Array]:
    """Where the model is, and the state of the optimiser."""
    shards: Shards
    if header.store == "module":
        shards = served = module.open_shards(urls, header)
        if not header.copies:
            return served, module.read_state(served, optimizer.width)
        weights = module.read_state(served, 1)
    else:
        shards = strings = bitfield.open_shards(urls, header)
        whole = bitfield.read_weights(strings).astype(np.float64)
        weights = (whole / bitfield.SCALE).astype(np.float32)
    told = read_accumulators(shards, len(weights)) if optimizer.kind == "adagrad" else None
    return shards, joined_state(optimizer, weights, told)
