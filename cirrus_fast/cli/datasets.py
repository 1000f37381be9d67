"""The commands that make data: generate, load, load-criteo, normalize, export."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import output
from cirrus_fast.cli.inspection import facts
from cirrus_fast.cli.output import command

if TYPE_CHECKING:
    from cirrus_fast.data.dataset import Dataset

# As in preprocessing.SCALINGS, without importing NumPy to say so.
SCALINGS = ("min_max", "max_abs", "standard")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: must be numbers with commas, as 1,2") from error


@command("generate")
@click.argument("path", type=click.Path(dir_okay=False))
@click.option(
    "--rows", type=click.IntRange(1), default=200_000, show_default=True, help="Rows to write."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Decides the law behind the rows, and the rows.",
)
@click.option(
    "--hash-bits",
    type=click.IntRange(5, 31),
    default=19,
    show_default=True,
    help="Ids lie in 1 .. 2^BITS.",
)
@click.option(
    "--stream",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Other rows of the same law, such as a test set's.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def generate_command(
    path: str, rows: int, seed: int, hash_bits: int, stream: int, overwrite: bool, as_json: bool
) -> None:
    """Write made-up click rows as LibSVM text.

    A row has 13 counts and 26 hashed categories, like Criteo's click logs; labels follow a
    logistic law. The same numbers give the same file.
    """
    from cirrus_fast.data.generators import make_clicks
    from cirrus_fast.data.storage import local_path

    output.refuse_existing(path, overwrite)
    began = time.perf_counter()
    with output.progress("generating", rows, "rows") as tell:
        make_clicks(path, rows, seed=seed, hash_bits=hash_bits, stream=stream, on_progress=tell)
    seconds = time.perf_counter() - began
    n_bytes = local_path(path).stat().st_size
    if as_json:
        output.show_json({"path": path, "rows": rows, "bytes": n_bytes, "seconds": seconds})
        return
    rate = output.row_rate(rows, seconds)
    click.echo(f"{path}: {rows:,} rows, {output.size(n_bytes)} in {output.span(seconds)}, {rate}")


_executor = click.option(
    "--executor",
    type=click.Choice(["local", "processes", "lambda"]),
    help="Where it is done: threads of this process (local, the default), processes, or a function "
    "of AWS Lambda, from S3 to S3.",
)


@command("load")
@click.argument("source", nargs=-1, required=True)
@click.argument("dataset")
@click.option(
    "--zero-based/--one-based",
    default=None,
    help="Where ids start; without either, at 0 if an id 0 occurs anywhere.",
)
@click.option(
    "--n-features",
    type=click.IntRange(0),
    help="Refuse ids beyond this width; by default as many features as occur.",
)
@click.option(
    "--hash-bits",
    type=click.IntRange(1, 32),
    help="Fold ids of up to 64 bits into 2^BITS.",
)
@click.option("--label-weights", is_flag=True, help="Read label:weight as a sample weight.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept nan and inf as values.")
@click.option(
    "--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be read, and say how many."
)
@click.option(
    "--positive-labels",
    type=_numbers,
    metavar="A,B,...",
    help="The labels of the positive class, where that is not plain.",
)
@click.option(
    "--like",
    metavar="DATASET",
    help="Take index base, width and labels from this data set (for a test set).",
)
@click.option("--overwrite", is_flag=True, help="Replace another data set of this name.")
@click.option(
    "--n-threads", type=click.IntRange(1), help="Threads that parse; by default one per core."
)
@_executor
def load_command(
    source: tuple[str, ...], dataset: str, zero_based: bool | None, as_json: bool, **options: Any
) -> None:
    """Turn LibSVM text into a data set.

    SOURCE is a file (.gz and .bz2 are unpacked), a pattern in quotes, or - for standard input;
    DATASET is the name, path or URI to make. Loading the same source again with the same options
    reuses what is there.
    """
    from cirrus_fast.preprocessing import load_libsvm

    def load(tell: Callable[[int], object]) -> Dataset:
        return load_libsvm(
            source,
            dataset,
            zero_based="auto" if zero_based is None else zero_based,
            on_progress=tell,
            **options,
        )

    _show_load(source, dataset, load, as_json)


@command("load-criteo")
@click.argument("source", nargs=-1, required=True)
@click.argument("dataset")
@click.option(
    "--bits",
    type=click.IntRange(5, 31),
    help="Hash categories so that there are 2^BITS features. [default: 19, or as --like has]",
)
@click.option(
    "--labels/--no-labels",
    "has_labels",
    default=None,
    help="Whether rows start with a label; without either, as the header says, or yes.",
)
@click.option(
    "--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be read, and say how many."
)
@click.option(
    "--like", metavar="DATASET", help="Take the bits from this data set (for a test set)."
)
@click.option("--overwrite", is_flag=True, help="Replace another data set of this name.")
@click.option(
    "--n-threads", type=click.IntRange(1), help="Threads that parse; by default one per core."
)
@_executor
def load_criteo_command(
    source: tuple[str, ...], dataset: str, as_json: bool, **options: Any
) -> None:
    """Turn rows of Criteo's click logs into a data set.

    A row is a label, 13 integers and 26 categories, parted by tabs or commas, with or without a
    header. SOURCE is a file (.gz and .bz2 are unpacked), a pattern in quotes, or - for standard
    input; DATASET is the name, path or URI to make.
    """
    from cirrus_fast.preprocessing import load_criteo

    def load(tell: Callable[[int], object]) -> Dataset:
        return load_criteo(source, dataset, on_progress=tell, **options)

    _show_load(source, dataset, load, as_json)


def _show_load(
    source: tuple[str, ...],
    dataset: str,
    load: Callable[[Callable[[int], object]], Dataset],
    as_json: bool,
) -> None:
    """Loads, and says what was made."""
    from cirrus_fast.data.sources import Source

    n_bytes = Source.find(source).n_bytes()
    made, seconds, reused = _timed(f"loading {dataset}", n_bytes, "bytes", load)
    if as_json:
        output.show_json(
            facts(made) | {"source_bytes": n_bytes, "seconds": seconds, "reused": reused}
        )
        return
    rate = "" if n_bytes is None else f" ({output.byte_rate(n_bytes, seconds)})"
    click.echo(f"{_summary(made)}{'' if reused else f'; {output.span(seconds)}{rate}'}")


@command("normalize")
@click.argument("src")
@click.argument("dst")
@click.option(
    "--scaling",
    type=click.Choice(SCALINGS),
    default=SCALINGS[0],
    show_default=True,
    help="min_max: columns to 0..1, absent entries counting as 0. max_abs: divided by the largest "
    "absolute value. standard: divided by the root mean square.",
)
@click.option(
    "--like", metavar="DATASET", help="Use this scaled data set's scaling again (for a test set)."
)
@click.option("--overwrite", is_flag=True, help="Replace another data set of this name.")
@click.option(
    "--n-threads", type=click.IntRange(1), help="Threads that scale; by default one per core."
)
@_executor
def normalize_command(
    src: str,
    dst: str,
    scaling: str,
    like: str | None,
    overwrite: bool,
    n_threads: int | None,
    executor: str | None,
    as_json: bool,
) -> None:
    """Make a data set with scaled columns.

    DST gets the rows of SRC; sparsity is kept. A model trained on DST carries the scaling, so it
    scores raw rows too.
    """
    from cirrus_fast.data.dataset import Dataset
    from cirrus_fast.preprocessing import normalize

    source = Dataset(src)

    def scale(tell: Callable[[int], object]) -> Dataset:
        return normalize(
            source,
            dst,
            scaling,
            like=like,
            overwrite=overwrite,
            n_threads=n_threads,
            executor=executor,
            on_progress=tell,
        )

    made, seconds, reused = _timed(f"scaling {src}", source.n_rows, "rows", scale)
    if as_json:
        output.show_json(facts(made) | {"seconds": seconds, "reused": reused})
        return
    took = f"; {output.span(seconds)} ({output.row_rate(made.n_rows, seconds)})"
    click.echo(f"{_summary(made)}{'' if reused else took}")


def _timed(
    what: str, total: int | None, unit: str, work: Callable[[Callable[[int], object]], Dataset]
) -> tuple[Dataset, float, bool]:
    """What work made, its seconds, and whether it was there already."""
    worked = False
    began = time.perf_counter()
    with output.progress(what, total, unit) as tell:

        def note(done: int) -> None:
            nonlocal worked
            worked = True
            tell(done)

        made = work(note)
    return made, time.perf_counter() - began, not worked


def _summary(dataset: Dataset) -> str:
    """'clicks: 200,000 rows, 524,288 features, 7.6 MB (38 bytes a row)'"""
    per_row = dataset.n_bytes / max(1, dataset.n_rows)
    return (
        f"{dataset.name}: {dataset.n_rows:,} rows, {dataset.n_features:,} features, "
        f"{output.size(dataset.n_bytes)} ({per_row:.3g} bytes a row)"
    )


@command("export")
@click.argument("dataset")
@click.argument("path", type=click.Path(dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--n-threads", type=click.IntRange(1), help="Threads that format; by default one per core."
)
def export_command(
    dataset: str, path: str, overwrite: bool, n_threads: int | None, as_json: bool
) -> None:
    """Write a data set as LibSVM text.

    Labels and ids are as in the source (hashed ids hashed, scaled values scaled), sample weights
    as label:weight. A PATH that ends in .gz or .bz2 is packed.
    """
    from cirrus_fast.data.dataset import Dataset
    from cirrus_fast.data.storage import local_path
    from cirrus_fast.export import export_libsvm

    output.refuse_existing(path, overwrite)
    found = Dataset(dataset)
    began = time.perf_counter()
    with output.progress(f"exporting {dataset}", found.n_rows, "rows") as tell:
        export_libsvm(found, path, overwrite=overwrite, n_threads=n_threads, on_progress=tell)
    seconds = time.perf_counter() - began
    n_bytes = local_path(path).stat().st_size
    if as_json:
        output.show_json({"path": path, "rows": found.n_rows, "bytes": n_bytes, "seconds": seconds})
        return
    rate = output.row_rate(found.n_rows, seconds)
    click.echo(
        f"{path}: {found.n_rows:,} rows, {output.size(n_bytes)} in {output.span(seconds)}, {rate}"
    )
