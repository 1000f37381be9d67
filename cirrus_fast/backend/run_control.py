"""A run that another process supervises, by what is in the store: asked about, and stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cirrus_fast.backend.function_place import FunctionPlace
from cirrus_fast.errors import FunctionError, StoreError
from cirrus_fast.runtime.params.control import (
    SAYS,
    STOP_FIELD,
    TTL_S,
    Names,
    RunHeader,
    control_link,
    current_records,
    is_clustered,
)
from cirrus_fast.runtime.params.local import ACTIVE, FINISHED, STARTED
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import parse_urls

# A supervisor shows that it lives every second, unless it measures the model just then.
_GONE_S = 3.0
_STATES = {ACTIVE: "learning", FINISHED: "finished", STARTED: "starting"}


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    worker: int
    generation: int
    state: str
    rows: int
    updates: int


@dataclass(frozen=True, slots=True)
class RunStatus:
    """
    Attributes
    ----------
    supervised : whether its supervisor has shown that it lives
    stopping : whether its workers were told to end
    train_loss : mean over all rows, each measured before it was learnt from; None before the first
    """

    task: str
    store: str
    optimizer: str
    model_size: int
    supervised: bool
    stopping: bool
    rows: int
    updates: int
    train_loss: float | None
    workers: tuple[WorkerStatus, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class RunControl:
    """A run by its name and the store it is in.

    Attributes
    ----------
    link : to the server that has the run's control
    """

    def __init__(self, task: str, param_store: str) -> None:
        urls = parse_urls(param_store)
        self._task, self._names = task, Names(task)
        self.link: Link = control_link(urls, task, is_clustered(urls), lambda: False)

    def close(self) -> None:
        self.link.close()

    def status(self, patience_s: float = _GONE_S) -> RunStatus:
        """Takes a second: whether the supervisor lives shows in what it says next.

        patience_s : how long it may say nothing
        """
        header, supervised = self._header(), self._lives(patience_s)
        says = self._says()
        if says is None:
            raise self._missing()
        control, generations = says
        slots = {worker: record["slot"] for worker, record in self._records(generations).items()}
        workers = tuple(
            WorkerStatus(
                worker=worker,
                generation=int(slot["generation"]),
                state=_STATES.get(int(slot["state"]), "waiting"),
                rows=int(slot["rows"]),
                updates=int(slot["updates"]),
            )
            for worker, slot in sorted(slots.items())
        )
        weight = sum(float(slot["weight_sum"]) for slot in slots.values())
        loss = sum(float(slot["loss_sum"]) for slot in slots.values())
        return RunStatus(
            task=self._task,
            store=header.store,
            optimizer=header.optimizer,
            model_size=header.model_size,
            supervised=supervised,
            stopping=bool(control["stop"]),
            rows=sum(worker.rows for worker in workers),
            updates=sum(worker.updates for worker in workers),
            train_loss=loss / weight if weight else None,
            workers=workers,
        )

    def stop(self) -> bool:
        """Asks the supervisor to end the run with what there is; tells the workers where there is
        none. Returns whether there is one."""
        self._header()
        self.link.ask_all(
            ("HSET", self._names.workers, STOP_FIELD, "1"), ("EXPIRE", self._names.workers, TTL_S)
        )
        if self._lives(_GONE_S):
            return True
        says = self._says()
        if says is None:
            return True  # it has ended meanwhile
        control, generations = says
        control["stop"] = 1
        said = control.tobytes() + generations.tobytes()
        self.link.ask("SET", self._names.control, said, "EX", TTL_S)
        return False

    def _lives(self, patience_s: float) -> bool:
        """Whether the supervisor says anything, or has ended, within so long."""
        before, until = self._says(), time.monotonic() + patience_s
        while time.monotonic() < until:
            time.sleep(0.1)
            now = self._says()
            if before is None or now is None or now[0]["beat"] != before[0]["beat"]:
                return True
        return False

    def _header(self) -> RunHeader:
        found = self.link.ask("GET", self._names.run)
        if found is None:
            raise self._missing()
        return RunHeader.from_json(found)

    def _missing(self) -> StoreError:
        return StoreError(
            f"{self.link.place}: has no run {self._task}: it is over, or in another store"
        )

    def _says(self) -> tuple[Any, Any] | None:
        said = self.link.ask("GET", self._names.control)
        if said is None:
            return None
        control = np.frombuffer(bytearray(said), SAYS, 1)[0]
        return control, np.frombuffer(said, np.int64, offset=SAYS.itemsize)

    def records(self) -> dict[int, np.void]:
        """What each worker said last."""
        says = self._says()
        if says is None:
            raise self._missing()
        return self._records(says[1])

    def _records(self, generations: Any) -> dict[int, np.void]:
        pairs = self.link.ask("HGETALL", self._names.workers)
        return current_records(pairs, generations)


def log_lines(task: str, place: FunctionPlace, *, worker: int | None = None) -> Iterator[str]:
    """What a run's workers have logged, oldest first, as CloudWatch keeps it."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = place.client("logs")
    group = f"/aws/lambda/{place.name.split(':function:')[-1].split(':')[0]}"
    asked: dict[str, Any] = {"logGroupName": group}
    asked["filterPattern"] = f'{{ $.task = "{task}" }}'
    try:
        while True:
            found = client.filter_log_events(**asked)
            for event in found.get("events", ()):
                line = str(event["message"]).strip()
                if worker is None or _worker_of(line) == worker:
                    yield line
            if "nextToken" not in found:
                return
            asked["nextToken"] = found["nextToken"]
    except (ClientError, BotoCoreError) as error:
        raise FunctionError(f"log group {group}: {error}") from error


def _worker_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["worker"])
    except (ValueError, KeyError, TypeError):
        return None
