"""The training options: the one table that validation, command line and documentation come from.

Every option is wired or refused. A name that is not here raises with the nearest one that is; an
option that means nothing beside the others raises too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal

from cirrus_fast.errors import OptionError
from cirrus_fast.store_url import SCHEMES, is_store_url, parse_urls


def _option(
    help: str,
    *,
    default: Any = MISSING,
    kind: type | tuple[type, ...],
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] = (),
    flag: bool = True,
) -> Any:
    """One row of the table. `low` and `high` are inclusive, `above` and `below` exclusive."""
    row = {
        "help": help,
        "kind": kind,
        "unit": unit,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": tuple(choices),
        "flag": flag,
    }
    return field(default=default, metadata=row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of one training run, checked. None means "decided from the data", as `help` says."""

    dataset: str = _option(
        "data set to train on: bare name, path or URI; or LibSVM text, a file or an object in S3, "
        "with model_size",
        kind=str,
    )
    test_dataset: str | None = _option(
        "data set, or text, to evaluate on instead of held-out rows", default=None, kind=str
    )
    test_fraction: float | None = _option(
        "share of the rows held out for evaluation; without test_dataset and with epsilon > 0, "
        "5 %, at most 100,000 rows",
        default=None,
        kind=float,
        above=0,
        below=1,
    )
    model_size: int | None = _option(
        "number of weights; by default the data set's number of features",
        default=None,
        kind=int,
        unit="weights",
        low=1,
        high=2**32 - 2,
    )
    fit_intercept: bool = _option("learn an intercept", default=True, kind=bool)
    optimizer: str = _option(
        "how weights learn",
        default="adagrad",
        kind=str,
        choices=("adagrad", "ftrl", "sgd"),
    )
    learning_rate: float | None = _option(
        "step size (ftrl: alpha); by default 0.6 / sqrt(stored entries a row) for adagrad, 0.15 "
        "for ftrl, 0.7 / stored entries a row for sgd, whose rate also falls with "
        "the square root of the epochs done, and for columns that over 16 rows of a step have",
        default=None,
        kind=float,
        above=0,
        high=1e6,
    )
    minibatch_size: int = _option(
        "rows whose gradients are summed for one step",
        default=1,
        kind=int,
        unit="rows",
        low=1,
        high=1_000_000,
    )
    l1: float = _option(
        "strength of |w|_1 in the objective; ftrl gives exact zeros, the others nearly",
        default=0.0,
        kind=float,
        low=0,
    )
    l2: float = _option("strength of |w|^2 / 2 in the objective", default=0.0, kind=float, low=0)
    class_weight: str | tuple[float, float] | None = _option(
        'weights of (negative, positive) rows, or "balanced" for n / (2 n_class)',
        default=None,
        kind=(str, tuple),
    )
    epochs: int = _option(
        "passes over the training rows, at most", default=20, kind=int, low=1, high=1_000_000
    )
    epsilon: float = _option(
        "stop when the test loss has not fallen by this much over `patience` evaluations; "
        "0 trains all epochs",
        default=1e-4,
        kind=float,
        unit="nats per row",
        low=0,
    )
    patience: int = _option(
        "evaluations without progress before stopping", default=5, kind=int, low=1
    )
    eval_interval: float | None = _option(
        "how often to evaluate; by default every 0.1, but of small data at least 20,000 rows or "
        "one epoch apart",
        default=None,
        kind=float,
        unit="epochs",
        above=0,
    )
    threshold_loss: float | None = _option(
        "stop when the test loss is at or below this",
        default=None,
        kind=float,
        unit="nats per row",
        above=0,
    )
    max_cost: float | None = _option(
        "stop before it costs more than this, with executor=lambda, by list prices "
        "(docs/deploying.md)",
        default=None,
        kind=float,
        unit="dollars",
        above=0,
    )
    checkpoint_interval: float | None = _option(
        "write a checkpoint this often, and at the end",
        default=None,
        kind=float,
        unit="seconds",
        above=0,
    )
    resume_from: str | None = _option(
        "checkpoint file to go on from, of a run with the same data and options but for the ones "
        "that say when to stop",
        default=None,
        kind=str,
    )
    timeout: float | None = _option(
        "stop after this long", default=None, kind=float, unit="seconds", above=0
    )
    consistency: str = _option(
        "async: workers update the model as they come, and help those that are slow; "
        "ssp: none is more than `staleness` "
        "mini-batches ahead; bsp: all step together, which is deterministic for a seed",
        default="async",
        kind=str,
        choices=("async", "ssp", "bsp"),
    )
    staleness: int | None = _option(
        "how far a worker may be ahead of the slowest, with ssp; by default 100",
        default=None,
        kind=int,
        unit="mini-batches",
        low=0,
    )
    sync_rows: int | None = _option(
        "rows a worker learns from between exchanges with a parameter store over a network, at "
        "most; by default 20,000, or a fifth of its rows where that is less; with our module by "
        "default none: every mini-batch is a step",
        default=None,
        kind=int,
        unit="rows",
        low=1,
    )
    pipeline_depth: int | None = _option(
        "exchanges a worker has under way to a parameter store over a network at once; by default "
        "1, what it learns from is as fresh as can be; with a plain Redis up to 8, as long as "
        "all workers' are of 2,000 rows at most; with our module and several workers up to 4, of "
        "4,000 rows; and of a hundredth of the data's; with our module and sync_rows 2 at least",
        default=None,
        kind=int,
        unit="exchanges",
        low=1,
        high=64,
    )
    n_workers: int | None = _option(
        "workers; by default one per core, or 10 with executor=lambda, fewer for small data",
        default=None,
        kind=int,
        low=1,
        high=10_000,
    )
    n_ps: int = _option(
        "parts the model is in, spread over the servers that param_store names, or over its "
        "cluster's; at least as many as servers are named, which is what it is unless given. The "
        "model in memory is one",
        default=1,
        kind=int,
        low=1,
        high=1000,
    )
    worker_size: int = _option(
        "memory of a worker, all counted: 50 MB for Python and its packages, the model, rows "
        "decoded and held, blocks of S3 data on their way and kept",
        default=2048,
        kind=int,
        unit="MB",
        low=128,
        high=10_240,
    )
    executor: str | Executor = _option(
        "where workers run: local: threads of this process; processes: other processes of this "
        "machine; lambda: a function of AWS Lambda, which needs a data set in S3 and, but for "
        "models of a search, param_store at a redis:// URL; in Python also any "
        "concurrent.futures.Executor on this machine",
        default="local",
        kind=(str, Executor),
        choices=("local", "processes", "lambda"),
    )
    param_store: str = _option(
        "who holds the model: this machine's memory, or a Redis or Valkey at a redis://, rediss:// "
        "(TLS) or unix:// URL; several with commas between them, in Python also a list",
        default="memory",
        kind=str,
    )
    seed: int = _option(
        "decides hold-out and shuffling", default=0, kind=int, low=0, high=2**63 - 1
    )
    progress: bool | None = _option(
        "report progress on standard error; by default if that is a terminal",
        default=None,
        kind=bool,
    )
    callbacks: tuple[Callable[[Any], Any], ...] = _option(
        "functions called with each history record; a true result stops the run",
        default=(),
        kind=tuple,
        flag=False,
    )

    def to_json(self) -> dict[str, Any]:
        """Every option that JSON can carry; `parse_options` takes it back."""
        values = {row.name: getattr(self, row.name) for row in table() if row.name != "callbacks"}
        return values | {"executor": self.executor_name}

    @property
    def executor_name(self) -> str:
        """What to call the executor in results."""
        return self.executor if isinstance(self.executor, str) else type(self.executor).__name__


def table() -> tuple[Field[Any], ...]:
    """The rows of the table, in order; a row's metadata has help, kind, unit, range, choices."""
    return fields(Options)


def parse_options(given: Mapping[str, Any], *, searched: bool = False) -> Options:
    """Checks options given by name.

    searched : of a model of a search, which on functions needs no param_store

    Raises
    ------
    OptionError : unknown name (the nearest is suggested), wrong type, out of range, or two options
        that contradict each other
    """
    rows = {row.name: row for row in table()}
    checked = {}
    for name, value in given.items():
        if name not in rows:
            near = difflib.get_close_matches(str(name), rows, n=1)
            hint = f": did you mean {near[0]}?" if near else f"; options are {', '.join(rows)}"
            raise OptionError(f"{name}: unknown option{hint}")
        checked[name] = _check(rows[name], value)
    if "dataset" not in checked:
        raise OptionError("dataset: missing; name the data set to train on")
    checked.setdefault("n_ps", checked.get("param_store", "").count(",") + 1)
    options = Options(**checked)
    _check_together(options, checked, searched=searched)
    return options


def _check(row: Field[Any], value: Any) -> Any:
    name, meta = row.name, row.metadata
    if name == "class_weight":
        return _class_weight(value)
    if name == "callbacks":
        return _callbacks(value)
    if name == "executor" and not isinstance(value, str):
        return _executor(value)
    if name == "param_store":
        value = _param_store(value)
    if value is None:
        if row.default is None:
            return None
        raise OptionError(f"{name}: must be given a value, not None")
    value = _typed(name, meta["kind"], value)
    if meta["choices"] and value not in meta["choices"]:
        near = difflib.get_close_matches(str(value), meta["choices"], n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose {' or '.join(meta['choices'])}"
        raise OptionError(f"{name}={value!r} is not known: {hint}")
    for bad, text in (
        (meta["low"] is not None and value < meta["low"], f"at least {meta['low']}"),
        (meta["high"] is not None and value > meta["high"], f"at most {meta['high']}"),
        (meta["above"] is not None and value <= meta["above"], f"above {meta['above']}"),
        (meta["below"] is not None and value >= meta["below"], f"below {meta['below']}"),
    ):
        if bad:
            unit = f" {meta['unit']}" if meta["unit"] else ""
            raise OptionError(f"{name}={value}: must be {text}{unit}")
    return value


def _typed(name: str, kind: type, value: Any) -> Any:
    """The value as the plain Python type of its option; NumPy's scalars are welcome."""
    if kind is bool:
        if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
            return bool(value)
    elif kind is int:
        if isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
    elif kind is float:
        if isinstance(value, Real) and not isinstance(value, bool):
            number = float(value)
            if number != number or number in (float("inf"), float("-inf")):
                raise OptionError(f"{name}={number}: must be a finite number")
            return number
    elif isinstance(value, str):
        return value
    wanted = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[kind]
    raise OptionError(f"{name}={value!r}: must be {wanted}")


def _class_weight(value: Any) -> Literal["balanced"] | tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, str) and value == "balanced":
        return "balanced"
    if isinstance(value, list | tuple) and len(value) == 2:
        negative, positive = (_typed("class_weight", float, item) for item in value)
        if negative > 0 and positive > 0:
            return negative, positive
    raise OptionError(
        f'class_weight={value!r}: must be "balanced" or two numbers above 0, '
        "of the negative and the positive class"
    )


def _param_store(value: Any) -> Any:
    """URLs as they may be shown: a password is kept elsewhere."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        value = ",".join(value)
    if not isinstance(value, str) or value == "memory":
        return value
    if not is_store_url(value):
        near = "memory" if difflib.get_close_matches(value, ["memory"]) else ""
        hint = f"did you mean {near}?" if near else f"memory, or a URL with {', '.join(SCHEMES)}"
        raise OptionError(f"param_store={value.rpartition('@')[2]!r} is not known: {hint}")
    return ",".join(url.shown for url in parse_urls(value))


def _executor(value: Any) -> Executor:
    if isinstance(value, Executor):
        return value
    raise OptionError(
        f"executor={value!r}: must be a name or a concurrent.futures.Executor, such as "
        "ProcessPoolExecutor() or a Dask client's get_executor()"
    )


def _callbacks(value: Any) -> tuple[Callable[[Any], Any], ...]:
    if value is None:
        return ()
    if callable(value):
        return (value,)
    if isinstance(value, list | tuple) and all(map(callable, value)):
        return tuple(value)
    raise OptionError(f"callbacks={value!r}: must be functions")


def _check_together(options: Options, given: Mapping[str, Any], *, searched: bool) -> None:
    if options.test_dataset is not None and options.test_fraction is not None:
        raise OptionError("test_dataset and test_fraction: give only one of them")
    tests = options.test_dataset is not None or options.test_fraction or options.epsilon > 0
    if options.threshold_loss is not None and not tests:
        raise OptionError(
            "threshold_loss: needs test rows; give test_dataset or test_fraction, or epsilon > 0"
        )
    if given.get("patience") is not None and options.epsilon == 0:
        raise OptionError("patience: means nothing with epsilon=0, which trains all epochs")
    if is_store_url(options.param_store):
        _check_redis(options)
    else:
        for name in ("n_ps", "sync_rows", "pipeline_depth"):
            if getattr(options, name) not in (None, 1) or (name != "n_ps" and given.get(name)):
                raise OptionError(
                    f"{name}={getattr(options, name)}: means nothing with "
                    f"param_store={options.param_store!r}, which is one and answers at once; it is "
                    "for a redis:// URL"
                )
    if options.executor == "lambda" and not searched:
        needs_store(options)
    rented = options.executor_name in ("lambda", "LambdaExecutor")
    if options.max_cost is not None and not rented:
        raise OptionError(
            f"max_cost: means nothing with executor={options.executor_name!r}: costs arise only "
            "where workers are rented, which is executor=lambda"
        )
    if options.staleness is not None and options.consistency != "ssp":
        raise OptionError(f'staleness: means nothing with consistency="{options.consistency}"')
    if options.staleness is not None and options.n_workers == 1:
        raise OptionError("staleness: means nothing with n_workers=1, who has nobody to wait for")


def needs_store(options: Options) -> None:
    """Refuses a model in memory, or on a socket of this machine, for workers on other ones."""
    if options.param_store.startswith("unix://"):
        raise OptionError(
            f"param_store={options.param_store!r}: executor=lambda cannot reach a socket of this "
            "machine; give a redis:// URL that the function reaches"
        )
    if not is_store_url(options.param_store):
        raise OptionError(
            f"param_store={options.param_store!r}: executor=lambda cannot reach this machine's "
            "memory; give the redis:// URL of a server that the function reaches"
        )


def needs_module(options: Options) -> str:
    """Why a plain Redis will not do for these options; empty if it will."""
    if options.optimizer == "ftrl":
        return (
            "optimizer=ftrl: its state does not add up as weights do, so a plain Redis cannot hold "
            "it; take adagrad or sgd, a server with our module, or param_store=memory"
        )
    if options.consistency == "bsp":
        return (
            "consistency=bsp: a plain Redis cannot sum gradients; take ssp or async, a server with "
            "our module, or param_store=memory"
        )
    return ""


def _check_redis(options: Options) -> None:
    urls = parse_urls(options.param_store)
    stores = {url.store for url in urls}
    if len(stores) > 1:
        raise OptionError("param_store: ?store= must be the same in all URLs")
    why = needs_module(options)
    if why and stores == {"bitfield"}:
        raise OptionError(why)
    if why and options.sync_rows is not None:
        what = why.partition(":")[0]
        raise OptionError(
            f"sync_rows={options.sync_rows}: workers that learn on copies of the model cannot have "
            f"{what}; leave one of them out"
        )
    if options.sync_rows is not None and options.sync_rows < options.minibatch_size:
        raise OptionError(
            f"sync_rows={options.sync_rows}: is less than one mini-batch of "
            f"{options.minibatch_size} rows"
        )
    servers = len(urls)
    if options.n_ps < servers:
        raise OptionError(f"n_ps={options.n_ps}: is less than the {servers} servers of param_store")


def options_markdown() -> str:
    """The table as docs/options.md; `python -m cirrus_fast.options` prints it."""
    lines = [
        "# Training options",
        "",
        "Given to `LogisticRegression` by name, to `cirrus-fast train` as `--name-with-dashes`.",
        "An unknown name, a value out of range, an option that means nothing beside the others, or",
        "one that this version does not have is refused, in the same words in Python and on the",
        "command line. This page is generated from the table that checks them.",
        "",
        "| option | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for row in table():
        meta = row.metadata
        if row.default is MISSING:
            default = "required"
        elif row.default is None:
            default = "see meaning" if "by default" in meta["help"] else "none"
        else:
            default = f"`{row.default}`" if row.default != () else "none"
        text = meta["help"].replace("|", "\\|")
        lines.append(f"| `{row.name}` | {default} | {_values(row)} | {text} |")
    return "\n".join(lines) + "\n"


def _values(row: Field[Any]) -> str:
    meta = row.metadata
    if row.name == "class_weight":
        return '`"balanced"` or a pair of numbers'
    if row.name == "callbacks":
        return "functions"
    if meta["choices"]:
        return ", ".join(f"`{choice}`" for choice in meta["choices"])
    kind = {bool: "true or false", int: "whole number", float: "number", str: "text"}[meta["kind"]]
    bounds = [
        f"{sign} {meta[key]:g}" if isinstance(meta[key], float) else f"{sign} {meta[key]}"
        for key, sign in (("above", ">"), ("low", ">="), ("below", "<"), ("high", "<="))
        if meta[key] is not None
    ]
    unit = f", {meta['unit']}" if meta["unit"] else ""
    return f"{kind} {' and '.join(bounds)}".rstrip() + unit


if __name__ == "__main__":
    print(options_markdown(), end="")
