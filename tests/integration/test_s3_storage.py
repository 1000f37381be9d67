"""s3:// against a real HTTP server that speaks S3."""

from __future__ import annotations

import bz2
import errno
import gzip
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from s3_server import Faults

import cirrus_fast
from cirrus_fast.data import dataset as dataset_module
from cirrus_fast.data import s3 as s3_module
from cirrus_fast.data import s3_get, s3_source
from cirrus_fast.data.dataset import list_datasets, remove_dataset
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.lock import LOCK
from cirrus_fast.data.s3 import S3Storage, getter
from cirrus_fast.data.s3_get import Getter
from cirrus_fast.data.s3_signing import BotoSigner, EnvironmentSigner
from cirrus_fast.errors import BlockError, DatasetError, OptionError, StorageError
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import held_out_rows
from cirrus_fast.runtime.row_sources import RowArrays, StoredBlocks

SECRETS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
CONTENT = bytes(np.random.default_rng(1).integers(0, 256, 300_000, np.uint8))


@pytest.fixture
def folder(s3):
    return S3Storage("s3://bucket/some/folder")


@pytest.fixture
def reader(s3, folder):
    """Reads without waiting between attempts, and gives up soon on who says nothing."""
    folder.write("object", CONTENT)
    return Getter(getter("bucket")._signer, "bucket", timeout=0.5, pause=lambda _seconds: None)


def test_objects_are_written_read_listed_and_deleted(folder):
    folder.write("b", b"two")
    folder.write("a", CONTENT)
    folder.write("empty", b"")
    S3Storage("s3://bucket/some/folder/inner").write("c", b"three")
    S3Storage("s3://bucket/some/folderol").write("d", b"four")
    assert folder.read("a") == CONTENT
    assert folder.read("empty") == b""
    out = memoryview(bytearray(70_000))
    folder.read_into("a", 1000, out)
    assert out == CONTENT[1000:71_000]
    folder.read_into("a", 5, out[:0])
    assert folder.names() == ["a", "b", "empty"]
    assert folder.folders() == ["inner"]
    assert S3Storage("s3://bucket/some").folders() == ["folder", "folderol"]
    folder.delete("b")
    folder.delete("never there")
    assert not folder.exists("b")
    assert folder.exists("a")
    assert folder.names() == ["a", "empty"]


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://user@bucket/x", "s3://bucket/x?y=1"])
def test_a_uri_that_names_no_bucket_is_refused(uri):
    with pytest.raises(StorageError, match=r"s3://"):
        S3Storage(uri)


def test_names_with_any_character_survive(s3):
    folder = S3Storage("s3://bucket/a b/ü%25~+")
    assert folder.prefix == "a b/ü%~+"
    folder.write("näme +&=", b"x")
    assert folder.read("näme +&=") == b"x"
    assert folder.names() == ["näme +&="]


@pytest.mark.parametrize("n_bytes", [0, 5, 12_000_000])
def test_an_object_appears_when_it_is_committed_and_not_before(folder, monkeypatch, n_bytes):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    content = os.urandom(n_bytes)
    writer = folder.writer("object")
    for begin in range(0, n_bytes, 1 << 20):
        writer.write(content[begin : begin + (1 << 20)])
    assert not folder.exists("object")
    writer.commit()
    assert folder.read("object") == content


def test_an_aborted_object_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    writer = folder.writer("object")
    writer.write(os.urandom(11 << 20))
    writer.abort()
    assert folder.names() == []
    assert "Uploads" not in s3_module.client().list_multipart_uploads(Bucket="bucket")


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(StorageError, match=r"s3://other/x/name: NoSuchBucket"):
        S3Storage("s3://other/x").write("name", b"x")
    with pytest.raises(
        StorageError, match=r"no such object \(404 NoSuchBucket\): 's3://other/x/name'"
    ):
        S3Storage("s3://other/x").read("name")


def test_encryption_is_asked_for(folder, monkeypatch):
    monkeypatch.setenv(s3_module.SSE, "AES256")
    folder.write("object", b"x")
    head = folder.head("object")
    assert head is not None
    assert head["ServerSideEncryption"] == "AES256"
    monkeypatch.delenv(s3_module.SSE)
    monkeypatch.setenv(s3_module.KMS_KEY, "alias/mine")
    writer = folder.writer("object")
    writer.write(bytes(s3_module.PART_BYTES + 1))
    writer.commit()
    head = folder.head("object")
    assert head is not None
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/mine")


def test_of_several_creators_one_wins_and_replacing_needs_what_was_there(folder):
    assert folder.create("lock", b"mine")
    assert not folder.create("lock", b"yours")
    assert folder.read("lock") == b"mine"
    assert not folder.replace("lock", b"other", b"x")
    assert not folder.replace("lock", b"else", b"x")
    assert not folder.replace("none", b"", b"x")
    assert folder.replace("lock", b"mine", b"new")
    assert folder.read("lock") == b"new"
    assert folder.size("lock") == 3
    with pytest.raises(StorageError) as caught:
        folder.size("none")
    assert caught.value.errno == errno.ENOENT


def test_two_loads_of_one_name_exclude_each_other(root, text, monkeypatch):
    S3Storage("s3://bucket/text").write("a.svm", text)

    def second(_bytes):
        with pytest.raises(DatasetError, match="clicks: is being written by process"):
            cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")

    cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks", on_progress=second)
    assert LOCK not in S3Storage("s3://bucket/sets/clicks").names()


# Reading


@pytest.mark.parametrize("boto", [False, True])
def test_ranges_are_read_into_the_callers_memory(s3, reader, boto):
    if boto:
        reader = Getter(BotoSigner(s3_module.client), "bucket")
    out = bytearray(10_000)
    etag = reader.read_into("some/folder/object", 123, memoryview(out))
    assert out == CONTENT[123:10_123]
    assert reader.read_into("some/folder/object", 0, memoryview(out), etag) == etag
    assert out == CONTENT[:10_000]
    assert (reader.traffic.requests, reader.traffic.retries) == (2, 0)
    assert reader.traffic.bytes == 20_000


@pytest.mark.parametrize("kind", ["503", "500", "429", "400 RequestTimeout", "reset", "short"])
def test_what_breaks_off_goes_on_where_it_broke(s3, reader, kind):
    s3.faults = Faults.first(3, kind, after=1000)
    assert reader.read("some/folder/object") == CONTENT
    assert reader.traffic.retries == 3
    assert reader.traffic.bytes == len(CONTENT)  # nothing twice
    out = bytearray(5000)
    s3.faults = Faults.first(2, kind, after=1000)
    reader.read_into("some/folder/object", 40_000, memoryview(out))
    assert out == CONTENT[40_000:45_000]


def test_a_server_that_stalls_is_asked_again(s3, reader):
    s3.faults = Faults.first(1, "stall", after=1000, stall_s=2)
    assert reader.read("some/folder/object") == CONTENT
    assert reader.traffic.retries == 1


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("503", r"the server said 503 SlowDown \(attempt 6\)"),
        ("stall", r"no answer within 0.5 s|ended after"),
        ("403 ExpiredToken", "the credentials have expired .403 ExpiredToken.; renew them"),
        ("403 AccessDenied", "said 403 AccessDenied; may these credentials read it"),
        ("301 PermanentRedirect", "is in region unknown; set AWS_REGION and AWS_DEFAULT_REGION"),
    ],
)
def test_a_read_that_cannot_succeed_ends_with_the_objects_name(s3, reader, kind, says):
    s3.faults = Faults(lambda _key: kind, after=0, stall_s=0.7)
    with pytest.raises(StorageError, match=f"s3://bucket/some/folder/object: .*({says})"):
        reader.read("some/folder/object")


def test_attempts_that_bring_some_bytes_are_bounded_too(s3, reader, monkeypatch):
    monkeypatch.setattr(s3_get, "MOST_ATTEMPTS", 20)
    s3.faults = Faults(lambda _key: "short", after=10)
    with pytest.raises(StorageError, match=r"ended after 200 of 300000 bytes \(attempt 20\)"):
        reader.read("some/folder/object")


def test_random_faults_never_give_a_wrong_byte(s3, reader):
    s3.faults = Faults.some(0.4, ["503", "reset", "short"], after=20_000)
    draw = np.random.default_rng(3)
    for _ in range(60):
        begin = int(draw.integers(0, len(CONTENT) - 1))
        out = bytearray(int(draw.integers(1, len(CONTENT) - begin + 1)))
        reader.read_into("some/folder/object", begin, memoryview(out))
        assert out == CONTENT[begin : begin + len(out)]
    assert reader.traffic.retries > 10


def test_an_object_that_is_cut_short_or_gone_is_an_error(reader, folder):
    out = memoryview(bytearray(100))
    with pytest.raises(StorageError, match="is shorter than it should be; it was cut short"):
        reader.read_into("some/folder/object", len(CONTENT) - 50, out)
    with pytest.raises(StorageError, match="is shorter than it should be"):
        reader.read_into("some/folder/object", len(CONTENT), out)
    with pytest.raises(StorageError, match=r"no such object \(404 NoSuchKey\): 's3://"):
        reader.read("some/folder/other")


def test_an_object_replaced_meanwhile_is_noticed(s3, reader, folder):
    etag = reader.read_into("some/folder/object", 0, memoryview(bytearray(10)))
    folder.write("object", CONTENT[::-1])
    with pytest.raises(StorageError, match="was replaced while it was being read"):
        reader.read_into("some/folder/object", 10, memoryview(bytearray(10)), etag)


def test_an_object_replaced_between_two_attempts_is_noticed(s3, reader, folder):
    def replace(_key):
        folder.write("object", CONTENT[::-1])

    plans = iter([lambda _key: "short", replace])
    s3.faults = Faults(lambda key: next(plans)(key), after=1000)
    with pytest.raises(StorageError, match="was replaced while it was being read"):
        reader.read("some/folder/object")


def test_a_host_without_an_address_is_named(monkeypatch, s3):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    s3_module.forget()
    reader = Getter(getter("bucket")._signer, "bucket", pause=lambda _seconds: None)
    with pytest.raises(StorageError, match=r"no-such-host\.invalid has no address"):
        reader.read("object")


class _Plain(BaseHTTPRequestHandler):
    """Serves CONTENT and keeps connections; closes one after `last` answers without a word."""

    protocol_version = "HTTP/1.1"
    last = 1000
    ranges = True
    connections = 0

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1
        self.answered = 0

    def do_GET(self) -> None:
        asked = self.headers.get("range") if self.ranges else None
        begin, end = 0, len(CONTENT)
        if asked is not None:
            begin, last = map(int, asked.removeprefix("bytes=").split("-"))
            end = last + 1
        self.send_response(206 if asked else 200)
        self.send_header("content-length", str(end - begin))
        if asked:
            self.send_header("content-range", f"bytes {begin}-{end - 1}/{len(CONTENT)}")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(CONTENT[begin:end])
        self.answered += 1
        self.close_connection = self.answered == self.last

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture
def plain():
    handler = type("Handler", (_Plain,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_arguments: None  # clients hang up, which is what is tested
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_connections_are_kept_and_stale_ones_replaced_without_a_word(plain):
    reader = Getter(EnvironmentSigner("here", plain.url, SECRETS), "bucket")
    for _ in range(5):
        reader.read_into("key", 0, memoryview(bytearray(100)))
    assert plain.connections == 1
    plain.last = 7  # after one more answer than the next
    for _ in range(8):
        reader.read_into("key", 0, memoryview(bytearray(100)))
    assert plain.connections == 2
    assert reader.traffic.retries == 0
    reader.close()


def test_a_server_that_ignores_ranges_is_read_from_the_start_only(plain):
    plain.ranges = False
    reader = Getter(EnvironmentSigner("here", plain.url, SECRETS), "bucket")
    out = bytearray(100)
    reader.read_into("key", 0, memoryview(out))
    assert out == CONTENT[:100]
    with pytest.raises(StorageError, match="answered another range than was asked for"):
        reader.read_into("key", 100, memoryview(out))
    reader.close()


def _never(_seconds: float) -> None:
    pytest.fail("asked again")


@pytest.mark.parametrize(
    ("bucket", "endpoint", "says"),
    [
        (
            "bucket",
            "https://localhost:1",
            r"AWS_CA_BUNDLE=/none/ca: no certificates there \(No such",
        ),
        ("bucket", "http://localhost:abc", "nonnumeric port: 'abc'; see AWS_ENDPOINT_URL"),
        ("b" * 70, "http://%s.localhost:1", "b{70}.localhost:1 is no name of a host"),
    ],
)
def test_an_address_that_cannot_be_right_is_asked_once(monkeypatch, bucket, endpoint, says):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none/ca")
    asked = EnvironmentSigner("here", endpoint.replace("%s", bucket), SECRETS)
    with pytest.raises(StorageError, match=f"s3://{bucket}/key: {says}") as caught:
        Getter(asked, bucket, pause=_never).read("key")
    assert "\n" not in str(caught.value)


def test_an_endpoint_without_scheme_is_refused_with_what_to_do(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    s3_module.forget()
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL: .* give http://localhost:9000 or"):
        S3Storage("s3://bucket/folder").read("object")


# Processes


def _own_port() -> int:
    """Reads, over and over; the port of the one connection it took."""
    reader = getter("bucket")
    for _ in range(20):
        assert reader.read("key") == CONTENT
    ((connection,),) = reader._idle.values()
    assert connection.sock is not None
    return int(connection.sock.getsockname()[1])


# That forking with threads is dangerous is why this test is here.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_processes_forked_off_have_connections_and_locks_of_their_own(s3, plain, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", plain.url)
    s3_module.forget()
    port = _own_port()
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    try:
        with s3_module._lock:  # as another thread may, at that moment
            futures = [pool.submit(_own_port) for _ in range(2)]
        ports = [future.result(timeout=30) for future in futures]
    finally:
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown()
    assert port not in ports
    assert _own_port() == port  # the parent's is as good as before
    assert getter("bucket").traffic.retries == 0


def test_opening_and_reading_need_no_boto3(root, text, run_python):
    S3Storage("s3://bucket/text").write("a.svm", text)
    cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")
    code = """if True:
        import sys
        from cirrus_fast.data.dataset import Dataset
        found = Dataset("s3://bucket/sets/clicks")
        print(found.read_block(found.blocks[0]).n_rows, "boto3" in sys.modules)
    """
    assert run_python(code) == "3000 False\n"
    with pytest.raises(DatasetError, match="none: no data set in s3://bucket/sets/none"):
        cirrus_fast.Dataset("none")
    root.delete("clicks/manifest.json")
    with pytest.raises(DatasetError, match="clicks: incomplete data set"):
        cirrus_fast.Dataset("clicks")


# Text


def rows(name):
    return [row for block in name.blocks for row in name.read_block(block).labels.tolist()]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "clicks.svm"
    cirrus_fast.make_clicks(path, 3000, seed=1)
    return path.read_bytes()


@pytest.fixture
def root(s3):
    cirrus_fast.configure(storage="s3://bucket/sets")
    yield S3Storage("s3://bucket/sets")
    cirrus_fast.configure(storage=None)


def test_text_of_any_packing_becomes_the_same_data_set(root, text, monkeypatch):
    monkeypatch.setattr(s3_source, "RANGE_BYTES", 100_000)
    source = S3Storage("s3://bucket/text")
    source.write("a.svm", text)
    source.write("b.svm.gz", gzip.compress(text))
    source.write("c.svm.bz2", bz2.compress(text))
    loaded = [
        cirrus_fast.load_libsvm(f"s3://bucket/text/{name}", name)
        for name in ("a.svm", "b.svm.gz", "c.svm.bz2")
    ]
    assert list_datasets() == ["a.svm", "b.svm.gz", "c.svm.bz2"]
    expected = cirrus_fast.parse_libsvm(text)
    for dataset in loaded:
        assert dataset.n_rows == 3000
        assert rows(dataset) == expected.labels.tolist()


def test_patterns_match_objects_of_one_folder(root, text):
    source = S3Storage("s3://bucket/text")
    half = text.index(b"\n", len(text) // 2) + 1
    source.write("part-1.svm", text[:half])
    source.write("part-2.svm", text[half:])
    source.write("other.txt", b"no rows")
    dataset = cirrus_fast.load_libsvm("s3://bucket/text/part-*.svm", "clicks")
    assert rows(dataset) == cirrus_fast.parse_libsvm(text).labels.tolist()


def test_the_same_object_is_reused_and_a_changed_one_is_not(root, text, capsys):
    source = S3Storage("s3://bucket/text")
    source.write("a.svm", text)
    first = cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")
    assert cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks").id == first.id
    source.write("a.svm", text.replace(b"\n1 ", b"\n0 ", 1))
    with pytest.raises(DatasetError, match="made of something else"):
        cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")


def test_what_is_wrong_with_text_is_placed_in_its_object(root, text):
    at = text.index(b"\n", 100_000) + 1
    line = text.count(b"\n", 0, at) + 1
    bad = text[:at] + b"1 5:1 4:1\n" + text[at:]
    S3Storage("s3://bucket/text").write("a.svm", bad)
    says = f"s3://bucket/text/a.svm: .*increase.*line {line}, column 7, byte {at + 6}"
    with pytest.raises(cirrus_fast.LibsvmParseError, match=says):
        cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")
    with pytest.raises(StorageError, match="no such object: 's3://bucket/text/none'"):
        cirrus_fast.load_libsvm("s3://bucket/text/none", "clicks")
    assert root.names() == []
    assert list_datasets() == []


def test_from_s3_to_s3_to_a_model(root, text, storage_root):
    S3Storage("s3://bucket/text").write("a.svm", text)
    cirrus_fast.configure(storage="s3://bucket/sets")
    cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")
    scaled = cirrus_fast.normalize("clicks", "scaled", cirrus_fast.MIN_MAX_SCALING)
    assert scaled.uri == "s3://bucket/sets/scaled"
    options = {"epochs": 2, "n_workers": 1, "seed": 3}
    far = cirrus_fast.LogisticRegression(options, dataset="scaled").run()
    cirrus_fast.configure(storage=str(storage_root))
    (storage_root / "a.svm").parent.mkdir(exist_ok=True)
    (storage_root / "a.svm").write_bytes(text)
    cirrus_fast.load_libsvm(storage_root / "a.svm", "clicks")
    cirrus_fast.normalize("clicks", "scaled", cirrus_fast.MIN_MAX_SCALING)
    near = cirrus_fast.LogisticRegression(options, dataset="scaled").run()
    assert np.array_equal(far.model.weights, near.model.weights)
    processes = cirrus_fast.LogisticRegression(
        options, dataset="s3://bucket/sets/scaled", executor="processes"
    ).run()
    assert np.array_equal(far.model.weights, processes.model.weights)
    remove_dataset("s3://bucket/sets/scaled")
    assert S3Storage("s3://bucket/sets").folders() == ["clicks"]


def _near_and_far(storage_root, text):
    """The same data set of many blocks on disk and in S3, whose shard is one file."""
    path = storage_root.parent / "clicks.svm"
    cirrus_fast.configure(storage=str(storage_root))
    near = cirrus_fast.load_libsvm(path, "clicks")
    target = S3Storage("s3://bucket/sets/clicks")
    for file in storage_root.joinpath("clicks").iterdir():
        target.write(file.name, file.read_bytes())
    return near, cirrus_fast.Dataset("s3://bucket/sets/clicks")


@pytest.mark.parametrize(("run_bytes", "requests"), [(8 << 20, 1), (30_000, None)])
def test_many_blocks_come_with_few_requests(
    s3, text, storage_root, monkeypatch, assert_same_rows, run_bytes, requests
):
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 100)
    monkeypatch.setattr(dataset_module, "RUN_BYTES", run_bytes)
    near, far = _near_and_far(storage_root, text)
    assert len(far.blocks) == 30
    holdout = HoldOut.plan(far.blocks, 0.5, seed=1)
    for read in (dataset_module.iterate, lambda data: held_out_rows(data, holdout)):
        s3.application.requests.clear()
        found = list(read(far))
        asked = [path for _, path, _ in s3.application.requests if "shard-" in path]
        assert len(asked) < 30
        assert requests is None or len(asked) == requests
        for ours, theirs in zip(found, read(near), strict=True):
            assert_same_rows(ours, theirs)


def test_a_block_damaged_on_its_way_is_read_again(s3, text, storage_root, assert_same_rows, caplog):
    near, far = _near_and_far(storage_root, text)
    _ = far.dictionary
    s3.faults = Faults.first(1, "corrupt", after=1000)
    for ours, theirs in zip(dataset_module.iterate(far), dataset_module.iterate(near), strict=True):
        assert_same_rows(ours, theirs)
    assert caplog.text.count("; read again") == 1
    s3.faults = Faults(lambda _key: "corrupt", after=1000)
    with pytest.raises(BlockError, match="s3://bucket/sets/clicks/shard-"):
        list(dataset_module.iterate(far))


def test_a_run_goes_on_only_where_its_rows_come_in_the_same_order(s3, text, storage_root):
    _near_and_far(storage_root, text)
    base = {"epsilon": 0, "n_workers": 1, "checkpoint_interval": 3600}
    near, far = {"dataset": "clicks"}, {"dataset": "s3://bucket/sets/clicks"}
    for began, goes_on, says in (
        (near, far, "that run's data set was on disk, this one is in S3"),
        (far, near, "that run's data set was in S3, this one is on disk"),
    ):
        first = cirrus_fast.LogisticRegression(base | began, epochs=1).run()
        more = base | {"epochs": 2, "resume_from": first.checkpoint}
        with pytest.raises(OptionError, match=says):
            cirrus_fast.LogisticRegression(more | goes_on).run()
        cirrus_fast.LogisticRegression(more | began).run()


def test_checkpoints_under_a_root_in_s3_are_refused_with_what_to_do(root, text):
    S3Storage("s3://bucket/text").write("a.svm", text)
    cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "clicks")
    says = "checkpoint_interval: checkpoints need a folder on disk, .*s3://bucket/sets; set it to a"
    with pytest.raises(StorageError, match=says):
        cirrus_fast.LogisticRegression(dataset="clicks", checkpoint_interval=60).run()


def test_a_damaged_block_that_came_from_the_temporary_file_is_mended_for_good(
    s3, text, storage_root, monkeypatch, caplog
):
    """Epochs after the damage read no damage again, whether or not the block is in memory."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 100)
    _, far = _near_and_far(storage_root, text)
    numbers = range(len(far.blocks))
    most = max(block.n_bytes for block in far.blocks)
    _ = far.dictionary
    source = StoredBlocks(far, numbers, Memory(3 * most + 3, 1), keep=True)
    into = RowArrays(100, max(block.nnz for block in far.blocks), has_weights=False)
    s3.faults = Faults.first(1, "corrupt", after=1000)
    for _ in range(3):
        source.expect(numbers)
        for number in numbers:
            source.read([number], into, None)
    source.close()
    assert caplog.text.count("; read again") == 1
