// What the files of the scalar tier offer each other.
#pragma once

#include "kernels/kernels.h"

namespace q35 {

void q35_init_attention_scalar(Kernels *kernels);
void q35_init_gemv_scalar(Kernels *kernels);  // products for few tokens, every format
void q35_init_gemm_scalar(Kernels *kernels);  // panels and the product for many tokens

}  // namespace q35
