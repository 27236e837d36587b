// The avx2 tier: AVX2 without a dot product of bytes.
#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_avx2(Kernels *kernels) {
  kernels->isa = "avx2";
  kernels->same_cols = kGemvMaxCols;
  kernels->same_many = true;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  fill_gemv(kernels);
  fill_gemm_q8(kernels);
}

}  // namespace q35
