"""Long intervals: what is learnt is handed over in one piece, and merged by the supervisor.

A server takes some 0.4 us for each number that BITFIELD adds. A worker that learns from 20,000 rows
of clicks moves 80,000 weights, so ten workers would keep a server busy at 200,000 rows a second in
all. Instead they put all moves of an interval into a hash as one string; the supervisor takes the
strings, adds them up and writes the model back as a whole, which costs a server as good as nothing.
Nobody else writes to it.

Short intervals, with which training begins, touch little of a model but its most popular weights.
So these lie together, and it is mostly they that are written and read (`Layout`); the rest follows
when as much was moved as makes it worth while.

Behind the weights lies, for each worker, the number of its last string that the model has. So a
worker knows which of its own are still on their way, and waits for them, or adds them to what it
reads; and a string that may have been pushed or not is pushed again, for the supervisor takes none
twice.

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
import numpy.typing as npt

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

# The popular ones are this share of all, but no fewer than a page; the rest is written, and read,
# once so many weights were moved for each that there is.
_HEAD_SHARE, _LEAST_HEAD = 1 / 8, 1024
_MOVES_A_WEIGHT = 1 / 4


def pays(n_ids: int, sync_rows: int) -> bool:
    """Whether reading all weights is little beside what so many rows move."""
    return n_ids <= min(50 * sync_rows, _MOST_WEIGHTS)


class Layout:
    """The string of a shard, in words:

        weights, the n - 1 from the least popular to the most, then the last one, the intercept's
        mark, count of strings merged
        for each worker, the number of its last string that the popular weights have
        for each worker, the number of its last string that the others have

    So the popular weights and all that is behind them are one piece.

    Attributes
    ----------
    size : words in all
    head : where the popular weights begin
    """

    def __init__(self, shard: Shard, n_workers: int) -> None:
        n = self.n = shard.n
        self.head = n - min(n, max(_LEAST_HEAD, int(n * _HEAD_SHARE)))
        self.mark, self.count = n, n + 1
        self.merged, self.rest_merged = n + 2, n + 2 + n_workers
        self.size = n + 2 + 2 * n_workers
        self.moves_until_all = int(n * _MOVES_A_WEIGHT)

    def words(self, places: UInt32Array) -> npt.NDArray[np.int64]:
        """Where the weights of some places are; of the last one, as n - 1."""
        words = self.n - 2 - places.astype(np.int64)
        words[words < 0] = self.n - 1
        return words

    @staticmethod
    def by_place(words: Int32Array) -> Int32Array:
        """Weights that lie in a string up to the intercept's, by place."""
        return np.append(words[-2::-1], words[-1:])


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
        # The connection that the last of them went over, and its number.
        self._pushed: dict[int, tuple[Connection | None, int]] = {
            shard.number: (None, self._number) for shard in shards
        }
        self._layouts = {shard.number: Layout(shard, n_workers) for shard in shards}
        self._room = {k: bytearray(4 * layout.size) for k, layout in self._layouts.items()}
        # Weights moved since all were read, by shard; the first time all are.
        self._moves = {k: layout.size for k, layout in self._layouts.items()}

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
                self._unmerged[shard.number].append((self._number, places, moves))
                self._moves[shard.number] += len(places)
                shard.link.again(partial(self._push, shard))
        request.number = self._number
        self._under_way.append(request)
        return request

    def _push(self, shard: Shard, connection: Connection) -> None:
        """Hands over what is not on its way. A server that was connected anew may have come back
        without what it had answered: it gets all again that the model does not have, in order."""
        before, pushed = self._pushed[shard.number]
        if connection is not before:
            pushed = self._merged(shard, connection)
        inbox, bell = inbox_of(shard), bell_of(shard)
        commands: list[tuple[bytes | str | int, ...]] = []
        for number, places, moves in self._unmerged[shard.number]:
            if number > pushed:
                text = write_moves(self._worker, number, places, moves)
                commands.append(("HSET", inbox, f"{self._worker}:{number}", text))
        if commands:
            commands.append(("EXPIRE", inbox, TTL_S))
            if shard.number == 0:  # the last one
                commands += [("RPUSH", bell, self._worker), ("EXPIRE", bell, TTL_S)]
            connection.ask_all(*commands)
        self._pushed[shard.number] = connection, self._number

    def settle(self) -> Request:
        """Waits until what was pushed is in the model, and takes over what the store has."""
        request = self._under_way.popleft()
        for shard in self._shards:
            wanted = request.number - self._lag
            while shard.link.again(partial(self._arrived, shard)) < wanted:
                if self._stopping():
                    break
                time.sleep(_NAP_S)
            count = shard.link.again(partial(self._read, shard))
            if shard.number == 0:
                request.count = count
        request.settled = True
        return request

    def _arrived(self, shard: Shard, connection: Connection) -> int:
        """The number of this worker's last string that the model has, once it is asked for."""
        if self._number % _A_GENERATION == 0:
            return self._number
        if connection is not self._pushed[shard.number][0]:
            self._push(shard, connection)
        return self._merged(shard, connection)

    def _merged(self, shard: Shard, connection: Connection) -> int:
        at = 4 * (self._layouts[shard.number].merged + self._worker)
        text = connection.ask("GETRANGE", shard.key, at, at + 3)
        if len(text) != 4:
            raise shard.lost()
        return int(struct.unpack(">i", text)[0])

    def _read(self, shard: Shard, connection: Connection) -> int:
        layout, own = self._layouts[shard.number], self._unmerged[shard.number]
        all_of_it = self._moves[shard.number] >= layout.moves_until_all
        first = 0 if all_of_it else layout.head
        raw = memoryview(self._room[shard.number])[4 * first :]
        connection.send(pack("GETRANGE", shard.key, 4 * first, 4 * layout.size - 1))
        if not connection.read_string_into(raw):
            raise shard.lost()
        values = np.empty(layout.size - first, np.int32)
        _kernels.bitfield_decode(raw, values)
        if int(values[layout.mark - first]) != shard.mark:
            raise shard.lost()
        shard.count = int(values[layout.count - first])
        merged = int(values[layout.merged - first + self._worker])
        rest_merged = int(values[layout.rest_merged - first + self._worker])
        while own and own[0][0] <= rest_merged:
            own.popleft()
        for number, places, amounts in own:
            words = layout.words(places)
            missing = words >= first if number > merged else words < layout.head
            if all_of_it or number > merged:
                values[words[missing] - first] += amounts[missing]
        weights = layout.by_place(values[: layout.n - first])
        replica, n_shards = self._replica, shard.n_shards
        replica.settle_run(shard.number, n_shards, weights[:-1], None)
        last = shard.number + (layout.n - 1) * n_shards
        replica.settle_run(last, n_shards, weights[-1:], None)
        if all_of_it:
            self._moves[shard.number] = 0
        return shard.count


class Merger:
    """The supervisor's part: takes what workers pushed, and writes the model.

    Attributes
    ----------
    lost : strings that never came: a server lost them
    """

    def __init__(self, shards: Sequence[Shard], n_workers: int) -> None:
        self._shards, self._n_workers = list(shards), n_workers
        self._layouts = {shard.number: Layout(shard, n_workers) for shard in shards}
        self._values = {k: np.zeros(layout.size, np.int32) for k, layout in self._layouts.items()}
        self._room = {k: bytearray(4 * layout.size) for k, layout in self._layouts.items()}
        # Weights moved since all were written.
        self._moves = dict.fromkeys(self._layouts, 0)
        # The connection over which each was written last.
        self._written: dict[int, Connection | None] = dict.fromkeys(self._layouts)
        self.lost = 0

    def begin(self, whole: Int32Array) -> None:
        """Writes a model with these weights."""
        for shard in self._shards:
            layout, values = self._layouts[shard.number], self._values[shard.number]
            places = np.arange(shard.n, dtype=np.uint32)
            values[layout.words(places)] = whole[shard.number :: shard.n_shards]
            values[layout.mark] = shard.mark
            self._write(shard, all_of_it=True)

    @property
    def whole(self) -> Int32Array:
        """All weights, as the store's numbers."""
        out = np.empty(sum(shard.n for shard in self._shards), np.int32)
        for shard in self._shards:
            mine = self._layouts[shard.number].by_place(self._values[shard.number][: shard.n])
            out[shard.number :: shard.n_shards] = mine
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
            if shard.link.connects > 1 and self._is_older(shard, give_up_s):
                self._write(shard, give_up_s, all_of_it=True)
            elif strings:
                self._write(shard, give_up_s)
            if strings:
                taken += len(strings)
                shard.link.ask("HDEL", inbox, *answer[::2], give_up_s=give_up_s)
        return taken

    def _is_older(self, shard: Shard, give_up_s: float | None) -> bool:
        """Whether the server's model is one that was written late, over the last."""
        layout = self._layouts[shard.number]
        raw = bytearray(4 * (layout.size - layout.mark))
        _kernels.bitfield_encode(self._values[shard.number][layout.mark :], raw)
        first, last = 4 * layout.mark, 4 * layout.size - 1
        found = shard.link.ask("GETRANGE", shard.key, first, last, give_up_s=give_up_s)
        return bool(found != raw and found[:4] == raw[:4])  # begins with the mark: it is ours

    def _add(
        self, shard: Shard, worker: int, number: int, places: UInt32Array, amounts: Int32Array
    ) -> None:
        layout, values = self._layouts[shard.number], self._values[shard.number]
        before = int(values[layout.merged + worker])
        if number <= before:
            return  # pushed again, for nobody knew whether it had been
        if number // _A_GENERATION == before // _A_GENERATION:
            self.lost += number - before - 1
        words = layout.words(places)
        moved = values[words].astype(np.int64) + amounts
        if len(moved) and not -_BOUND < moved.min() <= moved.max() < _BOUND:
            raise TrainingError(
                "a weight has left the range of +-128 that a Redis holds: lower learning_rate, or "
                "normalize the data set"
            )
        values[words] = moved
        values[layout.merged + worker] = number
        values[layout.count] += 1
        self._moves[shard.number] += len(places)

    def _write(
        self, shard: Shard, give_up_s: float | None = None, *, all_of_it: bool = False
    ) -> None:
        shard.link.again(partial(self._put, shard, all_of_it), give_up_s=give_up_s)
        shard.count = int(self._values[shard.number][self._layouts[shard.number].count])

    def _put(self, shard: Shard, all_of_it: bool, connection: Connection) -> None:
        """The popular weights and what is behind them, or all of it: on a new connection too, for
        its server may have come back with an older model."""
        layout, values = self._layouts[shard.number], self._values[shard.number]
        all_of_it |= self._moves[shard.number] >= layout.moves_until_all
        all_of_it |= connection is not self._written[shard.number]
        if all_of_it:
            values[layout.rest_merged :] = values[layout.merged : layout.rest_merged]
        first = 0 if all_of_it else layout.head
        raw = memoryview(self._room[shard.number])[4 * first :]
        _kernels.bitfield_encode(values[first:], raw)
        _set_range(shard, 4 * first, raw, connection)
        self._written[shard.number] = connection
        if all_of_it:
            self._moves[shard.number] = 0


class Bell:
    """What the supervisor waits at: a connection of its own, on which nothing else is asked."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shard = shards[0]
        self.link = self._shard.link

    def wait(self, seconds: float) -> None:
        """Until somebody has pushed, at most so long. A server may lose a bell: look anyway."""
        self.link.ask("BLPOP", bell_of(self._shard), seconds)


def _set_range(shard: Shard, first: int, raw: memoryview, connection: Connection) -> None:
    """A piece of the string, which is sent as it lies there."""
    command = pack("SETRANGE", shard.key, first, b"")
    connection.send(command.removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % len(raw))
    connection.send(raw)
    connection.send(b"\r\n")
    connection.read()
