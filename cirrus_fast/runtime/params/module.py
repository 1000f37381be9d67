"""The model in servers that have our module loaded (csrc/redis_module/, docs/redis-module.md).

Coordinate i is coordinate i // n of the (i mod n)-th key; the first has the intercept. A worker
numbers its pushes, and the server takes each number once: a request that got no answer is sent
again as it was, and nothing is lost or done twice.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast._kernels import StepBatch, StepMessage, Stepper
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.errors import StoreError
from cirrus_fast.notices import notice_once
from cirrus_fast.runtime.params.control import TTL_S, RunHeader
from cirrus_fast.runtime.params.resp import Connection, Link, Lost, Refused, nothing
from cirrus_fast.store_url import StoreUrl

# What this version speaks (csrc/cf_step.h) and reads (csrc/redis_module/server_model.h).
PROTOCOL, FORMAT = 1, 1
_HEAD, _SLOT = 128, 64
_ROWS_SEEN_AT, _UPDATES_AT = 64, 72
_WAIT = 2
_PIECE_BYTES = 1 << 24

# The rights a run needs beside those of control.COMMANDS, as ACL SETUSER takes them.
_NAMES = ("create", "pull", "push", "step", "snapshot", "info", "join", "leave")
COMMANDS = tuple(f"+cirrus.{name}" for name in _NAMES)


class Fenced(StoreError):
    """Another worker has this one's place."""


class Stopped(Exception):
    """The run ends while the server makes this worker wait for others."""


def module_version(connection: Connection) -> str | None:
    """The version of the module a server has loaded; None if it has none.

    Raises
    ------
    StoreError : one of another protocol, which this version cannot use
    """
    try:
        told = names_and_values(connection.ask("CIRRUS.INFO"))
    except Refused as error:
        if error.code in ("ERR", "NOPERM"):
            return None
        raise
    version = bytes(told["version"]).decode()
    if (told["protocol"], told["format"]) != (PROTOCOL, FORMAT):
        raise StoreError(
            f"{connection.place}: has module version {version} loaded, which speaks protocol "
            f"{told['protocol']}; this version of cirrus-fast speaks {PROTOCOL}: load the module "
            "of cirrus_fast.redis_module_path(), or say ?store=bitfield"
        )
    return version


def names_and_values(answer: Sequence[Any]) -> dict[str, Any]:
    return {bytes(k).decode(): v for k, v in zip(answer[::2], answer[1::2], strict=True)}


@dataclass(eq=False)
class ModuleShard:
    """One key of the model.

    Attributes
    ----------
    n : coordinates beside the intercept's
    """

    number: int
    n_shards: int
    key: bytes
    n: int
    link: Link

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of an array by coordinate that is here."""
        return np.ascontiguousarray(array[self.number :: self.n_shards])

    def lost(self) -> StoreError:
        return StoreError(
            f"{self.link.place}: has no model of this run under {self.key.decode()}: the server "
            "lost it (restarted without its data, evicted or deleted it)"
        )

    def bare(self) -> StoreError:
        return StoreError(
            f"{self.link.place}: has the module no longer: was the server started again, or a "
            "replica put in its place, without loadmodule?"
        )

    def tell(self) -> dict[str, Any]:
        return names_and_values(self.link.ask("CIRRUS.INFO", self.key))


def open_shards(
    urls: Sequence[StoreUrl], header: RunHeader, stopping: Callable[[], bool] = lambda: False
) -> list[ModuleShard]:
    """The keys of a run's model; connections are made when they are needed."""
    n_shards = len(header.shards)
    shards = []
    for number, (key, place) in enumerate(zip(header.shards, header.places, strict=True)):
        at = tuple(urls) if header.clustered else (urls[place],)
        link = Link(at, key.encode(), clustered=header.clustered, stopping=stopping)
        n = max(0, -(-(header.n_ids - number) // n_shards))
        shards.append(ModuleShard(number, n_shards, key.encode(), n, link))
    return shards


@dataclass(eq=False)
class _Line:
    """A worker's traffic with one shard."""

    shard: ModuleShard
    number: int = 0  # of the last push
    settled: int = 0  # of the last push known to be in the model
    n_unsent: int = 0  # of those under way, the last
    under_way: deque[StepMessage] = field(default_factory=deque)
    spare: list[StepMessage] = field(default_factory=list)  # to be written into


class Steps:
    """A worker's steps, several under way at once.

    Attributes
    ----------
    rollbacks : times a server came back with an older model
    """

    def __init__(
        self,
        shards: Sequence[ModuleShard],
        stepper: Stepper,
        worker: int,
        generation: int,
        stopping: Callable[[], bool],
        together: int = 1,
    ) -> None:
        """
        stopping : asked while the server makes this worker wait
        together : requests that may be sent by one call, unless an answer is waited for before
        """
        self._stepper = stepper
        self._worker, self._generation = worker, generation
        self._stopping, self._together = stopping, together
        self._lines = [_Line(shard) for shard in shards]
        self.rollbacks = 0
        for line in self._lines:
            line.shard.link.welcome = partial(self._join, line)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        both = [line.shard.link.traffic for line in self._lines]
        return sum(sent for sent, _ in both), sum(received for _, received in both)

    def connect(self) -> None:
        for line in self._lines:
            line.shard.link.again(nothing)

    def leave(self) -> None:
        """Nobody need wait for this worker any more."""
        for line in self._lines:
            line.shard.link.ask(
                "CIRRUS.LEAVE", line.shard.key, self._worker, self._generation, give_up_s=2
            )

    def submit(self, pushed: StepBatch | None, pulled: StepBatch | None, rate: float) -> None:
        """Sends a push of the mini-batch last learnt from, a pull or both, now or with the next;
        does not wait."""
        for line in self._lines:
            if pushed is not None:
                line.number += 1
            message = line.spare.pop() if line.spare else self._message(line)
            message.write(self._stepper, pushed, pulled, number=line.number, rate=rate)
            line.under_way.append(message)
            line.n_unsent += 1
            if line.n_unsent >= self._together:
                try:
                    self._flush(line)
                except Lost:
                    self._recover(line)

    def _message(self, line: _Line) -> StepMessage:
        shard = line.shard
        return StepMessage(
            shard.key, shard.number, worker=self._worker, generation=self._generation
        )

    def _flush(self, line: _Line) -> None:
        if line.shard.link.is_closed:
            raise Lost("not connected")
        n, line.n_unsent = line.n_unsent, 0
        if n == 1:
            together: memoryview | bytearray = line.under_way[-1].view
        else:
            together = bytearray().join([line.under_way[i].view for i in range(-n, 0)])
        line.shard.link.connection().send(together)

    def settle(self, pulled: StepBatch) -> None:
        """Waits for the oldest answer, which is to what the mini-batch was pulled by."""
        for line in self._lines:
            self._receive(line, pulled)

    def _receive(self, line: _Line, pulled: StepBatch) -> None:
        while True:
            try:
                if line.shard.link.is_closed:
                    raise Lost("not connected")
                connection = line.shard.link.connection()
                if line.n_unsent and not connection.has_more:
                    self._flush(line)
                connection.read_step(pulled, line.shard.number)
                if pulled.status == _WAIT:  # nothing else is under way then
                    if self._stopping():
                        line.shard.link.close()
                        raise Stopped
                    connection.send(line.under_way[0].view)
                    continue
            except Lost:
                self._recover(line)
                continue
            except Refused as error:
                if error.passes:
                    self._recover(line)
                    continue
                raise self._blame(line, error) from error
            message = line.under_way.popleft()
            line.settled += message.pushes
            line.spare.append(message)
            return

    def _recover(self, line: _Line) -> None:
        """Sends all that is not answered again, on a new connection. What was taken before is not
        taken twice."""
        line.shard.link.close()
        line.n_unsent = 0

        def send_again(connection: Connection) -> None:
            for message in line.under_way:
                connection.send(message.view)

        try:
            line.shard.link.again(send_again)
        except Refused as error:
            raise self._blame(line, error) from error

    def _join(self, line: _Line, connection: Connection) -> None:
        """Takes the worker's place at a server, and sees which pushes it has."""
        if module_version(connection) is None:
            raise line.shard.bare()
        try:
            known = connection.ask("CIRRUS.JOIN", line.shard.key, self._worker, self._generation)
        except Refused as error:
            if error.passes:
                raise
            raise self._blame(line, error) from error
        if known >= line.settled:
            return
        self.rollbacks += 1
        notice_once(
            f"{connection.place}: came back with an older model: {line.settled - known} steps of "
            f"worker {self._worker} are lost, and the run goes on"
        )
        line.number = line.settled = known
        for message in line.under_way:
            if message.pushes:
                line.number += 1
                message.renumber(line.number)

    def _blame(self, line: _Line, error: Refused) -> StoreError:
        line.shard.link.close()
        if error.code == "CIRRUSFENCED":
            return Fenced(str(error))
        if error.code in ("CIRRUSNOMODEL", "CIRRUSDAMAGED", "WRONGTYPE"):
            return line.shard.lost()
        return line.shard.bare() if "unknown command" in str(error) else error


# The supervisor's side


def create(
    shards: Sequence[ModuleShard],
    optimizer: str,
    learning_rate: float,
    penalties: Float32Array | None,
    *,
    n_workers: int,
    consistency: str,
    staleness: int,
    intercept: float,
    intercept_rate: float,
) -> None:
    """Makes the model at weight 0 but for the intercept.

    penalties : the last pair serves all later coordinates too
    """
    for shard in shards:
        try:
            shard.link.ask(
                *("CIRRUS.CREATE", shard.key, "IDS", shard.n, "TTL", 1000 * TTL_S),
                *("OPTIMIZER", optimizer, "RATE", repr(learning_rate)),
                *("WORKERS", n_workers, "CONSISTENCY", consistency, "STALENESS", staleness),
                *("PENALTIES", int(penalties is not None), "INTERCEPT", repr(intercept)),
                *("INTERCEPTRATE", repr(intercept_rate) if shard.number == 0 else 0),
            )
        except Refused as error:
            if error.code == "CIRRUSEXISTS":
                raise StoreError(
                    f"{shard.link.place}: {shard.key.decode()} is there already: another run has "
                    f"that name, or left it behind; it goes away by itself within {TTL_S} s"
                ) from error
            raise
        if penalties is not None and shard.n:
            places = np.arange(
                shard.number, shard.number + shard.n * shard.n_shards, shard.n_shards
            )
            pairs = penalties[np.minimum(places, len(penalties) - 1)]
            _write(shard, shard.tell()["penalties_offset"], pairs)


def _write(shard: ModuleShard, offset: int, array: npt.NDArray[Any]) -> None:
    data = array.tobytes()
    for first in range(0, len(data), _PIECE_BYTES):
        shard.link.ask("SETRANGE", shard.key, offset + first, data[first : first + _PIECE_BYTES])


def read_weights(shards: Sequence[ModuleShard], give_up_s: float) -> tuple[Float32Array, float]:
    """Weights of all coordinates, and the intercept. They are read in pieces, while workers go
    on."""
    out = np.empty(sum(shard.n for shard in shards), np.float32)
    intercept = 0.0
    for shard in shards:
        mine = np.empty(shard.n, np.float32)
        for first in range(0, max(1, shard.n), _PIECE_BYTES // 4):
            part = mine[first : first + _PIECE_BYTES // 4]
            answer = _ask(
                shard, "CIRRUS.SNAPSHOT", shard.key, first, len(part), give_up_s=give_up_s
            )
            _, read, _, _, _ = _kernels.step_answer(answer, part)
            intercept = read if shard.number == 0 else intercept
        out[shard.number :: shard.n_shards] = mine
    return out, intercept


def _ask(shard: ModuleShard, *command: bytes | str | int, give_up_s: float) -> Any:
    try:
        return shard.link.ask(*command, give_up_s=give_up_s)
    except Refused as error:
        if error.code in ("CIRRUSNOMODEL", "CIRRUSDAMAGED"):
            raise shard.lost() from error
        raise


def read_state(shards: Sequence[ModuleShard], width: int) -> Float32Array:
    """The state of all coordinates, the intercept's last."""
    n = sum(shard.n for shard in shards)
    out = np.empty((n + 1, width), np.float32)
    for shard in shards:
        offset, parts = shard.tell()["state_offset"], []
        last = offset + 4 * width * (shard.n + 1) - 1
        for first in range(offset, last + 1, _PIECE_BYTES):
            end = min(last, first + _PIECE_BYTES - 1)
            parts.append(shard.link.ask("GETRANGE", shard.key, first, end))
        mine = np.frombuffer(b"".join(parts), "<f4")
        if len(mine) != width * (shard.n + 1):
            raise shard.lost()
        out[shard.number : n : shard.n_shards] = mine.reshape(-1, width)[:-1]
        if shard.number == 0:
            out[-1] = mine[-width:]
    return out.reshape(-1)


def write_state(
    shards: Sequence[ModuleShard],
    state: Float32Array,
    width: int,
    rows: npt.NDArray[np.int64],
    updates: npt.NDArray[np.int64],
) -> None:
    """Puts a state, and how far each worker is, into models that are new."""
    by_id = state.reshape(-1, width)
    for shard in shards:
        mine = np.concatenate([shard.of(by_id[:-1]), by_id[-1:]]).astype("<f4")
        _write(shard, shard.tell()["state_offset"], mine)
        seen = struct.pack("<dQ", float(rows.sum()), int(updates.sum()))
        shard.link.ask("SETRANGE", shard.key, _ROWS_SEEN_AT, seen)
        assert _UPDATES_AT == _ROWS_SEEN_AT + 8
        for worker, (n_rows, n_updates) in enumerate(zip(rows, updates, strict=True)):
            at = _HEAD + _SLOT * worker + 16
            shard.link.ask("SETRANGE", shard.key, at, struct.pack("<QQ", n_updates, n_rows))
