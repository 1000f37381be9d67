"""How long a thread waited for a processor's core.

Where more threads want to run than there are cores, each stands in line most of the time, in
whichever phase it is. What waits for a server cannot tell that from the server's time by a clock;
the kernel (Linux) knows which is which.
"""

from __future__ import annotations

import os


class CoreWait:
    """Of the thread that makes it."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another system, or a sandbox that does not tell
            self._file = -1

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def seconds(self) -> float:
        """Since the thread began; always 0 where nobody tells."""
        if self._file < 0:
            return 0.0
        # Nanoseconds on a core, nanoseconds in line for one, turns.
        return int(os.pread(self._file, 64, 0).split()[1]) * 1e-9
