// Limits of this machine, measured so that speeds can be reported as shares of them.
#pragma once

#include "base/status.h"

namespace q35 {

// Threads as in qwen35_model_params. Takes about half a second and 256 MiB.
[[nodiscard]] Status measure_machine(int n_threads, qwen35_machine *out);

}  // namespace q35
