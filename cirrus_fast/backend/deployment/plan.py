"""What a command will do to an account, thing by thing, before it does anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cirrus_fast.errors import DeploymentError

CREATE, UPDATE, KEEP, DELETE = "create", "update", "keep", "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing.

    Attributes
    ----------
    what : "function cirrus-fast"
    action : CREATE, UPDATE, KEEP or DELETE
    reason : why
    do : does it; None for what is kept
    """

    what: str
    action: str
    reason: str
    do: Callable[[], object] | None = None


@dataclass(slots=True)
class Plan:
    """Steps in the order in which they are done.

    Attributes
    ----------
    notes : what is worth knowing, in a line each
    policies : by whom they are for: "function", "deployer"
    """

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    policies: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def changes(self) -> list[Step]:
        return [step for step in self.steps if step.action != KEEP]

    def apply(self, tell: Callable[[Step], object] = lambda _step: None) -> None:
        """Does what is to be done; `tell` is called before each step. What was done before an error
        stays, and the same command goes on from there."""
        for step in self.steps:
            tell(step)
            if step.do is None:
                continue
            try:
                step.do()
            except DeploymentError as error:
                error.add_note(f"while going to {step.action} {step.what}")
                raise

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [
                {"what": step.what, "action": step.action, "reason": step.reason}
                for step in self.steps
            ],
            "notes": self.notes,
            "policies": self.policies,
        }
