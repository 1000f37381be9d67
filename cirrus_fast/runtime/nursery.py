"""Worker processes without their start: a process that has imported all they need, and forks.

Python, NumPy and this package take a worker some 0.15 s of a core to import, which ten of them pay
at the same time. Here it is paid once. Run as a program by backend/processes.py, with the number of
a socket as argument: a byte with three descriptors asks for a worker with these as its standard
streams, and is answered by (pid, STARTED); (pid, status) tells that one has ended. It ends when the
socket does; its workers then have nobody to tell of their end.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress

from cirrus_fast.runtime import remote, stepping, worker  # noqa: F401 - so that workers have them

# pid, and STARTED or what os.waitpid says.
NEWS = struct.Struct("<ii")
STARTED = -1


def main() -> None:
    news = socket.socket(fileno=int(sys.argv[1]))
    ended, tell = socket.socketpair()
    ended.setblocking(False)
    tell.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    gc.freeze()  # or the first collection of each worker copies all pages
    while True:
        ready, _, _ = select.select([news, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            for pid, status in _ended():
                news.sendall(NEWS.pack(pid, status))
        if news in ready:
            asked, streams, _, _ = socket.recv_fds(news, 1, 3)
            if not asked:
                return
            pid = os.fork()
            if pid == 0:
                _work(streams, [news, ended, tell])
            for one in streams:
                os.close(one)
            with suppress(OSError):  # the worker does it too: whoever is first
                os.setpgid(pid, pid)
            news.sendall(NEWS.pack(pid, STARTED))


def _ended() -> list[tuple[int, int]]:
    """(pid, status) of workers that have ended."""
    found = []
    with suppress(ChildProcessError):  # there is none left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, status))
    return found


def _work(streams: list[int], ours: list[socket.socket]) -> None:
    """A worker from here on; does not return."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(OSError):
            os.setpgid(0, 0)
        for one in ours:
            one.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        code = worker.main()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
