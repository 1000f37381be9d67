"""The commands status, logs and stop: of a run that another process supervises."""

from __future__ import annotations

import json

import click

from cirrus_fast.cli import output
from cirrus_fast.cli.output import command

_STORE = click.option(
    "--param-store",
    envvar="CIRRUS_FAST_PARAM_STORE",
    required=True,
    metavar="URL",
    help="The store that the run is in. [default: $CIRRUS_FAST_PARAM_STORE]",
)


@command("status")
@click.argument("task")
@_STORE
def status_command(task: str, param_store: str, as_json: bool) -> None:
    """Show how far a run is that another process supervises."""
    from cirrus_fast.backend.run_control import RunControl

    control = RunControl(task, param_store)
    try:
        found = control.status()
    finally:
        control.close()
    if as_json:
        output.show_json(found.to_json())
        return
    output.show_facts(
        {
            "run": found.task,
            "supervisor": "there" if found.supervised else "gone",
            "stopping": "yes" if found.stopping else "no",
            "rows": f"{found.rows:,}",
            "updates": f"{found.updates:,}",
            "train loss": output.loss_text(found.train_loss),
        }
    )
    columns = dict.fromkeys(("worker", "generation"), "right") | {"state": "left"}
    columns |= dict.fromkeys(("rows", "updates"), "right")
    output.show_table(
        columns,
        [
            (str(w.worker), str(w.generation), w.state, f"{w.rows:,}", f"{w.updates:,}")
            for w in found.workers
        ],
    )


@command("attach")
@click.argument("task")
@_STORE
@output.model_option
def attach_command(task: str, param_store: str, model_file: str | None, as_json: bool) -> None:
    """Go on with a run whose supervisor died.

    The result is what train would have shown. Data, options and evaluations are those of before;
    the time that --timeout allows begins anew.
    """
    from cirrus_fast.cli.models import show_result
    from cirrus_fast.logistic_regression import LogisticRegression

    output.check_folder(model_file)
    result = LogisticRegression.attach(task, param_store).result()
    if model_file is not None:
        result.save(model_file)
    show_result(result, as_json, model_file)


@command("stop")
@click.argument("task")
@_STORE
def stop_command(task: str, param_store: str, as_json: bool) -> None:
    """End a run that another process supervises.

    That process returns the best model so far.
    """
    from cirrus_fast.backend.run_control import RunControl

    control = RunControl(task, param_store)
    try:
        supervised = control.stop()
    finally:
        control.close()
    if as_json:
        output.show_json({"task": task, "supervised": supervised})
    elif supervised:
        click.echo(f"run {task}: its supervisor ends it")
    else:
        click.echo(f"run {task}: has no supervisor; its workers end")


@command("logs")
@click.argument("task")
@click.option("--worker", type=click.IntRange(0), help="Of this worker alone.")
def logs_command(task: str, worker: int | None, as_json: bool) -> None:
    """Show what a run's workers on AWS Lambda have logged."""
    from cirrus_fast.backend.function_place import function_place
    from cirrus_fast.backend.run_control import log_lines

    lines = list(log_lines(task, function_place(), worker=worker))
    if as_json:
        output.show_json({"task": task, "lines": [json.loads(line) for line in lines]})
        return
    for line in lines:
        said = json.loads(line)
        who = f"{said.get('worker', '-')}.{said.get('generation', '-')}"
        click.echo(f"{said.get('time', 0):.3f}  {who:>6}  {said['level']:<7}  {said['message']}")
