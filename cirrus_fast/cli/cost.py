"""The command cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import PROGRAM, output
from cirrus_fast.cli.output import command
from cirrus_fast.errors import OptionError

if TYPE_CHECKING:
    from cirrus_fast.backend.estimate import Estimate, Speed

# Of the table: what people choose, and one CPU.
_SHOWN = (256, 512, 1024, 1769, 2048, 3008)


@command("cost")
@click.argument("dataset", required=False)
@click.option("--rows", type=int, metavar="N", help="Rows, where there is no data set yet.")
@click.option(
    "--epochs", type=int, default=2, show_default=True, metavar="N", help="Passes over them."
)
@click.option(
    "--n-workers", type=int, default=10, show_default=True, metavar="N", help="Workers at once."
)
@click.option(
    "--worker-size",
    type=int,
    metavar="MB",
    help="The function's memory; by default what costs least, or hardly more and is faster.",
)
@click.option(
    "--rows-per-s",
    type=float,
    metavar="ROWS/S",
    help="What one worker was measured to do; by default a guess.",
)
@click.option(
    "--measured-at",
    type=int,
    metavar="MB",
    help="The function's memory when it was measured; by default --worker-size.",
)
@click.option(
    "--waiting",
    type=float,
    metavar="SHARE",
    help="Share of its time that it waited, 0 to 1.  [default: 0.1]",
)
@click.option(
    "--result",
    "result_path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="A saved result of a run on functions, which says how fast its workers were.",
)
@click.option("--arch", default="x86_64", show_default=True, metavar="ARCH", help="Or arm64.")
@click.option(
    "--tmp", type=int, default=512, show_default=True, metavar="MB", help="Disk of a worker."
)
@click.option(
    "--store-node",
    metavar="NODE",
    help="What holds the model, cache.t4g.small say, or '2 c7g.large', or dollars an hour.",
)
@click.option("--nat", is_flag=True, help="Data come through a NAT gateway.")
@click.option("--region", default="us-east-1", show_default=True, metavar="REGION")
@click.option(
    "--prices",
    "prices_path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Prices over those of the package.  [default: $CIRRUS_FAST_PRICES]",
)
@click.option("--show-prices", is_flag=True, help="Print the package's price table.")
def cost_command(
    dataset: str | None,
    rows: int | None,
    epochs: int,
    n_workers: int,
    worker_size: int | None,
    rows_per_s: float | None,
    measured_at: int | None,
    waiting: float | None,
    result_path: str | None,
    arch: str,
    tmp: int,
    store_node: str | None,
    nat: bool,
    region: str,
    prices_path: str | None,
    show_prices: bool,
    as_json: bool,
) -> None:
    """Estimate what a run on AWS Lambda costs, and which worker size is best.

    For DATASET, or --rows. Prices are list prices of a dated table: check them.
    """
    from cirrus_fast.backend.estimate import Work, best_size, by_size, estimate
    from cirrus_fast.backend.prices import Prices, table_of_prices

    if show_prices:
        output.show_json(table_of_prices())
        return
    prices = Prices.load(region, prices_path)
    n_bytes = 0
    if result_path is not None:
        if rows_per_s is not None or waiting is not None:
            raise OptionError("--result says how fast workers were: leave the flags for that out")
        speed: Speed | None = _of_result(result_path, measured_at)
    else:
        speed = _of_flags(rows_per_s, measured_at or worker_size, waiting)
    if dataset is not None:
        if rows is not None:
            raise OptionError("--rows: the data set says how many; give one of them")
        from cirrus_fast.data.dataset import Dataset

        opened = Dataset(dataset)
        rows, n_bytes = opened.n_rows, opened.n_bytes
    if rows is None:
        raise OptionError("what is to be trained on? Name a data set, or give --rows")
    work = Work(rows, epochs, n_workers, n_bytes)
    given: dict[str, Any] = {
        "prices": prices,
        "arch": arch,
        "speed": speed,
        "node_hour": 0.0 if store_node is None else prices.node(store_node),
        "nat": nat,
        "tmp": tmp,
    }
    best = best_size(work, **given)
    chosen = best if worker_size is None else estimate(work, worker_size=worker_size, **given)
    sizes = sorted({*_SHOWN, best.worker_size, chosen.worker_size})
    table = by_size(sizes, work, **given)
    if as_json:
        output.show_json(
            {
                "estimate": chosen.to_json(),
                "best_worker_size": best.worker_size,
                "by_size": [one.to_json() for one in table],
                "prices": {"region": prices.region, "noted": prices.noted},
            }
        )
        return
    _show(chosen, best, table, rows, epochs)
    click.echo(f"\nList prices of {prices.region}, noted {prices.noted}; check them.")
    if not chosen.measured:
        click.echo(
            f"{PROGRAM}: note: the speed is a guess; measure it with a short run, and give "
            "--result, or --rows-per-s",
            err=True,
        )


def _of_flags(rows_per_s: float | None, size: int | None, waiting: float | None) -> Speed | None:
    from cirrus_fast.backend.estimate import ASSUMED_WAITING, Speed

    if rows_per_s is None:
        if waiting is not None:
            raise OptionError("--waiting: is of a speed that was measured; give --rows-per-s too")
        return None
    if size is None:
        raise OptionError("--rows-per-s: was measured at which size? Give --measured-at")
    return Speed.of_rate(rows_per_s, size, ASSUMED_WAITING if waiting is None else waiting)


def _of_result(path: str, measured_at: int | None) -> Speed:
    from cirrus_fast.backend.estimate import Speed
    from cirrus_fast.data.result import TrainResult

    result = TrainResult.load(path)
    size = measured_at or int(result.params["worker_size"])
    return Speed.of_breakdown(result.breakdown, result.rows_processed, size)


def _show(chosen: Estimate, best: Estimate, table: list[Estimate], rows: int, epochs: int) -> None:
    cost = chosen.cost
    output.show_facts(
        {
            "work": f"{rows:,} rows, {output.number_of(epochs, 'pass', 'passes')}",
            "workers": f"{chosen.n_workers} of {chosen.worker_size} MB, "
            f"{output.row_rate(chosen.rows_per_s, 1)} each"
            + ("" if chosen.measured else " (a guess)"),
            "time": f"{output.span(chosen.seconds)}, "
            f"{output.number_of(chosen.invocations, 'invocation')}, "
            f"{chosen.worker_s:,.0f} s billed",
            "compute": output.dollars(cost.compute),
            "requests": output.dollars(cost.requests),
            "S3 requests": output.dollars(cost.s3_requests),
            "S3 bytes": output.dollars(cost.s3_bytes),
            "store": output.dollars(cost.store),
            "in all": output.dollars(cost.total),
        }
    )
    click.echo()
    columns = {"worker size": "right", "rows/s each": "right", "time": "right", "cost": "right"}
    rows_of_table = [
        (
            f"{one.worker_size} MB" + (" *" if one.worker_size == best.worker_size else "  "),
            f"{one.rows_per_s:,.0f}",
            output.span(one.seconds),
            output.dollars(one.cost.total),
        )
        for one in table
    ]
    output.show_table(columns, rows_of_table)
    click.echo("* costs least, or hardly more and is faster")
