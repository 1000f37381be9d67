"""The control of a run that is kept in a Redis: who works, how far each is, whether to go on.

What this package stores of a run, all of it with a time to live (docs/redis.md):

    {cirrus_fast:TASK}:run      JSON of what was decided; made first, so a name is taken once
    {cirrus_fast:TASK}:scale    list: the training scale, compressed, in pieces
    {cirrus_fast:TASK}:control  what the supervisor says, written by it alone
    {cirrus_fast:TASK}:workers  hash: "WORKER.GENERATION" -> what that worker says; "stop"
    {cirrus_fast:TASK}:claims   who learns from which block: params/remote_claims.py
    {cirrus_fast:TASK}:plan     JSON: options and evaluations, for another supervisor
    {cirrus_fast:TASK}:best     the best model of these
    model and state of the optimiser: params/bitfield.py, params/merged.py

A worker writes its own record only, always as a whole, so that writing it again does no harm, and
one lost with a server is there again after the next. A twin that was replaced writes under a
generation that nobody reads any more.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.training_scale import NOWHERE, TrainingScale
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.params import resp
from cirrus_fast.runtime.params.local import ACTIVE, FINISHED, SLOT, STARTED, WAITING
from cirrus_fast.runtime.params.place import Place
from cirrus_fast.runtime.params.resp import Connection, Link, Refused
from cirrus_fast.store_url import StoreUrl

FORMAT = 2
# Beside the workers' records: there where somebody asks the supervisor to end the run.
STOP_FIELD = b"stop"
# Keys outlive their last user by so long; the supervisor prolongs them.
TTL_S = 3600
# How old a worker's view of the run may be, how often it looks while it has to wait, at first and
# at most.
_REFRESH_S, _NAP_S, _LONGEST_NAP_S = 0.1, 0.001, 0.02
# How long a worker's moves are damped as if all others were there: the best of 0, 0.15 and 0.5 s
# where workers begin 0, 0.1 and 0.5 s apart.
_YOUNG_S = 0.5
# Who has told nothing for so long may have been asleep, and its place taken.
_ASLEEP_S = 1.0
# Workers end when their supervisor has shown no sign of life for so long.
_ORPHANED_S = 120.0
# What a worker has added to the model lately is kept, should a server lose it.
KEPT_BYTES = 1 << 23
# How long a worker that ends tries to say so.
_FAREWELL_S = 2.0

# Beside what a worker tells of its place (local.SLOT): the exchange with the model.
TRAFFIC = np.dtype(
    [
        ("exchanges", np.int64),
        ("doubtful", np.int64),  # additions that were made twice (Exchanges.doubtful)
        ("lost", np.int64),  # additions that a server lost, and that could not be made again
        ("rollbacks", np.int64),  # times the server came back with an older model
        ("stale_sum", np.float64),  # others' exchanges between a read and the write that follows
        ("stale_max", np.int64),
        ("bytes_sent", np.int64),
        ("bytes_received", np.int64),
    ]
)
# repeated : rows that another has learnt from, too, since the server lost who had them
RECORD = np.dtype(
    [("slot", SLOT), ("traffic", TRAFFIC), ("looks", np.int64), ("repeated", np.int64)]
)

# The rights a run needs, as ACL SETUSER takes them, on keys that begin with "{cirrus_fast:".
COMMANDS = (
    *("+auth", "+select", "+cluster|slots", "+expire", "+unlink"),
    *("+get", "+set", "+getrange", "+setrange", "+bitfield"),
    *("+hset", "+hget", "+hgetall", "+hdel", "+rpush", "+lrange", "+blpop"),
)

_ended: set[str] = set()


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What every worker of a run is told by the store.

    Attributes
    ----------
    shards : keys of the model; coordinate i is at place i // n of the (i mod n)-th
    places : of the shards' servers among the URLs; meaningless in a cluster
    mark : a number in each model, which tells it from another with the same name
    merged : whether the supervisor merges what workers learn (params/merged.py)
    store : how it is held: bitfield or module
    copies : whether workers learn on copies of it, with an optimiser of their own
    n_blocks : of the data, where workers take over blocks of those that are slow; else 0
    """

    task: str
    model_size: int
    n_ids: int
    n_places: int
    optimizer: str
    learning_rate: float
    penalized: bool
    n_workers: int
    clustered: bool
    shards: tuple[str, ...]
    places: tuple[int, ...]
    mark: int
    merged: bool
    store: str
    copies: bool
    n_blocks: int
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> RunHeader:
        raw = json.loads(text)
        if raw.get("format") != FORMAT:
            raise StoreError(
                f"run {raw.get('task')} was started by another version of cirrus-fast (format "
                f"{raw.get('format')}, this one has {FORMAT})"
            )
        return cls(**raw | {"shards": tuple(raw["shards"]), "places": tuple(raw["places"])})

    @property
    def n_bytes(self) -> int:
        """Of what a worker keeps beside its rows, about: its copy of the model, and the scale."""
        return worker_bytes(self.n_ids, self.n_places, merged=self.merged)


def worker_bytes(n_ids: int, n_places: int, *, merged: bool) -> int:
    """RunHeader.n_bytes"""
    return 40 * (n_ids + 1) + 8 * n_places + (0 if merged else KEPT_BYTES)


class Names:
    """The keys of a run; in a cluster all of them have one slot."""

    def __init__(self, task: str) -> None:
        tag = f"{{cirrus_fast:{task}}}:".encode()
        self.run, self.scale = tag + b"run", tag + b"scale"
        self.control, self.workers = tag + b"control", tag + b"workers"
        self.plan, self.best = tag + b"plan", tag + b"best"
        self.claims = tag + b"claims"

    def all(self) -> tuple[bytes, ...]:
        control = self.run, self.scale, self.control, self.workers
        return *control, self.plan, self.best, self.claims


def end_here(task: str) -> None:
    """Workers of a run in this process, if any, wait for no server any more."""
    _ended.add(task)


def ended_here(task: str) -> bool:
    return task in _ended


def control_link(
    urls: Sequence[StoreUrl], task: str, clustered: bool, stopping: Callable[[], bool]
) -> Link:
    """To the server with the keys of `Names`: the first, or one of the cluster."""
    at = tuple(urls) if clustered else (urls[0],)
    return Link(at, Names(task).run, clustered=clustered, stopping=stopping)


def is_clustered(urls: Sequence[StoreUrl]) -> bool:
    """Whether the server is one of a cluster; waits for it if it is not there yet. Of several, any
    can tell where the first cannot be reached."""

    def ask(connection: Connection) -> bool:
        try:
            return bool(connection.ask("CLUSTER", "SLOTS"))
        except Refused as error:
            if error.code in ("ERR", "NOPERM"):
                return False
            raise

    def ask_one(url: StoreUrl, patience: float) -> bool:
        link = Link((url,), b"", clustered=False)
        try:
            return link.again(ask, give_up_s=patience)
        finally:
            link.close()

    try:
        return ask_one(urls[0], min(resp.GIVE_UP_S, 2 * urls[0].timeout))
    except Refused:
        raise
    except StoreError:
        for url in urls[1:]:
            with suppress(StoreError):
                if ask_one(url, 0):
                    return True
        raise


def scale_to_bytes(scale: TrainingScale) -> bytes:
    parts = [scale.ids, scale.divisor]
    if scale.penalties is not None:
        parts.append(scale.penalties)
    return zlib.compress(b"".join(part.tobytes() for part in parts), 1)


def scale_of_bytes(data: bytes, header: RunHeader) -> TrainingScale:
    n = header.n_ids
    try:
        raw = zlib.decompress(data)
    except zlib.error as error:
        raise StoreError(f"run {header.task}: its scale is damaged ({error})") from error
    n_pairs, rest = divmod(len(raw) - 8 * n, 8)  # of penalties: the last serves all later columns
    if rest or not (min(n, 1) <= n_pairs <= n if header.penalized else n_pairs == 0):
        raise StoreError(f"run {header.task}: its scale is damaged (wrong length)")
    ids = np.frombuffer(raw, np.uint32, n)
    place = np.full(header.n_places, NOWHERE, np.uint32)
    if n and int(ids.max()) >= header.n_places:
        raise StoreError(f"run {header.task}: its scale is damaged (an id beyond the last)")
    place[ids] = np.arange(n, dtype=np.uint32)
    divisor = np.frombuffer(raw, np.float32, n, 4 * n)
    if not header.penalized:
        return TrainingScale(ids, place, divisor, None)
    penalties = np.frombuffer(raw, np.float32, 2 * n_pairs, 8 * n).reshape(n_pairs, 2)
    return TrainingScale(ids, place, divisor, penalties)


def read_run(link: Link, task: str) -> tuple[RunHeader, TrainingScale]:
    """What the store tells a worker before it begins."""
    names = Names(task)
    header = link.ask("GET", names.run)
    if header is None:
        raise _over(task)
    found = RunHeader.from_json(header)
    pieces = link.ask("LRANGE", names.scale, 0, -1)
    return found, scale_of_bytes(b"".join(pieces), found)


def _over(task: str) -> StoreError:
    return StoreError(f"run {task} is over, or the store has lost it")


# What the supervisor says; behind it lie the workers' generations.
SAYS = np.dtype(
    [
        ("stop", np.int64),
        ("allowed_rows", np.float64),
        ("rows", np.int64),  # learnt from, by all workers
        ("learning", np.int64),  # workers that learn, or are about to
        ("beat", np.int64),
    ]
)


Command = tuple[bytes | str | int, ...]


class RemotePort(Place):
    """A worker's side of the control."""

    def __init__(
        self,
        link: Link,
        task: str,
        worker: int,
        generation: int,
        staleness: int,
        *,
        strict: bool,
        deadline: float = math.inf,
    ) -> None:
        """strict : no further ahead of the slowest than `staleness` mini-batches

        deadline : when another must take this worker's place, by the monotonic clock
        """
        self.worker = worker
        self._link, self._task, self._names = link, task, Names(task)
        self._generation, self._staleness, self._strict = generation, staleness, strict
        self._field = f"{worker}.{generation}".encode()
        self._says = np.zeros(1, SAYS)[0]
        self._n_workers, self._slowest = 1, 0
        self._fenced = self._out_of_time = False
        self._deadline = deadline
        self._beat, self._beat_seen = -1, time.monotonic()
        self._refreshed, self._joined = -math.inf, math.inf
        # What is sent before anything else: commands, and what takes the answer to the last.
        self._queued: list[tuple[list[Command], Callable[[Any], None]]] = []
        mine = link.ask("HGET", self._names.workers, self._field)
        if mine is None:
            raise _over(task)
        self.record = np.frombuffer(bytearray(mine), RECORD)[0]
        self._slot = self.record["slot"]
        self._slot["state"] = STARTED
        self._told = self.rows
        self._refresh()

    def join(self) -> None:
        self._joined = time.monotonic()
        self._slot["state"] = ACTIVE
        self._refresh()

    @property
    def fenced(self) -> bool:
        """Whether a later generation has taken this worker's place."""
        return self._fenced

    @property
    def handed_over(self) -> bool:
        """Whether this worker ended for lack of time, and another is to go on from where it is."""
        return self._out_of_time and not self._over

    def finish(self) -> None:
        self._slot["state"] = WAITING if self.handed_over else FINISHED
        if not self._fenced:
            with suppress(StoreError):  # the supervisor sees what became of the store
                self._refresh(give_up_s=_FAREWELL_S)

    @property
    def _over(self) -> bool:
        return bool(self._says["stop"]) or self._fenced

    @property
    def over(self) -> bool:
        """Whether what this worker does is of use no more."""
        if time.monotonic() - self._refreshed >= _REFRESH_S:
            self._refresh()
        return self._over

    @property
    def stopping(self) -> bool:
        """Whether it is to begin no more rows; what it has begun it may have to end."""
        self._out_of_time = self._out_of_time or time.monotonic() >= self._deadline
        return self.over or self._out_of_time

    @property
    def rows(self) -> int:
        return int(self._slot["rows"])

    @property
    def begun(self) -> int:
        """Rows granted and not reported."""
        return int(self._slot["granted"])

    def grant(self, wanted: int, minibatch_size: int, *, wait: bool = True, least: int = 0) -> int:
        """How many of the wanted rows may be taken now; waits while that is none, unless told not
        to. 0: stop, or none now.

        least : so few that they are not worth it while they are few for being ahead of others
        """
        nap, most = _NAP_S, (self._staleness + 1) * minibatch_size
        while not self.stopping:
            lead = self._lead(minibatch_size)
            if lead < min(least, most // 2):  # which the slowest has
                lead = 0
            granted = int(max(0, min(wanted, self._room(), lead)))
            if granted:
                self._slot["granted"] += granted
                return granted
            if not wait:
                return 0
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP_S)
            self._refresh()
        return 0

    def _room(self) -> float:
        """Rows left of those allowed; the supervisor bounds them only for a worker alone."""
        return float(self._says["allowed_rows"]) - self.rows - self.begun

    def _lead(self, minibatch_size: int) -> float:
        """Rows this worker may still take before it is too far ahead of the slowest. Who takes
        blocks from others is done with its own."""
        if self._n_workers == 1 or not self._strict or self._helps is not None:
            return math.inf
        ahead = _clock(self._slot) + -(-self.begun // minibatch_size)
        return (self._slowest + self._staleness + 1 - ahead) * minibatch_size

    def report(self, rows: int, updates: int, loss_sum: float, weight_sum: float) -> None:
        """Rows of earlier grants are learnt from, and the store has taken what was learnt."""
        slot = self._slot
        slot["loss_sum"] += loss_sum
        slot["weight_sum"] += weight_sum
        slot["updates"] += updates
        if self._helps is not None:
            slot["clock_base"] -= updates
        slot["unit_rows"] += rows
        slot["rows"] += rows
        slot["granted"] -= rows

    def repeat(self, rows: int) -> None:
        """So many of those reported were another's to learn from."""
        slot = self._slot
        slot["unit_base"] -= rows
        slot["rows"] -= rows
        self.record["repeated"] += rows

    def rows_of_all(self, learnt: int) -> int:
        """Rows learnt from by all workers, about.

        learnt : those of this one, reported or not
        """
        if self._n_workers == 1:
            return learnt
        return int(self._says["rows"]) + self.n_learning * (learnt - self._told)

    @property
    def n_learning(self) -> int:
        """Workers that learn at the same time, as far as this one is to reckon with them: at first
        with all, since its accumulators are young and its moves large."""
        if time.monotonic() - self._joined < _YOUNG_S:
            return self._n_workers
        return max(1, int(self._says["learning"]))

    def later(self, commands: Sequence[Command], take: Callable[[Any], None]) -> None:
        """Sends some commands with the next that are sent, before them, and before they tell how
        far this worker is then. Like all that is asked here, they may be done more than once.

        take : is given the answer to the last
        """
        told: Command = ("HSET", self._names.workers, self._field, self.record.tobytes())
        self._queued.append(([told, *commands], take))

    def ask(self, *commands: Command) -> list[Any]:
        """The answers to some commands, where this worker is told of first."""
        return self._refresh(*commands)

    def _refresh(self, *more: Command, give_up_s: float | None = None) -> list[Any]:
        """Tells where this worker is, and asks how the run is, and for more: those answers."""
        if self._queued and time.monotonic() - self._refreshed > _ASLEEP_S:
            # Asks only: what is queued comes before what this worker has gone on to.
            (said,) = self._link.ask_all(("GET", self._names.control), give_up_s=give_up_s)
            self._take_control(said, ())
            if self._fenced:
                self._queued = []  # it is another's to say
        self.record["looks"] += 1  # a sign of life, even of one who waits
        names, queued = self._names, self._queued
        commands = [command for some, _ in queued for command in some]
        n_queued = len(commands)
        commands += [
            ("HSET", names.workers, self._field, self.record.tobytes()),
            ("EXPIRE", names.workers, TTL_S),
            ("GET", names.control),
        ]
        if self._strict:
            commands.append(("HGETALL", names.workers))
        n = len(commands)
        answers = self._link.ask_all(*commands, *more, give_up_s=give_up_s)
        self._queued = []
        self._refreshed, self._told = time.monotonic(), self.rows
        self._take_control(answers[n_queued + 2], answers[n_queued + 3 : n])
        last = -1
        for some, take in queued:
            last += len(some)
            take(answers[last])
        return answers[n:]

    def _take_control(self, said: bytes | None, records: Sequence[Any]) -> None:
        if said is None or len(said) < SAYS.itemsize + 8 * (self.worker + 1):
            with suppress(StoreError):  # or the run's end would leave these behind
                names = self._names
                gone = ("HDEL", names.workers, self._field), ("UNLINK", names.claims)
                self._link.ask_all(*gone, give_up_s=0)
            raise _over(self._task)
        self._says = np.frombuffer(bytearray(said), SAYS, 1)[0]
        generations = np.frombuffer(said, np.int64, offset=SAYS.itemsize)
        self._fenced = int(generations[self.worker]) != self._generation
        self._n_workers = len(generations)
        for pairs in records:
            slots = [one["slot"] for one in current_records(pairs, generations).values()]
            running = [s for s in slots if s["state"] != FINISHED and not s["resting"]]
            self._slowest = min(map(_clock, [*running, self._slot]))
        if int(self._says["beat"]) != self._beat:
            self._beat, self._beat_seen = int(self._says["beat"]), self._refreshed
        elif self._refreshed - self._beat_seen > _ORPHANED_S:
            raise TrainingError(f"run {self._task}: its supervisor is gone")


def _clock(slot: np.void) -> int:
    """Updates made with a worker's share, where each epoch begins at the same for all."""
    return int(slot["updates"]) + int(slot["clock_base"])


def current_records(
    pairs: Sequence[bytes], generations: npt.NDArray[np.int64]
) -> dict[int, np.void]:
    """worker -> RECORD, of an answer to HGETALL: those of the generations that count."""
    found = {}
    for field, record in zip(pairs[::2], pairs[1::2], strict=True):
        if field == STOP_FIELD:
            continue
        worker, _, generation = field.partition(b".")
        at = int(worker)
        if at < len(generations) and int(generation) == int(generations[at]):
            if len(record) != RECORD.itemsize:
                raise StoreError("a worker of another version takes part in the run")
            found[at] = np.frombuffer(record, RECORD)[0]
    return found
