"""The command demo."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import output
from cirrus_fast.cli.output import command

if TYPE_CHECKING:
    from cirrus_fast.demo import Demo, Step


@command("demo")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False),
    default="cirrus_demo",
    show_default=True,
    metavar="DIR",
    help="Folder for everything it makes.",
)
@click.option(
    "--rows",
    type=click.IntRange(1000),
    default=200_000,
    show_default=True,
    help="Training rows; a quarter as many test rows.",
)
def demo_command(folder: str, rows: int, as_json: bool) -> None:
    """Show the whole path on made-up data, in seconds.

    Makes click rows, loads and scales them, trains, evaluates on unseen rows, and searches a small
    grid: no server, no account. A second run replaces what the first made, and nothing else.
    """
    from cirrus_fast._kernels import active_impl
    from cirrus_fast.data.parallel import available_cores
    from cirrus_fast.demo import prepare_demo, run_demo

    demo = prepare_demo(folder, rows)
    click.echo(
        f"cirrus_fast on {output.number_of(available_cores(), 'core')}, {active_impl()} kernels; "
        f"everything goes to {folder}/\n",
        err=as_json,
    )
    run_demo(demo, lambda step: click.echo(_line(step), err=as_json))
    if as_json:
        output.show_json(_facts(demo))
    else:
        _close(demo, folder)


def _line(step: Step) -> str:
    return f"{step.name:<10}{step.seconds:7.2f} s {step.rate:>17}   {step.did}"


def _close(demo: Demo, folder: str) -> None:
    from cirrus_fast.cli.models import calibration_text

    assert demo.evaluation is not None
    click.echo(f"\nPredicted and true shares of clicks on {demo.n_test:,} unseen rows:\n")
    click.echo(calibration_text(demo.evaluation))
    click.echo(
        f"\nLog-loss {demo.evaluation.logloss:.4f}; always guessing the average has "
        f"{demo.baseline:.4f}. All in {output.span(demo.seconds)}."
    )
    for note in demo.notes:
        click.echo(note)
    click.echo(f"\nLeft in {folder}/:")
    output.show_facts({f"  {name}": what for name, what in demo.files.items()})
    at = shlex.quote(folder)
    click.echo("\nTry next:")
    for line in (
        f"info {at}/data/train_scaled",
        f"train {at}/data/train_scaled --optimizer ftrl --l1 1e-5 --plot ftrl.png",
        f"predict {at}/model.npz {at}/test.svm --proba | head",
        "load YOUR.svm yours && cirrus-fast train yours --output yours.npz",
    ):
        click.echo(f"  cirrus-fast {line}")


def _facts(demo: Demo) -> dict[str, Any]:
    assert demo.result is not None
    assert demo.evaluation is not None
    assert demo.grid is not None
    return {
        "folder": str(demo.folder),
        "rows": demo.n_train,
        "test_rows": demo.n_test,
        "seconds": demo.seconds,
        "steps": [asdict(step) for step in demo.steps],
        "evaluation": demo.evaluation.to_json(),
        "baseline_logloss": demo.baseline,
        "best_params": dict(demo.grid.best_params_),
        "files": demo.files,
        "notes": demo.notes,
    }
