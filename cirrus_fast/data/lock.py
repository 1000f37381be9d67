"""One writer at a time: the lock object in the folder of a data set that is being written.

It is made only where none is, names the process that holds it, and goes with it. One that a dead
process of this machine left is taken over. Readers take no notice of it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import TracebackType

from cirrus_fast.data.storage import Storage
from cirrus_fast.errors import DatasetError, StorageError

LOCK = "cirrus_fast.lock"
FORMAT = "cirrus_fast lock"
# After so long without an end, a load elsewhere may have died; only people can tell.
OLD = timedelta(hours=6)
_TRIES = 5


class Lock:
    """A context manager: entering it is a DatasetError while someone else is inside."""

    def __init__(self, storage: Storage, name: str) -> None:
        """name : of the data set, as errors are to call it"""
        self._storage = storage
        self._name = name
        self._mine = Holder.this_process().to_bytes()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        try:
            self._acquire()
        except BaseException:
            self.release()  # of what an interrupt or a full disk left half done
            raise

    def _acquire(self) -> None:
        for _ in range(_TRIES):
            if self._storage.create(LOCK, self._mine):
                return
            left = refuse_if_held(self._storage, self._name)
            if left is not None and self._storage.replace(LOCK, left, self._mine):
                return
        raise DatasetError(f"{self._name}: others are writing it; try again when they are done")

    def release(self) -> None:
        """Lets others in; a folder that is empty then goes too."""
        if _read(self._storage) == self._mine:
            self._storage.delete(LOCK)
        self._storage.remove_folder()


def refuse_if_held(storage: Storage, name: str) -> bytes | None:
    """DatasetError if someone is writing there; the lock that a dead process left, or None."""
    raw = _read(storage)
    if raw is None:
        return None
    place = f"{storage.uri}/{LOCK}"
    holder = Holder.from_bytes(raw)
    if holder is None:
        raise DatasetError(
            f"{name}: is locked, it cannot be read by whom; if nobody is writing it, delete {place}"
        )
    if holder.is_gone():
        return raw
    busy = f"{name}: is being written by {holder}"
    if holder.age > OLD:
        raise DatasetError(f"{busy}; if that is no longer so, delete {place}")
    raise DatasetError(f"{busy}; try again when that is done")


def _read(storage: Storage) -> bytes | None:
    try:
        return storage.read(LOCK)
    except StorageError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock.

    boot, pid_space : of Linux: the start of the machine, and which processes have such numbers
        (a container has its own); empty elsewhere
    started : when the process did, in ticks since boot, as a number is used again; 0 if unknown
    since : when the lock was taken, ISO 8601
    token : tells one lock of a process from another
    """

    pid: int
    host: str
    boot: str
    pid_space: str
    started: int
    since: str = field(default_factory=lambda: _now().isoformat(timespec="seconds"))
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def this_process(cls) -> Holder:
        pid = os.getpid()
        return cls(pid, _host(), *_machine(), _started(pid) or 0)

    def to_bytes(self) -> bytes:
        return (json.dumps({"format": FORMAT, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Holder | None:
        """None if it is no lock of ours, or none that can be read."""
        try:
            body = json.loads(raw)
            if body.pop("format") != FORMAT:
                return None
            holder = cls(**body)
            whole, text = (holder.pid, holder.started), (holder.host, holder.boot, holder.pid_space)
            good = all(type(value) is int for value in whole)
            good = good and all(type(value) is str and value.isprintable() for value in text)
            return holder if good and holder.age is not None else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    @property
    def age(self) -> timedelta:
        return _now() - datetime.fromisoformat(self.since)

    def is_gone(self) -> bool:
        """Whether it is known to have ended: only of a process of this machine can be."""
        if self.host != _host():
            return False
        boot, pid_space = _machine()
        if self.boot != boot:
            return True  # the machine has been started again
        if self.pid_space != pid_space:
            return False
        started = _started(self.pid)
        return started is None or (0 not in (started, self.started) and started != self.started)

    def __str__(self) -> str:
        here = self.host == _host()
        where = "" if here else f" on {self.host}"
        return f"process {self.pid}{where} since {self.since}"


def _now() -> datetime:
    return datetime.now(UTC)


def _host() -> str:
    return os.uname().nodename


@cache
def _machine() -> tuple[str, str]:
    """(boot, pid_space) as in `Holder`."""
    boot = pid_space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pid_space = str(Path("/proc/self/ns/pid").readlink())
    return boot, pid_space


def _started(pid: int) -> int | None:
    """When a process of this machine started; 0 if it lives but that is unknown, None if not."""
    try:
        # The name before ")" may hold anything; then come the state and, 19 fields on, the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        pass  # it is another user's
    return 0
