"""Pictures of results, with matplotlib (the extra "plot")."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cirrus_fast.data.storage import local_path
from cirrus_fast.errors import CirrusFastError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cirrus_fast.data.result import Record, TrainResult
    from cirrus_fast.data.trials import GridResults, Trial

# The height of the picture is that of the main curves without this first share of their points,
# times what may be added above and below for everything else.
_EARLY_SHARE = 0.2
_ROOM_ABOVE = 4.0
_ROOM_BELOW = 3.0
# Never so close that noise looks like a slope.
_LEAST_HEIGHT = 0.005


def require_matplotlib() -> None:
    """Says how to get matplotlib if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CirrusFastError("plots need matplotlib: pip install 'cirrus-fast[plot]'") from error


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuses, before the work, a picture that could not be drawn after it."""
    require_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    kind = local_path(os.fspath(path)).suffix[1:].lower()
    kinds = FigureCanvasBase.get_supported_filetypes()
    if kind and kind not in kinds:
        raise CirrusFastError(
            f"{os.fspath(path)}: no picture can be written as .{kind}; "
            f"choose one of {', '.join(sorted(kinds))}"
        )


def plot_history(
    results: Mapping[str, TrainResult], path: str | os.PathLike[str] | None = None
) -> Figure:
    """The loss over seconds, saved to `path` if given.

    A line a result: on the test rows, with its best point marked, or on the training rows where
    there are no others. A single result shows both.
    """
    require_matplotlib()
    if path is not None:
        check_picture(path)
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot's: nothing global changes, and no display is needed.
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    alone = len(results) == 1
    main: list[list[float]] = []
    beside: list[list[float]] = []
    for i, (name, result) in enumerate(results.items()):
        color = f"C{i % 10}"
        if result.test_loss is None:
            main.append(_draw_training(axes, name, result, color))
            continue
        if alone:
            beside.append(_draw_training(axes, name, result, "0.6"))
        main.append(_draw_test(axes, name, result, color, note=alone))
    axes.set_ylim(*_limits(main, beside))
    _say_what_leaves(axes, main, beside)
    axes.set_xlabel("seconds since the first step")
    axes.set_ylabel("log-loss, nats per row (lower is better)")
    axes.set_title(_title(results), loc="left", fontsize=12, fontweight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    if path is not None:
        figure.savefig(local_path(os.fspath(path)), dpi=150)
    return figure


def plot_trials(trials: Sequence[Trial], path: str | os.PathLike[str] | None = None) -> Figure:
    """The test losses of a search's trials, or their training losses, over the rows learnt from."""
    require_matplotlib()
    if path is not None:
        check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    curves: list[list[float]] = []
    for i, trial in enumerate(trials):
        if trial.result is None:
            continue
        history = trial.result.history
        tested = trial.result.test_loss is not None
        losses = [r.test_loss for r in history if r.test_loss is not None]
        losses = losses if tested else smoothed(history)
        rows = [r.rows for r in history if r.test_loss is not None or not tested]
        label = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
        axes.plot(rows, losses, color=f"C{i % 10}", marker=".", label=label)
        curves.append([loss for loss in losses if math.isfinite(loss)])
    if not any(curves):
        raise CirrusFastError("there is nothing to plot: every run of the search failed")
    axes.set_ylim(*_limits([curve for curve in curves if curve], []))
    axes.set_xlabel("rows learnt from")
    axes.set_ylabel("log-loss, nats per row (lower is better)")
    axes.set_title(f"The best {len(curves)} models", loc="left", fontsize=12, fontweight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    if path is not None:
        figure.savefig(local_path(os.fspath(path)), dpi=150)
    return figure


def plot_map(
    trials: GridResults, by: Sequence[str], path: str | os.PathLike[str] | None = None
) -> Figure:
    """The best loss at each pair of values of two options that were varied."""
    require_matplotlib()
    if path is not None:
        check_picture(path)
    varied = list(dict.fromkeys(name for trial in trials for name in trial.params))
    names = list(by)
    if isinstance(by, str) or len(names) != 2 or not set(names) <= set(varied):
        raise CirrusFastError(f"by={by!r}: must name two of what was varied: {', '.join(varied)}")
    from matplotlib.figure import Figure

    values = [sorted({trial.params[name] for trial in trials}, key=_order) for name in names]
    cells = [[math.nan] * len(values[1]) for _ in values[0]]
    for trial in reversed(trials):  # the best last
        if math.isfinite(trial.loss):
            i, j = (v.index(trial.params[n]) for v, n in zip(values, names, strict=True))
            cells[i][j] = trial.loss
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    known = sorted(cell for row in cells for cell in row if not math.isnan(cell))
    if not known:
        raise CirrusFastError("there is nothing to plot: every run of the search failed")
    # Losses far up, where learning fails, would leave no colours for the rest.
    top = min(known[-1], known[0] + _ROOM_ABOVE * (known[len(known) // 2] - known[0] or 1.0))
    picture = axes.imshow(cells, aspect="auto", cmap="viridis_r", vmin=known[0], vmax=top)
    for axis, name, given in ((axes.yaxis, names[0], values[0]), (axes.xaxis, names[1], values[1])):
        step = max(1, len(given) // 20)
        axis.set_ticks(range(0, len(given), step), [_short(v) for v in given[::step]])
        axis.set_label_text(name)
    figure.colorbar(picture, label="log-loss, nats per row (darker is better)")
    if path is not None:
        figure.savefig(local_path(os.fspath(path)), dpi=150)
    return figure


def _order(value: Any) -> tuple[str, Any]:
    """Numbers by size, None and text beside them."""
    number = isinstance(value, int | float)
    return ("", value) if number else (type(value).__name__, str(value))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_test(
    axes: Axes, name: str, result: TrainResult, color: str, *, note: bool
) -> list[float]:
    points = [(r.seconds, r.test_loss) for r in result.history if r.test_loss is not None]
    seconds, losses = [p[0] for p in points], [p[1] for p in points]
    label = name if name else "test rows"
    axes.plot(seconds, losses, color=color, marker="o", markersize=4, linewidth=2, label=label)
    best = losses.index(min(losses))
    star = {"marker": "*", "markersize": 17, "markeredgecolor": "white", "linestyle": "none"}
    star |= {"color": "C1", "label": "best model, the one kept"} if note else {"color": color}
    axes.plot(seconds[best], losses[best], zorder=5, **star)  # type: ignore[arg-type]
    if note:
        axes.annotate(
            f"{losses[best]:.4f}",
            (seconds[best], losses[best]),
            xytext=(0, 14),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
    return losses


def _draw_training(axes: Axes, name: str, result: TrainResult, color: str) -> list[float]:
    losses = smoothed(result.history)
    seconds = [record.seconds for record in result.history]
    label = name if name else "training rows, as they come by"
    axes.plot(seconds, losses, color=color, marker=".", markersize=3, linewidth=1.5, label=label)
    return [loss for loss in losses if math.isfinite(loss)]


def smoothed(history: Sequence[Record]) -> list[float]:
    """The training loss averaged by rows over each record and its neighbours: what a record has is
    the mean over the few rows since the one before, which jumps about."""
    rows = [history[0].rows, *(b.rows - a.rows for a, b in pairwise(history))]
    means = []
    for i in range(len(history)):
        near = range(max(0, i - 1), min(i + 2, len(history)))
        known = [k for k in near if rows[k] > 0 and math.isfinite(history[k].train_loss)]
        total = sum(rows[k] for k in known)
        loss = sum(rows[k] * history[k].train_loss for k in known)
        means.append(loss / total if total else math.nan)
    return means


def _limits(
    main: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Limits that show where the main curves end up; a high start, or a curve beside them that
    goes far down, may leave the picture."""
    later = [loss for curve in main for loss in curve[math.ceil(len(curve) * _EARLY_SHARE) :]]
    later = later or [loss for curve in main for loss in curve]
    everything = [loss for curve in (*main, *beside) for loss in curve]
    height = max(max(later) - min(later), _LEAST_HEIGHT * min(later), 1e-9)
    low = max(min(everything), min(later) - _ROOM_BELOW * height)
    high = min(max(everything), max(later) + _ROOM_ABOVE * height)
    edge = 0.1 * (high - low) or height
    return low - edge, high + edge


def _say_what_leaves(
    axes: Axes, main: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]
) -> None:
    low, high = axes.get_ylim()
    start = max(curve[0] for curve in main)
    end = min(loss for curve in (*main, *beside) for loss in curve)
    style: dict[str, Any] = {"xycoords": "axes fraction", "color": "0.4", "fontsize": 9}
    if start > high:
        axes.annotate(f"starts at {start:.3g}", (0.01, 0.98), va="top", **style)
    if end < low:
        axes.annotate(
            f"training loss falls to {end:.3g}", (0.99, 0.02), ha="right", va="bottom", **style
        )


def _title(results: Mapping[str, TrainResult]) -> str:
    if len(results) != 1:
        return f"Loss of {len(results)} models while they train"
    (result,) = results.values()
    took = f"{result.seconds:.3g} s, {result.rows_processed:,} rows"
    if result.test_loss is None:
        return f"Training loss over {took}"
    auc = "" if result.auc is None else f", AUC {result.auc:.3f}"
    stopped = {"epochs": "done", "threshold_loss": "good enough"}.get(
        result.stop_reason, result.stop_reason
    )
    return f"Test loss {result.test_loss:.4f}{auc}: {stopped} after {took}"
