// The NEON tier (AArch64 baseline): element-wise and float kernels. Integer products have no NEON
// code yet and stay with the scalar tier, correct and slow; they belong into gemv_neon.cpp and
// gemm_neon.cpp beside this file.
#include "kernels/kernels.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_neon(Kernels *kernels) {
  kernels->isa = "neon";
  fill_ops(kernels);
  fill_gemm_f32(kernels);
}

}  // namespace q35
