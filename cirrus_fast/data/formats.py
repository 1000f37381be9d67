"""Names of the text formats that rows come in, and which names are those of text."""

from __future__ import annotations

from cirrus_fast.data.storage import is_file, is_s3, local_path, resolve
from cirrus_fast.errors import DatasetError

LIBSVM = "libsvm"
CRITEO = "criteo"

_COMPRESSED = (".gz", ".bz2", ".zst", ".xz")


def is_text_file(name: str) -> bool:
    """Whether the name of what to train on is that of a file, which is then LibSVM text."""
    uri = resolve(name)
    if is_s3(uri) or not is_file(uri):
        return False
    if local_path(uri).suffix.lower() in _COMPRESSED:
        raise DatasetError(
            f"{name}: compressed text cannot be read piece by piece; unpack it, or make a data set "
            "of it with load_libsvm"
        )
    return True
