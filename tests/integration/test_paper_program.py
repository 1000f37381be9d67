"""The paper's program as users write it: a plain script, run as it stands."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import GridSearch, LogisticRegression, make_clicks

PROGRAM = """\
import numpy as np
from cirrus_fast import load_libsvm, normalize, LogisticRegression, GridSearch, MIN_MAX_SCALING

load_libsvm("criteo.svm", "criteo_dataset")
normalize("criteo_dataset", "criteo_norm", MIN_MAX_SCALING)

params = {"n_workers": 5, "n_ps": 1, "worker_size": 1024, "dataset": "criteo_norm",
          "epsilon": 0.0001, "timeout": 20 * 60, "model_size": 2**19}
result = LogisticRegression(params).run()

search = GridSearch(task=LogisticRegression, param_base=params,
                    hyper_vars=["learning_rate", "minibatch_size"],
                    hyper_params=[np.arange(0.1, 10, 0.1), [100, 1000]])      # 198 models
results = search.run()
"""

SHOW = """
print(len(search), len(results))
print(result.stop_reason, result.test_loss, result.model.n_features)
print(results.best.loss, results.best_params_["minibatch_size"])
"""


@pytest.fixture
def run_program(script, tmp_path):
    """run_program(edits): the program on generated clicks, its output line by line."""

    def run(*edits: tuple[str, str]) -> list[list[str]]:
        make_clicks(tmp_path / "criteo.svm", 3000, seed=1)
        program = PROGRAM
        for old, new in edits:
            assert old in program
            program = program.replace(old, new)
        (tmp_path / "program.py").write_text(program + SHOW)
        outcome = script("import runpy; runpy.run_path('program.py', run_name='__main__')")
        assert outcome.returncode == 0, outcome.stderr
        return [line.split() for line in outcome.stdout.splitlines()]

    return run


def test_the_program_runs_as_it_stands_but_for_the_length_of_the_search(run_program, tmp_path):
    counts, run, best = run_program(("np.arange(0.1, 10, 0.1)", "np.arange(0.1, 0.5, 0.1)"))
    assert counts == ["8", "8"]
    assert run[0] in ("converged", "epochs")
    assert 0 < float(run[1]) < 0.7
    assert run[2] == str(2**19)
    assert 0 < float(best[0]) < 0.7
    assert best[1] in ("100", "1000")
    assert (tmp_path / "cirrus_data" / "criteo_norm" / "manifest.json").is_file()


def test_the_search_of_the_program_has_198_models():
    names, values = ["learning_rate", "minibatch_size"], [np.arange(0.1, 10, 0.1), [100, 1000]]
    search = GridSearch(LogisticRegression, {"dataset": "criteo_norm"}, names, values)
    assert len(search) == 198
