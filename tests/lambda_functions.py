"""Functions that tests call by name in a sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
import time


def add(a, b):
    return a + b


def loaded():
    """What the sandbox has imported."""
    return sorted(sys.modules)


def environment():
    return dict(os.environ)


def pid():
    return os.getpid()


def shout(text, n=1):
    for _ in range(n):
        print(text)
    return n


def nap(seconds):
    time.sleep(seconds)
    return seconds


def fail(message):
    raise ValueError(message)


def leave(status):
    print("leaving now")
    os._exit(status)


def fill(megabytes):
    """Takes memory, and keeps it for a while."""
    print(f"taking {megabytes} MB")
    held = bytearray(megabytes << 20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(1)
    return len(held)


def fill_in_a_child(megabytes):
    """The memory is another process's."""
    program = f"held = bytearray({megabytes} << 20); held[::4096] = b'x' * len(held[::4096])"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode


def nothing_json_has():
    return {1, 2}


def password_of(url):
    """Its length: answers are not for secrets."""
    from cirrus_fast.store_url import parse_urls

    return len(parse_urls(url)[0].password)
