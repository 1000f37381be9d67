"""Whether a function has the memory that a run's workers need: asked before the first is called."""

from __future__ import annotations

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.plan import Plan
from cirrus_fast.errors import OptionError
from cirrus_fast.runtime.memory import GROUPS, Memory
from cirrus_fast.runtime.minibatches import decoded_bytes


def check_memory(plan: Plan, model_bytes: int, functions: LambdaExecutor) -> None:
    """
    model_bytes : of the model, and of what a worker has to find its way in it
    """
    size = plan.options.worker_size
    found = functions.configuration()
    there = int(found["MemorySize"]) if found is not None else None
    if there is not None and size > there:
        raise OptionError(
            f"worker_size={size}: function {functions.function} has {there} MB; give "
            f"worker_size={there}, or the function more memory"
        )
    blocks = plan.dataset.blocks
    largest = max(map(decoded_bytes, blocks), default=0)
    # One as it is decoded, and two ready, beside two of them as they came.
    needed = GROUPS * largest + 2 * max((block.n_bytes for block in blocks), default=0)
    least = Memory.least_mb(needed, model_bytes)
    if size < least:
        raise OptionError(
            f"worker_size={size}: is too little for blocks of {largest / 1e6:.1f} MB decoded and a "
            f"model of {model_bytes / 1e6:.1f} MB, which take {least} MB; raise it"
            + ("" if there is None or least <= there else ", and the function's memory")
        )
