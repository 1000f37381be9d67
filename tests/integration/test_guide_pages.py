"""The guide pages do what they say: their code and commands are run, those for AWS looked at."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cirrus_fast
from cirrus_fast.backend.prices import Prices
from cirrus_fast.cli import COMMANDS, cli


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    package_parent = str(Path(cirrus_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    environment = {k: v for k, v in os.environ.items() if k != "CIRRUS_FAST_STORAGE"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | {"PYTHONPATH": path, "HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_quickstart_runs_as_it_stands(repository: Path, tmp_path: Path) -> None:
    page = repository / "docs" / "quickstart.md"
    code = "\n".join(blocks(page, "python"))
    done = run_in(tmp_path, sys.executable, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "np.float64" not in done.stdout
    commands = "".join(blocks(page, "sh")).splitlines()
    for command in commands:
        name, *arguments = command.split()
        assert name == "cirrus-fast"
        done = run_in(tmp_path, sys.executable, "-P", "-m", "cirrus_fast", *arguments)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    used = {command.split()[1] for command in commands}
    assert {"load", "train", "evaluate", "predict", "grid", "ls", "rm"} <= used <= set(COMMANDS)
    # Nothing but what the page says: the files it names, and data sets.
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {
        "train.svm", "test.svm", "cirrus_data", "model.npz", "result.npz", "best.npz", "cli.npz",
        "scores.txt", "grid.csv", "grid.npz",
    }  # fmt: skip


def test_the_page_about_searching_runs_as_it_stands(repository: Path, tmp_path: Path) -> None:
    page = repository / "docs" / "grid.md"
    done = run_in(tmp_path, sys.executable, "-c", "\n".join(blocks(page, "python")))
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout
    for command in "".join(blocks(page, "sh")).splitlines():
        name, *arguments = command.split()
        done = run_in(tmp_path, sys.executable, "-P", "-m", name.replace("-", "_"), *arguments)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_the_lines_for_optuna_find_a_good_model(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    page = repository / "docs" / "grid.md"
    (begin, *_), (lines,) = blocks(page, "python"), blocks(page, "python optuna")
    told = "done = [t for t in study.trials if t.value is not None]\n"
    told += "print(len(study.trials), len(done), study.best_value)"
    done = run_in(tmp_path, sys.executable, "-W", "error", "-c", f"{begin}\n{lines}\n{told}")
    assert done.returncode == 0, done.stderr
    best, counted = done.stdout.splitlines()[-2:]
    assert "learning_rate" in best
    assert "l2" in best
    n_asked, n_told, loss = counted.split()
    assert (n_asked, n_told) == ("64", "64")
    assert float(loss) < 0.6  # what the base rate alone has, about


@pytest.mark.usefixtures("storage_root")
def test_the_recipes_for_workers_run(repository: Path, tmp_path: Path) -> None:
    """But that for Dask, which is tried by hand: it is large."""
    cirrus_fast.make_clicks(tmp_path / "train.svm", 3000, hash_bits=10)
    cirrus_fast.load_libsvm(tmp_path / "train.svm", f"{tmp_path}/cirrus_data/train")
    recipes = blocks(repository / "docs" / "workers.md", "python")
    assert len(recipes) == 3
    for code in recipes:
        if "dask" in code:
            compile(code, "recipe", "exec")
            continue
        program = tmp_path / "program.py"  # a pool's processes import it
        program.write_text(f"from cirrus_fast import LogisticRegression\n{code}")
        done = run_in(tmp_path, sys.executable, str(program))
        assert done.returncode == 0, done.stderr


def test_the_commands_for_deploying_are_ones_there_are(repository: Path) -> None:
    """Names of commands and options; they are tried where there is an account to try them on."""
    page = (repository / "docs" / "deploying.md").read_text()
    shown = "".join(re.findall(r"```sh\n(.*?)```", page, re.S)).replace("\\\n", " ")
    commands = [line for line in shown.splitlines() if line.startswith("cirrus-fast ")]
    assert {"deploy", "doctor", "undeploy", "cost", "train", "load"} <= {
        word for line in commands for word in line.split()
    }
    for line in commands:
        words = shlex.split(line)[1:]
        context = cli.make_context("cirrus-fast", [], resilient_parsing=True)
        while words[0].startswith("--"):  # options that stand before the command
            words = words[2:]
        command = cli.get_command(context, words[0])
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_page_on_deploying_counts_as_the_library_does(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(repository / "docs" / "deploying.md", "python")
    exec(code, {})
    total, size = capsys.readouterr().out.split()
    assert 0.001 < float(total) < 0.1
    assert 128 <= int(size) <= 1769
    page = (repository / "docs" / "deploying.md").read_text()
    worked = json.loads(
        CliRunner()
        .invoke(cli, ["cost", "--rows", "45000000", "--store-node", "cache.t4g.small", "--json"])
        .stdout
    )["estimate"]
    assert f"| {worked['cost']['compute']:.4f} |" in page
    assert f"{worked['worker_s'] * 1769 / 1024:.0f} GB-seconds" in page


def test_the_page_on_deploying_shows_prices_that_are_read(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "deploying.md").read_text()
    (text,) = re.findall(r"```json\n(.*?)```", page, re.S)
    (tmp_path / "prices.json").write_text(text)
    prices = Prices.load("eu-central-1", tmp_path / "prices.json")
    assert (prices.thousand_gets, prices.node("my-node")) == (0.00043, 0.2)
