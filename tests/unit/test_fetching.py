"""Blocks read ahead, in large pieces, and once only."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast.data.manifest import Block
from cirrus_fast.errors import StorageError
from cirrus_fast.runtime import fetching
from cirrus_fast.runtime.fetching import Fetcher


class Source:
    """Shards in memory; notes what is asked for. `gate`, if set, holds all answers up."""

    def __init__(self, shards: int = 2, blocks: int = 10, n_bytes: int = 100) -> None:
        draw = np.random.default_rng(1)
        self.content = {
            f"shard-{s}": draw.integers(0, 256, blocks * n_bytes, np.uint8).tobytes()
            for s in range(shards)
        }
        self.blocks = tuple(
            Block(f"shard-{s}", b * n_bytes, n_bytes, 10, 20, 0)
            for s in range(shards)
            for b in range(blocks)
        )
        self.asked: list[tuple[str, int, int]] = []
        self.most_out = self.out = 0
        self.gate: threading.Event | None = None
        self.broken: set[int] = set()
        self._lock = threading.Lock()

    def read_into(self, block: Block, out: memoryview, arrived=None) -> None:
        with self._lock:
            self.asked.append((block.shard, block.offset, len(out)))
        if self.gate is not None:
            self.gate.wait(10)
        if block.offset in self.broken:
            raise StorageError(f"{block.shard}: gone")
        out[:] = self.content[block.shard][block.offset : block.offset + len(out)]

    def halt_in_the_middle(self) -> None:
        """Half of each answer comes at once, and the rest when the gate is opened."""
        whole, self.gate = self.read_into, threading.Event()

        def read_into(block, out, arrived):
            half, gate = len(out) // 2, self.gate
            self.gate = None
            whole(block, out)
            kept, out[half:] = bytes(out[half:]), bytes(len(out) - half)
            arrived(half)
            gate.wait(10)
            if (block.shard, block.offset) in self.broken_later:
                raise StorageError(f"{block.shard}: gone")
            out[half:] = kept
            arrived(len(out))

        self.read_into = read_into
        self.broken_later = set()

    def bytes_of(self, number: int) -> bytes:
        block = self.blocks[number]
        return self.content[block.shard][block.offset : block.offset + block.n_bytes]


@pytest.fixture
def source():
    return Source()


ALL = range(20)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def taken(fetcher: Fetcher, numbers) -> list[bytes]:
    fetcher.expect(numbers)
    return [bytes(fetcher.take(n)) for n in numbers]


def test_neighbours_are_read_together_and_shards_apart(source):
    fetcher = Fetcher(source, ALL, 10_000, run_bytes=400, connections=1)
    assert fetcher.runs == [(0, 1, 2), (3, 4, 5, 6), (7, 8, 9),
                            (10, 11, 12), (13, 14, 15, 16), (17, 18, 19)]  # fmt: skip
    assert taken(fetcher, ALL) == [source.bytes_of(n) for n in ALL]
    assert [n for _, _, n in sorted(source.asked)] == [300, 400, 300, 300, 400, 300]
    fetcher.close()


def test_blocks_that_are_not_neighbours_are_not_read_between(source):
    fetcher = Fetcher(source, [0, 2, 3, 7], 10_000, connections=1)
    assert fetcher.runs == [(0,), (2, 3), (7,)]
    assert taken(fetcher, [7, 3, 2, 0]) == [source.bytes_of(n) for n in (7, 3, 2, 0)]
    assert sum(n for _, _, n in source.asked) == 400
    fetcher.close()


def test_few_bytes_are_spread_over_the_connections():
    fetcher = Fetcher(Source(1, 8), range(8), 10_000, connections=4)
    assert fetcher.runs == [(0, 1), (2, 3), (4, 5), (6, 7)]
    fetcher.close()


@pytest.mark.parametrize("budget", [1, 250, 700, 1500, 10_000])
@pytest.mark.parametrize("keep", [True, False])
def test_every_block_comes_out_in_any_order_epoch_after_epoch(source, budget, keep):
    draw = np.random.default_rng(2)
    fetcher = Fetcher(source, ALL, budget, keep=keep, run_bytes=300)
    for _ in range(4):
        order = [n for i in draw.permutation(len(fetcher.runs)) for n in fetcher.runs[i]]
        assert taken(fetcher, order) == [source.bytes_of(n) for n in order]
        assert fetcher._held == sum(
            r.n_bytes for r in fetcher._runs if r.memory is not None or r.coming is not None
        )
    fetcher.close()


@pytest.mark.parametrize("budget", [700, 10_000])
def test_storage_is_read_once_whatever_fits_in_memory(source, budget):
    fetcher = Fetcher(source, ALL, budget, run_bytes=300)
    for _ in range(3):
        taken(fetcher, ALL)
    assert sum(n for _, _, n in source.asked) == 2000
    fetcher.close()


def test_without_keeping_no_more_than_the_budget_is_ever_held(source):
    fetcher = Fetcher(source, ALL, 700, keep=False, run_bytes=300)
    fetcher.expect(ALL)
    for n in ALL:
        fetcher.take(n)
        assert fetcher._held <= 700
    fetcher.close()


def test_reading_goes_on_before_anyone_asks_and_stays_within_the_budget(source):
    source.gate = threading.Event()
    fetcher = Fetcher(source, ALL, 1500, keep=False, run_bytes=500, connections=4)
    fetcher.expect(ALL)
    for _ in range(200):
        if len(source.asked) >= 3:
            break
        threading.Event().wait(0.01)
    assert sorted(source.asked) == [
        ("shard-0", 0, 500),
        ("shard-0", 500, 500),
        ("shard-1", 0, 500),
    ]
    source.gate.set()
    assert bytes(fetcher.take(0)) == source.bytes_of(0)
    fetcher.close()


def test_a_read_that_fails_is_raised_where_its_block_is_taken(source):
    source.broken = {500}
    fetcher = Fetcher(source, range(10), 10_000, run_bytes=500, connections=1)
    fetcher.expect(range(10))
    assert bytes(fetcher.take(2)) == source.bytes_of(2)
    with pytest.raises(StorageError, match="shard-0: gone"):
        fetcher.take(5)
    source.broken = set()
    assert bytes(fetcher.take(5)) == source.bytes_of(5)  # and is tried anew if asked for again
    fetcher.close()


def test_a_full_disk_costs_reading_again_and_says_so(source, monkeypatch, caplog):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fetching.notice_once.cache_clear()
    monkeypatch.setattr(os, "pwrite", full)
    fetcher = Fetcher(source, ALL, 700, run_bytes=300)
    for _ in range(3):
        assert taken(fetcher, ALL) == [source.bytes_of(n) for n in ALL]
    assert sum(n for _, _, n in source.asked) > 2000
    assert caplog.text.count("read from storage again, every epoch") == 1
    fetcher.close()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES])
def test_no_temporary_folder_is_as_good_as_a_full_one(source, monkeypatch, caplog, code):
    def none(*_arguments, **_more):
        raise OSError(code, "No usable temporary directory")

    fetching.notice_once.cache_clear()
    monkeypatch.setattr(fetching.tempfile, "mkstemp", none)
    monkeypatch.setattr(fetching.tempfile, "gettempdir", none)
    fetcher = Fetcher(source, ALL, 700, run_bytes=300)
    for _ in range(2):
        assert taken(fetcher, ALL) == [source.bytes_of(n) for n in ALL]
    assert caplog.text.count("(No usable temporary directory): they are read from storage") == 1
    fetcher.close()


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_disk_that_fails_is_a_storage_error(source, monkeypatch, call):
    def fail(*_arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    fetcher = Fetcher(source, ALL, 700, run_bytes=300)
    with pytest.raises(StorageError, match="the temporary file of blocks: Input/output error"):
        _ = [taken(fetcher, ALL) for _ in range(2)]
    fetcher.close()


@pytest.mark.parametrize("budget", [700, 10_000])
@pytest.mark.parametrize("number", [0, 4, 19])
def test_what_was_repaired_stays_so_wherever_it_was_kept(source, budget, number):
    right = source.content
    source.content = {name: bytes(len(content)) for name, content in right.items()}
    fetcher = Fetcher(source, ALL, budget, run_bytes=300)
    taken(fetcher, ALL)
    source.content = right
    fetcher.repair(number, source.bytes_of(number))
    for _ in range(2):
        assert taken(fetcher, ALL)[number] == source.bytes_of(number)
    fetcher.close()


def test_the_temporary_file_has_no_name_and_goes_with_the_fetcher(source, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.tempfile, "tempdir", str(tmp_path))
    before = _open_files()
    fetcher = Fetcher(source, ALL, 700, run_bytes=300)
    taken(fetcher, ALL)
    assert fetcher._spill is not None
    assert fetcher._spill._descriptor is not None
    assert list(tmp_path.iterdir()) == []
    fetcher.close()
    assert _open_files() == before


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("budget", [500, 600, 900])
def test_a_view_is_good_until_the_next_is_taken(source, keep, budget):
    """Whatever is read ahead meanwhile, into memory that is used again."""
    fetcher = Fetcher(source, ALL, budget, keep=keep, run_bytes=200)
    for _ in range(3):
        fetcher.expect(ALL)
        for n in ALL:
            view = fetcher.take(n)
            for run in fetcher._runs:
                if run.coming is not None:
                    run.coming.result()
            assert bytes(view) == source.bytes_of(n)
    fetcher.close()


def test_memory_of_what_was_let_go_is_used_again(source):
    fetcher = Fetcher(source, ALL, 800, keep=False, run_bytes=200)
    fetcher.expect(ALL)
    where = {id(fetcher.take(n).obj) for n in ALL}
    assert len(where) <= 6 < len(fetcher.runs)
    fetcher.close()


def test_the_first_blocks_have_a_request_of_their_own(source):
    fetcher = Fetcher(source, ALL, 10_000, run_bytes=500, first=[(6, 7), (12,)])
    assert fetcher.runs[:2] == [(6, 7), (12,)]
    assert sorted(n for run in fetcher.runs for n in run) == list(ALL)
    order = [6, 7, 12, *(n for n in ALL if n not in (6, 7, 12))]
    assert taken(fetcher, order) == [source.bytes_of(n) for n in order]
    assert source.asked.count(("shard-0", 600, 200)) == 1
    assert source.asked.count(("shard-1", 200, 100)) == 1
    assert sum(n for _, _, n in source.asked) == 2000
    fetcher.close()


def test_the_first_blocks_take_no_connection_from_the_others(source):
    source.gate = threading.Event()
    fetcher = Fetcher(source, ALL, 10_000, run_bytes=500, connections=2, first=[(3,), (5,), (7,)])
    fetcher.expect([3, 5, 7, *(n for n in ALL if n not in (3, 5, 7))])
    ends = time.monotonic() + 10
    while len(source.asked) < 5:
        assert time.monotonic() < ends
        time.sleep(0.01)
    source.gate.set()
    assert bytes(fetcher.take(3)) == source.bytes_of(3)
    fetcher.close()


def test_blocks_are_handed_out_as_they_arrive(source):
    source.halt_in_the_middle()
    gate = source.gate
    fetcher = Fetcher(source, range(10), 10_000, run_bytes=1000, connections=1)
    fetcher.expect(range(10))
    assert [bytes(fetcher.take(n)) for n in range(5)] == [source.bytes_of(n) for n in range(5)]
    fetcher.repair(1, b"x" * 100)
    assert not gate.is_set()
    threading.Timer(0.05, gate.set).start()
    assert [bytes(fetcher.take(n)) for n in range(5, 10)] == [
        source.bytes_of(n) for n in range(5, 10)
    ]
    again = taken(fetcher, range(10))
    assert again[1] == b"x" * 100
    assert again[2:] == [source.bytes_of(n) for n in range(2, 10)]
    assert len(source.asked) == 1
    fetcher.close()


def test_a_read_that_fails_in_the_middle_is_raised_with_the_first_block_that_is_not_there(source):
    source.halt_in_the_middle()
    gate = source.gate
    source.broken_later.add(("shard-0", 0))
    fetcher = Fetcher(source, range(10), 10_000, run_bytes=1000, connections=1)
    fetcher.expect(range(10))
    assert [bytes(fetcher.take(n)) for n in range(5)] == [source.bytes_of(n) for n in range(5)]
    gate.set()
    with pytest.raises(StorageError, match="shard-0: gone"):
        fetcher.take(5)
    assert fetcher._held == 0
    fetcher.close()


def test_waiting_is_measured(source):
    source.gate = threading.Event()
    threading.Timer(0.05, source.gate.set).start()
    fetcher = Fetcher(source, ALL, 10_000)
    fetcher.expect(ALL)
    fetcher.take(0)
    assert fetcher.wait_s > 0.02
    fetcher.close()


def test_closing_does_not_wait_for_a_server_that_does_not_answer(source, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(source, "read_into", lambda *_: answer.wait(60))
    fetcher = Fetcher(source, ALL, 700, run_bytes=300)
    fetcher.expect(ALL)
    try:
        fetcher.close()
        assert not answer.is_set()
        assert any(thread.name.startswith("cirrus-fetch") for thread in threading.enumerate())
    finally:
        answer.set()
