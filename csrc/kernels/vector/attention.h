// Attention of few query rows, written once against vec.h and vec_int.h: the rows of a kv head
// share every load of a cache entry. The scalar twins are in scalar/attention_scalar.cpp.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector/vec.h"
#include "kernels/vector/vec_int.h"

namespace q35 {
namespace {

// Register tiles. Scores: kQkRows rows by 4 entries; outputs: kPvRows rows by kPvVecs vectors.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
constexpr uint32_t kQkRows = 4, kPvRows = 4, kPvVecs = 4;
#else  // 16 registers
constexpr uint32_t kQkRows = 2, kPvRows = 4, kPvVecs = 2;
#endif

inline vf load_vec(const float *p) {
  return vload(p);
}
inline vf load_vec(const uint16_t *p) {
  return vload_f16(p);
}  // halves

// Starts to load `bytes` that the next kernel needs. The entries of a tile are read a few rows at a
// time, a pattern that hardware prefetchers follow badly.
inline void fetch_ahead(const void *at, uint64_t bytes) {
  const char *p = static_cast<const char *>(at);
  for (uint64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// ---- scores: s[r][j] for kRows rows and kKeys entries -------------------------------------------

template <uint32_t kRows, uint32_t kKeys, class T>
inline void qk_tile(const float *q, uint64_t q_stride, const T *k, uint64_t k_stride, uint32_t d,
                    float *s, uint64_t s_stride) {
  vf sum[kRows][kKeys];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kKeys; j++) sum[r][j] = vset(0.0f);
  }
  for (uint32_t i = 0; i < d; i += kVec) {
    vf key[kKeys];
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kKeys; j++) key[j] = load_vec(k + j * k_stride + i);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; r++) {
      const vf x = vload(q + r * q_stride + i);
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kKeys; j++) sum[r][j] = vfma(key[j], x, sum[r][j]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
    if constexpr (kKeys == 4) {
      v4_store(s + r * s_stride, vsum4(sum[r]));
    } else {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kKeys; j++) s[r * s_stride + j] = vsum(sum[r][j]);
    }
  }
}

template <uint32_t kRows, class T>
inline void qk_rows(const float *q, uint64_t q_stride, const T *k, uint64_t k_stride, uint32_t n,
                    uint32_t d, float *s, uint64_t s_stride, const T *ahead) {
  uint32_t j = 0;
  for (; j + 4 <= n; j += 4) {
    if (ahead != nullptr) fetch_ahead(ahead + j * d, 4 * d * sizeof(T));
    qk_tile<kRows, 4>(q, q_stride, k + j * k_stride, k_stride, d, s + j, s_stride);
  }
  for (; j < n; j++) {
    qk_tile<kRows, 1>(q, q_stride, k + j * k_stride, k_stride, d, s + j, s_stride);
  }
}

template <class T>
void v_qk(const float *q, uint64_t q_stride, uint32_t nq, const T *k, uint64_t k_stride, uint32_t n,
          uint32_t d, float *s, uint64_t s_stride, const void *ahead) {
  uint32_t r = 0;
  const T *fetch = static_cast<const T *>(ahead);
  for (; r + kQkRows <= nq; r += kQkRows, fetch = nullptr) {
    qk_rows<kQkRows>(q + r * q_stride, q_stride, k, k_stride, n, d, s + r * s_stride, s_stride,
                     fetch);
  }
  for (; r < nq; r++, fetch = nullptr) {
    qk_rows<1>(q + r * q_stride, q_stride, k, k_stride, n, d, s + r * s_stride, s_stride, fetch);
  }
}

// ---- outputs: accumulators stay in registers over all entries -----------------------------------

template <uint32_t kRows, uint32_t kVecs, class T>
inline void pv_tile(const float *p, uint64_t p_stride, const T *v, uint64_t v_stride, uint32_t n,
                    float *o, uint64_t o_stride, const T *ahead) {
  vf sum[kRows][kVecs];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kVecs; c++) sum[r][c] = vload(o + r * o_stride + c * kVec);
  }
  for (uint32_t j = 0; j < n; j++) {
    if (ahead != nullptr) fetch_ahead(ahead + j * v_stride, kVecs * kVec * sizeof(T));
    vf value[kVecs];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kVecs; c++) value[c] = load_vec(v + j * v_stride + c * kVec);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; r++) {
      const vf w = vset(p[r * p_stride + j]);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kVecs; c++) sum[r][c] = vfma(value[c], w, sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kVecs; c++) vstore(o + r * o_stride + c * kVec, sum[r][c]);
  }
}

template <uint32_t kRows, class T>
inline void pv_rows(const float *p, uint64_t p_stride, const T *v, uint64_t v_stride, uint32_t n,
                    uint32_t d, float *o, uint64_t o_stride, const T *ahead) {
  uint32_t i = 0;
  for (; i + kPvVecs * kVec <= d; i += kPvVecs * kVec) {
    pv_tile<kRows, kPvVecs>(p, p_stride, v + i, v_stride, n, o + i, o_stride,
                            ahead == nullptr ? nullptr : ahead + i);
  }
  for (; i < d; i += kVec)
    pv_tile<kRows, 1, T>(p, p_stride, v + i, v_stride, n, o + i, o_stride, nullptr);
}

template <class T>
void v_pv(const float *p, uint64_t p_stride, uint32_t nq, const T *v, uint64_t v_stride, uint32_t n,
          uint32_t d, float *o, uint64_t o_stride, const void *ahead) {
  uint32_t r = 0;
  const T *fetch = static_cast<const T *>(ahead);
  for (; r + kPvRows <= nq; r += kPvRows, fetch = nullptr) {
    pv_rows<kPvRows>(p + r * p_stride, p_stride, v, v_stride, n, d, o + r * o_stride, o_stride,
                     fetch);
  }
  for (; r < nq; r++, fetch = nullptr) {
    pv_rows<1>(p + r * p_stride, p_stride, v, v_stride, n, d, o + r * o_stride, o_stride, fetch);
  }
}

// ---- 8-bit cache --------------------------------------------------------------------------------

template <uint32_t kRows, uint32_t kKeys>
inline void qk_tile_q8(const int16_t *q, const float *q_scale, const int8_t *k,
                       const float *k_scale, uint32_t d, float *s, uint64_t s_stride) {
  vi sum[kRows][kKeys];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kKeys; j++) sum[r][j] = vzero_i();
  }
  for (uint32_t i = 0; i < d; i += 2 * kVec) {
    vw key[kKeys];
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kKeys; j++) key[j] = vload_i8w(k + j * d + i);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; r++) {
      const vw x = vload_w(q + r * d + i);
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kKeys; j++) sum[r][j] = vdot_w(sum[r][j], key[j], x);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
    if constexpr (kKeys == 4) {
      const v4 scale = v4_mul(v4_set(q_scale[r]), v4_load(k_scale));
      v4_store(s + r * s_stride, v4_mul(vsum4(sum[r]), scale));
    } else {
      const float dot = static_cast<float>(vsum_i(sum[r][0]));
      s[r * s_stride] = dot * (q_scale[r] * k_scale[0]);
    }
  }
}

template <uint32_t kRows>
inline void qk_rows_q8(const int16_t *q, const float *q_scale, const int8_t *k,
                       const float *k_scale, uint32_t n, uint32_t d, float *s, uint64_t s_stride,
                       const int8_t *ahead) {
  uint32_t j = 0;
  for (; j + 4 <= n; j += 4) {
    if (ahead != nullptr) fetch_ahead(ahead + j * d, 4 * d);
    qk_tile_q8<kRows, 4>(q, q_scale, k + j * d, k_scale + j, d, s + j, s_stride);
  }
  for (; j < n; j++) {
    qk_tile_q8<kRows, 1>(q, q_scale, k + j * d, k_scale + j, d, s + j, s_stride);
  }
}

void v_qk_q8(const int16_t *q, const float *q_scale, uint32_t nq, const int8_t *k,
             const float *k_scale, uint32_t n, uint32_t d, float *s, uint64_t s_stride,
             const void *ahead) {
  uint32_t r = 0;
  const int8_t *fetch = static_cast<const int8_t *>(ahead);
  for (; r + kQkRows <= nq; r += kQkRows, fetch = nullptr) {
    qk_rows_q8<kQkRows>(q + r * d, q_scale + r, k, k_scale, n, d, s + r * s_stride, s_stride,
                        fetch);
  }
  for (; r < nq; r++, fetch = nullptr) {
    qk_rows_q8<1>(q + r * d, q_scale + r, k, k_scale, n, d, s + r * s_stride, s_stride, fetch);
  }
}

// kRows rows by kPairs times 2 * kVec values; two entries at a time.
template <uint32_t kRows, uint32_t kPairs>
inline void pv_tile_q8(const int16_t *p, uint64_t p_stride, const float *p_scale, const int8_t *v,
                       uint32_t n, uint32_t d, float *o, uint64_t o_stride, const int8_t *ahead) {
  vi sum[kRows][2 * kPairs];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < 2 * kPairs; c++) sum[r][c] = vzero_i();
  }
  for (uint32_t j = 0; j < n; j += 2) {
    const int8_t *v0 = v + j * d, *v1 = j + 1 < n ? v0 + d : v0;  // p[n] is 0
    if (ahead != nullptr) {
      fetch_ahead(ahead + j * d, kPairs * 2 * kVec);
      fetch_ahead(ahead + (j + 1) * d, kPairs * 2 * kVec);
    }
    vw a[kPairs], b[kPairs];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kPairs; c++) {
      a[c] = vload_i8w(v0 + c * 2 * kVec);
      b[c] = vload_i8w(v1 + c * 2 * kVec);
      vzip(&a[c], &b[c]);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; r++) {
      const vpair w = vload_pair(p + r * p_stride + j);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kPairs; c++) vmac_pair(&sum[r][2 * c], a[c], b[c], w);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; r++) {
    const vf scale = vset(p_scale[r]);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < 2 * kPairs; c += 2) vunzip(&sum[r][c]);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < 2 * kPairs; c++) {
      float *at = o + r * o_stride + c * kVec;
      vstore(at, vfma(vfloat(sum[r][c]), scale, vload(at)));
    }
  }
}

template <uint32_t kRows>
inline void pv_rows_q8(const int16_t *p, uint64_t p_stride, const float *p_scale, const int8_t *v,
                       uint32_t n, uint32_t d, float *o, uint64_t o_stride, const int8_t *ahead) {
  constexpr uint32_t kPairs = kPvVecs / 2;
  uint32_t i = 0;
  for (; i + kPairs * 2 * kVec <= d; i += kPairs * 2 * kVec) {
    pv_tile_q8<kRows, kPairs>(p, p_stride, p_scale, v + i, n, d, o + i, o_stride,
                              ahead == nullptr ? nullptr : ahead + i);
  }
  for (; i < d; i += 2 * kVec) {
    pv_tile_q8<kRows, 1>(p, p_stride, p_scale, v + i, n, d, o + i, o_stride, nullptr);
  }
}

void v_pv_q8(const int16_t *p, uint64_t p_stride, const float *p_scale, uint32_t nq,
             const int8_t *v, uint32_t n, uint32_t d, float *o, uint64_t o_stride,
             const void *ahead) {
  uint32_t r = 0;
  const int8_t *fetch = static_cast<const int8_t *>(ahead);
  for (; r + kPvRows <= nq; r += kPvRows, fetch = nullptr) {
    pv_rows_q8<kPvRows>(p + r * p_stride, p_stride, p_scale + r, v, n, d, o + r * o_stride,
                        o_stride, fetch);
  }
  for (; r < nq; r++, fetch = nullptr) {
    pv_rows_q8<1>(p + r * p_stride, p_stride, p_scale + r, v, n, d, o + r * o_stride, o_stride,
                  fetch);
  }
}

inline vf limited(vf x, float limit) {
  return vmin(vmax(x, vset(-limit)), vset(limit));  // NaN becomes -limit
}

float v_quantize_i8(const float *x, uint32_t n, int8_t *q) {
  vf peak = vset(0.0f);
  for (uint32_t i = 0; i < n; i += kVec) peak = vmax(vabs(vload(x + i)), peak);
  const float scale = vhmax(peak) / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (uint32_t i = 0; i < n; i += kVec) {
    vstore_i8(q + i, limited(vmul(vload(x + i), vset(inverse)), 127.0f));
  }
  return scale;
}

float v_quantize_i16(const float *x, const float *factor, uint32_t n, int16_t *q) {
  const uint32_t whole = n / kVec * kVec;
  const auto value = [&](uint32_t i) {
    return factor == nullptr ? vload(x + i) : vmul(vload(x + i), vload(factor + i));
  };
  // The last values, n % kVec of them, filled up with zeros.
  float rest[kVec] = {};
  for (uint32_t i = whole; i < n; i++)
    rest[i - whole] = factor == nullptr ? x[i] : x[i] * factor[i];
  vf peak = vabs(vload(rest));
  for (uint32_t i = 0; i < whole; i += kVec) peak = vmax(vabs(value(i)), peak);
  const float scale = vhmax(peak) / 32767.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (uint32_t i = 0; i < whole; i += kVec) {
    vstore_i16(q + i, limited(vmul(value(i), vset(inverse)), 32767.0f));
  }
  int16_t last[kVec];
  vstore_i16(last, limited(vmul(vload(rest), vset(inverse)), 32767.0f));
  for (uint32_t i = whole; i < n + n % 2; i++) q[i] = last[i - whole];
  return scale;
}

void v_i8_to_f32(const int8_t *x, float scale, uint32_t n, float *y) {
  const vf s = vset(scale);
  for (uint32_t i = 0; i < n; i += kVec) vstore(y + i, vmul(vload_i8(x + i), s));
}

void v_unpack_i4(const uint8_t *packed, uint32_t n, int8_t *q) {
  const b16 table = b16_load(reinterpret_cast<const uint8_t *>(kNormal16));
  for (uint32_t i = 0; i < n; i += 32) {
    const b16 bytes = b16_load(packed + i / 2);
    b16_store(q + i, b16_lookup(table, b16_low(bytes)));
    b16_store(q + i + 16, b16_lookup(table, b16_high(bytes)));
  }
}

void v_hadamard(float *x, uint32_t n) {
  const uint32_t block = n & (0u - n);
  const vf norm = vset(1.0f / __builtin_sqrtf(static_cast<float>(block)));
  for (uint32_t first = 0; first < n; first += block) {
    float *b = x + first;
    for (uint32_t half = 1; half < block && half < kVec; half *= 2) {
      for (uint32_t i = 0; i < block; i += 2 * half) {
        for (uint32_t j = i; j < i + half; j++) {
          const float low = b[j], high = b[j + half];
          b[j] = low + high;
          b[j + half] = low - high;
        }
      }
    }
    for (uint32_t half = kVec; half < block; half *= 2) {
      for (uint32_t i = 0; i < block; i += 2 * half) {
        for (uint32_t j = i; j < i + half; j += kVec) {
          const vf low = vload(b + j), high = vload(b + j + half);
          vstore(b + j, vadd(low, high));
          vstore(b + j + half, vsub(low, high));
        }
      }
    }
    for (uint32_t i = 0; i < block; i += kVec) vstore(b + i, vmul(vload(b + i), norm));
  }
}

void fill_attention(Kernels *t) {
  t->qk_f16 = v_qk<uint16_t>;
  t->qk_f32 = v_qk<float>;
  t->pv_f16 = v_pv<uint16_t>;
  t->pv_f32 = v_pv<float>;
  t->qk_q8 = v_qk_q8;
  t->pv_q8 = v_pv_q8;
  t->quantize_i8 = v_quantize_i8;
  t->quantize_i16 = v_quantize_i16;
  t->i8_to_f32 = v_i8_to_f32;
  t->unpack_i4 = v_unpack_i4;
  t->hadamard = v_hadamard;
}

}  // namespace
}  // namespace q35
