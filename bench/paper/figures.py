"""The paper's figures, and those of any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.paper.learning import Point
from bench.paper.phases import PHASES
from bench.paper.places import CLOUD, SERVER_RATE
from bench.paper.results import TEN, Results
from bench.paper.systems import SYSTEMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ("milliseconds", "microseconds")
_PHASE_COLORS = dict(
    zip(PHASES, ("0.75", "C0", "C9", "C1", "C2", "C3", "0.5"), strict=True)
)  # fmt: skip
_COLORS = dict(zip(SYSTEMS, ("C7", "C5", "C6", "C8", "C4", "C0", "C9", "C3", "C1"), strict=True))


def draw(results: Results, folder: Path) -> list[str]:
    """Writes the pictures; returns their names."""
    drawn: dict[str, Callable[[Results, Any], None]] = {
        "figure0.png": _storage,
        "figure_a.png": _losses,
        "figure_b.png": _optimisations,
        "figure_c.png": _phases,
        "workers.png": _workers,
        "servers.png": _servers,
    }
    from matplotlib.figure import Figure

    for name, draw_one in drawn.items():
        wide = name in ("figure_a.png", "figure_c.png", "workers.png")
        figure = Figure(
            figsize=(11 if wide else 8, 8 if name == "workers.png" else 4.6), layout="constrained"
        )
        draw_one(results, figure)
        figure.savefig(folder / name, dpi=110)
    return list(drawn)


def _plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _storage(results: Results, figure: Any) -> None:
    """(0) What concurrent functions take out of storage."""
    assert CLOUD.rate is not None
    axes = figure.subplots()
    axes.loglog(
        results.workers,
        [n * CLOUD.rate / 1e9 for n in results.workers],
        "C0o-",
        label="S3, their links",
    )
    name = "workers-model"
    if name in results.measured:
        costs = results.far_costs[name, SYSTEMS[name].size]
        moved = costs.store_up + costs.store_down
        taken = [results.simulated(name, n).steps_a_second * moved / 1e9 for n in results.workers]
        axes.loglog(
            results.workers, taken, "C1o-", label="Redis, models by GET and SET (simulated)"
        )
    axes.axhline(2 * SERVER_RATE / 1e9, color="0.6", ls=":", label="both ways of a server's link")
    _plain(axes, "(0) Storage throughput", "concurrent functions", "GB/s")
    axes.legend(frameon=False)


def _losses(results: Results, figure: Any) -> None:
    """(a) over seconds and over dollars."""
    left, right = figure.subplots(1, 2, sharey=True)
    lowest = 1.0
    for label, color, points, dollars_a_second, fixed in _contenders(results):
        if not points:
            continue
        lowest = min(lowest, *(loss for _, loss in points))
        style = {"label": label, "color": color, "marker": "o" if len(points) == 1 else None}
        left.plot([s for s, _ in points], [loss for _, loss in points], **style)
        right.plot(
            [fixed + s * dollars_a_second for s, _ in points], [loss for _, loss in points], **style
        )
    for axes, x in ((left, "seconds since the call, from text on a VM"), (right, "dollars")):
        for target in results.targets:
            axes.axhline(target, color="0.7", lw=0.8, ls=":")
        axes.set_xscale("log")
        _plain(axes, f"(a) Test log-loss over {x.split()[0]}", x, "log-loss, nats per row")
    left.set_ylim(lowest - 0.002, results.targets[0] + 0.03)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center",
                  ncols=3)  # fmt: skip


_Contender = tuple[str, str, list[Point] | None, float, float]


def _contenders(results: Results) -> Iterable[_Contender]:
    """(label, colour, (seconds, loss), dollars a second, dollars besides)"""
    for name in ("pywren", "workers-model", "workers-sparse", "sync", "module"):
        if name not in results.measured:
            continue
        size = SYSTEMS[name].size
        curve = results.curve(name, TEN, size)
        if curve is None:
            continue
        start, rate = results.start_s(name), results.rows_a_second(name, TEN)
        points = [(start + rows / rate, loss) for rows, loss in curve]
        rows = curve[-1][0]
        whole = results.dollars(name, TEN, size, start + rows / rate, rows)
        label = f"{SYSTEMS[name].short}, {TEN} functions".replace("\n", " ")
        yield label, _COLORS[name], points, whole / (start + rows / rate), 0.0
    for name, label, color in (
        ("bosen", "Bösen's design, VM", "k"),
        ("bosen-digits", "Bösen, digits by hand", "C1"),
        ("vowpal", "Vowpal Wabbit, VM", "C2"),
        ("scikit-learn", "scikit-learn SGD, VM", "C8"),
    ):
        yield label, color, results.points(name), results.vm_second, 0.0
    alone = results.curves.curve(0)
    if "text" in results.kernels and alone:
        rate = results.kernels["text"]
        points = [(rows / rate, loss) for rows, loss in alone]
        yield "cirrus_fast's kernels, VM", "navy", points, results.vm_second, 0.0


def _optimisations(results: Results, figure: Any) -> None:
    """(b) What each step away from the plain port brings."""
    axes = figure.subplots()
    names = [name for name in SYSTEMS if name in results.measured]
    rates = [results.updates_a_second(name, TEN) for name in names]
    bars = axes.bar([SYSTEMS[name].short for name in names], rates,
                    color=[_COLORS[name] for name in names])  # fmt: skip
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], fontsize=8)
    axes.set_yscale("log")
    axes.tick_params(axis="x", labelsize=7)
    _plain(axes, f"(b) Updates a second of {TEN} emulated Lambdas (simulated)", "", "updates/s")


def _phases(results: Results, figure: Any) -> None:
    """(c) Where a worker's time goes."""
    names = [name for name in SYSTEMS if name in results.measured]
    halves = [n for n in names if not SYSTEMS[n].is_ours], [n for n in names if SYSTEMS[n].is_ours]
    drawn = zip(figure.subplots(1, 2), halves, (1e3, 1e6), _UNITS, strict=True)
    for axes, shown, unit, text in drawn:
        left = [0.0] * len(shown)
        for phase in PHASES:
            runs = [results.one(name, "cloud") for name in shown]
            each = [unit * one.wall[phase] * one.steps / one.updates for one in runs]
            axes.barh(range(len(shown)), each, left=left, color=_PHASE_COLORS[phase],
                      label=phase.replace("_", " "))  # fmt: skip
            left = [a + b for a, b in zip(left, each, strict=True)]
        for row, whole in enumerate(left):
            axes.text(whole, row, f" {whole:,.0f}", va="center", fontsize=8)
        axes.set_xlim(0, 1.2 * max(left, default=1))
        axes.set_yticks(range(len(shown)), [SYSTEMS[name].short for name in shown], fontsize=9)
        axes.invert_yaxis()
        _plain(axes, "", f"{text} per mini-batch", "")
    figure.suptitle("(c) Where the time of a worker in the emulated cloud goes", fontsize=11,
                    fontweight="bold", x=0.01, ha="left")  # fmt: skip
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=7, fontsize=9)


def _workers(results: Results, figure: Any) -> None:
    """Throughput, time and cost by the number of workers."""
    grid = figure.subplots(2, 2)
    target = results.targets[0]
    for name in SYSTEMS:
        if name not in results.measured:
            continue
        style = {"color": _COLORS[name], "marker": ".",
                 "label": SYSTEMS[name].short.replace("\n", " ")}  # fmt: skip
        grid[0, 0].loglog(
            results.workers, [results.updates_a_second(name, n) for n in results.workers], **style
        )
        grid[0, 1].loglog(
            results.workers, [results.rows_a_second(name, n) for n in results.workers], **style
        )
        found = [one for n in results.workers if (one := results.to_loss(name, target, n))]
        n = [one.n_workers for one in found]
        grid[1, 0].loglog(n, [one.seconds for one in found], **style)
        grid[1, 1].loglog(n, [one.dollars for one in found], **style)
    _plain(grid[0, 0], "Updates a second", "workers", "")
    _plain(grid[0, 1], "Rows a second", "workers", "")
    _plain(grid[1, 0], f"Seconds to log-loss {target:.4f}", "workers", "")
    _plain(grid[1, 1], f"Dollars to log-loss {target:.4f}", "workers", "")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), frameon=False, ncols=5,
                  loc="outside lower center", fontsize=9)  # fmt: skip


def _servers(results: Results, figure: Any) -> None:
    """Rows a second of the module by workers and servers of the model."""
    axes = figure.subplots()
    for name, style in (("module", "o-"), ("module-20", "s--")):
        if name not in results.measured:
            continue
        for i, n_ps in enumerate(results.servers):
            rates = [results.rows_a_second(name, n, n_ps=n_ps) / 1e6 for n in results.workers]
            label = f"{SYSTEMS[name].size} rows, n_ps={n_ps}"
            axes.loglog(results.workers, rates, style, color=f"C{i}", label=label, ms=4)
    _plain(axes, "The module on several servers (simulated)", "workers", "M rows/s")
    axes.legend(frameon=False, fontsize=8, ncols=2)
