"""Long intervals: what is learnt is handed over in one piece, and merged by the supervisor.

A server takes some 0.4 us for each number that BITFIELD adds. A worker that learns from 20,000 rows
of clicks moves 80,000 weights, so ten workers would keep a server busy at 200,000 rows a second in
all. Instead they put all moves of an interval into a hash as one string; the supervisor takes the
strings, adds them up and writes the model back as a whole, which costs a server as good as nothing.
Workers read the whole model. It is the same string as in bitfield.py, and nobody else writes to it.

Behind the weights, the mark and the count lies, for each worker, the number of its last string that
the model has. So a worker knows which of its own are still on their way, and waits for them, or
adds them to what it reads; and a string that may have been pushed or not is pushed again, for the
supervisor takes none twice.

Who has pushed rings a bell, a list that the supervisor waits at, so that neither asks in vain.

A command whose connection broke may still be done, and late: after all that came behind it. So each
string has a field of its own, named by worker and number, which can be set and taken away again and
again, and a model that an older one was written over is written anew.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import UInt32Array
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.params.bitfield import Exchanges, Int32Array, Request, Shard
from cirrus_fast.runtime.params.control import TTL_S
from cirrus_fast.runtime.params.resp import Connection, pack

_HEAD = struct.Struct("<iiI")  # worker, number, moves
# Numbers of a worker's strings begin anew with its generation.
_A_GENERATION = 1 << 18
# What a place can hold.
_BOUND = 2**31
# Between two looks whether the supervisor has merged.
_NAP_S = 0.004


# Weights that may be written back at once.
_MOST_WEIGHTS = 1 << 24


def pays(n_ids: int, sync_rows: int) -> bool:
    """Whether reading all weights is little beside what so many rows move."""
    return n_ids <= min(50 * sync_rows, _MOST_WEIGHTS)


def inbox_of(shard: Shard) -> bytes:
    return shard.key.removesuffix(b"model") + b"inbox"


def bell_of(shard: Shard) -> bytes:
    """Only the first shard's is rung."""
    return shard.key.removesuffix(b"model") + b"bell"


def write_moves(worker: int, number: int, places: UInt32Array, amounts: Int32Array) -> bytes:
    head = _HEAD.pack(worker, number, len(places))
    return head + places.astype("<u4").tobytes() + amounts.astype("<i4").tobytes()


def read_moves(
    text: bytes, shard: Shard, n_workers: int
) -> tuple[int, int, UInt32Array, Int32Array]:
    """(worker, number, places, amounts)"""
    try:
        worker, number, n = _HEAD.unpack_from(text)
        if len(text) != _HEAD.size + 8 * n or not 0 <= worker < n_workers:
            raise ValueError
        places = np.frombuffer(text, "<u4", n, _HEAD.size)
        amounts = np.frombuffer(text, "<i4", n, _HEAD.size + 4 * n)
        if n and int(places.max()) >= shard.n:
            raise ValueError
    except (struct.error, ValueError) as error:
        raise StoreError(
            f"{shard.link.place}: {inbox_of(shard).decode()} holds what no worker of this run has "
            "pushed: another program writes to it"
        ) from error
    return worker, number, places, amounts


class MergedExchange(Exchanges):
    """By strings that the supervisor merges. Nothing is in doubt: what may have been pushed is
    pushed again.

    A worker goes on from a model that has what it pushed before, but for the last `depth` - 1
    strings: were it to run ahead, workers would make several moves each that know nothing of the
    others'.
    """

    def __init__(
        self,
        replica: _kernels.Replica,
        shards: list[Shard],
        worker: int,
        generation: int,
        n_workers: int,
        depth: int,
        stopping: Callable[[], bool],
    ) -> None:
        super().__init__(replica, shards)
        self._worker, self._n_workers, self._stopping = worker, n_workers, stopping
        self._lag = depth - 1
        self._number = generation * _A_GENERATION
        # What was pushed and is not in the model yet: number, places and amounts, by shard.
        self._unmerged: dict[int, deque[tuple[int, UInt32Array, Int32Array]]] = {
            shard.number: deque() for shard in shards
        }
        self._room = {s.number: bytearray(4 * (s.n + 2 + n_workers)) for s in shards}
        self._values = np.empty(max(s.n for s in shards) + 2 + n_workers, np.int32)

    def submit(
        self,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,  # noqa: ARG002
        *,
        ahead: bool,  # noqa: ARG002
    ) -> Request:
        """Pushes what is to be added; the weights are read when they are settled."""
        self._own += len(add) > 0
        request = Request(adds=len(add) > 0, own=self._own)
        if request.adds:
            self._number += 1
            for shard in reversed(self._shards):
                places, moves = add, amounts
                if shard.n_shards > 1:
                    here = shard.mine(add)
                    places, moves = add[here] // np.uint32(shard.n_shards), amounts[here]
                self._push(shard, places, moves)
                self._unmerged[shard.number].append((self._number, places, moves))
        request.number = self._number
        self._under_way.append(request)
        return request

    def _push(self, shard: Shard, places: UInt32Array, moves: Int32Array) -> None:
        inbox, bell = inbox_of(shard), bell_of(shard)
        text = write_moves(self._worker, self._number, places, moves)
        field = f"{self._worker}:{self._number}"
        commands = [("HSET", inbox, field, text), ("EXPIRE", inbox, TTL_S)]
        if shard.number == 0:  # the last one
            commands += [("RPUSH", bell, self._worker), ("EXPIRE", bell, TTL_S)]
        shard.link.ask_all(*commands)

    def settle(self) -> Request:
        """Waits until what was pushed is in the model, and takes over what the store has."""
        request = self._under_way.popleft()
        for shard in self._shards:
            while self._merged(shard) < request.number - self._lag and not self._stopping():
                time.sleep(_NAP_S)
            count = shard.link.again(partial(self._read, shard))
            if shard.number == 0:
                request.count = count
        request.settled = True
        return request

    def _merged(self, shard: Shard) -> int:
        """The number of this worker's last string that the model has."""
        if self._number % _A_GENERATION == 0:
            return self._number
        at = 4 * (shard.n + 2 + self._worker)
        text = shard.link.ask("GETRANGE", shard.key, at, at + 3)
        if len(text) != 4:
            raise shard.lost()
        return int(struct.unpack(">i", text)[0])

    def _read(self, shard: Shard, connection: Connection) -> int:
        raw = self._room[shard.number]
        values = self._values[: len(raw) // 4]
        connection.send(pack("GETRANGE", shard.key, 0, len(raw) - 1))
        if not connection.read_string_into(memoryview(raw)):
            raise shard.lost()
        _kernels.bitfield_decode(raw, values)
        if int(values[shard.n]) != shard.mark:
            raise shard.lost()
        shard.count = int(values[shard.n + 1])
        merged, own = int(values[shard.n + 2 + self._worker]), self._unmerged[shard.number]
        while own and own[0][0] <= merged:
            own.popleft()
        weights = values[: shard.n]
        for _, places, amounts in own:
            weights[places] += amounts
        self._replica.settle_run(shard.number, shard.n_shards, weights, None)
        return shard.count


class Merger:
    """The supervisor's part: takes what workers pushed, and writes the model.

    Attributes
    ----------
    lost : strings that never came: a server lost them
    """

    def __init__(self, shards: Sequence[Shard], n_workers: int) -> None:
        self._shards, self._n_workers = list(shards), n_workers
        self._values = {s.number: np.zeros(s.n + 2 + n_workers, np.int32) for s in shards}
        self._room = {s.number: bytearray(4 * (s.n + 2 + n_workers)) for s in shards}
        self.lost = 0

    def begin(self, whole: Int32Array) -> None:
        """Writes a model with these weights."""
        for shard in self._shards:
            values = self._values[shard.number]
            values[: shard.n] = whole[shard.number :: shard.n_shards]
            values[shard.n] = shard.mark
            self._write(shard)

    @property
    def whole(self) -> Int32Array:
        """All weights, as the store's numbers."""
        out = np.empty(sum(shard.n for shard in self._shards), np.int32)
        for shard in self._shards:
            out[shard.number :: shard.n_shards] = self._values[shard.number][: shard.n]
        return out

    def merge(self, give_up_s: float | None = None) -> int:
        """Takes what there is; returns how many strings."""
        taken = 0
        for shard in self._shards:
            inbox = inbox_of(shard)
            commands: list[tuple[bytes | str, ...]] = [("HGETALL", inbox)]
            if shard.number == 0:  # who rings after this has pushed something else
                commands.insert(0, ("UNLINK", bell_of(shard)))
            answer = shard.link.ask_all(*commands, give_up_s=give_up_s)[-1]
            strings = [read_moves(text, shard, self._n_workers) for text in answer[1::2]]
            for one in sorted(strings, key=itemgetter(0, 1)):
                self._add(shard, *one)
            if strings or (shard.link.connects > 1 and self._is_older(shard, give_up_s)):
                self._write(shard, give_up_s)
            if strings:
                taken += len(strings)
                shard.link.ask("HDEL", inbox, *answer[::2], give_up_s=give_up_s)
        return taken

    def _is_older(self, shard: Shard, give_up_s: float | None) -> bool:
        """Whether the server's model is one that was written late, over the last."""
        values = self._values[shard.number][shard.n :]
        raw = bytearray(4 * len(values))
        _kernels.bitfield_encode(values, raw)
        first, last = 4 * shard.n, 4 * shard.n + len(raw) - 1
        found = shard.link.ask("GETRANGE", shard.key, first, last, give_up_s=give_up_s)
        return bool(found != raw and found[:4] == raw[:4])  # begins with the mark: it is ours

    def _add(
        self, shard: Shard, worker: int, number: int, places: UInt32Array, amounts: Int32Array
    ) -> None:
        values = self._values[shard.number]
        before = int(values[shard.n + 2 + worker])
        if number <= before:
            return  # pushed again, for nobody knew whether it had been
        if number // _A_GENERATION == before // _A_GENERATION:
            self.lost += number - before - 1
        moved = values[places].astype(np.int64) + amounts
        if len(moved) and not -_BOUND < moved.min() <= moved.max() < _BOUND:
            raise TrainingError(
                "a weight has left the range of +-128 that a Redis holds: lower learning_rate, or "
                "normalize the data set"
            )
        values[places] = moved
        values[shard.n + 2 + worker] = number
        values[shard.n + 1] += 1

    def _write(self, shard: Shard, give_up_s: float | None = None) -> None:
        raw = self._room[shard.number]
        _kernels.bitfield_encode(self._values[shard.number], raw)
        shard.link.again(partial(_put, shard, raw), give_up_s=give_up_s)


class Bell:
    """What the supervisor waits at: a connection of its own, on which nothing else is asked."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shard = shards[0]
        self.link = self._shard.link

    def wait(self, seconds: float) -> None:
        """Until somebody has pushed, at most so long. A server may lose a bell: look anyway."""
        self.link.ask("BLPOP", bell_of(self._shard), seconds)


def _put(shard: Shard, raw: bytearray, connection: Connection) -> None:
    """All of the string, which is sent as it lies there."""
    command = pack("SETRANGE", shard.key, 0, b"")
    connection.send(command.removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % len(raw))
    connection.send(raw)
    connection.send(b"\r\n")
    connection.read()
