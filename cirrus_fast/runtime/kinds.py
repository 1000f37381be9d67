"""What a rented function can be asked for: the contract between who asks and the handler.

An event is one small JSON object, an answer another:

    {"cirrus_fast": VERSION, "kind": KIND, "spec": {...}}                a kind of `KINDS`
    {"cirrus_fast": VERSION, "kind": "call", "function": "module:name", "arguments": [...]}

    {"cirrus_fast": VERSION, "answer": ...}
    {"cirrus_fast": VERSION, "error": [type, message, arguments by name], "traceback": text}

There is no code in it and no secret: `?password_from=` in a store's URL names one (store_url.py).
"""

from __future__ import annotations

# Kind -> the function that does it: called with the spec as JSON text and the deadline by the
# monotonic clock, it returns JSON text.
KINDS = {
    "train": "cirrus_fast.runtime.worker:run_worker",
    "evaluate": "cirrus_fast.runtime.scoring:evaluate",
    "predict": "cirrus_fast.runtime.scoring:predict",
    "make": "cirrus_fast.runtime.tasks:run_task",
}
CALL = "call"
# An event is copied into logs and traces, and an asynchronous one is limited by AWS.
MOST_BYTES = 6_000

# Packages whose functions may be called by name, and the variable of the function's environment
# that names others that it has, with commas between.
PACKAGES = ("cirrus_fast",)
PACKAGES_VARIABLE = "CIRRUS_FAST_PACKAGES"
