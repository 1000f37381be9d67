"""What workers and the module say to each other (docs/redis-module.md), in the slow, obvious way:
written for tests of the module, and read for tests of the kernels that write it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEAD = struct.Struct("<BBHIIIQddffIIII")
_SKIP = 0xFFFF


def encode_ids(ids: Any, n_words: int = 2) -> bytes:
    """A set of increasing ids, those below 64 n_words as a bitmap."""
    words, steps, following = [0] * n_words, [], 64 * n_words
    for id_ in map(int, ids):
        if id_ < 64 * n_words:
            words[id_ // 64] |= 1 << id_ % 64
            continue
        step = id_ - following
        steps += [_SKIP] * (step // _SKIP) + [step % _SKIP]
        following = id_ + 1
    head = struct.pack("<II", n_words, len(steps))
    return head + struct.pack(f"<{n_words}Q{len(steps)}H", *words, *steps)


def decode_ids(data: bytes) -> tuple[list[int], int]:
    """(ids, bytes that they took)"""
    n_words, n_steps = struct.unpack_from("<II", data)
    numbers = struct.unpack_from(f"<{n_words}Q{n_steps}H", data, 8)
    ids = [
        64 * w + bit for w, word in enumerate(numbers[:n_words]) for bit in range(64)
        if word >> bit & 1
    ]  # fmt: skip
    following = 64 * n_words
    for step in numbers[n_words:]:
        following += step
        if step != _SKIP:
            ids.append(following)
            following += 1
    return ids, 8 + 8 * n_words + 2 * n_steps


def step_request(
    *,
    n_ids: int,
    worker: int = 0,
    generation: int = 0,
    number: int = 0,
    n_rows: int = 0,
    loss_sum: float = 0.0,
    weight_sum: float = 0.0,
    rate: float = 1.0,
    intercept_gradient: float = 0.0,
    push_ids: Any = None,
    gradient: Any = None,
    touches: Any = None,
    pull_ids: Any = None,
) -> bytes:
    """A push where there are push_ids, a pull where there are pull_ids."""
    parts, counts = [], b""
    n_words = min(2, -(-n_ids // 64))
    if push_ids is not None:
        for times in () if touches is None else map(int, touches):
            counts += bytes([times]) if times < 255 else struct.pack("<BI", 255, times)
        parts += [encode_ids(push_ids, n_words), np.asarray(gradient, "<f4").tobytes(), counts]
    if pull_ids is not None:
        parts.append(encode_ids(pull_ids, n_words))
    flags = (push_ids is not None) + 2 * (pull_ids is not None)
    lengths = [0 if ids is None else len(ids) for ids in (push_ids, pull_ids)]
    with np.errstate(over="ignore"):
        rate = float(np.float32(rate))
    head = _HEAD.pack(
        1, flags, 0, worker, generation, n_rows, number, loss_sum, weight_sum, rate,
        intercept_gradient, lengths[0], len(counts), lengths[1], 0,
    )  # fmt: skip
    return b"".join([head, *parts])


@dataclass
class Request:
    """A request that was read."""

    name: bytes
    key: bytes
    worker: int
    generation: int
    n_rows: int
    number: int
    loss_sum: float
    weight_sum: float
    rate: float
    intercept_gradient: float
    push_ids: list[int] | None = None
    gradient: np.ndarray | None = None
    touches: list[int] | None = None
    pull_ids: list[int] | None = None


def read_command(command: bytes) -> Request:
    """The whole command that has a request."""
    count, *parts = command.split(b"\r\n", 6)
    assert (count, parts[0], parts[2]) == (b"*3", b"$11", b"$%d" % len(parts[3]))
    name, key, length, body = parts[1], parts[3], parts[4], parts[5]
    assert length == b"$%d" % (len(body) - 2)
    assert body.endswith(b"\r\n")
    body = body[:-2]
    (
        version, flags, zero, worker, generation, n_rows, number, loss_sum, weight_sum, rate,
        intercept_gradient, n_push, n_touch_bytes, n_pull, last,
    ) = _HEAD.unpack_from(body)  # fmt: skip
    assert (version, zero, last) == (1, 0, 0)
    found = Request(
        name, key, worker, generation, n_rows, number, loss_sum, weight_sum, rate,
        intercept_gradient,
    )  # fmt: skip
    rest = body[_HEAD.size :]
    if flags & 1:
        found.push_ids, taken = decode_ids(rest)
        assert len(found.push_ids) == n_push
        found.gradient = np.frombuffer(rest, "<f4", n_push, taken)
        rest = rest[taken + 4 * n_push :]
        counts, rest = rest[:n_touch_bytes], rest[n_touch_bytes:]
        found.touches = []
        while counts:
            many = counts[0] == 255
            found.touches.append(struct.unpack_from("<I", counts, 1)[0] if many else counts[0])
            counts = counts[5 if many else 1 :]
    if flags & 2:
        found.pull_ids, taken = decode_ids(rest)
        assert len(found.pull_ids) == n_pull
        rest = rest[taken:]
    assert rest == b""
    return found


def step_reply(
    weights: Any, *, status: int = 0, intercept: float = 0.0, rows: float = 0.0
) -> bytes:
    """An answer as it comes over the wire."""
    body = struct.pack("<BBHfdQQ", 1, status, 0, intercept, rows, 3, 4)
    body += np.asarray(weights, "<f4").tobytes()
    return b"$%d\r\n%s\r\n" % (len(body), body)
