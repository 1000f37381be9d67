"""Slow, obvious versions of what the kernels do: the specification that tests compare with.

Python loops over rows and entries are allowed here and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cirrus_fast.data.csr import CSR
from cirrus_fast.data.text import ParsedText
from cirrus_fast.errors import CriteoParseError, LibsvmParseError

_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORD = re.compile(rb"([+-]?)(nan(\([a-z0-9_]*\))?|inf(inity)?)", re.IGNORECASE)
_TOKEN = re.compile(rb"[^ \t\n\r#\0]+")
_MICROSOFT_NAN = re.compile(rb"#(INF|IND|QNAN|SNAN)")

#: Doubles from here on round to an infinite float32: half way between its maximum and 2^128.
_FLOAT32_END = 2.0**128 - 2.0**103


class _Bad(Exception):
    """(reason, offset)"""


def parse_text_reference(
    text: bytes,
    begin: int = 0,
    end: int | None = None,
    *,
    zero_based: bool | None = None,
    max_index: int = 2**32 - 2,
    hash_bits: int | None = None,
    label_weights: bool = False,
    allow_nonfinite: bool = False,
    skip_bad_rows: bool = False,
) -> ParsedText:
    """`data.text.parse_text`; `max_index` is the largest index accepted, as written."""
    labels: list[float] = []
    weights: list[float] = []
    indptr = [0]
    indices: list[int] = []
    data: list[float] = []
    skipped: list[LibsvmParseError] = []
    for start in _line_starts(text, begin, len(text) if end is None else end):
        try:
            row = _parse_line(
                text, start, zero_based, max_index, hash_bits, label_weights, allow_nonfinite
            )
        except _Bad as bad:
            reason, offset = bad.args
            line = text.count(b"\n", 0, offset) + 1
            column = offset - (text.rfind(b"\n", 0, offset) + 1) + 1
            error = LibsvmParseError(reason, offset=offset, line=line, column=column)
            if not skip_bad_rows:
                raise error from None
            skipped.append(error)
            continue
        if row is None:
            continue
        label, weight, entries = row
        labels.append(label)
        weights.append(weight)
        indices += [index for index, _ in entries]
        data += [value for _, value in entries]
        indptr.append(len(indices))
    return ParsedText(
        labels=np.array(labels, np.float32),
        indptr=np.array(indptr, np.int64),
        indices=np.array(indices, np.uint32),
        data=np.array(data, np.float32),
        weights=np.array(weights, np.float32) if label_weights else None,
        min_index=min(indices, default=None),
        max_index=max(indices, default=None),
        n_skipped=len(skipped),
        first_skipped=skipped[0] if skipped else None,
    )


def parse_libsvm_reference(
    text: bytes,
    *,
    zero_based: bool | str = "auto",
    n_features: int | None = None,
    hash_bits: int | None = None,
    label_weights: bool = False,
    allow_nonfinite: bool = False,
    skip_bad_rows: bool = False,
) -> CSR:
    """`cirrus_fast.data.text.parse_libsvm` without its threads and its warning."""

    def parse(zero_based: bool | None, max_index: int) -> ParsedText:
        return parse_text_reference(
            text,
            zero_based=zero_based,
            max_index=min(max_index, 2**32 - 2),
            hash_bits=hash_bits,
            label_weights=label_weights,
            allow_nonfinite=allow_nonfinite,
            skip_bad_rows=skip_bad_rows,
        )

    width = 2**32 if n_features is None else n_features
    if hash_bits is not None:
        parsed = parse(False if zero_based is False else None, 2**32 - 2)
        base, n_features = 0, 2**hash_bits
    elif zero_based is True:
        parsed, base = parse(None, width - 1), 0
    elif zero_based is False:
        parsed, base = parse(False, width), 1
    else:
        parsed = parse(None, width)
        base = 0 if parsed.min_index == 0 else 1
        if base == 0 and parsed.max_index == width:
            parsed = parse(None, width - 1)
    if n_features is None:
        n_features = 0 if parsed.max_index is None else parsed.max_index - base + 1
    indices = parsed.indices - np.uint32(base)
    return CSR(parsed.labels, parsed.indptr, indices, parsed.data, n_features, parsed.weights)


def hash_index_reference(index: int, bits: int) -> int:
    """splitmix64's finaliser, its top bits."""
    z = index
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) >> (64 - bits)


def _line_starts(text: bytes, begin: int, end: int) -> Iterator[int]:
    start = 0
    while start < min(end, len(text)):
        if start >= begin:
            yield start
        newline = text.find(b"\n", start)
        start = len(text) if newline < 0 else newline + 1


def _tokens(text: bytes, pos: int) -> Iterator[tuple[int, bytes]]:
    """The tokens of a line, each handed out before the byte that ends it is looked at."""
    in_comment = False
    while pos < len(text) and text[pos] != ord("\n"):
        byte = text[pos : pos + 1]
        if byte == b"\0" or (byte == b"\r" and text[pos + 1 : pos + 2] not in (b"\n", b"")):
            raise _Bad("NUL byte or stray carriage return", pos)
        if byte == b"#":
            in_comment = True
        if in_comment or byte in (b" ", b"\t", b"\r"):
            pos += 1
            continue
        match = _TOKEN.match(text, pos)
        assert match is not None
        token = match.group()
        if token.endswith(b".") and _MICROSOFT_NAN.match(text, match.end()):
            token += b"#"  # 1.#INF is neither a number nor the number 1 and a comment
        yield pos, token
        pos = match.end()


def _number(token: bytes, offset: int, not_a_number: str, allow_nonfinite: bool) -> float:
    word = _WORD.fullmatch(token)
    if word:
        if not allow_nonfinite:
            raise _Bad("nan or infinity without allow_nonfinite=True", offset)
        size = math.nan if word[2].lower().startswith(b"nan") else math.inf
        return math.copysign(size, -1.0 if word[1] == b"-" else 1.0)
    if not _NUMBER.fullmatch(token):
        raise _Bad(not_a_number, offset)
    value = float(token)
    if abs(value) >= _FLOAT32_END:
        raise _Bad("number is outside the range of float32", offset)
    return value


def _parse_line(
    text: bytes,
    start: int,
    zero_based: bool | None,
    max_index: int,
    hash_bits: int | None,
    label_weights: bool,
    allow_nonfinite: bool,
) -> tuple[float, float, list[tuple[int, float]]] | None:
    tokens = _tokens(text, start)
    first = next(tokens, None)
    if first is None:
        return None
    offset, token = first
    label_text, colon, weight_text = token.partition(b":")
    label = _number(label_text, offset, "label is not a number", allow_nonfinite)
    weight = 1.0
    if colon:
        if not label_weights:
            raise _Bad("label is missing, or is label:weight without label_weights=True", offset)
        weight = _weight(weight_text, offset + len(label_text))

    entries: list[tuple[int, float]] = []
    previous = -1
    for position, (at, token) in enumerate(tokens):
        if token.startswith(b"qid:"):
            if position > 0 or not re.fullmatch(rb"[0-9]+", token[4:]):
                raise _Bad("qid is not a whole number, or not directly after the label", at)
            continue
        index_text, colon, value_text = token.partition(b":")
        if not colon:
            raise _Bad("feature has no colon", at)
        if not re.fullmatch(rb"[0-9]+", index_text):
            raise _Bad("feature index is not a whole number", at)
        significant = index_text.lstrip(b"0") or b"0"
        index = int(significant) if len(significant) <= 20 else 2**64
        if index > (max_index if hash_bits is None else 2**64 - 1):
            raise _Bad("feature index is too large", at)
        if index == 0 and zero_based is False:
            raise _Bad("feature index 0 in one-based data", at)
        if index <= previous:
            raise _Bad("feature indices must increase within a row", at)
        previous = index
        value_at = at + len(index_text) + 1
        if not value_text:
            raise _Bad("feature value is missing", value_at - 1)
        value = _number(value_text, value_at, "feature value is not a number", allow_nonfinite)
        entries.append((index, value))
    if hash_bits is not None:
        entries = _hash_entries(entries, hash_bits, offset)
    return label, weight, entries


def _weight(token: bytes, colon_at: int) -> float:
    reason = "sample weight is not a number >= 0"
    if not token:
        raise _Bad(reason, colon_at)
    weight = _number(token, colon_at + 1, reason, True)
    # As float32, so that a negative number too small for it counts as -0.
    if not (np.float32(weight) >= 0 and math.isfinite(weight)):
        raise _Bad(reason, colon_at + 1)
    return weight


def _hash_entries(
    entries: list[tuple[int, float]], bits: int, label_at: int
) -> list[tuple[int, float]]:
    sums: dict[int, np.float32] = {}
    for index, written in entries:
        hashed, value = hash_index_reference(index, bits), np.float32(written)
        if hashed in sums:
            before = sums[hashed]
            with np.errstate(over="ignore", invalid="ignore"):
                value, added = before + value, value
            if np.isinf(value) and np.isfinite(before) and np.isfinite(added):
                raise _Bad("number is outside the range of float32", label_at)
        sums[hashed] = value
    return [(index, float(sums[index])) for index in sorted(sums)]


# Training


def loss_gradient_reference(
    rows: CSR,
    weights: npt.NDArray[np.float64],
    intercept: float,
    *,
    class_weight: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, npt.NDArray[np.float64], float]:
    """(sum of s loss, gradient of sum of s c loss, its intercept part); labels are 1 and 0.

    s sample weight, c class weight; float64 throughout.
    """
    loss, gradient, intercept_gradient = 0.0, np.zeros(len(weights)), 0.0
    for i in range(rows.n_rows):
        row = slice(int(rows.indptr[i]), int(rows.indptr[i + 1]))
        ids, values = rows.indices[row], rows.data[row].astype(np.float64)
        sign = 1.0 if rows.labels[i] > 0 else -1.0
        weight = 1.0 if rows.weights is None else float(rows.weights[i])
        toward = sign * (intercept + float(values @ weights[ids]))
        loss += weight * float(np.logaddexp(0.0, -toward))
        error = -sign * weight * class_weight[sign > 0] * float(np.exp(-np.logaddexp(0.0, toward)))
        gradient[ids] += error * values
        intercept_gradient += error
    return loss, gradient, intercept_gradient


def optimizer_step_reference(
    kind: str,
    state: list[float],
    gradient: float,
    *,
    learning_rate: float,
    initial: float = 1.0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> list[float]:
    """The state of one coordinate after a step: sgd [w], adagrad [w, s], ftrl [z, n].

    The penalties are those of this step's touches, or for ftrl of all rows before it.
    """
    if kind == "ftrl":
        z, n = state
        w = weight_reference(
            kind, state, learning_rate=learning_rate, initial=initial, l1=l1, l2=l2
        )
        grown = n + gradient**2
        return [z + gradient - (math.sqrt(grown) - math.sqrt(n)) / learning_rate * w, grown]
    rate, rest = learning_rate, state[1:]
    if kind == "adagrad":
        rest = [state[1] + gradient**2]
        rate /= math.sqrt(rest[0])
    w = state[0] - rate * gradient
    size = max(0.0, abs(w) - rate * l1) / (1 + rate * l2)
    return [math.copysign(size, w), *rest]


def weight_reference(
    kind: str,
    state: list[float],
    *,
    learning_rate: float,
    initial: float = 1.0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> float:
    """The weight of a coordinate; ftrl's depends on the penalties of the rows seen."""
    if kind != "ftrl":
        return state[0]
    z, n = state
    if abs(z) <= l1:
        return 0.0
    return -(z - math.copysign(l1, z)) / ((initial + math.sqrt(n)) / learning_rate + l2)


def train_reference(
    rows: CSR,
    order: list[int],
    minibatch_size: int,
    *,
    optimizer: str,
    learning_rate: float,
    intercept: float = 0.0,
    penalties: npt.NDArray[np.float32] | None = None,
    fit_intercept: bool = True,
    class_weight: tuple[float, float] = (1.0, 1.0),
) -> tuple[npt.NDArray[np.float64], float, float]:
    """(weights, intercept, loss sum) after one pass from weights 0; `_kernels.TrainModel.train`."""
    first: list[float] = {"sgd": [0.0], "adagrad": [0.0, 1.0], "ftrl": [0.0, 0.0]}[optimizer]
    states = [list(first) for _ in range(rows.n_features)]
    bias = list(first)
    bias[0] = -intercept / learning_rate if optimizer == "ftrl" else intercept
    loss_sum = 0.0

    def due(j: int, times: float) -> dict[str, float]:
        l1, l2 = (0.0, 0.0) if penalties is None else map(float, penalties[j])
        return {"learning_rate": learning_rate, "l1": l1 * times, "l2": l2 * times}

    def read(rows_seen: int) -> tuple[npt.NDArray[np.float64], float]:
        weights = [
            weight_reference(optimizer, state, **due(j, rows_seen))
            for j, state in enumerate(states)
        ]
        return np.array(weights), weight_reference(optimizer, bias, learning_rate=learning_rate)

    for before in range(0, len(order), minibatch_size):
        batch = order[before : before + minibatch_size]
        weights, bias_weight = read(before)
        loss, gradient, bias_gradient = 0.0, np.zeros(rows.n_features), 0.0
        touches = np.zeros(rows.n_features)
        for i in batch:
            span = slice(int(rows.indptr[i]), int(rows.indptr[i + 1]))
            one = CSR(
                rows.labels[i : i + 1],
                np.array([0, span.stop - span.start]),
                rows.indices[span],
                rows.data[span],
                rows.n_features,
                None if rows.weights is None else rows.weights[i : i + 1],
            )
            parts = loss_gradient_reference(one, weights, bias_weight, class_weight=class_weight)
            loss, gradient, bias_gradient = (
                loss + parts[0],
                gradient + parts[1],
                bias_gradient + parts[2],
            )
            touches[one.indices] += 1
        loss_sum += loss
        for j in np.flatnonzero(touches).tolist():
            times = float(before) if optimizer == "ftrl" else float(touches[j])
            states[j] = optimizer_step_reference(
                optimizer, states[j], float(gradient[j]), **due(j, times)
            )
        if fit_intercept:
            bias = optimizer_step_reference(
                optimizer, bias, bias_gradient, learning_rate=learning_rate
            )
    return *read(len(order)), loss_sum


_CRITEO_NAMES = [f"i{n}" for n in range(1, 14)] + [f"c{n}" for n in range(1, 27)]


def criteo_id_reference(column: int, cell: bytes, bits: int) -> int:
    """The id of a category; docs/data.md."""
    z = (column + 32 * len(cell)) * 0x9E3779B97F4A7C15 % 2**64
    for i in range(0, len(cell), 8):
        z ^= int.from_bytes(cell[i : i + 8], "little")
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
    return 13 + (z >> 32) * ((1 << bits) - 13) // 2**32


def parse_criteo_reference(
    text: bytes,
    bits: int = 19,
    *,
    has_labels: bool = True,
    skip_bad_rows: bool = False,
) -> tuple[CSR, list[CriteoParseError]]:
    """`data.criteo.parse_criteo`, and the errors of the rows that were skipped."""
    starts = [at for at in _line_starts(text, 0, len(text)) if _line(text, at)]
    separator, leading = b",", ["label"] if has_labels else []
    if starts:
        first = _line(text, starts[0])
        separator = b"\t" if b"\t" in text[starts[0] :].split(b"\n")[0] else b","
        if first[:1].isalpha() and first[:1].isascii():
            names = first.lower().split(separator)
            leading = [
                name.decode() for name in names[: len(names) - 39] if name in (b"id", b"label")
            ]
            known = [*leading, *_CRITEO_NAMES]
            if leading not in ([], ["id"], ["label"], ["id", "label"]) or names != [
                name.encode() for name in known
            ]:
                raise _criteo_error(
                    text, "header is not [Id,][Label,]I1,..,I13,C1,..,C26", starts[0]
                )
            del starts[0]
    labels: list[float] = []
    indptr = [0]
    indices: list[int] = []
    data: list[float] = []
    skipped = []
    for start in starts:
        try:
            label, entries = _criteo_row(text, start, separator, leading, bits)
        except _Bad as bad:
            error = _criteo_error(text, *bad.args)
            if not skip_bad_rows:
                raise error from None
            skipped.append(error)
            continue
        labels.append(label)
        indices += [index for index, _ in entries]
        data += [value for _, value in entries]
        indptr.append(len(indices))
    rows = CSR(
        np.array(labels, np.float32),
        np.array(indptr, np.int64),
        np.array(indices, np.uint32),
        np.array(data, np.float32),
        2**bits,
    )
    return rows, skipped


def _line(text: bytes, start: int) -> bytes:
    """A line without what ends it."""
    line, newline, _ = text[start:].partition(b"\n")
    ends_in_text = not newline
    return line[:-1] if line.endswith(b"\r") and (newline or ends_in_text) else line


def _criteo_error(text: bytes, reason: str, offset: int) -> CriteoParseError:
    line = text.count(b"\n", 0, offset) + 1
    column = offset - (text.rfind(b"\n", 0, offset) + 1) + 1
    return CriteoParseError(reason, offset=offset, line=line, column=column)


def _criteo_row(
    text: bytes, start: int, separator: bytes, leading: list[str], bits: int
) -> tuple[float, list[tuple[int, float]]]:
    line = _line(text, start)
    names = [*leading, *_CRITEO_NAMES]
    label = 0.0
    entries: dict[int, float] = {}
    at = start
    # A stray carriage return or NUL ends a cell, which is judged before that byte is.
    for place, cell in enumerate(line.split(separator)):
        if place == len(names):
            raise _Bad("wrong number of columns", at - 1)
        name, value = names[place], re.split(b"[\r\0]", cell)[0]
        if value.startswith(b'"'):
            raise _Bad("cell in quotes", at)
        if name == "label":
            if not _NUMBER.fullmatch(value) or float(value) not in (0, 1):
                raise _Bad("label is not 0 or 1", at)
            label = float(value) + 0.0
        elif value and name.startswith("i") and name != "id":
            if not _NUMBER.fullmatch(value):
                raise _Bad("integer column is not a number", at)
            if abs(float(value)) >= _FLOAT32_END:
                raise _Bad("number is outside the range of float32", at)
            entries[int(name[1:]) - 1] = float(value)
        elif value and name.startswith("c"):
            index = criteo_id_reference(int(name[1:]), value, bits)
            entries[index] = entries.get(index, 0) + 1
        if value != cell:
            raise _Bad("NUL byte or stray carriage return", at + len(value))
        at += len(cell) + 1
    n_cells = line.count(separator) + 1 - len(leading)
    if n_cells < (13 if separator == b"\t" else 39):
        raise _Bad("wrong number of columns", start)
    return label, sorted(entries.items())
