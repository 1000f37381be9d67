"""Getting data out: a data set as LibSVM text."""

from __future__ import annotations

import bz2
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from cirrus_fast.data.dataset import Dataset, read_ahead, rows_of
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import ordered_map, thread_count
from cirrus_fast.data.storage import file_writer, local_path
from cirrus_fast.data.text import write_libsvm
from cirrus_fast.errors import DatasetError


def export_libsvm(
    dataset: str | Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    n_threads: int | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Writes a data set as LibSVM text, the whole file or nothing, in bounded memory.

    Rows keep their order and are written as they are stored: labels as in the source, ids counted
    from the manifest's index base, sample weights as ``label:weight``. Ids that were hashed are
    written hashed, and values of a normalized data set scaled.

    Parameters
    ----------
    dataset : name, path or URI, or a Dataset
    path : file to write; ``.gz`` and ``.bz2`` are packed
    overwrite : replace the file if it is there
    n_threads : threads that decode and format, by default one per core
    on_progress : called with the number of rows done

    Raises
    ------
    DatasetError : the file is there, or a row that no text can carry (an id 2**32 - 1)

    Notes
    -----
    Reading it back gives the same rows bit for bit, the payload of NaNs excepted::

        load_libsvm(path, "again", zero_based=manifest.index_base == 0, n_features=n_features,
                    label_weights=manifest.has_weights, allow_nonfinite=True)
    """
    source = Dataset(dataset) if isinstance(dataset, str) else dataset
    threads = thread_count(n_threads)
    if not overwrite and local_path(os.fspath(path)).is_file():
        raise DatasetError(f"{os.fspath(path)}: exists; replace it with overwrite=True")
    zero_based = source.manifest.index_base == 0

    def text(stored: tuple[Block, memoryview | None]) -> tuple[Block, bytes]:
        out = io.BytesIO()
        write_libsvm(rows_of(source, *stored), out, zero_based=zero_based)
        return stored[0], out.getvalue()

    pack = _packer(path)
    writer = file_writer(path)
    try:
        for block, raw in ordered_map(text, read_ahead(source), threads):
            writer.write(raw if pack is None else pack.compress(raw))
            if on_progress is not None:
                on_progress(block.first_row + block.n_rows)
        if pack is not None:
            writer.write(pack.flush())
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def _packer(path: str | os.PathLike[str]) -> zlib._Compress | bz2.BZ2Compressor | None:
    suffix = Path(path).suffix.lower()
    if suffix == ".gz":
        return zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: in a gzip envelope
    return bz2.BZ2Compressor() if suffix == ".bz2" else None
