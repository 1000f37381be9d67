"""When the model is measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cirrus_fast.backend.learning_curve import LearningCurve


def due(n_train: int, every: int, upto: int) -> list[int]:
    plan: Any = SimpleNamespace(n_train=n_train, eval_rows=every)
    store: Any = None
    curve = LearningCurve(plan, store)
    found = [0]
    while found[-1] < upto:
        found.append(curve.next_rows(found[-1]))
    return found[1:]


@pytest.mark.parametrize("n_train", [999_996, 999_999, 1_000_000, 1_000_004, 71])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 10])
def test_parts_of_an_epoch_end_where_it_does(n_train: int, parts: int) -> None:
    rows = due(n_train, max(1, round(n_train / parts)), 50 * n_train)
    assert {n_train * n for n in range(1, 51)} <= set(rows)
    assert rows == sorted(set(rows))
    assert len(rows) == 50 * parts


def test_other_intervals_are_kept() -> None:
    assert due(1000, 300, 1500) == [300, 600, 900, 1200, 1500]
    assert due(1000, 1500, 4500) == [1500, 3000, 4500]
