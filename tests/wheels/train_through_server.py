"""train_through_server.py URL: trains through the server of that URL, which has our module in it,
and prints as JSON what must be the same whatever the server runs on. Run by run_emulated.sh.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import cirrus_fast

DATA = Path(__file__).parents[1] / "data"

found = {}
with tempfile.TemporaryDirectory() as folder:
    data = cirrus_fast.load_libsvm(DATA / "rcv1_small.libsvm.gz", f"{folder}/rows", n_threads=1)
    for optimizer in ("adagrad", "ftrl", "sgd"):
        result = cirrus_fast.LogisticRegression(
            dataset=data.uri, epochs=2, epsilon=0, consistency="bsp", seed=1, minibatch_size=100,
            optimizer=optimizer, param_store=f"{sys.argv[1]}?store=module",
        ).run()  # fmt: skip
        weights = result.model.weights
        assert weights.any()
        found[optimizer] = hashlib.sha256(weights.tobytes()).hexdigest()[:16]
print(json.dumps(found))
