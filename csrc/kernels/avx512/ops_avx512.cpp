// The avx512 tier: entry point, and the kernels shared by every vector tier compiled for it.
#include "kernels/avx512/tier_avx512.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_avx512(Kernels *kernels) {
  kernels->isa = "avx512";
  kernels->same_cols = kGemvMaxCols;
  kernels->same_many = true;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  q35_init_gemv_avx512(kernels);
  q35_init_gemm_avx512(kernels);
}

}  // namespace q35
