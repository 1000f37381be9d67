"""Pictures of results, with matplotlib (the extra "plot")."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cirrus_fast.errors import CirrusFastError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cirrus_fast.data.result import TrainResult


def plot_history(
    results: Mapping[str, TrainResult], path: str | os.PathLike[str] | None = None
) -> Figure:
    """Training and test loss over seconds, a pair of lines a result; saved to `path` if given."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CirrusFastError("plots need matplotlib: pip install 'cirrus-fast[plot]'") from error
    # A Figure of its own, not pyplot's: nothing global changes, and no display is needed.
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, result) in enumerate(results.items()):
        seconds = [record.seconds for record in result.history]
        prefix = f"{name}, " if name else ""
        color = f"C{i}"
        train = [record.train_loss for record in result.history]
        axes.plot(seconds, train, color=color, alpha=0.45, label=f"{prefix}training rows")
        if result.test_loss is not None:
            test = [record.test_loss or float("nan") for record in result.history]
            axes.plot(seconds, test, color=color, marker=".", label=f"{prefix}test rows")
    axes.set_xlabel("seconds since the first step")
    axes.set_ylabel("log-loss, nats per row")
    axes.grid(alpha=0.3)
    axes.legend()
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
