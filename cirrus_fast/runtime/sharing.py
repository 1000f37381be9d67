"""Workers that help each other: who is done with its share takes blocks of the one that has most.

A worker's share of an epoch is a sequence of groups of blocks. It takes a group when it begins to
learn from it, and gets what nobody else has taken; done with its share, it takes others' blocks,
half of what is left at a time. An epoch is over for it when little is left to take, and of the one
before nothing; the last one when nothing is left to take. Who takes what is decided by words that
all share (claims.py), so each row is learnt from once an epoch, whoever is slow, stopped, or
replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cirrus_fast.data.csr import CSR, UInt32Array
from cirrus_fast.runtime.claims import Claims
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import (
    RUN,
    SHUFFLED_RUN,
    Group,
    MiniBatches,
    ReadTimes,
    runs_drawn,
)
from cirrus_fast.runtime.params.place import Place
from cirrus_fast.runtime.row_sources import RowArrays

# What is less than this part of a share is left to its worker, who has it in memory and is soon
# done, where others would decode it anew. If it is not, they take it before they end another epoch.
SMALL_SHARE = 3
# Where nothing is made ready before it is learnt from, only that counts what it takes to begin.
TINY_SHARE = 16
# What a worker says it is at: one of its groups, by number from 1, or others' blocks.
_OTHERS = -1


class SharedMiniBatches(MiniBatches):
    """Those of a worker's share, by groups some of whose blocks others may have taken."""

    def __init__(
        self, *arguments: object, claims: Claims, memory: Memory, least_rows: int, **more: object
    ) -> None:
        """least_rows : that are taken at once, if there are so many"""
        super().__init__(*arguments, memory=memory, **more)  # type: ignore[arg-type]
        self._claims = claims
        least = least_rows * self._n_bytes // max(1, self._n_rows)
        self._group_bytes = max(memory.small_group(self._n_bytes), min(memory.group, least))
        self._least_bytes = max(self._least_bytes, least)
        # Of rows that are held: the groups, where they end, and of which block each row is.
        self._held_groups: list[Group] = []
        self._ends: list[int] = []
        self._n_training: dict[int, int] = {}  # training rows of blocks with held-out ones

    @property
    def group_bytes(self) -> int:
        return self._group_bytes

    def groups(
        self, epoch: int, first: int | None = None
    ) -> Iterator[tuple[Group, CSR, UInt32Array]]:
        """Each group's rows, and the order to take them in, which is the same whoever has taken
        blocks of it.

        first : number of the group to begin with, or None
        """
        if not self._holds or epoch == 0:
            for group, rows, order in self._groups(epoch):
                if first is None or group.number >= first:
                    yield group, rows, order
            return
        if self._held is None:  # the run goes on where another ended, or a worker where one died
            for _ in self._groups(0):
                pass
        held = self._held
        if held is None:  # it is stopping
            return
        drawn = self._draw(2, epoch).permutation(len(self._held_groups)).tolist()
        for number in drawn if first is None else drawn[drawn.index(first) :]:
            known = self._held_groups[number]
            begin = self._ends[number - 1] if number else 0
            draw = self._draw(2, epoch, number)
            places = runs_drawn(self._ends[number] - begin, self._run(RUN), draw)
            assert known.of is not None
            group = Group(number, epoch, known.blocks, known.of[places], known.there)
            yield group, held, places + np.uint32(begin)

    def _shuffled(
        self, group: Group, draw: np.random.Generator, into: RowArrays
    ) -> tuple[CSR, UInt32Array]:
        """Blocks that others have taken are left out, unless the rows are held for later epochs.
        The order of the others is what it would be with them."""
        blocks = np.array(group.blocks, np.uint32)
        there = self._claims.open(blocks, group.epoch)
        if self._holds:
            there[:] = True
        if not there.all():
            self._source.pass_over(blocks[~there].tolist())
        rows, training = self._read(blocks[there].tolist(), into)
        n_rows = [self._training_rows(number) for number in group.blocks]
        of = np.repeat(np.arange(len(blocks), dtype=np.uint16), n_rows)
        draw = self._draw(3, group.epoch, group.number)
        places = runs_drawn(len(of), self._run(SHUFFLED_RUN), draw)
        if not there.all():
            places = places[there[of[places]]]
            row = np.zeros(len(of), np.uint32)
            row[there[of]] = training
            training = row
        group.of, group.there = of[places], there
        order = training[places]
        if self._holds:
            self._held_groups.append(group)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(order))
        return rows, order

    def _training_rows(self, number: int) -> int:
        """Of a block, which may be asked for each epoch."""
        if not self._holdout.takes_from(number):
            return self._dataset.blocks[number].n_rows
        if number not in self._n_training:
            self._n_training[number] = self.count([number])
        return self._n_training[number]


Learn = Callable[[CSR, UInt32Array], bool]


class SharedEpochs:
    """The epochs of one worker.

    Parameters
    ----------
    shares : the blocks of all workers
    learn : learns from rows in an order; False if the run is stopping
    open_blocks : the mini-batches of some blocks, once over
    block_bytes : of a block once decoded; is_far : whether a server has the blocks
    clock : no share has more updates in an epoch; rows : all shares together

    Attributes
    ----------
    times : spent waiting for other workers' blocks
    """

    def __init__(
        self,
        port: Place,
        claims: Claims,
        stream: SharedMiniBatches,
        shares: Sequence[Sequence[int]],
        learn: Learn,
        open_blocks: Callable[[list[int]], MiniBatches],
        block_bytes: Callable[[int], int],
        *,
        clock: int,
        rows: int,
        is_far: bool,
    ) -> None:
        self._port, self._claims, self._stream = port, claims, stream
        self._shares = [np.array(share, np.uint32) for share in shares]
        self._learn, self._open_blocks, self._block_bytes = learn, open_blocks, block_bytes
        self._clock, self._rows, self._is_far = clock, rows, is_far
        self.times = ReadTimes()
        self._small_share = SMALL_SHARE if stream.rows_wait else TINY_SHARE

    def run(self, epochs: int) -> Iterator[int]:
        """Learns epoch by epoch, and gives the number of each once it is over. Goes on where the
        one before in this worker's place stood."""
        own = self._shares[self._port.worker]
        unit, _ = self._port.unit
        self._claims.look(0)
        mine = self._claims.mine()
        group = None
        if len(mine) and unit > 0:
            first, group = int(self._claims.epochs(mine).min()), unit - 1
        else:
            if len(mine) and not self._take_up(mine, is_known=unit == _OTHERS):
                return
            first = int(self._claims.epochs(own).min()) if len(own) else 0
        for epoch in range(first, epochs):
            began = time.monotonic()
            self._port.begin_epoch(epoch * self._clock)
            over = self._share(epoch, group)
            self._port.rest()
            took = time.monotonic() - began
            over = over and self._rest(epoch, took, is_last=epoch == epochs - 1)
            yield epoch
            if not over:
                return
            group = None

    def _share(self, epoch: int, first: int | None) -> bool:
        """What is left of this worker's own; False if the run is stopping.

        first : the group that the one before in its place was at
        """
        worker, goes_on = self._port.worker, first is not None
        for group, rows, order in self._stream.groups(epoch, first):
            if self._port.stopping:
                return False
            blocks = np.array(group.blocks, np.uint32)
            if not goes_on:
                self._port.leave_unit()
            # No others than were decoded: another may have been done since with one of before.
            assert group.there is not None
            taken = group.there.copy()
            taken[group.there] = self._claims.take(blocks[group.there], epoch)
            if not taken.any():
                goes_on = False
                continue
            done = 0
            if goes_on:
                self._port.go_on(worker)
                done, goes_on = self._port.unit[1], False
            else:
                self._port.begin_unit(group.number + 1, worker)
            if not taken.all():
                assert group.of is not None
                order = order[taken[group.of]]
            if not self._learn(rows, order[done:]):
                return False
            self._claims.done(blocks[taken], epoch)
        return not self._port.stopping

    def _rest(self, epoch: int, took_s: float, *, is_last: bool) -> bool:
        """What others have left, until the epoch is over; False if the run is stopping.

        took_s : what this worker's own share took
        """
        claims, nap = self._claims, self._claims.nap_s
        patience_ends = time.monotonic() + took_s / self._small_share
        meets = self._port.pauses_at((epoch + 1) * self._rows)
        while not self._port.stopping:
            claims.look(epoch)
            mine = claims.mine()
            if len(mine):  # as a server heard late of what the one before had taken, or has lost it
                if not self._take_up(mine, is_known=False):
                    return False
                continue
            # Of the epochs before, some worker has what is not free.
            behind = int(claims.epochs().min())
            if behind > epoch:
                return True
            patient = behind == epoch and time.monotonic() < patience_ends
            chosen = self._choose(behind, leaves_little=patient)
            if chosen is not None:
                if not self._help(*chosen, behind):
                    return False
                nap = claims.nap_s
            elif behind == epoch and not ((is_last or meets) and patient):
                return True
            else:
                time.sleep(nap)
                nap = min(2 * nap, claims.longest_nap_s)
        return False

    def _choose(self, epoch: int, *, leaves_little: bool) -> tuple[int, UInt32Array] | None:
        """(worker, blocks of its share), of the one that has most left; None if nothing is.

        leaves_little : whether what is a small part of a share is left to its worker
        """
        found: tuple[int, UInt32Array] | None = None
        for worker, share in enumerate(self._shares):
            left = share[self._claims.free(share, epoch)]
            little = worker != self._port.worker and self._small_share * len(left) < len(share)
            most = 0 if found is None else len(found[1])
            if len(left) > most and not (little and leaves_little):
                found = worker, left
        if found is None:
            return None
        worker, left = found
        room = self._stream.group_bytes // max(1, self._block_bytes(int(left[-1])))
        n = max(1, min(room, len(left) // 2))
        if self._is_far:  # neighbours, which one request brings
            stretches = np.split(left, np.flatnonzero(np.diff(left) != 1) + 1)
            left = max(reversed(stretches), key=len)
        return worker, left[-n:]

    def _help(self, share: int, blocks: UInt32Array, epoch: int) -> bool:
        self._port.leave_unit()
        blocks = blocks[self._claims.take(blocks, epoch)]
        if not len(blocks):
            return True
        self._port.begin_unit(_OTHERS, share)
        return self._learn_from(blocks, epoch, 0)

    def _take_up(self, blocks: UInt32Array, *, is_known: bool) -> bool:
        """Blocks that the one before in this worker's place had taken.

        is_known : whether it had said so, and how far it was
        """
        epochs = self._claims.epochs(blocks)
        epoch = int(epochs.min())
        blocks = blocks[epochs == epoch]
        share = next(w for w, share in enumerate(self._shares) if blocks[0] in share)
        if is_known:
            self._port.go_on(share)
        else:
            self._port.begin_unit(_OTHERS, share)
        return self._learn_from(blocks, epoch, self._port.unit[1])

    def _learn_from(self, blocks: UInt32Array, epoch: int, done: int) -> bool:
        stream = self._open_blocks(blocks.tolist())
        try:
            for window in stream.epoch(0, done):
                if not self._learn(window.rows, window.order):
                    return False
        finally:
            stream.close()
            self.times.storage_read += stream.times.storage_read
            self.times.decode += stream.times.decode
        if self._port.stopping:
            return False
        self._claims.done(blocks, epoch)
        return True
