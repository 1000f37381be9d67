"""What a worker that learns on a copy has moved, added up by servers with our module.

To them the model is one of sgd at rate 1, and each push the gradient that makes a worker's moves of
it. So steps carry them (module.py), several thousand weights in one piece: counted once, sent again
when an answer is lost, and answered with the weights that the worker's next interval needs.

A piece of half a megabyte is more than goes into a connection before its other end has read, and
on a busy machine that takes a while. So a thread packs, sends and receives, while the worker learns
from its next interval: kernels and sockets do without the interpreter's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread

import numpy as np

from cirrus_fast._kernels import Replica, StepBatch, Stepper
from cirrus_fast.data.csr import UInt32Array
from cirrus_fast.runtime.params.bitfield import MOST_AT_ONCE, Int32Array
from cirrus_fast.runtime.params.module import ModuleShard, Steps, Stopped

# How long the end waits for a server that is away.
_FAREWELL_S = 2.0


class Request:
    """One exchange under way.

    Attributes
    ----------
    add, amounts, learnt : what is to be pushed, and what it was learnt from
    ids : whose weights are read, and with them the intercept
    sent_then : what had been sent for each of those, the intercept last
    own : pushes of this worker's, this one included
    count : pushes that the model had when it was answered
    """

    def __init__(
        self,
        add: UInt32Array,
        amounts: Int32Array,
        learnt: tuple[int, float, float],
        ids: UInt32Array,
        sent_then: UInt32Array | None,
        own: int,
    ) -> None:
        self.add, self.amounts, self.learnt = add, amounts, learnt
        self.ids, self.sent_then, self.own = ids, sent_then, own
        self.adds = len(add) > 0
        self.count, self.settled = 0, False
        self.pulled: StepBatch | None = None  # with its weights, once it is answered
        self.error: BaseException | None = None
        self.answered = Event()


class MovesExchange:
    """A worker's traffic with the servers, several requests under way at once.

    Attributes
    ----------
    bounded : weights that were found beyond what the copy can hold
    """

    doubtful = 0  # the servers take nothing twice

    def __init__(
        self,
        replica: Replica,
        shards: Sequence[ModuleShard],
        worker: int,
        generation: int,
        n_workers: int,
    ) -> None:
        self._replica, self._sent = replica, np.asarray(replica.sent)
        n_ids = len(self._sent) - 1
        self._stepper = Stepper(n_ids, len(shards))
        self._shards = shards
        # None of these steps waits for other workers.
        self._steps = Steps(shards, self._stepper, worker, generation, lambda: False)
        self._under_way: deque[Request] = deque()
        self._spare: SimpleQueue[StepBatch] = SimpleQueue()
        self._own = self.bounded = 0
        alone = n_workers == 1 and n_ids <= MOST_AT_ONCE
        self._every_id = np.arange(n_ids + 1, dtype=np.uint32) if alone else None
        # How often servers had come back with an older model by the time when it read all.
        self._read_at = -1
        self._failure: BaseException | None = None  # nothing is asked any more
        self._asked: SimpleQueue[Request | None] = SimpleQueue()
        self._thread: Thread | None = None

    @property
    def n_under_way(self) -> int:
        return len(self._under_way)

    @property
    def rollbacks(self) -> int:
        return self._steps.rollbacks

    @property
    def lost(self) -> int:
        return self._steps.lost

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        return self._steps.traffic

    def submit(
        self,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,
        *,
        ahead: bool,
        learnt: tuple[int, float, float] = (0, 0.0, 0.0),
    ) -> Request:
        """Has sent what is to be added, and asked for the weights of `read`, whose last is the
        intercept; does not wait. The arrays must stay as they are.

        ahead : whether more may be sent before this is answered
        learnt : rows that the moves were learnt from, sums of their losses and weights
        """
        self._own += len(add) > 0
        if self._every_id is not None:
            known = self._read_at == self._steps.rollbacks
            self._read_at = self._steps.rollbacks
            read = self._every_id[:0] if known else self._every_id
        sent_then = self._sent[read] if ahead and len(read) else None
        request = Request(add, amounts, learnt, read[:-1], sent_then, self._own)
        self._under_way.append(request)
        self._asked.put(request)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="cirrus-moves", daemon=True)
            self._thread.start()
        return request

    def settle(self) -> Request:
        """Waits for the oldest request under way, and takes over what the servers have."""
        request = self._under_way.popleft()
        request.answered.wait()
        if request.error is not None:
            raise request.error
        pulled = request.pulled
        assert pulled is not None
        if pulled.n:
            self.bounded += self._replica.take_over(pulled, request.sent_then)
        request.count, request.settled, request.pulled = pulled.n_updates, True, None
        self._spare.put(pulled)
        return request

    def close(self) -> None:
        """What is under way is given up."""
        if self._thread is None:
            return
        self._failure = self._failure or Stopped()
        self._asked.put(None)
        for shard in self._shards:
            shard.link.interrupt()
        self._thread.join(_FAREWELL_S)

    def _run(self) -> None:
        while (request := self._asked.get()) is not None:
            try:
                if self._failure is None:
                    self._exchange(request)
            except BaseException as error:
                self._failure = error
            request.error = self._failure
            request.answered.set()

    def _exchange(self, request: Request) -> None:
        pushed = None
        if request.adds:
            pushed = self._batch()
            n_rows, loss, weight = request.learnt
            self._replica.give(
                pushed, request.add, request.amounts, n_rows=n_rows, loss=loss, weight=weight
            )
        pulled = self._batch()
        pulled.choose(request.ids)
        self._steps.submit(pushed, pulled, 1.0)
        self._steps.settle(pulled)
        request.pulled = pulled
        if pushed is not None:
            self._spare.put(pushed)

    def _batch(self) -> StepBatch:
        with suppress(Empty):
            return self._spare.get_nowait()
        return StepBatch(self._stepper)
