"""Measuring a model and scoring rows with it, in a function: JSON in, JSON out (runtime/kinds.py).

    {"model": URI, "dataset": URI, "blocks": [first, end]}                      evaluate
    {..., "output": "s3://bucket/key", "what": "probability", "label" or "margin"}    predict

`blocks` may be left out. A function whose time is up while it scores writes what it has, and says
at which block another is to go on, with an output of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.storage import open_storage
from cirrus_fast.errors import FunctionError, OptionError


def evaluate(spec_json: str, deadline: float = math.inf) -> str:
    """How well a model does on labelled rows, as `Evaluation` in JSON."""
    spec = json.loads(spec_json)
    model, dataset, numbers = _opened(spec, ())

    def in_time(_n_rows: int) -> None:
        if time.monotonic() >= deadline:
            raise FunctionError(
                f"{dataset.name}: the function's time is up before its rows are measured; give it "
                "more, or fewer blocks"
            )

    return json.dumps(model.evaluate(dataset, numbers=numbers, on_rows=in_time).to_json())


def predict(spec_json: str, deadline: float = math.inf) -> str:
    """Writes a line for each row; {"rows": n, "next_block": i, "handed_over": ...}."""
    spec = json.loads(spec_json)
    model, dataset, numbers = _opened(spec, ("output",))
    kinds: dict[str, Callable[[Float32Array], Float32Array]] = {
        "probability": model.probabilities,
        "label": model.labels,
        "margin": lambda margins: margins,
    }
    what = spec.get("what", "probability")
    if what not in kinds:
        raise OptionError(f"what={what!r}: choose {', '.join(kinds)}")
    folder, _, name = str(spec["output"]).rpartition("/")
    writer = open_storage(folder).writer(name)
    n_rows, done = 0, 0
    try:
        for margins in model.iter_margins(dataset, numbers=numbers):
            values = kinds[what](margins).tolist()
            writer.write(("%.9g\n" * len(values) % tuple(values)).encode())
            n_rows, done = n_rows + len(values), done + 1
            if time.monotonic() >= deadline and done < len(numbers):
                break
        writer.commit()
    except BaseException:
        writer.abort()
        raise
    left = done < len(numbers)
    following = numbers[done] if left else numbers[-1] + 1 if numbers else 0
    return json.dumps({"rows": n_rows, "next_block": following, "handed_over": left})


def _opened(
    spec: Mapping[str, Any], more: tuple[str, ...]
) -> tuple[LinearModel, Dataset, list[int]]:
    """The model, the data, and the numbers of the blocks that are asked for."""
    missing = [name for name in ("model", "dataset", *more) if not isinstance(spec.get(name), str)]
    if missing:
        raise OptionError(f"{', '.join(missing)}: missing; each is a URI")
    dataset = Dataset(spec["dataset"])
    first, end = spec.get("blocks") or (0, len(dataset.blocks))
    if not 0 <= first <= end <= len(dataset.blocks):
        raise OptionError(f"blocks=[{first}, {end}]: {dataset.name} has {len(dataset.blocks)}")
    return LinearModel.load(spec["model"]), dataset, list(range(first, end))
