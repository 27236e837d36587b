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
    case Isa::AvxVnni:
      return "avx_vnni";
    case Isa::Avx512:
      return "avx512";
    case Isa::Amx:
      return "amx";
    case Isa::Neon:
      return "neon";
    case Isa::NeonDotprod:
      return "neon_dotprod";
    case Isa::NeonI8mm:
      return "neon_i8mm";
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
    case Isa::AvxVnni:
#ifdef QWEN35_HAVE_avx_vnni
      return cpu.avx_vnni;
#else
      return false;
#endif
    case Isa::Avx512:
#ifdef QWEN35_HAVE_avx512
      return cpu.avx512;
#else
      return false;
#endif
    case Isa::Amx:
#ifdef QWEN35_HAVE_amx
      return cpu.amx;
#else
      return false;
#endif
    case Isa::Neon:
#ifdef QWEN35_HAVE_neon
      return cpu.neon;
#else
      return false;
#endif
    case Isa::NeonDotprod:
#ifdef QWEN35_HAVE_neon_dotprod
      return cpu.dotprod;
#else
      return false;
#endif
    case Isa::NeonI8mm:
#ifdef QWEN35_HAVE_neon_i8mm
      return cpu.i8mm;
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
  if (isa == Isa::Avx2 || isa == Isa::Avx512 || isa == Isa::Amx) q35_init_avx2(&table);
#endif
#ifdef QWEN35_HAVE_avx_vnni
  if (isa == Isa::AvxVnni) q35_init_avx_vnni(&table);
#endif
#ifdef QWEN35_HAVE_avx512
  if (isa == Isa::Avx512 || isa == Isa::Amx) q35_init_avx512(&table);
#endif
#ifdef QWEN35_HAVE_amx
  if (isa == Isa::Amx) q35_init_amx(&table);
#endif
#ifdef QWEN35_HAVE_neon
  // Each of these fills all that the one before fills.
  if (isa == Isa::Neon) q35_init_neon(&table);
#endif
#ifdef QWEN35_HAVE_neon_dotprod
  if (isa == Isa::NeonDotprod) q35_init_neon_dotprod(&table);
#endif
#ifdef QWEN35_HAVE_neon_i8mm
  if (isa == Isa::NeonI8mm) q35_init_neon_i8mm(&table);
#endif
  (void)isa;
  return table;
}

}  // namespace q35
