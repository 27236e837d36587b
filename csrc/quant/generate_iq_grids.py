"""Writes iq_grids.inc: the grids of the IQ formats, packed, from the tables of the gguf package.

Run `python csrc/quant/generate_iq_grids.py > csrc/quant/iq_grids.inc`; the output is committed.
Each grid row is one 16-bit word: 8 level numbers of 2 bits or 4 level numbers of 4 bits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from gguf import quants

GRIDS = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
WORDS_PER_LINE = 12


def packed_rows(table: Any) -> list[int]:
    """The rows of a grid as words, the first value in the lowest bits."""
    table.init_grid()
    grid = np.asarray(table.grid).reshape(table.grid_shape)
    bits = 16 // grid.shape[1]
    levels = {float(value): number for number, value in enumerate(table.grid_map)}
    return [sum(levels[float(value)] << (bits * i) for i, value in enumerate(row)) for row in grid]


def main() -> None:
    out = sys.stdout
    out.write("// Written by generate_iq_grids.py: a word per grid row, see there. Do not edit.\n")
    for name in GRIDS:
        table = getattr(quants, name)
        words = packed_rows(table)
        levels = ", ".join(str(int(value)) for value in table.grid_map)
        symbol = name.title().replace("_", "")
        out.write(f"\nconstexpr int8_t k{symbol}Levels[] = {{{levels}}};\n")
        out.write(f"constexpr uint16_t k{symbol}Packed[{len(words)}] = {{\n")
        for start in range(0, len(words), WORDS_PER_LINE):
            line = ", ".join(f"0x{word:04x}" for word in words[start : start + WORDS_PER_LINE])
            out.write(f"    {line},\n")
        out.write("};\n")


if __name__ == "__main__":
    main()
