"""What a worker says of the blocks it is at, wherever it says it: members of its record
(`local.SLOT`)."""

from __future__ import annotations

from typing import Any


class Place:
    """Where one worker is.

    Attributes
    ----------
    worker : whose place it is
    """

    worker: int
    _slot: Any  # of local.SLOT
    _helps: int | None = None  # whose share the blocks are of that it is at; None: its own

    @property
    def fenced(self) -> bool:
        """Whether a later generation has taken this worker's place."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """Whether it is to begin no more rows."""
        raise NotImplementedError

    def pauses_at(self, rows: float) -> bool:  # noqa: ARG002
        """Whether the workers are copied from while none learns, after so many rows of all."""
        return False

    @property
    def unit(self) -> tuple[int, int]:
        """(what this worker was at when it, or the one before it in its place, last said; rows of
        it that are done)"""
        return int(self._slot["unit"]), int(self._slot["unit_rows"])

    def begin_epoch(self, clock: int) -> None:
        """clock : where all workers' clocks stand at its beginning"""
        if not self.fenced:
            slot = self._slot
            slot["clock_base"] = clock - slot["updates"] - self._helped
            slot["resting"] = 0

    @property
    def _helped(self) -> int:
        """Updates that others made with this worker's share."""
        return 0

    def rest(self) -> None:
        """This worker is done with its share of the epoch."""
        if not self.fenced:
            self._slot["resting"] = 1

    def leave_unit(self) -> None:
        """Before other blocks are taken."""
        if not self.fenced:
            self._slot["unit"] = 0

    def begin_unit(self, unit: int, share: int) -> None:
        """share : of which worker the blocks are that were taken"""
        if self.fenced:
            return
        self.go_on(share)
        slot = self._slot
        slot["unit_base"] = slot["rows"]
        slot["unit_rows"] = 0
        slot["unit"] = unit  # last: what it promises is in place

    def go_on(self, share: int) -> None:
        """With the unit that the one before in its place had begun."""
        self._helps = None if share == self.worker else share
