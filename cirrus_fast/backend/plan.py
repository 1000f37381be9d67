"""What a run will do, decided before anything is started."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.module_run import ModuleRun
from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.backend.store_choice import choose_store
from cirrus_fast.data.csr import CSR, Float32Array
from cirrus_fast.data.dataset import Dataset, is_text_file, refuse_compressed
from cirrus_fast.data.early_reads import Piece
from cirrus_fast.data.evaluation import exact_auc
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.sources import names_object, names_text
from cirrus_fast.data.storage import absolute, is_s3, resolve
from cirrus_fast.data.text_dataset import TextDataset, fetch_text, open_text
from cirrus_fast.data.traffic import Reads, Traffic, counted, counting
from cirrus_fast.data.training_scale import TrainingScale, crowd_rate
from cirrus_fast.errors import DatasetError, OptionError, TrainingError
from cirrus_fast.notices import notice_once
from cirrus_fast.options import Options
from cirrus_fast.runtime.assignment import first_reads, shares
from cirrus_fast.runtime.minibatches import held_out_rows
from cirrus_fast.runtime.params.local import LocalStore
from cirrus_fast.runtime.worker import WorkerSpec, most_entries
from cirrus_fast.store_url import parse_urls

# Below this many rows more than one worker costs quality: a mini-batch in flight is then a
# noticeable part of the data.
FEW_ROWS = 100_000
MOST_IN_FLIGHT = 0.01
DEFAULT_STALENESS = 100
# Workers on AWS Lambda, where nobody counts cores.
DEFAULT_FUNCTIONS = 10
# Rows between exchanges with a store over a network, and their share of a worker's rows, at most;
# how fast they grow to that from the first few rows on, in large data and in small.
SYNC_ROWS, SYNC_SHARE = 20_000, 0.2
GROWTH, GROWTH_OF_FEW = 0.15, 0.03
# The module takes what workers send at once, and nobody need merge it: they may send more.
GROWTH_OF_MOVES = 0.3
# Exchanges under way at once, by default: rows of all workers that are in them, and how many they
# are, at most. 4,000 rows would cost up to 0.15 % of the loss.
MOST_UNDER_WAY, DEEPEST = 2000, 8
# How often workers leave the state of their optimiser in such a store.
STATE_INTERVAL_S = 30.0
STATE_BYTES_A_S = 1.5e6
# Of popular columns a worker knows what the others learnt up to so many rows ago.
MOST_BETWEEN_EXCHANGES = 500
# Rows that all workers of a module together may have under way without being asked to, and steps of
# one of them: more sends no more steps a second to a server nearby.
ROWS_UNDER_WAY, STEPS_UNDER_WAY = 4_000, 4
# Evaluations of small data come no closer: a step or two between them tells nothing of progress.
FEWEST_BETWEEN = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class TestRows:
    """Rows to measure on, values as the model's weights expect them."""

    __test__ = False  # not a test class, whatever its name looks like to pytest

    parts: list[CSR]
    positives: Float32Array
    weights: Float32Array | None

    @classmethod
    def of(cls, parts: list[CSR], label_map: LabelMap, name: str) -> TestRows:
        """name : of the data set or text they are of, for errors"""
        labels = np.concatenate([part.labels for part in parts])
        given = [part.weights for part in parts if part.weights is not None]
        weights = np.concatenate(given) if given else None
        if weights is not None and not weights.any():
            raise DatasetError(
                f"{name}: the test rows weigh nothing: their sample weights are all 0"
            )
        try:
            return cls(parts, label_map.positives(labels), weights)
        except DatasetError as error:
            raise DatasetError(f"{name}: in the test rows, {error}") from error

    def measure(self, weights: Float32Array, intercept: float) -> tuple[float, float | None]:
        """(log-loss, AUC)"""
        margins = np.empty(len(self.positives), np.float32)
        at = 0
        for part in self.parts:
            out = margins[at : at + part.n_rows]
            _kernels.logistic_margins(part.indptr, part.indices, part.data, weights, intercept, out)
            at += part.n_rows
        loss, total, _ = _kernels.logistic_loss(margins, self.positives, self.weights)
        if not math.isfinite(loss):
            raise TrainingError(self._blame())
        return loss / total, exact_auc(margins, self.positives, self.weights)

    def _blame(self) -> str:
        """Why the loss is no number: the column with the wildest values."""
        part = max(self.parts, key=lambda rows: _size(rows).max(initial=-1))
        if part.nnz == 0:
            return "the test loss is not a finite number: lower learning_rate"
        worst = int(np.argmax(_size(part)))
        return (
            f"the test loss is not a finite number; the likely cause is feature "
            f"{part.indices[worst]} (0-based), with a value of {part.data[worst]:g} in a test row"
        )


def _size(rows: CSR) -> Float32Array:
    return np.where(np.isnan(rows.data), np.float32(np.inf), np.abs(rows.data))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything about a run that is known before it starts."""

    options: Options
    dataset: Dataset | TextDataset
    test: TestRows | None
    holdout: HoldOut
    n_train: int
    model_size: int
    learning_rate: float
    class_weight: tuple[float, float]
    n_workers: int
    store: str  # who holds the model: memory, bitfield or module
    dataset_path: str  # in full, so that a change of folder during the run is of no account
    reads_first: list[tuple[Piece, ...]]  # what each worker asks a server for at once
    test_reads: Reads  # of a test data set from a server
    asked: Traffic  # of servers, beside data sets' blocks

    @classmethod
    def make(cls, options: Options) -> Plan:
        asked = Traffic()
        with counting(asked):
            return cls._make(options, asked)

    @classmethod
    def _make(cls, options: Options, asked: Traffic) -> Plan:
        dataset = _rows(options)
        if on_lambda(options):
            _check_in_s3(dataset)
        size = _model_size(options, dataset)
        holdout = _holdout(options, dataset)
        test, test_reads = _test_rows(options, dataset, holdout)
        if test is None and options.test_fraction is not None:
            raise DatasetError(
                f"{dataset.name}: test_fraction={options.test_fraction} of {dataset.n_rows} rows "
                "is none; raise it"
            )
        if test is None and options.epsilon > 0:
            few = f"{dataset.name}: has too few rows to hold any out"
            if options.threshold_loss is not None:
                raise DatasetError(f"{few}, and threshold_loss needs some; give test_dataset")
            notice_once(f"{few}: all {options.epochs} epochs are trained")
        held_out = 0 if test is None or options.test_dataset else len(test.positives)
        n_train = dataset.n_rows - held_out
        if n_train == 0:
            raise DatasetError(f"{dataset.name}: has no rows to train on")
        n_workers = _worker_count(options, dataset, n_train)
        return cls(
            options=options,
            dataset=dataset,
            test=test,
            holdout=holdout,
            n_train=n_train,
            model_size=size,
            learning_rate=options.learning_rate or _default_rate(options.optimizer, dataset),
            class_weight=_class_weight(options, dataset, test, n_train),
            n_workers=n_workers,
            store=choose_store(options),
            dataset_path=absolute(dataset.uri),
            reads_first=_first_reads(dataset, n_workers, options.seed),
            test_reads=test_reads,
            asked=asked,
        )

    @property
    def reads(self) -> Reads:
        """From a server, so far, and not by workers."""
        return self.dataset.reads + self.test_reads + self.asked.so_far

    @property
    def params(self) -> dict[str, Any]:
        """The options, with what was decided from the data in the place of None."""
        decided: dict[str, Any] = {
            "learning_rate": self.learning_rate,
            "model_size": self.model_size,
            "n_workers": self.n_workers,
        }
        if self._on_copies:
            decided["sync_rows"] = self.sync_rows
        if self.store != "memory":
            decided["pipeline_depth"] = self.pipeline_depth
        return self.options.to_json() | decided

    @property
    def eval_rows(self) -> int:
        """Rows between evaluations."""
        if self.options.eval_interval is not None:
            return max(1, round(self.options.eval_interval * self.n_train))
        return max(round(0.1 * self.n_train), min(self.n_train, FEWEST_BETWEEN))

    def epoch_end(self, rows: int) -> int:
        """Rows at the end of the epoch that the row after these is of."""
        return (rows // self.n_train + 1) * self.n_train

    @property
    def staleness(self) -> int:
        """Mini-batches a worker may be ahead of the slowest, with ssp."""
        given = self.options.staleness
        return DEFAULT_STALENESS if given is None else given

    @property
    def _on_copies(self) -> bool:
        """Whether workers learn for themselves between exchanges with a store over a network."""
        return self.store == "bitfield" or (
            self.store == "module" and self.options.sync_rows is not None
        )

    @property
    def sync_rows(self) -> int:
        """Rows of a worker between exchanges with a store over a network, at most."""
        if self.options.sync_rows is not None:
            return self.options.sync_rows
        share = -(-SYNC_SHARE * self.n_train // self.n_workers)
        return max(self.options.minibatch_size, int(min(SYNC_ROWS, share)))

    @property
    def _growth(self) -> float:
        if self.n_train < FEW_ROWS:
            return GROWTH_OF_FEW
        return GROWTH_OF_MOVES if self.store == "module" else GROWTH

    @property
    def state_interval(self) -> float:
        """Seconds after which a worker leaves the state of its optimiser. Where sandboxes die young
        one that begins must find some: then all together leave two a second, but for large models,
        which would take too much of a link."""
        options = self.options
        most = min(STATE_INTERVAL_S, options.checkpoint_interval or STATE_INTERVAL_S)
        if not on_lambda(options):
            return most
        n_bytes = 4 * len(self.dataset.columns.ids)
        return min(most, max(1.0, self.n_workers / 2, n_bytes / STATE_BYTES_A_S))

    @property
    def pipeline_depth(self) -> int:
        """Exchanges that a worker has under way at once. By default as many as hide the way to the
        store, where few rows are then under way that other workers know nothing of. A worker alone
        takes its own moves to a plain Redis into account, and learns the same however many they
        are; to a module it sends gradients, and does not.
        """
        given, few = self.options.pipeline_depth, MOST_IN_FLIGHT * self.n_train
        if given is not None:
            return given
        if self._on_copies:
            most = min(MOST_UNDER_WAY, self.n_train if self.n_workers == 1 else few)
            least = 2 if self.store == "module" else 1
            return max(least, min(DEEPEST, int(most / (self.sync_rows * self.n_workers))))
        if self.store == "module" and self.n_workers > 1 and self.options.consistency == "async":
            steps = int(min(ROWS_UNDER_WAY, few)) // (self.n_workers * self.options.minibatch_size)
            return max(1, min(STEPS_UNDER_WAY, steps))
        return 1

    @property
    def step_rows(self) -> int:
        """Rows that a default rate must suit in one step; a rate given is taken as it is."""
        options = self.options
        if options.learning_rate is not None:
            return 1
        together = self.n_workers if options.consistency == "bsp" else 1
        return min(options.minibatch_size * together, self.n_train)

    @property
    def intercept_rate(self) -> float:
        """The intercept is a column that all rows have."""
        return float(crowd_rate(self.step_rows)) if self.options.optimizer == "sgd" else 1.0

    @property
    def exchange_rows(self) -> int:
        """Rows between a worker's news to the others of popular columns; 0: it is at once."""
        options = self.options
        if self.n_workers == 1 or options.minibatch_size > 1 or options.consistency == "bsp":
            return 0
        in_flight = int(MOST_IN_FLIGHT * self.n_train) // self.n_workers
        return max(1, min(MOST_BETWEEN_EXCHANGES, in_flight))

    @property
    def _shared_blocks(self) -> int:
        """Blocks that workers take from each other where one is slow; 0: none do."""
        consistency = self.options.consistency
        if self.n_workers == 1 or consistency == "bsp":
            return 0
        if self.store == "module" and consistency == "ssp":
            return 0  # its server lets no worker make more updates than others
        return len(self.dataset.blocks)

    def with_options(self, options: Options) -> Plan:
        """The plan of a run on the same rows that differs in how it learns from them."""
        if isinstance(self.dataset, TextDataset):
            _check_for_text(options)
        rate = options.learning_rate or _default_rate(options.optimizer, self.dataset)
        weight = _class_weight(options, self.dataset, self.test, self.n_train)
        return replace(self, options=options, learning_rate=rate, class_weight=weight)

    @property
    def _masses(self) -> tuple[float, float]:
        """Of the rows' weights times class weights: (all, positive)"""
        manifest = self.dataset.manifest
        negative, positive = self.class_weight
        positive_mass = positive * manifest.positive_weight
        mass = positive_mass + negative * (manifest.weight - manifest.positive_weight)
        return mass, positive_mass

    @property
    def mean_weight(self) -> float:
        return self._masses[0] / self.dataset.n_rows

    @property
    def start_intercept(self) -> float:
        """The base rate's, if one is learnt."""
        mass, positive = self._masses
        if self.options.fit_intercept and 0 < positive < mass:
            return math.log(positive / (mass - positive))
        return 0.0

    def create_store(self, task: str) -> LocalStore | RedisRun:
        options, intercept = self.options, self.start_intercept
        exchange = 0
        if options.consistency == "bsp" and self.n_workers > 1:
            size = options.minibatch_size
            dealt = shares(self.dataset, self.n_workers)
            exchange = max(most_entries(self.dataset, share, size) for share in dealt)
        try:
            scale = TrainingScale.of(
                self.dataset.columns,
                self.dataset.n_rows,
                optimizer=options.optimizer,
                l1=options.l1,
                l2=options.l2,
                mean_weight=self.mean_weight,
                n_features=self.model_size if isinstance(self.dataset, TextDataset) else None,
                step_rows=self.step_rows,
            )
            if self.store == "module":
                return ModuleRun(
                    parse_urls(options.param_store),
                    options.optimizer,
                    self.learning_rate,
                    scale,
                    model_size=self.model_size,
                    n_workers=self.n_workers,
                    n_shards=options.n_ps,
                    intercept=intercept,
                    n_blocks=self._shared_blocks,
                    epochs=options.epochs,
                    task=task,
                    consistency=options.consistency,
                    staleness=self.staleness if options.consistency == "ssp" else 0,
                    intercept_rate=self.intercept_rate if options.fit_intercept else 0.0,
                    sync_rows=self.sync_rows if self._on_copies else 0,
                )
            if self.store == "bitfield":
                return RedisRun(
                    parse_urls(options.param_store),
                    options.optimizer,
                    self.learning_rate,
                    scale,
                    model_size=self.model_size,
                    n_workers=self.n_workers,
                    n_shards=options.n_ps,
                    sync_rows=self.sync_rows,
                    intercept=intercept,
                    n_blocks=self._shared_blocks,
                    epochs=options.epochs,
                    task=task,
                )
            return LocalStore.create(
                options.optimizer,
                self.learning_rate,
                scale,
                model_size=self.model_size,
                n_workers=self.n_workers,
                intercept=intercept,
                exchange_rows=self.exchange_rows,
                room=exchange,
                n_blocks=self._shared_blocks,
                task=task,
                shared=options.executor != "local",
            )
        except (OSError, MemoryError, OverflowError) as error:
            raise TrainingError(
                f"no memory for a model of {self.model_size} weights ({error}): load the data with "
                "hash_bits to have fewer"
            ) from error

    def spec(
        self, task: str, worker: int, generation: int, param_store: str, *, clustered: bool
    ) -> WorkerSpec:
        options = self.options
        copy = self.dataset.copy if isinstance(self.dataset, TextDataset) else None
        return WorkerSpec(
            task=task,
            worker=worker,
            n_workers=self.n_workers,
            generation=generation,
            dataset=self.dataset_path,
            text_copy=None if copy is None else (copy.uri, copy.path, copy.identity),
            reads_first=self.reads_first[worker],
            dataset_id=self.dataset.id,
            holdout_seed=self.holdout.seed,
            holdout_fraction=self.holdout.fraction,
            param_store=param_store,
            fit_intercept=options.fit_intercept,
            intercept_rate=self.intercept_rate,
            class_weight=self.class_weight,
            minibatch_size=options.minibatch_size,
            epochs=options.epochs,
            worker_size=options.worker_size,
            seed=options.seed,
            rows_per_epoch=self.n_train,
            consistency=options.consistency,
            staleness=self.staleness,
            store=self.store,
            sync_rows=self.sync_rows if self._on_copies else 0,
            growth=self._growth,
            pipeline_depth=self.pipeline_depth,
            state_interval=self.state_interval,
            clustered=clustered,
        )

    def model(self, weights: Float32Array, intercept: float) -> LinearModel:
        manifest = self.dataset.manifest
        return LinearModel(
            weights=weights,
            intercept=intercept,
            label_map=manifest.label_map,
            index_base=manifest.index_base,
            hash_bits=manifest.hash_bits,
            scaling=self.dataset.scaling,
            params=self.params,
            text_format=manifest.text_format,
            label_weights=manifest.label_weights,
            allow_nonfinite=manifest.allow_nonfinite,
        )


def on_lambda(options: Options) -> bool:
    return options.executor == "lambda" or isinstance(options.executor, LambdaExecutor)


def _check_in_s3(dataset: Dataset | TextDataset) -> None:
    """What workers on other machines can read, and need not go through first."""
    if isinstance(dataset, TextDataset):
        raise OptionError(
            f"dataset={dataset.uri!r}: is text, and executor=lambda reads data sets: make one of "
            "it with load_libsvm"
        )
    if not dataset.is_remote:
        raise OptionError(
            f"dataset={dataset.uri!r}: is on this machine, where executor=lambda cannot read it: "
            'load it under configure(storage="s3://bucket/prefix")'
        )


def _rows(options: Options) -> Dataset | TextDataset:
    """What to train on."""
    if is_s3(resolve(options.dataset)):
        try:
            return Dataset(options.dataset)
        except DatasetError:
            # Looked for only now: who trains on a data set need not ask for anything else.
            if not names_object(options.dataset):
                raise
            asked = counted()
            if asked is not None:
                asked.add(requests=2)  # for a manifest, and a lock, that are not there
            refuse_compressed(options.dataset)
    elif not is_text_file(options.dataset):
        return Dataset(options.dataset)
    _check_for_text(options)
    assert options.model_size is not None
    opened = fetch_text if is_s3(options.dataset) else open_text
    return opened(options.dataset, options.model_size)


def _check_for_text(options: Options) -> None:
    """That the options ask for nothing that only a data set knows."""
    instead = "or make a data set of it with load_libsvm"
    if options.model_size is None:
        raise OptionError(
            f"model_size: {options.dataset} is text, whose features nobody has counted yet; "
            f"say how many weights there are to be, {instead}"
        )
    if options.class_weight == "balanced":
        raise OptionError(
            f"class_weight: nobody has counted the classes of {options.dataset}, which is text; "
            f"give a pair of numbers, {instead}"
        )
    if (options.l1 or options.l2) and options.optimizer != "ftrl":
        raise OptionError(
            f"l1, l2: nobody has counted the columns of {options.dataset}, which is text, and "
            f'{options.optimizer} needs that; take optimizer="ftrl", {instead}'
        )


def _model_size(options: Options, dataset: Dataset | TextDataset) -> int:
    size = options.model_size or dataset.n_features
    ids = dataset.columns.ids
    if len(ids) and ids[-1] >= size:
        or_not = "" if isinstance(dataset, TextDataset) else ", or leave it out"
        raise DatasetError(
            f"{dataset.name}: has a feature {ids[-1]} (0-based), beyond model_size={size}; "
            f"make it at least {int(ids[-1]) + 1}{or_not}"
        )
    return size


def _first_reads(
    dataset: Dataset | TextDataset, n_workers: int, seed: int
) -> list[tuple[Piece, ...]]:
    if isinstance(dataset, TextDataset) or not dataset.is_remote:
        return [()] * n_workers
    return [
        tuple(first_reads(dataset, share, seed, worker))
        for worker, share in enumerate(shares(dataset, n_workers))
    ]


def _holdout(options: Options, dataset: Dataset | TextDataset) -> HoldOut:
    if options.test_dataset is not None:
        return HoldOut.none(dataset.blocks)
    if options.test_fraction is not None:
        return HoldOut.plan(dataset.blocks, options.test_fraction, options.seed)
    if options.epsilon > 0:
        return HoldOut.default(dataset.blocks, options.seed)
    return HoldOut.none(dataset.blocks)


def _test_rows(
    options: Options, dataset: Dataset | TextDataset, holdout: HoldOut
) -> tuple[TestRows | None, Reads]:
    """The rows to measure on, if any, and what reading another data set for them has cost."""
    label_map, reads = dataset.manifest.label_map, Reads()
    if options.test_dataset is not None:
        blank = LinearModel(
            weights=np.empty(0, np.float32),
            intercept=0.0,
            label_map=label_map,
            index_base=dataset.manifest.index_base,
            hash_bits=dataset.manifest.hash_bits,
            scaling=dataset.scaling,
            text_format=dataset.manifest.text_format,
        )
        test = options.test_dataset
        found: str | Dataset = test if names_text(test) else Dataset(test)
        parts = list(blank.scorable(found))
        if not parts:
            raise DatasetError(f"{test}: has no rows to test on")
        if isinstance(found, Dataset):
            reads = found.reads
    else:
        parts = held_out_rows(dataset, holdout)
        if not parts:
            return None, reads
    return TestRows.of(parts, label_map, options.test_dataset or dataset.name), reads


def _default_rate(optimizer: str, dataset: Dataset | TextDataset) -> float:
    """Steps are measured in margins: the more entries a row has, the less each may move. Found by
    trial on click and text data; within a factor of two of these, the loss hardly changes."""
    entries = max(1.0, dataset.manifest.nnz / max(1, dataset.n_rows))
    if optimizer == "adagrad":
        return 0.6 / math.sqrt(entries)
    return 0.15 if optimizer == "ftrl" else 0.7 / entries


def _class_weight(
    options: Options, dataset: Dataset | TextDataset, test: TestRows | None, n_train: int
) -> tuple[float, float]:
    if options.class_weight != "balanced":
        return options.class_weight if isinstance(options.class_weight, tuple) else (1.0, 1.0)
    n_positive = float(dataset.manifest.n_positive)
    if test is not None and not options.test_dataset:  # held out, and not learnt from
        n_positive -= float(test.positives.sum())
    if not 0 < n_positive < n_train:
        raise DatasetError(
            f'{dataset.name}: class_weight="balanced" needs training rows of both classes'
        )
    return n_train / (2 * (n_train - n_positive)), n_train / (2 * n_positive)


def _worker_count(options: Options, dataset: Dataset | TextDataset, n_train: int) -> int:
    alone = n_train < FEW_ROWS or options.consistency == "bsp"
    places = DEFAULT_FUNCTIONS if on_lambda(options) else available_cores()
    wanted = options.n_workers or (1 if alone else places)
    most, why = wanted, ""
    if len(dataset.blocks) < most:
        most, why = len(dataset.blocks), f"the data set has {len(dataset.blocks)} blocks"
    if n_train < FEW_ROWS and options.consistency != "bsp":  # where nobody is late
        in_flight = max(1, int(MOST_IN_FLIGHT * n_train) // options.minibatch_size)
        if in_flight < most:
            most, why = in_flight, f"mini-batches in flight would be over 1 % of {n_train} rows"
    if most < wanted and options.n_workers is not None:
        notice_once(f"{dataset.name}: {most} of {wanted} workers are used, since {why}")
    if most == 1 and options.consistency == "ssp":
        notice_once(
            f'{dataset.name}: one worker has nobody to wait for: consistency="ssp" changes nothing'
        )
    return most
