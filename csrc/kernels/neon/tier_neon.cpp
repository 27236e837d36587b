// The neon tier: AArch64 without dot products, as the Cortex-A72 of a Raspberry Pi 4.
#include "kernels/neon/gemm.h"
#include "kernels/neon/gemv.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_neon(Kernels *kernels) {
  kernels->isa = "neon";
  kernels->same_cols = kGemvMaxCols;
  kernels->same_many = false;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  fill_gemv(kernels);
  fill_gemm_q8(kernels);
}

}  // namespace q35
