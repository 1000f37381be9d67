"""The paper's program with executor="lambda": a plain script, on sandboxes from the built layer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cirrus_fast

PROGRAM = """\
import numpy as np
import cirrus_fast
from cirrus_fast import load_libsvm, normalize, LogisticRegression, GridSearch, MIN_MAX_SCALING

cirrus_fast.configure(storage="s3://bucket/data")
load_libsvm("criteo.svm", "criteo_dataset")
normalize("criteo_dataset", "criteo_norm", MIN_MAX_SCALING)

params = {"n_workers": 10, "n_ps": 1, "worker_size": 256, "dataset": "criteo_norm",
          "epsilon": 0.0001, "timeout": 20 * 60, "model_size": 2**19,
          "executor": "lambda", "param_store": STORE}
result = LogisticRegression(params).run()

search = GridSearch(task=LogisticRegression, param_base=params | {"epochs": 1},
                    hyper_vars=["learning_rate", "minibatch_size"],
                    hyper_params=[np.arange(0.1, 0.3, 0.1), [100]])
results = search.run()
print(result.n_workers, result.executor, result.stop_reason, result.test_loss)
print(len(results), results.best.loss, results.best.result.executor)
"""


def test_the_papers_program_runs_on_functions(
    s3: Any, redis_server: Any, local_lambda: Callable[..., Any], tmp_path: Path
) -> None:
    local = local_lambda(memory_mb=512)
    cirrus_fast.make_clicks(tmp_path / "criteo.svm", 105_300, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", f"STORE = {redis_server.url!r}\n{PROGRAM}"],
        env=os.environ | {"PYTHONPATH": str(Path(cirrus_fast.__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run, search = (line.split() for line in done.stdout.splitlines())
    assert run[:2] == ["10", "lambda"]
    assert run[2] in ("converged", "epochs")
    assert 0.4 < float(run[3]) < 0.55
    assert (search[0], search[2]) == ("2", "lambda")
    assert 0.4 < float(search[1]) < 0.6
    assert local.counts["answered"] == 30
    assert local.counts["warm"] >= 20  # sandboxes are there for the next model
    assert not local.busy
