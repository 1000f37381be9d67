"""Rows to score from the command line: a data set, or text of any size in bounded memory."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.dataset import Dataset, exists
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.reading import TextReader
from cirrus_fast.data.sources import STDIN, Chunk, Source
from cirrus_fast.data.storage import local_path
from cirrus_fast.errors import DatasetError


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A piece of the rows, float32[n_rows] each: margins, labels as written, sample weights."""

    margins: Float32Array
    labels: Float32Array
    weights: Float32Array | None


def is_text(data: str) -> bool:
    """Whether it names text: standard input, or a file or pattern and no data set."""
    if data == STDIN:
        return True
    return not exists(data) and (local_path(data).is_file() or glob.has_magic(data))


def score(model: LinearModel, data: str) -> Iterator[Scored]:
    """The rows of a data set, or of text, in order and in pieces."""
    if is_text(data):
        reader = model.text_reader()
        yield from ordered_map(
            lambda chunk: _score_text(model, reader, chunk),
            reader.chunks(Source.find(data)),
            available_cores(),
        )
        return
    unscaled = replace(model, scaling=None)  # `scorable` has scaled these rows
    for rows in model.scorable(Dataset(data)):
        yield Scored(unscaled.decision_function(rows), rows.labels, rows.weights)


def _score_text(model: LinearModel, reader: TextReader, chunk: Chunk) -> Scored:
    base = model.index_base
    rows = reader.read(chunk).rows
    rows = replace(
        rows,
        indices=rows.indices - np.uint32(base),
        n_features=max(rows.n_features - base, model.n_features),
    )
    return Scored(model.decision_function(rows), rows.labels, rows.weights)


def evaluate(model: LinearModel, data: str) -> Evaluation:
    """As `LinearModel.evaluate`, of text too, holding 12 bytes a row."""
    if not is_text(data):
        return model.evaluate(data)
    margins, positives, weights = [], [], []
    for part in score(model, data):
        margins.append(part.margins)
        positives.append(model.label_map.positives(part.labels))
        if part.weights is not None:  # all of the text's rows have one, or none
            weights.append(part.weights)
    if not sum(map(len, margins)):
        raise DatasetError(f"{data}: there are no rows to evaluate")
    weighed = np.concatenate(weights) if weights else None
    return Evaluation.of(np.concatenate(margins), np.concatenate(positives), weighed)
