"""The command grid: many models that differ in some options."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import Interrupted, output
from cirrus_fast.cli.flags import MOST_VALUES, flag_of, given, training_options, vary
from cirrus_fast.cli.output import command
from cirrus_fast.errors import TrainingError

if TYPE_CHECKING:
    from cirrus_fast.data.trials import GridResults, Trial

_FORMATS = (".json", ".csv")


@command("grid")
@click.argument("dataset")
@click.option(
    "--vary",
    "varied",
    multiple=True,
    required=True,
    metavar="NAME=VALUES",
    help="An option and its values: learning_rate=0.05,0.1 or a range start:stop:step, without "
    "the stop, as numpy.arange has it. Give it once for each option that varies.",
)
@click.option(
    "--mode",
    type=click.Choice(["grid", "random", "halving"]),
    default="grid",
    help="grid: every combination; random: --n-trials of them; halving: of all, or --n-trials, the "
    "best quarter goes on after a sixteenth and after a quarter of the rows.",
)
@click.option("--n-trials", type=click.IntRange(1), help="How many combinations are drawn.")
@click.option(
    "--search-timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End the search after this long with what there is.",
)
@click.option(
    "--search-max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="DOLLARS",
    help="End the search when it has cost this much, with what there is: on functions, or on this "
    "machine, if CIRRUS_FAST_MACHINE says what an hour of it costs.",
)
@click.option(
    "--name",
    "search_name",
    help="Keep the search under this name in the storage root: run again, it goes on where it was "
    "ended.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(dir_okay=False),
    metavar="PICTURE",
    help='Draw the test losses of the best ten models here. Needs the extra "plot".',
)
@click.option(
    "-o",
    "--output",
    "table_file",
    type=click.Path(dir_okay=False),
    metavar="RESULTS.json|csv",
    help="Write all results here.",
)
@click.option(
    "--best",
    "best_file",
    type=click.Path(dir_okay=False),
    metavar="MODEL.npz",
    help="Save the best model here.",
)
@training_options
def grid_command(
    dataset: str,
    varied: tuple[str, ...],
    mode: str,
    n_trials: int | None,
    search_timeout: float | None,
    search_max_cost: float | None,
    search_name: str | None,
    plot_file: str | None,
    table_file: str | None,
    best_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train models for combinations of some options' values.

    The other options are the same for all. Models that can share it are trained together, from one
    reading of the data. Prints them, best first. Ctrl-C ends the search with what there is.
    """
    from cirrus_fast.grid_search import GridSearch

    fixed = given(options)
    spread = _spread(varied, fixed, drawn=n_trials is not None)
    if table_file is not None and Path(table_file).suffix.lower() not in _FORMATS:
        raise click.BadParameter(f"{table_file}: must end in .json or .csv", param_hint="--output")
    output.check_folder(table_file)
    output.check_folder(best_file)
    if plot_file is not None:
        from cirrus_fast.plots import check_picture

        output.check_folder(plot_file)
        check_picture(plot_file)
    base = {"progress": False} | fixed | {"dataset": dataset}
    search = GridSearch(
        param_base=base,
        hyper_vars=list(spread),
        hyper_params=list(spread.values()),
        mode=mode,
        n_trials=n_trials,
        timeout=search_timeout,
        max_cost=search_max_cost,
        name=search_name,
    )
    with output.progress("searching", len(search), "models") as tell:
        done = itertools.count(1)
        trials = search.run(lambda _: tell(next(done)), keep_models=1)
    interrupted = trials.stop_reason == "interrupted"
    if trials:
        best = trials[0].result
        _write(table_file, dataset, trials)
        if best is not None and best_file is not None:
            best.save(best_file)
        if best is not None and plot_file is not None:
            trials.plot(plot_file)
        if as_json:
            output.show_json(
                grid_json(dataset, trials) | {"output": table_file, "best_model": best_file}
            )
        else:
            click.echo(grid_text(trials))
            if trials.stop_reason != "finished":
                click.echo(f"ended by {trials.stop_reason}, {len(trials)} of {len(search)} models")
        if best is None and not interrupted:
            raise TrainingError("every run of the search failed")
    if interrupted:
        raise Interrupted


def _spread(varied: tuple[str, ...], fixed: dict[str, Any], *, drawn: bool) -> dict[str, list[Any]]:
    """The values of each option that varies."""
    spread: dict[str, list[Any]] = {}
    for text in varied:
        name, values = vary(text)
        if name in spread:
            raise click.BadParameter(f"{name} is varied twice", param_hint="--vary")
        if name in fixed:
            raise click.UsageError(f"{flag_of(name)} is given, but --vary {name} varies it")
        spread[name] = values
    n_models = math.prod(map(len, spread.values()))
    if n_models > MOST_VALUES and not drawn:
        raise click.UsageError(
            f"{n_models:,} models; at most {MOST_VALUES:,}: take --mode random or halving, and "
            "--n-trials"
        )
    return spread


def grid_json(dataset: str, trials: GridResults) -> dict[str, Any]:
    """A search under stable keys."""
    return {
        "dataset": dataset,
        "stop_reason": trials.stop_reason,
        "cost": trials.cost,
        "models": [_trial_json(trial) for trial in trials],
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {"params": dict(trial.params)} | trial.facts


def grid_text(trials: list[Trial]) -> str:
    """A table of the models, best first."""
    varied = list(trials[0].params)
    columns = dict.fromkeys(varied, "right")
    columns |= dict.fromkeys(("loss", "AUC", "seconds", "rows"), "right") | {"stopped": "left"}
    rows = []
    for trial in trials:
        cells = [_value_text(trial.params[name]) for name in varied]
        result = trial.result
        if result is None:
            rows.append([*cells, "-", "-", "-", "-", f"failed: {trial.error}"])
            continue
        rows.append(
            [
                *cells,
                output.loss_text(trial.loss),
                "-" if result.auc is None else f"{result.auc:.4f}",
                f"{result.seconds:.2f}",
                f"{result.rows_processed:,}",
                result.stop_reason,
            ]
        )
    return output.table_text(columns, rows)


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ":".join(f"{item:g}" for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write(path: str | None, dataset: str, trials: GridResults) -> None:
    from cirrus_fast.data.storage import write_file

    if path is None:
        return
    if Path(path).suffix.lower() == ".csv":
        trials.to_csv(path)
    else:
        write_file(path, f"{output.json_text(grid_json(dataset, trials))}\n".encode())
