"""The commands about one model: train, evaluate, predict."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import Interrupted, output
from cirrus_fast.cli.flags import given, training_options
from cirrus_fast.cli.output import command

if TYPE_CHECKING:
    from cirrus_fast.data.csr import Float32Array
    from cirrus_fast.data.evaluation import Evaluation
    from cirrus_fast.data.result import TrainResult


@command("train")
@click.argument("dataset")
@output.model_option
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    metavar="LOSS.png",
    help="Draw the loss over time here (needs matplotlib).",
)
@training_options
def train_command(
    dataset: str, model_file: str | None, plot: str | None, as_json: bool, **options: Any
) -> None:
    """Train a model.

    DATASET is a data set, or the path of a LibSVM text file, which needs --model-size. Options that
    are not given are decided from the data. The first Ctrl-C ends the run with the best model so
    far, which is saved and shown.
    """
    from cirrus_fast.logistic_regression import LogisticRegression

    task = LogisticRegression(given(options), dataset=dataset)
    output.check_folder(model_file)
    output.check_folder(plot)
    if plot is not None:
        from cirrus_fast.plots import check_picture, plot_history

        check_picture(plot)
    result = task.run()
    if model_file is not None:
        result.save(model_file)
    if plot is not None:
        plot_history({"": result}, plot)
    show_result(result, as_json, model_file, plot)


def show_result(
    result: TrainResult, as_json: bool, model_file: str | None, plot: str | None = None
) -> None:
    if as_json:
        output.show_json(result_json(result) | {"output": model_file, "plot": plot})
    else:
        dataset = str(result.params.get("dataset"))
        output.show_facts(
            {"data set": dataset} | result_facts(result) | {"saved": model_file, "plot": plot}
        )
        if model_file is None and result.stop_reason != "interrupted":
            click.echo("the model was not kept; keep it with --output MODEL.npz", err=True)
    if result.stop_reason == "interrupted":
        raise Interrupted


def result_json(result: TrainResult) -> dict[str, Any]:
    """A run under stable keys."""
    return {
        "dataset": result.params.get("dataset"),
        "stop_reason": result.stop_reason,
        "test_loss": result.test_loss,
        "auc": result.auc,
        "train_loss": result.history[-1].train_loss,
        "seconds": result.seconds,
        "rows_processed": result.rows_processed,
        "rows_repeated": result.rows_repeated,
        "updates": result.history[-1].updates,
        "n_workers": result.n_workers,
        "executor": result.executor,
        "param_store": result.param_store,
        "cost": result.cost,
        "cost_parts": dict(result.cost_parts),
        "n_features": result.model.n_features,
        "n_nonzero": result.model.nnz,
        "intercept": result.model.intercept,
        "checkpoint": result.checkpoint,
        "checkpoint_error": result.checkpoint_error,
        "breakdown": dict(result.breakdown),
        "reads": asdict(result.reads),
        "reads_by_epoch": [asdict(reads) for reads in result.reads_by_epoch],
        "params": dict(result.params),
        "history": [asdict(record) for record in result.history],
    }


def result_facts(result: TrainResult) -> dict[str, str | None]:
    """A run in a few lines."""
    model, last = result.model, result.history[-1]
    workers = output.number_of(result.n_workers, "worker")
    quality = None
    if result.test_loss is not None:
        auc = "" if result.auc is None else f", AUC {result.auc:.4f}"
        n = len(result.history)
        quality = f"log-loss {output.loss_text(result.test_loss)}{auc} (best of {n} evaluations)"
    repeated = f", up to {result.rows_repeated:,} of them twice" if result.rows_repeated else ""
    phases = sorted(result.breakdown.items(), key=lambda item: -item[1])
    spent = [f"{phase} {output.span(seconds)}" for phase, seconds in phases if seconds >= 0.005]
    return {
        "stopped": f"{result.stop_reason}, after {output.span(result.seconds)} on {workers}",
        "learnt from": f"{result.rows_processed:,} rows in {last.updates:,} steps, "
        f"{output.row_rate(result.rows_processed, result.seconds)}{repeated}",
        "last training loss": output.loss_text(last.train_loss),
        "test rows": quality,
        "model": f"{model.nnz:,} of {model.n_features:,} weights are not 0, "
        f"intercept {model.intercept:.4f}",
        "time, all workers": ", ".join(spent) or None,
        "read from storage": _reads(result),
        "cost": _cost(result),
        "checkpoint": result.checkpoint,
        "not written": result.checkpoint_error
        and f"the last checkpoint: {result.checkpoint_error}",
    }


def _cost(result: TrainResult) -> str | None:
    """Where something was rented."""
    parts = {name: amount for name, amount in result.cost_parts.items() if amount}
    if not parts:
        return None
    listed = ", ".join(f"{name} {output.dollars(amount)}" for name, amount in parts.items())
    return f"{output.dollars(result.cost)}, by list prices: {listed}"


def _reads(result: TrainResult) -> str | None:
    """What was asked of a server, if any was; and how much of it after the first epoch."""
    reads, epochs = result.reads, result.reads_by_epoch
    if not reads.requests:
        return None
    again = f", {output.number_of(reads.retries, 'retry', 'retries')}" if reads.retries else ""
    later = sum(one.bytes for one in epochs[1:])
    since = f"; {output.size(later)} of it after the first epoch" if len(epochs) > 1 else ""
    requests = output.number_of(reads.requests, "request")
    return f"{output.size(reads.bytes)} in {requests}{again}{since}"


@command("evaluate")
@click.argument("model")
@click.argument("data")
def evaluate_command(model: str, data: str, as_json: bool) -> None:
    """Measure a model on labelled rows.

    MODEL is what train --output saved.

    DATA is a data set, a LibSVM text file, or - for text on standard input. Text is raw rows,
    which go through the model's scaling; it is read in bounded memory.
    """
    from cirrus_fast.data.model import LinearModel

    evaluation = LinearModel.load(model).evaluate(data)
    if as_json:
        output.show_json({"model": model, "data": data} | evaluation.to_json())
        return
    output.show_facts(evaluation_facts(evaluation))
    click.echo()
    click.echo(calibration_text(evaluation))


def evaluation_facts(evaluation: Evaluation) -> dict[str, str | None]:
    auc = "- (one class only)" if evaluation.auc is None else f"{evaluation.auc:.5f}"
    return {
        "rows": f"{evaluation.n_rows:,}",
        "log-loss": f"{output.loss_text(evaluation.logloss)} nats per row",
        "AUC": auc,
        "accuracy": f"{evaluation.accuracy:.2%}",
    }


def calibration_text(evaluation: Evaluation) -> str:
    """A table of what was predicted and what came."""
    rows = [
        [
            f"{b.low:.1f} to {b.high:.1f}",
            f"{b.n_rows:,}",
            f"{b.mean_predicted:.4f}",
            f"{b.positive_rate:.4f}",
        ]
        for b in evaluation.calibration
    ]
    columns = {"predicted": "left", "rows": "right", "mean": "right", "positive": "right"}
    return output.table_text(columns, rows)


@command("predict")
@click.argument("model")
@click.argument("data")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write here instead of to standard output.",
)
@click.option(
    "--proba", is_flag=True, help="Write the probability of the positive class, not the label."
)
def predict_command(model: str, data: str, target: str | None, proba: bool, as_json: bool) -> None:
    """Score rows with a model.

    MODEL is what train --output saved. A line is written for each row.

    DATA is a data set, a LibSVM text file, or - for text on standard input. Text is raw rows,
    which go through the model's scaling; it is read in bounded memory. Its labels are not looked
    at, but there must be one on each line.
    """
    from cirrus_fast.data.model import LinearModel
    from cirrus_fast.data.storage import file_writer

    output.check_folder(target)
    loaded = LinearModel.load(model)
    values = loaded.probabilities if proba else loaded.labels
    facts: dict[str, Any] = {
        "model": model,
        "data": data,
        "output": target,
        "kind": "probability" if proba else "label",
    }
    if target is None and as_json:
        parts = map(values, loaded.iter_margins(data))
        listed = [value for part in parts for value in part.tolist()]
        output.show_json(facts | {"rows": len(listed), "values": listed})
        return
    n_rows = 0
    if target is None:
        for margins in loaded.iter_margins(data):
            click.echo(_lines(values(margins)), nl=False)
        return
    writer = file_writer(target)
    try:
        for margins in loaded.iter_margins(data):
            writer.write(_lines(values(margins)).encode())
            n_rows += len(margins)
        writer.commit()
    except BaseException:
        writer.abort()
        raise
    if as_json:
        output.show_json(facts | {"rows": n_rows})
    else:
        click.echo(f"{target}: {n_rows:,} rows")


def _lines(values: Float32Array) -> str:
    # Nine digits bring a float32 back exactly; one format call, since these are many.
    return "%.9g\n" * len(values) % tuple(values.tolist())
