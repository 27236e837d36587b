// Speed of the attention operation of the backend alone, over a cache filled to a depth: what a
// token costs there, without the minutes a real prompt of that length takes.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "model/state.h"
#include "timing.h"

using namespace q35;

namespace {

struct AttentionBench {
  static constexpr uint32_t kSeed = 64;  // entries computed; the rest of the cache repeats them
  static constexpr uint32_t kRot = 64;

  const Kernels &kernels;
  ThreadPool *pool;
  Config config = {};

  AttentionBench(const Kernels &k, ThreadPool *p) : kernels(k), pool(p) {
    config.n_layer = 1;  // of the 0.8B and 2B models
    config.n_head = 8;
    config.n_head_kv = 2;
    config.head_dim = 256;
    config.n_rot = kRot;
    config.n_embd = 1024;
    config.n_ff = 3584;
    config.lin_k_heads = config.lin_v_heads = 16;
    config.lin_head_dim = 128;
    config.rms_eps = 1e-6f;
  }

  // Copies entry i % kSeed to every entry i below depth.
  void repeat(const AttentionArgs &a, void *cache, uint32_t depth) const {
    for (uint32_t h = 0; h < a.n_head_kv; h++) {
      for (uint32_t i = kSeed; i < depth; i++) {
        std::memcpy(kv_row(a, cache, h, i), kv_row(a, cache, h, i % kSeed),
                    kv_values_bytes(a.kv_type, a.head_dim));
        if (!kv_is_integer(a.kv_type)) continue;
        *kv_scale(a, cache, h, i) = *kv_scale(a, cache, h, i % kSeed);
      }
    }
  }

  bool measure(KvType type, const char *name, uint32_t depth, uint32_t n, double bandwidth) {
    const uint32_t most = std::max(n, kSeed), capacity = depth + most;
    const uint64_t q_size = 2ull * config.q_dim(), kv_size = config.kv_dim();
    CpuBackend backend(kernels, pool);
    SequenceState state;
    if (config.recurrent.resize(1) != kOk || backend.reserve(config, most) != kOk ||
        state.init(config, capacity, type) != kOk) {
      return false;
    }
    Random random(7);
    Guarded<float> q(most * q_size), k(most * kv_size), v(most * kv_size), out(most * q_size);
    Guarded<float> norm(config.head_dim), cos(most * kRot), sin(most * kRot);
    Guarded<float> q0(q.size()), k0(k.size()), v0(v.size());
    for (size_t i = 0; i < q.size(); i++) q0[i] = random.unit();
    for (size_t i = 0; i < k.size(); i++) k0[i] = random.unit();
    for (size_t i = 0; i < v.size(); i++) v0[i] = random.unit();
    for (size_t i = 0; i < norm.size(); i++) norm[i] = 1.0f;
    for (size_t i = 0; i < cos.size(); i++) cos[i] = 1.0f;
    AttentionArgs a = {};
    a.n = kSeed;
    a.n_head = config.n_head;
    a.n_head_kv = config.n_head_kv;
    a.head_dim = config.head_dim;
    a.n_rot = kRot;
    a.eps = config.rms_eps;
    a.q = q.data();
    a.k = k.data();
    a.v = v.data();
    a.q_norm = a.k_norm = norm.data();
    a.cos = cos.data();
    a.sin = sin.data();
    a.kv_type = type;
    a.k_cache = state.k_cache(0);
    a.v_cache = state.v_cache(0);
    a.capacity = capacity;
    a.out = out.data();
    const auto run = [&] {  // the operation overwrites its inputs
      std::memcpy(q.data(), q0.data(), a.n * q_size * sizeof(float));
      std::memcpy(k.data(), k0.data(), a.n * kv_size * sizeof(float));
      std::memcpy(v.data(), v0.data(), a.n * kv_size * sizeof(float));
      backend.attention(a);
    };
    run();
    repeat(a, a.k_cache, depth);
    repeat(a, a.v_cache, depth);
    a.n = n;
    a.position = depth;
    const uint32_t runs = std::max(5u, static_cast<uint32_t>(4e6 / depth / n));
    const double time =
        shortest_time(std::min(runs, 101u), pool->size() == 1 ? thread_seconds : seconds,
                      [&](uint32_t) { run(); });
    const double bytes = 2.0 * depth * config.n_head_kv * kv_row_bytes(type, config.head_dim);
    const double flops = 4.0 * n * (depth + 0.5 * n) * config.q_dim();
    std::printf("%s attention kv %-4s depth %6u n %3u: %8.3f ms  %6.1f ns/entry  ", kernels.isa,
                name, depth, n, 1e3 * time, 1e9 * time / depth);
    if (n <= kGemvMaxCols) {
      std::printf("%5.1f GB/s (%3.0f %% of read)  ", 1e-9 * bytes / time,
                  1e-7 * bytes / time / bandwidth);
    }
    std::printf("%6.1f GFLOP/s\n", 1e-9 * flops / time);
    return true;
  }
};

// One kernel tier and cache type.
bool measure_all(AttentionBench &&bench, KvType type, const char *name, int threads) {
  Guarded<uint8_t> big(256u << 20);
  std::memset(big.data(), 1, big.size());
  const double bandwidth = read_gbs(big) * threads;
  std::printf("read %.1f GB/s a thread, times %d threads\n", bandwidth / threads, threads);
  for (const uint32_t depth : {1024u, 8192u, 32768u}) {
    for (const uint32_t n : {1u, 4u, 8u}) {
      if (!bench.measure(type, name, depth, n, bandwidth)) return false;
    }
  }
  return bench.measure(type, name, 8192, 512, bandwidth) &&
         bench.measure(type, name, 16384, 512, bandwidth);
}

}  // namespace

// Arguments: a substring of "<isa> <cache type>", and the number of threads.
int main(int argc, char **argv) {
  const char *filter = argc > 1 ? argv[1] : "";
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  const struct {
    KvType type;
    const char *name;
  } types[] = {{KvType::F32, "f32"},
               {KvType::F16, "f16"},
               {KvType::Q8_0, "q8_0"},
               {KvType::IQ4_NL, "iq4_nl"}};
  ThreadPool pool;
  if (pool.start(threads) != kOk) return 1;
  for (const Isa isa : {Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Scalar}) {
    if (!isa_available(isa)) continue;
    const Kernels kernels = kernels_for(isa);
    for (const auto &kv : types) {
      char name[64];
      std::snprintf(name, sizeof name, "%s %s", kernels.isa, kv.name);
      if (std::strstr(name, filter) == nullptr) continue;
      if (!measure_all(AttentionBench(kernels, &pool), kv.type, kv.name, threads)) return 1;
    }
  }
  return 0;
}
