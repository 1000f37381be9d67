"""The commands that look at data sets, and delete them: info, head, verify, ls, rm."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cirrus_fast.cli import PROGRAM, output
from cirrus_fast.cli.output import command
from cirrus_fast.errors import CirrusFastError, DatasetError

if TYPE_CHECKING:
    from cirrus_fast.data.csr import CSR
    from cirrus_fast.data.dataset import Dataset


def facts(dataset: Dataset) -> dict[str, Any]:
    """What all commands' --json say of a data set, under the same keys."""
    manifest = dataset.manifest
    return {
        "dataset": dataset.name,
        "uri": dataset.uri,
        "id": dataset.id,
        "rows": manifest.n_rows,
        "features": manifest.n_features,
        "entries": manifest.nnz,
        "positives": manifest.n_positive,
        "negatives": manifest.n_rows - manifest.n_positive,
        "labels": manifest.label_map.to_json(),
        "index_base": manifest.index_base,
        "hash_bits": manifest.hash_bits,
        "text_format": manifest.text_format,
        "label_weights": manifest.label_weights,
        "allow_nonfinite": manifest.allow_nonfinite,
        "sample_weights": manifest.has_weights,
        "scaling": _scaling(dataset),
        "bytes": dataset.n_bytes,
        "bytes_per_row": dataset.n_bytes / max(1, manifest.n_rows),
    }


def _scaling(dataset: Dataset) -> str | None:
    if dataset.manifest.scaling is None:
        return None
    options = dataset.manifest.lineage.get("options", {})
    return str(options.get("scaling", "scaled"))


@command("info")
@click.argument("dataset")
def info_command(dataset: str, as_json: bool) -> None:
    """Show what a data set is.

    Its rows, labels, columns, size, and where it came from.
    """
    from cirrus_fast.data.dataset import Dataset

    found = Dataset(dataset)
    manifest, columns = found.manifest, found.columns.columns
    about = facts(found)
    stored, full = len(columns), int((columns["count"] == found.n_rows).sum())
    about["columns"] = {
        "stored": stored,
        "in_every_row": full,
        "in_one_row": int((columns["count"] == 1).sum()),
        "min": float(columns["min"].min()) if stored else None,
        "max": float(columns["max"].max()) if stored else None,
    }
    about |= {
        "shards": len(manifest.shard_sizes),
        "blocks": len(manifest.blocks),
        "lineage": dict(manifest.lineage),
    }
    if as_json:
        output.show_json(about)
        return
    weights = f"{manifest.weight:,.6g}, {manifest.positive_weight:,.6g} of it positive"
    ids = f"ids from {manifest.index_base}"
    if manifest.hash_bits is not None:
        hashed = "categories" if manifest.text_format == "criteo" else "ids"
        ids = f"{hashed} hashed to {manifest.hash_bits} bits"
    stats = about["columns"]
    output.show_facts(
        {
            "data set": found.name,
            "folder": found.uri,
            "rows": f"{found.n_rows:,}",
            "labels": _labels(found),
            "sample weight": weights if manifest.has_weights else None,
            "features": f"{found.n_features:,}, {ids}",
            "columns": f"{stored:,} occur, {full:,} in every row, {stats['in_one_row']:,} in one",
            "values": f"{stats['min']:g} to {stats['max']:g}" if stored else None,
            "entries": f"{manifest.nnz:,}, {manifest.nnz / max(1, found.n_rows):.1f} a row",
            "size": f"{output.size(found.n_bytes)}, {about['bytes_per_row']:.1f} bytes a row, "
            f"{output.number_of(about['blocks'], 'block')} in "
            f"{output.number_of(about['shards'], 'shard')}",
            "scaling": about["scaling"] or "none",
            "made of": _lineage(manifest.lineage),
            "id": found.id,
        }
    )


def _labels(dataset: Dataset) -> str:
    manifest, names = dataset.manifest, dataset.manifest.label_map
    share = manifest.n_positive / max(1, manifest.n_rows)

    def listed(labels: tuple[float, ...]) -> str:
        return ", ".join(f"{label:g}" for label in labels) or "none"

    return (
        f"{manifest.n_positive:,} positive ({listed(names.positive)}), "
        f"{manifest.n_rows - manifest.n_positive:,} negative ({listed(names.negative)}), "
        f"{share:.2%} positive"
    )


def _lineage(lineage: Any) -> str:
    sources = []
    for source in lineage.get("source", []):
        if "path" in source:
            n_bytes = f" ({output.size(source['bytes'])})" if "bytes" in source else ""
            sources.append(f"{source['path']}{n_bytes}")
        elif "dataset" in source:
            sources.append(f"data set {source['dataset']}")
        else:
            sources.append("arrays")
    given = {
        name: value
        for name, value in lineage.get("options", {}).items()
        if value not in (None, False, "auto") and name != "scaling_id"
    }
    with_options = ", ".join(f"{name}={value}" for name, value in given.items())
    return ", ".join(sources) + (f", with {with_options}" if given else "")


@command("head")
@click.argument("dataset")
@click.option(
    "-n", "--rows", type=click.IntRange(1), default=10, show_default=True, help="Rows to show."
)
def head_command(dataset: str, rows: int, as_json: bool) -> None:
    """Show the first rows of a data set.

    As LibSVM text, as export writes it: labels and ids are as in the source (hashed ids hashed,
    scaled values scaled), sample weights are label:weight.
    """
    import io

    from cirrus_fast.data.dataset import Dataset
    from cirrus_fast.data.text import write_libsvm

    found = Dataset(dataset)
    base = found.manifest.index_base
    listed: list[dict[str, Any]] = []
    for part in _first_rows(found, rows):
        if as_json:
            listed += _rows_as_json(part, base)
            continue
        text = io.BytesIO()
        write_libsvm(part, text, zero_based=base == 0)
        click.echo(text.getvalue(), nl=False)
    if as_json:
        output.show_json({"dataset": found.name, "index_base": base, "rows": listed})


def _first_rows(dataset: Dataset, n_rows: int) -> Iterator[CSR]:
    from dataclasses import replace

    for block in dataset.blocks:
        wanted = n_rows - block.first_row
        if wanted <= 0:
            return
        rows = dataset.read_block(block)
        last = rows.indptr[: wanted + 1][-1]
        yield replace(
            rows,
            labels=rows.labels[:wanted],
            indptr=rows.indptr[: wanted + 1],
            indices=rows.indices[:last],
            data=rows.data[:last],
            weights=None if rows.weights is None else rows.weights[:wanted],
        )


def _rows_as_json(rows: CSR, base: int) -> list[dict[str, Any]]:
    ids, values = (rows.indices.astype("int64") + base).tolist(), rows.data.tolist()
    listed = []
    for i, label in enumerate(rows.labels.tolist()):
        span = slice(rows.indptr[i], rows.indptr[i + 1])
        row: dict[str, Any] = {"label": label, "ids": ids[span], "values": values[span]}
        if rows.weights is not None:
            row["weight"] = float(rows.weights[i])
        listed.append(row)
    return listed


@command("verify")
@click.argument("dataset")
@click.option(
    "--n-threads", type=click.IntRange(1), help="Threads that decode; by default one per core."
)
def verify_command(dataset: str, n_threads: int | None, as_json: bool) -> None:
    """Check a data set for damage.

    Reads all of it, and compares every shard, block, dictionary and column statistic with the
    manifest and with each other. The exit status is 1 if anything is wrong.
    """
    from cirrus_fast.data.dataset import Dataset
    from cirrus_fast.data.verification import find_faults

    found = Dataset(dataset)
    began = time.perf_counter()
    with output.progress(f"verifying {dataset}", found.n_rows, "rows") as tell:
        faults = list(find_faults(found, n_threads=n_threads, on_progress=tell))
    seconds = time.perf_counter() - began
    if as_json:
        output.show_json(facts(found) | {"faults": faults, "seconds": seconds})
    elif not faults:
        click.echo(
            f"{found.name}: no fault in {found.n_rows:,} rows, {output.size(found.n_bytes)}; "
            f"{output.span(seconds)} ({output.row_rate(found.n_rows, seconds)})"
        )
    if len(faults) > 1:
        for fault in faults:
            click.echo(f"{PROGRAM}: fault: {fault}", err=True)
        raise DatasetError(f"{found.name}: {len(faults)} faults")
    if faults:
        raise DatasetError(faults[0])


@command("ls")
def ls_command(as_json: bool) -> None:
    """List the data sets under the storage root."""
    from cirrus_fast.data.dataset import Dataset, list_datasets
    from cirrus_fast.data.storage import storage_root

    found, damaged = [], []
    for name in list_datasets():
        try:
            found.append(Dataset(name))
        except DatasetError as error:
            damaged.append({"dataset": name, "error": str(error)})
    if as_json:
        output.show_json(
            {
                "storage": storage_root(),
                "datasets": [facts(dataset) for dataset in found],
                "damaged": damaged,
            }
        )
        return
    if found:
        columns = {"name": "left"} | dict.fromkeys(
            ("rows", "features", "positive", "size", "bytes/row"), "right"
        )
        output.show_table(columns | {"scaling": "left"}, [_row(dataset) for dataset in found])
    elif not damaged:
        click.echo(f"no data sets under {storage_root()}", err=True)
    for item in damaged:
        click.echo(f"{item['error']}", err=True)


def _row(dataset: Dataset) -> list[str]:
    n_rows = max(1, dataset.n_rows)
    return [
        dataset.name,
        f"{dataset.n_rows:,}",
        f"{dataset.n_features:,}",
        f"{dataset.manifest.n_positive / n_rows:.2%}",
        output.size(dataset.n_bytes),
        f"{dataset.n_bytes / n_rows:.1f}",
        _scaling(dataset) or "none",
    ]


@command("rm")
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm_command(datasets: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete data sets.

    Incomplete ones too. Asks first; where there is no terminal to ask on, --yes is needed.
    """
    from cirrus_fast.data.dataset import check_removable, remove_dataset

    names = list(dict.fromkeys(datasets))
    for name in names:  # all of them, before the first is touched
        check_removable(name)
    if not yes and not _confirmed(f"delete {', '.join(names)}?"):
        raise CirrusFastError("nothing was deleted")
    for name in names:
        remove_dataset(name)
    if as_json:
        output.show_json({"removed": names})
    else:
        click.echo(f"deleted {', '.join(names)}")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise CirrusFastError("there is no terminal to ask on; delete with --yes")
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
