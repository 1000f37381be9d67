"""Objects in S3 as a storage folder. boto3 does everything but reading, and is loaded when needed.

Reads go through `data.s3_get`. AWS conventions hold: credentials, profiles, roles, regions, and
endpoints of other S3 servers (AWS_ENDPOINT_URL). Besides, in the environment, so that workers
elsewhere see the same: CIRRUS_FAST_S3_REQUEST_PAYER=requester pays for reading buckets of others;
CIRRUS_FAST_S3_KMS_KEY encrypts what is written with that key (CIRRUS_FAST_S3_SSE=aws:kms with the
account's own).
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from cirrus_fast.data.s3_get import Arrived, Getter, replaced
from cirrus_fast.data.s3_signing import request_payer, signer
from cirrus_fast.data.traffic import Traffic, counted
from cirrus_fast.errors import StorageError

SSE, KMS_KEY = "CIRRUS_FAST_S3_SSE", "CIRRUS_FAST_S3_KMS_KEY"
# S3 takes parts of 5 MB or more, 10,000 of them at most.
PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 3
_ATTEMPTS = 6

_local = threading.local()
_getters: dict[str, Getter] = {}
_lock = threading.Lock()


def split(uri: str) -> tuple[str, str]:
    """(bucket, key) of an s3:// URI."""
    parts = urlsplit(uri)
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
        raise StorageError(f"{uri}: give s3://bucket/prefix")
    if parts.query or parts.fragment:
        raise StorageError(f"{uri}: a key with ? or # must be written with %3F or %23")
    return parts.netloc, unquote(parts.path).strip("/")


def client() -> Any:
    """A boto3 client, one a thread."""
    found = getattr(_local, "client", None)
    if found is None:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            tcp_keepalive=True,
            # Blocks carry checksums of their own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _lock:  # the default session is not made for threads
            try:
                found = boto3.client("s3", config=config)
            except Exception as error:  # botocore raises a class of its own for every mishap
                raise StorageError(f"s3://: {error}") from error
        _local.client = found
    return found


def _renew() -> None:
    """Lets this thread's next client look for credentials anew: files, processes and servers that
    give them may have others by now."""
    import boto3

    with _lock:
        boto3.setup_default_session()
    _local.__dict__.clear()


def getter(bucket: str) -> Getter:
    """Who reads a bucket; shared by all that do, so that connections are."""
    with _lock:
        if bucket not in _getters:
            _getters[bucket] = Getter(signer(client, renew=_renew), bucket)
        return _getters[bucket]


def forget() -> None:
    """Closes connections and forgets clients: for when the environment has changed."""
    with _lock:
        for one in _getters.values():
            one.close()
        _getters.clear()
    _local.__dict__.clear()


def _begin_anew() -> None:
    """In a process forked off: what is open belongs to the parent, which goes on using it, and a
    lock may be held by a thread that is not here."""
    global _lock, _local
    _lock, _local = threading.Lock(), threading.local()
    for one in _getters.values():
        one.leave_to_parent()
    _getters.clear()


os.register_at_fork(after_in_child=_begin_anew)


class S3Storage:
    """Objects under s3://bucket/prefix/."""

    def __init__(self, uri: str) -> None:
        self.bucket, self.prefix = split(uri)
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.traffic = Traffic()
        self._etags: dict[str, str] = {}  # of objects that are read piece by piece

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def read(self, name: str) -> bytes:
        return getter(self.bucket).read(self.key(name), self.traffic)

    def read_into(
        self, name: str, offset: int, out: memoryview, arrived: Arrived | None = None
    ) -> None:
        known = self._etags.get(name)
        etag = getter(self.bucket).read_into(
            self.key(name), offset, out, known, self.traffic, arrived
        )
        # The first pieces may be under way together: then all but one of them are checked here.
        if etag is not None and self._etags.setdefault(name, etag) != etag:
            raise replaced(f"{self.uri}/{name}")

    def write(self, name: str, data: bytes) -> None:
        self._put(name, data)

    def _put(self, name: str, data: bytes, **condition: Any) -> None:
        with self._naming(name):
            client().put_object(
                Bucket=self.bucket,
                Key=self.key(name),
                Body=data,
                **condition,
                **_encryption(),
                **_payer(),
            )

    def writer(self, name: str) -> _S3Writer:
        return _S3Writer(self, name)

    def names(self) -> list[str]:
        return sorted(
            item["Key"].rsplit("/", 1)[-1]
            for page in self._pages()
            for item in page.get("Contents", ())
            if not item["Key"].endswith("/")
        )

    def folders(self) -> list[str]:
        return sorted(
            item["Prefix"].rstrip("/").rsplit("/", 1)[-1]
            for page in self._pages()
            for item in page.get("CommonPrefixes", ())
        )

    def exists(self, name: str) -> bool:
        return self.head(name) is not None

    def size(self, name: str) -> int:
        head = self.head(name)
        if head is None:
            raise StorageError(errno.ENOENT, "no such object", f"{self.uri}/{name}")
        return int(head["ContentLength"])

    def create(self, name: str, data: bytes) -> bool:
        return self._put_if(name, data, IfNoneMatch="*")

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        head = self.head(name)
        if head is None or head["ContentLength"] != len(old):
            return False
        there = bytearray(len(old))
        etag = getter(self.bucket).read_into(self.key(name), 0, memoryview(there))
        return there == old and self._put_if(name, new, IfMatch=etag)

    def _put_if(self, name: str, data: bytes, **condition: Any) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._put(name, data, **condition)
        except StorageError as error:
            # 412: the condition does not hold; 409: another writer was there at the same time;
            # 404: what should match is gone.
            cause = error.__cause__
            if isinstance(cause, ClientError):
                status = cause.response["ResponseMetadata"]["HTTPStatusCode"]
                if status in (409, 412) or (status == 404 and "IfMatch" in condition):
                    return False
            raise
        return True

    def head(self, name: str) -> dict[str, Any] | None:
        """What S3 knows of an object, or None if it is not there."""
        from botocore.exceptions import ClientError

        with self._naming(name):
            try:
                found: dict[str, Any] = client().head_object(
                    Bucket=self.bucket, Key=self.key(name), **_payer()
                )
                return found
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise

    def delete(self, name: str) -> None:
        with self._naming(name):
            client().delete_object(Bucket=self.bucket, Key=self.key(name), **_payer())

    def remove_folder(self) -> None:
        """There are no folders in S3."""

    def abandon_uploads(self) -> None:
        """Parts of uploads that were never completed, which are charged for. Who may not list them
        leaves them to a rule of the bucket."""
        from botocore.exceptions import ClientError

        prefix = f"{self.prefix}/" if self.prefix else ""
        with self._naming(""):
            try:
                found = [
                    upload
                    for page in client()
                    .get_paginator("list_multipart_uploads")
                    .paginate(Bucket=self.bucket, Prefix=prefix, **_payer())
                    for upload in page.get("Uploads", ())
                    if "/" not in upload["Key"].removeprefix(prefix)
                ]
                for upload in found:
                    place = {"Bucket": self.bucket, "Key": upload["Key"]}
                    client().abort_multipart_upload(
                        **place, UploadId=upload["UploadId"], **_payer()
                    )
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in (403, 404, 501):  # not allowed; gone; not to be had there
                    raise

    def _pages(self) -> Iterator[dict[str, Any]]:
        prefix = f"{self.prefix}/" if self.prefix else ""
        with self._naming(""):
            yield from (
                client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/", **_payer())
            )

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        traffic = counted()
        if traffic is not None:
            traffic.add(requests=1)
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            attempts = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
            raise StorageError(
                f"s3://{self.bucket}/{self.key(name)}: {said.get('Code', 'error')}: "
                f"{said.get('Message', error)} (attempt {attempts})"
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise StorageError(f"s3://{self.bucket}/{self.key(name)}: {error}") from error


class _S3Writer:
    """An object in parts, which appears when the last one is in and committed."""

    def __init__(self, storage: S3Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._place = {"Bucket": storage.bucket, "Key": storage.key(name)} | _payer()
        self._held = bytearray()
        self._upload: str | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._sent: list[Future[dict[str, Any]]] = []
        self._under_way: deque[Future[dict[str, Any]]] = deque()

    def write(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= PART_BYTES:
            self._send(bytes(self._held[:PART_BYTES]))
            del self._held[:PART_BYTES]

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            with self._storage._naming(self._name):
                started = client().create_multipart_upload(**self._place, **_encryption())
            self._upload = started["UploadId"]
            self._pool = ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="cirrus-upload")
        assert self._pool is not None
        if len(self._under_way) == _PARTS_AT_ONCE:  # what waits is bounded
            self._under_way.popleft().result()
        number = len(self._sent) + 1
        future = self._pool.submit(self._put, number, part)
        self._sent.append(future)
        self._under_way.append(future)

    def _put(self, number: int, part: bytes) -> dict[str, Any]:
        with self._storage._naming(self._name):
            answer = client().upload_part(
                **self._place, UploadId=self._upload, PartNumber=number, Body=part
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def commit(self) -> None:
        if self._upload is None:
            self._storage.write(self._name, bytes(self._held))
            return
        if self._held:
            self._send(bytes(self._held))
        parts = [future.result() for future in self._sent]
        with self._storage._naming(self._name):
            client().complete_multipart_upload(
                **self._place, UploadId=self._upload, MultipartUpload={"Parts": parts}
            )
        self._upload = None
        self._close()

    def abort(self) -> None:
        """Gives the parts up. S3 keeps, and charges for, those of a process that was killed until
        a lifecycle rule of the bucket removes them."""
        self._close()
        if self._upload is not None:
            with suppress(StorageError), self._storage._naming(self._name):
                client().abort_multipart_upload(**self._place, UploadId=self._upload)
            self._upload = None

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _payer() -> dict[str, str]:
    payer = request_payer()
    return {"RequestPayer": payer} if payer else {}


def _encryption() -> dict[str, str]:
    kind, key = os.environ.get(SSE), os.environ.get(KMS_KEY)
    if key:
        return {"ServerSideEncryption": kind or "aws:kms", "SSEKMSKeyId": key}
    return {"ServerSideEncryption": kind} if kind else {}
