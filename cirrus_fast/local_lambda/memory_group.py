"""A memory limit that the kernel keeps: where this process may make control groups, as root mostly.

What the sandbox's processes have together is counted, and nothing is taken beyond it. Elsewhere a
sandbox is looked at every so often, and that is all (sandbox.py).
https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/memory.html
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# By version of the interface: the limit, what keeps swap from being used, and where it is told that
# the kernel has killed.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.swappiness", "memory.oom_control"),
    2: ("memory.max", "memory.swap.max", "memory.events"),
}
# How long processes that were killed may take to be gone.
_GRACE_S = 2.0


class MemoryGroup:
    """A group of its own, in the one that this process is in."""

    def __init__(self, path: Path, version: int) -> None:
        self._path = path
        self._limit, self._swap, self._events = (path / name for name in _FILES[version])

    @classmethod
    def make(cls, n_bytes: int) -> MemoryGroup | None:
        """None where that is not possible."""
        for parent, version in _places():
            group = cls(parent / f"cirrus_fast_{uuid.uuid4().hex}", version)
            try:
                group._path.mkdir()
            except OSError:
                continue
            try:
                group._limit.write_text(str(n_bytes))
            except OSError:  # the parent does not pass memory on
                group.remove()
                continue
            with suppress(OSError):  # where there is no swap
                group._swap.write_text("0")
            return group
        return None

    def take(self, pid: int) -> None:
        """A process that begins, and what it will start."""
        with suppress(ProcessLookupError):  # it has ended
            (self._path / "cgroup.procs").write_text(str(pid))

    @property
    def has_killed(self) -> bool:
        """Whether the kernel has ended a process for want of memory."""
        with suppress(OSError, ValueError):
            for line in self._events.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number) > 0
        return False

    def remove(self) -> None:
        """Once its processes were killed."""
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until:
            try:
                self._path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:  # they are on their way out
                time.sleep(0.01)


def _places() -> Iterator[tuple[Path, int]]:
    """Groups that this process may be in, and the version of the interface. In a container the
    path may be the host's, and the group the root of what is mounted."""
    with suppress(OSError, ValueError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                root, version = _ROOT / "memory", 1
            elif not controllers:
                root, version = _ROOT, 2
            else:
                continue
            for parent in (root / path.strip("/"), root):
                if (parent / "cgroup.procs").exists():
                    yield parent, version
