// Chooses among the kernel tiers this build has and this CPU can run.
#include "base/cpu.h"
#include "kernels/kernels.h"

namespace q35 {

const char *isa_name(Isa isa) {
  switch (isa) {
    case Isa::Scalar:
      return "scalar";
    case Isa::Avx2:
      return "avx2";
    case Isa::Avx512:
      return "avx512";
    case Isa::Neon:
      return "neon";
  }
  return "unknown";
}

bool isa_available(Isa isa) {
  [[maybe_unused]] const CpuFeatures cpu = cpu_features();
  switch (isa) {
    case Isa::Scalar:
      return true;
    case Isa::Avx2:
#ifdef QWEN35_HAVE_avx2
      return cpu.avx2;
#else
      return false;
#endif
    case Isa::Avx512:
#ifdef QWEN35_HAVE_avx512
      return cpu.avx512;
#else
      return false;
#endif
    case Isa::Neon:
#ifdef QWEN35_HAVE_neon
      return cpu.neon;
#else
      return false;
#endif
  }
  return false;
}

Kernels kernels_for(Isa isa) {
  Kernels table = {};
  q35_init_scalar(&table);
#ifdef QWEN35_HAVE_avx2
  if (isa == Isa::Avx2 || isa == Isa::Avx512) q35_init_avx2(&table);
#endif
#ifdef QWEN35_HAVE_avx512
  if (isa == Isa::Avx512) q35_init_avx512(&table);
#endif
#ifdef QWEN35_HAVE_neon
  if (isa == Isa::Neon) q35_init_neon(&table);
#endif
  (void)isa;
  return table;
}

}  // namespace q35
