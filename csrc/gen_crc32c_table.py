"""Writes cf_crc32c_table.h to standard output.

TABLE[k][b] is the CRC-32C of byte b followed by k zero bytes (slice-by-8); a test regenerates the
file and compares.
"""

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


def tables() -> list[list[int]]:
    first = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
        first.append(crc)
    rows = [first]
    for _ in range(7):
        rows.append([crc >> 8 ^ first[crc & 0xFF] for crc in rows[-1]])
    return rows


def render() -> str:
    lines = [
        "/* Written by gen_crc32c_table.py; do not edit. */",
        "/* clang-format off */",
        "static const uint32_t TABLE[8][256] = {",
    ]
    for row in tables():
        lines.append("    {")
        for i in range(0, 256, 8):
            lines.append("        " + " ".join(f"0x{crc:08x}," for crc in row[i : i + 8]))
        lines.append("    },")
    lines.append("};")
    lines.append("/* clang-format on */")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
