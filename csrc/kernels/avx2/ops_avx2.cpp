// The avx2 tier: entry point, and the kernels shared by every vector tier compiled for it.
#include "kernels/avx2/tier_avx2.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_avx2(Kernels *kernels) {
  kernels->isa = "avx2";
  kernels->same_cols = kGemvMaxCols;
  kernels->same_many = true;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  q35_init_gemv_avx2(kernels);
  q35_init_gemm_avx2(kernels);
}

}  // namespace q35
