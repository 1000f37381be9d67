"""The model in servers that have our module loaded (csrc/redis_module/, docs/redis-module.md).

Coordinate i is coordinate i // n of the (i mod n)-th key; the first has the intercept. A worker
numbers its pushes, and the server takes each number once: a request that got no answer is sent
again as it was, and nothing is lost or done twice.

A server may come back without what it had answered, or a replica take its place that lags behind.
The worker keeps its last pushes, and sends those again that are missing. For older ones it sends
pushes of nothing: so workers, and the keys of a model, stay as far as they were beside each other,
and nobody waits for what cannot come.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
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
# What a worker keeps of its last pushes to a key: so many bytes, but so many of them at least.
_KEPT_BYTES, _LEAST_KEPT = 1 << 20, 4

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
    n_unsent: int = 0  # of those under way, the last
    n_again: int = 0  # of those under way, the first: answered before, and then lost by the server
    under_way: deque[StepMessage] = field(default_factory=deque)
    kept: deque[StepMessage] = field(default_factory=deque)  # pushes that were answered
    kept_bytes: int = 0
    spare: list[StepMessage] = field(default_factory=list)  # to be written into


class Steps:
    """A worker's steps, several under way at once.

    Attributes
    ----------
    rollbacks : times a server came back with an older model
    lost : steps that were lost by it, and not kept any more
    """

    def __init__(
        self,
        shards: Sequence[ModuleShard],
        stepper: Stepper,
        worker: int,
        generation: int,
        stopping: Callable[[], bool],
        *,
        together: int = 1,
        in_turn: bool = False,
    ) -> None:
        """
        stopping : asked while the server makes this worker wait
        together : requests that may be sent by one call, unless an answer is waited for before
        in_turn : the server makes workers wait for each other: no request before the last's answer
        """
        self._stepper, self._nothing = stepper, StepBatch(stepper)
        self._worker, self._generation = worker, generation
        self._stopping, self._together, self._in_turn = stopping, together, in_turn
        self._lines = [_Line(shard) for shard in shards]
        self._rate = 1.0
        self.rollbacks = self.lost = 0
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
            is_done = not line.under_way
            line.shard.link.again(nothing, give_up_s=2)
            while is_done and line.under_way:  # what the server has lost meanwhile
                self._receive(line, self._nothing)
            line.shard.link.ask(
                "CIRRUS.LEAVE", line.shard.key, self._worker, self._generation, give_up_s=2
            )

    def submit(self, pushed: StepBatch | None, pulled: StepBatch | None, rate: float) -> None:
        """Sends a push of the mini-batch last learnt from, a pull or both, now or with the next;
        does not wait."""
        self._rate = rate
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
        first = len(line.under_way) - line.n_unsent
        n = min(line.n_unsent, int(first == 0)) if self._in_turn else line.n_unsent
        if n == 0:
            return
        line.n_unsent -= n
        if n == 1:
            together: memoryview | bytearray = line.under_way[first].view
        else:
            views = [one.view for one in islice(line.under_way, first, first + n)]
            together = bytearray().join(views)
        line.shard.link.connection().send(together)

    def settle(self, pulled: StepBatch) -> None:
        """Waits for the oldest answer, which is to what the mini-batch was pulled by."""
        for line in self._lines:
            while self._receive(line, pulled):
                pass

    def _receive(self, line: _Line, pulled: StepBatch) -> bool:
        """Waits for the oldest answer; returns whether it was to a push that was sent again."""
        while True:
            try:
                if line.shard.link.is_closed:
                    raise Lost("not connected")
                connection = line.shard.link.connection()
                if line.n_unsent and not connection.has_more:
                    self._flush(line)
                again = line.n_again > 0
                if again:
                    status = _status_of(connection.read())
                else:
                    connection.read_step(pulled, line.shard.number)
                    status = pulled.status
                if status == _WAIT:  # nothing else is on its way then
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
            self._answered(line)
            return again

    def _answered(self, line: _Line) -> None:
        message = line.under_way.popleft()
        line.n_again -= line.n_again > 0
        if not message.pushes:
            line.spare.append(message)
            return
        line.kept.append(message)
        line.kept_bytes += len(message.view)
        while line.kept_bytes > _KEPT_BYTES and len(line.kept) > _LEAST_KEPT:
            oldest = line.kept.popleft()
            line.kept_bytes -= len(oldest.view)
            line.spare.append(oldest)

    def _recover(self, line: _Line) -> None:
        """Sends all that is not answered again, on a new connection. What was taken before is not
        taken twice."""
        line.shard.link.close()

        def send_again(_: Connection) -> None:
            line.n_unsent = len(line.under_way)
            self._flush(line)

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
        first = next((one.number for one in line.under_way if one.pushes), line.number + 1)
        if known + 1 < first:
            self._push_again(line, connection, known, first - known - 1)
        line.n_unsent = len(line.under_way)

    def _push_again(self, line: _Line, connection: Connection, known: int, n_lost: int) -> None:
        """The pushes behind `known` are to be made once more, before those under way."""
        n_again = 0
        while line.kept and line.kept[-1].number > known:
            message = line.kept.pop()
            line.kept_bytes -= len(message.view)
            line.under_way.appendleft(message)
            n_again += 1
        self._nothing.clear()
        for number in range(known + n_lost - n_again, known, -1):
            message = line.spare.pop() if line.spare else self._message(line)
            message.write(
                self._stepper, self._nothing, self._nothing, number=number, rate=self._rate
            )
            line.under_way.appendleft(message)
        line.n_again += n_lost
        self.rollbacks += 1
        self.lost += n_lost - n_again
        notice_once(
            f"{connection.place}: came back with an older model: {n_lost} steps of worker "
            f"{self._worker} are missing, the last {n_again} are made again, and the run goes on"
        )

    def _blame(self, line: _Line, error: Refused) -> StoreError:
        line.shard.link.close()
        if error.code == "CIRRUSFENCED":
            return Fenced(str(error))
        if error.code in ("CIRRUSNOMODEL", "CIRRUSDAMAGED", "WRONGTYPE"):
            return line.shard.lost()
        return line.shard.bare() if "unknown command" in str(error) else error


def _status_of(answer: Any) -> int:
    if not isinstance(answer, bytes) or len(answer) < 2:
        raise Lost(f"it sends no answer to a step ({str(answer)[:20]})")
    return answer[1]


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


def create_sum(shards: Sequence[ModuleShard], n_workers: int, intercept: float) -> None:
    """Makes a model that adds up what it gets (moves.py)."""
    create(
        shards,
        "sgd",
        1.0,
        None,
        n_workers=n_workers,
        consistency="async",
        staleness=0,
        intercept=intercept,
        intercept_rate=1.0,
    )


def _write(shard: ModuleShard, offset: int, array: npt.NDArray[Any]) -> None:
    data = array.tobytes()
    for first in range(0, len(data), _PIECE_BYTES):
        shard.link.ask("SETRANGE", shard.key, offset + first, data[first : first + _PIECE_BYTES])


def leave(shards: Sequence[ModuleShard], gone: Mapping[int, int], give_up_s: float) -> None:
    """Nobody need wait for these workers, of these generations, any more."""
    for shard in shards:
        commands = [("CIRRUS.LEAVE", shard.key, *one) for one in gone.items()]
        shard.link.ask_all(*commands, give_up_s=give_up_s)


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
