from __future__ import annotations

import io
import re

import pytest

from cirrus_fast.backend.grid_run import PassState
from cirrus_fast.backend.search_progress import SearchProgress
from cirrus_fast.data.trials import Trial


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def search(wanted: bool | None, out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.stderr", out)
    with SearchProgress(wanted, 3) as progress:
        progress.evaluated(PassState(2, 500, 1000, 0.6))
        progress.evaluated(PassState(2, 1000, 1000, 0.5))
        progress.ended(Trial({}, None, "diverged"))
        progress.ended(Trial({}, None, "diverged"))
    return out.getvalue()


@pytest.mark.parametrize("wanted", [True, None])
def test_on_a_terminal_a_line_moves(monkeypatch: pytest.MonkeyPatch, wanted: bool | None) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", search(wanted, Terminal(), monkeypatch))
    assert "models" in said
    assert "2/3" in said
    assert "best 0.5000" in said


def test_elsewhere_each_evaluation_is_a_line_if_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = search(True, io.StringIO(), monkeypatch).splitlines()
    assert re.search(r"s  0 of 3 models done; 2 models at 500 rows, best 0\.6000, at most", first)
    assert "1,000 rows, best 0.5000" in second
    for wanted in (None, False):
        assert search(wanted, io.StringIO(), monkeypatch) == ""


@pytest.mark.parametrize("wanted", [True, False])
def test_without_standard_error_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with SearchProgress(wanted, 1) as progress:
        progress.evaluated(PassState(1, 5, 10, 0.5))
        progress.ended(Trial({}, None))
