"""Decimal text to the nearest double and float32, and back to the shortest text: by bits."""

import random
import struct
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.data.text import parse_libsvm
from cirrus_fast.errors import LibsvmParseError

NONE, DIGITS, WORD = 0, 1, 2

# Gay's and Paxson's hard cases, the ones that broke PHP and Java, and fast_float's collection.
PUBLISHED = """
0 -0 0.0 -0.0 0e0 0e999999999999999999999 -0e-999999999999999999999 1 -1 +1 5. .5 -.5 +.5 1E5 1e+5
00000000000000000000000000000000001 1e00000000000000000000000001 0.00000000000000000000000000001e30
2.2250738585072011e-308 2.2250738585072012e-308 2.2250738585072013e-308 2.2250738585072014e-308
2.22507385850720212418870147920222032907240528279439037814303133837435107319244194686754406432563881851382188218502438069999947733013005649884107791928741341929297200970481951993067993290969042784064731682041565926728632933630474670123316852983422152744517260835859654566319282835244787787799894310779783833699159288594555213714181128458251145584319223079897504395086859412457230891738946169368372321191373658977977723286698840356390251044443035457396733706583981055420456693824658413747607155981176573877626747665912387199931904006317334709003012790188175203447190250028061277777916798391090578584006464715943810511489154282775041174682194133952466682503431306181587829379004205392375072083366693241580002758391118854188641513168478436313080237596295773983001708984375e-308
4.9e-324 4.9406564584124654e-324 2.4703282292062327e-324 2.4703282292062328e-324 1e-323 3e-324
2.47032822920623272088284396434110686182e-324 2.47032822920623272088284396434110686183e-324
1.7976931348623157e308 1.7976931348623158e308 1.7976931348623159e308 179769313486231580793e289
1.797693134862315807e308 1e308 1e309 -1e309 1e400 1e-400 1e-323 1e-325 9007199254740991
9007199254740992 9007199254740993 9007199254740994 9007199254740995
9007199254740993.0000000000000000000000000000000000000000000000000000000000000001
9007199254740992.9999999999999999999999999999999999999999999999999999999999999999
9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616 5e-324
6.9294956446009195e15 3.7455744005952583e15 8.5e22 1e22 1e23 1e-22 1e-23 9.5e21 89255.0e-22
104110013277974872254e-225 12345e-200 6.02214179e23 1.448997445238699
0.000000000000000000000000000000000000011754943508222875
7.0420557077594588669468784357561207962098443483187940792729600000e59
1090544144181609348671888949248 1090544144181609348835077142190 1090544144181609278303144771584
1.00000000000000011102230246251565404236316680908203125
1.00000000000000011102230246251565404236316680908203124
1.00000000000000011102230246251565404236316680908203126
1.00000000000000033306690738754696212708950042724609375 8.988465674311579e307 8.98846567431158e307
5.0e-1074 65536.000000000000000001 4503599627370496.5 4503599627370497.5 4503599627475352.5
4503599627475353.5 4503599627475354.5 3.14159265358979323846
2139879401095466344511101915470454744.9813888656856943E+272 2.2222222222222e-322 6929495644600919.5
358416272e-33 5.9604644775390625e-8 5.9604644775390626e-8 1.40129846432481707e-45
7.0064923216240853e-46 7.0064923216240854e-46 7.0064923216240862e-46 1.1754943508222875e-38
1.1754942807573643e-38 1.1754943157898259e-38 3.4028234663852886e38 3.4028234664e38 16777217
16777219 33554433 33554435 0.100000001490116119384765625 0.10000000149011611938476562499999999
1.000000059604644775390625 1.00000005960464477539062500000001 1.000000178813934326171875 8388608.5
8388609.5 8388610.5 0.3 0.1 0.7 123456789 12345678.12345678 99999999.99999999 1234567.1234567
0.30112345678901234
"""


def bits(value):
    return struct.pack("<d", value)


def check_double(text):
    kind, value, length = _kernels.number_read(text.encode())
    assert (kind, length) == (DIGITS, len(text)), text
    assert bits(value) == bits(float(text)), (text, value, float(text))


def check_float32(texts):
    """Through the parser, so through its fast path as well as through cf_number."""
    texts = [text for text in texts if abs(float(text)) < 2.0**128 - 2.0**103]
    expected = np.array([np.float32(float(text)) for text in texts])
    forward = parse_libsvm("".join(f"1 1:{text}\n" for text in texts).encode()).data
    assert forward.tobytes() == expected.tobytes()
    labels = parse_libsvm("".join(f"{text} 1:1\n" for text in texts).encode()).labels
    assert labels.tobytes() == expected.tobytes()


def midpoint(value, following):
    with localcontext(prec=1200):
        return (Decimal(value) + Decimal(following)) / 2


def around(exact):
    """A midpoint, and texts a little below and above it, at various lengths."""
    with localcontext(prec=1200):
        text = format(exact, "f")
        text += "" if "." in text else "."
        yield text
        yield text + "0" * 900
        yield text + "0" * 20 + "1"
        yield text + "0" * 900 + "1"
        digit = max(place for place in range(len(text)) if text[place] not in ".0")
        below = text[:digit] + str(int(text[digit]) - 1) + text[digit + 1 :]
        yield below + "9" * 25
        yield below + "9" * 900
        yield format(exact, "e")


def test_published_hard_cases():
    texts = PUBLISHED.split()
    for text in texts:
        check_double(text)
        if text[0] not in "+-":
            check_double("-" + text)
    check_float32(texts)


def test_every_power_of_ten():
    for exponent in range(-345, 311):
        for digits in ("1", "9", "9007199254740993", "18446744073709551615", "1234567890123456789"):
            check_double(f"{digits}e{exponent}")


def test_random_shapes():
    rng = random.Random(1)
    texts = []
    for _ in range(20_000):
        whole = str(rng.getrandbits(rng.randint(1, 90)))[: rng.randint(0, 30)]
        fraction = str(rng.getrandbits(rng.randint(1, 90)))[: rng.randint(0 if whole else 1, 30)]
        text = rng.choice(["", "-", "+"]) + whole
        if fraction or rng.random() < 0.1:
            text += "." + "0" * rng.choice([0, 0, 1, 9]) + fraction
        if rng.random() < 0.4:
            text += rng.choice("eE") + rng.choice(["", "-", "+"]) + str(rng.randint(0, 330))
        texts.append(text)
        check_double(text)
    check_float32(texts)


def test_shortest_and_seventeen_digits_of_random_doubles():
    rng = random.Random(2)
    for _ in range(20_000):
        value = struct.unpack("<d", rng.getrandbits(63).to_bytes(8, "little"))[0]
        if value - value == 0:
            check_double(repr(value))
            check_double(f"{value:.16e}")
            check_double(f"{value:.25e}")


def test_half_way_between_doubles():
    rng = random.Random(3)
    patterns = [rng.getrandbits(63) for _ in range(150)]
    patterns += [0, 1, 2, 2**52 - 1, 2**52, 2**53 - 1, 0x7FEFFFFFFFFFFFFE, 0x3FEFFFFFFFFFFFFF]
    for pattern in patterns:
        value, following = struct.unpack("<2d", struct.pack("<2Q", pattern, pattern + 1))
        if following - following == 0:
            for text in around(midpoint(value, following)):
                check_double(text)


def test_half_way_between_float32():
    """Two roundings, as numpy does them: to double first, then to float32."""
    rng = random.Random(4)
    patterns = [rng.getrandbits(31) for _ in range(150)]
    patterns += [0, 1, 2, 2**23 - 1, 2**23, 0x7F7FFFFE, 0x3F7FFFFF]
    texts = []
    for pattern in patterns:
        value, following = struct.unpack("<2f", struct.pack("<2I", pattern, pattern + 1))
        if following - following == 0:
            texts += around(midpoint(value, following))
    for text in texts:
        check_double(text)
    check_float32(texts)


def test_thousands_of_digits():
    rng = random.Random(5)
    for length in (19, 20, 21, 100, 767, 768, 769, 800, 801, 5000):
        digits = "".join(rng.choices("0123456789", k=length))
        for text in (
            digits,
            "0." + digits,
            digits[: length // 2] + "." + digits[length // 2 :],
            "0" * 3000 + digits + "e-" + str(length),
            "0." + "0" * 3000 + digits + "e3000",
            "1" + "0" * length,
            "1" + "0" * length + "." + "0" * length + "1",
        ):
            check_double(text)


def test_float32_range_ends_where_the_tie_rounds_to_infinity():
    tie = 2**128 - 2**103
    # Below the tie a double is needed to tell: the nearest one to tie - 1 is the tie itself.
    inside = int(np.nextafter(2.0**128 - 2.0**103, 0.0))
    assert parse_libsvm(f"1 1:{inside}".encode()).data[0] == np.finfo(np.float32).max
    for text in (str(tie), str(tie - 1), f"-{tie}", "1e39", "1e308", "1e309", "1e" + "9" * 50):
        with pytest.raises(LibsvmParseError, match="outside the range of float32"):
            parse_libsvm(f"1 1:{text}".encode())


@pytest.mark.parametrize(
    ("text", "kind", "length"),
    [
        ("", NONE, 0),
        ("+", NONE, 0),
        ("-.", NONE, 0),
        (".", NONE, 0),
        (".e5", NONE, 0),
        ("e5", NONE, 0),
        ("x", NONE, 0),
        ("in", NONE, 0),
        ("na", NONE, 0),
        ("--1", NONE, 0),
        ("1e", DIGITS, 1),
        ("1e+", DIGITS, 1),
        ("1e5.5", DIGITS, 3),
        ("1.2.3", DIGITS, 3),
        ("0x10", DIGITS, 1),
        ("1_0", DIGITS, 1),
        ("5.", DIGITS, 2),
        ("12345678a", DIGITS, 8),
        ("123456789:", DIGITS, 9),
        ("inf", WORD, 3),
        ("-INF", WORD, 4),
        ("infinity", WORD, 8),
        ("+Infinity", WORD, 9),
        ("infi", WORD, 3),
        ("NaN", WORD, 3),
        ("-nan", WORD, 4),
        ("nan(ind)", WORD, 8),
        ("nan(0x7_F)", WORD, 10),
        ("nan(", WORD, 3),
        ("nan(-)", WORD, 3),
    ],
)
def test_reads_the_longest_number(text, kind, length):
    found, value, stop = _kernels.number_read(text.encode())
    assert (found, stop) == (kind, length)
    if kind == WORD:
        assert not np.isfinite(value)
        assert np.signbit(value) == text.startswith("-")


def test_never_reads_past_the_end():
    digits = b"123456789012345678901234567890"
    for stop in range(1, len(digits) + 1):
        kind, value, length = _kernels.number_read(memoryview(digits)[:stop])
        assert (kind, value, length) == (DIGITS, float(digits[:stop]), stop)


def floats_of(patterns):
    return np.array(patterns, np.uint32).view(np.float32)


def test_written_text_reads_back_and_is_short():
    rng = random.Random(6)
    values = [
        *floats_of([rng.getrandbits(32) for _ in range(20_000)]),
        *np.array([rng.uniform(-10, 10) for _ in range(10_000)], np.float32),
        *np.array([rng.randint(0, 10**9) / 10 ** rng.randint(0, 9) for _ in range(10_000)], "f4"),
        *floats_of([0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x80000000, 0x80000001]),
        *floats_of([exponent << 23 for exponent in range(255)]),  # uneven gaps around powers of 2
    ]
    for value in values:
        if not np.isfinite(value):
            continue
        text = _kernels.number_format(value)
        back = np.float32(float(text))
        assert back.tobytes() == value.tobytes(), (value, text)
        assert len(text) <= 15
        digits = len(text.lstrip("-").partition("e")[0].replace(".", "").strip("0"))
        shortest = np.format_float_scientific(value, trim="-").lstrip("-")
        limit = len(shortest.partition("e")[0].replace(".", "").strip("0"))
        assert digits <= limit or float(value).is_integer(), (value, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-12.0, "-12"),
        (0.1, "0.1"),
        (0.186651, "0.186651"),
        (16777216.0, "16777216"),
        (1e10, "1e10"),
        (3.4028235e38, "3.4028235e38"),
        (1e-45, "1e-45"),
        (-1.1754944e-38, "-1.1754944e-38"),
        (0.00012345678, "0.00012345678"),
        (0.00001, "1e-5"),
        (12345.678, "12345.678"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
    ],
)
def test_writes(value, text):
    assert _kernels.number_format(value) == text


def test_table_is_what_its_generator_prints(repository):
    generator = repository / "csrc" / "generate_number_table.py"
    printed = subprocess.run(
        [sys.executable, str(generator)], capture_output=True, text=True, check=True
    ).stdout
    assert (repository / "csrc" / "cf_number_table.h").read_text() == printed
