"""A search that is kept as it goes, so that it can go on after a crash.

A folder under the storage root, searches/NAME: `search.json` says what is searched and has the
trials that ended, written whole each time; beside it lie the best models.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.backend.grid_run import Outcome
from cirrus_fast.data.result import TrainResult
from cirrus_fast.data.sources import identity_of
from cirrus_fast.data.storage import open_storage, resolve, storage_root
from cirrus_fast.data.trials import WithoutModel, loss_of
from cirrus_fast.errors import CirrusFastError, OptionError
from cirrus_fast.notices import notice
from cirrus_fast.options import Options

_FOLDER, _FILE = "searches", "search.json"
# What is lost by a crash, at most; and what a long search may spend on writing.
_LEAST_S = 2.0
# Options that may be others when the search goes on.
_FREE = ("progress", "n_workers", "executor", "timeout")


class SearchFile:
    """The kept state of one search.

    Attributes
    ----------
    outcomes : by number, of the models that had ended when the search was opened
    """

    def __init__(self, name: str, mode: str, all_options: Sequence[Options], keep: int) -> None:
        self.name, self._keep = name, keep
        root = storage_root().rstrip("/")
        self._storage = open_storage(resolve(f"{root}/{_FOLDER}/{name}"))
        self._identity = _identity(mode, all_options)
        self.outcomes: dict[int, Outcome] = {}
        self._kept: dict[int, str] = {}  # models' files
        self._all: dict[int, dict[str, Any]] = {}
        self._losses: dict[int, float] = {}
        self._written = 0.0
        if self._storage.exists(_FILE):
            self._open()

    def _open(self) -> None:
        where = f"{self._storage.uri}/{_FILE}"
        try:
            found = json.loads(self._storage.read(_FILE))
            identity, trials = found["identity"], found["trials"]
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(f"{where}: is no search, or damaged ({error}); remove it") from error
        if identity != self._identity:
            raise OptionError(
                f"name={self.name!r}: {where} is another search, of other models or other data; "
                "give this one another name, or remove the folder"
            )
        for number, one in trials.items():
            self._all[int(number)] = one
            self.outcomes[int(number)] = self._outcome(one)
        notice(f"search {self.name}: goes on after {len(trials)} of its models")

    def _outcome(self, one: Mapping[str, Any]) -> Outcome:
        number = one["number"]
        if one["error"] is not None:
            return Outcome(number, None, one["error"])
        result: TrainResult = WithoutModel.of(TrainResult.values_of(one["result"]))
        self._losses[number] = loss_of(result)
        if one["model"] is not None:
            try:
                result = TrainResult.from_bytes(
                    self._storage.read(one["model"]), f"{self._storage.uri}/{one['model']}"
                )
                self._kept[number] = one["model"]
            except CirrusFastError:  # it was let go
                pass
        return Outcome(number, result)

    def add(self, outcome: Outcome) -> None:
        """A model has ended."""
        number, result = outcome.number, outcome.result
        model = None
        if result is not None:
            self._losses[number] = loss_of(result)
            best = sorted(self._losses, key=self._losses.__getitem__)[: self._keep]
            if number in best and not isinstance(result, WithoutModel):
                model = self._kept[number] = f"model-{number}.npz"
                self._storage.write(model, result.to_bytes())
            for other in [other for other in self._kept if other not in best]:
                self._storage.delete(self._kept.pop(other))
        self._all[number] = {
            "number": number,
            "error": outcome.error,
            "result": None if result is None else result.summary(),
            "model": model,
        }
        if time.monotonic() - self._written >= _LEAST_S:
            self.write()

    def write(self) -> None:
        for number, one in self._all.items():
            one["model"] = self._kept.get(number)
        whole = {"version": __version__, "identity": self._identity, "trials": self._all}
        self._storage.write(_FILE, json.dumps(whole).encode())
        self._written = time.monotonic()


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise OptionError(f"name={name!r}: must be letters, digits, dots and dashes")


def _identity(mode: str, all_options: Sequence[Options]) -> str:
    """Of what is searched: the models, in order, and the data."""
    names = {o.dataset for o in all_options}
    names |= {o.test_dataset for o in all_options if o.test_dataset is not None}
    data = {name: str(identity_of(name)) for name in sorted(names)}
    models = [
        {name: value for name, value in one.to_json().items() if name not in _FREE}
        for one in all_options
    ]
    whole = json.dumps([mode, models, data], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()
