// Grids of the IQ formats, expanded at compile time: one word of int8 values per row, first value
// in the lowest byte, and the byte masks that apply a sign pattern to a row.
#pragma once

#include <cstdint>

namespace q35 {
namespace iq {

#include "quant/iq_grids.inc"

template <class Word, int N>
struct Table {
  Word row[N];
};

// Word uint64_t: 8 values from level numbers of 2 bits; uint32_t: 4 values from 4 bits each.
// IQ1 rows become 8 * level, so that adding +-1 gives the shifted value in eighths.
template <class Word, int N, int Levels>
constexpr Table<Word, N> expand(const uint16_t (&packed)[N], const int8_t (&levels)[Levels],
                                int factor) {
  constexpr int kValues = sizeof(Word);
  constexpr int kBits = 16 / kValues;
  Table<Word, N> table{};
  for (int i = 0; i < N; i++) {
    Word row = 0;
    for (int k = 0; k < kValues; k++) {
      const int number = packed[i] >> (kBits * k) & ((1 << kBits) - 1);
      const Word value = static_cast<uint8_t>(levels[number] * factor);
      row |= value << (8 * k);
    }
    table.row[i] = row;
  }
  return table;
}

inline constexpr auto kIq1 = expand<uint64_t>(kIq1SPacked, kIq1SLevels, 8);
inline constexpr auto kIq2Xxs = expand<uint64_t>(kIq2XxsPacked, kIq2XxsLevels, 1);
inline constexpr auto kIq2Xs = expand<uint64_t>(kIq2XsPacked, kIq2XsLevels, 1);
inline constexpr auto kIq2S = expand<uint64_t>(kIq2SPacked, kIq2SLevels, 1);
inline constexpr auto kIq3Xxs = expand<uint32_t>(kIq3XxsPacked, kIq3XxsLevels, 1);
inline constexpr auto kIq3S = expand<uint32_t>(kIq3SPacked, kIq3SLevels, 1);

// Byte k of entry s is 0xff where bit k of s is set.
constexpr Table<uint64_t, 256> sign_masks() {
  Table<uint64_t, 256> table{};
  for (int s = 0; s < 256; s++) {
    for (int k = 0; k < 8; k++) {
      if (s >> k & 1) table.row[s] |= uint64_t{0xff} << (8 * k);
    }
  }
  return table;
}

inline constexpr auto kSignMasks = sign_masks();

// Seven stored sign bits and the eighth that makes their number even.
constexpr uint8_t even_signs(uint32_t seven) {
  uint32_t parity = seven ^ seven >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return static_cast<uint8_t>(seven | (parity & 1) << 7);
}

constexpr Table<uint8_t, 128> even_sign_table() {
  Table<uint8_t, 128> table{};
  for (uint32_t s = 0; s < 128; s++) table.row[s] = even_signs(s);
  return table;
}

inline constexpr auto kEvenSigns = even_sign_table();

}  // namespace iq
}  // namespace q35
