"""A trained linear model: scoring, evaluation, and its file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.columns import Scaling, load_npz
from cirrus_fast.data.criteo import parse_criteo
from cirrus_fast.data.csr import CSR, Float32Array
from cirrus_fast.data.dataset import (
    Dataset,
    iterate,
    scaling_from_arrays,
    scaling_to_arrays,
)
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.formats import CRITEO, LIBSVM
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.parallel import available_cores, ordered_map
from cirrus_fast.data.reading import CriteoReader, LibsvmReader, TextReader
from cirrus_fast.data.rows import as_rows
from cirrus_fast.data.sources import Chunk, Source, names_text
from cirrus_fast.data.storage import is_s3, local_path, open_storage, write_file
from cirrus_fast.data.text import parse_libsvm
from cirrus_fast.errors import DatasetError, ModelError

if TYPE_CHECKING:
    import scipy.sparse

FORMAT = "cirrus_fast linear model"
FORMAT_VERSION = 1

Rows: TypeAlias = "CSR | Dataset | str | bytes | scipy.sparse.sparray | npt.NDArray[Any]"


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """P(positive) = 1 / (1 + exp(-(weights . x + intercept))).

    Attributes
    ----------
    weights : float32[n_features], for the values of the data set it was trained on
    intercept : float
    label_map : LabelMap, the labels of the two classes
    index_base : int, the id of the first column in text
    hash_bits : int or None, how text ids are hashed
    scaling : Scaling or None, what raw rows go through before the weights
    params : what it was trained with, for the record
    text_format : "libsvm" or "criteo", what text is read as
    label_weights, allow_nonfinite : how LibSVM text is read, as the training data was
    """

    weights: Float32Array
    intercept: float
    label_map: LabelMap
    index_base: int = 1
    hash_bits: int | None = None
    scaling: Scaling | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    text_format: str = LIBSVM
    label_weights: bool = False
    allow_nonfinite: bool = False

    @property
    def n_features(self) -> int:
        return len(self.weights)

    @property
    def nnz(self) -> int:
        """Weights that are not 0."""
        return int(np.count_nonzero(self.weights))

    def decision_function(self, data: Rows) -> Float32Array:
        """Margins, float32[n_rows].

        `data` is raw rows, which go through the model's scaling: a CSR, a SciPy sparse matrix, a
        NumPy array, or text as bytes or the name of its file (LibSVM text; Criteo rows for a model
        of such); or a Dataset or the name of one, which must be raw or have been scaled as the
        model's was. Columns the model never saw count as nothing.
        """
        parts = list(self.iter_margins(data))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def iter_margins(
        self, data: Rows, *, numbers: Sequence[int] | None = None
    ) -> Iterator[Float32Array]:
        """`decision_function` in pieces, in order, for data that need not fit memory.

        numbers : of the blocks of a data set to take, increasing; by default all
        """
        return map(self._margins, self.scorable(data, numbers=numbers))

    def predict_proba(self, data: Rows) -> Float32Array:
        """float32[n_rows, 2]: the probabilities of the negative and of the positive class."""
        margins = self.decision_function(data)
        return np.stack([self.probabilities(-margins), self.probabilities(margins)], axis=1)

    def predict(self, data: Rows) -> Float32Array:
        """float32[n_rows] labels as written in the training data; for a class of several labels
        the smallest stands for it."""
        return self.labels(self.decision_function(data))

    def probabilities(self, margins: Float32Array) -> Float32Array:
        """float32[n_rows] of the positive class, for margins that `decision_function` gave."""
        p = np.empty_like(margins)
        _kernels.logistic_probabilities(margins, p)
        return p

    def labels(self, margins: Float32Array) -> Float32Array:
        """float32[n_rows], what `predict` gives for such margins."""
        negative = self.label_map.negative[0] if self.label_map.negative else 0.0
        positive = self.label_map.positive[0]
        return np.where(margins > 0, positive, negative).astype(np.float32)

    def evaluate(
        self,
        data: Rows,
        y: npt.ArrayLike | None = None,
        *,
        numbers: Sequence[int] | None = None,
        on_rows: Callable[[int], object] = lambda _n: None,
    ) -> Evaluation:
        """Compares with labels: those of `data`, or `y` where `data` has none.

        numbers : as for `iter_margins`; on_rows : called with the rows done, now and then
        """
        if y is None and not isinstance(data, CSR | Dataset | str | bytes | bytearray | memoryview):
            raise DatasetError("arrays have no labels of their own; give y")
        margins, positives, weights = [], [], []
        for rows in self.scorable(data, y, numbers=numbers):
            margins.append(self._margins(rows))
            on_rows(sum(map(len, margins)))
            positives.append(self.label_map.positives(rows.labels))
            weights.append(rows.weights)
        if not sum(map(len, margins)):
            raise DatasetError("there are no rows to evaluate")
        weighed = None
        if any(part is not None for part in weights):
            ones = (np.ones(len(part), np.float32) for part in margins)
            pairs = zip(weights, ones, strict=True)
            weighed = np.concatenate([one if part is None else part for part, one in pairs])
        return Evaluation.of(np.concatenate(margins), np.concatenate(positives), weighed)

    def _parse(self, text: bytes | bytearray | memoryview) -> CSR:
        if self.text_format == CRITEO:
            return parse_criteo(text, self.hash_bits or 0)
        return parse_libsvm(text, **self._reading)

    def text_reader(self) -> TextReader:
        """What reads text of any size as this model's training data was read."""
        if self.text_format == CRITEO:
            return CriteoReader(self.hash_bits or 0)
        return LibsvmReader(**self._reading)

    @property
    def _reading(self) -> dict[str, Any]:
        """Options of `parse_libsvm`."""
        base = {"zero_based": self.index_base == 0} if self.hash_bits is None else {}
        return base | {
            "hash_bits": self.hash_bits,
            "label_weights": self.label_weights,
            "allow_nonfinite": self.allow_nonfinite,
        }

    def _margins(self, rows: CSR) -> Float32Array:
        margins = np.empty(rows.n_rows, np.float32)
        _kernels.logistic_margins(
            rows.indptr, rows.indices, rows.data, self.weights, self.intercept, margins
        )
        return margins

    def scorable(
        self,
        data: Rows,
        y: npt.ArrayLike | None = None,
        *,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[CSR]:
        """The rows, scaled as the weights expect, in pieces that fit memory."""
        if isinstance(data, str) and names_text(data):
            if y is not None:
                raise DatasetError(f"{data}: has labels of its own; leave y out")
            yield from self._scorable_text(data)
            return
        if isinstance(data, str | Dataset):
            dataset = Dataset(data) if isinstance(data, str) else data
            if y is not None:
                raise DatasetError(f"{dataset.name}: has labels of its own; leave y out")
            scale = self._scaling_for(dataset)
            for rows in iterate(dataset, numbers):
                yield rows if scale is None else scale.apply_rows(rows)
            return
        if isinstance(data, bytes | bytearray | memoryview):
            data = self._parse(data)
        rows = as_rows(data, y)
        yield rows if self.scaling is None else self.scaling.apply_rows(rows)

    def _scorable_text(self, name: str) -> Iterator[CSR]:
        """Text of any size, a few chunks of it in memory."""
        reader = self.text_reader()

        def read(chunk: Chunk) -> CSR:
            rows, base = reader.read(chunk).rows, self.index_base
            width = max(rows.n_features - base, self.n_features)
            rows = replace(rows, indices=rows.indices - np.uint32(base), n_features=width)
            return rows if self.scaling is None else self.scaling.apply_rows(rows)

        chunks = reader.chunks(Source.find(name))
        yield from ordered_map(read, chunks, available_cores())

    def _scaling_for(self, dataset: Dataset) -> Scaling | None:
        """What is still to be done to a data set's values."""
        manifest = dataset.manifest
        if manifest.index_base != self.index_base:
            raise DatasetError(
                f"{dataset.name}: ids start at {manifest.index_base}, the model's at "
                f"{self.index_base}; load it again with like= the training set"
            )
        theirs = _hashing(manifest.hash_bits, manifest.text_format)
        ours = _hashing(self.hash_bits, self.text_format)
        if theirs != ours:
            raise DatasetError(
                f"{dataset.name}: has {theirs}, the model has {ours}; "
                "load it again with like= the training set"
            )
        if manifest.scaling_id is None:
            return self.scaling
        if self.scaling is None or self.scaling.id != manifest.scaling_id:
            raise DatasetError(
                f"{dataset.name}: was scaled otherwise than the model's training data; "
                "normalize it with like= the training set, or give the raw data set"
            )
        return None

    # The file

    def to_arrays(self) -> dict[str, Any]:
        """What an .npz file keeps of the model; docs/model-format.md."""
        ids = np.flatnonzero(self.weights).astype(np.uint32)
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "n_features": self.n_features,
            "intercept": self.intercept,
            "index_base": self.index_base,
            "hash_bits": self.hash_bits,
            "text_format": self.text_format,
            "label_weights": self.label_weights,
            "allow_nonfinite": self.allow_nonfinite,
            "labels": self.label_map.to_json(),
            "scaling_id": None if self.scaling is None else self.scaling.id,
            "params": dict(self.params),
        }
        arrays = {"model": json.dumps(header), "ids": ids, "weights": self.weights[ids]}
        if self.scaling is not None:
            arrays |= scaling_to_arrays(self.scaling)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], where: str) -> LinearModel:
        try:
            header = json.loads(str(arrays["model"]))
            if header["format"] != FORMAT:
                raise ModelError(f"{where}: not a cirrus_fast model")
            if header["format_version"] > FORMAT_VERSION:
                raise ModelError(
                    f"{where}: format version {header['format_version']} is newer than this "
                    f"package reads ({FORMAT_VERSION}); upgrade cirrus-fast"
                )
            weights = np.zeros(header["n_features"], np.float32)
            weights[arrays["ids"]] = arrays["weights"]
            scaling = None
            if header["scaling_id"] is not None:
                scaling = scaling_from_arrays(arrays, where)
                if scaling.id != header["scaling_id"]:
                    raise ModelError(f"{where}: damaged (its scaling is another one)")
            return cls(
                weights=weights,
                intercept=header["intercept"],
                label_map=LabelMap.from_json(header["labels"]),
                index_base=header["index_base"],
                hash_bits=header["hash_bits"],
                scaling=scaling,
                params=header["params"],
                text_format=header.get("text_format", LIBSVM),
                label_weights=bool(header.get("label_weights", False)),
                allow_nonfinite=bool(header.get("allow_nonfinite", False)),
            )
        except (KeyError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{where}: damaged or not a model ({error})") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one .npz file, or an object at s3://, whole or not at all; NumPy alone can read
        it."""
        content, where = npz_bytes(self.to_arrays()), os.fspath(path)
        if is_s3(where):
            folder, _, name = where.rpartition("/")
            open_storage(folder).write(name, content)
        else:
            write_file(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearModel:
        """Reads what `save` wrote, or the model inside a saved TrainResult."""
        return cls.from_arrays(read_npz(path), os.fspath(path))

    def to_text(self) -> str:
        """Lines of "id weight" with ids as in text, for the weights that are not 0; the first
        line is "intercept value". Weights are for scaled values where there is a scaling."""
        ids = np.flatnonzero(self.weights)
        pairs = zip((ids + self.index_base).tolist(), self.weights[ids].tolist(), strict=True)
        lines = [f"intercept {self.intercept:.9g}", *(f"{i} {w:.9g}" for i, w in pairs)]
        return "\n".join(lines) + "\n"

    def to_sklearn(self) -> Any:
        """A fitted sklearn.linear_model.LogisticRegression for raw rows.

        The scaling is folded into the weights, so a row that lacks a column which every training
        row had is scored as if that column were 0 there.
        """
        from sklearn.linear_model import LogisticRegression

        weights, intercept = self.weights.astype(np.float64), self.intercept
        if self.scaling is not None:
            known = self.scaling.ids < self.n_features
            ids = self.scaling.ids[known]
            weights[ids] /= self.scaling.divisor[known]
            intercept -= float((weights[ids] * self.scaling.shift[known]).sum())
        fitted = LogisticRegression()
        negative = self.label_map.negative[0] if self.label_map.negative else 0.0
        fitted.classes_ = np.array([negative, self.label_map.positive[0]])
        fitted.coef_ = weights.reshape(1, -1)
        fitted.intercept_ = np.array([intercept])
        fitted.n_features_in_ = self.n_features
        return fitted


def _hashing(bits: int | None, text_format: str) -> str:
    if bits is None:
        return "ids as written"
    return f"{'categories' if text_format == CRITEO else 'ids'} hashed to {bits} bits"


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_npz(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a model or result file; anything else is a ModelError."""
    where = os.fspath(path)
    try:
        if is_s3(where):
            folder, _, name = where.rpartition("/")
            return load_npz(open_storage(folder).read(name), where)
        return load_npz(local_path(where).read_bytes(), where)
    except OSError as error:
        raise ModelError(f"{where}: {error.strerror or error}") from error
    except DatasetError as error:
        raise ModelError(f"{error}; is it a saved model?") from error
