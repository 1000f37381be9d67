"""How a worker's memory is parted."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cirrus_fast.data.block_runs import RUN_BYTES
from cirrus_fast.runtime import memory as memory_module
from cirrus_fast.runtime.memory import GROUPS, Memory


@given(st.integers(128, 10_240), st.integers(0, 1 << 30))
def test_the_parts_fit_into_the_whole(worker_size, model_bytes):
    memory = Memory.of(worker_size, model_bytes)
    left = worker_size * 1e6 - 50e6 - model_bytes
    assert memory.rows <= max(left, 16e6)
    assert GROUPS * memory.group + memory.blocks <= memory.rows
    assert 6 * memory.run <= memory.blocks
    assert memory.run <= RUN_BYTES
    # What is held stands beside the arrays it is decoded into and what is read ahead.
    ahead = memory.blocks // 2
    held = memory.rows - memory.group - ahead
    assert memory.holds(held, ahead)
    assert not memory.holds(held + 1, ahead)


def test_requests_are_full_size_where_there_is_room():
    assert Memory.of(256, 16 << 20).run == RUN_BYTES


def test_a_model_that_leaves_no_room_is_spoken_of(caplog: pytest.LogCaptureFixture):
    memory_module.notice_once.cache_clear()
    with caplog.at_level(logging.INFO, "cirrus_fast"):
        memory = Memory.of(128, 200_000_000)
    assert "worker_size=128 MB leaves 0 MB for rows beside a model of 200 MB" in caplog.text
    assert memory.blocks > 0
