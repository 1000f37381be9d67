"""Whether a function has the memory that workers need: asked before the first is called."""

from __future__ import annotations

from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.plan import Plan
from cirrus_fast.errors import OptionError
from cirrus_fast.runtime.memory import GROUPS, Memory
from cirrus_fast.runtime.minibatches import decoded_bytes
from cirrus_fast.runtime.row_sources import read_ahead_bytes


def _function_mb(size: int, functions: LambdaExecutor) -> int | None:
    """What the function has, if that may be asked: enough for workers of this size."""
    found = functions.configuration()
    there = int(found["MemorySize"]) if found is not None else None
    if there is not None and size > there:
        raise OptionError(
            f"worker_size={size}: function {functions.function} has {there} MB; give "
            f"worker_size={there}, or the function more memory"
        )
    return there


def room_for_models(
    plan: Plan, one_model: int, others: int, group: int, functions: LambdaExecutor
) -> int:
    """Bytes that a function has for groups of a search's models. Rows take what they take beside
    one model in a run of its own, so that they come in the same order.

    one_model : bytes, of that; others : of what a worker has beside rows and groups
    group : of the largest group, for which there must be room
    """
    size = plan.options.worker_size
    there = _function_mb(size, functions) or size
    memory = Memory.of(size, one_model)
    dataset = plan.dataset
    rows = sum(map(decoded_bytes, dataset.blocks)) + read_ahead_bytes(dataset, memory)
    rows = min(memory.rows, rows + GROUPS * memory.group) + others
    room = Memory.left_beside(there, rows)
    if group > room:
        raise OptionError(
            f"worker_size={size}: function {functions.function} has {there} MB, which leaves "
            f"{max(0, room) / 1e6:.0f} MB beside rows for models, and sixteen of these take "
            f"{group / 1e6:.0f} MB; lower worker_size, or give the function more memory"
        )
    return room


def check_memory(plan: Plan, model_bytes: int, functions: LambdaExecutor) -> None:
    """
    model_bytes : of the model, and of what a worker has to find its way in it
    """
    size = plan.options.worker_size
    there = _function_mb(size, functions)
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
