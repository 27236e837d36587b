// What the files of the avx2 tier offer each other.
#pragma once

#include "kernels/kernels.h"

namespace q35 {

void q35_init_gemv_avx2(Kernels *kernels);  // integer products for few tokens
void q35_init_gemm_avx2(Kernels *kernels);  // panels and the product for many tokens

}  // namespace q35
