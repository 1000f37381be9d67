"""Loads and trains a little, and prints as JSON what must be the same on every CPU: the rows and
the data set's bytes exactly, the loss nearly. Run by run_emulated.sh with the wheel on the path.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import cirrus_fast
from cirrus_fast import _kernels
from cirrus_fast.data.dataset import iterate

DATA = Path(__file__).parents[1] / "data"


def digest(*parts):
    return hashlib.sha256(b"".join(map(bytes, parts))).hexdigest()[:16]


found = {"implementations": _kernels.implementations()}
with tempfile.TemporaryDirectory() as folder:
    for name in ("rcv1_small.libsvm.gz", "a9a.gz"):
        data = cirrus_fast.load_libsvm(DATA / name, f"{folder}/{name}", n_threads=1)
        rows = list(iterate(data))
        result = cirrus_fast.LogisticRegression(
            dataset=data.uri, test_dataset=data.uri, epochs=2, epsilon=0, consistency="bsp", seed=1
        ).run()
        found[name] = {
            "rows": sum(len(part.labels) for part in rows),
            "data": digest(*(array for r in rows for array in (r.indptr, r.indices, r.data))),
            "blocks": digest(*(data.read_bytes(block) for block in data.blocks)),
            "loss": result.test_loss,
        }
print(json.dumps(found))
