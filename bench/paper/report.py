"""RESULTS.md: what was measured, what follows, and which claims hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from bench.ladder import markdown
from bench.paper.experiment import Experiment
from bench.paper.phases import PHASES
from bench.paper.places import WORKER_MB
from bench.paper.results import (
    BOOT_S,
    LEAST_BILLED_S,
    SANDBOX_S,
    STORE_NODE,
    TEN,
    VM_NODE,
    Compared,
    Reached,
    Results,
    billed_vm_s,
)
from bench.paper.systems import ROWS_UNDER_WAY, SYSTEMS
from cirrus_fast.errors import CirrusFastError
from cirrus_fast.plots import require_matplotlib

Rows = Iterator[list[str]]


def write(experiment: Experiment) -> Path:
    """RESULTS.md and the pictures, of what is kept."""
    results = Results(experiment)
    folder = experiment.settings.folder
    try:
        require_matplotlib()
    except CirrusFastError as error:
        pictures, note = [], f"No pictures: {error}."
    else:
        from bench.paper.figures import draw

        pictures, note = draw(results, folder), ""
    sections = [
        _head(results, experiment),
        "\n".join(f"![{name.removesuffix('.png')}]({name})" for name in pictures) or note,
        "## Claims\n\n" + markdown(list(_claims(results))),
        "## Systems\n\n" + _SYSTEMS_TEXT + "\n\n" + markdown(list(_systems(results))),
        "## One machine\n\n" + _VM_TEXT + "\n\n" + markdown(list(_machine(results))),
        "## Where a worker's time goes (c)\n\nMeasured: one worker over emulated links, "
        "microseconds per mini-batch.\n\n" + markdown(list(_phases(results))),
        "## By the number of workers\n\nSimulated, with one server of models; in brackets what is "
        "busiest, and how much of the time.\n\n" + markdown(list(_by_workers(results))),
        "## Servers of models\n\nSimulated: rows a second, in millions, mini-batches of 200 / of "
        "20.\n\n" + markdown(list(_by_servers(results))),
        "## Where serverless overtakes our own kernels on the VM\n\n" + _CROSSING_TEXT + "\n\n"
        + markdown(list(_crossings(results))),
        "## Dollars against a VM\n\n" + _dollars(results),
        "## Simulated beside real\n\n" + _simulated_text(results) + "\n\n"
        + markdown(list(_errors(results))),
        "## How the loss falls with workers\n\n" + _learning(results),
    ]  # fmt: skip
    path = folder / "RESULTS.md"
    path.write_text("\n\n".join(sections) + "\n")
    return path


_SYSTEMS_TEXT = (
    "Ten emulated Lambdas. Rates are simulated from what one worker was measured to need; the loss "
    "by rows seen is measured. Times count from the call: long-lived workers begin cold, functions "
    "of one mini-batch are warm. Where workers overwrite each other's model one of ten updates "
    "survives. Baselines take the better of mini-batches of 200 and 1,000 rows to a loss."
)
_VM_TEXT = (
    "Two cores, measured, from the text in the page cache on. Dollars are of the seconds alone. "
    "Vowpal Wabbit and scikit-learn are given scaled rows; Bösen's design and ours scale them."
)
_CROSSING_TEXT = (
    "Our kernels run on the VM's two cores, from text that is there already, or from a data set "
    "(its rows decoded as they come). Functions begin cold and read from S3. A larger data set is "
    "taken to need as many passes. From how many rows on are n functions done first?"
)


def _head(results: Results, experiment: Experiment) -> str:
    machine = results.machine
    quick = " **A quick run: its figures mean little.**" if experiment.settings.quick else ""
    given = " ".join(f"{target:.4f}" for target in results.targets)
    return (
        "# The paper's evaluation\n\n"
        f"Made by `python -m bench.paper --output DIR --targets {given}`; how to read it: "
        f"docs/experiment.md.{quick}\n\n"
        f"* Machine: {machine['cpu']}; kernels `{machine['kernels']}`; {machine['when']}\n"
        f"* Rows: {machine['rows']}\n"
        f"* A Lambda of {WORKER_MB} MB: 0.55 ms to Redis, 30 ms to S3's first byte, 75 MB/s each "
        f"way. Cold start to the first gradient {_seconds(machine['cold_s'])} as measured over "
        f"these links, and {SANDBOX_S} s assumed for AWS to make a sandbox; in a warm one "
        f"{_seconds(machine['warm_s'])}; a warm call {_milli(machine['invocation_s'])}\n"
        f"* Two busy cores of this machine are each {machine['together']:.2f} as fast as one alone"
    )


def _claims(results: Results) -> Rows:
    yield ["claim", "reach", "found", ""]
    ours = results.updates_a_second("module", TEN) if "module" in results.measured else None
    near, _ = results.targets
    for what, name, wanted in (
        ("updates/s against plain PyWren style", "pywren", 100),
        ("updates/s against whole-model Redis, a function per mini-batch", "pywren-redis", 50),
        ("updates/s against whole-model Redis, long-lived workers", "workers-model", 50),
    ):
        if ours and name in results.measured:
            other = results.updates_a_second(name, TEN)
            yield _claim(what, ours / other, wanted, f"{ours:,.0f} against {other:,.1f} updates/s")
    best = results.to_loss("module", near, TEN) if ours else None
    for name, text in (
        ("bosen", "Bösen's design on a VM (v-a)"),
        ("bosen-digits", "the same with digits parsed by hand"),
    ):
        seconds = results.seconds_to(results.points(name), near)
        if best and seconds:
            cold, warm = (results.start_s("module", warm=warm) for warm in (False, True))
            learning = best.seconds - cold
            for there, start, boot in (
                ("both are there: sandboxes warm, the VM running", warm, 0.0),
                ("neither is there: the VM boots", cold, BOOT_S),
                ("sandboxes cold, the VM running", cold, 0.0),
            ):
                ours_s, vm_s = start + learning, boot + seconds
                yield _claim(
                    f"time to {near:.4f} against {text}; {there}", vm_s / ours_s, 3.75,
                    f"{ours_s:.2f} s against {vm_s:.2f} s",
                )  # fmt: skip
    for which, seconds in ((k, results.kernels_to(k, near)) for k in results.kernels):
        if best and seconds:
            yield [
                f"time to {near:.4f} against our kernels on the VM, from {_from(which)} (v-b, x)",
                "stated",
                f"{seconds / best.seconds:.2f}x: {best.seconds:.2f} s against {seconds:.2f} s",
                "crossover below",
            ]
    vowpal = _vowpal(results)
    if vowpal is not None:
        loss, seconds, best = vowpal
        dollars = seconds * results.vm_second
        yield [
            f"dollars to {loss:.4f} against Vowpal Wabbit on a VM", "stated",
            f"${best.dollars:.6f} against ${dollars:.6f} of the VM's seconds alone, "
            f"{best.dollars / dollars:.1f}x as much", "break-even below",
        ]  # fmt: skip


def _vowpal(results: Results) -> tuple[float, float, Reached] | None:
    """(log-loss, its seconds, ours) to the first target, or where it does not get there, to the
    best that it does."""
    points = results.points("vowpal")
    if not points or "module" not in results.measured:
        return None
    loss = max(results.targets[0], math.ceil(1e4 * min(loss for _, loss in points)) / 1e4)
    seconds, best = results.seconds_to(points, loss), results.to_loss("module", loss, TEN)
    return None if seconds is None or best is None else (loss, seconds, best)


def _claim(what: str, found: float, wanted: float, note: str) -> list[str]:
    verdict = "reached" if found >= wanted else f"short by {1 - found / wanted:.0%}"
    return [what, f">= {wanted:g}x", f"{found:,.1f}x: {note}", f"**{verdict}**"]


def _systems(results: Results) -> Rows:
    near, far = results.targets
    yield ["system", "updates/s", "M rows/s", "$ an epoch", f"s to {near:.4f}", "$",
           f"s to {far:.4f}", "$"]  # fmt: skip
    for name, system in SYSTEMS.items():
        if name not in results.measured:
            continue
        row = [f"({system.number}) {system.text}", _number(results.updates_a_second(name, TEN)),
               f"{results.rows_a_second(name, TEN) / 1e6:.3g}",
               _dollar(results.cost_of_epoch(name, TEN))]  # fmt: skip
        for target in (near, far):
            found = results.to_loss(name, target, TEN)
            row += [_seconds(found and found.seconds), _dollar(found and found.dollars)]
        yield row
    yield ["(vii) the original Cirrus's own server, loopback, 10 workers, 200 rows (measured "
           "before, 39 entries a row)", "3,374", "0.67", *["-"] * 5]  # fmt: skip


def _machine(results: Results) -> Rows:
    near, far = results.targets
    yield ["on the VM", "M rows/s", f"s to {near:.4f}", "$", f"s to {far:.4f}", "$", "best loss"]
    for name, text in (
        ("bosen", "(v-a) Bösen's design, numbers by strtol and strtod as published"),
        ("bosen-digits", "(v-a) the same, digits by hand"),
        ("vowpal", "(vi) Vowpal Wabbit, one pass"),
        ("scikit-learn", "(vi) scikit-learn SGD, averaged, our parser"),
    ):
        points = results.points(name)
        if points is None:
            yield [text, "not installed" if name in ("vowpal", "scikit-learn") else "not measured",
                   *["-"] * 5]  # fmt: skip
            continue
        row = [text, "-"]
        for target in (near, far):
            seconds = results.seconds_to(points, target)
            row += [_seconds(seconds), _dollar(seconds and seconds * results.vm_second)]
        yield [*row, f"{min(loss for _, loss in points):.4f}"]
    alone = results.curves.curve(0)
    for which, rate in results.kernels.items():
        row = [f"({'v-b' if which == 'text' else 'x'}) cirrus_fast in memory, from {_from(which)}",
               f"{rate / 1e6:.2f}"]  # fmt: skip
        for target in (near, far):
            seconds = results.kernels_to(which, target)
            row += [_seconds(seconds), _dollar(seconds and seconds * results.vm_second)]
        yield [*row, f"{min(loss for _, loss in alone or []):.4f}"]


def _phases(results: Results) -> Rows:
    yield ["system", *(phase.replace("_", " ") for phase in PHASES), "sum"]
    for name in results.measured:
        one = results.one(name, "cloud")
        each = [1e6 * one.wall[phase] * one.steps / one.updates for phase in PHASES]
        yield [SYSTEMS[name].text, *map(_number, each), _number(sum(each))]


def _by_workers(results: Results) -> Rows:
    yield ["updates/s", *map(str, results.workers)]
    for name in results.measured:
        row = [SYSTEMS[name].text]
        for n in results.workers:
            found = results.simulated(name, n)
            busy = found.busy[found.saturated]
            row.append(
                f"{_number(results.updates_a_second(name, n))} ({found.saturated} {busy:.0%})"
            )
        yield row
    near = results.targets[0]
    yield [f"**seconds to {near:.4f}, dollars**", *[""] * len(results.workers)]
    for name in results.measured:
        cells = [results.to_loss(name, near, n) for n in results.workers]
        yield [
            SYSTEMS[name].text,
            *(f"{one.seconds:.3g} s, {_dollar(one.dollars)}" if one else "not" for one in cells),
        ]


def _by_servers(results: Results) -> Rows:
    yield ["n_ps, by workers", *map(str, results.workers)]
    for n_ps in results.servers:
        yield [
            str(n_ps),
            *(
                " / ".join(
                    f"{results.rows_a_second(name, n, n_ps=n_ps) / 1e6:.2f}"
                    for name in ("module", "module-20")
                    if name in results.measured
                )
                for n in results.workers
            ),
        ]


def _crossings(results: Results) -> Rows:
    near = results.targets[0]
    yield ["functions", "M rows/s at best", "n_ps",
           *(f"done before the VM, from {_from(which)}" for which in results.kernels)]  # fmt: skip
    for n in results.workers:
        best = results.best_rate(n, near) if "module" in results.measured else None
        if best is None:
            yield [str(n), "the loss is not reached: too many rows under way", "-",
                   *["never"] * len(results.kernels)]  # fmt: skip
            continue
        rate, name, n_ps = best
        cells = []
        for which in results.kernels:
            rows = results.crossover(n, which, near)
            cells.append("never" if rows is None else f"from {rows / 1e6:,.1f} M rows on")
        yield [str(n), f"{rate / 1e6:.2f} ({SYSTEMS[name].size} rows)", str(n_ps), *cells]


def _dollars(results: Results) -> str:
    found = _vowpal(results)
    if found is None:
        return "Not measured: it takes the module and Vowpal Wabbit."
    loss, vowpal, best = found
    start = results.start_s("module")
    # Both in proportion to the rows, but for the start.
    per_row = (best.seconds - start) / results.n_rows
    dollars_a_second = best.dollars / best.seconds
    vm_row = vowpal / results.n_rows

    def functions(rows: float) -> float:
        return (start + per_row * rows) * dollars_a_second

    sizes = [results.n_rows * 1.25**i for i in range(60)]
    cheaper = [n for n in sizes if functions(n) < billed_vm_s(vm_row * n) * results.vm_second]
    until = (
        f"up to {max(cheaper) / 1e6:,.0f} M rows" if len(cheaper) < len(sizes) and cheaper
        else ("for any size" if cheaper else "at no size")
    )  # fmt: skip
    day = 86_400
    functions_only = best.dollars - best.seconds * results.store_second
    bursts = (results.vm_second - results.store_second) * day / functions_only
    return (
        f"A burst (one training of {results.n_rows:,} rows to {loss:.4f}) by {TEN} functions and "
        f"one {STORE_NODE} takes {best.seconds:.2f} s and ${best.dollars:.6f}, of it "
        f"${functions_only:.6f} for functions; Vowpal Wabbit on a {VM_NODE} that runs anyway "
        f"takes {vowpal:.2f} s, ${vowpal * results.vm_second:.6f}.\n\n"
        f"* **In data size**: a VM that is started for the burst (boots {BOOT_S:.0f} s, billed "
        f"{LEAST_BILLED_S:.0f} s at least) costs ${billed_vm_s(vowpal) * results.vm_second:.6f} "
        f"for this one. Functions with a server that is there cost less {until}.\n"
        f"* **In bursts a day**: VM and server both left on cost "
        f"${results.vm_second * day:.2f} and ${results.store_second * day:.2f} a day, so functions "
        f"are cheaper up to {bursts:,.0f} bursts a day.\n"
        "* A store that is started for each burst boots as long as the VM does, and then the VM "
        "alone is cheaper: what serverless buys is the burst itself, not the server."
    )


def _simulated_text(results: Results) -> str:
    errors = [one for one in results.compared() if one.n_workers > 1]
    if not errors:
        return "Not compared."
    worst = max(errors, key=lambda one: abs(one.error))
    middle = sorted(abs(one.error) for one in errors)[len(errors) // 2]
    return (
        "On this machine, where all share two cores. One worker agrees by construction, what is "
        "said of more is a prediction; over links there is no real run of more. "
        f"Error: median {middle:.0%}, at most {abs(worst.error):.0%} "
        f"({SYSTEMS[worst.system].text}, {worst.n_workers} workers)."
    )


def _errors(results: Results) -> Rows:
    compared = results.compared()
    counts = sorted({one.n_workers for one in compared})
    named = ["1 worker", *(f"{n} workers" for n in counts[1:])]
    yield ["steps/s, real / simulated (error)", "1 worker, over links", *named]

    def cell(one: Compared | None) -> str:
        if one is None:
            return "-"
        return f"{_number(one.real)} / {_number(one.simulated)} ({one.error:+.0%})"

    for name in results.measured:
        found = {one.n_workers: one for one in compared if one.system == name}
        cells = [results.compared_far(name), *map(found.get, counts)]
        yield [SYSTEMS[name].text, *map(cell, cells)]


def _learning(results: Results) -> str:
    near, far = results.targets
    kept = results.curves
    rows = [["rows under way", f"rows seen to {near:.4f}", f"to {far:.4f}", "loss at the end"]]
    for under_way in kept.known:
        curve = kept.curve(under_way) or []
        rows.append([
            f"{under_way:,}",
            *(_count(kept.rows_to(target, under_way)) for target in (near, far)),
            f"{curve[-1][1]:.4f}",
        ])  # fmt: skip
    text = (
        "Replayed with FTRL: each gradient is of the model as it was so many rows before it is "
        "applied. All systems that add what they learnt are given these curves, whatever they "
        f"could do themselves. The module's workers keep {ROWS_UNDER_WAY:,} rows under way at "
        "most, or one mini-batch each.\n\n" + markdown(rows)
    )
    for name, points in results.real_curves.items():
        least = min(loss for _, loss in points)
        text += (
            f"\n\nReal runs beside it, `{name}`, all workers on this machine: {near:.4f} after "
            f"{_count(results.real_rows_to(name, near))} rows, {least:.4f} at best."
        )
    return text


def _from(which: str) -> str:
    return "text" if which == "text" else "a data set"


def _count(rows: float | None) -> str:
    return "not reached" if rows is None else f"{rows:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.3g} s"


def _milli(value: float | None) -> str:
    return "not measured" if value is None else f"{1e3 * value:.1f} ms"


def _dollar(value: float | None) -> str:
    return "-" if value is None else f"${value:.2g}" if value >= 0.01 else f"${value:.6f}"
