"""Bulk-synchronous steps: all workers' gradients, one optimiser step, nobody ahead.

In a round each active worker puts its mini-batch's gradient into its part of the exchange and says
so (`ready`). The first active worker leads: when all are ready it sums the gradients in the order
of the workers, makes one step, marks whose gradients went in (`merged`), counts their rows, and
opens the next round. So n workers with mini-batches of m rows learn as one with n * m rows would,
bit for bit the same each time.

Who leads and who is waited for follows from the slots alone, looked at again and again, so a worker
that dies (the supervisor then marks its slot) holds nobody up.
"""

from __future__ import annotations

import time

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.runtime.claims import NAP_S
from cirrus_fast.runtime.params.local import ACTIVE, FINISHED, Port


class Rounds:
    """One worker's part in the rounds."""

    def __init__(self, port: Port, model: _kernels.TrainModel) -> None:
        self._port = port
        self._store = port.store
        self._model = model
        self._slot = self._store.slots[port.worker]
        room = self._store.layout.room * self._store.layout.n_workers
        self._scratch = make_scratch(self._store.layout.n_ids, room)

    def step(
        self, n_rows: int, n_ids: int, intercept: float, loss: float, weight: float, rate: float
    ) -> bool:
        """Hands in the gradient that lies in this worker's exchange, and waits until it is part of
        the model. False: the run is stopping, and it is not."""
        slot, control = self._slot, self._store.control
        slot["batch_rows"], slot["batch_ids"] = n_rows, n_ids
        slot["batch_loss"], slot["batch_weight"] = loss, weight
        slot["batch_intercept"] = intercept
        while True:
            current = int(control["round"]) + 1
            slot["ready"] = current  # last: what it promises is in place
            while int(control["round"]) < current:
                if self._port.stopping:
                    return False
                if self._leads(current):
                    self._merge(current, rate)
                else:
                    time.sleep(NAP_S / 4)
            # A worker that joined while the round was being merged hands in again.
            if int(slot["merged"]) == current:
                return True

    def _leads(self, current: int) -> bool:
        """Whether this worker is the one to merge, and all are ready."""
        slots = self._store.slots
        running = np.flatnonzero(slots["state"] != FINISHED)
        return bool(
            running[0] == self._port.worker
            and (slots["state"][running] == ACTIVE).all()
            and (slots["ready"][running] == current).all()
        )

    def _merge(self, current: int, rate: float) -> None:
        store = self._store
        members = np.flatnonzero(
            (store.slots["state"] == ACTIVE) & (store.slots["ready"] == current)
        )
        counts = store.slots["batch_ids"][members]
        pairs = list(zip(members.tolist(), counts.tolist(), strict=True))
        ids = np.concatenate([store.exchange_ids[w, :n] for w, n in pairs])
        gradient = np.concatenate([store.exchange_values[w, 0, :n] for w, n in pairs])
        touches = np.concatenate([store.exchange_values[w, 1, :n] for w, n in pairs])
        self._model.apply(
            ids,
            gradient,
            touches,
            float(store.slots["batch_intercept"][members].sum()),
            self._scratch,
            rows_seen=float(store.rows),
            rate=rate,
        )
        for worker, _ in pairs:
            slot = store.slots[worker]
            slot["loss_sum"] += slot["batch_loss"]
            slot["weight_sum"] += slot["batch_weight"]
            slot["updates"] += 1
            slot["rows"] += slot["batch_rows"]
            slot["granted"] = 0
            slot["merged"] = current
        store.control["round"] = current


def make_scratch(n_ids: int, room: int) -> _kernels.TrainScratch:
    """Scratch for mini-batches of up to `room` entries."""
    return _kernels.TrainScratch(
        np.zeros(n_ids, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room + 1, np.uint32),
        np.empty(room, np.float32),
        np.empty(room, np.float32),
        np.empty(room, np.float32),
    )
