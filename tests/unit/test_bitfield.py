"""BITFIELD commands packed, and their replies read (csrc/cf_bitfield.h)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cirrus_fast import _kernels
from cirrus_fast.errors import KernelError

U32, I32 = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)


def arrays(adds: list[tuple[int, int]], gets: list[int]) -> tuple[np.ndarray, ...]:
    places = np.array([place for place, _ in adds], np.uint32)
    amounts = np.array([amount for _, amount in adds], np.int32)
    return places, amounts, np.array(gets, np.uint32)


def packed(key: bytes, adds: list[tuple[int, int]], gets: list[int]) -> bytes:
    out = bytearray(_kernels.bitfield_room(len(key), len(adds), len(gets)))
    return bytes(out[: _kernels.bitfield_pack(key, *arrays(adds, gets), out)])


def plainly(key: bytes, adds: list[tuple[int, int]], gets: list[int]) -> bytes:
    """The same, as one would write it."""
    words = ["OVERFLOW", "SAT"] if adds else []
    for place, amount in adds:
        words += ["INCRBY", "i32", f"#{place}", str(amount)]
    for place in gets:
        words += ["GET", "i32", f"#{place}"]
    parts = [b"BITFIELD", key, *(word.encode() for word in words)]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


@given(st.binary(max_size=60), st.lists(st.tuples(U32, I32), max_size=9), st.lists(U32, max_size=9))
def test_a_command_is_what_one_would_write(
    key: bytes, adds: list[tuple[int, int]], gets: list[int]
) -> None:
    if adds or gets:
        assert packed(key, adds, gets) == plainly(key, adds, gets)


def test_the_extremes_fit_their_room() -> None:
    adds, gets = [(2**32 - 1, -(2**31)), (0, 2**31 - 1)] * 500, [2**32 - 1] * 999
    assert packed(b"k", adds, gets) == plainly(b"k", adds, gets)


@given(st.lists(I32, max_size=40), st.integers(1, 50))
def test_a_reply_in_pieces_is_read_as_a_whole(values: list[int], size: int) -> None:
    text = b"*%d\r\n" % len(values) + b"".join(b":%d\r\n" % value for value in values)
    text += b"+next\r\n"
    out = np.full(len(values), 7, np.int32)
    reply, begin = _kernels.BitfieldReply(out), 0
    for end in [*range(0, len(text), size), len(text)]:
        begin = reply.read(text, begin, max(begin, end))
    assert reply.complete
    assert out.tolist() == values
    assert text[begin:] == b"+next\r\n"


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (b"*3\r\n:1\r\n", 0),  # too many
        (b"*1\r\n:1\r\n", 0),  # too few
        (b"*-1\r\n", 0),
        (b"$1\r\n", 0),
        (b"*2\r\n$-1\r\n", 4),  # OVERFLOW FAIL's nil
        (b"*2\r\n:2147483648\r\n", 4),
        (b"*2\r\n:99999999999999999999\r\n", 4),
        (b"*2\r\n:1\r\n:-\r\n", 8),
        (b"*2\r\n:1 \r\n", 4),
        (b"*2\r\n:1\rx", 4),
        (b"*x\r\n", 0),
    ],
)
def test_what_is_no_such_reply_is_refused_where_it_begins(text: bytes, entry: int) -> None:
    reply = _kernels.BitfieldReply(np.zeros(2, np.int32))
    with pytest.raises(KernelError, match="not the reply of such a command") as caught:
        reply.read(b"..." + text, 3, 3 + len(text))
    assert caught.value.entry == entry + 3


def test_an_error_of_the_server_is_told_apart() -> None:
    reply = _kernels.BitfieldReply(np.zeros(2, np.int32))
    with pytest.raises(KernelError, match="the server refuses"):
        reply.read(b"-OOM no", 0, 7)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="too many places for one command, or none"):
        packed(b"k", [], [])
    with pytest.raises(ValueError, match="too many places"):
        packed(b"k", [], [0] * (_kernels.BITFIELD_MOST + 1))
    with pytest.raises(ValueError, match="out is too small"):
        _kernels.bitfield_pack(b"k", *arrays([], [1]), bytearray(10))
    with pytest.raises(ValueError, match="as many as their places"):
        _kernels.bitfield_pack(
            b"k", np.zeros(2, np.uint32), np.zeros(1, np.int32), np.zeros(0, "u4"), bytearray(999)
        )
    with pytest.raises(ValueError, match="must lie in buffer"):
        _kernels.BitfieldReply(np.zeros(1, np.int32)).read(b"*1\r\n", 0, 5)


@given(st.lists(I32, max_size=20))
def test_strings_are_big_endian(values: list[int]) -> None:
    raw, back = bytearray(4 * len(values)), np.empty(len(values), np.int32)
    _kernels.bitfield_encode(np.array(values, np.int32), raw)
    assert bytes(raw) == np.array(values, ">i4").tobytes()
    _kernels.bitfield_decode(raw, back)
    assert back.tolist() == values
