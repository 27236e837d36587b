// What the processor can do and how many cores this process may use.
#pragma once

#include <cstddef>

namespace q35 {

struct CpuFeatures {
  bool avx2;      // AVX2 + FMA + F16C + BMI2, and the operating system saves the registers
  bool avx_vnni;  // and the dot product of bytes in 256 bits
  bool avx512;    // AVX-512 F, BW, DQ, VL, VNNI, VBMI
  bool bf16;      // AVX512_BF16
  bool amx;   // AVX-512 with AVX512_BF16, and tiles of bf16 that the system lets this process use
  bool neon;  // AArch64 baseline
  bool dotprod;  // sdot
  bool i8mm;     // smmla, and dotprod
};

CpuFeatures cpu_features();

// Physical cores in this process's affinity mask, limited by a container's CPU quota; at least 1.
int usable_cores();
// CPUs in this process's affinity mask, two of a core that has two threads, limited in the same
// way.
int usable_cpus();

// Bytes of memory that can be used without swapping; 0 when unknown.
unsigned long long available_memory();

}  // namespace q35
