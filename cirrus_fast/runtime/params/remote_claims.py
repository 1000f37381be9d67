"""Which worker learns from which block, where the model is in a Redis: a string of 16-bit words.

One for each block, epoch behind epoch; 0 at first:

    0x8000 + worker    that one learns from it
    0xc000 + worker    it has

A BITFIELD command takes any number of blocks in one atomic step: it adds 0x8000 + worker to each
word and fails where that overflows (OVERFLOW FAIL), as it does where the word is not 0; then reads
who has it. Whoever has learnt from a block adds 0x4000 in the same way. So a command that is sent
again, since nobody knows whether it was done, changes nothing, and says the same.

A server that comes back with an older string has lost who had some blocks. Who finds its own among
them says so again; where another has meanwhile learnt from them too, their rows are counted once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import Int64Array, UInt32Array
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.claims import Claims, Mask, free_words, taken_words
from cirrus_fast.runtime.params.control import TTL_S, Command, Names, RemotePort, current_records
from cirrus_fast.runtime.params.local import Positions, units

_TAKEN, _DONE, _WORKER = 0x8000, 0x4000, 0x3FFF
MOST_WORKERS = _WORKER  # the last one's word, with 0x8000 added to another, must overflow
# A string of a Redis has 512 MB at most.
MOST_WORDS = 1 << 28
_WORD = np.dtype(">u2")
# How often all words are read while a worker goes through its own blocks, and so many bytes of them
# a second at most.
_LOOK_S, _LOOK_BYTES_S = 0.25, 4e6
# How often positions are read until none has moved on to other blocks meanwhile.
_LOOKS = 100

Words = npt.NDArray[np.uint16]


class RemoteClaims(Claims):
    """One worker's view: what it knew of the words when it last looked."""

    nap_s, longest_nap_s = 0.001, 0.05

    def __init__(
        self, port: RemotePort, task: str, n_blocks: int, rows_of: Callable[[list[int]], int]
    ) -> None:
        """rows_of : training rows of some blocks"""
        super().__init__(np.zeros(n_blocks, np.int64), port.worker)
        self._port, self._key, self._rows_of = port, Names(task).claims, rows_of
        self._did: dict[int, Mask] = {}  # by epoch, what this worker has learnt from
        self._first = 0  # epochs before this one are over
        self._looked = 0.0

    def look(self, epoch: int) -> None:
        self._first = max(0, epoch - 1)
        for old in [known for known in self._did if known < self._first]:
            del self._did[old]
        (raw,) = self._port.ask(self._look_command())
        self._take_look(raw)

    def take(self, numbers: UInt32Array, epoch: int) -> Mask:
        if (self.epochs(numbers) < epoch).any():
            self.look(epoch)
        wanted = self.epochs(numbers) == epoch
        asked = numbers[wanted]
        found = np.zeros(len(numbers), np.bool_)
        if not len(asked):
            return found
        commands = [self._command(asked, epoch, _TAKEN + self._worker), self._expire]
        patience = max(_LOOK_S, 2 * len(self._words) / _LOOK_BYTES_S)
        looks = time.monotonic() - self._looked >= patience
        if looks:
            commands.append(self._look_command())
        answers = self._port.ask(*commands)
        if looks:
            self._take_look(answers[-1])
        words = self._taken_from(answers[0], asked)
        found[wanted] = words == _TAKEN + self._worker
        self._words[asked] = _by_epoch(words[np.newaxis], epoch)
        return found

    def done(self, numbers: UInt32Array, epoch: int) -> None:
        """Is said with the next word to the server."""
        did = self._did.setdefault(epoch, np.zeros(len(self._words), np.bool_))
        did[numbers] = True
        self._words[numbers] = free_words(epoch + 1)
        command = self._command(numbers, epoch, _TAKEN + self._worker, _DONE)
        self._port.later([command, self._expire, command], partial(self._check_done, numbers))

    def _check_done(self, numbers: UInt32Array, answer: Sequence[int | None]) -> None:
        words = self._taken_from(answer, numbers)
        twice = numbers[words & _WORKER != self._worker]
        if len(twice):
            self._port.repeat(self._rows_of(twice.tolist()))

    @property
    def _expire(self) -> Command:
        return "EXPIRE", self._key, TTL_S

    def _command(self, numbers: UInt32Array, epoch: int, *amounts: int) -> Command:
        """Adds each amount to each word that it fits; then reads the words."""
        places = [f"#{place}" for place in (numbers + epoch * len(self._words)).tolist()]
        command: list[bytes | str | int] = ["BITFIELD", self._key, "OVERFLOW", "FAIL"]
        for amount in amounts:
            for place in places:
                command += ("INCRBY", "u16", place, amount)
        for place in places:
            command += ("GET", "u16", place)
        return tuple(command)

    def _taken_from(self, answer: Sequence[int | None], numbers: UInt32Array) -> Words:
        return np.array(answer[-len(numbers) :], np.uint16)

    def _look_command(self) -> Command:
        return "GETRANGE", self._key, 2 * self._first * len(self._words), -1

    def _take_look(self, raw: bytes) -> None:
        """What the server has of epochs from `_first` on."""
        self._looked = time.monotonic()
        words = _epochs_of(raw, len(self._words))
        for epoch, did in self._did.items():
            there = words[epoch - self._first] if epoch - self._first < len(words) else None
            lost = did if there is None else did & (there < _TAKEN + _DONE)
            if lost.any():
                self.done(np.flatnonzero(lost).astype(np.uint32), epoch)
                if there is not None:
                    there[lost] = _TAKEN + _DONE
        self._words[:] = _by_epoch(words, self._first)


def check_claims(n_workers: int, n_blocks: int, epochs: int) -> None:
    """Refuses what has no place in words, or in a string."""
    if n_workers > MOST_WORKERS:
        raise TrainingError(f"n_workers: {MOST_WORKERS} at most may share the model in a Redis")
    if n_blocks * epochs > MOST_WORDS:
        raise TrainingError(
            f"epochs: with {n_blocks} blocks of data, {MOST_WORDS // n_blocks} at most for workers "
            "that share the model in a Redis"
        )


def _epochs_of(raw: bytes, n_blocks: int) -> Words:
    """[epoch, block]; an epoch at least."""
    n = max(1, -(-len(raw) // (2 * n_blocks)))
    words = np.zeros(n * n_blocks, np.uint16)
    words[: len(raw) // 2] = np.frombuffer(raw[: len(raw) // 2 * 2], _WORD)
    return words.reshape(n, n_blocks)


def _by_epoch(words: Words, first: int) -> Int64Array:
    """As `Claims` has them, of words of epochs from `first` on: each block's first one that is not
    done tells."""
    n = len(words)
    behind = np.vstack([words, np.zeros_like(words[:1])])
    at = (behind < _TAKEN + _DONE).argmax(axis=0)
    there = behind[at, np.arange(words.shape[1])]
    found: Int64Array = free_words(first + at)
    taken = (there >= _TAKEN) & (at < n)
    found[taken] = taken_words(first + at[taken], (there[taken] & _WORKER).astype(np.int64))
    return found


def words_of(raw: bytes | None, n_blocks: int) -> Int64Array:
    """A whole string, as `Claims` has them."""
    return _by_epoch(_epochs_of(raw or b"", n_blocks), 0)


def string_of(claims: Int64Array) -> bytes:
    """The string of which `words_of` makes these. Who learnt from what is done does not matter."""
    held = Claims(claims, 0)
    epochs, takers = held.epochs(), held.takers()
    words = np.zeros((int(epochs.max(initial=0)) + 1, len(claims)), _WORD)
    words[np.arange(len(words))[:, np.newaxis] < epochs] = _TAKEN + _DONE
    taken = np.flatnonzero(takers >= 0)
    words[epochs[taken], taken] = _TAKEN + takers[taken]
    return words.tobytes()


def read_positions(
    ask_all: Callable[..., list[Any]], names: Names, slots: npt.NDArray[np.void], n_blocks: int
) -> Positions:
    """Where workers stand, of which something is known already: what they have taken, and how far
    each is, at one moment."""
    generations = slots["generation"]
    for _ in range(_LOOKS):
        first, raw, last = ask_all(
            ("HGETALL", names.workers), ("GET", names.claims), ("HGETALL", names.workers)
        )
        before, found = slots.copy(), slots.copy()
        for pairs, into in ((first, before), (last, found)):
            for worker, record in current_records(pairs, generations).items():
                into[worker] = record["slot"]
        if units(before) == units(found):
            return Positions(found, words_of(raw, n_blocks), np.zeros(len(slots), np.int64))
    raise StoreError("workers go from block to block too fast for a checkpoint")
