"""What executors are asked to do beside training: parts of making a data set, and of a search.

`run_task` is to these what `runtime.worker.run_worker` is to training: a JSON text in, a JSON text
out, told apart by "kind". A task reads its part of the source, writes shards and a record of them
(data/units.py) under the data set's folder, and answers with a number; who asked puts the records
together. Done twice, it writes the same bytes under the same names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.data import loading, units
from cirrus_fast.data.blocks import Dictionary
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.dataset import Dataset, read_scaling
from cirrus_fast.data.dataset_writer import UnitWriter
from cirrus_fast.data.formats import CRITEO
from cirrus_fast.data.loading import Encoder, Items, add_item, text_items
from cirrus_fast.data.reading import CriteoReader, LibsvmReader, TextReader
from cirrus_fast.data.scaled import scaled_items
from cirrus_fast.data.sources import Chunk, Source
from cirrus_fast.data.storage import Storage, open_storage
from cirrus_fast.data.units import Damaged, MergedColumns, Unit
from cirrus_fast.errors import DatasetError, TrainingError


def run_task(spec_json: str, deadline: float = math.inf) -> str:
    """Does what the spec's "kind" says; the answer.

    deadline : for training and searching; a part of a data set is done anew by whoever gets it next
    """
    spec = json.loads(spec_json)
    kind = spec.pop("kind", None)
    if kind == "train":
        from cirrus_fast.runtime.worker import run_worker

        return run_worker(json.dumps(spec), deadline)
    if kind == "grid":
        from cirrus_fast.runtime.grid_worker import GridTask, run_grid

        return json.dumps(run_grid(GridTask(**spec), deadline))
    if kind not in _KINDS:
        raise TrainingError(f"unknown kind of task {kind!r}: is the worker's version another?")
    version = spec.pop("version", None)
    if version != __version__:  # another may cut the source elsewhere
        raise TrainingError(f"the tasks are of version {version}, this worker of {__version__}")
    return json.dumps(_KINDS[kind](**spec))


# What a task is told of text.


def text_spec(reader: TextReader, source: Source) -> dict[str, Any]:
    """What `text_items` needs to know elsewhere."""
    assert isinstance(reader, LibsvmReader | CriteoReader)
    return {
        "format": CRITEO if isinstance(reader, CriteoReader) else "libsvm",
        "options": asdict(reader),
        "versions": source.lineage(),
    }


def _read_spec(text: dict[str, Any]) -> tuple[Items[Chunk], Source]:
    versions = text["versions"]
    source = Source(
        tuple(version["path"] for version in versions),
        tuple(version["bytes"] for version in versions),
    )
    reader: TextReader
    if text["format"] == CRITEO:
        criteo = reader = CriteoReader(**text["options"])
        return text_items(reader, source, lambda chunk: [criteo.read(chunk)]), source
    reader = LibsvmReader(**text["options"])
    return text_items(reader, source, reader.by_lines(loading.BLOCK_ROWS)), source


def _check(versions: list[dict[str, Any]], paths: set[str]) -> None:
    """Refuses text that is no longer what it was."""
    for version in versions:
        path = version["path"]
        if path in paths and Source((path,)).lineage() != [version]:
            raise DatasetError(f"{path}: changed while it was read")


# The tasks.


def _make_dictionary(text: dict[str, Any], folder: str, token: str) -> dict[str, Any]:
    """Of the first rows of a text."""
    items, _ = _read_spec(text)
    encoder = Encoder(scan=False)
    first = next(iter(items.of(lambda _unit: True)), None)
    encoder.encode(() if first is None else items.read(first), is_first=True)
    raw = encoder.dictionary.result().to_bytes()
    name = f"dictionary-{token}.cfd"
    open_storage(folder).write(name, raw)
    return {"name": name}


def _load_unit(
    text: dict[str, Any], folder: str, token: str, dictionary: str, number: int
) -> dict[str, Any]:
    items, _ = _read_spec(text)
    read: set[str] = set()

    def noted(wanted: Callable[[int], bool]) -> Iterable[Chunk]:
        for chunk in items.of(wanted):
            read.add(chunk.source)
            yield chunk

    noting = Items(noted, items.read, items.unit, items.amount)
    storage = open_storage(folder)
    done = _make_unit(noting, storage, token, dictionary, number, scan=True)
    try:
        _check(text["versions"], read)
    except DatasetError:
        storage.delete(units.record_name(token, number))
        raise
    return done


def _scale_unit(
    source: str,
    source_id: str,
    scaling: str,
    scan: bool,
    folder: str,
    token: str,
    dictionary: str,
    number: int,
) -> dict[str, Any]:
    dataset, storage = Dataset(source), open_storage(folder)
    if dataset.id != source_id:
        raise DatasetError(f"{source}: was replaced while it was read")
    items = scaled_items(dataset, read_scaling(storage, scaling))
    return _make_unit(items, storage, token, dictionary, number, scan=scan)


def _make_unit(
    items: Items[Any], storage: Storage, token: str, dictionary: str, number: int, *, scan: bool
) -> dict[str, Any]:
    encoder, others = _encoder(storage, dictionary, scan=scan), MergedColumns()
    writer = UnitWriter(storage, token, Unit(number))
    try:
        for item in items.of(lambda unit: unit == number):
            add_item(writer, encoder.encode(items.read(item)), others, items.amount(item))
        writer.close()
    except BaseException:
        writer.remove()
        raise
    return _tell(storage, token, writer.unit, others.all(), encoder)


def _look_again(
    folder: str, token: str, dictionary: str, number: int, scan: bool
) -> dict[str, Any]:
    """At a unit that was made before: whether it is whole, and at its columns."""
    storage = open_storage(folder)
    encoder = _encoder(storage, dictionary, scan=scan)
    unit = units.read_record(storage, units.record_name(token, number))
    if unit is None:
        return {"damaged": f"the record of unit {number} is damaged"}
    try:
        others = encoder.look_again(unit, storage)
    except Damaged as damage:
        return {"damaged": str(damage)}
    return _tell(storage, token, unit, others, encoder)


def _encoder(storage: Storage, dictionary: str, *, scan: bool) -> Encoder:
    encoder = Encoder(scan=scan)
    encoder.dictionary.set_result(Dictionary.from_bytes(storage.read(dictionary)))
    return encoder


def _tell(
    storage: Storage, token: str, unit: Unit, others: ColumnStatistics, encoder: Encoder
) -> dict[str, Any]:
    for kind, columns in (("others", others), ("ones", encoder.ones())):
        storage.write(units.columns_name(token, unit.number, kind), columns.to_bytes())
    units.write_record(storage, token, unit)  # last: it says that the rest is there
    return {"number": unit.number}


_KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "make dictionary": _make_dictionary,
    "load unit": _load_unit,
    "scale unit": _scale_unit,
    "look again": _look_again,
}
