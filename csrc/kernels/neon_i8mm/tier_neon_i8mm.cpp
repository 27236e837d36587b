// The neon_i8mm tier: smmla, as on Apple M2, Neoverse V1 and Cortex-X2.
#include "kernels/neon/gemm.h"
#include "kernels/neon/gemv.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_neon_i8mm(Kernels *kernels) {
  kernels->isa = "neon_i8mm";
  kernels->same_cols = 1;  // pairs of tokens sum in another order
  kernels->same_many = false;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  fill_gemv(kernels);
  fill_gemm_q8(kernels);
}

}  // namespace q35
