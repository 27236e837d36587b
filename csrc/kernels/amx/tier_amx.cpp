// The amx tier: all of avx512/, and products of bf16 in the CPU's tiles, which multiply 16 x 32 by
// 32 x 16 values in 16 cycles: 16 times what two vector units do with floats.
#include "kernels/avx512/spread.h"
#include "kernels/kernels.h"

namespace q35 {
namespace {

constexpr uint32_t kSide = 16, kDepth = 32;  // of a tile: rows or columns, values along k
constexpr uint32_t kTileValues = kSide * kDepth;

inline uint32_t tiles_of(uint32_t k) {
  return (k + kDepth - 1) / kDepth;
}

inline __mmask16 first_lanes(uint32_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1);
}

// ---- to bf16 ------------------------------------------------------------------------------------

// 32 values in their order.
inline __m512i line_of(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Lane by lane, an even value beside the odd one after it.
inline __m512i pairs_of(__m512 even, __m512 odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, line_of(even, odd));
}

// The first `count` of 32 values as bf16, then zeros.
struct FromF32 {
  static constexpr uint32_t kBytes = 4;
  static __m512i line(const uint8_t *p, uint32_t count) {
    const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), p);
    const __m512 high =
        count <= 16 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(first_lanes(count - 16), p + 64);
    return line_of(low, high);
  }
};
struct FromF16 {
  static constexpr uint32_t kBytes = 2;
  static __m512i line(const uint8_t *p, uint32_t count) {
    const __m512i x = _mm512_maskz_loadu_epi16(count >= 32 ? ~0u : (1u << count) - 1, p);
    return line_of(_mm512_cvtph_ps(_mm512_castsi512_si256(x)),
                   _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1)));
  }
};
struct FromBf16 {
  static constexpr uint32_t kBytes = 2;
  static __m512i line(const uint8_t *p, uint32_t count) {
    return _mm512_maskz_loadu_epi16(count >= 32 ? ~0u : (1u << count) - 1, p);
  }
};

// ---- left factors -------------------------------------------------------------------------------

void pack_left(const float *x, uint64_t stride, uint32_t m, uint32_t k, uint16_t *out) {
  for (uint32_t i = 0; i < m; i += kSide) {
    for (uint32_t j = 0; j < k; j += kDepth, out += kTileValues) {
      for (uint32_t r = 0; r < kSide; r++) {
        const uint8_t *p = reinterpret_cast<const uint8_t *>(x + (i + r) * stride + j);
        _mm512_storeu_si512(out + r * kDepth,
                            i + r < m ? FromF32::line(p, k - j) : _mm512_setzero_si512());
      }
    }
  }
}

// bf16 in the upper halves of floats.
inline __m512 float_of(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

struct Parts {
  __m512i near, rest;
};

// The first `count` of 32 values, then zeros, and what rounding loses of them.
inline Parts parts_of(const float *p, uint32_t count) {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), p);
  const __m512 high =
      count <= 16 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(first_lanes(count - 16), p + 16);
  const __m512i near = line_of(low, high);
  return {near, line_of(_mm512_sub_ps(low, float_of(_mm512_castsi512_si256(near))),
                        _mm512_sub_ps(high, float_of(_mm512_extracti64x4_epi64(near, 1))))};
}

void pack_left_split(const float *x, uint64_t stride, uint32_t m, uint32_t k, uint16_t *out) {
  for (uint32_t i = 0; i < m; i += kSide) {
    for (uint32_t j = 0; j < k; j += kDepth, out += 2 * kTileValues) {
      for (uint32_t r = 0; r < kSide; r++) {
        Parts parts = {};
        if (i + r < m) parts = parts_of(x + (i + r) * stride + j, k - j);
        _mm512_storeu_si512(out + r * kDepth, parts.near);
        _mm512_storeu_si512(out + kTileValues + r * kDepth, parts.rest);
      }
    }
  }
}

// Rows j and j + 1 of x [k, n], columns i to i + 15, as pairs.
inline __m512i row_pair(const float *x, uint64_t stride, uint32_t k, uint32_t j, uint32_t i,
                        uint32_t n) {
  const __mmask16 some = first_lanes(n - i);
  const float *p = x + j * stride + i;
  const __m512 even = j < k ? _mm512_maskz_loadu_ps(some, p) : _mm512_setzero_ps();
  const __m512 odd = j + 1 < k ? _mm512_maskz_loadu_ps(some, p + stride) : _mm512_setzero_ps();
  return pairs_of(even, odd);
}

void pack_left_transposed(const float *x, uint64_t stride, uint32_t m, uint32_t k,
                          uint64_t out_step, uint16_t *out) {
  for (uint32_t i = 0; i < m; i += kSide, out += out_step) {
    uint16_t *tile = out;
    for (uint32_t j = 0; j < k; j += kDepth, tile += kTileValues) {
      __m512i a[16];
      for (uint32_t p = 0; p < 16; p++) a[p] = row_pair(x, stride, k, j + 2 * p, i, m);
      transpose(a);
      for (uint32_t r = 0; r < 16; r++) _mm512_storeu_si512(tile + r * kDepth, a[r]);
    }
  }
}

// ---- right factors ------------------------------------------------------------------------------

// 2^t for t <= 0: the polynomial has a relative error of 2.6e-6.
inline __m512 power_of_two(__m512 t) {
  const __m512 r = _mm512_reduce_ps(t, 0x09);  // t - floor(t)
  __m512 p = _mm512_set1_ps(0.01353416f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05201147f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24144275f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69300384f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000259f));
  return _mm512_scalef_ps(p, t);
}

void softmax_right(const float *s, uint32_t k, float *m, float *l, float *shrink, uint16_t *out) {
  constexpr uint32_t kCols = 2 * kSide;
  const __m512 log2e = _mm512_set1_ps(1.44269504f);
  for (uint32_t c = 0; c < kCols; c += kSide) {
    const __m512 old = _mm512_loadu_ps(m + c);
    __m512 top[4] = {old, old, old, old};
    uint32_t i = 0;
    for (; i + 4 <= k; i += 4) {
      for (uint32_t j = 0; j < 4; j++) {
        top[j] = _mm512_max_ps(top[j], _mm512_loadu_ps(s + (i + j) * kCols + c));
      }
    }
    for (; i < k; i++) top[0] = _mm512_max_ps(top[0], _mm512_loadu_ps(s + i * kCols + c));
    const __m512 peak = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
    const __m512 zero = _mm512_mul_ps(peak, log2e);
    const auto weight = [&](uint32_t row) {
      return power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(s + row * kCols + c), log2e, zero));
    };
    __m512 even = _mm512_setzero_ps(), odd = even;
    const uint32_t pairs = tiles_of(k) * kSide;
    for (i = 0; i < k / 2; i++, out += kDepth) {
      const __m512 a = weight(2 * i), b = weight(2 * i + 1);
      _mm512_storeu_si512(out, pairs_of(a, b));
      even = _mm512_add_ps(even, a);
      odd = _mm512_add_ps(odd, b);
    }
    for (; i < pairs; i++, out += kDepth) {
      const __m512 a = 2 * i < k ? weight(2 * i) : _mm512_setzero_ps();
      _mm512_storeu_si512(out, pairs_of(a, _mm512_setzero_ps()));
      even = _mm512_add_ps(even, a);
    }
    const __m512 factor = power_of_two(_mm512_fmsub_ps(old, log2e, zero));
    const __m512 sum = _mm512_fmadd_ps(_mm512_loadu_ps(l + c), factor, _mm512_add_ps(even, odd));
    _mm512_storeu_ps(m + c, peak);
    _mm512_storeu_ps(l + c, sum);
    _mm512_storeu_ps(shrink + c, factor);
  }
}

void pack_right_split(const float *x, uint64_t stride, uint32_t n, uint32_t k, uint16_t *out) {
  for (uint32_t i = 0; i < n; i += kSide) {
    for (uint32_t j = 0; j < k; j += kDepth, out += 2 * kTileValues) {
      __m512i near[kSide], rest[kSide];
      for (uint32_t r = 0; r < kSide; r++) {
        Parts parts = {};
        if (i + r < n) parts = parts_of(x + (i + r) * stride + j, k - j);
        near[r] = parts.near;
        rest[r] = parts.rest;
      }
      transpose(near);
      transpose(rest);
      for (uint32_t p = 0; p < kSide; p++) {
        _mm512_storeu_si512(out + p * kDepth, near[p]);
        _mm512_storeu_si512(out + kTileValues + p * kDepth, rest[p]);
      }
    }
  }
}

// 16 rows of floats. rows: null for what is missing.
template <class From>
inline void pack_floats(const Rows &rows, uint32_t k, uint16_t *out) {
  for (uint32_t j = 0; j < k; j += kDepth, out += kTileValues) {
    __m512i a[16];
    for (uint32_t r = 0; r < kSide; r++) {
      a[r] = rows[r] != nullptr ? From::line(rows[r] + j * From::kBytes, k - j)
                                : _mm512_setzero_si512();
    }
    transpose(a);
    for (uint32_t p = 0; p < 16; p++) _mm512_storeu_si512(out + p * kDepth, a[p]);
  }
}

// n values, a multiple of the group, of 16 rows: what spread.h makes of them.
template <class D>
inline void scale_bytes(const uint8_t *q, const float *scale, const float *min, uint32_t n,
                        uint16_t *out) {
  for (uint32_t g = 0; g < n / D::kGroup; g++) {
    const __m512 s = _mm512_loadu_ps(scale + g * kSide);
    const __m512 offset = D::kHasMin
                              ? _mm512_sub_ps(_mm512_setzero_ps(), _mm512_loadu_ps(min + g * kSide))
                              : _mm512_mul_ps(s, _mm512_set1_ps(-static_cast<float>(D::kBias)));
#pragma GCC unroll 8
    for (uint32_t i = 0; i < D::kGroup / 4; i++, q += 64, out += 64) {
      const __m512i x = load64(q);
      const __m512 w0 = _mm512_fmadd_ps(byte_floats<false>(x, 0), s, offset);
      const __m512 w1 = _mm512_fmadd_ps(byte_floats<false>(x, 1), s, offset);
      const __m512 w2 = _mm512_fmadd_ps(byte_floats<false>(x, 2), s, offset);
      const __m512 w3 = _mm512_fmadd_ps(byte_floats<false>(x, 3), s, offset);
      _mm512_storeu_si512(out, pairs_of(w0, w1));
      _mm512_storeu_si512(out + 32, pairs_of(w2, w3));
    }
  }
}

// 16 rows of a format of spread.h.
template <class D>
void pack_quantised(const Rows &rows, bool woven, uint32_t k, uint16_t *out) {
  alignas(64) uint8_t tile[16 * D::kBlockBytes], q[16 * D::kBlock];
  alignas(64) float scale[16 * D::kBlock / D::kGroup], min[16 * D::kBlock / D::kGroup];
  const uint8_t *at[16], *tiles = rows[0];
  for (uint32_t r = 0; r < 16; r++) at[r] = rows[r] != nullptr ? rows[r] : rows[0];
  for (uint32_t i = 0; i < k / D::kBlock; i++, out += kSide * D::kBlock) {
    if (!woven) {
      Ahead nothing = {rows[0]};
      weave_block<D>(at, &nothing, tile);
      for (const uint8_t *&p : at) p += D::kBlockBytes;
    }
    spread_block<D, kSide, D::kBias>(woven ? tiles : tile, q, scale, min);
    tiles += 16 * D::kBlockBytes;
    scale_bytes<D>(q, scale, min, D::kBlock, out);
  }
}

// 16 rows of any format, through floats.
void pack_decoded(const TypeTraits &type, const Rows &rows, uint32_t k, uint16_t *out) {
  alignas(64) float lines[16][256];
  for (uint32_t j = 0; j < k; j += 256, out += kSide * 256) {
    const uint32_t n = k - j < 256 ? k - j : 256;
    const uint8_t *line[16];
    for (uint32_t r = 0; r < 16; r++) {
      line[r] = rows[r] == nullptr ? nullptr : reinterpret_cast<const uint8_t *>(lines[r]);
      if (rows[r] == nullptr) continue;
      type.decode(rows[r] + uint64_t{j} / type.block_size * type.block_bytes, lines[r], n);
    }
    pack_floats<FromF32>(line, n, out);
  }
}

// rows may be woven only where all 16 are there.
void pack_16(const TypeTraits &type, const Rows &rows, bool woven, uint32_t k, uint16_t *out) {
  switch (type.type) {
    case DType::F32:
      return pack_floats<FromF32>(rows, k, out);
    case DType::F16:
      return pack_floats<FromF16>(rows, k, out);
    case DType::BF16:
      return pack_floats<FromBf16>(rows, k, out);
    default:
      break;
  }
  const bool known = with_format(
      type.type, [&](auto format) { pack_quantised<decltype(format)>(rows, woven, k, out); });
  if (!known) pack_decoded(type, rows, k, out);
}

void pack_right_transposed(const TypeTraits &type, const PanelRows &from, uint32_t first_k,
                           uint32_t k, uint16_t *out) {
  const uint64_t at = uint64_t{first_k} / type.block_size * type.block_bytes;
  for (uint32_t i = 0; i < from.rows; i += kSide, out += size_t{tiles_of(k)} * kTileValues) {
    const bool woven = from.woven && i + kSide <= from.rows;
    const uint8_t *rows[16];
    for (uint32_t r = 0; r < kSide; r++) {
      const uint8_t *row = from.w + (i + r) * from.row_bytes + (woven ? kWovenRows : 1) * at;
      rows[r] = i + r < from.rows ? row : nullptr;
    }
    pack_16(type, rows, woven, k, out);
  }
}

// ---- product ------------------------------------------------------------------------------------

// All eight tiles of the CPU: 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr TileConfig kConfig;

// The compiler's intrinsic reads a part of the structure only, as far as the compiler knows.
inline void configure_tiles() {
  __asm__ volatile("ldtilecfg %0" : : "m"(kConfig));
}

// Sums 0 and 1: the first 16 rows by the first and second 16 columns; 2 and 3: the next 16 rows.
template <bool kTwoM, bool kTwoN>
inline void load_sums(const float *out, uint64_t stride, bool add) {
  const long bytes = static_cast<long>(stride * sizeof(float));
  if (!add) {
    _tile_zero(0);
    if constexpr (kTwoN) _tile_zero(1);
    if constexpr (kTwoM) _tile_zero(2);
    if constexpr (kTwoM && kTwoN) _tile_zero(3);
    return;
  }
  __asm__ volatile("" : : : "memory");
  _tile_loadd(0, out, bytes);
  if constexpr (kTwoN) _tile_loadd(1, out + 16, bytes);
  if constexpr (kTwoM) _tile_loadd(2, out + 16 * stride, bytes);
  if constexpr (kTwoM && kTwoN) _tile_loadd(3, out + 16 * stride + 16, bytes);
}

template <bool kTwoM, bool kTwoN>
inline void store_sums(float *out, uint64_t stride) {
  const long bytes = static_cast<long>(stride * sizeof(float));
  _tile_stored(0, out, bytes);
  if constexpr (kTwoN) _tile_stored(1, out + 16, bytes);
  if constexpr (kTwoM) _tile_stored(2, out + 16 * stride, bytes);
  if constexpr (kTwoM && kTwoN) _tile_stored(3, out + 16 * stride + 16, bytes);
  __asm__ volatile("" : : : "memory");
}

// Factors of up to 32 x 32 sums, of which `depth` tiles along k are added.
struct Part {
  const uint16_t *left, *right;
  size_t left_step, right_step;  // to the next 16 rows, and columns
  uint32_t depth;
  bool add;
};

template <bool kTwoM, bool kTwoN, Split kSplit>
inline void product(const Part &p, float *out, uint64_t stride) {
  load_sums<kTwoM, kTwoN>(out, stride, p.add);
  const uint16_t *a = p.left, *a2 = a + p.left_step;
  const uint16_t *b = p.right, *b2 = b + p.right_step;
  for (uint32_t i = 0; i < p.depth; i++) {
    if constexpr (kSplit == Split::Right) {
      _tile_loadd(4, a, 64);
      if constexpr (kTwoM) _tile_loadd(5, a2, 64);
      a += kTileValues;
      a2 += kTileValues;
#pragma GCC unroll 2
      for (uint32_t s = 0; s < 2; s++, b += kTileValues, b2 += kTileValues) {
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (kTwoM) _tile_dpbf16ps(2, 5, 6);
        if constexpr (kTwoN) {
          _tile_loadd(7, b2, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (kTwoM && kTwoN) _tile_dpbf16ps(3, 5, 7);
      }
      continue;
    }
    _tile_loadd(6, b, 64);
    if constexpr (kTwoN) _tile_loadd(7, b2, 64);
    b += kTileValues;
    b2 += kTileValues;
#pragma GCC unroll 2
    for (uint32_t s = 0; s < (kSplit == Split::Left ? 2 : 1);
         s++, a += kTileValues, a2 += kTileValues) {
      _tile_loadd(4, a, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kTwoN) _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTwoM) {
        _tile_loadd(5, a2, 64);
        _tile_dpbf16ps(2, 5, 6);
      }
      if constexpr (kTwoM && kTwoN) _tile_dpbf16ps(3, 5, 7);
    }
  }
  store_sums<kTwoM, kTwoN>(out, stride);
}

// The same where not all sums of the tiles are wanted.
template <bool kTwoM, bool kTwoN, Split kSplit>
void product_edge(const Part &p, uint32_t m, uint32_t n, float *out, uint64_t stride) {
  alignas(64) float sums[32][32];
  const __mmask16 low = first_lanes(n), high = first_lanes(n > 16 ? n - 16 : 0);
  for (uint32_t i = 0; p.add && i < m; i++) {
    const float *from = out + i * stride;
    _mm512_store_ps(sums[i], _mm512_maskz_loadu_ps(low, from));
    if (n > 16) _mm512_store_ps(sums[i] + 16, _mm512_maskz_loadu_ps(high, from + 16));
  }
  product<kTwoM, kTwoN, kSplit>(p, sums[0], 32);
  for (uint32_t i = 0; i < m; i++) {
    float *to = out + i * stride;
    _mm512_mask_storeu_ps(to, low, _mm512_load_ps(sums[i]));
    if (n > 16) _mm512_mask_storeu_ps(to + 16, high, _mm512_load_ps(sums[i] + 16));
  }
}

// m, n: sums that are left, of which up to 32 x 32 are done.
template <Split kSplit>
void product_any(const Part &p, uint32_t m, uint32_t n, float *out, uint64_t stride) {
  if (m >= 32 && n >= 32) {
    product<true, true, kSplit>(p, out, stride);
  } else if (m > 16 && n > 16) {
    product_edge<true, true, kSplit>(p, m < 32 ? m : 32, n < 32 ? n : 32, out, stride);
  } else if (m > 16) {
    product_edge<true, false, kSplit>(p, m < 32 ? m : 32, n, out, stride);
  } else if (n > 16) {
    product_edge<false, true, kSplit>(p, m, n < 32 ? n : 32, out, stride);
  } else {
    product_edge<false, false, kSplit>(p, m, n, out, stride);
  }
}

template <Split kSplit>
void gemm_of(const Bf16Product &p, float *out, uint64_t stride) {
  const uint32_t depth = tiles_of(p.k);
  const size_t right_step = size_t{depth} * kTileValues * (kSplit == Split::Right ? 2 : 1);
  configure_tiles();
  for (uint32_t j = 0; j < p.n; j += 32) {
    const uint16_t *b = p.right + j / kSide * right_step;
    for (uint32_t i = 0; i < p.m; i += 32) {
      const Part part = {
          p.left + i / kSide * p.left_step, b, p.left_step, right_step, depth, p.add};
      product_any<kSplit>(part, p.m - i, p.n - j, out + i * stride + j, stride);
    }
  }
  _tile_release();
}

void gemm(const Bf16Product &p, float *out, uint64_t stride) {
  switch (p.split) {
    case Split::None:
      return gemm_of<Split::None>(p, out, stride);
    case Split::Left:
      return gemm_of<Split::Left>(p, out, stride);
    case Split::Right:
      return gemm_of<Split::Right>(p, out, stride);
  }
}

}  // namespace

void q35_init_amx(Kernels *kernels) {
  kernels->isa = "amx";
  kernels->same_many = false;
  kernels->bf16 = {pack_left,
                   pack_left_split,
                   pack_left_transposed,
                   pack_right_split,
                   softmax_right,
                   pack_right_transposed,
                   gemm};
}

}  // namespace q35
