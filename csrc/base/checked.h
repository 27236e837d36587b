// Overflow-checked unsigned arithmetic: each returns false when the result does not fit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace q35 {

[[nodiscard]] inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out) {
  return !__builtin_add_overflow(a, b, out);
}

[[nodiscard]] inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out) {
  return !__builtin_mul_overflow(a, b, out);
}

// Rounds up to a multiple of `to`, a power of two.
[[nodiscard]] inline bool checked_round_up(uint64_t a, uint64_t to, uint64_t *out) {
  if (__builtin_add_overflow(a, to - 1, out)) return false;
  *out &= ~(to - 1);
  return true;
}

}  // namespace q35
