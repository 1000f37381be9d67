"""Where a worker's time goes, to the last microsecond: at any moment it is in one phase."""

from __future__ import annotations

import time

# function: what calling a stateless function takes beside its work.
PHASES = ("function", "storage_read", "decode", "pull", "compute", "push", "other")


class Clock:
    """Adds up time by phase, that of the clock on the wall and that of the processor."""

    def __init__(self) -> None:
        self.wall = dict.fromkeys(PHASES, 0.0)
        self.cpu = dict.fromkeys(PHASES, 0.0)
        self._phase = "other"
        self._at, self._cpu_at = time.perf_counter(), time.process_time()

    def enter(self, phase: str) -> None:
        """What goes on from now on."""
        now, cpu = time.perf_counter(), time.process_time()
        self.wall[self._phase] += now - self._at
        self.cpu[self._phase] += cpu - self._cpu_at
        self._phase, self._at, self._cpu_at = phase, now, cpu
