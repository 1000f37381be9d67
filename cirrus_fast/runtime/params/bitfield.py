"""The model in plain strings of any Redis or Valkey.

Weight i is a whole number at place i // n of the (i mod n)-th string, 4 big-endian bytes, in units
of 2^-24 (csrc/cf_bitfield.h). Behind the weights of each string lie some numbers more:

    a mark, which is the run's own, so that a string that was lost, or is another run's, is never
    taken for the model
    how many exchanges have added to it, which tells how old what a worker read is when it writes
    for each worker, how many commands of its have added to it: some counters, which its connections
    take in turn

A command adds to the last two as well. So a worker whose connection broke knows which of its
commands were done, and sends the others again; and where a server comes back with an earlier model,
or a replica that lags takes its master's place, it knows which are lost. Those it still has, it
sends again, too. What a broken connection carried may be done late, when it was sent again: that is
on an earlier connection's counter, so it is not taken for what the present one carries.

The state of the optimiser is in the workers (csrc/cf_replica.h). What they have of it, they put
beside the model now and then, for those who take their place.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Float32Array, UInt32Array
from cirrus_fast.errors import StoreError
from cirrus_fast.notices import notice, notice_once
from cirrus_fast.runtime.params.control import KEPT_BYTES, TTL_S, RunHeader
from cirrus_fast.runtime.params.resp import (
    Connection,
    Link,
    Lost,
    Refused,
    nothing,
    pack,
)
from cirrus_fast.store_url import StoreUrl

Int32Array = npt.NDArray[np.int32]

SCALE = 2.0**24
_TURNS = 4  # counters of each worker
MOST_WEIGHTS = 2**27 - 2 - _TURNS * 10_000  # of a string: 512 MB with what lies behind them
_MARK, _COUNT, _OWN = 0, 1, 2
_BEHIND = _OWN + _TURNS  # of these, in each command
_PIECE_BYTES = 1 << 24
# What reading one weight costs if it is asked for alone, in bytes of a piece that is read as a
# whole: some 31 there and 12 back, and the server's time.
_BYTES_ALONE = 80
# A worker alone reads so many weights at once at first, and no more then: nobody else moves them.
MOST_AT_ONCE = 1 << 22
_NO_IDS = np.empty(0, np.uint32)
_NO_AMOUNTS = np.empty(0, np.int32)


@dataclass(eq=False)
class Shard:
    """One string of the model."""

    number: int
    n_shards: int
    key: bytes
    n: int  # weights
    mark: int
    link: Link
    n_workers: int
    worker: int | None = None  # whose commands are counted; the supervisor's are not
    count: int = -1  # exchanges that have added to it, as last seen
    # By counter: the worker's commands that are known to be done, and what the server had when the
    # connection was made.
    done: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    turn: int = -1  # the connection's counter
    used: int = 0  # that of the commands under way
    rollbacks: int = 0

    @property
    def n_lost(self) -> int:
        """Commands that were done, and that the server does not have."""
        pairs = zip(self.done, self.found, strict=True)
        return sum(max(0, done - found) for done, found in pairs)

    def mine(self, ids: UInt32Array) -> npt.NDArray[np.bool_]:
        """Which of some ids are here."""
        here: npt.NDArray[np.bool_] = ids % np.uint32(self.n_shards) == self.number
        return here

    def welcome(self, connection: Connection) -> None:
        """Refuses a server that does not have this model; sees whether it has an earlier one."""
        worker = self.worker or 0
        end = self.n + _OWN + _TURNS * (worker + 1)
        behind = connection.ask("GETRANGE", self.key, 4 * self.n, 4 * end - 1)
        if len(behind) != 4 * (end - self.n):
            raise self.lost()
        numbers = struct.unpack(f">{end - self.n}i", behind)
        if numbers[_MARK] != self.mark:
            raise self.lost()
        count, self.found = numbers[_COUNT], list(numbers[-_TURNS:])
        self.done = self.done or list(self.found)
        self.turn = (self.turn + 1) % _TURNS
        if count < self.count or (self.worker is not None and self.n_lost):
            self.rollbacks += 1
            notice_once(f"{connection.place}: came back with an older model; the run goes on")
        self.count = count

    def lost(self) -> StoreError:
        return StoreError(
            f"{self.link.place}: has no model of this run under {self.key.decode()}: the server "
            "lost it (restarted without its data, evicted or deleted it), or another run has its "
            "place"
        )


def open_shards(
    urls: Sequence[StoreUrl],
    header: RunHeader,
    stopping: Callable[[], bool] = lambda: False,
    worker: int | None = None,
) -> list[Shard]:
    """The strings of a run's model; connections are made when they are needed."""
    n_shards, shards = len(header.shards), []
    for number, (key, place) in enumerate(zip(header.shards, header.places, strict=True)):
        n = -(-(header.n_ids + 1 - number) // n_shards)
        at = tuple(urls) if header.clustered else (urls[place],)
        link = Link(at, key.encode(), clustered=header.clustered, stopping=stopping)
        shard = Shard(
            number, n_shards, key.encode(), n, header.mark, link, header.n_workers, worker
        )
        link.welcome = shard.welcome
        shards.append(shard)
    return shards


@dataclass(eq=False)
class _Command:
    """One BITFIELD command under way, or the reading of a run of places.

    ids : added to, then read; values come back in that order, with those behind the model among
        them: see `Exchange._pack`
    counted : whether it is one more exchange: the first of its request that adds
    """

    ids: UInt32Array
    amounts: Int32Array
    values: Int32Array
    counted: bool
    sent_then: UInt32Array | None = None
    done: bool = False

    @property
    def n_add(self) -> int:
        return len(self.amounts)


@dataclass(eq=False)
class Request:
    """One exchange under way.

    count : exchanges that have added to the first shard, when it was answered
    own : how many of those were this worker's, as far as it knows
    number : of the string it pushed last (merged.py)
    """

    adds: bool
    own: int
    commands: dict[int, list[_Command]] = field(default_factory=dict)
    runs: dict[int, _Command] = field(default_factory=dict)
    count: int = 0
    settled: bool = False
    number: int = 0


class Exchanges:
    """A worker's traffic with the strings of a model, several requests under way at once.

    Attributes
    ----------
    doubtful : commands that were done twice: sent again when their connection broke, and done late
        on the first one after all
    lost : commands that a server lost, and that are not kept any more
    bounded : weights that were found at the bounds of what a place holds
    """

    def __init__(self, replica: _kernels.Replica, shards: list[Shard]) -> None:
        self._replica, self._shards = replica, shards
        self._under_way: deque[Request] = deque()
        self._own = 0  # requests that add, so far
        self.doubtful = self.lost = self.bounded = 0

    @property
    def n_under_way(self) -> int:
        return len(self._under_way)

    @property
    def rollbacks(self) -> int:
        return sum(shard.rollbacks for shard in self._shards)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        both = [shard.link.traffic for shard in self._shards]
        return sum(sent for sent, _ in both), sum(received for _, received in both)


class Exchange(Exchanges):
    """By BITFIELD commands: each request adds and reads single weights. A worker alone reads all of
    them at first, and again where a server has lost what it added: nobody else moves them."""

    def __init__(self, replica: _kernels.Replica, shards: list[Shard]) -> None:
        super().__init__(replica, shards)
        self._sent: UInt32Array = np.asarray(replica.sent)
        # What was added to each shard lately, the oldest first, and the bytes of all.
        self._kept: dict[int, deque[tuple[UInt32Array, Int32Array]]] = {
            shard.number: deque() for shard in shards
        }
        self._kept_bytes = 0
        self._alone = shards[0].n_workers == 1 and len(self._sent) <= MOST_AT_ONCE
        # What had gone wrong by the time when it read all.
        self._read_at: tuple[int, int] | None = None

    def submit(
        self, add: UInt32Array, amounts: Int32Array, read: UInt32Array, *, ahead: bool
    ) -> Request:
        """Sends what is to be added, and asks for the weights of `read`; does not wait.

        ahead : whether more may be sent before this is answered
        """
        self._own += len(add) > 0
        request = Request(adds=len(add) > 0, own=self._own)
        below = self._replica.dense(read, _BYTES_ALONE) if len(read) else 0
        if self._alone and len(read):
            now = self.rollbacks, self.doubtful
            below = len(self._sent) if self._read_at != now else 0
            self._read_at, read = now, _NO_IDS
        missing = np.empty(len(read), np.uint32)
        missing = missing[: self._replica.missing(read, add, below, missing)]
        for shard in self._shards:
            commands, run = self._plan(shard, add, amounts, missing, below, ahead)
            request.commands[shard.number] = commands
            if run is not None:
                request.runs[shard.number] = run
        self._under_way.append(request)
        for shard in self._shards:  # all are sent before any is waited for
            try:
                if shard.n_lost:  # was connected anew for something else
                    raise Lost("came back with an older model")
                self._send(shard, request)
            except Lost:
                self._recover(shard)
        return request

    def _plan(
        self,
        shard: Shard,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,
        below: int,
        ahead: bool,
    ) -> tuple[list[_Command], _Command | None]:
        if shard.n_shards > 1:
            here = shard.mine(add)
            add, amounts = add[here], amounts[here]
            read = read[shard.mine(read)]
        commands, n_most = [], _kernels.BITFIELD_MOST - _BEHIND
        for first in range(0, len(add) + len(read), n_most):
            adds = add[first : first + n_most]
            reads = read[max(0, first - len(add)) : max(0, first + n_most - len(add))]
            counted = first == 0 and len(adds) > 0
            command = _Command(
                np.concatenate([adds, reads]),
                amounts[first : first + n_most],
                np.empty(len(adds) + len(reads) + _BEHIND, np.int32),
                counted,
            )
            if ahead:
                command.sent_then = self._sent[command.ids]
            commands.append(command)
        n = -(-(below - shard.number) // shard.n_shards) if below > shard.number else 0
        if n <= 0:
            return commands, None
        run = _Command(_NO_IDS, _NO_AMOUNTS, np.empty(n, np.int32), False)
        if ahead:
            run.sent_then = self._sent[shard.number : below : shard.n_shards].copy()
        return commands, run

    def _pack(self, shard: Shard, command: _Command) -> memoryview:
        """Adds, one of them to what the worker has done, and one to the count if it is; reads, the
        mark among them, and what was not added to: the last of each are about the whole model."""
        n_add = command.n_add
        places = command.ids // np.uint32(shard.n_shards)
        add, amounts, read = places[:n_add], command.amounts, places[n_add:]
        more_add, more_read = _behind(command, shard.turn)
        behind = np.arange(shard.n, shard.n + _BEHIND, dtype=np.uint32)
        behind[_OWN:] += np.uint32(_TURNS * (shard.worker or 0))
        add = np.append(add, behind[more_add])
        amounts = np.append(amounts, np.ones(len(more_add), np.int32))
        read = np.append(read, behind[more_read])
        if n_add:
            shard.used = shard.turn
        out = np.empty(_kernels.bitfield_room(len(shard.key), len(add), len(read)), np.uint8)
        return out.data[: _kernels.bitfield_pack(shard.key, add, amounts, read, out)]

    def _send(self, shard: Shard, request: Request) -> None:
        link = shard.link
        if link.is_closed:
            raise Lost("not connected")
        connection = link.connection()
        for command in request.commands[shard.number]:
            connection.send(self._pack(shard, command))
        run = request.runs.get(shard.number)
        if run is not None:
            connection.send(pack("GETRANGE", shard.key, 0, 4 * len(run.values) - 1))

    def settle(self) -> Request:
        """Waits for the oldest request under way, and takes over what the store has."""
        request = self._under_way[0]
        for shard in self._shards:
            try:
                self._receive(shard, shard.link.connection(), request)
            except (Lost, Refused) as error:
                if isinstance(error, Refused) and not error.passes:
                    raise
                self._recover(shard)
        self._under_way.popleft()
        request.count = request.count or self._shards[0].count  # reading a run does not tell
        request.settled = True
        return request

    def _receive(self, shard: Shard, connection: Connection, request: Request) -> None:
        for command in request.commands[shard.number]:
            if command.done:
                continue
            connection.read_bitfield(_kernels.BitfieldReply(command.values))
            self._take(shard, request, command)
        run = request.runs.get(shard.number)
        if run is not None and not run.done:
            self._receive_run(shard, connection, run)

    def _receive_run(self, shard: Shard, connection: Connection, run: _Command) -> None:
        raw = bytearray(4 * len(run.values))
        if not connection.read_string_into(memoryview(raw)):
            raise shard.lost()
        _kernels.bitfield_decode(raw, run.values)
        self._replica.settle_run(shard.number, shard.n_shards, run.values, run.sent_then)
        run.done = True

    def _take(self, shard: Shard, request: Request | None, command: _Command) -> None:
        """A command was answered."""
        n_add, n, values = command.n_add, len(command.ids), command.values
        more_add, more_read = _behind(command, shard.turn)
        behind = np.append(values[n_add : n_add + len(more_add)], values[n + len(more_add) :])
        values = np.append(values[:n_add], values[n_add + len(more_add) : n + len(more_add)])
        about = dict(zip(more_add + more_read, behind.tolist(), strict=True))
        if about[_MARK] != shard.mark:
            shard.link.connection().send(pack("EXPIRE", shard.key, 60))  # whatever it is
            shard.link.close()
            raise shard.lost()
        shard.count = about[_COUNT]
        if n_add:
            self._keep(shard, command)
            shard.done[shard.turn] += 1
        shard.found = [about[_OWN + turn] for turn in range(_TURNS)]
        self._late(shard, 0)
        if request is not None and shard.number == 0:
            request.count = shard.count
        self._replica.settle(command.ids, values, command.sent_then)
        self.bounded += int(np.count_nonzero((values == 2**31 - 1) | (values == -(2**31))))
        command.done = True

    def _late(self, shard: Shard, n_expected: int) -> None:
        """What was done since it was last looked, but for so many commands, was done before."""
        more = sum(shard.found) - sum(shard.done) - n_expected
        self.doubtful += max(0, more)
        shard.done = list(shard.found)

    def _keep(self, shard: Shard, command: _Command) -> None:
        kept = self._kept[shard.number]
        kept.append((command.ids[: command.n_add], command.amounts))
        self._kept_bytes += 8 * command.n_add
        while self._kept_bytes > KEPT_BYTES and kept:
            self._kept_bytes -= 8 * len(kept.popleft()[0])

    def _recover(self, shard: Shard) -> None:
        """The connection to a shard is no good any more: what was not done is done on a new one."""
        shard.link.close()
        shard.link.again(lambda connection: self._redo(shard, connection))

    def _redo(self, shard: Shard, connection: Connection) -> None:
        """On a new connection, as often as it takes."""
        n_done = max(0, shard.found[shard.used] - shard.done[shard.used])
        if shard.n_lost:
            self._push_again(shard, connection)
        sent = [c for request in self._under_way for c in request.commands[shard.number]]
        done = [command for command in sent if command.n_add and not command.done][:n_done]
        for command in done:  # the first are: they are to be read only
            self._keep(shard, command)
            command.amounts, command.counted = _NO_AMOUNTS, False
        self._late(shard, len(done))
        for request in self._under_way:
            for command in request.commands[shard.number]:
                if command.done:
                    continue
                command.values = np.empty(len(command.ids) + _BEHIND, np.int32)
                command.sent_then = None  # what is under way behind it, is taken behind it
                self._do(shard, connection, request, command)
            run = request.runs.get(shard.number)
            if run is not None and not run.done:
                run.sent_then = None
                connection.send(pack("GETRANGE", shard.key, 0, 4 * len(run.values) - 1))
                self._receive_run(shard, connection, run)

    def _push_again(self, shard: Shard, connection: Connection) -> None:
        """The last that were answered, and that the server has lost."""
        n_lost, kept = shard.n_lost, self._kept[shard.number]
        again = [kept.pop() for _ in range(min(n_lost, len(kept)))]
        self._kept_bytes -= sum(8 * len(ids) for ids, _ in again)
        self.lost += n_lost - len(again)
        notice(
            f"{connection.place}: has lost {n_lost} additions to the model by worker "
            f"{shard.worker}; the last {len(again)} of them are made again"
        )
        shard.done = list(shard.found)
        while again:
            ids, amounts = again[-1]
            command = _Command(ids, amounts, np.empty(len(ids) + _BEHIND, np.int32), True)
            try:
                self._do(shard, connection, None, command)
            except BaseException:  # what was not answered is looked for on the next connection
                kept.extend(reversed(again))
                self._kept_bytes += sum(8 * len(ids) for ids, _ in again)
                shard.done[shard.turn] += len(again)
                raise
            again.pop()

    def _do(
        self, shard: Shard, connection: Connection, request: Request | None, command: _Command
    ) -> None:
        connection.send(self._pack(shard, command))
        connection.read_bitfield(_kernels.BitfieldReply(command.values))
        self._take(shard, request, command)


def _behind(command: _Command, turn: int) -> tuple[list[int], list[int]]:
    """Which of the numbers behind the model a command adds to, and which it reads."""
    add = [_OWN + turn] if command.n_add else []
    if command.counted:
        add.append(_COUNT)
    return add, [i for i in range(_BEHIND) if i not in add]


def create(shards: Sequence[Shard], weights: Float32Array) -> None:
    """Makes the strings, with these weights, the intercept's last. What is there already under
    their names is refused."""
    whole = to_whole(weights)
    for shard in shards:
        shard.link.welcome = nothing  # there is no model to look for yet
        made = shard.link.ask("SET", shard.key, b"", "NX", "EX", TTL_S)
        if made is None:
            shard.link.close()
            shard.link.welcome = shard.welcome  # so that nobody deletes what is not this run's
            raise StoreError(
                f"{shard.link.place}: {shard.key.decode()} is there already: another run has that "
                f"name, or left it behind; it goes away by itself within {TTL_S} s"
            )
        write_weights(shard, whole)
        shard.link.welcome = shard.welcome


def to_whole(weights: Float32Array) -> Int32Array:
    """The store's numbers; beyond its bounds there are none."""
    units = np.nan_to_num(np.rint(weights.astype(np.float64) * SCALE))
    whole: Int32Array = np.clip(units, -(2**31), 2**31 - 1).astype(np.int32)
    return whole


def write_weights(shard: Shard, whole: Int32Array) -> None:
    """All weights of a string, and what lies behind them; those that are 0 in a new string are not
    sent."""
    mine = whole[shard.number :: shard.n_shards]
    behind = struct.pack(">i", shard.mark) + bytes(4 * (1 + _TURNS * shard.n_workers))
    shard.link.ask("SETRANGE", shard.key, 4 * shard.n, behind)
    per_piece = _PIECE_BYTES // 4
    for first in range(0, len(mine), per_piece):
        piece = mine[first : first + per_piece]
        used = np.flatnonzero(piece)
        if len(used) == 0:
            continue
        begin, end = int(used[0]), int(used[-1]) + 1
        raw = bytearray(4 * (end - begin))
        _kernels.bitfield_encode(np.ascontiguousarray(piece[begin:end]), raw)
        shard.link.ask("SETRANGE", shard.key, 4 * (first + begin), bytes(raw))


def read_weights(shards: Sequence[Shard], give_up_s: float | None = None) -> Int32Array:
    """All weights, as the store's numbers. They are read in pieces, while workers go on."""
    n = sum(shard.n for shard in shards)
    out = np.empty(n, np.int32)
    for shard in shards:
        mine = np.empty(shard.n, np.int32)
        for first in range(0, shard.n, _PIECE_BYTES // 4):
            part = mine[first : first + _PIECE_BYTES // 4]
            shard.link.again(partial(_read_piece, shard, first, part), give_up_s=give_up_s)
        out[shard.number :: shard.n_shards] = mine
    return out


def _read_piece(shard: Shard, first: int, out: Int32Array, connection: Connection) -> None:
    last = first + len(out)
    connection.send(
        pack("GETRANGE", shard.key, 4 * first, 4 * last - 1)
        + pack("GETRANGE", shard.key, 4 * (shard.n + _MARK), 4 * (shard.n + _MARK) + 3)
    )
    raw = bytearray(4 * len(out))
    whole = connection.read_string_into(memoryview(raw))
    mark = connection.read()
    if not whole or mark != struct.pack(">i", shard.mark):
        raise shard.lost()
    _kernels.bitfield_decode(raw, out)
