"""Sparse logistic regression on short-lived workers. The public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cirrus_fast._version import __version__

if TYPE_CHECKING:
    from cirrus_fast._kernels import active_impl as active_impl
    from cirrus_fast.backend.aws_lambda import LambdaExecutor as LambdaExecutor
    from cirrus_fast.configuration import configure as configure
    from cirrus_fast.data.csr import CSR as CSR
    from cirrus_fast.data.dataset import Dataset as Dataset
    from cirrus_fast.data.dataset import list_datasets as list_datasets
    from cirrus_fast.data.dataset import remove_dataset as remove_dataset
    from cirrus_fast.data.evaluation import Evaluation as Evaluation
    from cirrus_fast.data.generators import make_clicks as make_clicks
    from cirrus_fast.data.model import LinearModel as LinearModel
    from cirrus_fast.data.result import Record as Record
    from cirrus_fast.data.result import TrainResult as TrainResult
    from cirrus_fast.data.text import parse_libsvm as parse_libsvm
    from cirrus_fast.data.traffic import Reads as Reads
    from cirrus_fast.errors import CirrusFastError as CirrusFastError
    from cirrus_fast.errors import CriteoParseError as CriteoParseError
    from cirrus_fast.errors import LibsvmParseError as LibsvmParseError
    from cirrus_fast.export import export_libsvm as export_libsvm
    from cirrus_fast.grid_search import GridSearch as GridSearch
    from cirrus_fast.logistic_regression import LogisticRegression as LogisticRegression
    from cirrus_fast.preprocessing import MAX_ABS_SCALING as MAX_ABS_SCALING
    from cirrus_fast.preprocessing import MIN_MAX_SCALING as MIN_MAX_SCALING
    from cirrus_fast.preprocessing import STANDARD_SCALING as STANDARD_SCALING
    from cirrus_fast.preprocessing import load_criteo as load_criteo
    from cirrus_fast.preprocessing import load_csr as load_csr
    from cirrus_fast.preprocessing import load_libsvm as load_libsvm
    from cirrus_fast.preprocessing import normalize as normalize
    from cirrus_fast.redis_module import redis_module_path as redis_module_path

    LRegression = LogisticRegression


# Public name -> where it lives. Loaded on first use (PEP 562): a worker pays only for its own.
_HOMES = {
    "CSR": "data.csr",
    "CirrusFastError": "errors",
    "CriteoParseError": "errors",
    "Dataset": "data.dataset",
    "Evaluation": "data.evaluation",
    "GridSearch": "grid_search",
    "LambdaExecutor": "backend.aws_lambda",
    "LibsvmParseError": "errors",
    "LinearModel": "data.model",
    "LogisticRegression": "logistic_regression",
    "MAX_ABS_SCALING": "preprocessing",
    "MIN_MAX_SCALING": "preprocessing",
    "Reads": "data.traffic",
    "Record": "data.result",
    "STANDARD_SCALING": "preprocessing",
    "TrainResult": "data.result",
    "active_impl": "_kernels",
    "configure": "configuration",
    "export_libsvm": "export",
    "list_datasets": "data.dataset",
    "load_criteo": "preprocessing",
    "load_csr": "preprocessing",
    "load_libsvm": "preprocessing",
    "make_clicks": "data.generators",
    "normalize": "preprocessing",
    "parse_libsvm": "data.text",
    "redis_module_path": "redis_module",
    "remove_dataset": "data.dataset",
}
# The paper's listing uses both names.
_ALIASES = {"LRegression": "LogisticRegression"}

__all__ = [*_HOMES, *_ALIASES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "_kernels":
        return _load_kernels()
    real = _ALIASES.get(name, name)
    if real not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[real]}"), real)
    globals()[name] = value
    return value


def _load_kernels() -> Any:
    try:
        return import_module(f"{__name__}._kernels")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the compiled kernels are not in {__path__[0]}: run `pip install .` where setup.py "
            "is, or start Python in another folder if this is a source tree"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
