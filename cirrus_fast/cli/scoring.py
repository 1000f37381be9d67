"""Rows to score from the command line: a data set, or text of any size in bounded memory."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cirrus_fast.data.csr import CSR, Float32Array
from cirrus_fast.data.dataset import Dataset, exists
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.sources import STDIN, Chunk, Source
from cirrus_fast.data.storage import local_path
from cirrus_fast.data.text import parse_text, rebase
from cirrus_fast.errors import DatasetError, LibsvmParseError


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A piece of the rows, float32[n_rows] each: margins, and labels as written."""

    margins: Float32Array
    labels: Float32Array


def is_text(data: str) -> bool:
    """Whether it names LibSVM text: standard input, or a file or pattern and no data set."""
    if data == STDIN:
        return True
    return not exists(data) and (local_path(data).is_file() or glob.has_magic(data))


def score(model: LinearModel, data: str) -> Iterator[Scored]:
    """The rows of a data set, or of text, in order and in pieces."""
    if is_text(data):
        chunks = Source.find(data).chunks()
        yield from ordered_map(lambda chunk: _score_text(model, chunk), chunks, available_cores())
        return
    unscaled = replace(model, scaling=None)  # `scorable` has scaled these rows
    for rows in model.scorable(Dataset(data)):
        yield Scored(unscaled.decision_function(rows), rows.labels)


def _score_text(model: LinearModel, chunk: Chunk) -> Scored:
    hashed = model.hash_bits is not None
    base = 0 if hashed else model.index_base
    try:
        text = parse_text(
            chunk.buffer,
            chunk.begin,
            chunk.end,
            zero_based=None if hashed else base == 0,
            hash_bits=model.hash_bits,
        )
    except LibsvmParseError as error:
        raise rebase(
            error, offset=chunk.offset, line=chunk.line + 1, source=chunk.source
        ) from error
    width = 0 if text.max_index is None else text.max_index + 1 - base
    rows = CSR(
        text.labels,
        text.indptr,
        text.indices - np.uint32(base),
        text.data,
        max(width, model.n_features),
    )
    return Scored(model.decision_function(rows), text.labels)


def evaluate(model: LinearModel, data: str) -> Evaluation:
    """As `LinearModel.evaluate`, of text too, holding 8 bytes a row."""
    if not is_text(data):
        return model.evaluate(data)
    margins, positives = [], []
    for part in score(model, data):
        margins.append(part.margins)
        positives.append(model.label_map.positives(part.labels))
    if not sum(map(len, margins)):
        raise DatasetError(f"{data}: there are no rows to evaluate")
    return Evaluation.of(np.concatenate(margins), np.concatenate(positives))
