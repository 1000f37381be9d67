"""Getting data in: text or arrays into data sets, and data sets into scaled ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from cirrus_fast.data import loading, sources
from cirrus_fast.data.arguments import check_count, check_flag
from cirrus_fast.data.blocks import Dictionary
from cirrus_fast.data.columns import (
    MAX_ABS_SCALING,
    MIN_MAX_SCALING,
    SCALINGS,
    STANDARD_SCALING,
    Scaling,
)
from cirrus_fast.data.criteo import DEFAULT_BITS, check_bits
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.dataset_writer import DatasetWriter
from cirrus_fast.data.formats import CRITEO, LIBSVM
from cirrus_fast.data.loading import (
    Elsewhere,
    Ids,
    Items,
    Total,
    existing,
    row_slice,
    spans,
    text_items,
    write_dataset,
)
from cirrus_fast.data.parallel import thread_count
from cirrus_fast.data.reading import CriteoReader, LibsvmReader, Part, TextReader
from cirrus_fast.data.rows import as_rows, check_numbers
from cirrus_fast.data.scaled import sample_scaled, scaled_items
from cirrus_fast.data.sources import Chunk, Source
from cirrus_fast.data.storage import absolute, resolve
from cirrus_fast.data.text import MAX_INDEX
from cirrus_fast.errors import DatasetError, OptionError

if TYPE_CHECKING:
    import scipy.sparse

    from cirrus_fast.backend.unit_tasks import TaskExecutor

__all__ = [
    "MAX_ABS_SCALING",
    "MIN_MAX_SCALING",
    "STANDARD_SCALING",
    "load_criteo",
    "load_csr",
    "load_libsvm",
    "normalize",
]

Progress = Callable[[int], object]
Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_libsvm(
    source: Sources,
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
    executor: str | Executor | None = None,
) -> Dataset:
    """Turns LibSVM text of any size into a data set, in bounded memory.

    Parameters
    ----------
    source : path, file:// or s3:// URI, glob pattern, "-" for standard input, or a list of these;
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
    executor : where text is read and shards are written: "local" (threads of this process, the
        default), "processes", "lambda" (a function of AWS Lambda, from S3 to S3), or a
        concurrent.futures.Executor, which must reach the source and the data set under the same
        names; n_threads is then how many parts are under way at once

    Returns
    -------
    Dataset. Loading the same source again with the same options reuses what is there, and goes on
    where such a load broke off: its process was killed, or storage was out of reach.

    Raises
    ------
    LibsvmParseError : with file, line, column and byte of the first row that cannot be read
    DatasetError : the name is taken, or the labels are not two classes
    """
    threads = thread_count(n_threads)
    tasks_on = _checked(executor)
    if not (isinstance(zero_based, str) and zero_based == "auto"):
        zero_based = check_flag("zero_based", zero_based, 'True, False or "auto"')
    n_features = check_count("n_features", n_features, 0, 2**32)
    hash_bits = check_count("hash_bits", hash_bits, 1, 32)
    label_weights = check_flag("label_weights", label_weights)
    allow_nonfinite = check_flag("allow_nonfinite", allow_nonfinite)
    found = Source.find(source)
    parent = Dataset(like) if isinstance(like, str) else like
    if positive_labels is not None:
        positive_labels = [float(label) for label in positive_labels]
    if parent is not None:
        zero_based, hash_bits = _text_like(parent, zero_based, hash_bits)
        _labels_like(positive_labels)
    if hash_bits is not None and n_features not in (None, 2**hash_bits):
        raise OptionError(
            f"n_features={n_features} contradicts hash_bits={hash_bits}: "
            f"leave it out, the width is {2**hash_bits}"
        )
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
    reused = existing(dataset, None if found.is_stdin else lineage, overwrite)
    if reused is not None:
        return reused

    # "auto" is settled at the end: until then the larger of both limits holds.
    limit = MAX_INDEX
    if n_features is not None and hash_bits is None:
        limit = min(n_features - (zero_based is True), MAX_INDEX)
    reader = LibsvmReader(
        zero_based=None if zero_based == "auto" else zero_based is True,
        max_index=limit,
        hash_bits=hash_bits,
        label_weights=label_weights,
        allow_nonfinite=allow_nonfinite,
        skip_bad_rows=skip_bad_rows,
    )
    at_limit: Chunk | None = None  # the first chunk with an index that a base of 0 would refuse

    def note(chunk: Chunk, max_index: int | None) -> None:
        nonlocal at_limit
        if at_limit is None and max_index == n_features and max_index is not None:
            at_limit = chunk

    def ids(total: Total) -> Ids:
        if hash_bits is not None:
            return Ids(1 << hash_bits, hash_bits=hash_bits)
        base = _base(zero_based, total)
        needed = 0 if total.max_index is None else total.max_index + 1 - base
        if n_features is None:
            return Ids(needed if parent is None else max(needed, parent.n_features), base)
        if needed > n_features:
            # Where others have read it, the chunk has to be looked for.
            for chunk in reader.chunks(found) if at_limit is None else [at_limit]:
                reader.refuse_largest(chunk)
            raise DatasetError(f"{dataset}: its source changed while it was read")
        return Ids(n_features, base)

    def ids_of_text(total: Total) -> Ids:
        return replace(ids(total), label_weights=label_weights, allow_nonfinite=allow_nonfinite)

    return write_dataset(
        dataset,
        text_items(reader, found, reader.by_lines(loading.BLOCK_ROWS)),
        ids_of_text,
        lineage=lineage,
        n_threads=threads,
        overwrite=overwrite,
        goes_on=not found.is_stdin,
        positive_labels=positive_labels,
        parent=parent,
        on_progress=on_progress,
        on_item=note,
        elsewhere=_text_tasks(tasks_on, reader, found, n_threads, on_progress),
    )


def load_criteo(
    source: Sources,
    dataset: str,
    bits: int | None = None,
    *,
    has_labels: bool | None = None,
    skip_bad_rows: bool = False,
    like: str | Dataset | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    on_progress: Progress | None = None,
    executor: str | Executor | None = None,
) -> Dataset:
    """Turns rows of Criteo's click logs, of any size, into a data set, in bounded memory.

    Rows are a label 0 or 1, 13 integer columns and 26 categories, parted by tabs (the logs as
    published: no header, empty columns at the end of a row may be missing) or commas; a header
    ``[Id,][Label,]I1..I13,C1..C26`` says which columns there are, and an id is passed over.

    The integer columns become ids 0 to 12 with their values. A 0 is kept as an entry: it is not
    the same as an empty cell, which becomes none. A category becomes an id in 13 .. 2**bits - 1
    with value 1, by a fixed hash of its column and its bytes; where two of a row meet, the values
    are summed.

    Parameters
    ----------
    source : as for `load_libsvm`
    dataset : bare name, path or URI of the data set to make
    bits : int in 5..31, the data set has 2**bits features; by default 19, or what `like` has
    has_labels : False for text without a header and without labels (a published test set); such
        rows get the label 0, as do those whose header has no label
    skip_bad_rows : leave rows out that cannot be read, and say how many
    like : data set of Criteo rows whose bits this one shares (a test set's training set)
    overwrite, n_threads, on_progress, executor : as for `load_libsvm`

    Returns
    -------
    Dataset. Loading the same source again with the same options reuses what is there.

    Raises
    ------
    CriteoParseError : with file, line, column and byte of the first row that cannot be read
    DatasetError : the name is taken
    """
    threads = thread_count(n_threads)
    tasks_on = _checked(executor)
    if has_labels is not None:
        has_labels = check_flag("has_labels", has_labels, "True, False or None")
    found = Source.find(source)
    parent = Dataset(like) if isinstance(like, str) else like
    width = _bits_like(parent, bits)
    lineage = {
        "source": found.lineage(),
        "options": {
            "format": CRITEO,
            "bits": width,
            "has_labels": has_labels,
            "skip_bad_rows": skip_bad_rows,
            "like": None if parent is None else parent.id,
        },
    }
    reused = existing(dataset, None if found.is_stdin else lineage, overwrite)
    if reused is not None:
        return reused
    reader = CriteoReader(width, has_labels, skip_bad_rows)
    return write_dataset(
        dataset,
        text_items(reader, found, lambda chunk: [reader.read(chunk)]),
        lambda _: Ids(1 << width, hash_bits=width, text_format=CRITEO),
        lineage=lineage,
        n_threads=threads,
        overwrite=overwrite,
        goes_on=not found.is_stdin,
        parent=parent,
        on_progress=on_progress,
        elsewhere=_text_tasks(tasks_on, reader, found, n_threads, on_progress),
    )


def load_csr(
    X: scipy.sparse.sparray | scipy.sparse.spmatrix | npt.NDArray[Any] | CSR,
    y: npt.ArrayLike | None,
    dataset: str,
    sample_weight: npt.ArrayLike | None = None,
    *,
    allow_nonfinite: bool = False,
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
    allow_nonfinite : accept nan and inf as values
    positive_labels, like, overwrite, n_threads : as for `load_libsvm`

    Raises
    ------
    DatasetError : lengths disagree, a number is not finite, the name is taken, or the labels are
        not two classes
    """
    threads = thread_count(n_threads)
    allow_nonfinite = check_flag("allow_nonfinite", allow_nonfinite)
    parent = Dataset(like) if isinstance(like, str) else like
    if parent is not None:
        if parent.manifest.index_base != 0:
            raise DatasetError(f"{parent.name}: has one-based ids; arrays are zero-based")
        _labels_like(positive_labels)
    if y is None and not isinstance(X, CSR):
        raise DatasetError("y is missing: arrays need labels to be a data set")
    rows = as_rows(X, y, sample_weight)
    check_numbers(rows, allow_nonfinite=allow_nonfinite)
    reused = existing(dataset, None, overwrite)
    if reused is not None:
        return reused
    ids = Ids(rows.n_features) if parent is None else Ids.like(parent.manifest, rows.n_features)
    if ids.text_format == LIBSVM:  # text of such rows, as `export_libsvm` writes it
        weighed = rows.weights is not None
        ids = replace(ids, label_weights=weighed, allow_nonfinite=allow_nonfinite)
    return write_dataset(
        dataset,
        Items(
            lambda _: spans(rows.n_rows),
            lambda span: [Part(row_slice(rows, *span))],
            lambda span: int(rows.indptr[span[0]]) // _UNIT_ENTRIES,
            lambda span: span[1] - span[0],
        ),
        lambda _: ids,
        lineage={"source": [{"arrays": True}], "options": {}},
        n_threads=threads,
        overwrite=overwrite,
        goes_on=False,
        positive_labels=positive_labels,
        parent=parent,
        sample=lambda: rows,
    )


# Of arrays, that are written together.
_UNIT_ENTRIES = 1 << 25


def normalize(
    src: str | Dataset,
    dst: str,
    scaling: str = MIN_MAX_SCALING,
    *,
    like: str | Dataset | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    on_progress: Progress | None = None,
    executor: str | Executor | None = None,
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
    overwrite, n_threads, executor : as for `load_libsvm`
    on_progress : called with the number of rows done

    Returns
    -------
    Dataset. A model trained on it carries the scaling, so it scores raw rows too. The same call
    goes on where one broke off, as `load_libsvm` does.
    """
    threads = thread_count(n_threads)
    tasks_on = _checked(executor)
    if scaling not in SCALINGS:
        raise OptionError(f"unknown scaling {scaling!r}: choose one of {', '.join(SCALINGS)}")
    source = Dataset(src) if isinstance(src, str) else src
    if source.manifest.scaling is not None:
        raise DatasetError(f"{source.name}: is scaled already; normalize the data set it came from")
    if absolute(resolve(dst)) == absolute(source.uri):
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
    reused = existing(dst, lineage, overwrite)
    if reused is not None:
        return reused
    columns = fitted.scaled(source.columns)
    return write_dataset(
        dst,
        scaled_items(source, fitted),
        lambda _: Ids.like(source.manifest, source.n_features),
        lineage=lineage,
        n_threads=threads,
        overwrite=overwrite,
        parent=source,
        scaling=fitted,
        sample=lambda: sample_scaled(source, fitted),
        columns=columns,
        on_progress=on_progress,
        elsewhere=_scale_tasks(
            tasks_on, source, fitted, n_threads, on_progress, scan=columns is None
        ),
    )


def _text_tasks(
    executor: TaskExecutor | None,
    reader: TextReader,
    source: Source,
    n_threads: int | None,
    on_progress: Progress | None,
) -> Elsewhere | None:
    """What makes the units of text on an executor; None without one."""
    if executor is None:
        return None
    from cirrus_fast.backend.unit_tasks import UnitTasks, check_reach, refuse_streams
    from cirrus_fast.runtime.tasks import text_spec

    check_reach(executor, source.paths)

    if not source.is_cuttable:
        raise refuse_streams(source.paths[0])
    spec = {"text": text_spec(reader, source)}

    def make_dictionary(writer: DatasetWriter, ask: Callable[[dict[str, Any]], str]) -> None:
        writer.take_dictionary(json.loads(ask({"kind": "make dictionary"} | spec))["name"])

    n_units = -(-(source.n_bytes() or 0) // sources.UNIT_BYTES)
    return UnitTasks(
        executor,
        n_threads,
        n_units,
        "load unit",
        lambda _: spec,
        make_dictionary,
        on_progress,
        scan=True,
    )


def _scale_tasks(
    executor: TaskExecutor | None,
    source: Dataset,
    fitted: Scaling,
    n_threads: int | None,
    on_progress: Progress | None,
    *,
    scan: bool,
) -> Elsewhere | None:
    """The same of a data set that is scaled."""
    if executor is None:
        return None
    from cirrus_fast.backend.unit_tasks import UnitTasks, check_reach

    check_reach(executor, [source.uri])

    def more(writer: DatasetWriter) -> dict[str, Any]:
        return {
            "source": absolute(source.uri),
            "source_id": source.id,
            "scaling": writer.write_scaling(fitted),
            "scan": scan,
        }

    def make_dictionary(writer: DatasetWriter, _ask: object) -> None:
        rows = sample_scaled(source, fitted)
        assert rows is not None
        writer.add_dictionary(Dictionary.build(rows))

    n_units = len(source.manifest.shard_sizes)
    return UnitTasks(
        executor, n_threads, n_units, "scale unit", more, make_dictionary, on_progress, scan=scan
    )


def _checked(executor: str | Executor | None) -> TaskExecutor | None:
    if executor is None:
        return None
    from cirrus_fast.backend.unit_tasks import check_executor

    return check_executor(executor)


def _base(zero_based: bool | str, total: Total) -> int:
    """The id that counts as the first column."""
    if zero_based == "auto":
        return 0 if total.min_index == 0 else 1
    return 0 if zero_based else 1


def _text_like(
    parent: Dataset, zero_based: bool | str, hash_bits: int | None
) -> tuple[bool | Literal["auto"], int | None]:
    """How text is read so that its ids mean what the parent's mean."""
    theirs = parent.manifest
    if theirs.text_format != LIBSVM:
        raise OptionError(
            f"like={parent.name!r} is of {theirs.text_format} rows, whose ids LibSVM text does not "
            "have"
        )
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


def _bits_like(parent: Dataset | None, bits: int | None) -> int:
    if parent is None:
        return check_bits(DEFAULT_BITS if bits is None else bits)
    theirs = parent.manifest
    if theirs.text_format != CRITEO or theirs.hash_bits is None:
        raise OptionError(f"like={parent.name!r} is not of Criteo rows")
    if bits not in (None, theirs.hash_bits):
        raise OptionError(
            f"bits={bits} contradicts like={parent.name!r}, which has bits={theirs.hash_bits}"
        )
    return theirs.hash_bits


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
    if theirs.numbering != ours.numbering:
        raise DatasetError(
            f"{source.name} and {parent.name} count ids from different bases, or hash them "
            f"differently; load {source.name} again with like="
        )
    return fitted
