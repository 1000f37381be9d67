"""What runs and commands ask of S3, and training on text that lies there."""

from __future__ import annotations

import errno
import gzip
import os
import threading
import time
from pathlib import Path

import boto3
import numpy as np
import pytest
from click.testing import CliRunner
from s3_server import Faults

import cirrus_fast
from cirrus_fast.cli import cli
from cirrus_fast.data import dataset as dataset_module
from cirrus_fast.data import s3 as s3_module
from cirrus_fast.data import s3_get, s3_source
from cirrus_fast.data.s3 import S3Storage
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import DatasetError, LibsvmParseError, OptionError, StorageError
from cirrus_fast.export import export_libsvm

CONTENT = bytes(np.random.default_rng(1).integers(0, 256, 30_000, np.uint8))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "clicks.svm"
    cirrus_fast.make_clicks(path, 3000, seed=1)
    return path.read_bytes()


@pytest.fixture
def far(s3, text, storage_root, monkeypatch):
    """A data set of 30 blocks in S3, in one object; nothing on disk."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 100)
    path = storage_root.parent / "clicks.svm"
    near = cirrus_fast.load_libsvm(path, "clicks")
    target = S3Storage("s3://bucket/sets/clicks")
    for file in storage_root.joinpath("clicks").iterdir():
        target.write(file.name, file.read_bytes())
    assert len(near.blocks) == 30
    return cirrus_fast.Dataset("s3://bucket/sets/clicks")


def _run(**options):
    given = {"epsilon": 0, "n_workers": 1, "progress": False} | options
    return cirrus_fast.LogisticRegression(given).run()


@pytest.mark.parametrize("executor", ["local", "processes"])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_result_says_what_was_read(s3, text, storage_root, monkeypatch, executor, n_workers, far):
    s3.application.requests.clear()
    options = {"dataset": far.uri, "epochs": 3, "consistency": "bsp", "executor": executor}
    result = _run(**options, n_workers=n_workers)
    gets = [asked for asked in s3.application.requests if asked[0] == "GET"]
    assert [method for method, *_ in s3.application.requests if method != "GET"] == []
    assert result.reads.requests == len(gets)
    assert result.reads.retries == 0
    blocks = sum(block.n_bytes for block in far.blocks)
    assert [one.bytes for one in result.reads_by_epoch] == [blocks, 0, 0] or (
        # The dictionary may come before or after the first epoch begins.
        sum(one.bytes for one in result.reads_by_epoch[1:]) == 0
    )
    assert result.reads.bytes >= blocks
    kept = storage_root.parent / "result.npz"
    result.save(kept)
    again = cirrus_fast.TrainResult.load(kept)
    assert (again.reads, again.reads_by_epoch) == (result.reads, result.reads_by_epoch)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_workers_ask_for_what_they_read_first_before_they_have_the_manifest(
    s3, storage_root, monkeypatch, far, n_workers
):
    asked = s3.application.requests
    name = far.manifest.dictionary
    all_have_asked = threading.Barrier(n_workers, timeout=20)
    read_manifest = dataset_module.read_manifest

    def held_up(storage, path, *early):
        if threading.current_thread().name.startswith("cirrus-open"):
            ends = time.monotonic() + 20
            while sum("/shard-" in key or name in key for _, key, _ in asked) < 2 * n_workers:
                assert time.monotonic() < ends
                time.sleep(0.01)
            all_have_asked.wait()
        return read_manifest(storage, path, *early)

    monkeypatch.setattr(dataset_module, "read_manifest", held_up)
    asked.clear()
    options = {"dataset": far.uri, "consistency": "bsp", "n_workers": n_workers}
    result = _run(**options)
    gets = [key for _, key, _ in asked]
    assert sum(name in key for key in gets) == n_workers
    assert result.reads_by_epoch[0].bytes <= sum(block.n_bytes for block in far.blocks)
    monkeypatch.setattr(dataset_module, "read_manifest", read_manifest)
    plan = "cirrus_fast.backend.plan._first_reads"
    monkeypatch.setattr(plan, lambda _dataset, n_workers, _seed: [()] * n_workers)
    later = _run(**options)
    assert later.reads == result.reads
    assert np.array_equal(later.model.weights, result.model.weights)


def test_retries_are_in_the_result(s3, text, storage_root, monkeypatch, far):
    monkeypatch.setattr(s3_get, "_FIRST_PAUSE_S", 0.001)
    plain = _run(dataset=far.uri)
    s3.faults = Faults.some(0.5, ["503", "reset", "short"], after=700)
    faulty = _run(dataset=far.uri)
    assert faulty.reads.retries > 0
    assert faulty.reads.requests == plain.reads.requests + faulty.reads.retries
    assert np.array_equal(plain.model.weights, faulty.model.weights)


def test_data_on_disk_have_no_reads(text, storage_root):
    path = storage_root.parent / "clicks.svm"
    path.write_bytes(text)
    cirrus_fast.load_libsvm(path, "clicks")
    result = _run(dataset="clicks")
    assert result.reads == Reads()


def test_a_shard_replaced_while_a_run_reads_it_is_noticed(s3, text, storage_root, monkeypatch, far):
    """Even where its blocks are whole: they may be those of another data set."""
    block, other = far.blocks[0], far.blocks[-1]
    far.read_bytes(block)
    storage = S3Storage(far.uri)
    raw = storage.read(block.shard)
    storage.write(block.shard, raw + b"more")
    with pytest.raises(StorageError, match=f"{block.shard}: was replaced while it was being read"):
        far.read_bytes(other)


def test_two_first_reads_at_once_of_two_versions_are_noticed(s3, monkeypatch):
    folder = S3Storage("s3://bucket/some/folder")
    folder.write("a", CONTENT)
    real = s3_get.Getter.read_into

    def replaced_meanwhile(self, key, offset, out, *more):
        found = real(self, key, offset, out, *more)
        monkeypatch.setattr(s3_get.Getter, "read_into", real)
        S3Storage(folder.uri).write("a", CONTENT[::-1])
        folder.read_into("a", 5, memoryview(bytearray(10)))
        return found

    monkeypatch.setattr(s3_get.Getter, "read_into", replaced_meanwhile)
    with pytest.raises(StorageError, match="was replaced"):
        folder.read_into("a", 0, memoryview(bytearray(10)))


@pytest.mark.parametrize("command", ["verify", "export", "normalize", "head", "info"])
def test_commands_on_s3_ask_seldom(s3, text, storage_root, monkeypatch, command, tmp_path, far):
    s3.application.requests.clear()
    arguments = {
        "verify": ["verify", far.uri],
        "export": ["export", far.uri, str(tmp_path / "out.svm")],
        "normalize": ["normalize", far.uri, str(tmp_path / "scaled")],
        "head": ["head", far.uri],
        "info": ["info", far.uri],
    }[command]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    shards = [path for _, path, _ in s3.application.requests if "shard-" in path]
    assert len(shards) <= 1 + (command == "verify") + 8 * (command == "normalize")
    if command == "head":
        assert result.output.encode() == text[: len(result.output)]
    if command == "export":
        assert (tmp_path / "out.svm").read_bytes() == text


@pytest.mark.parametrize("command", ["verify", "export"])
def test_commands_read_again_what_was_damaged_on_its_way(
    s3, text, storage_root, monkeypatch, command, tmp_path, far
):
    _ = far.dictionary, far.columns
    s3.faults = Faults.first(1, "corrupt", after=20_000)
    if command == "verify":
        far.verify()
    else:
        export_libsvm(far, tmp_path / "out.svm")
        assert (tmp_path / "out.svm").read_bytes() == text
    assert s3.faults.plan("") is None  # it did come to pass


@pytest.mark.parametrize("name", ["dictionary", "columns", "manifest"])
def test_what_lies_beside_the_blocks_is_read_again_too(s3, far, name, caplog):
    name = "manifest.json" if name == "manifest" else getattr(far.manifest, name)
    bad = iter(["corrupt"])
    s3.faults = Faults(lambda key: next(bad, None) if key.endswith(name) else None, after=300)
    again = cirrus_fast.Dataset(far.uri)
    assert again.id == far.id
    assert again.dictionary.identity == far.dictionary.identity
    assert np.array_equal(again.columns.ids, far.columns.ids)
    assert next(bad, None) is None
    assert caplog.text.count("; read again") == 1
    s3.faults = Faults(lambda key: "corrupt" if key.endswith(name) else None, after=300)
    with pytest.raises(DatasetError, match=name):
        _run(dataset=far.uri)


# Text in S3 to train on


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_text_in_s3_trains_as_on_disk_and_comes_once(s3, text, storage_root, executor):
    path = storage_root.parent / "clicks.svm"
    path.write_bytes(text)
    S3Storage("s3://bucket/text").write("a.svm", text)
    options = {"model_size": 2**19, "epochs": 3, "consistency": "bsp", "n_workers": 2}
    near = _run(**options | {"dataset": str(path)})
    s3.application.requests.clear()
    far = _run(**options | {"dataset": "s3://bucket/text/a.svm", "executor": executor})
    assert np.array_equal(near.model.weights, far.model.weights)
    assert far.rows_processed == near.rows_processed
    gets = [path for method, path, _ in s3.application.requests if method == "GET"]
    assert gets.count("/bucket/text/a.svm") == 1
    assert far.reads.bytes == len(text)
    assert far.reads.requests == len(s3.application.requests), s3.application.requests
    assert sum(one.requests for one in far.reads_by_epoch) == 0


@pytest.mark.parametrize("test_is_text", [True, False])
def test_all_that_is_asked_of_the_server_for_test_rows_is_counted(s3, text, far, test_is_text):
    S3Storage("s3://bucket/text").write("test.svm", text)
    s3.application.requests.clear()
    test = "s3://bucket/text/test.svm" if test_is_text else far.uri
    result = _run(dataset=far.uri, test_dataset=test)
    assert result.test_loss is not None
    assert "HEAD" in {method for method, *_ in s3.application.requests}
    assert result.reads.requests == len(s3.application.requests)
    assert result.reads.bytes > (len(text) if test_is_text else far.n_bytes)


def test_a_run_on_text_in_s3_goes_on_only_with_that_version(s3, text, storage_root):
    folder = S3Storage("s3://bucket/text")
    folder.write("a.svm", text)
    options = {"dataset": "s3://bucket/text/a.svm", "model_size": 2**19}
    whole = _run(**options, epochs=3)
    first = _run(**options, epochs=2, checkpoint_interval=3600)
    rest = _run(**options, epochs=3, resume_from=first.checkpoint)
    assert np.array_equal(rest.model.weights, whole.model.weights)
    folder.write("a.svm", text + text[: text.index(b"\n") + 1])
    with pytest.raises(OptionError, match="another data set"):
        _run(**options, epochs=3, resume_from=first.checkpoint)


def test_errors_in_text_in_s3_name_the_object(s3, text, storage_root):
    folder = S3Storage("s3://bucket/text")
    folder.write("bad.svm", text + b"1 3:x\n")
    folder.write("packed.svm.gz", gzip.compress(text))
    folder.write("empty.svm", b"")
    for name, kind, says in (
        ("bad.svm", LibsvmParseError, r"s3://bucket/text/bad\.svm.*line 3001"),
        ("packed.svm.gz", DatasetError, r"s3://bucket/text/packed\.svm\.gz: compressed text"),
        ("empty.svm", DatasetError, r"empty\.svm: the file is empty"),
        ("none.svm", DatasetError, r"s3://bucket/text/none\.svm: no data set"),
    ):
        with pytest.raises(kind, match=says):
            _run(dataset=f"s3://bucket/text/{name}", model_size=2**19)


def _open_files() -> set[str]:
    """But for connections, of which the server, here too, lets go when it gets to it."""
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return {target for link in links if not (target := str(link.readlink())).startswith("socket:")}


def test_text_in_s3_that_the_temporary_folder_cannot_keep_is_refused(s3, text, monkeypatch):
    S3Storage("s3://bucket/text").write("a.svm", text)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = _open_files()
    says = r"s3://bucket/text/a\.svm: its \d+ bytes cannot be kept in .*No space left.*TMPDIR"
    with pytest.raises(StorageError, match=says):
        _run(dataset="s3://bucket/text/a.svm", model_size=2**19)
    assert _open_files() <= before


def test_text_in_s3_replaced_while_it_is_brought_is_refused(s3, text, monkeypatch):
    folder = S3Storage("s3://bucket/text")
    folder.write("a.svm", text)
    monkeypatch.setattr("cirrus_fast.data.s3_source.RANGE_BYTES", 10_000)
    version = s3_source.lineage("s3://bucket/text/a.svm")
    monkeypatch.setattr("cirrus_fast.data.s3_source.lineage", lambda _uri: version)
    folder.write("a.svm", text.upper() + b"\n")
    with pytest.raises(StorageError, match=r"a\.svm: was replaced"):
        _run(dataset="s3://bucket/text/a.svm", model_size=2**19)


# Credentials


def test_credentials_that_have_expired_are_looked_for_anew(s3, monkeypatch, tmp_path):
    """Where boto3 finds them in a file, which somebody has written again."""
    S3Storage("s3://bucket/some").write("a", CONTENT)
    held = tmp_path / "credentials"
    held.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = secret\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(held))
    monkeypatch.setattr(s3_get, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_module.forget()
    reader = s3_module.getter("bucket")
    assert reader.read("some/a") == CONTENT
    held.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = secret\n")
    s3.faults = Faults.first(1, "403 ExpiredToken")
    assert reader.read("some/a") == CONTENT
    assert "new" in reader._signer.get("bucket", "some/a").target
    s3.faults = Faults(lambda _key: "403 ExpiredToken")
    with pytest.raises(StorageError, match="s3://bucket/some/a: the credentials have expired"):
        reader.read("some/a")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_search_reads_what_one_model_does(far, executor):
    """Each worker of it."""
    base = {"dataset": far.uri, "epochs": 1, "epsilon": 0, "executor": executor, "n_workers": 1}
    one = _run(**base)
    search = cirrus_fast.GridSearch(
        param_base=base,
        hyper_vars=["learning_rate", "minibatch_size"],
        hyper_params=[np.geomspace(0.01, 1, 40), [1, 100]],
    )
    results = search.run()
    assert len(results) == 80
    assert 0 < results.reads.bytes <= one.reads.bytes
