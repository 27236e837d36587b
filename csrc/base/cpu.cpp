#include "base/cpu.h"

#include <sched.h>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#endif
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace q35 {

#if defined(__aarch64__) && defined(__APPLE__)
namespace {

// A feature of the processor as the kernel of macOS reports it.
bool has_feature(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

}  // namespace
#endif

#if defined(__x86_64__)
namespace {

// Compilers learnt the name of this one late.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

// Tiles of bf16. Linux has to be asked before the first use, once for the process.
bool has_amx() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of the Linux ABI, asm/prctl.h
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) return false;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
#else
  return false;
#endif
}

}  // namespace
#endif

CpuFeatures cpu_features() {
  CpuFeatures f = {};
#if defined(__x86_64__)
  __builtin_cpu_init();
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  f.avx_vnni = f.avx2 && has_avx_vnni();
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  f.bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
  f.amx = f.bf16 && has_amx();
#elif defined(__aarch64__)
  f.neon = true;
#if defined(__linux__)
  // Bits of the Linux ABI, named in asm/hwcap.h of newer systems than some we build on.
  f.dotprod = (getauxval(AT_HWCAP) & 1ul << 20) != 0;             // HWCAP_ASIMDDP
  f.i8mm = f.dotprod && (getauxval(AT_HWCAP2) & 1ul << 13) != 0;  // HWCAP2_I8MM
#elif defined(__APPLE__)
  f.dotprod = has_feature("hw.optional.arm.FEAT_DotProd");
  f.i8mm = f.dotprod && has_feature("hw.optional.arm.FEAT_I8MM");
#endif
#endif
  return f;
}

namespace {

// First line of a small file, without its newline; false when it cannot be read.
bool read_line(const char *path, char *line, int capacity) {
  std::FILE *file = std::fopen(path, "re");
  if (file == nullptr) return false;
  const bool ok = std::fgets(line, capacity, file) != nullptr;
  std::fclose(file);
  if (ok) line[std::strcspn(line, "\n")] = '\0';
  return ok;
}

// Whole CPUs that the control group allows; 0 without a limit.
int quota_cpus() {
  char line[128];
  if (!read_line("/sys/fs/cgroup/cpu.max", line, sizeof line)) return 0;
  long long quota = 0, period = 0;
  if (std::sscanf(line, "%lld %lld", &quota, &period) != 2 || period <= 0) return 0;
  const long long cpus = quota / period;
  return cpus < 1 ? 1 : static_cast<int>(cpus);
}

// True when `cpu` is the first hardware thread of its core.
bool leads_its_core(int cpu) {
  char path[128], line[128];
  std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                cpu);
  if (!read_line(path, line, sizeof line)) return true;
  return std::atoi(line) == cpu;
}

struct Processors {
  int cpus, cores;
};

// What the affinity mask of this process allows.
Processors allowed() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {1, 1};
  Processors found = {0, 0};
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &set)) continue;
    found.cpus++;
    if (leads_its_core(cpu)) found.cores++;
  }
  if (found.cores == 0) found.cores = found.cpus;  // only second threads of their cores
  return found;
#else
  const int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return {cpus, cpus};
#endif
}

// As many, but within the quota, and at least one.
int within_quota(int n) {
  const int quota = quota_cpus();
  if (quota > 0 && quota < n) n = quota;
  return n < 1 ? 1 : n;
}

}  // namespace

int usable_cores() {
  return within_quota(allowed().cores);
}

int usable_cpus() {
  return within_quota(allowed().cpus);
}

unsigned long long available_memory() {
  std::FILE *file = std::fopen("/proc/meminfo", "re");
  if (file == nullptr) return 0;
  char line[128];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
  }
  std::fclose(file);
  return kib * 1024;
}

}  // namespace q35
