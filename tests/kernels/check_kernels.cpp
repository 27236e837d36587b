// Checks every kernel of every tier this CPU can run; with --bench [filter], measures them.
#include <cstring>

#include "bench.h"
#include "bf16_checks.h"
#include "matrix_checks.h"
#include "op_checks.h"

using namespace q35;

int main(int argc, char **argv) {
  if (argc > 1 && std::strcmp(argv[1], "--bench") == 0) return run_bench(argc > 2 ? argv[2] : "");
  const Kernels scalar = kernels_for(Isa::Scalar);
  int failures = 0;
  for (const Isa isa : {Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Amx, Isa::Neon,
                        Isa::NeonDotprod, Isa::NeonI8mm}) {
    if (!isa_available(isa)) continue;
    const Kernels kernels = kernels_for(isa);
    Report report = {isa_name(isa)};
    check_ops(report, kernels, scalar);
    check_matrix_kernels(report, kernels, scalar);
    check_bf16_kernels(report, kernels, scalar);
    std::printf("%s: %d checks, %d failures\n", report.isa, report.checks, report.failures);
    failures += report.failures;
  }
  return failures == 0 ? 0 : 1;
}
