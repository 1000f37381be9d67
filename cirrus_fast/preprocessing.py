"""Getting data in: LibSVM text or arrays into data sets, and data sets into scaled ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cirrus_fast.data import dataset as datasets
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.columns import (
    MAX_ABS_SCALING,
    MIN_MAX_SCALING,
    SCALINGS,
    STANDARD_SCALING,
    ColumnStatistics,
    Scaling,
)
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Block, Dataset
from cirrus_fast.data.dataset_writer import DatasetWriter
from cirrus_fast.data.labels import LabelMap, count_labels
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.rows import as_rows
from cirrus_fast.data.sources import Chunk, Source
from cirrus_fast.data.storage import resolve
from cirrus_fast.data.text import ParsedText, parse_text, rebase
from cirrus_fast.errors import DatasetError, LibsvmParseError, OptionError
from cirrus_fast.notices import notice

if TYPE_CHECKING:
    import scipy.sparse

__all__ = [
    "MAX_ABS_SCALING",
    "MIN_MAX_SCALING",
    "STANDARD_SCALING",
    "load_csr",
    "load_libsvm",
    "normalize",
]

# Rows in a block: the unit of reading, shuffling and handing out to workers.
BLOCK_ROWS = 4096
# Distinct labels after which data are taken for something else than classes.
MOST_LABELS = 10_000

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Rows made into blocks, with what the manifest wants to know of them."""

    blocks: list[tuple[bytes, int, int]]
    labels: Counter[float]
    label_weights: Counter[float]
    columns: ColumnStatistics
    min_index: int | None
    max_index: int | None
    longest_row: int
    has_weights: bool
    n_skipped: int
    first_skipped: LibsvmParseError | None


def load_libsvm(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    dataset: str,
    *,
    zero_based: bool | Literal["auto"] = "auto",
    n_features: int | None = None,
    hash_bits: int | None = None,
    label_weights: bool = False,
    allow_nonfinite: bool = False,
    skip_bad_rows: bool = False,
    positive_labels: Iterable[float] | None = None,
    like: str | Dataset | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    on_progress: Progress | None = None,
) -> Dataset:
    """Turns LibSVM text of any size into a data set, in bounded memory.

    Parameters
    ----------
    source : path, file:// URI, glob pattern, "-" for standard input, or a list of these;
        .gz and .bz2 are unpacked
    dataset : bare name, path or URI of the data set to make
    zero_based : whether ids start at 0; "auto" decides by whether an id 0 occurs anywhere
    n_features : int, ids at or above it are refused; by default as many as occur
    hash_bits : int in 1..32, folds ids of up to 64 bits into 2**hash_bits
    label_weights : read ``label:weight`` as a sample weight
    allow_nonfinite : accept nan and inf as values
    skip_bad_rows : leave rows out that cannot be read, and say how many
    positive_labels : which labels are the positive class, where that is not plain
    like : data set whose index base, width and labels this one shares (a test set's training set);
        it may be wider than that one, and a model ignores the columns it never saw
    overwrite : replace another data set of this name
    n_threads : threads that parse, by default one per core
    on_progress : called with the number of source bytes done

    Returns
    -------
    Dataset. Loading the same source again with the same options reuses what is there.

    Raises
    ------
    LibsvmParseError : with file, line, column and byte of the first row that cannot be read
    DatasetError : the name is taken, or the labels are not two classes
    """
    threads = _thread_count(n_threads)
    found = Source.find(source)
    parent = Dataset(like) if isinstance(like, str) else like
    if positive_labels is not None:
        positive_labels = [float(label) for label in positive_labels]
    if parent is not None:
        zero_based, hash_bits = _text_like(parent, zero_based, hash_bits)
        _labels_like(positive_labels)
    lineage = {
        "source": found.lineage(),
        "options": {
            "zero_based": zero_based,
            "n_features": n_features,
            "hash_bits": hash_bits,
            "label_weights": label_weights,
            "allow_nonfinite": allow_nonfinite,
            "skip_bad_rows": skip_bad_rows,
            "positive_labels": None if positive_labels is None else sorted(positive_labels),
            "like": None if parent is None else parent.id,
        },
    }
    reusable = not found.is_stdin
    existing = _existing(dataset, lineage if reusable else None, overwrite)
    if existing is not None:
        return existing

    def parse(chunk: Chunk) -> ParsedText:
        try:
            return parse_text(
                chunk.buffer,
                chunk.begin,
                chunk.end,
                zero_based=None if zero_based == "auto" else zero_based,
                hash_bits=hash_bits,
                label_weights=label_weights,
                allow_nonfinite=allow_nonfinite,
                skip_bad_rows=skip_bad_rows,
            )
        except LibsvmParseError as error:
            raise rebase(
                error, offset=chunk.offset, line=chunk.line + 1, source=chunk.source
            ) from error

    chunks = found.chunks()
    with DatasetWriter(resolve(dataset)) as writer:
        first = next(chunks, None)
        sample = None if first is None else parse(first)
        dictionary = None if sample is None else Dictionary.build(_text_rows(sample))

        def encode(chunk: Chunk) -> tuple[int, _Encoded]:
            text = sample if chunk is first and sample is not None else parse(chunk)
            return chunk.end - chunk.begin, _encode(_text_rows(text), dictionary, text)

        done = 0
        total = _Total()
        work = chain([] if first is None else [first], chunks)
        for n_bytes, part in ordered_map(encode, work, threads):
            for block in part.blocks:
                writer.add_block(*block)
            total.add(part)
            done += n_bytes
            if on_progress is not None:
                on_progress(done)
        base = 0 if hash_bits is not None or zero_based is True else total.base(zero_based)
        width = total.width(base, n_features, hash_bits, parent)
        total.finish(
            writer,
            n_features=width,
            index_base=base,
            hash_bits=hash_bits,
            positive_labels=positive_labels,
            parent=parent,
            dictionary=dictionary,
            lineage=lineage,
        )
    if total.n_skipped:
        notice(
            f"{dataset}: {total.n_skipped} rows could not be read and were left out; "
            f"the first: {total.first_skipped}"
        )
    return Dataset(dataset)


def load_csr(
    X: scipy.sparse.sparray | scipy.sparse.spmatrix | npt.NDArray[Any] | CSR,
    y: npt.ArrayLike | None,
    dataset: str,
    sample_weight: npt.ArrayLike | None = None,
    *,
    positive_labels: Iterable[float] | None = None,
    like: str | Dataset | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
) -> Dataset:
    """Makes a data set of arrays.

    Parameters
    ----------
    X : SciPy sparse matrix or NumPy array [n_rows, n_features], or a CSR (whose labels and
        weights are taken where y and sample_weight are None)
    y : [n_rows] labels
    dataset : bare name, path or URI of the data set to make
    sample_weight : [n_rows] weights >= 0, or None
    positive_labels, like, overwrite, n_threads : as for `load_libsvm`

    Raises
    ------
    DatasetError : lengths disagree, the name is taken, or the labels are not two classes
    """
    threads = _thread_count(n_threads)
    parent = Dataset(like) if isinstance(like, str) else like
    if parent is not None:
        if parent.manifest.index_base != 0:
            raise DatasetError(f"{parent.name}: has one-based ids; arrays are zero-based")
        _labels_like(positive_labels)
    if y is None and not isinstance(X, CSR):
        raise DatasetError("y is missing: arrays need labels to be a data set")
    rows = as_rows(X, y, sample_weight)
    weights = rows.weights
    if weights is not None and not (np.isfinite(weights) & (weights >= 0)).all():
        raise DatasetError("sample_weight must be finite numbers >= 0")
    existing = _existing(dataset, None, overwrite)
    if existing is not None:
        return existing
    lineage = {"source": [{"arrays": True}], "options": {}}
    dictionary = Dictionary.build(rows)
    with DatasetWriter(resolve(dataset)) as writer:
        total = _Total()
        for part in ordered_map(
            lambda span: _encode(_slice(rows, *span), dictionary), _spans(rows.n_rows), threads
        ):
            for block in part.blocks:
                writer.add_block(*block)
            total.add(part)
        total.finish(
            writer,
            n_features=rows.n_features,
            hash_bits=None if parent is None else parent.manifest.hash_bits,
            positive_labels=positive_labels,
            parent=parent,
            dictionary=dictionary,
            lineage=lineage,
        )
    return Dataset(dataset)


def normalize(
    src: str | Dataset,
    dst: str,
    scaling: str = MIN_MAX_SCALING,
    *,
    like: str | Dataset | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    on_progress: Progress | None = None,
) -> Dataset:
    """Writes a data set whose columns are scaled; sparsity is kept.

    Parameters
    ----------
    src, dst : the data set to read, and the one to make
    scaling : MIN_MAX_SCALING: column maximum 1 and minimum 0, where absent entries count as 0; a
        column with absent entries and a negative minimum is divided by its range but not shifted
        (the intercept absorbs that). MAX_ABS_SCALING: divided by the largest absolute value.
        STANDARD_SCALING: divided by the root mean square of the stored entries.
    like : a scaled data set whose scaling to use again, for a test set; its columns that src lacks
        and columns unknown to it are left as they are
    overwrite, n_threads : as for `load_libsvm`
    on_progress : called with the number of rows done

    Returns
    -------
    Dataset. A model trained on it carries the scaling, so it scores raw rows too.
    """
    threads = _thread_count(n_threads)
    if scaling not in SCALINGS:
        raise OptionError(f"unknown scaling {scaling!r}: choose one of {', '.join(SCALINGS)}")
    source = Dataset(src) if isinstance(src, str) else src
    if source.manifest.scaling is not None:
        raise DatasetError(f"{source.name}: is scaled already; normalize the data set it came from")
    if resolve(dst) == source.uri:
        raise DatasetError(f"{dst}: a data set cannot be normalized onto itself")
    parent = Dataset(like) if isinstance(like, str) else like
    if parent is None:
        fitted = Scaling.fit(scaling, source.columns, source.n_rows)
    else:
        fitted = _scaling_of(parent, scaling, source)
    lineage = {
        "source": [{"dataset": source.id}],
        "options": {"scaling": scaling, "scaling_id": fitted.id},
    }
    existing = _existing(dst, lineage, overwrite)
    if existing is not None:
        return existing
    base = source.manifest.index_base

    def scaled(block: Block) -> CSR:
        return fitted.apply_rows(source.read_block(block))

    with DatasetWriter(resolve(dst)) as writer:
        dictionary = None
        if source.blocks:
            dictionary = Dictionary.build(_as_written(scaled(source.blocks[0]), base))
        total = _Total()
        for part in ordered_map(
            lambda block: _encode(_as_written(scaled(block), base), dictionary),
            source.blocks,
            threads,
        ):
            for block in part.blocks:
                writer.add_block(*block)
            total.add(part)
            if on_progress is not None:
                on_progress(writer.n_rows)
        total.finish(
            writer,
            n_features=source.n_features,
            index_base=base,
            hash_bits=source.manifest.hash_bits,
            parent=source,
            dictionary=dictionary,
            lineage=lineage,
            scaling=fitted,
        )
    return Dataset(dst)


class _Total:
    """What the parts of a data set add up to."""

    def __init__(self) -> None:
        self.labels: Counter[float] = Counter()
        self.label_weights: Counter[float] = Counter()
        self.columns = ColumnStatistics.empty()
        self.min_index: int | None = None
        self.max_index: int | None = None
        self.longest_row = 0
        self.has_weights = False
        self.n_skipped = 0
        self.first_skipped: LibsvmParseError | None = None

    def add(self, part: _Encoded) -> None:
        self.labels.update(part.labels)
        self.label_weights.update(part.label_weights)
        if len(self.labels) > MOST_LABELS:
            raise DatasetError(f"more than {MOST_LABELS} different labels; classes are needed")
        self.columns = self.columns.merge(part.columns)
        if part.min_index is not None and part.max_index is not None:
            low, high = self.min_index, self.max_index
            self.min_index = part.min_index if low is None else min(low, part.min_index)
            self.max_index = part.max_index if high is None else max(high, part.max_index)
        self.longest_row = max(self.longest_row, part.longest_row)
        self.has_weights |= part.has_weights
        self.n_skipped += part.n_skipped
        self.first_skipped = self.first_skipped or part.first_skipped

    def base(self, zero_based: bool | str) -> int:
        """The id that counts as the first column."""
        if zero_based == "auto":
            return 0 if self.min_index == 0 else 1
        return 0 if zero_based else 1

    def width(
        self, base: int, n_features: int | None, hash_bits: int | None, parent: Dataset | None
    ) -> int:
        needed = 0 if self.max_index is None else self.max_index + 1 - base
        if hash_bits is not None:
            return 1 << hash_bits
        if n_features is None:
            return needed if parent is None else max(needed, parent.n_features)
        if needed > n_features:
            raise DatasetError(
                f"feature id {self.max_index} is beyond n_features={n_features} "
                f"(ids start at {base}); raise n_features or leave it out"
            )
        return n_features

    def finish(
        self,
        writer: DatasetWriter,
        *,
        n_features: int,
        parent: Dataset | None,
        dictionary: Dictionary | None,
        lineage: dict[str, Any],
        index_base: int = 0,
        hash_bits: int | None = None,
        positive_labels: Iterable[float] | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        if parent is not None:
            label_map = parent.manifest.label_map
            label_map.positives(np.fromiter(self.labels, np.float32))
        else:
            label_map = LabelMap.decide(self.labels, positive_labels)
        writer.finish(
            n_features=n_features,
            longest_row=self.longest_row,
            n_positive=sum(self.labels[label] for label in label_map.positive),
            weight=sum(self.label_weights.values()),
            positive_weight=sum(self.label_weights[label] for label in label_map.positive),
            index_base=index_base,
            hash_bits=hash_bits,
            label_map=label_map,
            has_weights=self.has_weights,
            dictionary=dictionary,
            columns=self.columns.shifted(index_base),
            lineage=lineage,
            scaling=scaling,
        )


def _text_rows(text: ParsedText) -> CSR:
    """Parsed rows with their ids as written."""
    width = 0 if text.max_index is None else text.max_index + 1
    return CSR(text.labels, text.indptr, text.indices, text.data, width, text.weights)


def _encode(rows: CSR, dictionary: Dictionary | None, text: ParsedText | None = None) -> _Encoded:
    """Blocks of rows whose ids are as they shall be stored."""
    blocks = []
    for begin, end in _spans(rows.n_rows):
        part = _slice(rows, begin, end)
        raw = encode_block(
            part.labels, part.indptr, part.indices, part.data, part.weights, dictionary
        )
        blocks.append((raw, part.n_rows, int(part.indptr[-1] - part.indptr[0])))
    labels, label_weights = count_labels(rows.labels, rows.weights)
    used = slice(int(rows.indptr[0]), int(rows.indptr[-1]))
    columns = ColumnStatistics.scan(rows.indices[used], rows.data[used], rows.n_features)
    return _Encoded(
        blocks=blocks,
        labels=labels,
        label_weights=label_weights,
        columns=columns,
        min_index=int(columns.ids[0]) if len(columns.ids) else None,
        max_index=int(columns.ids[-1]) if len(columns.ids) else None,
        longest_row=int(np.diff(rows.indptr).max(initial=0)),
        has_weights=rows.weights is not None,
        n_skipped=0 if text is None else text.n_skipped,
        first_skipped=None if text is None else text.first_skipped,
    )


def _spans(n_rows: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, n_rows, BLOCK_ROWS):
        yield begin, min(begin + BLOCK_ROWS, n_rows)


def _slice(rows: CSR, begin: int, end: int) -> CSR:
    """Rows [begin, end) as views; indptr keeps counting in the whole."""
    return CSR(
        rows.labels[begin:end],
        rows.indptr[begin : end + 1],
        rows.indices,
        rows.data,
        rows.n_features,
        None if rows.weights is None else rows.weights[begin:end],
    )


def _as_written(rows: CSR, base: int) -> CSR:
    """Rows with the index base put back on."""
    if base == 0:
        return rows
    return CSR(
        rows.labels,
        rows.indptr,
        rows.indices + np.uint32(base),
        rows.data,
        rows.n_features + base,
        rows.weights,
    )


def _text_like(
    parent: Dataset, zero_based: bool | str, hash_bits: int | None
) -> tuple[bool | Literal["auto"], int | None]:
    """How text is read so that its ids mean what the parent's mean."""
    theirs = parent.manifest
    if hash_bits not in (None, theirs.hash_bits):
        raise OptionError(
            f"hash_bits={hash_bits} contradicts like={parent.name!r}, "
            f"which has hash_bits={theirs.hash_bits}"
        )
    if theirs.hash_bits is not None:
        return "auto", theirs.hash_bits
    base_is_zero = theirs.index_base == 0
    if zero_based not in ("auto", base_is_zero):
        raise OptionError(
            f"zero_based={zero_based} contradicts like={parent.name!r}, whose ids start at "
            f"{theirs.index_base}"
        )
    return base_is_zero, None


def _labels_like(positive_labels: object) -> None:
    if positive_labels is not None:
        raise OptionError("positive_labels comes from like=; give only one of them")


def _scaling_of(parent: Dataset, scaling: str, source: Dataset) -> Scaling:
    fitted = parent.scaling
    if fitted is None:
        raise DatasetError(f"{parent.name}: is not scaled, so like= has nothing to take from it")
    if fitted.method != scaling:
        raise OptionError(
            f"scaling={scaling!r} contradicts like={parent.name!r}, which is {fitted.method!r}"
        )
    theirs, ours = parent.manifest, source.manifest
    if (theirs.index_base, theirs.hash_bits) != (ours.index_base, ours.hash_bits):
        raise DatasetError(
            f"{source.name} and {parent.name} number or hash ids differently; "
            f"load {source.name} again with like="
        )
    return fitted


def _existing(name: str, lineage: dict[str, Any] | None, overwrite: bool) -> Dataset | None:
    """The data set to reuse, or None if there is room for a new one."""
    if not datasets.exists(name):
        return None
    try:
        there = Dataset(name)
    except DatasetError:
        if overwrite:
            return None
        raise
    if lineage is not None and there.manifest.lineage == lineage:
        notice(f"{name}: reused, it was made of the same source with the same options")
        return there
    if not overwrite:
        raise DatasetError(
            f"{name}: a data set of this name was made of something else; "
            "choose another name, or replace it with overwrite=True"
        )
    return None


def _thread_count(n_threads: int | None) -> int:
    if n_threads is None:
        return available_cores()
    if isinstance(n_threads, bool) or not isinstance(n_threads, int) or n_threads < 1:
        raise OptionError(f"n_threads must be a whole number from 1 up, not {n_threads!r}")
    return n_threads
