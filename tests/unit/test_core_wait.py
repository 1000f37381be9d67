from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cirrus_fast.runtime import core_wait
from cirrus_fast.runtime.core_wait import CoreWait

tells = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="needs a Linux that tells"
)


def in_a_thread(act) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@tells
def test_a_core_that_two_want_is_waited_for() -> None:
    core = min(os.sched_getaffinity(0))

    def share_it() -> None:
        os.sched_setaffinity(0, {core})  # of this thread, and of those it starts
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        wait = CoreWait()
        try:
            before = wait.seconds()
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                pass
            assert wait.seconds() > before
        finally:
            wait.close()
            other.kill()
            other.wait()

    in_a_thread(share_it)


def test_where_nobody_tells_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(core_wait.os, "open", away)
    wait = CoreWait()
    assert wait.seconds() == 0.0
    wait.close()
