"""The server that reading is measured against answers as S3 does."""

from __future__ import annotations

import http.client

import pytest

CONTENT = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    (root / "bucket" / "some key").mkdir(parents=True)
    (root / "bucket" / "some key" / "a").write_bytes(CONTENT)
    return root


@pytest.fixture(scope="module")
def address(bench, folder):
    with bench("objects").served(folder) as found:
        yield found


@pytest.fixture
def ask(address):
    connection = http.client.HTTPConnection(address, timeout=30)

    def ask(path, method="GET", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer, answer.read()

    yield ask
    connection.close()


def test_objects_come_whole_or_in_part_over_one_connection(ask):
    answer, body = ask("/bucket/some%20key/a?x-id=GetObject")
    assert (answer.status, body) == (200, CONTENT)
    for asked, begin, end in (
        ("bytes=10-19", 10, 20),
        ("bytes=10-", 10, len(CONTENT)),
        ("bytes=25000-99999", 25000, len(CONTENT)),
    ):
        answer, body = ask("/bucket/some%20key/a", range=asked)
        assert (answer.status, body) == (206, CONTENT[begin:end])
        assert answer.getheader("content-range") == f"bytes {begin}-{end - 1}/{len(CONTENT)}"
    answer, body = ask("/bucket/some%20key/a", "HEAD")
    assert (answer.status, answer.getheader("content-length")) == (200, str(len(CONTENT)))


def test_what_is_not_there_is_refused_and_the_connection_kept(ask):
    answer, body = ask("/bucket/none")
    assert answer.status == 404
    assert b"<Code>NoSuchKey</Code>" in body
    assert ask("/bucket/none", "HEAD")[0].status == 404
    assert ask("/bucket/some%20key/a", range=f"bytes={len(CONTENT)}-")[0].status == 416


def test_a_replaced_object_has_another_etag(ask, folder):
    answer, _ = ask("/bucket/some%20key/a", "HEAD")
    etag = answer.getheader("etag")
    assert ask("/bucket/some%20key/a", if_match=etag)[0].status == 200
    path = folder / "bucket" / "some key" / "a"
    (folder / "new").write_bytes(CONTENT)
    (folder / "new").replace(path)
    assert ask("/bucket/some%20key/a", if_match=etag)[0].status == 412
