"""python -I -S train_from_layer.py FOLDER: imports and trains from the layer unpacked in FOLDER.

Nothing but the standard library and FOLDER/python is on the path: no site-packages, no environment.
The supervisor is this process, each worker `cirrus_fast.runtime.worker` run as a program in another
one like it. Prints what it found as JSON.
"""

import importlib
import json
import runpy
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder = sys.argv[1]
sys.dont_write_bytecode = True
sys.path.append(f"{folder}/python")
if sys.argv[2:] == ["worker"]:
    runpy.run_module("cirrus_fast.runtime.worker", run_name="__main__", alter_sys=True)

import hiredis  # noqa: E402
import numpy as np  # noqa: E402
import redis  # noqa: E402

import cirrus_fast  # noqa: E402
from cirrus_fast.runtime.worker import run_worker  # noqa: E402


class Workers(ThreadPoolExecutor):
    """Each call of run_worker as a program."""

    def submit(self, fn, /, *args):
        assert fn is run_worker
        return super().submit(self._run, *args)

    def _run(self, spec):
        command = [sys.executable, "-I", "-S", __file__, folder, "worker"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            # Its standard input stays open: it is the sign that the supervisor lives.
            process.stdin.write(spec.encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        return json.dumps(answer["report"])


with tempfile.TemporaryDirectory() as scratch:
    cirrus_fast.make_clicks(f"{scratch}/clicks.svm", 5000, seed=1, hash_bits=10)
    data = cirrus_fast.load_libsvm(f"{scratch}/clicks.svm", f"{scratch}/clicks")
    with Workers(2) as executor:
        result = cirrus_fast.LogisticRegression(
            dataset=data.uri, epochs=2, epsilon=0, test_dataset=data.uri, consistency="bsp",
            n_workers=2, minibatch_size=50, executor=executor,
        ).run()  # fmt: skip


def modules():
    """Every module of the layer."""
    root = Path(folder, "python")
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyc"), *root.rglob("*.so")]):
        if path.parent.name not in ("__pycache__", "numpy.libs"):
            name = path.relative_to(root).with_name(path.name.partition(".")[0])
            yield ".".join(name.parts).removesuffix(".__init__")


def cannot_be_imported():
    for name in modules():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except ImportError as error:
            yield f"{name}: {error}"


print(
    json.dumps(
        {
            "python": sys.version.split()[0],
            "impl": cirrus_fast.active_impl(),
            "versions": {module.__name__: module.__version__ for module in (np, redis, hiredis)},
            "rows": result.rows_processed,
            "test_loss": result.test_loss,
            "cannot be imported": list(cannot_be_imported()),
            "elsewhere": sorted(
                name
                for name, module in sys.modules.items()
                if name.partition(".")[0] in ("numpy", "redis", "hiredis", "cirrus_fast")
                and not (getattr(module, "__file__", None) or folder).startswith(folder)
            ),
            "compiled": (cirrus_fast.__cached__ or "").startswith(folder)
            and np.__file__.endswith(".pyc"),
        }
    )
)
