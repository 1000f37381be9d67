"""What is asked for before the manifest is there: given once, as the storage would give it."""

from __future__ import annotations

import threading

import pytest

from cirrus_fast.data.early_reads import EarlyReads, Piece
from cirrus_fast.errors import StorageError

CONTENT = bytes(range(200))


class Folder:
    """One object in memory, which comes in two halves; `gate` holds the second up."""

    uri = "memory"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    def _come(self, name, offset, end):
        self.asked.append((name, offset, end))
        self.gate.wait(10)
        if self.broken:
            raise StorageError(f"{name}: gone")

    def read(self, name):
        self._come(name, 0, len(CONTENT))
        return CONTENT

    def read_into(self, name, offset, out, arrived):
        half = len(out) // 2
        out[:half] = CONTENT[offset : offset + half]
        arrived(half)
        self._come(name, offset, offset + len(out))
        out[half:] = CONTENT[offset + half : offset + len(out)]
        arrived(len(out))


@pytest.fixture
def folder():
    return Folder()


def test_a_piece_is_read_once_and_given_once(folder):
    early = EarlyReads(folder, [Piece("a", 0, None), Piece("a", 10, 100)])
    assert early.read("a") == CONTENT
    out, told = memoryview(bytearray(100)), []
    assert early.read_into("a", 10, out, told.append)
    assert bytes(out) == CONTENT[10:110]
    assert told == sorted(told)
    assert told[-1] == 100
    assert sorted(folder.asked) == [("a", 0, 200), ("a", 10, 110)]
    assert early.read("a") is None
    assert not early.read_into("a", 10, out, None)


def test_what_is_no_piece_is_left_to_the_storage(folder):
    early = EarlyReads(folder, [Piece("a", 10, 100)])
    assert early.read("a") is None
    assert not early.read_into("b", 10, memoryview(bytearray(100)), None)
    assert not early.read_into("a", 0, memoryview(bytearray(100)), None)
    assert not early.read_into("a", 10, memoryview(bytearray(99)), None)
    assert not EarlyReads(folder, []).read_into("a", 10, memoryview(bytearray(100)), None)


def test_bytes_are_given_as_they_come(folder):
    folder.gate.clear()
    early = EarlyReads(folder, [Piece("a", 10, 100)])
    out = memoryview(bytearray(100))

    def told(n):
        if n < 100:
            assert bytes(out[:n]) == CONTENT[10 : 10 + n]
            folder.gate.set()

    assert early.read_into("a", 10, out, told)
    assert bytes(out) == CONTENT[10:110]


def test_what_reading_raised_is_raised_to_whoever_asks(folder):
    folder.broken = True
    early = EarlyReads(folder, [Piece("a", 0, None), Piece("a", 10, 100)])
    with pytest.raises(StorageError, match="a: gone"):
        early.read("a")
    with pytest.raises(StorageError, match="a: gone"):
        early.read_into("a", 10, memoryview(bytearray(100)), None)
