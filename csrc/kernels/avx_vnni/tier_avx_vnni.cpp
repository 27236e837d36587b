// The avx_vnni tier: the code of avx2/ with VNNI's dot product of bytes, as on Intel's cores from
// Alder Lake on, which have no AVX-512.
#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"
#include "kernels/vector/gemm_f32.h"
#include "kernels/vector/ops.h"

namespace q35 {

void q35_init_avx_vnni(Kernels *kernels) {
  kernels->isa = "avx_vnni";
  kernels->same_cols = kGemvMaxCols;
  kernels->same_many = true;
  fill_ops(kernels);
  fill_gemm_f32(kernels);
  fill_gemv(kernels);
  fill_gemm_q8(kernels);
}

}  // namespace q35
