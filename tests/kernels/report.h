// Counts checks and prints the first failures.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>

namespace q35 {

struct Report {
  const char *isa;
  int failures = 0, checks = 0;

  bool expect(bool good, const char *what, const char *type, uint32_t rows, uint32_t k, uint32_t n,
              double got, double want, double bound) {
    checks++;
    if (good) return true;
    if (failures++ < 20) {
      std::printf("FAIL %s %s %s rows %u k %u n %u: got %.9g want %.9g bound %.3g\n", isa, what,
                  type, rows, k, n, got, want, bound);
    }
    return false;
  }

  // |got - want| <= bound; a NaN fails.
  void near(const char *what, uint32_t n, double got, double want, double bound) {
    checks++;
    if (got == want || std::fabs(got - want) <= bound) return;
    if (failures++ < 20) {
      std::printf("FAIL %s %s n %u: got %.9g want %.9g bound %.3g\n", isa, what, n, got, want,
                  bound);
    }
  }

  void that(bool good, const char *what, uint32_t n, int kind) {
    checks++;
    if (good) return;
    if (failures++ < 20) std::printf("FAIL %s %s n %u case %d\n", isa, what, n, kind);
  }
};

}  // namespace q35
